"""A word never seen is answered where its vectors can compose it, and the answer says so."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from bundle.load import open_bundle
from bundle.vectors import Vectors
from export.pipeline import export_run
from tests.bundle.conftest import _vectors
from tests.export.fasttext import train
from tests.service.making import Service, _words, serve


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """English vectors of whole words, French ones with subwords."""
    folder = tmp_path_factory.mktemp("models")
    _words(folder / "words-en", *_vectors(), "en")
    train(tmp_path_factory.mktemp("run") / "run")
    export_run(next(tmp_path_factory.getbasetemp().glob("run*/run")), folder / "words-fr", precision="int8")
    return folder


@pytest.fixture(scope="module")
def service(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with serve(folder, tmp_path_factory.mktemp("log") / "service.log") as service:
        yield service


@pytest.fixture(scope="module")
def french(folder: Path) -> Vectors:
    model = open_bundle(folder / "words-fr")
    assert isinstance(model, Vectors)
    return model


def test_the_answer_says_that_the_word_was_never_seen(service: Service, french: Vectors) -> None:
    answer = service.get("/similar", word="Rechanter", topn=3)
    assert answer.status == 200
    assert list(answer.json) == ["word", "seen", "neighbours", "model"]
    assert answer.json["seen"] is False
    assert answer.json["word"] == "Rechanter"
    assert answer.json["model"]["name"] == "words-fr"
    found = [(one["word"], one["score"]) for one in answer.json["neighbours"]]
    want = french.most_similar(["rechanter"], topn=3)
    assert [word for word, _ in found] == [word for word, _ in want]
    assert [score for _, score in found] == pytest.approx([score for _, score in want], abs=1e-5)
    again = service.get("/similar", word="rechanter", topn=3)
    assert again.cache == "hit"
    assert again.json["seen"] is False
    assert service.get("/similar", word="rechantir", topn=3).cache == "miss"


def test_a_word_that_was_seen_comes_first_and_says_nothing(service: Service) -> None:
    for word, model in (("king", "words-en"), ("chanter", "words-fr")):
        answer = service.get("/similar", word=word)
        assert "seen" not in answer.json
        assert answer.json["model"]["name"] == model
    # the language that has no subwords still does not know
    answer = service.get("/similar", word="kinng", lang="en")
    assert answer.status == 404
    assert "king" in answer.json["did_you_mean"]
    assert service.get("/similar", word="123").status == 404


def test_analogies_with_unseen_words(service: Service, french: Vectors) -> None:
    answer = service.post("/similar", {"positive": ["rechanter", "danser"], "negative": ["chanter"]})
    assert answer.json["seen"] is False
    want = [word for word, _ in french.most_similar(["rechanter", "danser"], ["chanter"])]
    assert [one["word"] for one in answer.json["neighbours"]] == want
    known = service.post("/similar", {"positive": ["danser"], "negative": ["chanter"]})
    assert "seen" not in known.json


def test_embeddings_of_unseen_words(service: Service, french: Vectors) -> None:
    asked = {"model": "words-fr", "input": ["chanter", "rechanter"], "encoding_format": "float"}
    rows = [each["embedding"] for each in service.post("/v1/embeddings", asked).json["data"]]
    np.testing.assert_allclose(rows, french.embed(["chanter", "rechanter"]), atol=1e-6)
    refused = service.post("/v1/embeddings", {"model": "words-fr", "input": ["?!"]})
    assert refused.status == 400
