"""Nearest words, analogies and embeddings.

Where the bundle has subwords, a word that was never seen is answered too, from its character n-grams
(Bojanowski et al. 2017).
"""

from collections.abc import Sequence
from functools import cached_property

import numpy as np
from msgspec import UNSET
from numpy.typing import NDArray

from bundle.errors import InvalidRequest, UnknownWord
from bundle.manifest import Manifest
from bundle.nearest import nearest
from bundle.neighbours import Neighbours
from bundle.ngrams import ngram_rows
from bundle.rows import Floats, Ids, Query, Rows
from bundle.spelling import Spelling
from bundle.stepper import Array, Graph
from bundle.stored import Stored
from bundle.tokenizer import Tokenizer
from bundle.vocabulary import Vocabulary

Key = int | str
"""What a query holds of a word: its id, or the spelling of a word that is composed."""

_LONGEST = 64  # characters of a composed word: what is longer is no word, and its n-grams cost memory
_NO_NGRAM = -1


class Vectors:
    """Word vectors: looked up in the table of neighbours, scanned in place, or asked of the graph on a GPU.

    Any number of threads may ask at once.

    Args:
        rows: the vectors, read from the graph's file.
        neighbours: the nearest words of each word, where export has found them.
        graph: ``vectors.onnx`` where a GPU runs it; it then does what would be a scan.

    Attributes:
        manifest, tokenizer, rows, neighbours: as given.
        provider: what answers.

    Raises:
        ValueError: what was given does not belong together.
    """

    def __init__(
        self,
        manifest: Manifest,
        tokenizer: Tokenizer,
        rows: Rows,
        *,
        neighbours: Neighbours | None = None,
        graph: Graph | None = None,
        provider: str = "CPUExecutionProvider",
    ) -> None:
        self._subwords = None if manifest.subwords is UNSET else manifest.subwords
        if self._subwords and tokenizer.special.pad is None:
            raise ValueError("the graph takes n-grams, and the tokenizer has no <pad> to stand beside them")
        if rows.size != tokenizer.size:
            raise ValueError(f"the graph has {rows.size} rows and the tokenizer {tokenizer.size} ids")
        self.manifest = manifest
        self.tokenizer = tokenizer
        self.rows = rows
        self.provider = provider
        self.neighbours = neighbours
        if neighbours is not None:
            neighbours.measure(rows)
        self._graph = graph
        words = tokenizer.words()
        self._words = ["" if id in tokenizer.special_ids else word for id, word in enumerate(words)]
        self._special = np.array(sorted(tokenizer.special_ids), np.int64)

    @cached_property
    def _spelling(self) -> Spelling:
        """Made when the first word is unknown: a vocabulary of millions takes seconds and memory."""
        return Spelling(self._words)

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """The words by prefix, sorted when first asked for."""
        return Vocabulary(self._words)

    def most_similar(
        self, positive: Sequence[str], negative: Sequence[str] = (), topn: int = 10, *, among: int = 0
    ) -> list[tuple[str, float]]:
        """Words nearest to the sum of ``positive`` minus the sum of ``negative``, as unit vectors.

        The words of the query are not among the answers (3CosAdd, Mikolov et al. 2013).

        Args:
            among: only the first so many words of the vocabulary are answers; 0 = all.

        Returns:
            At most ``topn`` words with their cosines, nearest first.

        Raises:
            UnknownWord: the vocabulary lacks a word, and it cannot be composed.
            InvalidRequest: no word, ``topn`` below 1, or words that cancel each other out.
        """
        if not positive and not negative:
            raise InvalidRequest("positive", "at least one word is needed")
        terms = weigh([self.key(word) for word in positive], [self.key(word) for word in negative])
        return self.nearest_to(terms, topn, among=among)

    def nearest_to(
        self, terms: dict[Key, float], topn: int = 10, *, among: int = 0
    ) -> list[tuple[str, float]]:
        """:meth:`most_similar` for a caller who has looked the words up: see :func:`weigh`.

        Raises:
            InvalidRequest: ``topn`` below 1.
        """
        if topn < 1:
            raise InvalidRequest("topn", "must be at least 1", limit=1)
        if not among and self.neighbours is not None and self.is_looked_up(terms, topn):
            [key] = terms
            assert isinstance(key, int)
            near, cosines = self.neighbours.of(key, topn)
            return list(zip([self._words[id] for id in near], cosines, strict=True))
        if self._graph is not None and not among:
            ids, scores = self._ask_graph(self._graph, terms, topn)
        else:
            own = [key for key in terms if isinstance(key, int)]
            ids, scores = nearest(
                self.rows, self.query(terms), topn, skip=self.no_answers(own), limit=self.first_rows(among)
            )
        return [(self._words[id], score) for id, score in zip(ids.tolist(), scores.tolist(), strict=True)]

    def is_looked_up(self, terms: dict[Key, float], topn: int) -> bool:
        """Whether the table of neighbours has the answer, so that it costs next to nothing."""
        if self.neighbours is None or len(terms) != 1:
            return False
        [(key, weight)] = terms.items()
        return isinstance(key, int) and weight > 0 and self.neighbours.has(key, topn)

    def query(self, terms: dict[Key, float]) -> Query:
        """The unit vector of a weighted sum of unit vectors."""
        if len(terms) == 1:
            [(key, weight)] = terms.items()
            if isinstance(key, int) and weight > 0:
                return self.rows.word(key)
        total = np.zeros(self.rows.hidden)
        for key, weight in terms.items():
            total += self._unit(key) * weight
        return self.rows.vector(total)

    def first_rows(self, words: int) -> int:
        """How many rows hold the first ``words`` words; 0 = all, as in ``among``."""
        if not words:
            return self.rows.size
        limit = words
        for id in sorted(self.tokenizer.special_ids):
            if id < limit:
                limit += 1
        return min(limit, self.rows.size)

    def no_answers(self, own: Sequence[int]) -> Ids:
        """Rows that are never an answer to a query of the words ``own``."""
        return np.concatenate([self._special, np.asarray(own, np.int64)])

    def embed(self, words: Sequence[str]) -> NDArray[np.float32]:
        """Unit vectors ``float32[len(words), hidden]``.

        Raises:
            UnknownWord: the vocabulary lacks a word, and it cannot be composed.
        """
        keys = [self.key(word) for word in words]
        found = self.rows.unit([key if isinstance(key, int) else 0 for key in keys])
        for place, key in enumerate(keys):
            if isinstance(key, str):
                found[place] = self._unit(key)
        return found

    def _unit(self, key: Key) -> NDArray[np.float64]:
        if isinstance(key, int):
            unit: NDArray[np.float64] = self.rows.unit([key])[0].astype(np.float64)
            return unit
        assert self._subwords is not None
        return self.rows.composed(ngram_rows(key, self._subwords))

    def word_of(self, id: int) -> str:
        """The word of an id; empty for special tokens."""
        return self._words[id]

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
        id = self.tokenizer.id_of(word)  # most words are spelt as the vocabulary spells them
        if id is not None and id not in self.tokenizer.special_ids:
            return id
        try:
            id = self.tokenizer.id_of(self._spell(word))
        except UnicodeEncodeError:  # half of a surrogate pair
            return None
        return None if id is None or id in self.tokenizer.special_ids else id

    def _ask_graph(self, graph: Graph, terms: dict[Key, float], topn: int) -> tuple[Ids, Floats]:
        """What the graph ranks nearest, its own words and special tokens dropped."""
        pad = self.tokenizer.special.pad or 0
        # Room for what is dropped: the query's words, and the special tokens, whose rows are zeros.
        asked = min(topn + len(terms) + len(self._special), self.rows.size)
        feeds: dict[str, Array] = {
            "ids": np.array([[pad if isinstance(key, str) else key for key in terms]], np.int64),
            "weights": np.array([list(terms.values())], np.float32),
            "topn": np.array([asked], np.int64),
        }
        if self._subwords is not None:
            feeds["ngrams"] = self._ngrams(list(terms))
        scores, neighbours = graph.run(feeds, ["scores", "neighbours"])
        dropped = self.no_answers([key for key in terms if isinstance(key, int)])
        kept = ~np.isin(neighbours[0], dropped)
        return neighbours[0][kept][:topn], scores[0][kept][:topn]

    def _ngrams(self, keys: list[Key]) -> NDArray[np.int64]:
        """Rows ``[1, terms, grams]`` of the n-gram table for the words that are composed, right-padded."""
        assert self._subwords is not None
        rows = [ngram_rows(key, self._subwords) if isinstance(key, str) else [] for key in keys]
        out = np.full((1, len(keys), max(1, *map(len, rows))), _NO_NGRAM, np.int64)
        for term, found in enumerate(rows):
            out[0, term, : len(found)] = found
        return out


def weigh(positive: Sequence[Key], negative: Sequence[Key] = ()) -> dict[Key, float]:
    """The weight of each word of a query.

    Raises:
        InvalidRequest: the words cancel each other out.
    """
    terms: dict[Key, float] = {}
    for keys, weight in ((positive, 1.0), (negative, -1.0)):
        for key in keys:
            terms[key] = terms.get(key, 0.0) + weight
    if not any(terms.values()):
        raise InvalidRequest("negative", "cancels every word of positive")
    return terms


def check_contract(stored: Stored, manifest: Manifest) -> None:
    """Raises ValueError where a graph of vectors has not the inputs and outputs that it should."""
    lacking = ({"ids", "weights", "topn"} - stored.inputs.keys()) | (
        {"query", "scores", "neighbours"} - stored.outputs.keys()
    )
    if lacking:
        raise ValueError(f"the graph lacks {', '.join(sorted(lacking))}")
    if (manifest.subwords is UNSET) != ("ngrams" not in stored.inputs):
        raise ValueError("either the graph or the manifest has subwords, not both")
