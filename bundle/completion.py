"""One completion on its way: its wishes, the requests it makes of the decoder, and its text as it arrives."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from bundle.beam import Reason
from bundle.decoding import Event, Finished, Request, Token
from bundle.tokenizer import Detokenizer, Tokenizer
from bundle.words import WordRule, count_words, first_run, last_word, whole_words

CompletionLevel = Literal["char", "word", "token"]


@dataclass(frozen=True)
class CompletionOptions:
    """Wishes that come with a prompt; None = the bundle's default.

    Attributes:
        level: what ``max_tokens`` counts. ``word`` completes the word being typed, then appends whole words.
        n: choices; with temperature 0 the n best, all different.
        seed: of the random numbers; None = another one each time.
        stop: strings that end the text, which is cut before them.
        presence_penalty, frequency_penalty: see :func:`bundle.sampling.penalise`.
        logit_bias: pairs of a token and what is added to its logit.
        logprobs: keep every token's log-probability, and the names of so many of the likeliest in its place.
    """

    level: CompletionLevel = "token"
    max_tokens: int | None = None
    n: int = 1
    beam: int | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    logprobs: int | None = None


@dataclass(frozen=True)
class CompletionWishes:
    """:class:`CompletionOptions` with every default filled in; equal wishes are equal values.

    ``seed`` is None only where the answer is left to chance, and cannot be had twice.
    """

    level: CompletionLevel
    max_tokens: int
    n: int
    beam: int
    temperature: float
    top_k: int
    top_p: float
    seed: int | None
    stop: tuple[str, ...]
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    logprobs: int | None = None


@dataclass(frozen=True)
class TokenLogprob:
    """A token with its raw log-probability. ``offset`` characters of the text come before it; ``top`` are
    the likeliest ids in its place, likeliest first.
    """

    id: int
    logprob: float
    offset: int
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True)
class Completion:
    """What is appended to the prompt. ``word`` (level ``word`` only) is the completed first word.

    ``tokens`` counts what was generated; ``logprobs``, where asked for, has those that the text holds.
    """

    text: str
    finish_reason: Reason
    logprob: float
    tokens: int
    word: str | None = None
    logprobs: tuple[TokenLogprob, ...] | None = None


@dataclass(frozen=True)
class Piece:
    """More text of a choice. The joined pieces are its whole text, and so it is with ``logprobs``."""

    choice: int
    text: str
    logprobs: tuple[TokenLogprob, ...] = ()


class CompletionJob:
    """A prompt being completed: give ``requests`` to a decoder, ``feed`` back the events of each.

    Attributes:
        requests: one request, for all the choices.
        cost: tokens that may be computed, for admission.
        done: whether :meth:`result` is there.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        request: Request,
        *,
        prompt: str,
        n: int,
        stop: Sequence[str],
        rule: WordRule | None,
        logprobs: bool = False,
    ) -> None:
        self.requests = [request]
        self.done = False
        tokens = request.max_tokens if rule is None else min(request.max_tokens, 4 * rule.words + 8)
        self.cost = len(request.prompt.ids) + request.rows * tokens
        self._tokenizer = tokenizer
        self._prompt = prompt
        self._n = n
        self._stop = stop
        self._rule = rule
        self._logprobs = logprobs
        # A beam gives its texts at the end only, and may give one twice, in other tokens.
        self._streams = request.beam == 1
        self._texts = [self._text() for _ in range(request.n if self._streams else 0)]
        self._finished: dict[int, Completion] = {}

    def feed(self, index: int, event: Event) -> list[Piece]:
        """Take an event of request ``index``; the text that is sure to stay."""
        if isinstance(event, Token):
            text = self._texts[event.choice]
            if self._logprobs:
                text.note(event.id, event.logprob, event.top)
            new = text.feed(event.id)
            return self._pieces(event.choice, new, text.released())
        text = self._texts[event.choice] if self._streams else self._text()
        if not self._streams:
            for id in event.ids:
                text.feed(id)
        rest = text.finish(event.reason)
        self._finished[event.choice] = self._completion(text, event)
        self.done = event.left == 0
        if self._streams:
            return self._pieces(event.choice, rest, text.released(last=True))
        if not self.done:
            return []
        return [
            piece for choice, found in enumerate(self.result()) for piece in self._pieces(choice, found.text)
        ]

    def result(self) -> list[Completion]:
        """The completions, best or first drawn first."""
        found = [self._finished[choice] for choice in sorted(self._finished)]
        if not self._streams:
            distinct: dict[str, Completion] = {}
            for completion in found:
                distinct.setdefault(completion.text, completion)
            found = list(distinct.values())
        return found[: self._n]

    def _text(self) -> "_Text":
        if self._rule is not None:
            return _Text(
                Detokenizer(self._tokenizer, continues=True), self._stop, len(self._rule.typed), True
            )
        return _Text(Detokenizer(self._tokenizer, continues=continues(self._prompt)), self._stop)

    def _pieces(self, choice: int, text: str, logprobs: tuple[TokenLogprob, ...] = ()) -> list[Piece]:
        return [Piece(choice, text, logprobs)] if text or logprobs else []

    def _completion(self, text: "_Text", event: Finished) -> Completion:
        reason, word = event.reason, None
        if self._rule is not None:
            typed = last_word(self._prompt)
            word = typed + first_run(text.text if typed else text.text.lstrip())
            if reason == "stop" and not text.stopped and count_words(text.text) >= self._rule.words:
                reason = "length"
        elif text.stopped:
            reason = "stop"
        kept = tuple(text.kept()) if self._logprobs else None
        return Completion(text.text, reason, event.logprob, len(event.ids), word, kept)


