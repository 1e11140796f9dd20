"""What gensim's KeyedVectors answers, over REST; and the paths of word2vec-api for its clients."""

from __future__ import annotations

import asyncio
import base64
import pickle
from functools import partial

import msgspec
from litestar import get, post
from litestar.handlers import HTTPRouteHandler
from msgspec import UNSET

from bundle.relations import centrality, most_similar_by_product, rank, similarity
from bundle.vectors import Key, Vectors
from bundle.vocabulary import Vocabulary
from service.errors import Problem, invalid
from service.house import House
from service.parsing import AnyRequest, read_json, read_query
from service.responses import Json
from service.routes import described, encoder, name_of
from service.routes.similar import choose, kept
from service.schemas_words import (
    BundleQuery,
    OddAnswer,
    OddQuery,
    OldNearestQuery,
    OldSetsQuery,
    OldSimilarityQuery,
    RankAnswer,
    Ranked,
    RankQuery,
    Scored,
    Seen,
    SimilarityAnswer,
    SimilarityRequest,
    VectorAnswer,
    VocabularyAnswer,
    VocabularyQuery,
    WordQuery,
    words_of,
)
from service.trace import trace_of

_DIGITS = 6  # of a cosine: float32 has no more
_MOST_PICKLED = 1_000_000  # words
_encode_rank = encoder(lambda found: Ranked(found[0], round(found[1], _DIGITS)))
_encode_pairs = encoder(lambda found: [(word, round(score, _DIGITS)) for word, score in found])


async def chosen(
    house: House, request: AnyRequest, words: list[str], lang: str | None, model: str | None
) -> tuple[Vectors, list[Key], Seen]:
    """Whose words these are, what stands for them, and what `seen` says.

    Raises:
        Problem, UnknownWord: no vocabulary has them all; with spellings that are near.
    """
    vectors, keys = await choose(house.registry.vectors_for(lang, model), words)
    trace_of(request.scope).revision = vectors.manifest.revision
    return vectors, keys, False if any(isinstance(key, str) for key in keys) else UNSET


async def page(house: House, request: AnyRequest, asked: VocabularyQuery) -> VocabularyAnswer:
    """Some words of the first vocabulary that has any with the prefix."""
    candidates = house.registry.vectors_for(asked.lang, asked.model)
    for vectors in candidates:
        try:
            prefix = vectors.tokenizer.normalize(asked.prefix).replace(" ", "_")
        except UnicodeEncodeError:
            raise invalid("prefix", "has half of a surrogate pair, which is no character") from None
        # a large vocabulary takes its time to be sorted, once
        vocabulary = await asyncio.to_thread(_sorted, vectors)
        total = vocabulary.count(prefix)
        if total or vectors is candidates[-1]:
            break
    trace_of(request.scope).revision = vectors.manifest.revision
    found = vocabulary.page(prefix, asked.limit + 1, after=asked.after)
    more = len(found) > asked.limit
    found = found[: asked.limit]
    return VocabularyAnswer(found, total, found[-1] if more else None, name_of(vectors.manifest))


def _sorted(vectors: Vectors) -> Vocabulary:
    return vectors.vocabulary


async def compared(house: House, request: AnyRequest, asked: SimilarityRequest) -> SimilarityAnswer:
    """The cosine of two words or of two lists of words."""
    one, other = words_of(asked.a), words_of(asked.b)
    vectors, _, seen = await chosen(house, request, one + other, asked.lang, asked.model)
    found = round(similarity(vectors, one, other), _DIGITS)
    return SimilarityAnswer(similarity=found, seen=seen, model=name_of(vectors.manifest))


async def oddity(house: House, request: AnyRequest, asked: OddQuery) -> OddAnswer:
    """The word that belongs least with the others."""
    words = words_of(asked.word)
    vectors, _, seen = await chosen(house, request, words, asked.lang, asked.model)
    found = [Scored(word, round(score, _DIGITS)) for word, score in centrality(vectors, words)]
    return OddAnswer(odd=found[-1].word, words=found, seen=seen, model=name_of(vectors.manifest))


async def placed(house: House, request: AnyRequest, asked: RankQuery) -> RankAnswer:
    """How many words are nearer."""
    pair = [asked.word, asked.other]
    vectors, keys, seen = await chosen(house, request, pair, asked.lang, asked.model)
    raw = await kept(
        house, request, vectors, ["rank", *keys], Ranked, partial(rank, vectors, *pair), _encode_rank
    )
    found = msgspec.json.decode(raw, type=Ranked)
    return RankAnswer(
        word=asked.word,
        other=asked.other,
        rank=found.rank,
        score=found.score,
        seen=seen,
        model=name_of(vectors.manifest),
    )


