"""How fast a bundle is here, alone, on one thread: a figure for the card, not a benchmark (see bench/)."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

from bundle.language import CompletionOptions, Language
from bundle.translator import TranslationOptions, Translator
from bundle.vectors import Vectors
from export.card import Speed

ROUNDS = 7


def measure(model: Vectors | Language | Translator) -> Speed:
    """Median of a few rounds over the bundle's golden inputs; greedy decoding, batch of one."""
    inputs = [example.input[0] for example in model.manifest.golden]
    if isinstance(model, Vectors):
        return _speed(
            lambda: [model.most_similar([word], topn=10) for word in inputs], len(inputs), "a query"
        )
    if isinstance(model, Translator):
        greedy = TranslationOptions(beam=1)
        tokens = sum(model.translate(text, greedy).tokens for text in inputs)
        return _speed(
            lambda: [model.translate(text, greedy) for text in inputs],
            tokens,
            "a token, encoding the source included",
        )
    options = CompletionOptions(beam=1, temperature=0.0)
    tokens = sum(model.complete(prompt, options)[0].tokens for prompt in inputs)
    return _speed(lambda: [model.complete(prompt, options) for prompt in inputs], tokens, "a token")


def _speed(work: Callable[[], object], parts: int, per: str) -> Speed:
    work()
    seconds = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return Speed(milliseconds=statistics.median(seconds) * 1e3 / max(1, parts), per=per, machine=processor())


def processor() -> str:
    """The processor's name."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
