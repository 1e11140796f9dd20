"""LibreTranslate's wire format, beyond one text: HTML, terms, alignments, lists, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from bundle.load import open_bundle
from bundle.translator import TranslationOptions, Translator
from tests.service.making import Service

FORM = "application/x-www-form-urlencoded"
BODY = {"source": "fr", "target": "en"}


@pytest.fixture(scope="module")
def translator(models: Path) -> Translator:
    found = open_bundle(models / "fr-en")
    assert isinstance(found, Translator)
    return found


def ask(service: Service, q: object, **more: object) -> Any:
    answer = service.post("/translate", BODY | {"q": q} | more)
    assert answer.status == 200, answer.body
    return answer.json


def test_html_keeps_its_markup(service: Service, translator: Translator) -> None:
    text = "<p class='x'>abc <b>de</b>&nbsp;&lt;script&gt; <!-- c --> g</p><script>if (a<b) x</script>"
    found = ask(service, text, format="html")["translatedText"]
    assert found == translator.translate(text, TranslationOptions(format="html")).text
    for piece in (
        "<p class='x'>",
        "<b>",
        "</b>",
        "&nbsp;",
        "&lt;script&gt;",
        "<!-- c -->",
        "</p><script>if (a<b) x",
    ):
        assert found.count(piece) == 1
    assert ask(service, text)["translatedText"] != found  # format is part of the question


def test_html_has_alternatives_and_scores(service: Service) -> None:
    found = ask(service, ["<b>abc</b> de", "12"], format="html", alternatives=2, scores=True)
    [several, none] = found["alternatives"]
    assert len({found["translatedText"][0], *several}) == 1 + len(several) == 3
    assert none == []
    assert all(other.count("<b>") == other.count("</b>") == 1 for other in several)
    assert found["scores"][0] < 0 == found["scores"][1]


def test_placeholders_come_back_once(service: Service) -> None:
    text = "abc %1$s de {name} fga ${x} 12 km. https://ex.org/a?b=c me@ex.org <br /> {{y}}"
    found = ask(service, text)["translatedText"]
    for mark in ("%1$s", "{name}", "${x}", "12 km", "https://ex.org/a?b=c", "me@ex.org", "<br />", "{{y}}"):
        assert found.count(mark) == 1


def test_a_glossary_is_a_list_or_an_object_or_a_field(service: Service) -> None:
    kept = ask(service, "abc gab de", glossary=["gab"])["translatedText"]
    assert kept.split().count("gab") == 1
    replaced = ask(service, "abc gab de", glossary={"gab": "New York"})["translatedText"]
    assert replaced.count("New York") == 1
    body = urlencode({"q": "abc gab de", "glossary": "gab", **BODY}).encode()
    assert service.post("/translate", body, **{"Content-Type": FORM}).json["translatedText"] == kept
    assert ask(service, "abc gab de", glossary=["gab", "zz"])["translatedText"] == kept


def test_alignments_are_characters_of_both_texts(service: Service) -> None:
    texts = ["  abc de {x}\nfga", "<b>abc</b> &lt; de"]
    found = ask(service, texts, alignments=True, format="html")
    assert len(found["alignments"]) == 2
    for text, translated, links in zip(texts, found["translatedText"], found["alignments"], strict=True):
        assert links
        for link in links:
            (start, end), (first, last) = link["source"], link["target"]
            assert text[start:end].strip() == text[start:end] != ""
            assert translated[first:last].strip() == translated[first:last] != ""
            assert 0 < link["weight"] <= 1
    single = ask(service, texts[0], alignments=True, format="html")
    assert single["alignments"] == found["alignments"][0]
    assert "alignments" not in ask(service, texts[0], format="html")


def test_detection_reads_words_not_markup(service: Service) -> None:
    text = "<p class='where is the station of the village'>Où est la gare ?</p>"
    found = ask(service, text, source="auto", format="html")
    assert found["detectedLanguage"]["language"] == "fr"
    mixed = ["Bonjour tout le monde", "Good morning everybody", "{the} 12"]
    listed = service.post("/detect", {"q": mixed}).json
    assert [each[0]["language"] for each in listed] == ["fr", "en", "en"]
    assert listed[0] == service.post("/detect", {"q": mixed[0]}).json
    assert listed[2] == [{"confidence": 0.0, "language": "en"}]


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("bonjour", "fr"),
        ("merci", "fr"),
        ("oui", "fr"),
        ("l'eau", "fr"),
        ("hello", "en"),
        ("thanks", "en"),
        ("house", "en"),
    ],
)
def test_short_texts_are_detected(service: Service, text: str, language: str) -> None:
    assert service.post("/detect", {"q": text}).json[0]["language"] == language


def test_frontend_settings(service: Service) -> None:
    found = service.get("/frontend/settings").json
    assert found == {
        "charLimit": 5000,
        "language": {
            "source": {"code": "auto", "name": "Auto Detect"},
            "target": {"code": "fr", "name": "French"},
        },
        "apiKeys": False,
        "keyRequired": False,
        "frontendTimeout": 500,
        "suggestions": False,
        "filesTranslation": False,
        "supportedFilesFormat": [],
    }
    assert service.get("/health").json["status"] == "ok"


@pytest.mark.parametrize(
    ("more", "field"),
    [
        ({"format": "rtf"}, "format"),
        ({"alternatives": "many"}, "alternatives"),
        ({"alternatives": 17}, "alternatives"),
        ({"alternatives": -1}, "alternatives"),
        ({"glossary": [""]}, "glossary"),
        ({"glossary": ["a\nb"]}, "glossary"),
        ({"glossary": {"a": " "}}, "glossary"),
        ({"glossary": ["x" * 201]}, "glossary"),
        ({"glossary": [str(n) for n in range(101)]}, "glossary"),
        ({"q": []}, "q"),
        ({"q": ["a"] * 129}, "q"),
        ({"target": "zz"}, "target"),
    ],
)
def test_what_is_refused_says_why_in_both_ways(service: Service, more: dict[str, object], field: str) -> None:
    answer = service.post("/translate", BODY | {"q": "abc"} | more)
    assert answer.status == 400
    assert answer.json["field"] == field
    assert answer.json["error"] == answer.json["detail"]
    assert answer.headers["content-type"] == "application/problem+json"


def test_a_batch_is_one_batch(service: Service) -> None:
    texts = [letters for letters in ("abc", "bcd", "cde", "def", "efg", "fga")]
    body = json.dumps(BODY | {"q": [f"{text} gg" for text in texts]}).encode()
    before = service.metric("voisin_batch_size_sum", task="translate")
    count = service.metric("voisin_batch_size_count", task="translate")
    headers = {"Content-Type": "application/json", "Cache-Control": "no-cache"}
    assert service.ask("POST", "/translate", body, headers=headers).status == 200
    steps = service.metric("voisin_batch_size_count", task="translate") - count
    rows = service.metric("voisin_batch_size_sum", task="translate") - before
    assert rows / steps > 3 * len(texts) / 2  # each has a beam of three; one by one it would be three


def test_hostile_markup_is_answered(service: Service) -> None:
    for text in (
        "<" * 5000,
        "<!--" * 1250,
        "<a " * 1666,
        "<![x",
        "<b>" * 1600 + "abc",
        "&" * 5000,
        "<p translate=no>abc",
    ):
        found = ask(service, text, format="html")["translatedText"]
        assert found.replace("&lt;", "<").count("<") == text.count("<")
