"""Names and labels are a promise, for dashboards break when they change; and they do not grow with use."""

from __future__ import annotations

import json
import random
import re
import string
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from service.device import first_visible, watch_device
from service.metrics import OUTCOMES, TASKS, Metrics, described
from tests.service.making import Service

GOLDEN = {
    "voisin_requests_total": ("task", "outcome"),
    "voisin_request_duration_seconds": ("task",),
    "voisin_inflight_requests": ("task",),
    "voisin_rejected_total": ("task", "reason"),
    "voisin_cancelled_total": ("task", "stage"),
    "voisin_queue_depth": ("task",),
    "voisin_queue_wait_seconds": ("task",),
    "voisin_inference_duration_seconds": ("task", "model"),
    "voisin_time_to_first_token_seconds": ("task",),
    "voisin_tokens_total": ("task", "direction"),
    "voisin_batch_size": ("task",),
    "voisin_backlog_requests": (),
    "voisin_backlog_tokens": (),
    "voisin_queue_capacity_tokens": (),
    "voisin_worker_processor_seconds_total": (),
    "voisin_worker_resident_memory_bytes": ("worker",),
    "voisin_cache_requests_total": ("tier", "result"),
    "voisin_cache_writes_total": ("result",),
    "voisin_cache_joined_total": (),
    "voisin_cache_bytes": (),
    "voisin_cache_operation_duration_seconds": ("operation",),
    "voisin_redis_up": (),
    "voisin_model_info": ("model", "kind", "revision", "precision", "provider"),
    "voisin_model_load_seconds": ("model",),
    "voisin_warmup_seconds": (),
    "voisin_device_memory_bytes": ("device",),
    "voisin_ready": (),
}


def test_names_and_labels() -> None:
    assert {name: labels for name, _, labels, _ in described()} == GOLDEN


def test_what_is_scraped_is_what_is_described() -> None:
    families = {family.name for family in Metrics().registry.collect() if family.name.startswith("voisin_")}
    assert families == {name.removesuffix("_total") for name in GOLDEN}


def test_two_apps_in_one_process() -> None:
    first, second = Metrics(), Metrics()
    first.tasks["similar"].outcomes["ok"].inc()
    assert (
        second.registry.get_sample_value("voisin_requests_total", {"task": "similar", "outcome": "ok"}) == 0
    )


def series(service: Service) -> set[str]:
    text = service.get("/metrics").body.decode()
    return {line.rpartition(" ")[0] for line in text.splitlines() if not line.startswith("#")}


def strange(rng: random.Random, number: int, word: Callable[[], str]) -> bytes:
    """A request whose path, words and headers nobody has seen before."""
    method, body, headers = "GET", "", ""
    match number % 20:
        case 0:
            path = f"/complete?prompt={word()}&max_tokens=1&model={rng.choice(['text-en', word()])}"
        case 1 | 2:
            method, path = "POST", "/translate"
            body = json.dumps({"q": word()[:3], "source": word(), "target": word()})
        case 3 | 4 | 5:
            path = f"/v1/models/{word()}"
            headers = f"X-Request-Id: {word()}\r\nUser-Agent: {word()}\r\nX-API-Key: {word()}\r\n"
        case 6 | 7 | 8 | 9:
            path = f"/similar?word={word()}&lang={word()}"
        case _:
            method, path = rng.choice(["GET", "PUT", "DELETE"]), f"/{word()}/{word()}"
    head = f"{method} {path} HTTP/1.1\r\nHost: a\r\n{headers}Content-Length: {len(body)}\r\n\r\n"
    return (head + body).encode()


def test_ten_thousand_strange_requests_add_no_series(service: Service) -> None:
    rng = random.Random(1)

    def word() -> str:
        return "".join(rng.choices(string.ascii_lowercase, k=9))

    for path in ("/similar?word=king", "/nope", "/complete?prompt=a", "/similar?word=x"):
        service.get(path)
    service.post("/translate", {"q": "a", "source": "fr", "target": "en"})
    before = series(service)
    for _ in range(50):
        batch = b"".join(strange(rng, number, word) for number in range(200))
        # one connection and one write for each batch: the client would be the slower one
        with service.raw(batch + b"GET /ping HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n") as connection:
            answers = b"".join(iter(lambda: connection.recv(1 << 20), b""))
        assert answers.count(b"HTTP/1.1 ") == 201
    assert service.metric("voisin_requests_total", task="other", outcome="client_error") > 6000
    assert series(service) == before


