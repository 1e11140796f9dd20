"""API keys: who gets in, in every way a client may carry one, and what never gets out."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import service.__main__
from service.errors import Problem
from service.keys import Keys, digest_of, new_key, parse
from service.settings import SettingsError
from tests.service.making import Answered, Service, serve


def line(name: str, key: str, *options: str) -> str:
    return " ".join([name, digest_of(key).hex(), *options])


@dataclass
class Guarded:
    """A service with keys, and the keys."""

    service: Service
    file: Path
    shop: str
    scraper: str
    slow: str
    few: str


@pytest.fixture(scope="module")
def guarded(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    folder = tmp_path_factory.mktemp("keys")
    shop, scraper, slow, few = (new_key() for _ in range(4))
    file = folder / "keys"
    file.write_text(
        "# who\n\n"
        + "\n".join([line("shop", shop), line("slow", slow, "concurrent=2"), line("few", few, "rate=3")])
    )
    settings = {
        "api_keys": line("scraper", scraper, "scopes=metrics"),
        "api_keys_file": file,
        "cors_origins": "https://a.example",
    }
    waiting = {"X-API-Key": scraper}
    with serve(models, folder / "log", **settings) as service:
        found = Guarded(service, file, shop, scraper, slow, few)
        assert service.ask("GET", "/metrics", headers=waiting).status == 200
        yield found


OPEN = [
    "/", "/schema", "/schema/openapi.json", "/languages", "/ping", "/health", "/health/ready", "/health/live",
    "/health/startup", "/v2/health/ready", "/v2/health/live",
]  # fmt: skip


@pytest.mark.parametrize("path", OPEN)
def test_probes_and_pages_need_no_key(guarded: Guarded, path: str) -> None:
    assert guarded.service.get(path).status == 200


def test_nothing_else_is_open(guarded: Guarded) -> None:
    """Every route of the OpenAPI document, with any body, answers 401 or is one of the open ones."""
    document = guarded.service.get("/schema/openapi.json").json
    for path, methods in document["paths"].items():
        for method in methods:
            status = guarded.service.ask(method.upper(), path.replace("{name}", "words-en")).status
            known = (path in OPEN or path == "/frontend/settings") and (method, path) != ("post", "/")
            task = methods[method]["tags"][0]
            assert (status == 401) != (known or (task == "probe" and path != "/metrics")), (method, path)


def carried(key: str) -> dict[str, tuple[str, str, object, dict[str, str]]]:
    """Ways to present a key: method, target, body, headers."""
    fields = f"q=abc&source=fr&target=en&api_key={key}"
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    multipart = "".join(
        f'--x\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
        for name, value in (("q", "abc"), ("source", "fr"), ("target", "en"), ("api_key", key))
    )
    body = {"q": "abc", "source": "fr", "target": "en"}
    return {
        "bearer": ("GET", "/similar?word=king", None, {"Authorization": f"Bearer {key}"}),
        "lower case": ("GET", "/similar?word=king", None, {"authorization": f"bearer {key}"}),
        "x-api-key": ("POST", "/translate", body, {"X-API-Key": key}),
        "openai": ("GET", "/v1/models", None, {"Authorization": f"Bearer {key}"}),
        "json": ("POST", "/translate", body | {"api_key": key}, {}),
        "form": ("POST", "/translate", fields.encode(), form),
        "multipart": (
            "POST",
            "/translate",
            (multipart + "--x--\r\n").encode(),
            {"Content-Type": "multipart/form-data; boundary=x"},
        ),
        "query": ("POST", f"/translate?{fields}", None, {}),
        "detect": ("POST", "/detect", {"q": "abc", "api_key": key}, {}),
    }


@pytest.mark.parametrize("way", carried(""))
def test_every_way_to_carry_a_key(guarded: Guarded, way: str) -> None:
    def ask(key: str) -> Answered:
        method, path, body, headers = carried(key)[way]
        return guarded.service.ask(method, path, body, headers=headers)

    assert ask(guarded.shop).status == 200
    wrong = [ask(key) for key in ("", new_key(), guarded.shop[:-1], guarded.shop + "x", "x" * 5000)]
    assert [each.status for each in wrong] == [401] * 5
    assert {each.headers["www-authenticate"] for each in wrong} == {"Bearer"}
    scoped = ask(guarded.scraper)
    assert scoped.status == 403


def test_refusals_speak_the_dialect(guarded: Guarded) -> None:
    native = guarded.service.get("/similar", word="king")
    assert (native.json["status"], native.json["code"]) == (401, "missing_api_key")
    assert guarded.service.post("/translate", {"q": "a", "source": "fr", "target": "en"}).json["error"]
    openai = guarded.service.ask("GET", "/v1/models", headers={"Authorization": "Bearer x"})
    assert openai.json["error"]["code"] == "invalid_api_key"
    broken = guarded.service.post("/translate", b"{", **{"Content-Type": "application/json"})
    assert broken.status == 401
    told = guarded.service.post(
        "/translate", b"{", **{"Content-Type": "application/json", "X-API-Key": guarded.shop}
    )
    assert told.status == 400


def test_a_key_of_metrics_sees_metrics_and_nothing_else(guarded: Guarded) -> None:
    headers = {"Authorization": f"Bearer {guarded.scraper}"}
    assert guarded.service.ask("GET", "/metrics", headers=headers).status == 200
    assert guarded.service.ask("GET", "/info", headers=headers).status == 403
    assert guarded.service.ask("GET", "/metrics", headers={"X-API-Key": guarded.shop}).status == 403


def test_a_rate_is_kept_and_says_when_to_come_back(guarded: Guarded) -> None:
    headers = {"X-API-Key": guarded.few}
    answers = [guarded.service.ask("GET", "/similar?word=king", headers=headers) for _ in range(5)]
    # three at once, then one each twenty seconds; a very slow machine may have earned one more
    assert [each.status for each in answers[:3]] == [200] * 3
    assert answers[-1].status == 429
    assert answers[-1].json["code"] == "rate_limited"
    assert 1 <= int(answers[-1].headers["retry-after"]) <= 20


def test_no_more_at_once_than_allowed_and_room_again_after(guarded: Guarded) -> None:
    def stream(seed: int) -> socket.socket:
        query = f"prompt=a&model=slow-xx&max_tokens=3900&temperature=1&seed={seed}&stream=true"
        connection = guarded.service.raw(
            f"GET /complete?{query} HTTP/1.1\r\nHost: a\r\nX-API-Key: {guarded.slow}\r\n\r\n".encode()
        )
        assert connection.recv(4096).startswith(b"HTTP/1.1 200")
        return connection

    def third() -> Answered:
        return guarded.service.ask("GET", "/similar?word=king", headers={"X-API-Key": guarded.slow})

    with stream(1), stream(2):
        refused = third()
        assert refused.status == 429
        assert refused.json["code"] == "too_many_at_once"
        assert refused.headers["retry-after"]
    until(lambda: third().status == 200)  # the clients have left


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_keys_come_and_go_without_a_restart(guarded: Guarded) -> None:
    service, file = guarded.service, guarded.file
    before, later = file.read_text(), new_key()

    def status(key: str) -> int:
        return service.ask("GET", "/similar?word=king", headers={"X-API-Key": key}).status

    def complaints() -> int:
        return sum(each.get("message") == "api keys not reloaded" for each in service.lines())

    def replace(text: str) -> None:
        new = file.with_name("new")
        new.write_text(text)
        new.rename(file)  # as a Kubernetes Secret is: another file under the name

    try:
        assert (status(guarded.shop), status(later)) == (200, 401)
        replace(line("later", later))
        until(lambda: status(later) == 200)
        assert status(guarded.shop) == 401
        # what cannot be read changes nothing
        replace("later " + later)
        until(lambda: status(later) == 200 and complaints() == 1)
        file.unlink()
        until(lambda: status(later) == 200 and complaints() == 2)
    finally:
        replace(before)
    until(lambda: status(guarded.shop) == 200)


def test_no_key_is_written_anywhere(guarded: Guarded) -> None:
    for key in (guarded.shop, guarded.scraper, "not-a-key-but-secret"):
        for method, path, body, headers in carried(key).values():
            guarded.service.ask(method, path, body, headers=headers)
    log = guarded.service.log.read_text()
    metrics = guarded.service.ask("GET", "/metrics", headers={"X-API-Key": guarded.scraper}).body.decode()
    info = guarded.service.ask("GET", "/info", headers={"X-API-Key": guarded.shop}).body.decode()
    for key in (guarded.shop, guarded.scraper, guarded.few, "not-a-key-but-secret"):
        for text in (log, metrics, info):
            assert key not in text
            assert digest_of(key).hex() not in text
    assert "shop" not in metrics
    assert any(each.get("key") == "shop" for each in guarded.service.lines())


def test_pages_of_other_origins_call_only_where_it_is_allowed(guarded: Guarded, service: Service) -> None:
    def preflight(origin: str) -> Answered:
        headers = {
            "Origin": origin,
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "x-api-key",
        }
        return guarded.service.ask("OPTIONS", "/translate", headers=headers)

    allowed = preflight("https://a.example")
    assert allowed.status == 204
    assert allowed.headers["access-control-allow-origin"] == "https://a.example"
    assert "access-control-allow-credentials" not in allowed.headers
    assert "access-control-allow-origin" not in preflight("https://b.example").headers
    asked = guarded.service.ask("GET", "/similar?word=king", headers={"Origin": "https://a.example"})
    assert asked.status == 401  # and the page may read why
    assert asked.headers["access-control-allow-origin"] == "https://a.example"
    silent = service.ask("GET", "/similar?word=king", headers={"Origin": "https://a.example"})
    assert not [name for name in silent.headers if name.startswith("access-control")]


def test_the_command_makes_a_key_that_works(tmp_path: Path) -> None:
    made = subprocess.run(
        [sys.executable, "-m", "service", "keys", "new", "shop", "--scope", "use", "--rate", "60"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    file = tmp_path / "keys"
    file.write_text(made.stdout)
    key = made.stderr.split()[0]
    assert key not in made.stdout
    keys = Keys("", file)
    assert keys.admit(key, "use").name == "shop"
    [entry] = keys
    assert (entry.rate, entry.concurrent, entry.scopes) == (60, None, frozenset({"use"}))
    refused = subprocess.run(
        [sys.executable, "-m", "service", "keys", "new", "a b"], capture_output=True, text=True
    )
    assert refused.returncode == 2


GOOD = digest_of("x").hex()


@pytest.mark.parametrize(
    "text",
    [
        "", "# nothing\n", "shop", "shop x", f"shop {GOOD[:-1]}", f"shop {GOOD.upper()}", f"sh/op {GOOD}",
        f"shop {GOOD} rate=0", f"shop {GOOD} rate=x", f"shop {GOOD} scopes=admin", f"shop {GOOD} colour=red",
        f"a {GOOD}\nb {GOOD}", f"a {GOOD}; a {digest_of('y').hex()}", f"shop {GOOD} concurrent=9999999",
    ],
)  # fmt: skip
def test_lines_that_cannot_be(text: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as refused:
        parse(text, "VOISIN_API_KEYS")
    assert "VOISIN_API_KEYS" in str(refused.value)
    assert GOOD not in str(refused.value)


def test_the_start_is_refused_over_keys_that_cannot_be_read(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(service.__main__, "configure", lambda level: None)
    monkeypatch.setenv("VOISIN_MODELS", str(models))
    none = str(tmp_path / "none")
    for variable, value in (("VOISIN_API_KEYS_FILE", none), ("VOISIN_API_KEYS", "plainsecret")):
        with monkeypatch.context() as patch:
            patch.setenv(variable, value)
            assert service.__main__.main([]) == 2
        said = capsys.readouterr().err
        assert variable in said
        assert "plainsecret" not in said


def test_the_bucket_holds_a_minute_and_fills_at_the_rate() -> None:
    now = [100.0]
    keys = Keys(line("a", "k", "rate=60"), None, clock=lambda: now[0])

    refusals: list[tuple[int, dict[str, str]]] = []

    def burst() -> int:
        for let_in in range(1000):
            try:
                keys.admit("k", "use").release()
            except Problem as problem:
                refusals.append((problem.status, problem.headers))
                return let_in
        raise AssertionError

    assert burst() == 60
    now[0] += 5
    assert burst() == 5
    now[0] += 3600
    assert burst() == 60
    assert refusals == [(429, {"retry-after": "1"})] * 3


def test_a_pass_is_given_back_once() -> None:
    keys = Keys(line("a", "k", "concurrent=1"), None)
    first = keys.admit("k", "use")
    with pytest.raises(Problem):
        keys.admit("k", "use")
    first.release()
    first.release()
    second = keys.admit("k", "use")
    with pytest.raises(Problem):
        keys.admit("k", "use")
    second.release()
