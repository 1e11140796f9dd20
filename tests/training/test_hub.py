"""Corpora on the hub: the real client against a hub of our own on a real port."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pyarrow
import pytest
from pyarrow import parquet

from tests.training.hub_server import Files, Hub, serving
from training import hub as hub_of_corpora
from training.corpus import CorpusError, Source, digests, files, lines, pairs

FIELDS = {"en": "translation.en", "fr": "translation.fr"}


def rows(start: int, stop: int) -> list[dict[str, dict[str, str]]]:
    return [{"translation": {"en": f"sentence {n}", "fr": f"phrase {n}"}} for n in range(start, stop)]


def table(start: int, stop: int) -> bytes:
    out = io.BytesIO()
    parquet.write_table(pyarrow.Table.from_pylist(rows(start, stop)), out, row_group_size=100)
    return out.getvalue()


def json_lines(start: int, stop: int) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows(start, stop))


COMMIT: Files = {
    "README.md": b"# pairs\n",
    "fr-en/train-0.parquet": table(0, 400),
    "fr-en/train-1.parquet": table(400, 700),
    "fr-en/test-0.parquet": table(700, 720),
}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    later = {**COMMIT, "fr-en/train-1.parquet": table(400, 800)}
    hub = Hub(
        {"us/pairs": [COMMIT, later], "us/lines": [{"data.jsonl": json_lines(0, 30), "notes.txt": b"x"}]}
    )
    with serving(hub):
        monkeypatch.setenv("HF_ENDPOINT", hub.address)
        yield hub
    hub_of_corpora._found.cache_clear()


def source(path: str, **more: object) -> Source:
    plain = {"path": path, "name": "test", "licence": "CC0-1.0", "attribution": "us", "fields": FIELDS}
    return msgspec.convert(plain | more, Source)


def test_a_name_is_its_training_files(hub: Hub) -> None:
    found = list(pairs([source("hf://datasets/us/pairs")]))
    assert sorted(found) == sorted((f"sentence {n}", f"phrase {n}") for n in range(800))
    assert found == list(pairs([source("hf://datasets/us/pairs")]))
    # where no file says that it is for training, all that hold records
    assert len(list(pairs([source("hf://datasets/us/lines")]))) == 30


def test_a_pattern_and_a_revision_choose(hub: Hub) -> None:
    first = hub.commit("us/pairs", 0)
    assert len(list(pairs([source(f"hf://datasets/us/pairs@{first}")]))) == 700
    assert len(list(pairs([source("hf://datasets/us/pairs/fr-en/*.parquet")]))) == 820
    assert len(list(pairs([source("hf://datasets/us/pairs/**/test-*")]))) == 20
    assert len(list(pairs([source("hf://datasets/us/pairs@main/fr-en/train-0.parquet", limit=7)]))) == 7


def test_the_hub_reads_as_the_disk_does(hub: Hub, tmp_path: Path) -> None:
    for name, data in hub.repositories["us/pairs"][-1].items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
    here, there = source(str(tmp_path / "fr-en/train-*")), source("hf://datasets/us/pairs")
    for seed in (1, 2):
        one = list(lines([here], language="fr", held_out=0.2, split="train", seed=seed))
        assert one == list(lines([there], language="fr", held_out=0.2, split="train", seed=seed))
    assert (
        digests([here])[0].sha256
        == hashlib.sha256(
            "".join(
                f"{hashlib.sha256(hub.repositories['us/pairs'][-1][f'fr-en/{name}']).hexdigest()}  {name}\n"
                for name in ("train-0.parquet", "train-1.parquet")
            ).encode()
        ).hexdigest()
    )


def test_digests_name_the_commit_and_the_files(hub: Hub) -> None:
    one, two = digests(
        [source("hf://datasets/us/pairs/fr-en/train-0.parquet"), source("hf://datasets/us/pairs")]
    )
    assert one.revision == two.revision == hub.commit("us/pairs", -1)
    data = hub.repositories["us/pairs"][-1]
    assert one.sha256 == hashlib.sha256(data["fr-en/train-0.parquet"]).hexdigest()
    names = ("fr-en/train-0.parquet", "fr-en/train-1.parquet")
    listing = "".join(f"{hashlib.sha256(data[name]).hexdigest()}  {name}\n" for name in names)
    assert two.sha256 == hashlib.sha256(listing.encode()).hexdigest()
    [small] = digests([source("hf://datasets/us/lines/notes.txt")])
    assert small.sha256 == hashlib.sha1(b"blob 1\0x").hexdigest()  # git's own id
    assert hub.served == 0


def test_a_job_keeps_the_commit_it_began_with(hub: Hub) -> None:
    one = source("hf://datasets/us/pairs")
    before = digests([one])
    hub.repositories["us/pairs"].append({"fr-en/train-0.parquet": table(0, 5)})
    hub_moved = hub.commit("us/pairs", -1)
    assert digests([one]) == before
    assert before[0].revision != hub_moved
    assert len(list(pairs([one]))) == 800
    # A new process would see the new commit.
    code = (
        "import msgspec, sys; from training.corpus import Source, digests\n"
        "source = msgspec.json.decode(sys.argv[1], type=Source)\n"
        "print(digests([source])[0].revision)"
    )
    told = subprocess.run(
        [sys.executable, "-c", code, msgspec.json.encode(one).decode()],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert told.stdout.strip() == hub_moved


def test_only_what_is_wanted_is_read(hub: Hub) -> None:
    out = io.BytesIO()
    texts = [f"text {number}" for number in range(100)]
    ballast = [hashlib.sha512(str(number).encode()).hexdigest() * 500 for number in range(100)]
    parquet.write_table(pyarrow.table({"ballast": ballast, "text": texts}), out, compression="none")
    hub.repositories["us/wide"] = [{"a.parquet": out.getvalue()}]
    assert list(lines([source("hf://datasets/us/wide", fields={"en": "text"})])) == texts
    assert 0 < hub.served < len(out.getvalue()) / 2


@pytest.mark.parametrize(
    ("path", "complaint"),
    [
        ("hf://datasets/us/nothing", "us/nothing: the hub does not give it: 401 .*Repository Not Found"),
        ("hf://datasets/us/pairs@v9", "the hub does not give it: 404 .*Revision Not Found"),
        (
            "hf://datasets/us/pairs/de-en/*",
            "no such file at commit [0-9a-f]{40}; there is README.md, fr-en/test",
        ),
        ("hf://datasets/us", "hf://datasets/us: the hub does not give it: .*namespace/name"),
        ("hf://models/us/pairs", "expected hf://datasets/OWNER/NAME"),
    ],
)
def test_what_the_hub_does_not_have(hub: Hub, path: str, complaint: str) -> None:
    with pytest.raises(CorpusError, match=complaint):
        list(pairs([source(path)]))


def test_a_hub_that_refuses_a_file_or_is_away(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    one = source("hf://datasets/us/pairs")
    with pytest.raises(CorpusError, match="source test has no files on this machine"):
        files(one)
    hub.broken = True
    with pytest.raises(CorpusError, match=r"train-\d.parquet: the hub does not give it: .*403 Forbidden"):
        list(pairs([one]))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(CorpusError, match="hf://datasets/us/pairs: the hub does not give it: "):
        list(pairs([one]))


@pytest.mark.parametrize(
    ("package", "path"), [("pyarrow", "a.parquet"), ("huggingface_hub", "hf://datasets/a/b")]
)
def test_what_is_not_installed_is_named(tmp_path: Path, package: str, path: str) -> None:
    (tmp_path / "a.parquet").write_bytes(b"")
    code = (
        f"import sys; sys.modules[{package!r}] = None\n"
        "from training.corpus import Source, lines\n"
        f"source = Source(path={path!r}, name='n', licence='l', attribution='a')\n"
        "list(lines([source]))"
    )
    root = Path(__file__).resolve().parents[2]
    told = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path, env={"PYTHONPATH": str(root)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert told.returncode == 1
    assert told.stderr.splitlines()[-1].endswith(f"pip install {package}")
