"""Every route of a running service: what it answers, and in which shape."""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlencode

import numpy as np
import pytest

from bundle.language import CompletionOptions, Language
from bundle.load import open_bundle
from bundle.translator import TranslationOptions, Translator
from bundle.vectors import Vectors
from tests.service.making import Service, serve

FORM = "application/x-www-form-urlencoded"


@pytest.fixture(scope="module")
def service(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service of this file's own: its cache begins empty."""
    log = tmp_path_factory.mktemp("log") / "service.log"
    with serve(models, log, canary_seconds=1) as service:
        yield service


@pytest.fixture(scope="module")
def words(models: Path) -> Vectors:
    opened = open_bundle(models / "words-en")
    assert isinstance(opened, Vectors)
    return opened


@pytest.fixture(scope="module")
def text(models: Path) -> Language:
    opened = open_bundle(models / "text-en")
    assert isinstance(opened, Language)
    return opened


@pytest.fixture(scope="module")
def translator(models: Path) -> Translator:
    opened = open_bundle(models / "fr-en")
    assert isinstance(opened, Translator)
    return opened


def test_similar(service: Service, words: Vectors) -> None:
    answer = service.get("/similar", word="king", topn=3)
    assert answer.status == 200
    assert list(answer.json) == ["word", "neighbours", "model"]
    found = [(each["word"], each["score"]) for each in answer.json["neighbours"]]
    assert found == [(word, round(score, 6)) for word, score in words.most_similar(["king"], topn=3)]
    assert answer.json["model"] == {"name": "words-en", "revision": words.manifest.revision}


def test_every_answer_carries_its_papers(service: Service, words: Vectors) -> None:
    answer = service.get("/similar", word="queen")
    assert answer.headers["x-model-revision"] == words.manifest.revision
    assert answer.cache == "miss"
    assert answer.headers["server-timing"].startswith("total;dur=")
    assert answer.headers["content-type"] == "application/json"
    for path in ("/ping", "/nowhere", "/similar", "/health/live"):
        assert {"x-request-id", "x-cache", "x-model-revision", "server-timing"} <= set(
            service.get(path).headers
        )


def test_a_second_question_is_a_hit(service: Service) -> None:
    for ask in (
        lambda: service.get("/similar", word="apple"),
        lambda: service.get("/complete", prompt="the grand"),
        lambda: service.post("/translate", {"q": "abc de f", "source": "fr", "target": "en"}),
    ):
        first, second = ask(), ask()
        assert (first.cache, second.cache) == ("miss", "hit")
        assert first.body == second.body


def test_spelling_makes_no_difference_to_the_cache(service: Service) -> None:
    assert service.get("/similar", word="London").cache == "miss"
    assert service.get("/similar", word="london").cache == "hit"
    assert service.post("/similar", {"positive": ["LONDON"]}).cache == "hit"


def test_no_cache_is_computed_afresh(service: Service) -> None:
    service.get("/similar", word="pear")
    answer = service.ask("GET", "/similar?word=pear", headers={"Cache-Control": "no-cache"})
    assert answer.cache == "miss"


def test_the_first_language_that_knows_the_word(service: Service) -> None:
    assert service.get("/similar", word="rome").json["model"]["name"] == "words-en"
    assert service.get("/similar", word="rome", lang="fr").json["model"]["name"] == "words-fr"
    assert service.get("/similar", word="gare").json["model"]["name"] == "words-fr"
    assert service.get("/similar", word="rome", model="words-fr").json["model"]["name"] == "words-fr"


def test_a_phrase(service: Service) -> None:
    assert service.get("/similar", word="New York").status == 200


def test_analogies(service: Service) -> None:
    answer = service.post("/similar", {"positive": ["king", "woman"], "negative": ["man"], "topn": 5})
    assert list(answer.json) == ["positive", "negative", "neighbours", "model"]
    assert answer.json["neighbours"][0]["word"] == "queen"


def test_an_unknown_word_is_404_with_suggestions(service: Service) -> None:
    answer = service.get("/similar", word="kinng")
    assert answer.status == 404
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json["code"] == "unknown_word"
    assert answer.json["field"] == "word"
    assert "king" in answer.json["did_you_mean"]
    assert answer.json["request_id"] == answer.headers["x-request-id"]


def test_complete_by_word(service: Service, text: Language) -> None:
    answer = service.get("/complete", prompt="the gran", lang="en")
    [wanted] = text.complete("the gran", CompletionOptions("word"))
    [found] = answer.json["completions"]
    assert found["text"] == wanted.text
    assert found["word"] == wanted.word == "grand"
    assert found["logprob"] == pytest.approx(wanted.logprob, abs=1e-5)
    assert answer.json["model"]["name"] == "text-en"


def test_complete_several(service: Service, text: Language) -> None:
    found = service.post("/complete", {"prompt": "the gran", "lang": "en", "n": 3}).json["completions"]
    wanted = text.complete("the gran", CompletionOptions("word", n=3))
    assert [each["word"] for each in found] == [each.word for each in wanted]
    assert len({each["word"] for each in found}) == 3


def test_complete_by_character(service: Service) -> None:
    answer = service.get("/complete", prompt="abc", level="char", max_tokens=5)
    assert answer.json["model"]["name"] == "chars-en"
    [found] = answer.json["completions"]
    assert len(found["text"]) == 5
    assert found["finish_reason"] == "length"
    assert "word" not in found


def test_a_character_model_by_name_needs_no_level(service: Service) -> None:
    assert service.get("/complete", prompt="ab", model="chars-en", max_tokens=4).status == 200


@pytest.mark.parametrize(
    ("prompt", "name"),
    [
        ("the king of the house and the", "text-en"),
        ("je vais à la gare avec le roi", "text-fr"),
        ("", "text-en"),
        ("m", "text-en"),
    ],
)
def test_the_language_of_the_prompt_decides(service: Service, prompt: str, name: str) -> None:
    for _ in range(2):
        query = {"prompt": prompt, "max_tokens": 2}
        answer = service.ask("GET", "/complete", query=query, headers={"Cache-Control": "no-cache"})
        found = answer.json["model"]["name"]
        assert found == name


def test_chance_is_not_cached_and_a_seed_is(service: Service) -> None:
    query = {"prompt": "the", "temperature": 1.5, "model": "text-en"}
    assert [service.get("/complete", **query).cache for _ in range(2)] == ["bypass", "bypass"]
    seeded = [service.get("/complete", **query, seed=5) for _ in range(2)]
    assert [each.cache for each in seeded] == ["miss", "hit"]
    others = {service.get("/complete", **query, seed=seed).body for seed in range(10, 20)}
    assert len(others) > 1


def test_stop_strings_in_query_and_body(service: Service) -> None:
    whole = service.get("/complete", prompt="the grand", model="text-en").json["completions"][0]["text"]
    word = whole.split()[1]
    cut = service.get("/complete", prompt="the grand", model="text-en", stop=[word, "zzz"]).json
    assert cut["completions"][0]["text"] == whole[: whole.index(word)]
    assert cut["completions"][0]["finish_reason"] == "stop"
    body = {"prompt": "the grand", "model": "text-en", "stop": word}
    assert service.post("/complete", body).json["completions"][0]["text"] == whole[: whole.index(word)]


def test_translate_one(service: Service, translator: Translator) -> None:
    answer = service.post("/translate", {"q": "abc de", "source": "fr", "target": "en"})
    wanted = translator.translate("abc de")
    assert answer.json == {
        "translatedText": wanted.text,
        "model": {"name": "fr-en", "revision": translator.manifest.revision},
    }
    assert answer.headers["x-model-revision"] == translator.manifest.revision


def test_translate_many_as_one_by_one(service: Service, translator: Translator) -> None:
    texts = ["abc", "fed cba", "  ", "abc\n\ngf e", "abc"]
    body = {"q": texts, "source": "fr", "target": "en", "alternatives": 2, "scores": True}
    answer = service.post("/translate", body).json
    wanted = [translator.translate(text, TranslationOptions(alternatives=2)) for text in texts]
    assert answer["translatedText"] == [each.text for each in wanted]
    assert answer["alternatives"] == [each.alternatives for each in wanted]
    assert answer["scores"] == pytest.approx([each.score for each in wanted], abs=1e-5)
    assert answer["translatedText"][3].count("\n") == 2


def test_a_list_and_its_joined_text_are_different_questions(service: Service) -> None:
    def ask(q: object) -> object:
        return service.post("/translate", {"q": q, "source": "fr", "target": "en"}).json["translatedText"]

    assert isinstance(ask(["a", "b"]), list)
    assert isinstance(ask("a|b"), str)
    assert isinstance(ask(["a|b"]), list)


def test_translate_auto_detects_each_text(service: Service) -> None:
    texts = ["où est la gare du village ?", "where is the station of the village?"]
    answer = service.post("/translate", {"q": texts, "source": "auto", "target": "en"}).json
    assert [each["language"] for each in answer["detectedLanguage"]] == ["fr", "en"]
    assert all(0 <= each["confidence"] <= 100 for each in answer["detectedLanguage"])
    assert answer["translatedText"][1] == texts[1]
    single = service.post("/translate", {"q": texts[0], "source": "auto", "target": "en"}).json
    assert single["detectedLanguage"]["language"] == "fr"


def test_translating_into_itself_changes_nothing(service: Service) -> None:
    answer = service.post("/translate", {"q": "déjà vu", "source": "fr", "target": "fr"})
    assert answer.json == {"translatedText": "déjà vu"}


def test_translate_form_query_and_multipart(service: Service) -> None:
    fields = {"q": "abc de", "source": "fr", "target": "en", "format": "text", "api_key": ""}
    wanted = service.post("/translate", {"q": "abc de", "source": "fr", "target": "en"}).json
    form = service.post("/translate", urlencode(fields).encode(), **{"Content-Type": FORM})
    assert form.json == wanted
    assert service.ask("POST", "/translate", query=fields).json == wanted
    parts = "".join(
        f'--x\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
        for name, value in fields.items()
    )
    kind = {"Content-Type": "multipart/form-data; boundary=x"}
    assert service.post("/translate", (parts + "--x--\r\n").encode(), **kind).json == wanted


def test_forms_have_plain_line_ends(service: Service) -> None:
    body = urlencode({"q": "a\r\nb", "source": "fr", "target": "fr"}).encode()
    answer = service.post("/translate", body, **{"Content-Type": FORM})
    assert answer.json["translatedText"] == "a\nb"


def test_translate_by_model(service: Service) -> None:
    body = {"q": "abc", "source": "en", "target": "fr", "model": "en-fr", "beam": 1}
    assert service.post("/translate", body).json["model"]["name"] == "en-fr"
    answer = service.post("/translate", body | {"model": "fr-en"})
    assert (answer.status, answer.json["field"]) == (400, "model")


def test_errors_of_translate_are_libretranslate_s_too(service: Service) -> None:
    answer = service.post("/translate", {"q": "a", "source": "zz", "target": "en"})
    assert answer.status == 400
    assert answer.json["error"].startswith("zz is not supported")
    assert answer.json["field"] == "source"
    answer = service.post("/translate", {"q": "a", "source": "fr", "target": "en", "format": "rtf"})
    assert answer.status == 400
    assert "rtf format is not supported" in answer.json["error"]
    assert service.get("/translate").json["error"]


def test_detect(service: Service) -> None:
    found = service.post("/detect", {"q": "bonjour tout le monde, comment allez-vous ?"}).json
    assert found[0]["language"] == "fr"
    assert found[0]["confidence"] > 50
    assert service.post("/detect", {"q": "12 34"}).json == [{"confidence": 0.0, "language": "en"}]


def test_languages_even_with_a_body(service: Service) -> None:
    wanted = [
        {"code": "en", "name": "English", "targets": ["en", "fr"]},
        {"code": "fr", "name": "French", "targets": ["en", "fr"]},
    ]
    assert service.get("/languages").json == wanted
    assert service.ask("GET", "/languages", b"{}").json == wanted


def test_embeddings(service: Service, words: Vectors) -> None:
    answer = service.post("/v1/embeddings", {"input": ["king", "New York"], "model": "words-en"}).json
    assert answer["object"] == "list"
    assert answer["model"] == "words-en"
    assert answer["usage"] == {"prompt_tokens": 2, "total_tokens": 2}
    assert [each["index"] for each in answer["data"]] == [0, 1]
    found = np.array([each["embedding"] for each in answer["data"]], np.float32)
    np.testing.assert_array_equal(found, words.embed(["king", "new_york"]))
    body = {"input": "king", "model": "words-en", "encoding_format": "base64", "extra": 1}
    encoded = service.post("/v1/embeddings", body).json["data"][0]["embedding"]
    raw = base64.b64decode(encoded)
    np.testing.assert_array_equal(struct.unpack(f"<{len(raw) // 4}f", raw), found[0])


def test_errors_of_openai_s_routes_are_openai_s(service: Service) -> None:
    def error(body: object) -> tuple[int, dict[str, object]]:
        answer = service.post("/v1/embeddings", body)
        return answer.status, answer.json["error"]

    status, found = error({"input": ["king", "kinng"], "model": "words-en"})
    assert status == 400
    assert found["param"] == "input[1]"
    assert found["code"] == "unknown_word"
    assert found["type"] == "invalid_request_error"
    assert "kinng" in str(found["message"])
    assert error({"input": "king", "model": "none"})[0] == 404
    assert error({"input": "king", "model": "fr-en"})[0] == 400
    assert error({"input": "king", "model": "words-en", "dimensions": 17})[1]["param"] == "dimensions"
    assert service.get("/v1/nothing").json["error"]["code"] == "not_found"


def test_models(service: Service) -> None:
    listed = service.get("/v1/models").json["data"]
    assert {"chars-en", "text-en", "words-fr", "fr-en"} <= {each["id"] for each in listed}
    one = service.get("/v1/models/fr-en").json
    assert one == next(each for each in listed if each["id"] == "fr-en") | {"scores": []}
    assert service.get("/v1/models/zz").status == 404


def test_info(service: Service, translator: Translator) -> None:
    info = service.get("/info").json
    assert info["device"] == {"asked": "auto", "providers": ["CPUExecutionProvider"]}
    [found] = [each for each in info["models"] if each["name"] == "fr-en"]
    assert found["revision"] == translator.manifest.revision
    assert found["provider"] == "CPUExecutionProvider"
    assert "models" not in info["settings"]
    assert str(Path.cwd()) not in json.dumps(info)


def test_health(service: Service) -> None:
    assert service.get("/health").json == {"status": "ok"}
    assert service.get("/health/ready").json == {"status": "ready", "reasons": []}
    assert service.get("/health/live").json == {"status": "live"}
    assert service.get("/health/startup").json == {"status": "started"}
    assert service.get("/v2/health/ready").json == {"ready": True}
    assert service.get("/v2/health/live").json == {"live": True}


def test_request_ids(service: Service) -> None:
    asked = service.ask("GET", "/ping", headers={"X-Request-Id": "abc-1"})
    assert asked.headers["x-request-id"] == "abc-1"
    for strange in ("a" * 65, "with space", 'quote"d'):
        made = service.ask("GET", "/ping", headers={"X-Request-Id": strange}).headers["x-request-id"]
        assert made != strange
    assert service.get("/ping").headers["x-request-id"] != service.get("/ping").headers["x-request-id"]


def test_the_log_has_ids_and_no_text(service: Service) -> None:
    secret = "thequeensdiary"
    answer = service.get("/complete", prompt=f"the {secret}", lang="en")
    service.get("/similar", word=secret)
    service.post("/translate", {"q": secret, "source": "fr", "target": "en", "api_key": secret})
    service.post("/translate", {secret: secret})
    service.get(f"/{secret}")
    lines = service.lines()
    assert secret not in service.log.read_text()
    [line] = [line for line in lines if line.get("request_id") == answer.headers["x-request-id"]]
    assert line["status"] == 200
    assert line["task"] == "complete"
    assert not [line for line in lines if line["level"] == "error"]
