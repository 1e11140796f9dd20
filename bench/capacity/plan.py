"""How many replicas, which queue and which cache: the simulation, asked until the targets are met."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from bench.capacity.costs import Costs
from bench.capacity.simulate import Outcome, Replica, Simulation, Traffic, simulate

REFUSED = 0.001
"""The largest share of refused requests that a plan allows."""

QUEUES = tuple((rows, seconds) for rows in (8, 16, 32, 64) for seconds in (0.5, 2.0, 8.0))
"""Rows of a batch and seconds of waiting work that are tried."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """Seconds under which 95 and 99 of 100 answers to a task must come."""

    p95: float
    p99: float


@dataclass(frozen=True, kw_only=True)
class Effort:
    """How long is simulated: until about `requests` arrived, at least `seconds`, after `warm` seconds."""

    requests: int = 5_000
    seconds: float = 20.0
    warm: float = 5.0


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a traffic needs. `outcome` is of one of the replicas."""

    rate: float
    replicas: int
    replica: Replica
    outcome: Outcome

    @property
    def cpu_seconds(self) -> float:
        """Processor seconds that one request takes, those that the cache answers counted."""
        return self.outcome.busy / max(1, self.outcome.served)

    def price(self, core_hour: float) -> float:
        """What a million requests cost at this price of a core for an hour, idle time paid for."""
        return self.replicas * self.replica.cores * core_hour / 3600 / self.rate * 1e6


def met(outcome: Outcome, targets: Mapping[str, Target]) -> bool:
    """Whether the answers came in time, and none was refused or too late to speak of."""
    lost = outcome.refusals + outcome.late
    # at the end of a stable run no more is in flight than a second's worth, give or take
    stuck = outcome.in_flight > max(50, outcome.arrived / max(outcome.seconds, 1.0))
    return (
        lost <= REFUSED * outcome.arrived
        and not stuck
        and all(
            outcome.percentile(task, 95) <= target.p95 and outcome.percentile(task, 99) <= target.p99
            for task, target in targets.items()
        )
    )


def tried(costs: Costs, replica: Replica, traffic: Traffic, effort: Effort, *, seed: int = 0) -> Outcome:
    """One simulation of a replica."""
    seconds = max(effort.seconds, effort.requests / traffic.rate)
    return simulate(costs, replica, traffic, seconds=min(seconds, 300.0), warm=effort.warm, seed=seed)


def busiest(costs: Costs, replica: Replica, traffic: Traffic) -> float:
    """Requests a second that would keep every processor of a replica busy: a bound, by arithmetic.

    Decoders are counted at full batches, the cache by Che's approximation.
    """
    simulation = Simulation(costs, replica, traffic)
    total = sum(share.weight for share in traffic.shares.values())
    ratios = simulation.hit_ratios()
    seconds = 0.0
    for task, share in traffic.shares.items():
        route, hit = costs.routes[task], ratios[task]
        each = hit * route.hit + (1 - hit) * route.miss
        lanes = costs.lanes.get(task, [])
        for lane in lanes:
            spent = [
                sum(
                    lane.begun * rows
                    + lane.token * read
                    + (lane.running / replica.batch_rows + lane.row) * rows * (n - 1)
                    for read, rows, n in job.parts
                )
                for job in lane.jobs
            ]
            each += (1 - hit) * sum(spent) / len(spent) / len(lanes)
        seconds += share.weight / total * each
    return replica.cores / seconds


def sustained(
    costs: Costs, replica: Replica, traffic: Traffic, targets: Mapping[str, Target], effort: Effort
) -> float:
    """The highest rate, within 3 %, at which one replica meets the targets. 0 where it never does."""
    high = busiest(costs, replica, traffic) * 1.05
    low = high / 64
    if not met(tried(costs, replica, replace(traffic, rate=low), effort), targets):
        return 0.0
    while high / low > 1.03:
        middle = math.sqrt(low * high)
        if met(tried(costs, replica, replace(traffic, rate=middle), effort), targets):
            low = middle
        else:
            high = middle
    return low


def planned(
    costs: Costs,
    replica: Replica,
    traffic: Traffic,
    effort: Effort,
    rates: Sequence[float],
    most: float,
) -> list[Plan]:
    """A plan for each rate of the whole service, shared evenly and at random by the replicas.

    Args:
        most: what one replica sustains.
    """
    found = []
    for rate in rates:
        replicas = math.ceil(rate / most)
        outcome = tried(costs, replica, replace(traffic, rate=rate / replicas), effort)
        found.append(Plan(rate=rate, replicas=replicas, replica=replica, outcome=outcome))
    return found


def queues(
    costs: Costs,
    replica: Replica,
    traffic: Traffic,
    targets: Mapping[str, Target],
    effort: Effort,
    most: float,
    bounds: Sequence[tuple[int, float]] = QUEUES,
) -> list[tuple[int, float, Outcome, bool]]:
    """Rows of a batch and seconds of queue at twice the rate `most`, from clients that do not come back: what
    becomes of the traffic, and whether what is admitted meets the targets. Of those that do, the ones that
    refuse least are to be set."""
    found = []
    for rows, bound in bounds:
        bounded = replace(replica, batch_rows=rows, queue_seconds=bound)
        outcome = tried(costs, bounded, replace(traffic, rate=2 * most, retries=0), effort)
        good = all(
            outcome.percentile(task, 95) <= target.p95 and outcome.percentile(task, 99) <= target.p99
            for task, target in targets.items()
        )
        found.append((rows, bound, outcome, good and not outcome.late))
    return found


def caches(
    costs: Costs, replica: Replica, traffic: Traffic, sizes: Sequence[float], rate: float, reach: float
) -> list[tuple[float, float, int]]:
    """(bytes, hit ratio, replicas) for caches of these sizes.

    Args:
        reach: the share of the bound of `busiest` at which a replica meets the targets: found once, for it
            changes little with the cache.
    """
    found = []
    for size in sizes:
        kept = replace(replica, cache_bytes=size)
        simulation = Simulation(costs, kept, traffic)
        ratio = simulation.hit_ratio()
        found.append((size, ratio, math.ceil(rate / (busiest(costs, kept, traffic) * reach))))
    return found
