"""Requests made from /schema: no server error, and every answer is as /schema says.

`make fuzz-requests` goes on for FUZZ_SECONDS, with other requests in every round; a round has about
FUZZ_REQUESTS of them.
"""

from __future__ import annotations

import os
import random
import time
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.clients.conftest import url
from tests.service.making import Service

SECONDS = float(os.environ.get("FUZZ_SECONDS", "0"))
REQUESTS = int(os.environ.get("FUZZ_REQUESTS", "4000" if SECONDS else "400"))
MODELS = ["words-en", "words-fr", "chars-en", "text-en", "fr-en"]
LANGUAGES = ["en", "fr"]
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]


def aimed(case: Any, model: str, language: str) -> Any:
    """The case with names that exist here, which no generator would find."""
    for part in (case.body, case.query):
        if isinstance(part, dict):
            for member, name in (("model", model), ("lang", language), ("source", "fr"), ("target", "en")):
                if isinstance(part.get(member), str):
                    part[member] = name
    if "name" in (case.path_parameters or {}):
        case.path_parameters["name"] = model
    return case


def test_no_server_error_and_every_answer_conforms(service: Service) -> None:
    schema = schemathesis.openapi.from_url(url(service, "/schema/openapi.json"))
    operations = [found.ok() for found in schema.get_all_operations()]
    asking = [each for each in operations if len(each.body) + len(each.query) + len(each.path_parameters)]
    each = max(1, REQUESTS // (2 * len(asking)))
    sent = 0
    failures: list[str] = []

    def ask(operation: Any, number: int) -> None:
        @seed(number)
        @settings(
            max_examples=each,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.generate],
        )
        @given(
            case=operation.as_strategy(),
            model=st.sampled_from(MODELS),
            language=st.sampled_from(LANGUAGES),
        )
        def send(case: Any, model: str, language: str) -> None:
            nonlocal sent
            for one in (case, aimed(case, model, language)):
                response = one.call(timeout=60)
                sent += 1
                one.validate_response(response, checks=CHECKS)

        try:
            send()
        except (Exception, BaseExceptionGroup) as error:
            inner = getattr(error, "exceptions", "")
            failures.append(f"{operation.label} (seed {number}): {error!r}: {inner}")

    until = time.monotonic() + SECONDS
    for operation in operations:
        ask(operation, 1)  # the same requests in every run of the suite
    while time.monotonic() < until and not failures:
        for operation in operations:
            ask(operation, random.randrange(2**32))
    print(f"{sent} requests to {len(operations)} operations")
    assert not failures, "\n\n".join(failures)
    assert sent >= REQUESTS // 2
    assert not [line for line in service.lines() if line["level"] == "error"]


def test_every_example_is_answered(service: Service) -> None:
    schema = service.get("/schema/openapi.json").json
    told = 0
    for path, operations in schema["paths"].items():
        for operation in operations.values():
            content = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
            if "example" in content:
                revision = service.get("/v2/models/words-en").json["versions"][0]
                target = path.replace("{name}", "words-en").replace("{version}", revision)
                answer = service.post(target, content["example"])
                assert answer.status == 200, (path, answer.body)
                told += 1
    assert told >= 8


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "*")
