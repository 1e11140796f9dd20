"""Nearest words, analogies and embeddings."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from bundle.errors import InvalidRequest, UnknownWord
from bundle.manifest import Manifest
from bundle.spelling import Spelling
from bundle.stepper import Array, Graph
from bundle.tokenizer import Tokenizer

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
            UnknownWord: the vocabulary lacks a word.
            InvalidRequest: no word, ``topn`` below 1, or words that cancel each other out.
        """
        if topn < 1:
            raise InvalidRequest("topn", "must be at least 1", limit=1)
        if not positive and not negative:
            raise InvalidRequest("positive", "at least one word is needed")
        ids = [self.lookup(word) for word in (*positive, *negative)]
        weights = [1.0] * len(positive) + [-1.0] * len(negative)
        sums: dict[int, float] = {}
        for id, weight in zip(ids, weights, strict=True):
            sums[id] = sums.get(id, 0.0) + weight
        if not any(sums.values()):
            raise InvalidRequest("negative", "cancels every word of positive")
        # Room for what is dropped: the query's words, and the special tokens, whose rows are zeros.
        asked = min(topn + len(sums) + len(self.tokenizer.special_ids), self.tokenizer.size)
        scores, neighbours = self._run([ids], [weights], asked, ["scores", "neighbours"])
        found: list[tuple[str, float]] = []
        for id, score in zip(neighbours[0].tolist(), scores[0].tolist(), strict=True):
            if id not in sums and self._words[id]:
                found.append((self._words[id], score))
        return found[:topn]

    def embed(self, words: Sequence[str]) -> NDArray[np.float32]:
        """Unit vectors ``float32[len(words), hidden]``.

        Raises:
            UnknownWord: the vocabulary lacks a word.
        """
        ids = [self.lookup(word) for word in words]
        parts = [
            self._run([[id] for id in some], [[1.0]] * len(some), 1, ["query"])[0]
            for some in (ids[start : start + _ROWS] for start in range(0, max(1, len(ids)), _ROWS))
        ]
        return np.concatenate(parts)

    def __contains__(self, word: str) -> bool:
        return self.find(word) is not None

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
        self, ids: list[list[int]], weights: list[list[float]], topn: int, fetches: Sequence[str]
    ) -> list[Array]:
        terms = len(ids[0]) if ids else 1
        feeds: dict[str, Array] = {
            "ids": np.array(ids, np.int64).reshape(len(ids), terms),
            "weights": np.array(weights, np.float32).reshape(len(ids), terms),
            "topn": np.array([topn], np.int64),
        }
        return self.graph.run(feeds, fetches)
