"""What Prometheus may know. Base units, bounded labels: no path, no word, no address ever becomes a label."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)

TASKS = ("similar", "complete", "translate", "detect", "embeddings", "meta", "probe", "other")
OUTCOMES = ("ok", "client_error", "rejected", "timeout", "cancelled", "error")
REASONS = ("queue_full", "deadline", "draining", "too_large", "rate_limited", "connections")
_DECODED = ("complete", "translate")

_REQUEST = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 15.0, 60.0)
_FAST = (0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1)
_MODEL = ("model", "kind", "revision", "precision", "provider")
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class TaskMetrics:
    """The series of one task, resolved once: a look-up by labels costs more than an increment."""

    def __init__(self, metrics: Metrics, task: str) -> None:
        self.outcomes = {outcome: metrics.requests.labels(task, outcome) for outcome in OUTCOMES}
        self.duration = metrics.request_duration.labels(task)
        self.under_way = 0  # requests; read when it is scraped, which is cheaper than a gauge moved twice
        metrics.watch(metrics.inflight.labels(task), lambda: self.under_way)
        self.rejected = {reason: metrics.rejected.labels(task, reason) for reason in REASONS}


class DecodingMetrics:
    """The series of a task whose answers are decoded step by step."""

    def __init__(self, metrics: Metrics, task: str) -> None:
        self.queue_depth = metrics.queue_depth.labels(task)
        self.queue_wait = metrics.queue_wait.labels(task)
        self.first_token = metrics.first_token.labels(task)
        self.tokens_in = metrics.tokens.labels(task, "in")
        self.tokens_out = metrics.tokens.labels(task, "out")
        self.batch_size = metrics.batch_size.labels(task)
        self.cancelled = {stage: metrics.cancelled.labels(task, stage) for stage in ("queued", "running")}


class Metrics:
    """Every series of the service, in a registry of its own so that two apps can live in one process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        GCCollector(registry=self.registry)

        self.requests = self._counter("requests", "Requests answered", "task", "outcome")
        self.request_duration = self._histogram(
            "request_duration_seconds", "From first byte in to last byte out", _REQUEST, "task"
        )
        self.inflight = self._gauge("inflight_requests", "Requests being answered", "task")
        self.rejected = self._counter("rejected", "Requests refused to protect the others", "task", "reason")
        self.cancelled = self._counter("cancelled", "Requests whose client left", "task", "stage")
        self.queue_depth = self._gauge("queue_depth", "Requests admitted and not yet in a batch", "task")
        self.queue_wait = self._histogram(
            "queue_wait_seconds", "From admission to the first step", _REQUEST, "task"
        )
        self.inference_duration = self._histogram(
            "inference_duration_seconds", "From the first step to the last", _REQUEST, "task", "model"
        )
        self.first_token = self._histogram(
            "time_to_first_token_seconds", "From admission to the first token", _REQUEST, "task"
        )
        self.tokens = self._counter("tokens", "Tokens read and written by models", "task", "direction")
        self.batch_size = self._histogram("batch_size", "Rows in one step", _ROWS, "task")
        self.backlog = self._gauge(
            "backlog_requests", "Requests admitted and not yet answered: scale on this"
        )
        self.backlog_tokens = self._gauge("backlog_tokens", "Tokens admitted and not yet answered")
        self.queue_capacity = self._gauge("queue_capacity_tokens", "Most tokens admitted at once")
        self.cache_requests = self._counter(
            "cache_requests", "Look-ups of the answer cache", "tier", "result"
        )
        self.cache_writes = self._counter(
            "cache_writes", "Answers for Redis: stored, refused by it, or lost on the way", "result"
        )
        self.cache_joined = self._counter(
            "cache_joined", "Requests that waited for the same answer as another"
        )
        self.cache_bytes = self._gauge("cache_bytes", "Size of the answers held in memory")
        self.cache_operation = self._histogram(
            "cache_operation_duration_seconds", "Round trips to Redis", _FAST, "operation"
        )
        self.redis_up = self._gauge("redis_up", "1 while Redis answers; 0 also where none is set")
        self.model_info = self._gauge("model_info", "1 for every open bundle", *_MODEL)
        self.model_load = self._gauge("model_load_seconds", "Time to open and check the bundle", "model")
        self.warmup = self._gauge("warmup_seconds", "Time from start to the first canary of every model")
        self.device_memory = self._gauge(
            "device_memory_bytes", "Memory in use on the GPU, by whomever; no sample on a CPU", "device"
        )
        self.worker_processor = self._counter(
            "worker_processor_seconds", "Processor time of processes that decode; none where threads do"
        )
        self.worker_memory = self._gauge(
            "worker_resident_memory_bytes",
            "Memory of a process that decodes, the weights that all share counted in each",
            "worker",
        )
        self.ready = self._gauge("ready", "1 while /health/ready says yes")

        self.tasks = {task: TaskMetrics(self, task) for task in TASKS}
        self.decoding = {task: DecodingMetrics(self, task) for task in _DECODED}
        self.cache = {
            (tier, result): self.cache_requests.labels(tier, result)
            for tier, results in (("memory", ("hit", "miss")), ("redis", ("hit", "miss", "error")))
            for result in results
        }
        self.redis_writes = {
            result: self.cache_writes.labels(result) for result in ("stored", "refused", "lost")
        }
        self.redis_read = self.cache_operation.labels("read")
        self.redis_write = self.cache_operation.labels("write")

    def _counter(self, name: str, doc: str, *labels: str) -> Counter:
        return Counter(name, doc, labels, namespace="voisin", registry=self.registry)

    def _gauge(self, name: str, doc: str, *labels: str) -> Gauge:
        return Gauge(name, doc, labels, namespace="voisin", registry=self.registry)

    def _histogram(self, name: str, doc: str, buckets: Iterable[float], *labels: str) -> Histogram:
        return Histogram(
            name, doc, labels, namespace="voisin", buckets=tuple(buckets), registry=self.registry
        )

    def watch(self, gauge: Gauge, read: Callable[[], float]) -> None:
        """Let a gauge be read from its source when it is scraped."""
        gauge.set_function(read)

    def render(self) -> bytes:
        """The exposition format, version 0.0.4."""
        return generate_latest(self.registry)


def metrics_table() -> str:
    """Our own series as a Markdown table, for docs/operations.md."""
    lines = ["| metric | type | labels | meaning |", "|---|---|---|---|"]
    for name, kind, labels, doc in described():
        lines.append(f"| `{name}` | {kind} | {', '.join(f'`{label}`' for label in labels) or '-'} | {doc} |")
    return "\n".join(lines) + "\n"


def described() -> list[tuple[str, str, tuple[str, ...], str]]:
    """(name, type, labels, text) of every `voisin_` series, in the order of definition."""
    metrics = Metrics()
    found = []
    for value in vars(metrics).values():
        if isinstance(value, Counter | Gauge | Histogram) and value._documentation and not value._labelvalues:
            kind = value._type
            name = value._name + ("_total" if kind == "counter" else "")
            found.append((name, kind, tuple(value._labelnames), value._documentation))
    return found
