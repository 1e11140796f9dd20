"""Completion of a prompt by a language model."""

import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property, lru_cache

import numpy as np

from bundle.completion import (
    Completion,
    CompletionJob,
    CompletionLevel,
    CompletionOptions,
    CompletionWishes,
    Piece,
    StopStrings,
    TokenLogprob,
    continues,
)
from bundle.decoding import Decoder, Request
from bundle.errors import InvalidRequest
from bundle.lexicon import Lexicon
from bundle.manifest import Manifest
from bundle.prompt_scores import PromptScoringJob
from bundle.sampling import penalise
from bundle.stepper import Array, Prompt, Stepper
from bundle.tokenizer import Tokenizer
from bundle.words import WordRule, WordTable, last_word

__all__ = [
    "Completion",
    "CompletionJob",
    "CompletionLevel",
    "CompletionOptions",
    "CompletionWishes",
    "Language",
    "Piece",
    "PromptScoringJob",
    "TokenLogprob",
]

MAX_CHOICES = 32
MAX_TEMPERATURE = 10.0
MAX_STOPS = 16
MAX_STOP_CHARACTERS = 128
MAX_PENALTY = 2.0
MAX_BIASES = 1024
MAX_BIAS = 100.0
MAX_LOGPROBS = 20
WORDS = 8  # appended by default to one choice; with several, each is one word
WORD_BEAM = 8  # least width where words are sought: the first steps hold unfinished spellings of the same one


