"""Clients that dawdle, flood, or do not listen: each is let go, and nobody else notices."""

from __future__ import annotations

import json
import socket
import sys
import threading
import time
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path

import psutil
import pytest

from tests.faults.watching import hear_out, started, until
from tests.service.making import HOST, Service

PATIENCE = 0.6


@pytest.fixture(scope="module")
def service(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with started(models, tmp_path_factory.mktemp("log") / "log", client_seconds=PATIENCE) as service:
        yield service
        assert service.get("/ping").status == 200
        assert not [line for line in service.lines() if line["level"] == "error"]


def connections(service: Service) -> int:
    found = psutil.Process(service.process.pid).net_connections("tcp")
    return sum(each.status != psutil.CONN_LISTEN for each in found)


def dribble(connection: socket.socket, head: bytes, more: bytes, pause: float = 0.05) -> bytes:
    """Send more and more until the other side has had enough; what it said."""
    connection.sendall(head)

    def send() -> None:
        try:
            for _ in range(2000):
                connection.sendall(more)
                time.sleep(pause)
        except OSError:
            return

    sender = threading.Thread(target=send)
    sender.start()
    heard = hear_out(connection)
    connection.close()
    sender.join()
    return heard


def problem(heard: bytes) -> tuple[str, dict[str, object]]:
    """Status line and problem of a raw answer, which says that the connection is over."""
    head, _, body = heard.partition(b"\r\n\r\n")
    assert b"connection: close" in head.lower()
    return head.split(b"\r\n")[0].decode(), json.loads(body)


def test_a_connection_on_which_nothing_comes(service: Service) -> None:
    with service.raw(b"") as connection:
        assert hear_out(connection) == b""


def test_a_head_that_comes_byte_by_byte(service: Service) -> None:
    with service.raw(b"") as connection:
        status, body = problem(dribble(connection, b"GET /ping HTTP/1.1\r\nX-A: ", b"a"))
    assert status == "HTTP/1.1 408 Request Timeout"
    assert (body["code"], body["limit"]) == ("too_slow", PATIENCE)


def test_a_second_head_that_does_not_end(service: Service) -> None:
    with service.raw(b"GET /ping HTTP/1.1\r\nHost: a\r\n\r\n") as connection:
        heard = b""
        while not heard.endswith(b"}"):  # head and body may come one by one
            heard += connection.recv(65536)
        assert heard.startswith(b"HTTP/1.1 200")
        status, _ = problem(dribble(connection, b"GET /pi", b""))
    assert status == "HTTP/1.1 408 Request Timeout"


def test_headers_without_end(service: Service) -> None:
    with service.raw(b"") as connection:
        status, body = problem(
            dribble(connection, b"GET /ping HTTP/1.1\r\n", b"X-A: " + b"a" * 9000 + b"\r\n", 0)
        )
    assert status == "HTTP/1.1 431 Request Header Fields Too Large"
    assert body["code"] == "head_too_large"


@pytest.mark.parametrize("path", ["/complete", "/translate", "/v1/embeddings"])
@pytest.mark.parametrize("framing", [b"Content-Length: 1000", b"Transfer-Encoding: chunked"])
def test_a_body_that_never_ends(service: Service, path: str, framing: bytes) -> None:
    before = service.metric("voisin_inflight_requests", task="complete")
    head = b"POST %b HTTP/1.1\r\nHost: a\r\n%b\r\n\r\n" % (path.encode(), framing)
    more = b"1\r\n \r\n" if b"chunked" in framing else b" "
    with service.raw(b"") as connection:
        status, body = problem(dribble(connection, head, more))
    assert status == "HTTP/1.1 408 Request Timeout"
    error = body.get("error")
    assert "too_slow" in (body.get("code"), error["code"] if isinstance(error, dict) else None)
    until(lambda: service.metric("voisin_inflight_requests", task="complete") == before)


def test_a_body_without_bound(service: Service) -> None:
    with service.raw(b"") as connection:
        heard = dribble(
            connection,
            b"POST /complete HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
            b"ffff\r\n" + b"a" * 0xFFFF + b"\r\n",
            0,
        )
    assert heard.startswith(b"HTTP/1.1 413")


def test_trailers_without_end(service: Service) -> None:
    """They are no body, so the bound of the body does not count them; neither may they fill the memory."""
    process = psutil.Process(service.process.pid)
    before = process.memory_info().rss
    with service.raw(b"") as connection:
        dribble(
            connection,
            b"POST /complete HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n",
            b"X-A: " + b"a" * 60_000 + b"\r\n",
            0,
        )
    assert process.memory_info().rss - before < 200 * 2**20


def test_an_answer_that_nobody_reads(service: Service) -> None:
    """The kernel would keep it for as long as the client lives; the service gives it up."""
    rest = connections(service)
    deaf = socket.socket()
    deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    deaf.connect((HOST, service.port))
    asked = b"GET /schema/openapi.json HTTP/1.1\r\nHost: a\r\n\r\n"
    deaf.sendall(asked * 400)
    until(lambda: connections(service) > rest)
    until(lambda: connections(service) <= rest)
    deaf.close()


def test_a_stream_that_nobody_reads_frees_its_rows(service: Service) -> None:
    deaf = socket.socket()
    deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    deaf.connect((HOST, service.port))
    query = b"prompt=a&model=slow-xx&max_tokens=3900&temperature=1&seed=8&stream=true"
    deaf.sendall(b"GET /complete?%b HTTP/1.1\r\nHost: a\r\n\r\n" % query)
    until(lambda: service.metric("voisin_backlog_requests") == 1)
    deaf.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
    deaf.close()  # a reset, as of a machine that was switched off and on
    until(lambda: service.metric("voisin_backlog_requests") == 0)


def test_who_is_slow_but_honest_is_served(service: Service) -> None:
    """Pauses between requests are not dawdling, and a body may come in parts."""
    connection = HTTPConnection(HOST, service.port, timeout=10)
    for _ in range(2):
        connection.request("GET", "/ping")
        assert connection.getresponse().read() == b'{"ping":"pong"}'
        time.sleep(2 * PATIENCE)
    body = b'{"prompt": "the gran", "lang": "en"}'
    connection.putrequest("POST", "/complete")
    connection.putheader("Content-Length", str(len(body)))
    connection.endheaders()
    connection.send(body[:9])
    time.sleep(PATIENCE / 4)
    connection.send(body[9:])
    assert connection.getresponse().status == 200
    connection.close()


def test_two_hundred_slow_ones_and_everybody_else(service: Service) -> None:
    """Slow loris: as many half-sent heads as one likes do not keep others from their answers."""
    slow = [service.raw(b"GET /ping HTTP/1.1\r\nX-A: a") for _ in range(200)]
    for _ in range(20):
        assert service.get("/similar", word="king").status == 200
    assert service.get("/health/live").status == 200
    for connection in slow:
        assert hear_out(connection).startswith(b"HTTP/1.1 408")
        connection.close()
    until(lambda: connections(service) <= 1)


def test_more_connections_than_file_descriptors(models: Path, tmp_path: Path) -> None:
    """Who comes too late is told so with a Retry-After; when others leave there is room again."""
    program = ("prlimit", "--nofile=160:160", sys.executable, "-W", "error", "-m", "service")
    with started(models, tmp_path / "log", program=program) as service:
        held: list[HTTPConnection] = []
        while True:
            connection = HTTPConnection(HOST, service.port, timeout=10)
            connection.request("GET", "/ping")
            answer = connection.getresponse()
            body = answer.read()
            if answer.status == 503:
                break
            held.append(connection)
            assert len(held) < 160
        connection.close()
        assert json.loads(body)["code"] == "too_many_connections"
        assert answer.getheader("retry-after") == "1"
        # those who are in are served, whatever is before the door
        crowd = [service.raw(b"GET /ping HTTP/1.1\r\nHost: a\r\n\r\n") for _ in range(100)]
        for connection in held[-5:]:
            connection.request("GET", "/similar?word=king")
            assert connection.getresponse().read().startswith(b'{"word":"king"')
        told = [hear_out(each) for each in crowd]
        assert all(each.startswith(b"HTTP/1.1 503") for each in told)
        for each in (*held, *crowd):
            each.close()
        until(lambda: _answers(service))
        assert service.metric("voisin_rejected_total", task="other", reason="connections") >= 101
        assert service.stop() == 0
        assert not [line for line in service.lines() if line["level"] == "error"]


def _answers(service: Service) -> bool:
    try:
        return service.get("/ping").status == 200
    except OSError:
        return False
