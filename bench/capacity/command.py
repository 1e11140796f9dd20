"""`python -m bench capacity`: what a traffic needs, as tables of Markdown."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from bench.capacity.costs import COSTS, Costs, read, write
from bench.capacity.plan import Effort, Plan, Target, busiest, caches, planned, queues, sustained
from bench.capacity.simulate import Replica, Share, Simulation, Traffic
from bundle.errors import VoisinError

TASKS = ("similar", "complete", "translate")


def numbers(text: str) -> dict[str, float]:
    """`similar=70,complete=20` as a mapping.

    Raises:
        argparse.ArgumentTypeError: another shape, or a task that there is not.
    """
    try:
        found = {name: float(value) for name, value in (part.split("=") for part in text.split(","))}
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text}: not TASK=NUMBER,TASK=NUMBER") from None
    if set(found) - set(TASKS) or not all(value >= 0 for value in found.values()):
        raise argparse.ArgumentTypeError(f"{text}: tasks are {', '.join(TASKS)}, numbers are not negative")
    return found


# (name, default, what it is)
_NUMBERS = (
    ("--mix", "similar=70,complete=20,translate=10", "shares of the tasks"),
    ("--distinct", "similar=60000,complete=1000000,translate=1000000", "different requests of each task"),
    ("--p95", "similar=0.1,complete=2,translate=2", "seconds, the targets"),
    ("--p99", "similar=0.25,complete=4,translate=4", "seconds, the targets"),
)
_PLAIN = (
    ("--exponent", 0.8, "of Zipf's law of repeats"),
    ("--cores", 1, "of a replica"),
    ("--threads", 0, "VOISIN_THREADS, 0 = one a core"),
    ("--batch-rows", 64, "VOISIN_BATCH_ROWS"),
    ("--queue-seconds", 0.5, "VOISIN_QUEUE_SECONDS"),
    ("--cache-mib", 64.0, "VOISIN_CACHE_BYTES / 2^20"),
    ("--price", 1.0, "of a core for an hour, in any unit"),
    ("--requests", 5_000, "requests that are simulated in each try"),
)


def arguments(given: Sequence[str]) -> argparse.Namespace:
    """The options, read."""
    parser = argparse.ArgumentParser(prog="python -m bench capacity", description=__doc__)
    parser.add_argument(
        "--rate", type=float, nargs="+", default=[10, 100, 1000, 10_000], metavar="N",
        help="requests a second of the whole service (10 100 1000 10000)",
    )  # fmt: skip
    for name, default, text in _NUMBERS:
        parser.add_argument(name, type=numbers, default=default, help=f"{text} (%(default)s)")
    for name, value, text in _PLAIN:
        parser.add_argument(name, type=type(value), default=value, help=f"{text} (%(default)s)")
    parser.add_argument("--costs", type=Path, default=COSTS, help="measured costs (bench/capacity.json)")
    parser.add_argument("--models", type=Path, default=Path("models"), help="folder of bundles (models)")
    parser.add_argument("--measure", action="store_true", help="measure the costs first, and write them")
    parser.add_argument(
        "--validate", type=float, nargs="+", metavar="SHARE",
        help="instead: compare with the real server at these shares of what one core can do",
    )  # fmt: skip
    return parser.parse_args(given)


def main(given: Sequence[str]) -> int:
    """0; 1 where costs are missing or cannot be measured."""
    options = arguments(given)
    try:
        if options.measure:
            from bench.capacity.measure import measure

            write(measure(options.models), options.costs)
        costs = read(options.costs)
    except (OSError, msgspec.ValidationError, VoisinError) as error:
        print(f"bench capacity: {error}", file=sys.stderr)
        return 1
    shares = {
        task: Share(
            weight=weight, distinct=int(options.distinct.get(task, 1_000_000)), exponent=options.exponent
        )
        for task, weight in options.mix.items()
        if weight
    }
    traffic = Traffic(rate=1.0, shares=shares)
    replica = Replica(
        cores=options.cores,
        threads=options.threads or options.cores,
        batch_rows=options.batch_rows,
        queue_seconds=options.queue_seconds,
        cache_bytes=options.cache_mib * 2**20,
    )
    print(f"Costs of {costs.made}, {costs.machine}.\n")
    print(cost_table(costs))
    if options.validate:
        try:
            print(validation(options, costs, traffic))
        except OSError as error:
            print(f"bench capacity: {error}", file=sys.stderr)
            return 1
        return 0
    targets = {
        task: Target(p95=options.p95.get(task, 2.0), p99=options.p99.get(task, 4.0)) for task in shares
    }
    effort = Effort(requests=options.requests)
    most = sustained(costs, replica, traffic, targets, effort)
    if not most:
        print("One replica does not meet these targets at any rate.")
        return 0
    print(f"One replica meets the targets up to {most:.1f} requests/s.\n")
    print(plan_table(planned(costs, replica, traffic, effort, options.rate, most), options.price))
    print(queue_table(costs, replica, traffic, targets, effort, most))
    print(cache_table(costs, replica, traffic, max(options.rate), most))
    return 0


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)]
    return "\n".join(lines) + "\n"


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.3g}" if seconds < 0.9995 else f"{seconds * 1e3:,.0f}"


def cost_table(costs: Costs) -> str:
    """What was measured, in milliseconds of a processor."""
    routes = [
        [task, _ms(route.hit), _ms(route.miss), str(route.bytes)] for task, route in costs.routes.items()
    ]
    lanes = []
    for task, found in costs.lanes.items():
        for lane in found:
            parts = [part for job in lane.jobs for part in job.parts]
            rows = max(rows for _, rows, _ in parts)
            lanes.append([
                f"{lane.model} ({task})", _ms(lane.step(rows, 0, 0)), _ms(lane.step(64, 0, 0)),
                _ms(lane.step(0, 1, 20)), f"{sum(n for _, _, n in parts) / len(parts):.1f}",
                f"{lane.python:.0%}", f"{lane.error:.1%}",
            ])  # fmt: skip
    head = [
        "model",
        "step, one text",
        "step, 64 rows",
        "20 tokens read",
        "steps",
        "Python",
        "error of the sum",
    ]
    return "\n".join((
        _table(["event loop, ms", "hit", "miss, without the model", "bytes in the cache"], routes),
        _table(head, lanes),
    ))  # fmt: skip


def plan_table(plans: Sequence[Plan], price: float) -> str:
    """Replicas, what their users see, what a request costs."""
    tasks = list(plans[0].outcome.latencies)
    rows = []
    for plan in plans:
        outcome = plan.outcome
        rows.append([
            f"{plan.rate:,.0f}", str(plan.replicas), f"{plan.rate / plan.replicas:,.1f}",
            f"{outcome.busy / outcome.seconds / plan.replica.cores:.0%}",
            f"{outcome.hits / outcome.arrived:.0%}", f"{outcome.rows:.1f}",
            *(f"{_ms(outcome.percentile(task, 95))} / {_ms(outcome.percentile(task, 99))}" for task in tasks),
            _ms(plan.cpu_seconds), f"{plan.price(price):.3g}",
        ])  # fmt: skip
    waits = [f"{task} p95 / p99, ms" for task in tasks]
    head = ["requests/s", "replicas", "each", "busy", "hits", "rows a step", *waits]
    head += ["CPU ms a request", "price of a million"]
    return _table(head, rows)


def queue_table(
    costs: Costs, replica: Replica, traffic: Traffic, targets: dict[str, Target], effort: Effort, most: float
) -> str:
    """Bounds of batch and queue at twice the traffic that a replica sustains."""
    rows = []
    for size, bound, outcome, kept in queues(costs, replica, traffic, targets, effort, most):
        computed = outcome.arrived - outcome.hits
        row = [str(size), f"{bound:g}", f"{outcome.rejected / max(1, computed):.0%}"]
        row += [_ms(outcome.percentile(task, 99)) for task in targets]
        rows.append([*row, "yes" if kept else "no"])
    head = ["VOISIN_BATCH_ROWS", "VOISIN_QUEUE_SECONDS", f"refused at {2 * most:.0f}/s, of what is computed"]
    return _table(head + [f"{task} p99, ms" for task in targets] + ["targets kept"], rows)


def cache_table(costs: Costs, replica: Replica, traffic: Traffic, rate: float, most: float) -> str:
    """Sizes of the cache, and the replicas that they save."""
    reach = most / busiest(costs, replica, traffic)
    sizes = [0.0, *(2.0**power * 2**20 for power in range(2, 13, 2))]
    everything = float(Simulation(costs, replica, traffic).sizes.sum())
    rows = [
        [f"{size / 2**20:,.0f}", f"{ratio:.1%}", str(count)]
        for size, ratio, count in caches(costs, replica, traffic, sizes, rate, reach)
    ]
    head = ["cache, MiB (VOISIN_CACHE_BYTES, or Redis)", "hits", f"replicas for {rate:,.0f}/s"]
    return _table(head, rows) + f"\nAll answers together are {everything / 2**20:,.0f} MiB.\n"


def validation(options: argparse.Namespace, costs: Costs, traffic: Traffic) -> str:
    """Measured and simulated, side by side."""
    from bench.capacity.validate import validate

    bare = Replica(cache_bytes=0.0)
    full = busiest(costs, bare, traffic)
    cores = sorted(os.sched_getaffinity(0))
    pairs = validate(
        options.models, costs, traffic, [full * share for share in options.validate],
        seconds=30.0, cores=(cores[0], cores[-1]),
    )  # fmt: skip
    rows = []
    for pair in pairs:
        one, two = pair.measured, pair.simulated
        rows.append(
            [f"{pair.asked:.1f}", "answers/s", f"{one.rate:.1f}", f"{two.rate:.1f}", _off(one.rate, two.rate)]
        )
        rows.append(["", "core", f"{one.core:.0%}", f"{two.core:.0%}", _off(one.core, two.core)])
        rows.append(["", "others on the core", f"{one.others:.0%}", "0%", ""])
        for task in one.p50:
            for name, a, b in (("p50", one.p50, two.p50), ("p99", one.p99, two.p99)):
                rows.append(
                    ["", f"{task} {name}, ms", f"{a[task]:.4g}", f"{b[task]:.4g}", _off(a[task], b[task])]
                )
    return _table(["requests/s", "", "measured", "simulated", "error"], rows)


def _off(measured: float, simulated: float) -> str:
    return f"{simulated / measured - 1:+.0%}"
