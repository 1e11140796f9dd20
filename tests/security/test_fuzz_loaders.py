"""Mutated manifests, tokenizers and graphs: opened or refused with a BundleError, never anything else.

The hashes of the manifest are made to fit the mutated file, as somebody who forges a bundle would; otherwise
every mutation would end at the hash. `make fuzz-loaders` does the same for minutes.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from bundle.manifest import MANIFEST, Manifest, compute_revision, encode

SECONDS = float(os.environ.get("VOISIN_FUZZ_SECONDS", "0"))
EXAMPLES = 400 if SECONDS else 25
PATIENCE = 60.0  # for one bundle; longer is a hang
BUNDLES = ("words-en", "chars-en", "fr-en")


class Opener:
    """The process that opens, started again when a bundle has brought it down."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def outcome(self, folder: Path) -> str:
        process = self._process or self._start()
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(os.fsencode(folder) + b"\n")
        process.stdin.flush()
        ready, _, _ = select.select([process.stdout], [], [], PATIENCE)
        said = process.stdout.readline().decode().strip() if ready else ""
        if said:
            return said
        self.stop()
        return "hung" if not ready else f"crashed {process.returncode}"

    def _start(self) -> subprocess.Popen[bytes]:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.security.opener"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        return self._process

    def stop(self) -> None:
        if self._process is not None:
            assert self._process.stdin is not None
            assert self._process.stdout is not None
            self._process.kill()
            self._process.wait()
            self._process.stdin.close()
            self._process.stdout.close()
            self._process = None


@pytest.fixture(scope="module")
def opener() -> Iterator[Opener]:
    opener = Opener()
    yield opener
    opener.stop()


def mutate_bytes(raw: bytes, chance: random.Random) -> bytes:
    """Some flips, cuts, insertions, repetitions and numbers out of all bounds."""
    data = bytearray(raw)
    for _ in range(chance.choice((1, 1, 1, 2, 4, 16))):
        place = chance.randrange(len(data) + 1)
        span = chance.choice((1, 1, 2, 4, 8, 64, 4096))
        match chance.randrange(6):
            case 0 if data:
                data[min(place, len(data) - 1)] ^= 1 << chance.randrange(8)
            case 1:
                del data[place : place + span]
            case 2:
                data[place:place] = chance.randbytes(span)
            case 3:
                data[place:place] = data[place : place + span]
            case 4:
                extreme = chance.choice((b"\xff" * 8, b"\x00" * 8, b"\xff" * 9 + b"\x01", b"\x80" * 10))
                data[place : place + len(extreme)] = extreme
            case _:
                del data[place:]
    return bytes(data)


EXTREMES: tuple[Any, ...] = (
    None, True, 0, -1, 1, 2**31, 2**63, 2**64, -(2**63), 10**400, 0.5, 1e308, "", "a", "../../etc/passwd",
    "\x00", "é" * 300, [], {}, [[]], "inf", "<unk>",
)  # fmt: skip


def mutate_json(raw: bytes, chance: random.Random) -> bytes:
    """One or a few members replaced, removed, renamed or doubled."""
    plain = json.loads(raw)
    for _ in range(chance.choice((1, 1, 1, 2, 5))):
        places: list[tuple[Any, Any]] = []
        _collect(plain, places)
        owner, key = chance.choice(places)
        match chance.randrange(5):
            case 0:
                del owner[key]
            case 1 if isinstance(owner, dict):
                owner[str(chance.choice(EXTREMES))] = owner.pop(key)
            case 2 if isinstance(owner, list):
                owner.insert(key, owner[key])
            case 3:
                other, name = chance.choice(places)
                if name in other if isinstance(other, dict) else name < len(other):
                    owner[key] = json.loads(json.dumps(other[name]))
            case _:
                owner[key] = chance.choice(EXTREMES)
        if not plain:
            break
    return json.dumps(plain, ensure_ascii=False).encode("utf-8", "surrogatepass")


def _collect(value: Any, places: list[tuple[Any, Any]]) -> None:
    members = (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    )
    for key, member in members:
        places.append((value, key))
        _collect(member, places)


