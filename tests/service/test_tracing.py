"""Spans, as an OTLP collector gets them: off until asked for, complete, and without a word of any text."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from service.tracing import wanted
from tests.service.making import HOST, Service, serve

PARENT = ("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7")


class Collector(ThreadingHTTPServer):
    """Takes POST /v1/traces and keeps what it holds."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__((HOST, 0), Receiver)
        self.received: list[ExportTraceServiceRequest] = []

    @property
    def spans(self) -> list[Any]:
        return [
            span
            for request in self.received
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]


class Receiver(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        if self.headers.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        assert self.path == "/v1/traces"
        self.server.received.append(ExportTraceServiceRequest.FromString(body))
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *arguments: object) -> None:
        return


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def attributes(span: Any) -> dict[str, Any]:
    return {each.key: each.value.string_value or each.value.int_value for each in span.attributes}


def ask(service: Service, secret: str) -> None:
    """One request of each kind, some with a text that must not be found anywhere."""
    headers = {"traceparent": f"00-{PARENT[0]}-{PARENT[1]}-01", "X-Request-Id": "mine-1"}
    body = {"q": "abc de", "source": "fr", "target": "en"}
    assert service.ask("POST", "/translate", body, headers=headers).status == 200
    service.get("/similar", word=secret)
    service.get("/complete", prompt=f"the {secret}", lang="en")
    service.get(f"/{secret}")
    service.ask("DELETE", "/similar")
    service.get("/health/ready")


def test_what_a_collector_gets(
    models: Path, tmp_path: Path, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = "thequeensdiary"
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://{HOST}:{collector.server_address[1]}")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment=test")
    with serve(models, tmp_path / "log") as service:
        ask(service, secret)
        assert service.stop() == 0  # what is left is sent before the end
        lines = service.lines()
    spans = collector.spans
    [translate] = [span for span in spans if span.name == "POST /translate"]
    assert translate.trace_id.hex() == PARENT[0]
    assert translate.parent_span_id.hex() == PARENT[1]
    told = attributes(translate)
    assert told["http.route"] == "/translate"
    assert told["http.response.status_code"] == 200
    assert told["voisin.request_id"] == "mine-1"
    assert (told["voisin.outcome"], told["voisin.cache"]) == ("ok", "miss")
    children = {span.name: span for span in spans if span.parent_span_id == translate.span_id}
    assert set(children) == {"queue", "model"}
    for child in children.values():
        assert translate.start_time_unix_nano <= child.start_time_unix_nano
        assert child.start_time_unix_nano <= child.end_time_unix_nano <= translate.end_time_unix_nano
    assert children["queue"].end_time_unix_nano <= children["model"].end_time_unix_nano
    names = sorted(span.name for span in spans if span.name not in ("queue", "model"))
    assert names == ["DELETE /similar", "GET", "GET /complete", "GET /similar", "POST /translate"]
    resource = collector.received[0].resource_spans[0].resource
    named = {each.key: each.value.string_value for each in resource.attributes}
    assert named["service.name"] == "voisin"
    assert named["deployment.environment"] == "test"
    assert secret not in "".join(str(request) for request in collector.received)
    [line] = [line for line in lines if line.get("request_id") == "mine-1"]
    assert line["trace_id"] == PARENT[0]


def test_a_collector_that_is_away_costs_nothing(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", f"http://{HOST}:1/v1/traces")
    with serve(models, tmp_path / "log") as service:
        ask(service, "nothing")
        assert service.get("/similar", word="king").status == 200
        assert service.stop() == 0


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, False),
        ({"OTEL_SERVICE_NAME": "a"}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": ""}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://a"}, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://a"}, True),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, True),
        ({"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://a"}, False),
        ({"OTEL_SDK_DISABLED": "true", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://a"}, False),
    ],
)
def test_off_until_asked_for(variables: dict[str, str], expected: bool) -> None:
    assert wanted(variables) == expected
