"""The openai package from npm, unmodified, against the service: the same answers as the one from PyPI."""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.clients.conftest import ENDLESS, full, url, wait_for
from tests.clients.test_openai import BAD, CASES, streamed
from tests.conftest import missing
from tests.service.making import Service

Node = Callable[..., tuple[list[dict[str, Any]], list[int]]]


@pytest.fixture(scope="module")
def node(program: Callable[[str], str], root: Path) -> Node:
    """`node(service, calls)` makes the calls; their results, and the statuses of every answer on the way."""
    folder = root / "tests" / "clients" / "js"
    if not (folder / "node_modules" / "openai").is_dir():
        missing("the openai package from npm (npm ci in tests/clients/js)")
    binary = program("node")

    def run(
        service: Service, calls: list[dict[str, Any]], *, together: bool = False, **settings: Any
    ) -> tuple[list[dict[str, Any]], list[int]]:
        known = {"baseURL": url(service, "/v1"), "apiKey": "any", "maxRetries": 0} | settings
        told = json.dumps({"settings": known, "calls": calls, "together": together})
        done = subprocess.run(
            [binary, str(folder / "client.mjs")], input=told, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout)
        return found["results"], found["statuses"]

    return run


@pytest.fixture(scope="module")
def client(service: Service) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=url(service, "/v1"), api_key="any", max_retries=0) as client:
        yield client


def call(method: str, *args: Any, **options: Any) -> dict[str, Any]:
    return {"method": method, "args": list(args), "options": options}


class Chunk:
    """A chunk of JavaScript's, as `streamed` takes those of Python's."""

    def __init__(self, found: dict[str, Any]) -> None:
        self._found = found

    def model_dump(self) -> dict[str, Any]:
        return {"usage": None} | self._found


def same(found: dict[str, Any], wanted: dict[str, Any]) -> None:
    told = {
        key: value for key, value in found["value"].items() if key not in ("id", "created", "_request_id")
    }
    assert told == {key: value for key, value in wanted.items() if key not in ("id", "created")}


def test_completions_whole_together_and_streamed(node: Node, service: Service, client: openai.OpenAI) -> None:
    wanted = [client.completions.create(**case).model_dump(exclude_unset=True) for case in CASES]
    calls = [call("completions.create", case) for case in CASES]
    results, statuses = node(service, calls)
    for found, expected in zip(results, wanted, strict=True):
        same(found, expected)
    again, _ = node(service, calls * 3, together=True)
    for found, expected in zip(again, wanted * 3, strict=True):
        same(found, expected)
    usage = {"stream": True, "stream_options": {"include_usage": True}}
    chunks, _ = node(service, [call("completions.create", case | usage) for case in CASES])
    for found, expected in zip(chunks, wanted, strict=True):
        choices, counted = streamed([Chunk(chunk) for chunk in found["value"]])
        assert counted == expected["usage"]
        for mine, theirs in zip(choices, expected["choices"], strict=True):
            assert mine | {"logprobs": mine["logprobs"] or theirs["logprobs"]} == theirs
    assert statuses == [200] * len(CASES)


def test_embeddings_and_models(node: Node, service: Service, client: openai.OpenAI) -> None:
    words = ["king", "New York", "été"]
    asked = {"model": "words-en", "input": words}
    results, _ = node(
        service,
        [
            call("embeddings.create", asked),  # base64 on the wire, too
            call("embeddings.create", asked | {"encoding_format": "float"}),
            call("embeddings.create", {"model": "words-en", "input": "the king of zork"}),
            call("models.list"),
            call("models.retrieve", "text-en"),
        ],
    )
    packed, numbers, text, listed, one = (each["value"] for each in results)
    wanted = client.embeddings.create(model="words-en", input=words)
    for found in (packed, numbers):
        assert [each["embedding"] for each in found["data"]] == [each.embedding for each in wanted.data]
    assert text["data"][0]["unknown_words"] == ["of", "zork"]
    assert [each["id"] for each in listed] == [each.id for each in client.models.list()]
    assert one["id"] == "text-en"


def test_errors_have_their_classes(node: Node, service: Service, client: openai.OpenAI) -> None:
    asked = [call("completions.create", {"model": "text-en", "prompt": "a"} | wish) for wish, *_ in BAD]
    results, _ = node(service, asked)
    for found, (_, param, message) in zip(results, BAD, strict=True):
        error = found["error"]
        assert (error["name"], error["status"], error["param"]) == ("BadRequestError", 400, param)
        assert message in error["message"]
    results, _ = node(
        service,
        [
            call("completions.create", {"model": "zz", "prompt": "a"}),
            call("models.retrieve", "zz"),
            call("embeddings.create", {"model": "words-en", "input": "kinng"}),
        ],
    )
    assert [each["error"]["name"] for each in results] == [
        "NotFoundError",
        "NotFoundError",
        "BadRequestError",
    ]
    assert results[2]["error"]["code"] == "unknown_word"


def test_a_late_answer_is_not_asked_for_again(node: Node, hurried: Service) -> None:
    late = ENDLESS | {"max_tokens": 3900}
    asked = [call("completions.create", late), call("completions.create", late | {"stream": True})]
    results, statuses = node(hurried, asked, maxRetries=5)
    assert results[0]["error"]["name"] == "InternalServerError"
    assert results[0]["error"]["code"] == "deadline_exceeded"
    assert "not answered within" in results[1]["error"]["message"]
    assert statuses == [504, 200]


def test_a_full_queue_makes_the_client_wait_and_then_succeed(node: Node, crowded: Service) -> None:
    asked = [call("completions.create", ENDLESS | {"max_tokens": 50})]
    found: list[Any] = []
    with full(crowded) as release:
        [hasty], _ = node(crowded, asked)
        assert hasty["error"]["name"] == "RateLimitError"
        refused = crowded.metric("voisin_rejected_total", task="complete", reason="queue_full")
        patient = threading.Thread(target=lambda: found.append(node(crowded, asked, maxRetries=20)))
        patient.start()
        wait_for(
            lambda: crowded.metric("voisin_rejected_total", task="complete", reason="queue_full") > refused
        )
        release()
        patient.join()
    [(results, statuses)] = found
    assert len(results[0]["value"]["choices"][0]["text"]) == 50
    assert statuses[-1] == 200
    assert set(statuses[:-1]) == {429}
