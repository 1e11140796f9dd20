"""Translation of a text, sentence by sentence."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from bundle.alignment import Link, word_weights
from bundle.completion import Piece as Streamed
from bundle.decoding import Decoder, Event, Finished, Request, Token
from bundle.edits import Span
from bundle.errors import InvalidRequest
from bundle.kept import has_words
from bundle.layout import source_words, target_words
from bundle.manifest import Manifest
from bundle.markup import read_html
from bundle.piece import Piece, Reading, Run, pieces_of
from bundle.repetition import RepetitionGuard
from bundle.stepper import Prompt, Stepper
from bundle.tokenizer import Tokenizer
from bundle.units import Part, Unit, read_text
from bundle.work import Work, sentences_of

MAX_BEAM = 32
MAX_ALTERNATIVES = 16
MAX_TERMS = 100

Format = Literal["text", "html"]
Glossary = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class TranslationOptions:
    """Wishes that come with a text; None = the bundle's default.

    Attributes:
        alternatives: how many other translations, less likely, are wanted.
        max_tokens: most tokens of the translation of one sentence.
        format: what the text is written in; in html only what a reader sees is translated.
        glossary: terms, and what each becomes; a term that is to be kept becomes itself.
        alignments: whether to say which word became which.
    """

    beam: int | None = None
    alternatives: int = 0
    max_tokens: int | None = None
    format: Format = "text"
    glossary: Glossary = ()
    alignments: bool = False


@dataclass(frozen=True)
class TranslationWishes:
    """:class:`TranslationOptions` with every default filled in; equal wishes are equal values."""

    beam: int
    alternatives: int
    max_tokens: int
    format: Format = "text"
    glossary: Glossary = ()
    alignments: bool = False


@dataclass(frozen=True)
class Translation:
    """A translated text.

    Attributes:
        score: mean log-probability of a token, ends of sentences counted; 0 for a text of blanks.
        truncated: a sentence reached ``max_tokens`` before its end.
        alignments: characters of the source and of the translation that belong together, where asked for.
    """

    text: str
    alternatives: list[str]
    score: float
    tokens: int
    truncated: bool
    alignments: list[Link] = field(default_factory=list)


class TranslationJob:
    """A text being translated: give ``requests`` to a decoder, ``feed`` back the events of each.

    ``requests`` may grow while it is fed: a sentence that lost a placeholder is tried again. Whoever drives a
    job looks for more after every ``feed``.
    """

    def __init__(self, translator: "Translator", parts: Sequence[Part], wishes: TranslationWishes) -> None:
        self.requests: list[Request] = []
        self._translator = translator
        self._wishes = wishes
        self._parts: list[str | Work] = []
        self._owners: list[tuple[Work, Piece, int]] = []
        self._found: list[list[Finished]] = []
        for part in parts:
            self._parts.append(part if isinstance(part, str) else translator.work(part))
        for work in self._works():
            for _, piece in work.parts:
                if isinstance(piece, Piece) and not piece.variants:
                    self._ask(work, piece)
        # A translation is about as long as its source; the limit itself is hardly ever reached.
        self.cost = sum(
            len(request.prompt.source)
            + request.rows * min(request.max_tokens, 2 * len(request.prompt.source))
            for request in self.requests
        )
        self._missing = sum(work.missing for work in self._works())
        self._sent = 0

    @property
    def done(self) -> bool:
        """Whether :meth:`result` is there."""
        return self._missing == 0

    def feed(self, index: int, event: Event) -> list[Streamed]:
        """Take an event of request ``index``; the text that is now known, in order, as choice 0."""
        if isinstance(event, Token):
            return []
        # Who drives this job may tag events with what owns it: a circle that only the collector would undo.
        self._found[index].append(event._replace(tag=index))
        if event.left:
            return []
        work, piece, first = self._owners[index]
        found = self._found[first : first + len(piece.asked)]
        if not all(each and not each[-1].left for each in found):
            return []
        ranked = [sorted(each, key=lambda finished: finished.choice) for each in found]
        if piece.take(ranked):
            self._ask(work, piece)
            return []
        work.missing -= 1
        self._missing -= 1
        if not work.missing:
            self._align(work)
        return self._known()

    def result(self) -> Translation:
        """The translation of the whole text."""
        best = [piece.variants[0] for _, _, piece in self._pieces()]
        counted = sum(variant.counted for variant in best)
        text, links = self._render({})
        return Translation(
            text,
            self._others(text),
            sum(variant.logprob for variant in best) / max(1, counted),
            sum(variant.tokens for variant in best),
            any(variant.truncated for variant in best),
            links if self._wishes.alignments else [],
        )

    def _works(self) -> list[Work]:
        return [part for part in self._parts if isinstance(part, Work)]

    def _pieces(self) -> Iterator[tuple[Work, int, Piece]]:
        for work in self._works():
            for place, piece in work.parts:
                if isinstance(piece, Piece):
                    yield work, place, piece

    def _ask(self, work: Work, piece: Piece) -> None:
        """Requests for what a piece asks."""
        first = len(self.requests)
        for text in piece.asked:
            self._owners.append((work, piece, first))
            self._found.append([])
            self.requests.append(self._translator.request(text, self._wishes, nbest=piece.nbest))

    def _align(self, work: Work) -> None:
        """Let the model say where it looked, where that is of use."""
        if not (self._wishes.alignments or work.unit.marked) or not self._translator.stepper.aligns:
            return
        most = 1 + self._wishes.alternatives
        wanted = [
            (place, rank, source_words(piece.text, piece.kept), variant)
            for place, piece in work.parts
            if isinstance(piece, Piece)
            for rank, variant in enumerate(piece.variants[:most])
        ]
        found = self._translator.attention([run for *_, variant in wanted for run in variant.runs])
        for place, rank, words_before, variant in wanted:
            words = target_words(variant), words_before
            weights = np.zeros((len(words[0]), len(words[1])), np.float32)
            for run in variant.runs:
                attention, source_spans = next(found)
                weights += word_weights(attention, run.spans, source_spans, *words)
            work.weights[place, rank] = weights

    def _known(self) -> list[Streamed]:
        text = ""
        while self._sent < len(self._parts):
            part = self._parts[self._sent]
            if isinstance(part, Work) and part.missing:
                break
            text += part if isinstance(part, str) else part.render({})[0]
            self._sent += 1
        return [Streamed(0, text)] if text else []

    def _render(self, ranks: dict[tuple[int, int], int]) -> tuple[str, list[Link]]:
        """The text with the pieces in ``ranks`` (by unit and place) taken at their rank, and its links."""
        text = ""
        links: list[Link] = []
        for number, part in enumerate(self._parts):
            if isinstance(part, str):
                text += part
                continue
            mine = {place: rank for (owner, place), rank in ranks.items() if owner == number}
            rendered, found = part.render(mine)
            links += [
                Link(source, (start + len(text), end + len(text)), weight)
                for source, (start, end), weight in found
            ]
            text += rendered
        return text, links

    def _others(self, best: str) -> list[str]:
        """Distinct variants of the text, one sentence changed in each, the smallest loss first."""
        most = self._wishes.alternatives
        if not most:
            return []
        losses = sorted(
            (piece.variants[0].logprob - variant.logprob, rank, number, place)
            for number, work in enumerate(self._parts)
            if isinstance(work, Work)
            for place, piece in work.parts
            if isinstance(piece, Piece)
            for rank, variant in enumerate(piece.variants[: 1 + most])
            if rank
        )
        texts = {best: None}
        for _, rank, number, place in losses:
            texts.setdefault(self._render({(number, place): rank})[0])
            if len(texts) > most:
                break
        return list(texts)[1:]


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
        self._resolved = lru_cache(maxsize=256)(self._resolve)  # most who ask wish for the same
        self._guard = RepetitionGuard(tokenizer)
        self._reading = Reading(tokenizer, manifest.limits.prompt_tokens - 1)  # and the end of the sentence

    @property
    def parts(self) -> dict[str, object]:
        """What jobs refer to and do not own: a job that is sent to another process names them."""
        return {
            "model": self, "tokenizer": self.tokenizer, "guard": self._guard, "reading": self._reading,
        }  # fmt: skip

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
        return self._resolved(options)

    def _resolve(self, options: TranslationOptions) -> TranslationWishes:
        most = self.manifest.limits.new_tokens
        beam = self.manifest.decoding.beam if options.beam is None else options.beam
        max_tokens = most if options.max_tokens is None else options.max_tokens
        for name, value, least, highest in (
            ("alternatives", options.alternatives, 0, MAX_ALTERNATIVES),
            ("beam", beam, 1, MAX_BEAM),
            ("max_tokens", max_tokens, 1, most),
            ("glossary", len(options.glossary), 0, MAX_TERMS),
        ):
            if not least <= value <= highest:
                limit = least if value < least else highest
                raise InvalidRequest(name, f"must be from {least} to {highest}", limit=limit)
        if options.format not in ("text", "html"):
            raise InvalidRequest("format", "must be text or html")
        if options.alignments and not self.stepper.aligns:
            raise InvalidRequest("alignments", "alignments are not available for this model")
        glossary = dict(options.glossary)
        if not all(term.strip() for pair in glossary.items() for term in pair):
            raise InvalidRequest("glossary", "has an empty term")
        return TranslationWishes(
            max(beam, options.alternatives + 1),
            options.alternatives,
            max_tokens,
            options.format,
            tuple(sorted(glossary.items())),
            options.alignments,
        )

    def job(self, text: str, options: TranslationOptions | None = None) -> TranslationJob:
        """The translation of ``text``, ready for a decoder; each sentence is a request.

        What has no word (12:30, ?!, an address) is the same in every language and is no request; numbers,
        placeholders and mark-up inside a sentence come back as they are. No words are said three times in a
        row that the source does not repeat.

        Raises:
            InvalidRequest: a wish that cannot be met, or a character without token.
        """
        wishes = self.resolve(options or TranslationOptions())
        read = read_html if wishes.format == "html" else read_text
        return TranslationJob(self, read(text, dict(wishes.glossary)), wishes)

    def work(self, unit: Unit) -> Work:
        """A unit, cut into pieces that can be read at once and what stands between them.

        Raises:
            InvalidRequest: a character without token.
        """
        parts: list[tuple[int, str | Piece]] = []
        for start, sentence in sentences_of(unit, self.source_language):
            end = start + len(sentence)
            kept = [
                each._replace(start=each.start - start, end=each.end - start)
                for each in unit.kept
                if start <= each.start and each.end <= end
            ]
            if has_words(sentence, kept):
                found = pieces_of(self._reading, sentence, kept)
                parts += [(start + place, part) for place, part in found]
            else:
                parts.append((start, sentence))
        return Work(unit, parts)

    def request(self, text: str, wishes: TranslationWishes, *, nbest: bool) -> Request:
        """A sentence for the decoder.

        Args:
            nbest: whether all the beam comes to is wanted, or the best.
        """
        source = (*self.tokenizer.encode(text), self._eos)
        return Request(
            Prompt((self._bos,), source),
            max_tokens=wishes.max_tokens,
            n=wishes.beam if wishes.alternatives or nbest else 1,
            beam=wishes.beam,
            length_penalty=self.manifest.decoding.length_penalty,
            allow=self._guard.rule(source),
        )

    def attention(self, runs: Sequence[Run]) -> Iterator[tuple[NDArray[np.float32], list[Span]]]:
        """Where the model looked: ``[target tokens, source tokens and eos]`` of each, and where its sentence
        has each source token."""
        sources = [self.tokenizer.encode_spans(run.shown.result) for run in runs]
        prompts = [
            Prompt((self._bos, *run.ids), (*ids, self._eos))
            for run, (ids, _) in zip(runs, sources, strict=True)
        ]
        found = self.stepper.align(prompts) if prompts else []
        for weights, run, (_, spans) in zip(found, runs, sources, strict=True):
            yield weights[:-1], [run.place(span) for span in spans]  # the last row looks for the end

    def translate(self, text: str, options: TranslationOptions | None = None) -> Translation:
        """The translation of ``text``: newlines and blanks are kept, nothing is left out.

        Raises:
            InvalidRequest: see :meth:`job`.
        """
        job = self.job(text, options)
        for _ in self._pieces(job):
            pass
        return job.result()

    def _pieces(self, job: TranslationJob) -> Iterator[Streamed]:
        decoder = self.decoder()
        added = 0
        while not job.done:
            for index in range(added, len(job.requests)):
                decoder.add(job.requests[index], index)
            added = len(job.requests)
            for event in decoder.step():
                assert isinstance(event.tag, int)
                yield from job.feed(event.tag, event)
