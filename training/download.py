"""Corpora at an address on the web, fetched once and known by their sha256."""

from __future__ import annotations

import hashlib
import http.client
import os
import tempfile
import urllib.error
import urllib.request
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import IO
from urllib.parse import unquote, urlsplit

from tqdm import tqdm

from training.shards import CorpusError

_TIMEOUT = 60.0  # seconds without a byte
_CHUNK = 1 << 20


def folder() -> Path:
    """Where fetched corpora are kept: VOISIN_CORPORA, or voisin/corpora in the user's cache folder."""
    if chosen := os.environ.get("VOISIN_CORPORA"):
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "voisin" / "corpora"


def fetch(address: str, sha256: str) -> Path:
    """The file at an http(s) address, from the folder of fetched corpora or else from there.

    It is complete and of that sha256 (hexadecimal), or it is not kept. A file that was fetched before is
    hashed again, once a process.

    Raises: CorpusError where the address does not answer, breaks off or holds something else.
    """
    if urlsplit(address).scheme not in ("http", "https"):  # urllib would open file: and ftp:, too
        raise CorpusError(address, "is no http or https address")
    name = PurePosixPath(unquote(urlsplit(address).path)).name or "corpus"
    path = folder() / sha256[:16] / name
    try:
        if path.is_file() and _hashed(path, path.stat().st_mtime_ns) == sha256:
            return path
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, part = tempfile.mkstemp(prefix=".part-", dir=path.parent)
        try:
            with os.fdopen(descriptor, "wb") as file:
                found = _download(address, file)
            if found != sha256:
                raise CorpusError(address, f"has the sha256 {found}, the recipe says {sha256}")
            os.replace(part, path)
        finally:
            Path(part).unlink(missing_ok=True)
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise CorpusError(address, f"cannot be fetched: {_said(error)}") from error
    return path


def _download(address: str, file: IO[bytes]) -> str:
    """Writes what the address holds and returns its sha256."""
    digest = hashlib.sha256()
    with urllib.request.urlopen(address, timeout=_TIMEOUT) as response:
        total = int(response.headers.get("Content-Length") or 0)
        with tqdm(total=total or None, desc=address, unit="B", unit_scale=True) as bar:
            while data := response.read(_CHUNK):
                digest.update(data)
                file.write(data)
                bar.update(len(data))
            if total and bar.n != total:
                raise CorpusError(address, f"broke off after {bar.n:,} of {total:,} bytes")
    return digest.hexdigest()


@lru_cache(maxsize=1024)
def _hashed(path: Path, _changed: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _said(error: Exception) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return f"{error.code} {error.reason}"
    if isinstance(error, urllib.error.URLError):
        return str(error.reason)
    return (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
