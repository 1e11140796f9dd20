"""What is encoded beforehand is what would be encoded when asked."""

from __future__ import annotations

import asyncio
import json

import msgspec
import pytest

from bundle.vectors import Vectors
from service import prepared
from service.prepared import Prepared, encode_neighbours
from service.schemas import ModelName, SimilarAnswer
from tests.bundle.wordy import draw, make_words, opened, spell


@pytest.fixture(scope="module")
def vectors(tmp_path_factory: pytest.TempPathFactory) -> Vectors:
    return opened(make_words(tmp_path_factory.mktemp("words") / "words-en", spell(300), draw(300, 12)))


def fill(prepared: Prepared) -> None:
    asyncio.run(prepared.fill())


def test_prepared_is_computed(vectors: Vectors, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepared, "_PAUSE", 0.0)
    ready, idle = Prepared(vectors), Prepared(vectors)
    fill(ready)
    assert vectors.neighbours is not None
    assert len(ready) == vectors.neighbours.rows > 100
    assert len(idle) == 0
    for word in spell(300)[::7]:
        id = vectors.lookup(word)
        for topn in (10, 3):
            expected = encode_neighbours(vectors.most_similar([word], topn=topn)) if id < len(ready) else None
            assert ready.of(id, topn) == idle.of(id, topn) == expected
            for asked in (word, word.upper(), f'"{word}"\n'):
                whole = None if expected is None else msgspec.json.encode(
                    SimilarAnswer(
                        word=asked,
                        neighbours=msgspec.Raw(expected),
                        model=ModelName(vectors.manifest.name, vectors.manifest.revision),
                    )
                )  # fmt: skip
                assert ready.answer(asked, id, topn) == whole
        assert ready.of(id, 11) is None


def test_memory_is_bounded(vectors: Vectors, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepared, "_PAUSE", 0.0)
    few = Prepared(vectors, most_bytes=20_000)
    fill(few)
    assert 0 < len(few) < 100
    last = len(few)
    assert few.of(last, 10) == Prepared(vectors).of(last, 10)


def test_scores_have_six_digits() -> None:
    found = json.loads(encode_neighbours([("a", 0.12345678), ("b", -0.0000001), ("c", 1.0)]))
    assert found == [
        {"word": "a", "score": 0.123457},
        {"word": "b", "score": 0.0},
        {"word": "c", "score": 1.0},
    ]
