"""OpenTelemetry traces, where the standard OTEL_ variables ask for them and the extra `tracing` is installed.

A span says what was done and for how long, never what was asked: instrumentation that is bought ready-made
records the URL, and in `/similar?word=...` the URL is the text.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from time import perf_counter, time_ns
from typing import TYPE_CHECKING, Any

from service import VERSION

if TYPE_CHECKING:
    from service.trace import Trace

logger = logging.getLogger("voisin")

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_LAST_WORDS = 2.0  # seconds to hand over what is left, inside the grace period


def wanted(environ: Mapping[str, str]) -> bool:
    """Whether the environment asks for traces, as the specification of the variables says."""
    if environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return False
    exporter = environ.get("OTEL_TRACES_EXPORTER", "")
    return exporter != "none" and (exporter == "otlp" or any(environ.get(name) for name in _ENDPOINTS))


def open_tracing(environ: Mapping[str, str]) -> Tracing | None:
    """The tracing that the environment asks for; where it cannot be had the log says why, and none."""
    if not wanted(environ):
        return None
    protocol = next((environ[name] for name in _PROTOCOLS if environ.get(name)), "http/protobuf")
    if protocol != "http/protobuf":
        logger.warning(
            "no traces", extra={"data": {"reason": f"protocol {protocol}; http/protobuf is spoken"}}
        )
        return None
    try:
        return Tracing(environ)
    except ImportError:
        logger.warning("no traces", extra={"data": {"reason": "pip install voisin[tracing]"}})
        return None


class Tracing:
    """Makes a span of each request when it is over, its time in the queue and in the model as children."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        """
        Raises:
            ImportError: the extra is not installed.
        """
        from opentelemetry import propagate, trace
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        named = "OTEL_SERVICE_NAME" in environ or "service.name=" in environ.get(
            "OTEL_RESOURCE_ATTRIBUTES", ""
        )
        names = {} if named else {"service.name": "voisin"}
        resource = Resource.create(names | {"service.version": VERSION})
        # the sampler, the limits and the address come from the same variables, read by the SDK
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer("voisin", VERSION)
        self._extract = propagate.extract
        self._api = trace

    def record(self, scope: Any, trace: Trace, route: str | None, status: int, outcome: str) -> str:
        """Hand over the spans of a request that just ended. Returns its trace id, in hexadecimal.

        Args:
            route: the path as the route declares it; None where no route took the request.
        """
        api = self._api
        carrier = {
            name.decode("latin-1"): value.decode("latin-1")
            for name, value in scope["headers"]
            if name in (b"traceparent", b"tracestate")
        }
        method = scope["method"] if scope["method"] in _METHODS else "_OTHER"
        attributes: dict[str, Any] = {
            "http.request.method": method,
            "http.response.status_code": status,
            "voisin.outcome": outcome,
            "voisin.cache": trace.cache,
            "voisin.revision": trace.revision,
            "voisin.request_id": trace.request_id,
        }
        if route is not None:
            attributes["http.route"] = route
        now, end = perf_counter(), time_ns()

        def at(seconds: float) -> int:
            return end - int((now - seconds) * 1e9)

        span = self._tracer.start_span(
            f"{method} {route}" if route is not None else method,
            context=self._extract(carrier),
            kind=api.SpanKind.SERVER,
            attributes=attributes,
            start_time=at(trace.start),
        )
        if status >= 500:
            span.set_status(api.StatusCode.ERROR)
        inside = api.set_span_in_context(span)
        _, queue, run = trace.parts()
        if run:
            # a flight that was joined began before this request did
            joined = max(trace.submitted, trace.start)
            for name, begin, seconds in (("queue", joined, queue), ("model", joined + queue, run)):
                child = self._tracer.start_span(name, context=inside, start_time=at(begin))
                child.end(min(at(begin + seconds), end))
        span.end(end)
        return format(span.get_span_context().trace_id, "032x")

    def close(self) -> None:
        """Send what is left, if that can be done soon: a collector that is away must not hold up the end."""
        last = threading.Thread(target=self._provider.shutdown, name="last spans", daemon=True)
        last.start()
        last.join(_LAST_WORDS)
