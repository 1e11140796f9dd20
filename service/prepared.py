"""The nearest words of the most frequent words, encoded before anybody asks.

A look-up in the table of neighbours touches eleven words that lie all over the memory, and the misses of the
processor's cache cost more than the rest of the request. Encoded, the same answer is one piece of memory.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec

from bundle.neighbours import Neighbours
from bundle.vectors import Vectors
from service.schemas import ModelName, Neighbour

_encode = msgspec.json.Encoder().encode
_AT_ONCE = 16  # words in one turn of the event loop: a fraction of a millisecond
_PAUSE = 0.02  # seconds between two such turns
_PATIENCE = 0.5  # seconds until it is asked again whether there is other work


def encode_neighbours(found: list[tuple[str, float]]) -> bytes:
    """Words and cosines as an answer has them: with six digits."""
    # `round` to digits takes ten times as long as to whole numbers
    return msgspec.json.encode([Neighbour(word, round(score * 1e6) / 1e6) for word, score in found])


class Prepared:
    """The encoded `topn` neighbours of the first words of a vocabulary, the most frequent ones.

    Args:
        topn: neighbours, as most requests ask for; another number is not prepared.
        most_bytes: of memory; the words after that are encoded when they are asked for.
    """

    def __init__(self, vectors: Vectors, *, topn: int = 10, most_bytes: int = 16 * 2**20) -> None:
        self.topn = topn
        self._vectors = vectors
        self._most = most_bytes
        self._found: list[bytes] = []
        manifest = vectors.manifest
        model = msgspec.json.encode(ModelName(manifest.name, manifest.revision))
        self._end = b',"model":%b}' % model

    def __len__(self) -> int:
        return len(self._found)

    def of(self, id: int, topn: int) -> bytes | None:
        """The encoded neighbours of a word; None where the table of neighbours lacks them."""
        if topn == self.topn and id < len(self._found):
            return self._found[id]
        table = self._vectors.neighbours
        return None if table is None or not table.has(id, topn) else self._look_up(table, id, topn)

    def answer(self, word: str, id: int, topn: int) -> bytes | None:
        """A whole `SimilarAnswer`, encoded: what is asked for, beside what is ready; None as with :meth:`of`.

        Args:
            word: as it was asked for, which may be spelt otherwise than in the vocabulary.
        """
        found = self.of(id, topn)
        if found is None:
            return None
        return b'{"word":%b,"neighbours":%b%b' % (_encode(word), found, self._end)

    async def fill(self, busy: Callable[[], bool] = lambda: False) -> None:
        """Prepare what there is room for, a little at a time, and nothing while there is other work."""
        table = self._vectors.neighbours
        if table is None or table.width < self.topn:
            return
        room = self._most
        while len(self._found) < table.rows:
            first = len(self._found)
            some = [
                self._look_up(table, id, self.topn) for id in range(first, min(first + _AT_ONCE, table.rows))
            ]
            room -= sum(len(each) + 48 for each in some)  # an object's head, and its place in the list
            if room < 0:
                return
            self._found += some
            await asyncio.sleep(_PAUSE)
            while busy():  # noqa: ASYNC110
                await asyncio.sleep(_PATIENCE)

    def _look_up(self, table: Neighbours, id: int, topn: int) -> bytes:
        word_of = self._vectors.word_of
        near, cosines = table.of(id, topn)
        return encode_neighbours(
            [(word_of(other), cosine) for other, cosine in zip(near, cosines, strict=True)]
        )
