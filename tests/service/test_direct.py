"""The busiest routes answer by the short way what they answer by the framework's, byte for byte."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from bundle.session import Place
from service.app import BUSIEST, build_app
from service.detection import Detector, load_beside
from service.direct import Direct
from service.house import House, build_house
from service.observe import Observe
from service.registry import open_registry
from service.settings import Settings, read_settings

Message = dict[str, Any]
JSON = b"application/json"
ALSO_JSON = b"Application/JSON; charset=utf-8"
FORM = b"application/x-www-form-urlencoded"

Asked = tuple[str, str, bytes, bytes]
GOOD: list[Asked] = [
    ("GET", "/similar?word=king", b"", b""),
    ("GET", "/similar/?word=king", b"", b""),
    ("GET", "/similar?word=king&topn=2&lang=en", b"", b""),
    ("POST", "/similar", JSON, b'{"positive": ["king", "woman"], "negative": ["man"]}'),
    ("POST", "/translate", JSON, b'{"q": "ab", "source": "fr", "target": "en"}'),
    ("POST", "/translate", ALSO_JSON, b'{"q": ["ab", "c"], "source": "fr", "target": "en"}'),
    ("POST", "/translate", FORM, b"q=ab&source=fr&target=en"),
    ("POST", "/complete", JSON, b'{"prompt": "a", "max_tokens": 3}'),
    ("POST", "/v1/completions", JSON, b'{"model": "chars-en", "prompt": "a", "temperature": 0}'),
    ("POST", "/v1/completions", JSON, b'{"model": "chars-en", "prompt": "", "seed": 1, "stream": true}'),
]  # fmt: skip
BAD: list[Asked] = [
    ("GET", "/similar", b"", b""),
    ("GET", "/similar?word=zzzzzz", b"", b""),
    ("GET", "/similar?word=king&topn=0", b"", b""),
    ("HEAD", "/similar?word=king", b"", b""),
    ("DELETE", "/translate", b"", b""),
    ("GET", "/translate", b"", b""),
    ("POST", "/translate", JSON, b"{"),
    ("POST", "/translate", JSON, b'{"q": "", "source": "fr", "target": "en"}'),
    ("POST", "/translate", JSON, b'{"q": "ab", "source": "xx", "target": "en"}'),
    ("POST", "/translate", b"text/plain", b"ab"),
    ("POST", "/translate", JSON, b'"' + b"a" * 3000 + b'"'),
    ("POST", "/complete", JSON, b'{"prompt": 3}'),
    ("POST", "/v1/completions", JSON, b'{"model": "none", "prompt": "a"}'),
]


@asynccontextmanager
async def opened(
    models: Path, monkeypatch: pytest.MonkeyPatch, **more: str
) -> AsyncIterator[tuple[House, Direct]]:
    for name, value in {"MODELS": str(models), "BODY_BYTES": "2000", **more}.items():
        monkeypatch.setenv(f"VOISIN_{name}", value)
    settings: Settings = read_settings()
    registry = open_registry(settings.models_folder, device=Place("cpu"), languages=settings.language_order)
    house = build_house(settings, registry, Detector(load_beside()(), registry.codes))
    app = build_app(house)
    assert isinstance(app, Observe)
    assert isinstance(app._app, Direct)
    async with house.open():
        yield house, app._app


async def ask(observed: Observe, asked: Asked, headers: list[tuple[bytes, bytes]]) -> list[Message]:
    method, target, kind, body = asked
    path, _, query = target.partition("?")
    scope = {
        "type": "http", "http_version": "1.1", "method": method, "scheme": "http", "path": path,
        "raw_path": path.encode(), "query_string": query.encode(), "root_path": "",
        "headers": [(b"host", b"localhost"), (b"x-request-id", b"same"), *headers]
        + ([(b"content-type", kind), (b"content-length", b"%d" % len(body))] if kind else []),
        "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 2), "state": {},
    }  # fmt: skip
    arrived: asyncio.Queue[Message] = asyncio.Queue()
    arrived.put_nowait({"type": "http.request", "body": body, "more_body": False})
    sent: list[Message] = []

    async def send(message: Any) -> None:
        sent.append(message)

    await observed(scope, arrived.get, send)  # type: ignore[arg-type]
    return sent


def shown(messages: list[Message]) -> tuple[int, dict[bytes, bytes], object]:
    """Status, headers and body, but for what time decides."""
    start = messages[0]
    headers = {name: value for name, value in start["headers"] if name != b"server-timing"}
    body = b"".join(message.get("body", b"") for message in messages[1:])
    text = body.decode()
    if text.startswith(('{"id"', "data: ")):
        # OpenAI's answers have a name and a time of their own
        frames = [json.loads(each.removeprefix("data: ")) for each in text.split("\n\n") if "{" in each]
        return start["status"], headers, "".join(frame["choices"][0]["text"] for frame in frames)
    return start["status"], headers, body


def way(observed: Observe, direct: bool, door: Direct) -> Observe:
    observed._app = door if direct else door._app
    return observed


async def compare(
    house: House, door: Direct, asked: list[Asked], headers: list[tuple[bytes, bytes]]
) -> list[tuple[int, int]]:
    """Statuses by the two ways; everything else must be the same."""
    tasks = {path: "other" for path in BUSIEST}
    observed = Observe(door, house.metrics, _Silent(), tasks, client_seconds=5)  # type: ignore[arg-type]
    statuses = []
    for each in asked:
        await ask(way(observed, False, door), each, headers)  # the second time it is in the cache, both ways
        framework = shown(await ask(way(observed, False, door), each, headers))
        short = shown(await ask(way(observed, True, door), each, headers))
        assert short == framework, each
        statuses.append((short[0], framework[0]))
    return statuses


class _Silent:
    def wants(self, outcome: str) -> bool:
        return False


def test_both_ways_answer_the_same(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        async with opened(models, monkeypatch) as (house, door):
            good = await compare(house, door, GOOD, [])
            assert {status for status, _ in good} == {200}
            bad = await compare(house, door, BAD, [])
            assert all(400 <= status < 500 for status, _ in bad)

    asyncio.run(scenario())


def test_the_door_is_kept_on_both_ways(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = "app " + "0" * 64

    async def scenario() -> None:
        async with opened(models, monkeypatch, API_KEYS=keys) as (house, door):
            assert {status for status, _ in await compare(house, door, GOOD, [])} == {401}
            wrong = [(b"authorization", b"Bearer vk-wrong")]
            assert {status for status, _ in await compare(house, door, GOOD, wrong)} == {401}

    asyncio.run(scenario())


def test_the_short_way_is_taken(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A route that the framework no longer knows is answered all the same, and only there."""
    passed: list[str] = []

    async def scenario() -> None:
        async with opened(models, monkeypatch) as (house, door):
            inner: Callable[..., Any] = door._app

            async def counted(scope: Any, receive: Any, send: Any) -> None:
                passed.append(scope["path"])
                await inner(scope, receive, send)

            door._app = counted  # type: ignore[assignment]
            observed = Observe(door, house.metrics, _Silent(), {}, client_seconds=5)  # type: ignore[arg-type]
            for each in GOOD:
                assert (await ask(observed, each, []))[0]["status"] == 200
            assert passed == ["/similar/", "/translate"]  # another spelling, and a form

    asyncio.run(scenario())


def test_pages_of_other_origins_keep_the_framework(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VOISIN_MODELS", str(models))
    monkeypatch.setenv("VOISIN_CORS_ORIGINS", "https://example.org")
    settings = read_settings()
    registry = open_registry(settings.models_folder, device=Place("cpu"), languages=settings.language_order)
    app = build_app(build_house(settings, registry, Detector(load_beside()(), registry.codes)))
    assert isinstance(app, Observe)
    assert not isinstance(app._app, Direct)
