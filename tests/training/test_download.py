"""Corpora at an address: fetched once, from a real server, and only if they are what the recipe says."""

from __future__ import annotations

import gzip
import hashlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import msgspec
import pytest

from training.config import RecipeError, load_recipe
from training.corpus import CorpusError, Source, digests, files, lines

TEXT = gzip.compress(b"one\ntwo\n", mtime=0)


@dataclass
class Web:
    address: str = ""
    asked: list[str] = field(default_factory=list)


@pytest.fixture
def web(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    web = Web()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

        def do_GET(self) -> None:
            web.asked.append(self.path)
            if self.path == "/moved.txt.gz":
                self.send_response(302)
                self.send_header("Location", "/text.txt.gz?token=1")
                self.end_headers()
                return
            known = self.path.startswith(("/text.txt.gz", "/short.txt.gz"))
            self.send_response(200 if known else 404)
            body = TEXT if known else b"no"
            self.send_header("Content-Length", str(len(body) + (9 if "short" in self.path else 0)))
            self.end_headers()
            self.wfile.write(body)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    web.address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setenv("VOISIN_CORPORA", str(tmp_path / "corpora"))
    yield web
    server.shutdown()
    server.server_close()
    thread.join()


def source(path: str, sha256: str = hashlib.sha256(TEXT).hexdigest()) -> Source:
    plain = {"path": path, "name": "test", "licence": "l", "attribution": "a", "sha256": sha256}
    return msgspec.convert(plain, Source)


def test_an_address_is_fetched_once(web: Web, tmp_path: Path) -> None:
    one = source(f"{web.address}/text.txt.gz")
    assert list(lines([one])) == ["one", "two"]
    assert list(lines([one])) == ["one", "two"]
    [digest] = digests([one])
    assert digest.sha256 == one.sha256
    assert web.asked == ["/text.txt.gz"]
    [path] = files(one)
    assert path.is_relative_to(tmp_path / "corpora")
    assert path.read_bytes() == TEXT
    path.write_bytes(b"something else")  # what is kept is not trusted either
    assert list(lines([one])) == ["one", "two"]
    assert len(web.asked) == 2


def test_redirections_are_followed(web: Web) -> None:
    assert list(lines([source(f"{web.address}/moved.txt.gz")])) == ["one", "two"]


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("none.txt", "cannot be fetched: 404 Not Found"),
        ("short.txt.gz", "(broke off after 28 of 37 bytes|cannot be fetched: IncompleteRead.*)"),
    ],
)
def test_what_cannot_be_fetched_leaves_nothing(web: Web, tmp_path: Path, name: str, complaint: str) -> None:
    with pytest.raises(CorpusError, match=rf"{web.address}/{name}: {complaint}"):
        list(lines([source(f"{web.address}/{name}")]))
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_another_text_is_refused(web: Web, tmp_path: Path) -> None:
    found = hashlib.sha256(TEXT).hexdigest()
    with pytest.raises(CorpusError, match=f"has the sha256 {found}, the recipe says {'0' * 64}"):
        digests([source(f"{web.address}/text.txt.gz", "0" * 64)])
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_no_server_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VOISIN_CORPORA", str(tmp_path))
    with pytest.raises(CorpusError, match=r"http://127\.0\.0\.1:9/a.txt: cannot be fetched: .*refused"):
        files(source("http://127.0.0.1:9/a.txt"))


@pytest.mark.parametrize(
    ("path", "sha256", "complaint"),
    [
        ("https://example.org/a.txt", "", "an address needs the sha256"),
        ("https://example.org/a.txt", "A" * 64, "an address needs the sha256"),
        ("a.txt", "0" * 64, "sha256 is for http"),
        ("hf://datasets/a/b", "0" * 64, "sha256 is for http"),
        ("s3://bucket/a.txt", "", "s3:// is not read"),
    ],
)
def test_a_place_that_makes_no_sense_is_refused(path: str, sha256: str, complaint: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=complaint):
        source(path, sha256)


def test_a_recipe_may_name_an_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SITE", "https://example.org")
    path = tmp_path / "recipe.toml"
    path.write_text(
        f"""
        kind = "language"
        name = "web"
        languages = ["en"]
        [corpus]
        sources = [
            {{ path = "${{SITE}}/a.txt", sha256 = "{"0" * 64}", name = "n", licence = "", attribution = "" }},
            {{ path = "hf://datasets/us/pairs@main", name = "n", licence = "l", attribution = "" }},
        ]
        [model]
        architecture = "rnn"
        """
    )
    one, two = load_recipe(path).corpus.sources
    assert (one.path, two.path) == ("https://example.org/a.txt", "hf://datasets/us/pairs@main")
    monkeypatch.setenv("SITE", "/data")
    with pytest.raises(RecipeError, match=r"corpus.sources\[0\]: sha256 is for http"):
        load_recipe(path)
