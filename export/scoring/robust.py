"""What a translator does with very little: one or two words, and what is no sentence at all."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable
from functools import cache, partial
from itertools import pairwise
from pathlib import Path

from bundle.translator import Translator
from export import ExportError
from export.scores import Score
from export.scoring.translation import translate
from export.testsets import rank

INPUTS = 500
TIMES_LONGER = 4
PASSTHROUGH = Path(__file__).parent.with_name("passthrough.toml")

_WORD = re.compile(r"\w[\w'’-]*")
_DIGITS = re.compile(r"\d+")


def short_inputs(sentences: Iterable[str], count: int = INPUTS) -> list[str]:
    """Words and pairs of neighbouring words of the sentences, half of each, those of the lowest hash."""
    singles: set[str] = set()
    doubles: set[str] = set()
    for sentence in sentences:
        words = _WORD.findall(sentence)
        singles.update(words)
        doubles.update(f"{one} {two}" for one, two in pairwise(words))
    half = count // 2
    return sorted(singles, key=rank)[:half] + sorted(doubles, key=rank)[: count - half]


def robust_scores(model: Translator, sentences: Iterable[str], *, name: str, command: str) -> list[Score]:
    """Answers of the default beam to one- and two-word inputs that are visibly broken; 0 is good.

    Raises ExportError where the sentences have no word.
    """
    inputs = short_inputs(sentences)
    if not inputs:
        raise ExportError(f"{name}: no word in it")
    answers = translate(model, inputs, beam=model.manifest.decoding.beam)
    pairs = list(zip(inputs, answers, strict=True))
    faults = {
        "answers with a word three times in a row": [pair for pair in pairs if stutters(*pair)],
        "empty answers": [pair for pair in pairs if not pair[1].strip()],
        f"answers over {TIMES_LONGER} times as long": [pair for pair in pairs if rambles(*pair)],
    }
    return [
        Score(
            metric=metric,
            value=float(len(found)),
            set=f"one and two words of {name}",
            size=len(inputs),
            unit="inputs",
            command=command,
            part="robust",
            note="; ".join(f"{source} → {answer}" for source, answer in found[:3]),
        )
        for metric, found in faults.items()
    ]


def stutters(source: str, answer: str) -> bool:
    """Whether the answer says a word three times in a row, and the source does not."""
    return _longest_run(answer) >= 3 > _longest_run(source)


def rambles(source: str, answer: str) -> bool:
    """Whether the answer has over four times as many words as the source, and as many characters."""
    words = len(_WORD.findall(answer)) > TIMES_LONGER * max(1, len(_WORD.findall(source)))
    return words and len(answer) > TIMES_LONGER * max(1, len(source))


def _longest_run(text: str) -> int:
    longest, run, last = 0, 0, ""
    for word in _WORD.findall(text.lower()):
        run = run + 1 if word == last else 1
        longest, last = max(longest, run), word
    return longest


@cache
def passthrough_texts() -> dict[str, list[str]]:
    """The fixed list, by kind."""
    return tomllib.loads(PASSTHROUGH.read_text(encoding="utf-8"))


def passthrough_scores(model: Translator, *, command: str) -> list[Score]:
    """Share of each kind of the fixed list that comes back unchanged, that is still in the answer (with a
    full stop more, say), and whose answer is at least sane."""
    scores = []
    for kind, texts in passthrough_texts().items():
        answers = translate(model, texts, beam=model.manifest.decoding.beam)
        pairs = list(zip(texts, answers, strict=True))
        changed = [pair for pair in pairs if pair[0] != pair[1]]
        lost = [pair for pair in pairs if pair[0].strip().lower() not in pair[1].lower()]
        strange = [pair for pair in pairs if not sane(*pair)]
        score = partial(Score, set=kind, size=len(texts), unit="texts", command=command, part="passthrough")
        outcomes = {"unchanged, %": changed, "still there, %": lost, "sane, %": strange}
        for metric, missed in outcomes.items():
            scores.append(
                score(
                    metric=metric,
                    value=100.0 * (1 - len(missed) / len(texts)),
                    note="; ".join(f"{one.strip()} → {two.strip()}" for one, two in missed[:4]),
                )
            )
    return scores


def sane(source: str, answer: str) -> bool:
    """Whether an answer is not empty where the source is not (and the reverse), keeps every number, and
    neither stutters nor rambles."""
    return (
        bool(source.strip()) == bool(answer.strip())
        and _DIGITS.findall(source) == _DIGITS.findall(answer)
        and not stutters(source, answer)
        and not rambles(source, answer)
    )
