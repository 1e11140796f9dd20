"""Character n-grams and their rows are gensim's, which are fastText's."""

from __future__ import annotations

import pytest
from gensim.models.fasttext import ft_ngram_hashes
from hypothesis import given
from hypothesis import strategies as st

from bundle.manifest import Subwords
from bundle.ngrams import fnv1a, ngram_rows, ngrams


def test_the_ngrams_of_the_paper() -> None:
    assert sorted(ngrams("where", 3, 3)) == sorted(["<wh", "whe", "her", "ere", "re>"])
    assert ngrams("é", 3, 6) == ["<é>"]
    assert ngrams("a", 1, 2) == ["<a", "a", "a>"]  # neither < nor > alone
    assert ngrams("a", 4, 6) == []


@pytest.mark.parametrize(("data", "hashed"), [(b"", 0x811C9DC5), (b"a", 0xE40C292C), (b"foobar", 0xBF9CF968)])
def test_the_hash_is_that_of_its_authors(data: bytes, hashed: int) -> None:
    assert fnv1a(data) == hashed


@given(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
    st.integers(1, 4),
    st.integers(0, 4),
    st.integers(1, 3_000_000),
)
def test_rows_are_gensims(word: str, shortest: int, more: int, bucket: int) -> None:
    subwords = Subwords(min_n=shortest, max_n=shortest + more, bucket=bucket)
    assert ngram_rows(word, subwords) == list(ft_ngram_hashes(word, shortest, shortest + more, bucket))
