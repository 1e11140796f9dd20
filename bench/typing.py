"""How long does somebody who types wait for five words?

Prompts of 40 tokens, no two alike, that end in no letter to three letters of a word. One thread,
processor time, no HTTP and no cache. The peer is one greedy pass over the same prompt for the same number of
words, without suggestions: what the search over spellings costs on top of it.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterable
from pathlib import Path

from bench.rounds import Row, interleave, rows
from bench.sentences import english, french
from bundle.completion import CompletionOptions
from bundle.language import Language
from bundle.load import open_bundle

PROMPT_TOKENS = 40
LETTERS = 4  # 0 to 3 of them are typed
COUNT = 60
GREEDY = "greedy, one word"
FIVE = CompletionOptions(level="word", n=5, max_tokens=1)
ONE = CompletionOptions(level="word", n=1, beam=1, max_tokens=1)


def prompts(model: Language, sentences: Iterable[str]) -> list[str]:
    """Texts of so many tokens, bos counted, cut in a word."""
    found: list[str] = []
    words: list[str] = []
    for sentence in sentences:
        words += sentence.split()
        letters = len(found) % LETTERS
        typed = words[-1][:letters]
        for start in range(len(words)):
            text = " ".join([*words[start:-1], typed])
            count = 1 + len(model.tokenizer.encode(text))
            if count == PROMPT_TOKENS:
                found.append(text)
            if count <= PROMPT_TOKENS:
                break
        if len(words) > 2 * PROMPT_TOKENS:
            del words[: len(words) - 2 * PROMPT_TOKENS]
    return found


class Typist:
    """Asks for words after one prompt after the other."""

    def __init__(self, model: Language, texts: list[str], options: CompletionOptions) -> None:
        self._model = model
        self._texts = texts
        self._options = options
        self._next = 0
        self.slow: list[float] = []

    def __call__(self) -> float:
        """Milliseconds of processor time of the median prompt; `slow` gets that of the slowest twentieth."""
        times = []
        for _ in range(COUNT):
            text = self._texts[self._next % len(self._texts)]
            self._next += 1
            start = time.process_time()
            self._model.complete(text, self._options)
            times.append(1e3 * (time.process_time() - start))
        self.slow.append(statistics.quantiles(times, n=20)[-1])
        return statistics.median(times)


def measure(models: Path, *, rounds: int = 5) -> list[Row]:
    """A row for p50 and one for p95 of each model and side."""
    found: list[Row] = []
    for name, sentences in (("text-en", english), ("text-fr", french)):
        model = open_bundle(models / name, check=False)
        assert isinstance(model, Language)
        texts = prompts(model, sentences(4000, seed=1))
        sides = {"five words": Typist(model, texts, FIVE), GREEDY: Typist(model, texts, ONE)}
        middle = interleave(sides, rounds=rounds)
        found += rows(f"typing, {name}, p50", middle, unit="ms", peer=GREEDY)
        slow = {side: typist.slow[1:] for side, typist in sides.items()}  # the first warmed up
        found += rows(f"typing, {name}, p95", slow, unit="ms", peer=GREEDY)
    return found