def forge(folder: Path, name: str, raw: bytes) -> None:
    """Put a mutated file in its place, and let the manifest agree with it where that can be."""
    (folder / name).write_bytes(raw)
    path = folder / MANIFEST
    try:
        manifest = msgspec.convert(msgspec.json.decode(path.read_bytes()), Manifest)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return  # refused for what it is
    files = dict(manifest.files)
    if name != MANIFEST:
        files[name] = msgspec.structs.replace(
            files[name], sha256=hashlib.sha256(raw).hexdigest(), size=len(raw)
        )
    manifest = msgspec.structs.replace(manifest, files=files)
    try:
        manifest = msgspec.structs.replace(manifest, revision=compute_revision(manifest))
        path.write_bytes(encode(manifest))
    except (TypeError, ValueError, OverflowError):
        return


def try_one(opener: Opener, bundle: Path, scratch: Path, name: str, raw: bytes) -> str:
    target = scratch / bundle.name
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(bundle, target)
    forge(target, name, raw)
    said = opener.outcome(target)
    assert said == "opened" or said.startswith("refused "), said
    return said


def files_of(bundle: str) -> list[str]:
    graphs = {
        "words-en": ["vectors.onnx"],
        "chars-en": ["model.onnx"],
        "fr-en": ["encoder.onnx", "decoder.onnx"],
    }
    return [MANIFEST, "tokenizer.json", *graphs[bundle]]


CASES = [(bundle, name) for bundle in BUNDLES for name in files_of(bundle)]


@pytest.mark.parametrize(("bundle", "name"), CASES)
def test_a_mutated_file(bundle: str, name: str, models: Path, opener: Opener, tmp_path: Path) -> None:
    raw = (models / bundle / name).read_bytes()
    until = time.monotonic() + SECONDS
    tally: dict[str, int] = {}

    @settings(
        max_examples=EXAMPLES, deadline=None, database=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(st.integers(0, 2**64), st.booleans())
    def mutated(number: int, structured: bool) -> None:
        chance = random.Random(number)
        mutate = mutate_json if structured and name.endswith(".json") else mutate_bytes
        said = try_one(opener, models / bundle, tmp_path, name, mutate(raw, chance))
        tally[said.split()[0]] = tally.get(said.split()[0], 0) + 1

    if not SECONDS:
        seed(20)(mutated)()  # the same mutations in every run of the suite
    while time.monotonic() < until:
        seed(random.randrange(2**32))(mutated)()
    assert tally.get("refused", 0) > 0
    if SECONDS:
        print(f"\n{bundle}/{name}: {tally}")


DEEP = [b"[" * 100_000, b'{"a":' * 100_000, b'{"format": 1, "kind": ' + b"[" * 50_000]


@pytest.mark.parametrize("raw", [b"", b"null", b"[]", b"{}", b"\xff", b"\xef\xbb\xbf{}", b"1e999", *DEEP])
@pytest.mark.parametrize("name", [MANIFEST, "tokenizer.json"])
def test_what_is_not_json_of_ours(
    raw: bytes, name: str, models: Path, opener: Opener, tmp_path: Path
) -> None:
    assert try_one(opener, models / "words-en", tmp_path, name, raw).startswith("refused ")


@pytest.mark.parametrize(
    "raw", [b"", b"\x08", b"PK\x03\x04", b"\x80\x04\x95", bytes(100_000), b"\xff" * 5000]
)
@pytest.mark.parametrize(("bundle", "name"), [("words-en", "vectors.onnx"), ("fr-en", "decoder.onnx")])
def test_what_is_no_graph(
    raw: bytes, bundle: str, name: str, models: Path, opener: Opener, tmp_path: Path
) -> None:
    assert try_one(opener, models / bundle, tmp_path, name, raw).startswith("refused ")


@pytest.mark.parametrize("id", [2**31, 2**32 - 1, 100_000])
@pytest.mark.parametrize("bundle", ["words-en", "chars-en"])
def test_an_id_out_of_all_bounds(id: int, bundle: str, models: Path, opener: Opener, tmp_path: Path) -> None:
    """Found by fuzzing: the tokenizers library counts up to the highest id, which took minutes."""
    plain = json.loads((models / bundle / "tokenizer.json").read_bytes())
    vocabulary = plain["model"]["vocab"]
    vocabulary[list(vocabulary)[-1]] = id
    raw = json.dumps(plain).encode()
    assert try_one(opener, models / bundle, tmp_path, "tokenizer.json", raw).startswith("refused ")
