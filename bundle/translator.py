"""Translation of a text, sentence by sentence."""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from bundle.completion import Piece
from bundle.decoding import Decoder, Event, Finished, Request, Token
from bundle.errors import InvalidRequest
from bundle.manifest import Manifest
from bundle.repetition import RepetitionGuard
from bundle.sentences import split_text
from bundle.stepper import Prompt, Stepper
from bundle.tokenizer import Tokenizer

MAX_BEAM = 32
_ADDRESS = re.compile(r"(?:https?://|www\.)\S+|[\w.+-]+@[\w-]+(?:\.[\w-]+)+")
MAX_ALTERNATIVES = 16


@dataclass(frozen=True)
class TranslationOptions:
    """Wishes that come with a text; None = the bundle's default.

    Attributes:
        alternatives: how many other translations, less likely, are wanted.
        max_tokens: most tokens of the translation of one sentence.
    """

    beam: int | None = None
    alternatives: int = 0
    max_tokens: int | None = None


@dataclass(frozen=True)
class TranslationWishes:
    """:class:`TranslationOptions` with every default filled in; equal wishes are equal values."""

    beam: int
    alternatives: int
    max_tokens: int


@dataclass(frozen=True)
class Translation:
    """A translated text.

    Attributes:
        score: mean log-probability of a token, ends of sentences counted; 0 for a text of blanks.
        truncated: a sentence reached ``max_tokens`` before its end.
    """

    text: str
    alternatives: list[str]
    score: float
    tokens: int
    truncated: bool


class TranslationJob:
    """A text being translated: give ``requests`` to a decoder, ``feed`` back the events of each.

    Args:
        parts: the text, cut: the number of a request, or glue that stays.
    """

    def __init__(
        self, tokenizer: Tokenizer, requests: list[Request], parts: Sequence[int | str], *, alternatives: int
    ) -> None:
        self.requests = requests
        # A translation is about as long as its source; the limit itself is hardly ever reached.
        self.cost = sum(
            len(request.prompt.source)
            + request.rows * min(request.max_tokens, 2 * len(request.prompt.source))
            for request in requests
        )
        self._tokenizer = tokenizer
        self._parts = parts
        self._alternatives = alternatives
        self._found: list[list[Finished]] = [[] for _ in requests]
        self._texts: list[list[str] | None] = [None] * len(requests)
        self._missing = len(requests)
        self._sent = 0

    @property
    def done(self) -> bool:
        """Whether :meth:`result` is there."""
        return self._missing == 0

    def feed(self, index: int, event: Event) -> list[Piece]:
        """Take an event of request ``index``; the text that is now known, in order, as choice 0."""
        if isinstance(event, Token):
            return []
        self._found[index].append(event)
        if event.left:
            return []
        found = sorted(self._found[index], key=lambda finished: finished.choice)
        texts = [self._tokenizer.decode(finished.ids).strip() for finished in found]
        kept = [place for place, text in enumerate(texts) if texts.index(text) == place]
        self._found[index] = [found[place] for place in kept]
        self._texts[index] = [texts[place] for place in kept]
        self._missing -= 1
        text = ""
        while self._sent < len(self._parts):
            part = self._parts[self._sent]
            ready = [part] if isinstance(part, str) else self._texts[part]
            if ready is None:
                break
            text += ready[0]
            self._sent += 1
        return [Piece(0, text)] if text else []

    def result(self) -> Translation:
        """The translation of the whole text."""
        best = [found[0] for found in self._found]
        tokens = sum(len(finished.ids) for finished in best)
        # An end that was reached is a token too: its log-probability is in the sum.
        counted = tokens + sum(finished.reason == "stop" for finished in best)
        score = sum(finished.logprob for finished in best) / max(1, counted)
        truncated = any(finished.reason == "length" for finished in best)
        return Translation(self._join({}), self._others(), score, tokens, truncated)

    def _join(self, ranks: dict[int, int]) -> str:
        """The text with the sentences in ``ranks`` taken at their rank, all others at their best."""
        return "".join(
            part if isinstance(part, str) else self._of(part)[ranks.get(part, 0)] for part in self._parts
        )

    def _of(self, index: int) -> list[str]:
        texts = self._texts[index]
        assert texts is not None
        return texts

    def _others(self) -> list[str]:
        """Distinct variants of the text, one sentence changed in each, the smallest loss first."""
        losses = sorted(
            (found[0].logprob - found[rank].logprob, rank, index)
            for index, found in enumerate(self._found)
            for rank in range(1, len(found))
        )
        texts = dict.fromkeys([self._join({}), *(self._join({index: rank}) for _, rank, index in losses)])
        return list(texts)[1 : 1 + self._alternatives]


