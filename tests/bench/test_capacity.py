"""The simulation of a replica against what queueing theory knows, and against itself."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from bench.capacity.costs import COSTS, Costs, Job, Lane, Route, read
from bench.capacity.decoders import _watch, fit
from bench.capacity.plan import Effort, Target, busiest, caches, planned, queues, sustained
from bench.capacity.popularity import Lru, hit_ratio, lru_hits, zipf
from bench.capacity.simulate import Outcome, Replica, Share, Simulation, Traffic, simulate
from bundle.load import open_bundle
from bundle.translator import TranslationOptions, Translator
from service.backlog import Size

NO_CACHE = Replica(cache_bytes=0.0)
SMALL = Replica(cache_bytes=1e6)


def lane(**changes: object) -> Lane:
    given: dict[str, object] = {
        "model": "m", "running": 1e-3, "row": 1e-4, "begin": 1e-3, "begun": 0.0, "token": 1e-5,
        "python": 0.5, "error": 0.0,
        "jobs": [Job(cost=50, parts=[(10, 1, 20)]), Job(cost=30, parts=[(5, 4, 6)])],
    }  # fmt: skip
    return Lane(**given | changes)  # type: ignore[arg-type]


def costs(**lanes: list[Lane]) -> Costs:
    route = Route(hit=1e-4, miss=1e-3, bytes=1000)
    return Costs(
        made="",
        machine="",
        routes=dict.fromkeys(("similar", "complete", "translate"), route),
        lanes=lanes or {"complete": [lane()], "translate": [lane(), lane(row=2e-4)]},
        other={},
    )


MIXED = Traffic(
    rate=60,
    shares={
        "similar": Share(weight=5, distinct=1000, exponent=1.0),
        "complete": Share(weight=3, distinct=5000),
        "translate": Share(weight=2, distinct=5000),
    },
)


def looked_up(rate: float) -> Traffic:
    return Traffic(rate=rate, shares={"similar": Share(weight=1, distinct=1000)})


def waiting(outcome: Outcome, service: float) -> float:
    return float(np.mean(outcome.latencies["similar"])) - service


@pytest.mark.parametrize("load", [0.3, 0.6])
@pytest.mark.parametrize(("law", "variability"), [("deterministic", 0.0), ("exponential", 1.0)])
def test_waiting_times_of_one_server(law: str, variability: float, load: float) -> None:
    """M/D/1 and M/M/1: Pollaczek and Khinchine's mean wait, load * s * (1 + cv^2) / (2 * (1 - load))."""
    service = 1e-3
    draw = None if law == "deterministic" else lambda rng, mean: float(rng.exponential(mean))
    simulation = Simulation(costs(), NO_CACHE, looked_up(load / service), seed=3, service=draw)
    outcome = simulation.run(30_000 * service / load, warm=1.0)
    expected = load * service * (1 + variability) / (2 * (1 - load))
    assert waiting(outcome, service) == pytest.approx(expected, rel=0.1)
    assert outcome.busy / outcome.seconds == pytest.approx(load, rel=0.03)


def test_one_lane_without_batches_is_a_queue_too() -> None:
    """Steps that begin one request, and are its last: M/D/1 with the decoder as the server."""
    jobs = [Job(cost=1, parts=[(1, 1, 1)])]
    single = lane(running=0.0, row=0.0, begin=2e-3, token=0.0, python=0.0, jobs=jobs)
    free = Route(hit=0.0, miss=0.0, bytes=1)
    given = Costs(made="", machine="", routes={"complete": free}, lanes={"complete": [single]}, other={})
    # so many different requests that none is on its way twice
    traffic = Traffic(rate=350, shares={"complete": Share(weight=1, distinct=100_000, exponent=0.0)})
    outcome = simulate(given, replace(NO_CACHE, batch_rows=1), traffic, seconds=40, warm=1, seed=5)
    load = 350 * 2e-3
    found = float(np.mean(outcome.latencies["complete"])) - 2e-3
    assert found == pytest.approx(load * 2e-3 / (2 * (1 - load)), rel=0.1)
    assert outcome.rows == pytest.approx(1.0)


