"""Nearest words, analogies and embeddings.

Where the bundle has subwords, a word that was never seen is answered too, from its character n-grams
(Bojanowski et al. 2017).
"""

from collections.abc import Sequence

import numpy as np
from msgspec import UNSET
from numpy.typing import NDArray

from bundle.errors import InvalidRequest, UnknownWord
from bundle.manifest import Manifest
from bundle.ngrams import ngram_rows
from bundle.spelling import Spelling
from bundle.stepper import Array, Graph
from bundle.tokenizer import Tokenizer

Key = int | str
"""What a query holds of a word: its id, or the spelling of a word that is composed."""

_LONGEST = 64  # characters of a composed word: what is longer is no word, and its n-grams cost memory
_NO_NGRAM = -1
_ROWS = 128  # queries of one run: the scan makes a score for each word of the vocabulary


class Vectors:
    """Word vectors, asked through their graph. Any number of threads may ask at once.

    Attributes:
        manifest, tokenizer: of the bundle.
        graph: ``vectors.onnx``.
        provider: what runs it.

    Raises:
        ValueError: the graph does not keep the contract.
    """

    def __init__(self, manifest: Manifest, tokenizer: Tokenizer, graph: Graph, *, provider: str = "") -> None:
        lacking = ({"ids", "weights", "topn"} - set(graph.inputs)) | (
            {"query", "scores", "neighbours"} - set(graph.outputs)
        )
        if lacking:
            raise ValueError(f"the graph lacks {', '.join(sorted(lacking))}")
        self._subwords = None if manifest.subwords is UNSET else manifest.subwords
        if (self._subwords is None) != ("ngrams" not in graph.inputs):
            raise ValueError("either the graph or the manifest has subwords, not both")
        if self._subwords and tokenizer.special.pad is None:
            raise ValueError("the graph takes n-grams, and the tokenizer has no <pad> to stand beside them")
        self.manifest = manifest
        self.tokenizer = tokenizer
        self.graph = graph
        self.provider = provider
        words = tokenizer.words()
        self._words = ["" if id in tokenizer.special_ids else word for id, word in enumerate(words)]
        self._spelling = Spelling(self._words)

    def most_similar(
        self, positive: Sequence[str], negative: Sequence[str] = (), topn: int = 10
    ) -> list[tuple[str, float]]:
        """Words nearest to the sum of ``positive`` minus the sum of ``negative``, as unit vectors.

        The words of the query are not among the answers (3CosAdd, Mikolov et al. 2013).

        Returns:
            At most ``topn`` words with their cosines, nearest first.

        Raises:
            UnknownWord: the vocabulary lacks a word, and it cannot be composed.
            InvalidRequest: no word, ``topn`` below 1, or words that cancel each other out.
        """
        if topn < 1:
            raise InvalidRequest("topn", "must be at least 1", limit=1)
        if not positive and not negative:
            raise InvalidRequest("positive", "at least one word is needed")
        keys = [self.key(word) for word in (*positive, *negative)]
        weights = [1.0] * len(positive) + [-1.0] * len(negative)
        sums: dict[Key, float] = {}
        for key, weight in zip(keys, weights, strict=True):
            sums[key] = sums.get(key, 0.0) + weight
        if not any(sums.values()):
            raise InvalidRequest("negative", "cancels every word of positive")
        # Room for what is dropped: the query's words, and the special tokens, whose rows are zeros.
        asked = min(topn + len(sums) + len(self.tokenizer.special_ids), self.tokenizer.size)
        scores, neighbours = self._run([keys], [weights], asked, ["scores", "neighbours"])
        found: list[tuple[str, float]] = []
        for id, score in zip(neighbours[0].tolist(), scores[0].tolist(), strict=True):
            if id not in sums and self._words[id]:
                found.append((self._words[id], score))
        return found[:topn]

    def embed(self, words: Sequence[str]) -> NDArray[np.float32]:
        """Unit vectors ``float32[len(words), hidden]``.

        Raises:
            UnknownWord: the vocabulary lacks a word, and it cannot be composed.
        """
        keys = [self.key(word) for word in words]
        parts = [
            self._run([[key] for key in some], [[1.0]] * len(some), 1, ["query"])[0]
            for some in (keys[start : start + _ROWS] for start in range(0, max(1, len(keys)), _ROWS))
        ]
        return np.concatenate(parts)

    def __contains__(self, word: str) -> bool:
        """Whether the word was seen in training."""
        return self.find(word) is not None

    def composes(self, word: str) -> bool:
        """Whether a word was never seen and is answered from its n-grams.

        It is where the bundle has subwords, and the word holds a letter and is neither too short for n-grams
        nor longer than 64 characters.
        """
        if self._subwords is None or word in self or not any(map(str.isalpha, word)):
            return False
        try:
            characters = len(self._spell(word))
        except UnicodeEncodeError:  # half of a surrogate pair
            return False
        return self._subwords.min_n - len("<>") <= characters <= _LONGEST

    def key(self, word: str) -> Key:
        """What stands for a word in a query: equal for spellings that are one word.

        Raises:
            UnknownWord: the vocabulary lacks it, and it cannot be composed.
            InvalidRequest: it is empty, or no text.
        """
        return self._spell(word) if self.composes(word) else self.lookup(word)

    def lookup(self, word: str) -> int:
        """Id of a word, spelt as people do: case as the vocabulary wants it, spaces in phrases.

        Raises:
            UnknownWord: the vocabulary lacks it.
            InvalidRequest: it is empty, or no text.
        """
        id = self.find(word)
        if id is not None:
            return id
        if any(0xD800 <= ord(character) <= 0xDFFF for character in word):
            raise InvalidRequest("word", "has half of a surrogate pair, which is no character")
        if not word.strip():
            raise InvalidRequest("word", "is empty")
        raise UnknownWord(word, self.did_you_mean(word))

    def did_you_mean(self, word: str) -> list[str]:
        """Known words spelt much like ``word``, closest first; perhaps none."""
        return self._spelling.nearest(self._spell(word))

    def _spell(self, word: str) -> str:
        return "_".join(self.tokenizer.normalize(word).split())

    def find(self, word: str) -> int | None:
        """Id of a word, spelt as in :meth:`lookup`; None where the vocabulary lacks it."""
        try:
            id = self.tokenizer.id_of(self._spell(word))
        except UnicodeEncodeError:  # half of a surrogate pair
            return None
        return None if id is None or id in self.tokenizer.special_ids else id

    def _run(
        self, keys: list[list[Key]], weights: list[list[float]], topn: int, fetches: Sequence[str]
    ) -> list[Array]:
        terms = len(keys[0]) if keys else 1
        pad = self.tokenizer.special.pad or 0
        ids = [[pad if isinstance(key, str) else key for key in row] for row in keys]
        feeds: dict[str, Array] = {
            "ids": np.array(ids, np.int64).reshape(len(keys), terms),
            "weights": np.array(weights, np.float32).reshape(len(keys), terms),
            "topn": np.array([topn], np.int64),
        }
        if self._subwords is not None:
            feeds["ngrams"] = self._ngrams(keys, terms)
        return self.graph.run(feeds, fetches)

    def _ngrams(self, keys: list[list[Key]], terms: int) -> NDArray[np.int64]:
        """Rows of the n-gram table for the words that are composed, right-padded."""
        assert self._subwords is not None
        rows = {
            (row, term): ngram_rows(key, self._subwords)
            for row, several in enumerate(keys)
            for term, key in enumerate(several)
            if isinstance(key, str)
        }
        most = max(map(len, rows.values()), default=1)
        out = np.full((len(keys), terms, most), _NO_NGRAM, np.int64)
        for place, found in rows.items():
            out[place][: len(found)] = found
        return out
