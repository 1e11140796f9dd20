"""Characters, sub-words or 10,000 words, by LSTMs of equal parameters in equal time.

All three read the same text: lower-cased words with single spaces between, as Word2Vec does, for a vocabulary
of words is of no use on words with commas attached. The word model writes ``<unk>`` for every word beyond its
ten thousand. Not to say which word it was is no prediction of the text, so it is charged for the spelling,
in two ways; what it scores when the spelling is free stands beside it, and is not comparable.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch

from bundle.tokenizer import Tokenizer
from training import corpus
from training.ablations.job import Job, Trained, batches_of, language_of, unseen_lines
from training.ablations.recall import with_text
from training.ablations.report import Cell, Table
from training.config import Recipe
from training.evaluate import language_loss, mean_loss
from training.sentences import write_sentences

#: widths that give equal parameters (within 2 %), most of them in the table of words or in the cell
SIDES: Mapping[str, Sequence[str]] = {
    "characters": (
        "tokenizer.level=char",
        "tokenizer.size=160",
        "model.hidden=338",
        "model.embedding=32",
        "model.tied=false",
        "train.sequence=96",
    ),
    "sub-words": ("tokenizer.level=bpe", "tokenizer.size=2000", "model.hidden=290", "model.embedding=64"),
    "words": (),
}
LINES = 400


def run(job: Job) -> list[Table]:
    """Trains the three and charges each for every character of the same unseen lines."""
    text = job.folder / "words.txt"
    trained = {}
    for side, changes in SIDES.items():
        recipe = job.recipe("units", *changes)
        if not text.exists():
            write_text(recipe, text)
        trained[side] = job.train(with_text(recipe, text), side)
    lines = unseen_lines(trained["words"].recipe, LINES)
    bits = {side: total_bits(one, lines) for side, one in trained.items()}
    tokenizer = trained["words"].tokenizer
    unknown = [word for line in lines for word in line.split() if is_unknown(tokenizer, word)]
    speller = Speller(unknown_of(trained["words"].recipe, tokenizer))
    by_letters = sum(speller.bits(word) for word in unknown)
    by_model = sum(spelling_bits(trained["characters"], tokenizer, line) for line in lines)
    characters = sum(len(line) + 1 for line in lines)
    words = sum(len(line.split()) + 1 for line in lines)

    def row(name: str, one: Trained, total: float) -> list[Cell]:
        per_word = 2 ** (total / words)
        cost = [one.parameters, one.tokens, one.seconds]
        return [name, *cost, total / characters, per_word]

    known = trained["words"]
    return [
        Table(
            title=f"{len(lines):,} unseen lines, {words:,} words (line ends counted), of which "
            f"{len(unknown):,} ({len(unknown) / words:.1%}) are beyond the 10,000.",
            columns=["LSTM over", "parameters", "tokens", "s", "bits per character", "perplexity per word"],
            rows=[
                row("characters", trained["characters"], bits["characters"]),
                row("sub-words (2,000)", trained["sub-words"], bits["sub-words"]),
                row("words, unknown ones spelt by letter frequencies", known, bits["words"] + by_letters),
                row("words, unknown ones spelt by the character LSTM", known, bits["words"] + by_model),
                row("words, `<unk>` not spelt: not comparable", known, bits["words"]),
            ],
        )
    ]


def write_text(recipe: Recipe, path: Path) -> None:
    """The recipe's text as lower-case words, a line each."""
    path.parent.mkdir(parents=True, exist_ok=True)
    language = recipe.languages[0]
    texts = corpus.lines(recipe.corpus.sources, language=language, seed=recipe.seed)
    write_sentences(texts, path, language)


def total_bits(trained: Trained, lines: Sequence[str]) -> float:
    """What the lines and their ends cost, each line by itself."""
    loss, tokens = mean_loss(language_of(trained), batches_of(trained, lines), language_loss)
    return loss * tokens / math.log(2)


def is_unknown(tokenizer: Tokenizer, word: str) -> bool:
    """Whether a word is ``<unk>``."""
    return tokenizer.encode(word) == [tokenizer.special.unk]


def unknown_of(recipe: Recipe, tokenizer: Tokenizer) -> list[str]:
    """The unknown words of the training side, from which the speller learns."""
    share = recipe.corpus.held_out
    lines = corpus.lines(
        recipe.corpus.sources, held_out=share, split="train" if share else "all", seed=recipe.seed
    )
    counts: Counter[str] = Counter()
    for line in lines:
        counts.update(line.split())
    return [word for word, count in counts.items() if is_unknown(tokenizer, word) for _ in range(count)]


class Speller:
    """Spells a word letter by letter, each with its frequency in ``words``, and an end after the last.

    A letter never seen has one place, shared by all of Unicode. The probabilities of all words sum to one.
    """

    END = ""
    _OTHERS = 0x110000

    def __init__(self, words: Iterable[str]) -> None:
        counts = Counter(letter for word in words for letter in (*word, self.END))
        counts[self.END] += 1
        total = counts.total() + 1
        self._bits = {letter: -math.log2(count / total) for letter, count in counts.items()}
        self._rare = math.log2(total) + math.log2(self._OTHERS)

    def bits(self, word: str) -> float:
        """Minus the logarithm to base 2 of the word's probability."""
        return sum(self._bits.get(letter, self._rare) for letter in (*word, self.END))


def spelling_bits(speller: Trained, tokenizer: Tokenizer, line: str) -> float:
    """What a character model pays, within the line, for the letters and the end of its unknown words."""
    special = speller.tokenizer.special
    assert special.bos is not None
    assert special.eos is not None
    ids = torch.tensor([special.bos, *speller.tokenizer.encode(line), special.eos])
    assert len(ids) == len(line) + 2
    with torch.inference_mode():
        logits, _ = language_of(speller)(ids[None, :-1])
        nats = -logits[0].log_softmax(dim=-1).gather(1, ids[1:, None])[:, 0]
    total, start = 0.0, 0
    for word in line.split(" "):
        end = start + len(word) + 1
        if is_unknown(tokenizer, word):
            total += float(nats[start:end].sum())
        start = end
    return total / math.log(2)
