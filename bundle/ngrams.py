"""Character n-grams of a word as rows of a table, as fastText has them (Bojanowski et al. 2017, section 3.2).

The word stands between < and >, so that a prefix is not taken for a suffix. An n-gram's row is the 32-bit
FNV-1a hash of its UTF-8 bytes modulo the number of rows; fastText reads the bytes as signed, which matters
beyond ASCII.
"""

from bundle.manifest import Subwords

_OFFSET = 2166136261
_PRIME = 16777619
_MASK = 0xFFFFFFFF


def ngrams(word: str, shortest: int, longest: int) -> list[str]:
    """All n-grams of ``<word>`` of ``shortest`` to ``longest`` characters, but < and > alone.

    One that occurs twice is there twice.
    """
    marked = f"<{word}>"
    end = len(marked)
    return [
        marked[start : start + size]
        for start in range(end)
        for size in range(shortest, min(longest, end - start) + 1)
        if size > 1 or 0 < start < end - 1
    ]


def fnv1a(data: bytes) -> int:
    """32-bit FNV-1a (Fowler, Noll, Vo) with every byte sign-extended before it is mixed in."""
    hashed = _OFFSET
    for byte in data:
        signed = byte if byte < 0x80 else byte | 0xFFFFFF00
        hashed = ((hashed ^ signed) * _PRIME) & _MASK
    return hashed


def ngram_rows(word: str, subwords: Subwords) -> list[int]:
    """Rows of the n-gram table that a word is the sum of; none for a word too short to have n-grams."""
    found = ngrams(word, subwords.min_n, subwords.max_n)
    return [fnv1a(ngram.encode()) % subwords.bucket for ngram in found]
