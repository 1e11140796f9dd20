"""A thousand clients that hang up whenever they like: nothing of them is left, and the books balance."""

from __future__ import annotations

import asyncio
import json
import random
import socket
import struct
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.service.making import HOST, Service, serve

CLIENTS = 1000
AT_ONCE = 100
ENDLESS = 3900  # letters of the slow model: half a minute and more

# How far a client comes: to the middle of the head, or of the body; through the request, with no ear for the
# answer; into the stream, and out by reset; to the end.
STAGES = ("head", "body", "wait", "stream", "stay")


@pytest.fixture(scope="module")
def crowded(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service that refuses nobody, so that every client is worked for."""
    log = tmp_path_factory.mktemp("crowded") / "service.log"
    with serve(
        models, log, queue_seconds=3600, queue_texts=10**6, queue_tokens=10**8, deadline_seconds=60
    ) as service:
        yield service


def request(rng: random.Random, stage: str) -> tuple[str, bytes, bytes]:
    """Task, head and body of a request nobody asked before; endless for those who do not wait for the end."""
    seed = rng.getrandbits(31)
    body: dict[str, object] = {"prompt": "a", "temperature": 1, "seed": seed}
    path = "/complete"
    if stage == "stream" or (stage == "wait" and rng.random() < 0.7):
        body |= {"model": "slow-xx", "max_tokens": ENDLESS, "stream": stage == "stream" or rng.random() < 0.5}
    elif rng.random() < 0.5:
        path, body = "/translate", {"q": "bad cab", "source": "fr", "target": "en"}
    else:
        body |= {"model": "chars-en", "max_tokens": 8, "stream": rng.random() < 0.5}
    raw = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\nCache-Control: no-cache\r\n"
    head += f"Content-Length: {len(raw)}\r\n\r\n"
    return path[1:], head.encode(), raw


async def call(port: int, rng: random.Random, stage: str) -> tuple[str, bytes]:
    """One client. The task that was asked for, if the server has seen a whole head; what was read."""
    task, head, body = request(rng, stage)
    reader, writer = await asyncio.open_connection(HOST, port)
    try:
        if stage == "head":
            writer.write(head[: rng.randrange(1, len(head) - 1)])
            await writer.drain()
            return "", b""
        writer.write(head + (body[: rng.randrange(len(body))] if stage == "body" else body))
        await writer.drain()
        if stage == "stay":
            return task, await reader.read()
        if stage == "stream":
            read = await reader.readuntil(b"event: token")
            linger = struct.pack("ii", 1, 0)  # close by reset, as a client does that is killed
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            return task, read
        await asyncio.sleep(rng.random() * 0.05)
        return task, b""
    finally:
        writer.close()


async def crowd(port: int) -> tuple[Counter[tuple[str, str]], list[bytes]]:
    """How many of each stage asked for each task, and the answers of those who stayed."""
    rng = random.Random(7)
    stages = [STAGES[number % len(STAGES)] for number in range(CLIENTS)]
    rng.shuffle(stages)
    room = asyncio.Semaphore(AT_ONCE)
    seen: Counter[tuple[str, str]] = Counter()
    answers: list[bytes] = []

    async def one(stage: str) -> None:
        async with room:
            task, read = await call(port, rng, stage)
            seen[stage, task] += 1
            if stage == "stay":
                answers.append(read)

    await asyncio.gather(*(one(stage) for stage in stages))
    return seen, answers


def books(service: Service) -> dict[str, float]:
    """Sums over the labels of every series, by name, those of other tasks left out."""
    found: Counter[str] = Counter()
    for line in service.get("/metrics").body.decode().splitlines():
        if line.startswith("voisin_") and not any(f'task="{task}"' in line for task in ("probe", "meta")):
            series, _, value = line.rpartition(" ")
            name, _, labels = series.partition("{")
            found[name] += float(value)
            for outcome in ("ok", "cancelled", "error", "rejected", "timeout", "client_error"):
                if f'outcome="{outcome}"' in labels:
                    found[f"{name}:{outcome}"] += float(value)
    return found


GAUGES = ("backlog_requests", "backlog_tokens", "queue_depth", "inflight_requests")


def test_a_thousand_hang_up_and_nothing_is_left(crowded: Service) -> None:
    before = books(crowded)
    seen, answers = asyncio.run(crowd(crowded.port))
    until = time.monotonic() + 30
    after = books(crowded)
    while any(after[f"voisin_{gauge}"] for gauge in GAUGES) and time.monotonic() < until:
        time.sleep(0.02)
        after = books(crowded)
    assert {gauge: after[f"voisin_{gauge}"] for gauge in GAUGES} == dict.fromkeys(GAUGES, 0)

    def grown(name: str) -> float:
        return after[f"voisin_{name}"] - before[f"voisin_{name}"]

    # who stayed was answered in full
    assert len(answers) == CLIENTS // len(STAGES)
    assert {answer.split(b"\r\n", 1)[0] for answer in answers} == {b"HTTP/1.1 200 OK"}
    # every request whose head arrived is in the books once, and no half of a head is
    asked = sum(count for (stage, _), count in seen.items() if stage != "head")
    assert grown("requests_total") == asked == grown("request_duration_seconds_count")
    # nobody was refused, was late, or found a fault
    assert grown("rejected_total") == 0
    assert grown("requests_total:error") == grown("requests_total:timeout") == 0
    assert grown("requests_total:rejected") == grown("requests_total:client_error") == 0
    assert grown("requests_total:ok") >= len(answers)
    streamed = sum(count for (stage, _), count in seen.items() if stage == "stream")
    bodies = sum(count for (stage, _), count in seen.items() if stage == "body")
    assert grown("requests_total:cancelled") >= streamed + bodies
    # what the models began they ended, or were stopped at
    begun, ended = grown("queue_wait_seconds_count"), grown("inference_duration_seconds_count")
    stopped = crowded.metric("voisin_cancelled_total", task="complete", stage="running") + crowded.metric(
        "voisin_cancelled_total", task="translate", stage="running"
    )
    assert begun == ended + stopped
    assert stopped >= streamed
    assert crowded.get("/health/ready").status == 200
    assert crowded.post("/complete", {"prompt": "ab", "model": "slow-xx", "max_tokens": 3}).status == 200
    assert not [line for line in crowded.lines() if line["level"] == "error"]