class Translator:
    """A translator. Any number of threads may ask at once, each with its own decoder.

    Attributes:
        manifest, tokenizer: of the bundle.
        stepper: runs the graphs; shared by every decoder.
        provider: what runs the graphs.
        source_language, target_language: their codes.
    """

    def __init__(
        self, manifest: Manifest, tokenizer: Tokenizer, stepper: Stepper, *, provider: str = ""
    ) -> None:
        special = manifest.special
        if special.bos is None or special.eos is None:
            raise ValueError("a translator needs <bos> and <eos>, and the tokenizer lacks one")
        if len(manifest.languages) != 2:
            raise ValueError(f"a translator has two languages, not {manifest.languages}")
        self.manifest = manifest
        self.tokenizer = tokenizer
        self.stepper = stepper
        self.provider = provider
        self.source_language, self.target_language = manifest.languages
        self._bos, self._eos = special.bos, special.eos
        self._guard = RepetitionGuard(tokenizer)

    def decoder(self, *, max_rows: int = 64) -> Decoder:
        """A decoder of its own, empty, over the shared graphs."""
        special = self.manifest.special
        banned = {id for id in (special.pad, special.bos, special.unk) if id is not None}
        return Decoder(self.stepper, eos=self._eos, pad=special.pad or 0, max_rows=max_rows, banned=banned)

    def resolve(self, options: TranslationOptions) -> TranslationWishes:
        """``options`` with every default filled in.

        Raises:
            InvalidRequest: a wish that cannot be met.
        """
        most = self.manifest.limits.new_tokens
        beam = self.manifest.decoding.beam if options.beam is None else options.beam
        max_tokens = most if options.max_tokens is None else options.max_tokens
        for field, value, least, highest in (
            ("alternatives", options.alternatives, 0, MAX_ALTERNATIVES),
            ("beam", beam, 1, MAX_BEAM),
            ("max_tokens", max_tokens, 1, most),
        ):
            if not least <= value <= highest:
                limit = least if value < least else highest
                raise InvalidRequest(field, f"must be from {least} to {highest}", limit=limit)
        return TranslationWishes(max(beam, options.alternatives + 1), options.alternatives, max_tokens)

    def job(self, text: str, options: TranslationOptions | None = None) -> TranslationJob:
        """The translation of ``text``, ready for a decoder; each sentence is a request.

        What has no word (12:30, ?!, an address) is the same in every language and is no request. No words are
        said three times in a row that the source does not repeat.

        Raises:
            InvalidRequest: a wish that cannot be met, or a character without token.
        """
        wishes = self.resolve(options or TranslationOptions())
        requests: list[Request] = []
        parts: list[int | str] = []
        for is_sentence, part in split_text(text):
            whole = not is_sentence or not _translatable(part)
            for is_piece, piece in [(False, part)] if whole else self._fit(part):
                if not is_piece or not _translatable(piece):
                    parts.append(piece)
                    continue
                parts.append(len(requests))
                source = (*self.tokenizer.encode(piece), self._eos)
                requests.append(
                    Request(
                        Prompt((self._bos,), source),
                        max_tokens=wishes.max_tokens,
                        n=wishes.beam if wishes.alternatives else 1,
                        beam=wishes.beam,
                        length_penalty=self.manifest.decoding.length_penalty,
                        allow=self._guard.rule(source),
                    )
                )
        return TranslationJob(self.tokenizer, requests, parts, alternatives=wishes.alternatives)

    def translate(self, text: str, options: TranslationOptions | None = None) -> Translation:
        """The translation of ``text``: newlines and blanks are kept, nothing is left out.

        Raises:
            InvalidRequest: see :meth:`job`.
        """
        job = self.job(text, options)
        for _ in self._pieces(job):
            pass
        return job.result()

    def _pieces(self, job: TranslationJob) -> Iterator[Piece]:
        decoder = self.decoder()
        for index, request in enumerate(job.requests):
            decoder.add(request, index)
        while not job.done:
            for event in decoder.step():
                assert isinstance(event.tag, int)
                yield from job.feed(event.tag, event)

    def _fit(self, sentence: str) -> Iterator[tuple[bool, str]]:
        """``sentence`` whole, or cut at spaces into pieces that the model can read."""
        most = self.manifest.limits.prompt_tokens - 1  # and the end of the sentence

        def fits(text: str) -> bool:
            return len(self.tokenizer.encode(text)) <= most

        while not fits(sentence):
            end = _longest(sentence, fits)
            space = sentence.rfind(" ", 1, end + 1)
            cut = space if space > 0 else end
            piece, rest = sentence[:cut].rstrip(), sentence[cut:].lstrip()
            yield True, piece
            glue = sentence[len(piece) : len(sentence) - len(rest)]
            if glue:
                yield False, glue
            sentence = rest
        yield True, sentence


def _translatable(text: str) -> bool:
    """Whether there is a word beside numbers, marks and addresses."""
    return any(character.isalpha() for character in _ADDRESS.sub("", text))


def _longest(text: str, fits: Callable[[str], bool]) -> int:
    """About the most characters of ``text`` that fit, by halving; at least one."""
    low, high = 1, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        if fits(text[:middle]):
            low = middle
        else:
            high = middle - 1
    return low
