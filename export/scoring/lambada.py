"""LAMBADA (Paperno et al. 2016): the last word of a passage, which only the whole of it gives away."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from bundle.completion import CompletionOptions
from bundle.language import Language
from export.scores import Score
from export.scoring.words import complete_all, suggestions

SUGGESTIONS = 10
STOP_WORDS = frozenset(
    Path(__file__).parent.with_name("stop-words-en.txt").read_text(encoding="utf-8").split()
)
"""Words that hardly ever end a sentence, and are what a model that does not know of the end says first."""


def lambada_scores(model: Language, passages: Sequence[str], *, name: str, command: str) -> list[Score]:
    """Passages whose last word is what the service's word completion writes, and what it suggests first but
    for stop words.

    Radford et al. 2019 (section 3.3) leave stop words out too, with a list of their own: the passages end
    with their sentence, and models are not told. The passages are put back into ordinary spelling
    (:func:`ordinary`), and case is not compared. A passage longer than the model reads loses its beginning.
    """
    asked = [passage.rpartition(" ") for passage in passages]
    wanted = [word.lower() for _, _, word in asked]
    prompts = [_ready(ordinary(context)) for context, _, _ in asked]
    greedy = complete_all(model, prompts, CompletionOptions(level="word", max_tokens=1))
    written = [(words[0].word or "").lower() if words else "" for words in greedy]
    lists = [[word.lower() for word in found] for found in suggestions(model, prompts, SUGGESTIONS)]
    chosen = [next((word for word in found if word and word not in STOP_WORDS), "") for found in lists]
    score = partial(Score, set=name, size=len(passages), unit="passages", command=command, part="lambada")

    def right(words: Sequence[str]) -> float:
        return 100.0 * sum(one == two for one, two in zip(words, wanted, strict=True)) / len(wanted)

    return [
        score(metric="last word right, %", value=right(written), note="the greedy word"),
        score(
            metric="last word right but for stop words, %",
            value=right(chosen),
            note=f"the first of {SUGGESTIONS} suggestions that is no stop word",
        ),
    ]


_BEFORE = {"n't", "'s", "'re", "'ve", "'ll", "'d", "'m", "''", "'", *",.!?;:)]%"}
"""Tokens without a space before them."""
_AFTER = {"``", "`", "(", "[", "$"}
"""Tokens without a space after them."""
_QUOTES = {"``": '"', "''": '"', "`": "'"}
_BEGINS = re.compile(r"(^|[.!?][\"')]* )([\"'(]*)([a-z])")
_FIRST_PERSON = re.compile(r"\bi\b")


def ordinary(text: str) -> str:
    """Text of LAMBADA as people write it: its tokens rejoined, sentences and *I* with a capital.

    >>> ordinary("`` i do n't know , '' he said . she")
    '"I don\\'t know," he said. She'
    """
    joined, glued = "", True
    for token in text.split():
        if not glued and token not in _BEFORE:
            joined += " "
        joined += _QUOTES.get(token, token)
        glued = token in _AFTER
    joined = _FIRST_PERSON.sub("I", joined)
    return _BEGINS.sub(lambda found: found[1] + found[2] + found[3].upper(), joined)


def _ready(text: str) -> str:
    """A prompt whose next word begins at once."""
    return text if text.endswith(("(", "[")) else f"{text} "