def test_rows_of_many_requests_share_a_step() -> None:
    """Where a step costs the same whatever is in it, twice the traffic costs hardly more."""
    wide = lane(row=0.0, begin=0.0, token=0.0)
    spent = []
    for rate in (250, 500):
        traffic = Traffic(rate=rate, shares={"complete": Share(weight=1, distinct=100_000, exponent=0.0)})
        given = costs(complete=[wide])
        given = Costs(**{**{f: getattr(given, f) for f in given.__struct_fields__},
                         "routes": {"complete": Route(hit=0.0, miss=0.0, bytes=1)}})  # fmt: skip
        spent.append(simulate(given, NO_CACHE, traffic, seconds=5, warm=1).busy)
    assert spent[1] < 1.1 * spent[0]


def test_several_workers_have_interpreters_and_lanes_of_their_own() -> None:
    """Two lanes of nothing but Python, each with more to do than a core can: two workers do twice as much."""
    many = [lane(model=name, running=5e-3, row=0.0, python=1.0) for name in ("one", "two")]
    traffic = Traffic(
        rate=400, shares={"complete": Share(weight=1, distinct=100_000, exponent=0.0)}, retries=0
    )
    served = []
    for replica in (Replica(cores=2, threads=1), Replica(cores=2, threads=2)):
        given = replace(replica, cache_bytes=0.0, batch_rows=6)
        served.append(simulate(costs(complete=many), given, traffic, seconds=10, warm=1).served)
    assert served[1] > 1.8 * served[0]


@pytest.mark.parametrize("rate", [30, 300, 3000])
def test_nothing_is_lost(rate: float) -> None:
    """What arrived was served, refused for good or late, or has not ended."""
    replica = Replica(cache_bytes=100_000, queue_tokens=500, deadline_seconds=0.2)
    simulation = Simulation(costs(), replica, replace(MIXED, rate=rate, retries=1), seed=1)
    ends: Counter[str] = Counter()
    answered = simulation._answered

    def watched(*given: object) -> object:
        if given[-1]:
            ends["begun"] += 1
        end = yield from answered(*given)  # type: ignore[arg-type]
        if given[-1]:
            ends[end] += 1
        return end

    simulation._answered = watched  # type: ignore[assignment,method-assign]
    outcome = simulation.run(5, warm=1)
    assert outcome.arrived == ends["begun"]
    assert (outcome.served, outcome.rejected, outcome.late) == tuple(
        ends[end] for end in ("served", "rejected", "late")
    )
    assert outcome.in_flight == ends["begun"] - ends["served"] - ends["rejected"] - ends["late"]
    assert abs(outcome.arrived - 5 * rate) < 5 * (5 * rate) ** 0.5
    if rate == 3000:  # everything has happened
        assert outcome.rejected
        assert outcome.hits
        assert outcome.joined
        assert outcome.refusals > outcome.rejected


def test_admission_keeps_its_bound() -> None:
    """The service's own admission: never more tokens than the queue, but for a job that is alone."""
    simulation = Simulation(
        costs(), Replica(queue_tokens=200, cache_bytes=0.0), replace(MIXED, rate=2000), seed=2
    )
    seen = []
    admit = simulation._admission.admit

    def watched(task: str, sizes: list[Size]) -> object:
        permits = admit(task, sizes)
        seen.append(simulation._admission.tokens)
        return permits

    simulation._admission.admit = watched  # type: ignore[assignment,method-assign]
    outcome = simulation.run(2)
    assert outcome.refusals
    assert 150 < max(seen) <= 200


def test_more_traffic_is_never_better() -> None:
    outcomes = [
        simulate(costs(), NO_CACHE, replace(MIXED, rate=rate), seconds=10, warm=2) for rate in (20, 60, 180)
    ]
    for one, other in pairwise(outcomes):
        assert one.busy < other.busy
        assert one.rows < other.rows
        for task in MIXED.shares:
            assert one.percentile(task, 95) < other.percentile(task, 95)


def test_same_seed_same_outcome() -> None:
    one, two, three = (simulate(costs(), Replica(), MIXED, seconds=5, seed=seed) for seed in (7, 7, 8))
    assert one == two
    assert one != three


@pytest.mark.parametrize("exponent", [0.6, 0.8, 1.0, 1.2])
@pytest.mark.parametrize("capacity", [50, 500, 5000])
def test_hit_ratio_is_that_of_an_lru(exponent: float, capacity: int) -> None:
    """Che's approximation beside an exact run, and a cache filled by it beside one that filled itself."""
    probabilities, sizes = zipf(10_000, exponent), np.ones(10_000)
    keys = np.random.default_rng(1).choice(10_000, 150_000, p=probabilities).tolist()
    warm = lru_hits(keys[:75_000], sizes, capacity)
    exact = (lru_hits(keys, sizes, capacity) - warm) / 75_000
    assert hit_ratio(probabilities, sizes, capacity) == pytest.approx(exact, abs=0.01)
    cache = Lru(capacity)
    cache.warm(probabilities, sizes, np.random.default_rng(2))
    assert len(cache) == pytest.approx(capacity, rel=0.25)
    hits = 0
    for key in keys[:20_000]:
        hits += cache.has(key)
        cache.keep(key, 1.0)
    assert hits / 20_000 == pytest.approx(exact, abs=0.015)


