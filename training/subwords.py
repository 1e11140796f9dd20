"""BPE dropout (Provilkov et al. 2020): a text is cut now this way, now that way, so that a model meets rare
words in pieces it knows and learns what pieces are made of. In training only; serving cuts one way."""

from __future__ import annotations

import json
import random as python_random

import numpy as np
from tokenizers import Tokenizer

#: ways in which one word is cut at most: words recur, and cutting them anew each time is slow
_WAYS = 8


class SubwordDropout:
    """Cuts texts into the tokens of a BPE tokenizer, leaving out each merge with a probability.

    The same random numbers give the same tokens, on any machine.

    Args:
        written: tokenizer.json of level ``bpe``, its text.
        probability: of leaving out a merge, each time it could be made; 0 is the tokenizer's own cut.

    Raises:
        ValueError: the tokenizer is no BPE.
    """

    def __init__(self, written: str, probability: float) -> None:
        model = json.loads(written)["model"]
        if model["type"] != "BPE":
            raise ValueError("train.subword_dropout needs tokenizer.level = bpe")
        backend = Tokenizer.from_str(written)
        self._normalizer, self._pre_tokenizer = backend.normalizer, backend.pre_tokenizer
        self._probability = probability
        self._vocabulary: dict[str, int] = model["vocab"]
        pairs = (tuple(pair.split(" ")) if isinstance(pair, str) else tuple(pair) for pair in model["merges"])
        self._ranks = {pair: rank for rank, pair in enumerate(pairs)}
        self._cuts: dict[tuple[str, int], list[int]] = {}

    def encode(self, text: str, random: np.random.Generator) -> list[int]:
        """Ids of one text, without specials."""
        clean = text if self._normalizer is None else self._normalizer.normalize_str(text)
        words = [word for word, _ in self._pre_tokenizer.pre_tokenize_str(clean)]
        out: list[int] = []
        for word, way in zip(words, random.integers(_WAYS, size=len(words)).tolist(), strict=True):
            cut = self._cuts.get((word, way))
            if cut is None:
                cut = self._cuts[word, way] = self._cut(word, way)
            out += cut
        return out

    def _cut(self, word: str, way: int) -> list[int]:
        draw = python_random.Random(f"{way} {word}").random  # strings seed alike on every machine
        pieces = list(word)
        while len(pieces) > 1:
            best, place = len(self._ranks), -1
            for index in range(len(pieces) - 1):
                rank = self._ranks.get((pieces[index], pieces[index + 1]), best)
                if rank < best and draw() >= self._probability:
                    best, place = rank, index
            if place < 0:
                break
            pieces[place : place + 2] = [pieces[place] + pieces[place + 1]]
        return [self._vocabulary[piece] for piece in pieces]
