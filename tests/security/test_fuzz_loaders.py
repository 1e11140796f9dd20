"""Mutated manifests, tokenizers and graphs: opened or refused with a BundleError, never anything else.

The hashes of the manifest are made to fit the mutated file, as somebody who forges a bundle would; otherwise
every mutation would end at the hash. `make fuzz-loaders` does the same for FUZZ_SECONDS, shared by the files.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import select
import shutil
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from bundle.lexicon import LEXICON
from bundle.manifest import MANIFEST, FileRecord, Manifest, compute_revision, encode
from bundle.neighbours import NEIGHBOURS
from bundle.tokenizer import Tokenizer
from export.neighbours import write_neighbours

SECONDS = float(os.environ.get("VOISIN_FUZZ_SECONDS", "0"))  # for all files together; 0 = a few of each
EXAMPLES = 100 if SECONDS else 25
MODELS = Path(__file__).parents[2] / "models"
PATIENCE = 60.0  # for one bundle; longer is a hang
# larger graphs, with weights outside, whose fast form our own kernels run
SHIPPED = {"shipped-text-en": "text-en", "shipped-fr-en": "fr-en", "shipped-chars-en": "chars-en"}
FILES = {
    "words-en": [MANIFEST, "tokenizer.json", "vectors.onnx", NEIGHBOURS],
    "chars-en": [MANIFEST, "tokenizer.json", "model.onnx"],
    "fr-en": [MANIFEST, "tokenizer.json", "encoder.onnx", "decoder.onnx"],
    "text-en": [LEXICON],
} | {
    bundle: sorted(path.name for path in (MODELS / name).iterdir() if path.suffix in {".onnx", ".bin"})
    for bundle, name in SHIPPED.items()
}
CASES = [(bundle, name) for bundle, names in FILES.items() for name in names]
FEWER = 5  # the shipped ones take a while to open


@pytest.fixture(scope="module")
def bundles(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is mutated: small bundles, with a table of neighbours and a list of words, and some that ship."""
    folder = tmp_path_factory.mktemp("bundles")
    for bundle in FILES:
        source = MODELS / SHIPPED[bundle] if bundle in SHIPPED else models / bundle
        shutil.copytree(source, folder / bundle)
    words = folder / "words-en"
    write_neighbours(words, Tokenizer.load(words / "tokenizer.json"), width=3)
    add(words, NEIGHBOURS)
    (folder / "text-en" / LEXICON).write_text("grand\ngrandmother\nl'\nété\n's\n", encoding="utf-8")
    add(folder / "text-en", LEXICON)
    return folder


def add(folder: Path, name: str) -> None:
    """Tell the manifest of one more file."""
    manifest = msgspec.convert(msgspec.json.decode((folder / MANIFEST).read_bytes()), Manifest)
    raw = (folder / name).read_bytes()
    record = FileRecord(sha256=hashlib.sha256(raw).hexdigest(), size=len(raw))
    manifest = msgspec.structs.replace(manifest, files=manifest.files | {name: record})
    (folder / MANIFEST).write_bytes(encode(manifest))
    forge(folder, name, raw)


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


def mutate_table(raw: bytes, chance: random.Random) -> bytes:
    """A table of neighbours with other numbers in its header or other ids, its length often made to fit."""
    data = bytearray(raw)
    if chance.random() < 0.5:
        fields = list(struct.unpack_from("<4I", data, 8))
        fields[chance.randrange(4)] = chance.choice((0, 1, 2, 3, 255, 2**16, 2**16 + 1, 2**31, 2**32 - 1))
        struct.pack_into("<4I", data, 8, *fields)
        if chance.random() < 0.5:
            width = 2 if fields[1] <= 1 << 16 else 4
            wanted = 32 + min(fields[2] * fields[3] * width, 1 << 20)
            data[32:] = (data[32:] * (wanted // max(len(data) - 32, 1) + 1))[: wanted - 32]
    for _ in range(chance.choice((0, 1, 2, 8))):
        place = chance.randrange(32, max(len(data) - 1, 33))
        data[place : place + 2] = struct.pack("<H", chance.choice((0, 1, 2, 3, 4, 5, 8, 255, 65535)))
    return bytes(data)


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
    if said != "opened" and not said.startswith("refused "):
        kept = Path(tempfile.mkdtemp(prefix="voisin-fuzz-")) / bundle.name
        shutil.copytree(target, kept)
        raise AssertionError(f"{said} (the bundle is kept in {kept})")
    return said


@pytest.mark.parametrize(("bundle", "name"), CASES)
def test_a_mutated_file(bundle: str, name: str, bundles: Path, opener: Opener, tmp_path: Path) -> None:
    raw = (bundles / bundle / name).read_bytes()
    until = time.monotonic() + SECONDS / len(CASES)
    structure = (
        mutate_json if name.endswith(".json") else mutate_table if name == NEIGHBOURS else mutate_bytes
    )
    tally: dict[str, int] = {}

    @settings(
        max_examples=FEWER if bundle in SHIPPED else EXAMPLES,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(st.integers(0, 2**64), st.booleans())
    def mutated(number: int, structured: bool) -> None:
        chance = random.Random(number)
        mutate = structure if structured else mutate_bytes
        said = try_one(opener, bundles / bundle, tmp_path, name, mutate(raw, chance))
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
