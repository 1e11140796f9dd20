"""The text that bundles are scored on: the test half of what their recipes hold out, and public sets.

Each source of a recipe is a set of its own. Of a set the lines with the lowest hash are taken, so that they
come from everywhere in it, and a smaller sample is part of a larger one. Of what is held out only the test
half is read: the other half chose among checkpoints (training.corpus).
"""

from __future__ import annotations

import heapq
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Generic, TypeVar

import msgspec

from export import ExportError
from export.backtranslate import TAG
from training import corpus
from training.config import Recipe

Item = TypeVar("Item")
Pair = tuple[str, str]

SHARE = 0.01
"""Held out of corpora that a recipe, or the whole of it, does not say."""

NEWSTEST = "parallel/newstest2013_devset.en-fr.tsv.xz"
PAIRS = {
    "Tatoeba English-French": "parallel/tatoeba.en-fr.tsv.xz",
    "Python documentation": "parallel/python_docs.en-fr.tsv.xz",
    "laws of Canada": "parallel/canada_laws_250k.en-fr.tsv.xz",
}
"""What every translator of the two languages is scored on, trained on it or not: name, file of the data."""


@dataclass(frozen=True)
class Sample(Generic[Item]):
    """Part of a test set.

    key: short name of the corpus, from its file: what anchors.toml calls it.
    name: what tables call it.
    unseen: the recipe trains on no text of this corpus.
    """

    key: str
    name: str
    items: list[Item]
    unseen: bool = False


def held_out_lines(recipe: Recipe, limit: int) -> Iterator[Sample[str]]:
    """Distinct held-out lines of each source of a language model's recipe.

    Raises:
        CorpusError: a corpus is missing.
        ExportError: nothing of one was held out.
    """
    share = recipe.corpus.held_out
    for source in _whole(recipe):
        lines = corpus.lines(
            [source], language=recipe.languages[0], held_out=share, split=scored_split(share)
        )
        items = _lowest(dict.fromkeys(lines), limit, str)
        yield Sample(key_of(source.path), _named(source.name, share), _some(source.name, items))


def held_out_pairs(recipe: Recipe, limit: int) -> Iterator[Sample[Pair]]:
    """Held-out pairs of each source of a translator's recipe, then sets that it may not have trained on.

    No sentence, of either language, is there twice. The pairs of a corpus are the same in both directions.
    Back-translations are left out: a reference made by a model says nothing. They lie beside the run that
    made them, so a source whose file is missing is left out too, and told, while there is another.

    Raises:
        CorpusError: every corpus of the recipe is missing.
        ExportError: nothing of one was held out.
    """
    languages = (recipe.languages[0], recipe.languages[1])
    share = recipe.corpus.held_out
    sources = _present(_whole(recipe))
    for source in sources:
        found = corpus.pairs([source], languages, held_out=share, split=scored_split(share))
        items = _lowest(_distinct(_by_people(found)), limit, _english(languages))
        if items or not _is_made(source, languages):
            yield Sample(key_of(source.path), _named(source.name, share), _some(source.name, items))
    if set(languages) != {"en", "fr"}:
        return
    known = {key_of(source.path) for source in sources}
    for name, file in PAIRS.items():
        path = data_file(file)
        if path is None or key_of(file) in known:
            continue
        found = corpus.pairs([_public(name, path)], languages, held_out=share or SHARE, split="test")
        items = _lowest(_distinct(found), limit, _english(languages))
        yield Sample(key_of(file), _named(name, share or SHARE), _some(name, items), unseen=True)
    path = data_file(NEWSTEST)
    if path is not None:
        found = corpus.pairs([_public("newstest2013", path)], languages)
        items = _lowest(found, limit, _english(languages))
        yield Sample("newstest2013", "newstest2013", _some("newstest2013", items), unseen=True)


def lines_of(path: Path, limit: int) -> Sample[str]:
    """Lines of any file."""
    lines = (line.strip() for line in corpus.read_lines(path) if line.strip())
    return Sample(path.name, path.name, _some(path.name, _lowest(dict.fromkeys(lines), limit, str)))


