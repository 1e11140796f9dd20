"""The folder of a bundle is replaced under a running service: the old one goes on, whole, until a restart."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path

from bundle.errors import BundleError
from bundle.load import open_bundle
from bundle.manifest import Decoding, Limits, read_manifest
from bundle.vectors import Vectors
from tests.bundle.conftest import _golden, write_bundle
from tests.bundle.forms import build_form
from tests.faults.watching import FRESH, started
from tests.service.making import Answered, Service
from training.tokenizer import listed, save

ASKED = ("abc de", "gfe dcb a", "a. b. c.", "ddd")


def another(folder: Path, scratch: Path) -> Path:
    """A fr-en of other weights."""
    letters = listed(list("abcdefg "), level="char")
    write_bundle(
        folder,
        kind="translator",
        level="char",
        tokenizer=lambda path: save(letters, path),
        graphs=build_form("translator", scratch, seed=77).files,
        languages=("fr", "en"),
        limits=Limits(prompt_tokens=40, new_tokens=24),
        decoding=Decoding(beam=3),
        golden=_golden,
    )
    return folder


def words(service: Service) -> Answered:
    return service.ask("GET", "/similar?word=king&topn=30", headers=FRESH)


def translations(service: Service) -> list[tuple[str, bytes]]:
    answers = [
        service.post("/translate", {"q": q, "source": "fr", "target": "en", "scores": True}, **FRESH)
        for q in ASKED
    ]
    assert {each.status for each in answers} == {200}
    return [(each.headers["x-model-revision"], each.body) for each in answers]


def test_a_folder_replaced_while_it_is_served(models: Path, tmp_path: Path) -> None:
    served, old, new = tmp_path / "served", tmp_path / "old", tmp_path / "new"
    for name in ("fr-en", "words-en"):
        shutil.copytree(models / name, served / name)
    (tmp_path / "scratch").mkdir()
    another(new / "fr-en", tmp_path / "scratch")
    settings = {"canary_seconds": 0.2}
    with started(served, tmp_path / "log", **settings) as service:
        before, neighbours = translations(service), words(service).body

        def still_the_same() -> None:
            assert translations(service) == before
            assert words(service).body == neighbours
            assert service.get("/health/ready").status == 200

        served.rename(old)
        still_the_same()
        shutil.copytree(new / "fr-en", served / "fr-en")
        shutil.copytree(old / "words-en", served / "words-en")
        still_the_same()
        for file in (old / "fr-en").iterdir():  # and even what is written over in place
            file.write_bytes(b"\0" * 64)
        shutil.rmtree(old / "fr-en")
        still_the_same()
        assert service.stop() == 0
    with started(served, tmp_path / "again", **settings) as service:
        after = translations(service)
        assert {revision for revision, _ in after} == {read_manifest(served / "fr-en").revision}
        assert {revision for revision, _ in after}.isdisjoint({revision for revision, _ in before})
        assert [body for _, body in after] != [body for _, body in before]
        assert words(service).body == neighbours


def test_opened_while_it_is_replaced_it_is_one_or_the_other(models: Path, tmp_path: Path) -> None:
    """Whatever moment the swap falls on: the old, the new, or a refusal, never the files of both."""
    (tmp_path / "scratch").mkdir()
    folder, spare = tmp_path / "fr-en", tmp_path / "spare"
    shutil.copytree(models / "fr-en", folder)
    another(spare, tmp_path / "scratch")
    known = {}
    for place in (folder, spare):
        model = open_bundle(place)
        assert not isinstance(model, Vectors)
        known[model.manifest.revision] = [model.translate(q).text for q in ASKED]  # type: ignore[union-attr]
    assert len(known) == 2
    stop = threading.Event()

    def swap() -> None:
        while not stop.is_set():
            folder.rename(tmp_path / "aside")
            spare.rename(folder)
            (tmp_path / "aside").rename(spare)

    swapping = threading.Thread(target=swap)
    swapping.start()
    opened = refused = 0
    try:
        for _ in range(150):
            try:
                model = open_bundle(folder)
            except BundleError:
                refused += 1
                continue
            opened += 1
            assert [model.translate(q).text for q in ASKED] == known[model.manifest.revision]  # type: ignore[union-attr]
    finally:
        stop.set()
        swapping.join()
    assert refused
    assert opened + refused == 150