def routes(house: House) -> list[HTTPRouteHandler]:
    """GET /words, /words/{vector,rank}, GET and POST /words/{similarity,odd}, and word2vec-api's."""

    @get(
        "/words", opt=described("similar", "Words by prefix", query=VocabularyQuery, answer=VocabularyAnswer)
    )
    async def vocabulary(request: AnyRequest) -> Json:
        return Json(await page(house, request, read_query(request, VocabularyQuery)))

    @get("/words/vector", opt=described("similar", "A word's vector", query=WordQuery, answer=VectorAnswer))
    async def vector(request: AnyRequest) -> Json:
        asked = read_query(request, WordQuery)
        vectors, _, seen = await chosen(house, request, [asked.word], asked.lang, asked.model)
        [row] = vectors.embed([asked.word]).tolist()
        return Json(VectorAnswer(word=asked.word, seen=seen, vector=row, model=name_of(vectors.manifest)))

    @get(
        "/words/similarity",
        opt=described(
            "similar", "Similarity of two words or lists", query=SimilarityRequest, answer=SimilarityAnswer
        ),
    )
    async def cosine(request: AnyRequest) -> Json:
        return Json(await compared(house, request, read_query(request, SimilarityRequest)))

    @post(
        "/words/similarity",
        status_code=200,
        opt=described(
            "similar", "Similarity of two words or lists", body=SimilarityRequest, answer=SimilarityAnswer
        ),
    )
    async def cosine_of_body(request: AnyRequest) -> Json:
        return Json(await compared(house, request, await read_json(request, SimilarityRequest)))

    @get("/words/odd", opt=described("similar", "The odd one out", query=OddQuery, answer=OddAnswer))
    async def odd(request: AnyRequest) -> Json:
        return Json(await oddity(house, request, read_query(request, OddQuery)))

    @post(
        "/words/odd",
        status_code=200,
        opt=described("similar", "The odd one out", body=OddQuery, answer=OddAnswer),
    )
    async def odd_of_body(request: AnyRequest) -> Json:
        return Json(await oddity(house, request, await read_json(request, OddQuery)))

    @get("/words/rank", opt=described("similar", "How near a word is", query=RankQuery, answer=RankAnswer))
    async def place(request: AnyRequest) -> Json:
        return Json(await placed(house, request, read_query(request, RankQuery)))

    return [vocabulary, vector, cosine, cosine_of_body, odd, odd_of_body, place, *_old_routes(house)]


def _old_routes(house: House) -> list[HTTPRouteHandler]:
    """word2vec-api's paths and bare answers; unknown words are an error here, not dropped in silence."""

    @get(
        "/word2vec/similarity",
        opt=described("similar", "word2vec-api", query=OldSimilarityQuery, answer=float),
    )
    async def old_similarity(request: AnyRequest) -> Json:
        asked = read_query(request, OldSimilarityQuery)
        both = SimilarityRequest(asked.w1, asked.w2, asked.lang, asked.model)
        return Json((await compared(house, request, both)).similarity)

    @get("/word2vec/n_similarity", opt=described("similar", "word2vec-api", query=OldSetsQuery, answer=float))
    async def old_n_similarity(request: AnyRequest) -> Json:
        asked = read_query(request, OldSetsQuery)
        both = SimilarityRequest(asked.ws1, asked.ws2, asked.lang, asked.model)
        return Json((await compared(house, request, both)).similarity)

    @get(
        "/word2vec/most_similar",
        opt=described(
            "similar",
            "word2vec-api: analogies by multiplication",
            query=OldNearestQuery,
            answer=list[tuple[str, float]],
        ),
    )
    async def old_most_similar(request: AnyRequest) -> Json:
        asked = read_query(request, OldNearestQuery)
        positive, negative = words_of(asked.positive), words_of(asked.negative)
        if not positive:
            raise invalid("positive", "at least one word is needed in positive", code="missing_field")
        vectors, keys, _ = await chosen(house, request, positive + negative, asked.lang, asked.model)
        split = len(positive)
        found = await kept(
            house,
            request,
            vectors,
            ["product", keys[:split], keys[split:], asked.topn, asked.restrict_vocab],
            list[tuple[str, float]],
            partial(
                most_similar_by_product, vectors, positive, negative, asked.topn, among=asked.restrict_vocab
            ),
            _encode_pairs,
        )
        return Json(msgspec.Raw(found))

    @get(
        "/word2vec/model",
        opt=described("similar", "word2vec-api: base64 of float32", query=WordQuery, answer=str),
    )
    async def old_model(request: AnyRequest) -> Json:
        asked = read_query(request, WordQuery)
        vectors, _, _ = await chosen(house, request, [asked.word], asked.lang, asked.model)
        row = vectors.embed([asked.word])[0].astype("<f4")
        return Json(base64.b64encode(row.tobytes()).decode())

    @get(
        "/word2vec/model_word_set",
        opt=described("similar", "word2vec-api: base64 of a pickled set", query=BundleQuery, answer=str),
    )
    async def old_model_word_set(request: AnyRequest) -> Json:
        asked = read_query(request, BundleQuery)
        vectors = house.registry.vectors_for(asked.lang, asked.model)[0]
        trace_of(request.scope).revision = vectors.manifest.revision
        if vectors.rows.size > _MOST_PICKLED:
            detail = f"{vectors.manifest.name} has too many words for one answer; GET /words has them by page"
            raise Problem(400, "too_many_words", detail, limit=_MOST_PICKLED)
        return Json(await asyncio.to_thread(_pickled, vectors))

    return [old_similarity, old_n_similarity, old_most_similar, old_model, old_model_word_set]


def _pickled(vectors: Vectors) -> str:
    """Protocol 2: what a client of word2vec-api, written for Python 2, reads too."""
    words = set(vectors.vocabulary.page("", vectors.rows.size))
    return base64.b64encode(pickle.dumps(words, protocol=2)).decode()
