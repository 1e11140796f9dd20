"""A score with everything that is needed to get it again, and the published ones that it stands beside."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path

import msgspec

ANCHORS = Path(__file__).with_name("anchors.toml")


class Anchor(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A published score of a known system.

    source: the paper and its table, or the model's card.
    note: how its test differs from ours.
    """

    value: float
    system: str
    source: str
    note: str = ""


class Score(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One number and everything needed to get it again."""

    metric: str
    value: float
    set: str
    """Name of the test set or split."""
    size: int
    """How many lines, pairs or questions were scored."""
    unit: str = ""
    """What `size` counts."""
    command: str
    part: str = ""
    """Which part of the evaluation measured it (`--only`)."""
    floor: float | None = None
    """What doing nothing clever scores on the same set; `floor_is` says what that is."""
    floor_is: str = ""
    coverage: float | None = None
    """Share of the set whose words are all in the vocabulary."""
    unseen: bool = False
    """The bundle was trained on no text of this kind."""
    exact: float | None = None
    """What the same weights score as 32-bit floats."""
    anchors: list[Anchor] = []
    signature: str = ""
    note: str = ""


def scores_of(scores: Mapping[str, object]) -> list[Score]:
    """The scores recorded in `scores.json`."""
    return msgspec.convert(scores.get("scores", []), list[Score])


class _Entry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One `[[anchor]]` of anchors.toml."""

    metric: str
    set: str
    languages: list[str]
    value: float
    system: str
    source: str
    note: str = ""


@cache
def _entries() -> list[_Entry]:
    return msgspec.convert(tomllib.loads(ANCHORS.read_text(encoding="utf-8"))["anchor"], list[_Entry])


def anchors_for(metric: str, key: str, languages: Sequence[str]) -> list[Anchor]:
    """What others have published for a metric on a set (by its key), for models of these languages."""
    return [
        Anchor(value=entry.value, system=entry.system, source=entry.source, note=entry.note)
        for entry in _entries()
        if (entry.metric, entry.set, entry.languages) == (metric, key, list(languages))
    ]


def anchored(scores: Iterable[Score], key: str, languages: Sequence[str]) -> list[Score]:
    """`scores`, all of the set with that key, with their anchors."""
    return [
        msgspec.structs.replace(score, anchors=anchors_for(score.metric, key, languages)) for score in scores
    ]


def lost(score: Score) -> str:
    """What the stored weights lose against 32-bit ones: per cent of a perplexity, points of anything else."""
    assert score.exact is not None
    if score.metric.startswith(("perplexity", "bits")):
        return f"{100.0 * (score.value / score.exact - 1):+.2f} %"
    return f"{score.exact - score.value:+.2f}"


def is_section(score: Score) -> bool:
    """Whether it is one section of the analogies, which long tables list and short ones leave out."""
    name = score.set.partition(": ")[2]
    return score.unit.startswith("questions") and name not in ("", "semantic", "syntactic")