def pairs_of(path: Path, languages: tuple[str, str], limit: int) -> Sample[Pair]:
    """Pairs of any file of two columns, source and target."""
    source = corpus.Source(path=str(path), name=path.name, licence="", attribution="", columns=languages)
    found = _lowest(_distinct(corpus.pairs([source], languages)), limit, _english(languages))
    return Sample(path.name, path.name, _some(path.name, found))


def lambada(limit: int) -> Sample[str] | None:
    """Passages of LAMBADA's development set (Paperno et al. 2016); None where the file is not there."""
    path = data_file("eval_public/lambada_development_plain_text.txt.xz")
    if path is None:
        return None
    lines = (line.strip() for line in corpus.read_lines(path) if line.strip())
    return Sample("lambada", "LAMBADA development", _some("LAMBADA", _lowest(lines, limit, str)))


def scored_split(share: float) -> corpus.Split:
    """What is scored: toys, which hold nothing out, are scored on what they trained on."""
    return "test" if share else "all"


def key_of(path: str) -> str:
    """Short name of a corpus: its file's, or its folder's where it has several."""
    place = Path(path)
    return place.parent.name if "*" in place.name else place.name.partition(".")[0]


def data_file(name: str) -> Path | None:
    """A file of the data folder (`VOISIN_DATA`), where it is there."""
    folder = os.environ.get("VOISIN_DATA")
    path = Path(folder or "") / name
    return path if folder and path.is_file() else None


def rank(text: str) -> bytes:
    """A hash to order text by that depends on the text alone."""
    return blake2b(text.encode(), digest_size=8, key=b"evaluation").digest()


def _whole(recipe: Recipe) -> list[corpus.Source]:
    """The recipe's sources, each once and without its weight and limit: what counts is what is held out."""
    sources = {source.path: source for source in recipe.corpus.sources}
    return [msgspec.structs.replace(source, weight=1.0, limit=0) for source in sources.values()]


def _present(sources: list[corpus.Source]) -> list[corpus.Source]:
    """The sources that are there. Raises CorpusError where none is."""
    found, missing = [], []
    for source in sources:
        try:
            if "://" not in source.path:
                corpus.files(source)
            found.append(source)
        except corpus.CorpusError as error:
            missing.append(error)
    if not found:
        raise missing[0]
    for reason in missing:
        print(f"not scored: {reason}", file=sys.stderr)
    return found


def _by_people(pairs: Iterable[Pair]) -> Iterator[Pair]:
    """Pairs without the tag of back-translations."""
    return (pair for pair in pairs if not any(side.startswith(TAG) for side in pair))


def _is_made(source: corpus.Source, languages: tuple[str, str]) -> bool:
    """Whether a source begins with a back-translation."""
    first = next(corpus.pairs([source], languages), ("", ""))
    return any(side.startswith(TAG) for side in first)


def _named(name: str, share: float) -> str:
    """The test half is half of what is held out."""
    return f"{name}, held-out test ({50 * share:g} %)" if share else f"{name}, the training text"


def _public(name: str, path: Path) -> corpus.Source:
    return corpus.Source(path=str(path), name=name, licence="", attribution="", columns=("en", "fr"))


def _distinct(pairs: Iterable[Pair]) -> Iterator[Pair]:
    """Pairs with both sentences new: one reference for each source, in either direction the same."""
    seen: tuple[set[str], set[str]] = (set(), set())
    for one, two in pairs:
        if one not in seen[0] and two not in seen[1]:
            seen[0].add(one)
            seen[1].add(two)
            yield one, two


def _english(languages: tuple[str, str]) -> Callable[[Pair], str]:
    """The side that decides, in both directions."""
    side = languages.index("en") if "en" in languages else 0
    return lambda pair: pair[side]


def _lowest(items: Iterable[Item], limit: int, key: Callable[[Item], str]) -> list[Item]:
    return heapq.nsmallest(limit, items, key=lambda item: rank(key(item)))


def _some(name: object, items: list[Item]) -> list[Item]:
    if not items:
        raise ExportError(f"{name}: nothing to score on")
    return items