def test_the_simulated_cache_hits_as_often() -> None:
    simulation = Simulation(costs(), Replica(cache_bytes=400_000), replace(MIXED, rate=200), seed=4)
    expected = simulation.hit_ratio()
    outcome = simulation.run(30)
    assert 0.2 < expected < 0.8
    assert outcome.hits / outcome.arrived == pytest.approx(expected, abs=0.02)


def test_costs_are_found_again() -> None:
    true = lane(token=2e-5, begun=3e-4)
    rng = np.random.default_rng(0)
    work = [(int(r), int(b), int(b * 9 + b % 3)) for r, b in rng.integers(0, 40, (400, 2)) if r or b]
    found, error = fit(work, [true.step(*each) for each in work])
    assert found == pytest.approx({name: getattr(true, name) for name in found}, rel=1e-3)
    assert error < 1e-6


TARGETS = {task: Target(p95=0.2, p99=0.4) for task in MIXED.shares}
QUICK = Effort(requests=1000, seconds=3.0, warm=1.0)


def test_a_plan_meets_its_targets_and_grows_with_the_traffic() -> None:
    most = sustained(costs(), SMALL, MIXED, TARGETS, QUICK)
    assert 0 < most < 1.05 * busiest(costs(), SMALL, MIXED)
    few, many = planned(costs(), SMALL, MIXED, QUICK, [100.0, 2000.0], most)
    assert few.replicas < many.replicas
    assert many.replicas >= 2000 / busiest(costs(), SMALL, MIXED)
    for plan in (few, many):
        assert all(plan.outcome.percentile(task, 95) <= 0.2 for task in TARGETS)
    assert many.price(2.0) == pytest.approx(2 * many.price(1.0))
    assert many.price(1.0) == pytest.approx(many.replicas / 3600 / 2000 * 1e6)
    assert sustained(costs(), SMALL, MIXED, {"similar": Target(p95=1e-6, p99=1e-6)}, QUICK) == 0.0


def test_short_queues_keep_promises_under_overload() -> None:
    most = busiest(costs(), NO_CACHE, MIXED)
    targets = {task: Target(p95=0.5, p99=1.0) for task in MIXED.shares}
    found = queues(costs(), NO_CACHE, MIXED, targets, QUICK, most, bounds=((16, 0.1), (16, 30.0)))
    (*_, short, kept), (*_, long, broken) = found
    assert kept
    assert not broken
    assert short.percentile("complete", 99) < long.percentile("complete", 99)


def test_a_larger_cache_never_needs_more() -> None:
    found = caches(costs(), Replica(), MIXED, [0.0, 1e5, 1e6, 1e8], 1000, 0.8)
    assert [ratio for _, ratio, _ in found] == sorted(ratio for _, ratio, _ in found)
    assert [count for *_, count in found] == sorted((count for *_, count in found), reverse=True)
    assert found[0][1] == pytest.approx(0.0)
    assert found[-1][1] == pytest.approx(1.0)


def test_the_committed_costs_can_be_simulated() -> None:
    measured = read(COSTS)
    assert measured.made
    assert measured.machine
    assert all(route.hit < route.miss for route in measured.routes.values())
    outcome = simulate(measured, Replica(), replace(MIXED, rate=20), seconds=10, warm=1)
    assert outcome.served > 150


def test_every_run_of_a_graph_is_timed(root: Path) -> None:
    """Steps over arrays that a graph knows, too: what is not Python must not count as such."""
    model = open_bundle(root / "models" / "fr-en", check=False)
    assert isinstance(model, Translator)
    [step, encoder] = _watch(model.stepper)
    beam, greedy = (model.job("Bonjour tout le monde.", TranslationOptions(beam=width)) for width in (4, 1))
    for job in (beam, greedy):
        decoder, seen = model.decoder(), []
        decoder.add(job.requests[0], 0)
        while decoder.active or decoder.waiting:
            before = step.seconds
            decoder.step()
            seen.append(step.seconds - before)
        assert min(seen) > 0
    assert encoder.seconds > 0
