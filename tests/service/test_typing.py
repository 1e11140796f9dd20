"""Suggestions over HTTP: known words, and what is said where there are none."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from bundle.lexicon import LEXICON
from bundle.manifest import read_manifest
from export import pack
from tests.bundle.conftest import write_manifest
from tests.service.making import Service, make_bundles, serve


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = make_bundles(tmp_path_factory.mktemp("typing") / "models")
    for name, words in (("text-en", "grand grandmother the"), ("text-fr", "gare l' hôtel hôte la")):
        (folder / name / LEXICON).write_text(words.replace(" ", "\n"), encoding="utf-8")
        manifest = msgspec.structs.replace(read_manifest(folder / name), files=pack.records(folder / name))
        write_manifest(folder / name, manifest)
    with serve(folder, folder.parent / "log") as service:
        yield service


def test_known_words_are_suggested(service: Service) -> None:
    answer = service.get("/complete", prompt="the gran", lang="en", level="word", n=5, max_tokens=1).json
    assert {one["word"] for one in answer["completions"]} == {"grand", "grandmother"}
    assert answer["model"]["name"] == "text-en"
    assert "known" not in answer
    answer = service.get("/complete", prompt="à l'h", lang="fr", level="word", n=5, max_tokens=1).json
    assert {one["word"] for one in answer["completions"]} == {"l'hôtel", "l'hôte"}


def test_letters_of_no_known_word_go_to_the_model_of_characters(service: Service) -> None:
    asked = {"prompt": "the abc", "lang": "en", "level": "word", "n": 3, "max_tokens": 1}
    for _ in range(2):  # computed, then cached
        answer = service.post("/complete", asked).json
        assert answer["known"] is False
        assert answer["model"]["name"] == "chars-en"
        assert all(one["word"].startswith("abc") for one in answer["completions"])
    alone = service.post("/complete", asked | {"model": "chars-en", "prompt": asked["prompt"]}).json
    assert alone["completions"] == answer["completions"]
    assert "known" not in alone


def test_a_stream_says_so_too(service: Service) -> None:
    events = service.get("/complete", prompt="the abc", lang="en", level="word", stream="true").events()
    assert events[-1][0] == "done"
    assert events[-1][1]["known"] is False
    assert events[-1][1]["model"]["name"] == "chars-en"


def test_without_a_model_of_characters_the_same_model_spells(service: Service) -> None:
    answer = service.get("/complete", prompt="la gqu", lang="fr", level="word", n=2, max_tokens=1).json
    assert answer["known"] is False
    assert answer["model"]["name"] == "text-fr"
    named = service.get("/complete", prompt="the abc", model="text-en", level="word", n=2, max_tokens=1).json
    assert named["known"] is False
    assert named["model"]["name"] == "text-en"


def test_a_prompt_too_long_is_too_long_for_whoever_answers(service: Service) -> None:
    answer = service.get("/complete", prompt="the " * 400 + "abc", lang="en", level="word")
    assert answer.status == 400
    assert answer.json["field"] == "prompt"


def test_the_answer_is_described(service: Service) -> None:
    schema = json.loads(service.get("/schema/openapi.json").body)
    assert "known" in schema["components"]["schemas"]["CompleteAnswer"]["properties"]


def test_the_words_decide_the_revision(service: Service, models: Path) -> None:
    found = {model["name"]: model["revision"] for model in service.get("/info").json["models"]}
    assert found["text-en"] != read_manifest(models / "text-en").revision
    assert found["chars-en"] == read_manifest(models / "chars-en").revision
