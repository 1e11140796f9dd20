"""Word vectors over REST answer as gensim does, and a table of neighbours changes no answer."""

from __future__ import annotations

import base64
import json
import pickle
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest
from gensim.models import KeyedVectors
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bundle.relations import most_similar_by_product
from bundle.vectors import Vectors
from tests.bundle.wordy import draw, gensim_of, make_words, opened, spell
from tests.service.making import Answered, Service, serve

ENGLISH, FRENCH = spell(300), [f"é{word}" for word in spell(200)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """English vectors with a table of neighbours, French ones without, in a folder of their own."""
    models = tmp_path_factory.mktemp("models")
    make_words(models / "words-en", ENGLISH, draw(300, 20))
    make_words(models / "words-fr", FRENCH, draw(200, 20, seed=2), width=0, language="fr")
    return models


@pytest.fixture(scope="module")
def service(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with serve(folder, tmp_path_factory.mktemp("log") / "service.log") as service:
        yield service


@pytest.fixture(scope="module")
def english(folder: Path) -> Vectors:
    return opened(folder / "words-en")


@pytest.fixture(scope="module")
def keyed(english: Vectors) -> KeyedVectors:
    return gensim_of(english)


def _found(answer: Answered) -> list[tuple[str, float]]:
    return [(each["word"], each["score"]) for each in answer.json["neighbours"]]


def _rounded(found: list[tuple[str, float]]) -> list[tuple[str, float]]:
    return [(word, round(score, 6)) for word, score in found]


def test_every_word_is_looked_up_as_it_is_scanned(service: Service, english: Vectors) -> None:
    scanned = Vectors(english.manifest, english.tokenizer, english.rows)
    for word in ENGLISH:
        answer = service.get("/similar", word=word)
        assert _found(answer) == _rounded(scanned.most_similar([word]))
        assert answer.headers["x-model-revision"] == english.manifest.revision


def test_what_was_asked_before_is_a_hit(service: Service, english: Vectors) -> None:
    for path, first in (
        ("/similar", {"word": "AX0", "topn": 7}),
        ("/similar", {"word": FRENCH[3], "topn": 3}),
    ):
        answers = [service.get(path, **first) for _ in range(3)]
        assert [answer.cache for answer in answers] == ["miss", "hit", "hit"]
        assert len({answer.body for answer in answers}) == 1
        assert len({answer.headers["x-model-revision"] for answer in answers}) == 1
    asked = f"/similar?word={ENGLISH[8]}&topn=9"
    hits = service.metric("voisin_cache_requests_total", tier="memory", result="hit")
    service.ask("GET", asked)
    fresh = service.ask("GET", asked, headers={"Cache-Control": "no-cache"})
    assert fresh.cache == "miss"
    assert service.ask("GET", asked).body == fresh.body
    assert service.metric("voisin_cache_requests_total", tier="memory", result="hit") == hits + 1
    # a look-up by POST is cheaper than remembering it
    assert service.post("/similar", {"positive": [ENGLISH[8]], "topn": 9}).cache == "bypass"
    assert service.post("/similar", {"positive": [ENGLISH[8]], "topn": 11}).cache == "miss"
    assert service.post("/similar", {"positive": [ENGLISH[8]], "topn": 11}).cache == "hit"


def test_what_is_remembered_is_what_was_asked(service: Service) -> None:
    """Queries that begin alike, or say the same otherwise, are told apart."""
    several = {}
    for query in ("word=by1", "word=by1&topn=3", "topn=3&word=by1", "word=by1&topn=3&lang=en", "word=%62y1"):
        for _ in range(2):
            several[query] = service.ask("GET", f"/similar?{query}").json
    assert len(several["word=by1"]["neighbours"]) == 10
    assert several["word=%62y1"] == several["word=by1"]
    short = [several[query] for query in several if "topn" in query]
    assert all(each == short[0] for each in short)
    assert service.ask("GET", "/similar?word=by1&topn=0").status == 400
    assert service.ask("GET", "/similar?word=by1&topn=0").status == 400


def test_restricted_vocabulary(service: Service, keyed: KeyedVectors) -> None:
    for restrict in (1, 20, 300, 5000):
        want = keyed.most_similar(["ax0"], topn=5, restrict_vocab=restrict)
        got = _found(service.get("/similar", word="ax0", topn=5, restrict_vocab=restrict))
        assert [score for _, score in got] == pytest.approx([score for _, score in want], abs=2e-6)
        assert {word for word, _ in got} <= set(ENGLISH[:restrict])


def test_analogies_by_addition_and_by_multiplication(service: Service, english: Vectors) -> None:
    asked = {"positive": [ENGLISH[1], ENGLISH[9]], "negative": [ENGLISH[5]], "topn": 6}
    added = _rounded(english.most_similar([ENGLISH[1], ENGLISH[9]], [ENGLISH[5]], 6))
    multiplied = _rounded(most_similar_by_product(english, [ENGLISH[1], ENGLISH[9]], [ENGLISH[5]], 6))
    assert _found(service.post("/similar", asked)) == added
    assert _found(service.post("/similar", asked | {"method": "add"})) == added
    assert _found(service.post("/similar", asked | {"method": "multiply"})) == multiplied
    assert added != multiplied
    again = service.post("/similar", asked | {"method": "multiply"})
    assert (again.cache, _found(again)) == ("hit", multiplied)
    few = service.post("/similar", asked | {"method": "multiply", "restrict_vocab": 50})
    assert {word for word, _ in _found(few)} <= set(ENGLISH[:50])


some = st.lists(st.sampled_from(ENGLISH), min_size=1, max_size=5)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(some, some)
def test_similarity(service: Service, keyed: KeyedVectors, one: list[str], other: list[str]) -> None:
    for a, b in ((one, other), (one[0], other[0])):
        want = keyed.n_similarity([a], [b]) if isinstance(a, str) else keyed.n_similarity(a, b)
        got = service.get("/words/similarity", a=a, b=b).json
        assert got["similarity"] == pytest.approx(want, abs=2e-6)
        assert service.post("/words/similarity", {"a": a, "b": b}).json == got
        old = ("similarity", "w1", "w2") if isinstance(a, str) else ("n_similarity", "ws1", "ws2")
        assert service.get(f"/word2vec/{old[0]}", **{old[1]: a, old[2]: b}).json == got["similarity"]


def test_the_odd_one_out(service: Service, keyed: KeyedVectors) -> None:
    for start in range(0, 40, 5):
        some = ENGLISH[start : start + 4]
        answer = service.get("/words/odd", word=some).json
        want = keyed.rank_by_centrality(some)
        scores = [each["score"] for each in answer["words"]]
        assert scores == pytest.approx([score for score, _ in want], abs=2e-6)
        assert answer["odd"] == answer["words"][-1]["word"]
        assert answer["odd"] == keyed.doesnt_match(some) or scores[-2] - scores[-1] < 1e-5
        assert service.post("/words/odd", {"word": some}).json == answer


def test_rank(service: Service, keyed: KeyedVectors, english: Vectors) -> None:
    near = english.most_similar(["by1"], topn=299)
    for place in (1, 5, 150):
        word, score = near[place - 1]
        answer = service.get("/words/rank", word="by1", other=word)
        # words of equal cosine share the better place
        assert answer.json["rank"] == 1 + sum(other > score for _, other in near)
        assert abs(answer.json["rank"] - keyed.rank("by1", word)) <= sum(
            abs(other - score) < 1e-5 for _, other in near
        )
        assert answer.json["score"] == round(score, 6)
        assert service.get("/words/rank", word="by1", other=word).cache == "hit"


def test_vectors(service: Service, english: Vectors) -> None:
    want = english.embed(["cz2"])[0]
    answer = service.get("/words/vector", word="CZ2").json
    np.testing.assert_array_equal(np.array(answer["vector"], np.float32), want)
    assert answer["model"] == {"name": "words-en", "revision": english.manifest.revision}
    old = base64.b64decode(service.get("/word2vec/model", word="cz2").json)
    np.testing.assert_array_equal(np.frombuffer(old, "<f4"), want)


def test_vocabulary_by_prefix(service: Service) -> None:
    for prefix, words, lang in (
        ("a", ENGLISH, "en"),
        ("", ENGLISH, "en"),
        ("éb", FRENCH, "fr"),
        ("zz", [], "fr"),
    ):
        want = sorted(word for word in words if word.startswith(prefix))
        found: list[str] = []
        query: dict[str, object] = {"prefix": prefix, "limit": 7, **({} if prefix else {"lang": lang})}
        while True:
            page = service.get("/words", **query, after=found[-1] if found else "").json
            found += page["words"]
            assert page["total"] == len(want)
            if page["next"] is None:
                break
            assert page["next"] == found[-1]
        assert found == want
        assert page["model"]["name"] == f"words-{lang}"
    assert service.get("/words", prefix="AX").json["words"][0] == "ax0"
    assert len(service.get("/words").json["words"]) == 50


def test_the_old_paths(service: Service, english: Vectors) -> None:
    want = most_similar_by_product(english, ["ax0", "by1"], ["cz2"], 4)
    answer = service.get("/word2vec/most_similar", positive=["ax0", "by1"], negative="cz2", topn=4)
    assert answer.json == [[word, round(score, 6)] for word, score in want]
    assert len(service.get("/word2vec/most_similar", positive="ax0").json) == 10
    raw = service.get("/word2vec/model_word_set", lang="en").json
    assert pickle.loads(base64.b64decode(raw)) == set(ENGLISH)


UNKNOWN = [
    ("/similar", {"word": "ax00"}),
    ("/words/similarity", {"a": "ax00", "b": "by1"}),
    ("/words/similarity", {"a": ["by1", "ax00"], "b": "by1"}),
    ("/words/odd", {"word": ["ax0", "ax00", "by1"]}),
    ("/words/rank", {"word": "ax00", "other": "ax0"}),
    ("/words/rank", {"word": "ax0", "other": "ax00"}),
    ("/words/vector", {"word": "ax00"}),
    ("/word2vec/similarity", {"w1": "ax0", "w2": "ax00"}),
    ("/word2vec/n_similarity", {"ws1": "ax0", "ws2": ["by1", "ax00"]}),
    ("/word2vec/most_similar", {"positive": "ax00"}),
    ("/word2vec/most_similar", {"positive": "ax0", "negative": "ax00"}),
    ("/word2vec/model", {"word": "ax00"}),
]


@pytest.mark.parametrize(("path", "query"), UNKNOWN)
def test_unknown_words_are_named_with_their_like(
    service: Service, path: str, query: dict[str, object]
) -> None:
    answer = service.get(path, **query)
    assert answer.status == 404
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json["code"] == "unknown_word"
    assert "'ax00'" in answer.json["detail"]
    assert "ax0" in answer.json["did_you_mean"]


BAD = [
    ("/similar", "word=ax0&restrict_vocab=-1", "restrict_vocab"),
    ("/words", "limit=0", "limit"),
    ("/words", "limit=1001", "limit"),
    ("/words", "prefix=" + "x" * 201, "prefix"),
    ("/words", "nonsense=1", "nonsense"),
    ("/words/vector", "", "word"),
    ("/words/vector", "word=", "word"),
    ("/words/vector", "word=%20", "word"),
    ("/words/similarity", "a=ax0", "b"),
    ("/words/similarity", "a=ax0&b=", "b"),
    ("/words/similarity", "b=ax0&" + "&".join(["a=ax0"] * 33), "a"),
    ("/words/odd", "", "word"),
    ("/words/odd", "word=ax0&word=", "word[1]"),
    ("/words/rank", "word=ax0", "other"),
    ("/words/rank", "word=ax0&other=ax0&other=by1", "other"),
    ("/word2vec/similarity", "w1=ax0", "w2"),
    ("/word2vec/n_similarity", "ws1=ax0", "ws2"),
    ("/word2vec/most_similar", "", "positive"),
    ("/word2vec/most_similar", "negative=ax0", "positive"),
    ("/word2vec/most_similar", "positive=ax0&topn=1001", "topn"),
    ("/word2vec/model", "", "word"),
    ("/word2vec/model_word_set", "lang=zz", "lang"),
]


@pytest.mark.parametrize(("path", "query", "field"), BAD)
def test_what_is_wrong_is_named(service: Service, path: str, query: str, field: str) -> None:
    answer = service.ask("GET", f"{path}?{query}")
    assert answer.status == 400
    assert answer.json["field"].split("[")[0] == field.split("[")[0]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/words/similarity", {"a": ["\ud83d"], "b": "ax0"}),
        ("/words/similarity", {"a": [], "b": "ax0"}),
        ("/words/odd", {"word": [1]}),
        ("/similar", {"positive": [], "negative": ["ax0"], "method": "multiply"}),
        ("/similar", {"positive": ["ax0"], "method": "divide"}),
    ],
)
def test_bodies_that_make_no_sense(service: Service, path: str, body: object) -> None:
    assert service.ask("POST", path, json.dumps(body).encode()).status == 400


ROUTES = [
    "/similar", "/words", "/words/vector", "/words/similarity", "/words/odd", "/words/rank",
    "/word2vec/similarity", "/word2vec/n_similarity", "/word2vec/most_similar", "/word2vec/model",
]  # fmt: skip
NAMES = [
    "a",
    "b",
    "after",
    "lang",
    "limit",
    "model",
    "negative",
    "other",
    "positive",
    "prefix",
    "restrict_vocab",
    "topn",
    "w1",
    "w2",
    "word",
    "ws1",
    "ws2",
]
VALUES = st.sampled_from(["ax0", "by1", "ax00", "en", "fr", "words-fr", "1", "0", "-1", " ", "_", "<pad>"])


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from(ROUTES),
    st.lists(st.tuples(st.sampled_from(NAMES), VALUES | st.text(max_size=20)), max_size=6),
)
def test_any_query_is_answered(service: Service, path: str, query: list[tuple[str, str]]) -> None:
    pairs = "&".join(f"{name}={quote(value, errors='surrogatepass')}" for name, value in query)
    answer = service.ask("GET", f"{path}?{pairs}")
    assert answer.status in (200, 400, 404)
    assert answer.headers["content-type"].startswith("application/")
