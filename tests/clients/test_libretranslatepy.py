"""The libretranslatepy package from PyPI, unmodified, against the service."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any
from urllib.error import HTTPError

import pytest
from libretranslatepy import LibreTranslateAPI

from tests.clients.conftest import url
from tests.service.making import Service


@pytest.fixture
def client(service: Service) -> LibreTranslateAPI:
    return LibreTranslateAPI(url(service))


@pytest.mark.parametrize("text", ["abc de", "  fed\n\ncba  ", "12 {x} 3,50 €", "a&b=c%20+d", "été"])
def test_translate(client: LibreTranslateAPI, opened: Callable[[str], Any], text: str) -> None:
    assert client.translate(text, "fr", "en") == opened("fr-en").translate(text).text
    assert client.translate(text, "en", "fr", timeout=30) == opened("en-fr").translate(text).text


def test_translate_what_was_detected(client: LibreTranslateAPI, opened: Callable[[str], Any]) -> None:
    french = "abc de la gare du village"
    assert client.detect(french)[0]["language"] == "fr"
    assert client.translate(french, "auto", "en") == opened("fr-en").translate(french).text


def test_detect(client: LibreTranslateAPI) -> None:
    found = client.detect("where is the station of the village?")
    assert found[0]["language"] == "en"
    assert set(found[0]) == {"confidence", "language"}
    assert 50 < found[0]["confidence"] <= 100
    assert client.detect("12 34") == [{"confidence": 0.0, "language": "en"}]


def test_languages_are_asked_with_a_body(client: LibreTranslateAPI) -> None:
    assert client.languages() == [
        {"code": "en", "name": "English", "targets": ["en", "fr"]},
        {"code": "fr", "name": "French", "targets": ["en", "fr"]},
    ]


def test_a_key_is_taken(service: Service) -> None:
    client = LibreTranslateAPI(url(service, "/"), api_key="any")
    assert [each["code"] for each in client.languages()] == ["en", "fr"]
    assert client.detect("bonjour tout le monde")[0]["language"] == "fr"
    assert isinstance(client.translate("abc", "fr", "en"), str)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("", "fr", "en"), "Invalid request: missing q parameter"),
        (("abc", "zz", "en"), "zz is not supported"),
        (("abc", "fr", "zz"), "zz is not supported"),
        (("a" * 5001, "fr", "en"), "request (5001) exceeds text limit (5000)"),
    ],
)
def test_errors_are_400_and_say_why(client: LibreTranslateAPI, arguments: tuple[str, ...], said: str) -> None:
    with pytest.raises(HTTPError) as caught:
        client.translate(*arguments)
    with caught.value as answer:
        assert answer.code == 400
        assert json.loads(answer.read())["error"].startswith(said)
