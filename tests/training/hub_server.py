"""A hub of our own on a real port: the calls that huggingface_hub makes to find and read data sets."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar
from urllib.parse import parse_qs, unquote, urlsplit

LFS_FROM = 2000  # bytes; the hub keeps what is larger outside git

Files = dict[str, bytes]


@dataclass
class Hub:
    """Data sets by name, each a list of commits, the last of which is `main`."""

    repositories: dict[str, list[Files]] = field(default_factory=dict)
    address: str = ""
    served: int = 0
    """Bytes of files given away."""
    broken: bool = False
    """Whether files are refused."""

    def commit(self, repository: str, place: int) -> str:
        return hashlib.sha1(f"{repository} {place % len(self.repositories[repository])}".encode()).hexdigest()

    def at(self, repository: str, revision: str) -> Files | None:
        commits = self.repositories.get(repository, [])
        names = {self.commit(repository, place): files for place, files in enumerate(commits)}
        return commits[-1] if revision == "main" and commits else names.get(revision)

    def resolved(self, repository: str, revision: str) -> str:
        return self.commit(repository, -1) if revision == "main" else revision


def entry(path: str, data: bytes) -> dict[str, object]:
    blob = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
    plain: dict[str, object] = {"type": "file", "path": path, "size": len(data), "oid": blob}
    if len(data) >= LFS_FROM:
        sha256 = hashlib.sha256(data).hexdigest()
        plain["lfs"] = {"oid": sha256, "size": len(data), "pointerSize": 130}
    return plain


def tree(files: Files, folder: str, *, recursive: bool) -> list[dict[str, object]]:
    prefix = f"{folder}/" if folder else ""
    inside = {path: data for path, data in files.items() if path.startswith(prefix)}
    found = [
        entry(path, data)
        for path, data in inside.items()
        if recursive or "/" not in path.removeprefix(prefix)
    ]
    depths = {path.rsplit("/", 1)[0] for path in inside if "/" in path.removeprefix(prefix)}
    folders = {"/".join(each.split("/")[: end + 1]) for each in depths for end in range(each.count("/") + 1)}
    folders = {each for each in folders if each.startswith(prefix)}
    if not recursive:
        folders = {each for each in folders if "/" not in each.removeprefix(prefix)}
    found += [{"type": "directory", "path": each, "size": 0, "oid": "0" * 40} for each in sorted(folders)]
    return found


class Handler(BaseHTTPRequestHandler):
    hub: ClassVar[Hub]
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self._route(parse_qs(body.decode()))

    def do_GET(self) -> None:
        self._route({})

    def _route(self, form: dict[str, list[str]]) -> None:
        parts = urlsplit(self.path)
        path, query = unquote(parts.path), parse_qs(parts.query)
        if match := re.fullmatch(
            r"/api/datasets/(\w+/\w+)(?:/(revision|tree|paths-info)/(\w+)/?(.*))?", path
        ):
            self._api(*match.groups(), query=query, form=form)
        elif match := re.fullmatch(r"/datasets/(\w+/\w+)/resolve/(\w+)/(.*)", path):
            self._file(*match.groups())
        else:
            self._refuse(404, "EntryNotFound")

    def _api(
        self,
        repository: str,
        what: str | None,
        revision: str | None,
        path: str | None,
        *,
        query: dict[str, list[str]],
        form: dict[str, list[str]],
    ) -> None:
        revision = revision or "main"
        files = self.hub.at(repository, revision)
        if repository not in self.hub.repositories:
            self._refuse(401, "RepoNotFound")
        elif files is None:
            self._refuse(404, "RevisionNotFound")
        elif what == "tree":
            found = tree(files, path or "", recursive=query.get("recursive", ["false"])[0].lower() == "true")
            self._json(found) if found else self._refuse(404, "EntryNotFound")
        elif what == "paths-info":
            wanted = form.get("paths", [])
            entries = tree(files, "", recursive=True)
            self._json([each for each in entries if each["path"] in wanted])
        else:
            siblings = [{"rfilename": name} for name in files]
            sha = self.hub.resolved(repository, revision)
            self._json({"_id": "0", "id": repository, "sha": sha, "siblings": siblings, "tags": []})

    def _file(self, repository: str, revision: str, path: str) -> None:
        data = (self.hub.at(repository, revision) or {}).get(path)
        if data is None or self.hub.broken:
            self._refuse(404 if data is None else 403, "EntryNotFound" if data is None else "Forbidden")
            return
        start, end = 0, len(data) - 1
        if wanted := re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", "")):
            start, end = int(wanted[1]), min(int(wanted[2]), end)
        part = data[start : end + 1]
        self.send_response(206 if wanted else 200)
        self.send_header("Content-Length", str(len(part)))
        if wanted:
            self.send_header("Content-Range", f"bytes {start}-{end}/{len(data)}")
        self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
        self.send_header("X-Repo-Commit", self.hub.resolved(repository, revision))
        self.end_headers()
        if self.command != "HEAD":
            self.hub.served += len(part)
            self.wfile.write(part)

    def _json(self, value: object) -> None:
        self._send(200, json.dumps(value).encode(), {})

    def _refuse(self, status: int, code: str) -> None:
        self._send(status, b'{"error":"no"}', {"X-Error-Code": code, "X-Error-Message": code})

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Type": "application/json"}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


@contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    handler = type("HubHandler", (Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    hub.address = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
