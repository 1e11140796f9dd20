"""What is written about the service is written by the service."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import msgspec
import pytest

from service.metrics import metrics_table
from service.schemas import CompleteAnswer, SimilarAnswer, TranslateAnswer
from service.settings import settings_table
from tests.service.making import Service, serve


def table(text: str, name: str) -> str:
    found = re.search(rf"<!-- {name}: (.*?) -->\n(.*?)<!-- /{name} -->", text, re.DOTALL)
    assert found is not None
    return found[2]


@pytest.mark.parametrize(("name", "made"), [("settings", settings_table()), ("metrics", metrics_table())])
def test_tables_are_generated(root: Path, name: str, made: str) -> None:
    text = (root / "docs" / "operations.md").read_text(encoding="utf-8")
    assert table(text, name) == made, f"python -m service --print-{name} has another table"
    printed = subprocess.run(
        [sys.executable, "-m", "service", f"--print-{name}"], capture_output=True, text=True, check=True
    )
    assert printed.stdout == made


def test_every_route_is_in_the_api_document(root: Path, service: Service) -> None:
    text = (root / "docs" / "api.md").read_text(encoding="utf-8")
    written = {tuple(found) for found in re.findall(r"`(GET|POST) (/[^`\s?]*)", text)}
    paths = service.get("/schema/openapi.json").json["paths"]
    served = {(method.upper(), path) for path, methods in paths.items() for method in methods}
    assert written == served


def resolve(document: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    name = schema.get("$ref", "").removeprefix("#/components/schemas/")
    return document["components"]["schemas"][name] if name else schema


def test_the_openapi_document_is_whole(service: Service) -> None:
    document = service.get("/schema/openapi.json").json
    assert document["openapi"] == "3.1.0"
    references = set(re.findall(r'"#/components/schemas/(\w+)"', msgspec.json.encode(document).decode()))
    assert references <= set(document["components"]["schemas"])
    similar = document["paths"]["/similar"]["get"]
    topn = next(each for each in similar["parameters"] if each["name"] == "topn")
    assert (topn["schema"]["minimum"], topn["schema"]["maximum"], topn["schema"]["default"]) == (1, 1000, 10)
    body = document["paths"]["/translate"]["post"]["requestBody"]["content"]
    assert set(body) == {"application/json", "application/x-www-form-urlencoded"}
    neighbours = document["components"]["schemas"]["SimilarAnswer"]["properties"]["neighbours"]
    assert resolve(document, neighbours["items"])["required"] == ["word", "score"]


def test_answers_are_what_the_document_says(service: Service) -> None:
    document = service.get("/schema/openapi.json").json
    for answer, shape in (
        (service.get("/similar", word="king"), SimilarAnswer),
        (service.get("/complete", prompt="the gran"), CompleteAnswer),
        (
            service.post("/translate", {"q": "a", "source": "auto", "target": "en", "scores": 1}),
            TranslateAnswer,
        ),
    ):
        schema = document["components"]["schemas"][shape.__name__]
        assert set(schema.get("required", ())) <= set(answer.json) <= set(schema["properties"])


def test_schema_is_json_for_programs_and_a_page_for_browsers(service: Service) -> None:
    assert service.get("/schema").json["openapi"] == "3.1.0"
    page = service.ask("GET", "/schema", headers={"Accept": "text/html,application/xhtml+xml"})
    assert page.headers["content-type"].startswith("text/html")


class Assets(HTMLParser):
    """Whatever a page would load."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = dict(attrs)
        if tag != "a":
            self.loaded += [value or "" for name, value in named.items() if name in ("src", "href")]


@pytest.mark.parametrize("path", ["/", "/schema"])
def test_pages_load_nothing_from_elsewhere(service: Service, path: str) -> None:
    page = service.ask("GET", path, headers={"Accept": "text/html"})
    assert page.status == 200
    assets = Assets()
    assets.feed(page.body.decode())
    assert set(assets.loaded) <= {"data:,"}
    assert not re.search(rb"https?://|@import|url\(", page.body)
    assert "default-src 'none'" in page.headers["content-security-policy"]
    for asked in re.findall(rb'(?:fetch|call)\("([\w/.]+)"', page.body):
        assert service.get("/" + asked.decode()).status == 200


def test_an_idle_service_stays_ready(models: Path, tmp_path: Path) -> None:
    with serve(models, tmp_path / "log", canary_seconds=0.4) as service:
        time.sleep(2.5)
        assert service.get("/health/ready").status == 200
