"""The known words of a corpus: `words.txt` of a run, which completion by word keeps to."""

from __future__ import annotations

import argparse
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path

import msgspec

from bundle.errors import VoisinError
from bundle.lexicon import LEXICON
from bundle.tokenizer import Tokenizer
from training import corpus
from training.config import LexiconConfig, Recipe, load_recipe

RECIPE = "recipe.toml"
TOKENIZER = "tokenizer.json"

_RUN = re.compile(r"[^\W\d_]+(?:['’-]+[^\W\d_]+)*")
_BEGINS = re.compile(r"(?:\A|[.!?…]\s*|[«\"“(:]\s*|[-–—]\s+)\Z")  # before a word that has a capital anyway
_PARTNERS = 100
"""So many different words stand behind an apostrophe, and its beginning is a head that any word may follow:
French `l'` has thousands, `aujourd'` has one. The same holds for tails, English `'s`."""


def known_words(texts: Iterable[str], *, size: int, min_count: int) -> list[str]:
    """The most frequent words of a language, with the capitals that they have inside of sentences.

    Heads (`l'`) and tails (`'s`) that many words share are entries of their own, and what they are joined to
    counts as if it stood alone; see :class:`bundle.lexicon.Lexicon`.

    Args:
        texts: as the tokenizer normalises them; heads and tails are found by the plain apostrophe `'`.
        size: most entries.
        min_count: what is rarer is taken for a mistake.

    Returns:
        Entries in alphabetical order; none where nothing is frequent enough.
    """
    inside: Counter[str] = Counter()
    first: Counter[str] = Counter()
    for text in texts:
        for found in _RUN.finditer(text):
            start = found.start()
            begins = _BEGINS.search(text, max(0, start - 3), start)
            (first if begins else inside)[found[0]] += 1
    # a word that begins a sentence counts as what it is elsewhere
    for word, count in first.items():
        small = word[0].lower() + word[1:]
        inside[small if inside[small] >= inside[word] else word] += count
    heads, tails = _joints(inside, min_count)
    words: Counter[str] = Counter()
    for run, count in inside.items():
        entry = run
        while (at := entry.find("'")) > 0 and entry[: at + 1].lower() in heads:
            entry = entry[at + 1 :]
        if (at := entry.rfind("'")) > 0 and entry[at:] in tails:
            entry = entry[:at]
        words[entry] += count
    kept = [word for word, count in words.most_common(size) if count >= min_count]
    return sorted([*kept, *(heads | tails if kept else ())])


def _joints(counts: Counter[str], min_count: int) -> tuple[set[str], set[str]]:
    """Heads and tails that go with many words."""
    after: defaultdict[str, set[str]] = defaultdict(set)
    before: defaultdict[str, set[str]] = defaultdict(set)
    for run, count in counts.items():
        if "'" in run and count >= min_count:
            at = run.find("'")
            after[run[: at + 1].lower()].add(run[at + 1 :])
            at = run.rfind("'")
            before[run[at:]].add(run[:at])
    heads = {head for head, words in after.items() if len(words) >= _PARTNERS}
    return heads, {tail for tail, words in before.items() if len(words) >= _PARTNERS}


def make_lexicon(recipe: Recipe, tokenizer: Tokenizer, path: Path) -> bool:
    """Write the known words of the recipe's training text, each line of it read once.

    Returns:
        Whether there are any; without, no file is written.

    Raises:
        CorpusError: the text cannot be read.
    """
    config = recipe.lexicon or LexiconConfig()
    sources = [msgspec.structs.replace(source, weight=1.0) for source in recipe.corpus.sources]
    share = recipe.corpus.held_out
    texts = corpus.lines(
        sources,
        language=recipe.languages[0],
        held_out=share,
        split="train" if share else "all",
        seed=recipe.seed,
    )
    found = known_words(map(tokenizer.normalize, texts), size=config.size, min_count=config.min_count)
    if found:
        path.write_text("\n".join(found) + "\n", encoding="utf-8")
    return bool(found)


def main() -> int:
    """`python -m training.lexicon RUN`."""
    parser = argparse.ArgumentParser(
        prog="python -m training.lexicon",
        description="find the known words of the text that a run learned from",
    )
    parser.add_argument("run", type=Path, help="the run folder; words.txt is written into it")
    options = parser.parse_args()
    try:
        recipe = load_recipe(options.run / RECIPE)
        tokenizer = Tokenizer.load(options.run / TOKENIZER)
        made = make_lexicon(recipe, tokenizer, options.run / LEXICON)
    except VoisinError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(options.run / LEXICON if made else "no word is frequent enough")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
