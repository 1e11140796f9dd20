"""``neighbours.bin``: the nearest words of each word, found at export, so that asking for them is a look-up.

32 bytes of header, then ids ``[rows, width]``, the nearest first, for the first ``rows`` ids of the
vocabulary. Ids are uint16 where the vocabulary has at most 65,536 words and else uint32; all numbers are
little-endian. A place for which there is no neighbour holds the row's own id. Cosines are not stored: two
rows of the table give them back, to the last bit.
"""

import mmap
import struct
from os import PathLike
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bundle.errors import BundleError
from bundle.rows import Floats, Ids, Rows

NEIGHBOURS = "neighbours.bin"
_HEADER = struct.Struct("<8sIIII8x")
_MAGIC = b"voisin.n"
_VERSION = 1


class Neighbours:
    """The table, mapped into memory.

    Attributes:
        rows: the words it has, the first ids of the vocabulary.
        width: neighbours of each.

    Raises:
        BundleError: it is not such a table, or not of this vocabulary.
    """

    def __init__(self, path: str | PathLike[str], vocab: int) -> None:
        try:
            with Path(path).open("rb") as file:
                data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            magic, version, size, rows, width = _HEADER.unpack_from(data)
        except (OSError, ValueError, struct.error) as error:  # nothing cannot be mapped
            raise BundleError(path, f"is no table of neighbours: {error}") from error
        if (magic, version) != (_MAGIC, _VERSION):
            raise BundleError(path, "is no table of neighbours that this reader knows")
        self.rows: int = rows
        self.width: int = width
        dtype = id_type(size)
        if size != vocab:
            raise BundleError(path, f"is of {size} words and the tokenizer has {vocab}")
        if self.rows > vocab or len(data) != _HEADER.size + self.rows * self.width * dtype.itemsize:
            raise BundleError(path, f"is not {self.rows} rows of {self.width} neighbours")
        self._ids: NDArray[np.unsignedinteger] = np.frombuffer(data, dtype, offset=_HEADER.size).reshape(
            self.rows, self.width
        )
        self._cosines: Floats = np.empty((0, 0), np.float32)
        if self._ids.size and int(self._ids.max()) >= vocab:
            raise BundleError(path, "names words that the vocabulary lacks")

    def has(self, id: int, topn: int) -> bool:
        """Whether the ``topn`` neighbours of a word can be looked up."""
        return id < self.rows and topn <= self.width

    def measure(self, rows: Rows) -> None:
        """Computes all cosines at once: one by one they would cost more than the rest of a look-up."""
        self._cosines = rows.pairs(self._ids)

    def of(self, id: int, topn: int) -> tuple[list[int], list[float]]:
        """Ids of the ``topn`` nearest words, nearest first, and their cosines; perhaps fewer."""
        ids: list[int] = self._ids[id, :topn].tolist()
        cosines: list[float] = self._cosines[id, :topn].tolist()
        # only what follows the last neighbour can be the word itself
        count = len(ids) if ids[-1] != id else ids.index(id)
        return ids[:count], cosines[:count]


def id_type(vocab: int) -> np.dtype[np.unsignedinteger]:
    """The type of an id in the table of a vocabulary."""
    return np.dtype("<u2") if vocab <= 1 << 16 else np.dtype("<u4")


def encode_neighbours(ids: Ids, vocab: int) -> bytes:
    """The bytes of the file for ids ``[rows, width]``."""
    rows, width = ids.shape
    return _HEADER.pack(_MAGIC, _VERSION, vocab, rows, width) + ids.astype(id_type(vocab)).tobytes()