class Language:
    """A language model. Any number of threads may ask at once, each with its own decoder.

    Attributes:
        manifest, tokenizer: of the bundle.
        stepper: runs the graph; shared by every decoder.
        provider: what runs the graph.
        lexicon: the known words, where the bundle has them; level ``word`` writes no others.
    """

    def __init__(
        self,
        manifest: Manifest,
        tokenizer: Tokenizer,
        stepper: Stepper,
        *,
        provider: str = "",
        lexicon: Lexicon | None = None,
    ) -> None:
        if manifest.special.bos is None:
            raise ValueError("a language model begins with <bos>, and the tokenizer has none")
        self.manifest = manifest
        self.tokenizer = tokenizer
        self.stepper = stepper
        self.provider = provider
        self.lexicon = lexicon
        self._bos = manifest.special.bos
        self._resolved = lru_cache(maxsize=256)(self._resolve)  # most who ask wish for the same

    @property
    def parts(self) -> dict[str, object]:
        """What jobs refer to and do not own: a job that is sent to another process names them."""
        return {"model": self, "tokenizer": self.tokenizer, "words": self._words}

    def decoder(self, *, max_rows: int = 64) -> Decoder:
        """A decoder of its own, empty, over the shared graph."""
        special = self.manifest.special
        banned = {id for id in (special.pad, special.bos, special.unk) if id is not None}
        return Decoder(self.stepper, eos=special.eos, pad=special.pad or 0, max_rows=max_rows, banned=banned)

    def resolve(self, options: CompletionOptions) -> CompletionWishes:
        """``options`` with every default filled in.

        Raises:
            InvalidRequest: a wish that cannot be met.
        """
        return self._resolved(options)

    def _resolve(self, options: CompletionOptions) -> CompletionWishes:
        defaults = self.manifest.decoding
        searching = options.beam is not None and options.beam > 1
        temperature = options.temperature
        if temperature is None:
            # Words are suggestions: the likeliest, unless chance is asked for.
            temperature = 0.0 if searching or options.level == "word" else defaults.temperature
        sampled = temperature > 0.0
        beam = options.beam if options.beam is not None else 1 if sampled else defaults.beam
        max_tokens = options.max_tokens
        if max_tokens is None:
            words = 1 if options.n > 1 else WORDS
            most = self.manifest.limits.new_tokens
            max_tokens = min(most, words if options.level == "word" else defaults.max_tokens)
        suggesting = options.level == "word" and (options.n > 1 or (max_tokens == 1 and options.beam is None))
        if not sampled and (options.n > 1 or suggesting):
            beam = max(beam, options.n)
            if suggesting:
                beam = max(beam, min(2 * options.n, MAX_CHOICES), WORD_BEAM)
        wishes = CompletionWishes(
            level=options.level,
            max_tokens=max_tokens,
            n=options.n,
            beam=beam,
            temperature=float(temperature),
            top_k=defaults.top_k if options.top_k is None else options.top_k,
            top_p=float(defaults.top_p if options.top_p is None else options.top_p),
            seed=options.seed if sampled else 0,
            stop=tuple(options.stop),
            presence_penalty=float(options.presence_penalty),
            frequency_penalty=float(options.frequency_penalty),
            logit_bias=tuple(sorted((id, float(bias)) for id, bias in options.logit_bias)),
            logprobs=options.logprobs,
        )
        self._check(wishes)
        # What makes no difference is made equal, so that equal answers have equal keys.
        return wishes if sampled else replace(wishes, top_k=0, top_p=1.0)

    def read(self, prompt: str | Sequence[int]) -> tuple[str, tuple[int, ...]]:
        """A prompt as text and as ids, without bos, whichever of the two it is given as.

        Raises:
            InvalidRequest: a prompt too long, a character without token, or an id that no text has.
        """
        if isinstance(prompt, str):
            ids = tuple(self.tokenizer.encode(prompt, field="prompt"))
        else:
            ids = tuple(prompt)
            strange = [
                id for id in ids if not 0 <= id < self.tokenizer.size or id in self.tokenizer.special_ids
            ]
            if strange:
                raise InvalidRequest("prompt", f"has the token {strange[0]}, which stands for no text")
        self._check_length(1 + len(ids))
        return prompt if isinstance(prompt, str) else self.tokenizer.decode(ids), ids

    def prompt_scores(self, prompt: str | Sequence[int], *, top: int = 0) -> PromptScoringJob:
        """The log-probabilities of the tokens of a prompt, ready for a decoder.

        Args:
            top: how many of the likeliest tokens to name in each place.

        Raises:
            InvalidRequest: see :meth:`read`.
        """
        _, ids = self.read(prompt)
        _within("logprobs", top, 0, MAX_LOGPROBS)
        return PromptScoringJob(self.tokenizer, self._bos, ids, top=top)

    def job(self, prompt: str | Sequence[int], options: CompletionOptions | None = None) -> CompletionJob:
        """The completion of ``prompt``, ready for a decoder.

        Raises:
            InvalidRequest: a wish that cannot be met, or see :meth:`read`.
        """
        wishes = self.resolve(options or CompletionOptions())
        # The whole prompt counts, and must be spelt, even where its last word is then generated anew.
        prompt, read = self.read(prompt)
        ids = (self._bos, *read)
        rule = None
        if wishes.level == "word":
            kept, typed = self._words.split(self.tokenizer.normalize(prompt))
            ids = (self._bos, *self.tokenizer.encode(kept, field="prompt"))
            rule = WordRule(self._words, typed, wishes.max_tokens, every=wishes.beam > 1)
        request = Request(
            Prompt(ids),
            max_tokens=wishes.max_tokens if rule is None else self.manifest.limits.new_tokens,
            temperature=wishes.temperature,
            top_k=wishes.top_k,
            top_p=wishes.top_p,
            seed=secrets.randbits(63) if wishes.seed is None else wishes.seed,
            # without outcomes a beam may give one text twice, in other tokens
            n=wishes.beam if wishes.beam > 1 and rule is None else wishes.n,
            beam=wishes.beam,
            # Words are ranked by their probability: a longer spelling is no merit.
            length_penalty=self.manifest.decoding.length_penalty if rule is None else 0.0,
            allow=None if rule is None else rule.allow,
            closing=None if rule is None else rule.closing,
            outcome=rule.text if rule is not None and wishes.beam > 1 else None,
            stop=self._stop(prompt, wishes.stop, rule),
            adjust=_adjustment(wishes),
            top_logprobs=wishes.logprobs or 0,
        )
        return CompletionJob(
            self.tokenizer,
            request,
            prompt=prompt,
            n=wishes.n,
            stop=wishes.stop,
            rule=rule,
            logprobs=wishes.logprobs is not None,
        )

    def complete(self, prompt: str, options: CompletionOptions | None = None) -> list[Completion]:
        """The completions of ``prompt``, at most ``options.n``, best (or first drawn) first.

        Raises:
            InvalidRequest: see :meth:`job`.
        """
        job = self.job(prompt, options)
        for _ in self._pieces(job):
            pass
        return job.result()

    def stream(self, prompt: str, options: CompletionOptions | None = None) -> Iterator[Piece]:
        """The text of every choice piece by piece, as it comes; joined they are what ``complete`` gives.

        Raises:
            InvalidRequest: at once, see :meth:`job`.
        """
        return self._pieces(self.job(prompt, options))

    def _pieces(self, job: CompletionJob) -> Iterator[Piece]:
        decoder = self.decoder()
        for index, request in enumerate(job.requests):
            decoder.add(request, index)
        while not job.done:
            for event in decoder.step():
                yield from job.feed(0, event)

    def knows(self, prompt: str) -> bool:
        """Whether a known word begins with the letters that ``prompt`` ends in, or there is no telling."""
        return self._words.knows(self._words.split(self.tokenizer.normalize(prompt))[1])

    def tail(self, prompt: str) -> str | None:
        """The end of ``prompt``, from a word on, that this model can read: as much as it has room for, or the
        last word alone where the others have characters it lacks. None where it cannot read that either."""
        most, word = self._longest - 1, last_word(prompt)
        end = prompt if len(prompt) <= most else prompt[-most:].partition(" ")[2]
        for text in (end, word) if end.endswith(word) else (word,):
            try:
                return self.read(text)[0]
            except InvalidRequest:
                continue
        return None

    @cached_property
    def _words(self) -> WordTable:
        return WordTable(self.tokenizer, self.lexicon)

    def _stop(
        self, prompt: str, strings: tuple[str, ...], rule: WordRule | None
    ) -> Callable[[Sequence[int]], bool] | None:
        if not strings:
            return None if rule is None else rule.stop
        if rule is None:
            skip = 1 if self.tokenizer.strips_first_space and not continues(prompt) else 0
            return StopStrings(self.tokenizer, strings, skip)
        return StopStrings(self.tokenizer, strings, len(rule.typed.encode()), rule.stop)

    @property
    def _longest(self) -> int:
        """Most tokens of a prompt, its beginning counted."""
        limits = self.manifest.limits
        return min(limits.prompt_tokens, limits.context_tokens or limits.prompt_tokens)

    def _check_length(self, count: int) -> None:
        if count > self._longest:
            raise InvalidRequest(
                "prompt",
                f"has {count} tokens, its beginning counted; at most {self._longest} are read",
                limit=self._longest,
            )

    def _check(self, wishes: CompletionWishes) -> None:
        level = self.manifest.level
        if wishes.level not in ("char", "word", "token"):
            raise InvalidRequest("level", "must be char, word or token")
        if wishes.level == "char" and level != "char":
            raise InvalidRequest(
                "level", f"char needs a model of characters; {self.manifest.name} is {level}"
            )
        _within("max_tokens", wishes.max_tokens, 1, self.manifest.limits.new_tokens)
        _within("n", wishes.n, 1, MAX_CHOICES)
        _within("beam", wishes.beam, 1, MAX_CHOICES)
        _within("temperature", wishes.temperature, 0.0, MAX_TEMPERATURE)
        _within("top_k", wishes.top_k, 0, self.tokenizer.size)
        if not 0.0 < wishes.top_p <= 1.0:
            raise InvalidRequest("top_p", "must be above 0 and at most 1", limit=1.0)
        if wishes.seed is not None:
            _within("seed", wishes.seed, 0, 2**63 - 1)
        if wishes.beam > 1 and wishes.temperature > 0.0:
            raise InvalidRequest("beam", "a beam search is not sampled: temperature must be 0")
        if len(wishes.stop) > MAX_STOPS:
            raise InvalidRequest("stop", f"has {len(wishes.stop)} strings", limit=MAX_STOPS)
        if any(not 0 < len(string) <= MAX_STOP_CHARACTERS for string in wishes.stop):
            raise InvalidRequest(
                "stop", f"each string has 1 to {MAX_STOP_CHARACTERS} characters", limit=MAX_STOP_CHARACTERS
            )
        if any(0xD800 <= ord(character) <= 0xDFFF for string in wishes.stop for character in string):
            raise InvalidRequest("stop", "has half of a surrogate pair, which is no character")
        self._check_steering(wishes)

    def _check_steering(self, wishes: CompletionWishes) -> None:
        _within("presence_penalty", wishes.presence_penalty, -MAX_PENALTY, MAX_PENALTY)
        _within("frequency_penalty", wishes.frequency_penalty, -MAX_PENALTY, MAX_PENALTY)
        if len(wishes.logit_bias) > MAX_BIASES:
            raise InvalidRequest("logit_bias", f"has {len(wishes.logit_bias)} tokens", limit=MAX_BIASES)
        for id, bias in wishes.logit_bias:
            if not 0 <= id < self.tokenizer.size:
                raise InvalidRequest("logit_bias", f"names the token {id}; there are {self.tokenizer.size}")
            _within("logit_bias", bias, -MAX_BIAS, MAX_BIAS)
        if wishes.logprobs is not None:
            _within("logprobs", wishes.logprobs, 0, MAX_LOGPROBS)
        if wishes.beam > 1 and (wishes.logprobs is not None or _adjustment(wishes) is not None):
            raise InvalidRequest("beam", "a beam search takes no penalties and biases, and tells no logprobs")
        if wishes.level == "word" and wishes.logprobs is not None:
            raise InvalidRequest("logprobs", "are of tokens: level must not be word")


class _Adjustment:
    """``Request.adjust``: what penalties and biases do to the logits of a row."""

    def __init__(self, wishes: CompletionWishes) -> None:
        self._presence, self._frequency = wishes.presence_penalty, wishes.frequency_penalty
        self._places = np.array([id for id, _ in wishes.logit_bias], np.int64)
        self._values = np.array([bias for _, bias in wishes.logit_bias], np.float32)

    def __call__(self, ids: Sequence[int], logits: Array) -> None:
        penalise(logits, ids, presence=self._presence, frequency=self._frequency)
        np.add.at(logits, self._places, self._values)


def _adjustment(wishes: CompletionWishes) -> _Adjustment | None:
    """None where nothing is changed."""
    steered = wishes.presence_penalty or wishes.frequency_penalty or wishes.logit_bias
    return _Adjustment(wishes) if steered else None


def _within(field: str, value: int | float, least: int | float, most: int | float) -> None:
    if not least <= value:
        raise InvalidRequest(field, f"must be at least {least}", limit=least)
    if not value <= most:
        raise InvalidRequest(field, f"must be at most {most}", limit=most)
