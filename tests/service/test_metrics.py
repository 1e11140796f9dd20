"""Names and labels are a promise, for dashboards break when they change; and they do not grow with use."""

from __future__ import annotations

import random
import re
import string

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
    "voisin_cache_requests_total": ("tier", "result"),
    "voisin_cache_joined_total": (),
    "voisin_cache_bytes": (),
    "voisin_cache_operation_duration_seconds": ("operation",),
    "voisin_redis_up": (),
    "voisin_model_info": ("model", "kind", "revision", "precision", "provider"),
    "voisin_model_load_seconds": ("model",),
    "voisin_warmup_seconds": (),
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


def test_a_thousand_strange_requests_add_no_series(service: Service) -> None:
    rng = random.Random(1)

    def word() -> str:
        return "".join(rng.choices(string.ascii_lowercase, k=9))

    for path in ("/similar?word=king", "/nope", "/complete?prompt=a", "/similar?word=x"):
        service.get(path)
    service.post("/translate", {"q": "a", "source": "fr", "target": "en"})
    before = series(service)
    for number in range(1000):
        kind = number % 5
        if kind == 0:
            service.ask(rng.choice(["GET", "PUT", "DELETE"]), f"/{word()}/{word()}")
        elif kind == 1:
            service.get("/similar", word=word(), lang=word())
        elif kind == 2:
            service.get("/complete", prompt=word(), max_tokens=1, model=rng.choice(["text-en", word()]))
        elif kind == 3:
            service.post("/translate", {"q": word()[:3], "source": word(), "target": word()})
        else:
            service.ask("GET", f"/v1/models/{word()}", headers={"X-Request-Id": word(), "User-Agent": word()})
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