def test_tasks_and_outcomes_are_the_documented_ones(service: Service) -> None:
    found = {
        match.groups()
        for match in re.finditer(
            r'voisin_requests_total{outcome="(\w+)",task="(\w+)"}', service.get("/metrics").body.decode()
        )
    }
    assert found == {(outcome, task) for task in TASKS for outcome in OUTCOMES}


def test_outcomes_are_counted(service: Service) -> None:
    def counted(task: str, outcome: str) -> float:
        return service.metric("voisin_requests_total", task=task, outcome=outcome)

    before = counted("similar", "ok"), counted("similar", "client_error"), counted("other", "client_error")
    service.get("/similar", word="king")
    service.get("/similar", word="kinng")
    service.ask("DELETE", "/similar")
    service.get("/nowhere")
    after = counted("similar", "ok"), counted("similar", "client_error"), counted("other", "client_error")
    assert after == (before[0] + 1, before[1] + 2, before[2] + 1)


def test_models_and_readiness(service: Service) -> None:
    assert service.metric("voisin_ready") == 1
    assert service.metric("voisin_model_info", model="fr-en", kind="translator", precision="fp32") == 1
    assert service.metric("voisin_warmup_seconds") > 0
    assert service.metric("process_resident_memory_bytes") > 0


def test_memory_of_a_device_that_is_not_there(service: Service, caplog: pytest.LogCaptureFixture) -> None:
    """On a CPU the series is absent, not nought: resident memory is told by the process's own metric."""
    assert not [each for each in series(service) if "voisin_device_memory_bytes" in each]
    metrics = Metrics()
    watch_device(metrics)
    samples = [each for family in metrics.device_memory.collect() for each in family.samples]
    if samples:  # a machine with a GPU
        assert all(0 < sample.value < 2**48 for sample in samples)
    else:
        assert "GPU memory is not measured" in caplog.text


def test_the_first_device() -> None:
    """NVML does not read the variable that hides devices from CUDA."""
    found = {
        text: first_visible({"CUDA_VISIBLE_DEVICES": text}) for text in ("", "3", "2,0", "GPU-8f6, GPU-1")
    }
    assert found == {"": "0", "3": "3", "2,0": "2", "GPU-8f6, GPU-1": "GPU-8f6"}
    assert first_visible({}) == "0"


def timings(header: str) -> dict[str, float]:
    """The durations of a Server-Timing header, in milliseconds."""
    parts = (part.strip().partition(";dur=") for part in header.split(","))
    return {name: float(duration) for name, _, duration in parts}


def test_the_parts_of_server_timing_add_up(service: Service) -> None:
    """Also of a request of many texts, and of one that joined another's flight."""
    fresh = {"Cache-Control": "no-cache"}
    texts = ["abc de", "fed", "gag abc de fed", "a. b. c."]

    def many(_: int) -> list[dict[str, float]]:
        requests = [
            ("/translate", {"q": texts, "source": "fr", "target": "en"}, fresh),
            ("/complete", {"prompt": "abc", "model": "chars-en", "max_tokens": 9}, fresh),
            ("/complete", {"prompt": "a", "model": "slow-xx", "max_tokens": 9, "n": 2}, {}),
        ]
        answers = [service.post(path, body, **headers) for path, body, headers in requests]
        return [timings(each.headers["server-timing"]) for each in answers]

    with ThreadPoolExecutor(6) as pool:
        found = [each for some in pool.map(many, range(6)) for each in some]
    modelled = [each for each in found if len(each) > 1]
    assert len(modelled) > 12
    for each in modelled:
        assert set(each) == {"total", "queue", "model", "other"}
        assert min(each.values()) >= 0
        assert abs(each["total"] - each["queue"] - each["model"] - each["other"]) < 0.0015
    plain = timings(service.get("/similar", word="king").headers["server-timing"])
    assert plain["total"] > 0
