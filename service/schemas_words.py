"""What the routes about words and their vectors read and answer, and those of word2vec-api."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from service.schemas import Lang, ModelName, Name, RestrictVocab, Topn, Word, Words

SomeWords = Annotated[list[Word], Meta(min_length=1, max_length=32)]
OneOrMore = Word | SomeWords
Seen = bool | UnsetType


class VocabularyQuery(Struct, forbid_unknown_fields=True):
    """Words that begin with `prefix`, by the alphabet. `after` is the `next` of the page before."""

    prefix: Annotated[str, Meta(max_length=200)] = ""
    limit: Annotated[int, Meta(ge=1, le=1000, description="words of a page")] = 50
    after: Annotated[str, Meta(max_length=200)] = ""
    lang: Lang | None = None
    model: Name | None = None


class VocabularyAnswer(Struct):
    """`total` counts all words with the prefix; `next` is null after the last page."""

    words: list[str]
    total: int
    next: str | None
    model: ModelName


class WordQuery(Struct, forbid_unknown_fields=True):
    """One word."""

    word: Word
    lang: Lang | None = None
    model: Name | None = None


class VectorAnswer(Struct, kw_only=True):
    """A unit vector. `seen` is there, and false, where the word was composed from its n-grams."""

    word: str
    seen: Seen = UNSET
    vector: list[float]
    model: ModelName


class SimilarityRequest(Struct, forbid_unknown_fields=True):
    """Two words, or two lists of words, each of which stands for its mean."""

    a: OneOrMore
    b: OneOrMore
    lang: Lang | None = None
    model: Name | None = None


class SimilarityAnswer(Struct, kw_only=True):
    """The cosine, -1 to 1."""

    similarity: float
    seen: Seen = UNSET
    model: ModelName


class OddQuery(Struct, forbid_unknown_fields=True):
    """Words of which one does not belong; `word` may be repeated."""

    word: SomeWords | Word
    lang: Lang | None = None
    model: Name | None = None


class Scored(Struct):
    """A word and its cosine with the mean of all."""

    word: str
    score: float


class OddAnswer(Struct, kw_only=True):
    """`odd` is the word farthest from the mean; `words` are all of them, the nearest first."""

    odd: str
    words: list[Scored]
    seen: Seen = UNSET
    model: ModelName


class RankQuery(Struct, forbid_unknown_fields=True):
    """How near is `other` to `word`, among all words?"""

    word: Word
    other: Word
    lang: Lang | None = None
    model: Name | None = None


class Ranked(Struct):
    """A place, 1 for the nearest word, and the cosine, as the cache holds them."""

    rank: int
    score: float


class RankAnswer(Struct, kw_only=True):
    """`rank` is 1 for the nearest word."""

    word: str
    other: str
    rank: int
    score: float
    seen: Seen = UNSET
    model: ModelName


class OldSimilarityQuery(Struct, forbid_unknown_fields=True):
    """word2vec-api's similarity of two words."""

    w1: Word
    w2: Word
    lang: Lang | None = None
    model: Name | None = None


class OldSetsQuery(Struct, forbid_unknown_fields=True):
    """word2vec-api's similarity of two sets of words; both may be repeated."""

    ws1: SomeWords | Word
    ws2: SomeWords | Word
    lang: Lang | None = None
    model: Name | None = None


class OldNearestQuery(Struct, forbid_unknown_fields=True):
    """word2vec-api's analogies, by multiplication; `positive` and `negative` may be repeated."""

    positive: Words | Word = msgspec.field(default_factory=list)
    negative: Words | Word = msgspec.field(default_factory=list)
    topn: Topn = 10
    restrict_vocab: RestrictVocab = 0
    lang: Lang | None = None
    model: Name | None = None


class BundleQuery(Struct, forbid_unknown_fields=True):
    """Which vectors."""

    lang: Lang | None = None
    model: Name | None = None


def words_of(given: str | list[str]) -> list[str]:
    """One or more words as a list."""
    return [given] if isinstance(given, str) else given