class _Text:
    """The text of one choice: what is sure to stay is let through, the rest is held back.

    Args:
        skip: characters at the beginning that the prompt already has.
        whole: let through whole words only.
    """

    def __init__(
        self, detokenizer: Detokenizer, stop: Sequence[str], skip: int = 0, whole: bool = False
    ) -> None:
        self.text = ""
        self.stopped = False
        self._detokenizer = detokenizer
        self._stop = stop
        self._skip = skip
        self._whole = whole
        self._sent = 0
        self._tokens: list[TokenLogprob] = []
        self._tokens_sent = 0

    def feed(self, id: int) -> str:
        self._append(self._detokenizer.feed(id))
        return self._release(self._sure())

    def finish(self, reason: Reason) -> str:
        self._append(self._detokenizer.flush())
        if self._whole and not self.stopped:
            cut = whole_words(self.text) if reason in ("length", "cancelled") else self.text.rstrip()
            # A first word without end is better than nothing.
            self.text = cut or self.text
        return self._release(len(self.text))

    def note(self, id: int, logprob: float, top: tuple[tuple[int, float], ...]) -> None:
        """Keep the log-probability of the token that is fed next."""
        if not self.stopped:
            self._tokens.append(TokenLogprob(id, logprob, len(self.text), top))

    def kept(self) -> list[TokenLogprob]:
        """The tokens noted, but those that a stop string cut off."""
        return [each for each in self._tokens if not self.stopped or each.offset < len(self.text)]

    def released(self, last: bool = False) -> tuple[TokenLogprob, ...]:
        """The tokens whose text began to be let through since the last call; at the end the rest of them."""
        new: list[TokenLogprob] = []
        for each in self._tokens[self._tokens_sent :]:
            if each.offset >= (len(self.text) if self.stopped else self._sent) and not (
                last and not self.stopped
            ):
                break
            new.append(each)
        self._tokens_sent += len(new)
        return tuple(new)

    def _append(self, text: str) -> None:
        if self.stopped:
            return
        if self._skip:
            taken = min(self._skip, len(text))
            self._skip -= taken
            text = text[taken:]
        if not text:
            return
        longest = max(map(len, self._stop), default=1)
        start = max(0, len(self.text) - longest + 1)
        self.text += text
        found = [place for place in (self.text.find(stop, start) for stop in self._stop) if place >= 0]
        if found:
            self.text = self.text[: min(found)]
            self.stopped = True

    def _sure(self) -> int:
        """How much of the text no later token can take back."""
        if self.stopped:
            return len(self.text)
        text = whole_words(self.text) if self._whole else self.text
        for size in range(min(len(self.text), max(map(len, self._stop), default=1) - 1), 0, -1):
            tail = self.text[-size:]
            if any(stop.startswith(tail) for stop in self._stop):
                return min(len(text), len(self.text) - size)
        return len(text)

    def _release(self, end: int) -> str:
        text = self.text[self._sent : end]
        self._sent = max(self._sent, end)
        return text


def continues(prompt: str) -> bool:
    """Whether a word after ``prompt`` needs a space before it."""
    return bool(prompt) and not prompt[-1].isspace()


class StopStrings:
    """``Request.stop``: whether the newest token completes one of some strings.

    Only the last few tokens are looked at, so a long answer costs no more than a short one.

    Args:
        skip: bytes at the beginning that do not count.
        also: another reason to stop.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        strings: Sequence[str],
        skip: int,
        also: Callable[[Sequence[int]], bool] | None = None,
    ) -> None:
        self._tokenizer = tokenizer
        self._wanted = [string.encode() for string in strings]
        self._longest = max(map(len, self._wanted))
        self._skip = skip
        self._also = also

    def __call__(self, ids: Sequence[int]) -> bool:
        surface = self._tokenizer.surface
        tail = surface(ids[-1])
        place = len(ids) - 1
        enough = len(tail) + self._longest - 1
        while place and len(tail) < enough:
            place -= 1
            tail = surface(ids[place]) + tail
        if self._skip:
            before = sum(len(surface(id)) for id in ids[:place])
            tail = tail[max(0, self._skip - before) :]
        return any(string in tail for string in self._wanted) or (self._also is not None and self._also(ids))
