"""A bundle of both forms: the graphs of each, their weights once, and the one that fits the machine."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest

from bundle.errors import BundleError
from bundle.language import CompletionOptions, Language
from bundle.load import open_bundle
from bundle.manifest import FAST_GRAPHS, GRAPHS, encode, read_manifest
from bundle.stepper import Prompt
from bundle.translator import TranslationOptions, Translator
from export.pipeline import Forms, export_run

MakeRun = Callable[..., Path]
Folders = dict[Forms, Path]

KINDS = [("language", "transformer"), ("translator", "transformer"), ("language", "lstm")]


@pytest.fixture(scope="module", params=KINDS, ids=" ".join)
def folders(
    request: pytest.FixtureRequest, make_run: MakeRun, tmp_path_factory: pytest.TempPathFactory
) -> Folders:
    """The same run exported in every form, in 8 bits; wide enough for weights to be worth sharing."""
    # of a stack of recurrent layers the fast form joins matrices, so that only those of the first are shared
    run = make_run(*request.param, hidden=64, layers=1)
    place = tmp_path_factory.mktemp("forms")
    made: Folders = {}
    for form in ("plain", "fast", "both"):
        made[form] = export_run(run, place / form, precision="int8", form=form, name="it").folder
    return made


def answer(model: Language | Translator) -> tuple[str, float]:
    if isinstance(model, Translator):
        translation = model.translate("the sea", TranslationOptions(beam=4))
        return translation.text, translation.score
    [completion] = model.complete("the sea", CompletionOptions(max_tokens=12, beam=1, temperature=0.0))
    return completion.text, completion.logprob


def opened(folder: Path, **wishes: object) -> Language | Translator:
    model = open_bundle(folder, **wishes)  # type: ignore[arg-type]
    assert isinstance(model, Language | Translator)
    return model


def test_it_says_so(folders: Folders) -> None:
    manifest = read_manifest(folders["both"])
    assert (manifest.format, manifest.form) == (4, "both")
    assert set(GRAPHS[manifest.kind]) | set(FAST_GRAPHS[manifest.kind]) <= set(manifest.files)
    assert manifest.golden
    assert manifest.golden_fast
    # each form was proved by itself
    plain, fast = (read_manifest(folders[form]).parity for form in ("plain", "fast"))
    assert set(manifest.parity) == set(plain) | {f"fast_{name}" for name in fast}


def test_matrices_are_stored_once(folders: Folders) -> None:
    def matrices(form: Forms) -> int:
        return sum(
            path.stat().st_size for path in folders[form].iterdir() if path.suffix in (".onnx", ".bin")
        )

    # what is in one graph alone is its nodes and small weights, a recurrent network's table among them
    shared = (folders["both"] / "shared.bin").stat().st_size
    assert shared >= 64 * 4 * 64
    assert matrices("both") <= matrices("plain") + matrices("fast") - shared + 4096


def test_the_fast_graphs_answer_on_a_cpu(folders: Folders) -> None:
    both = folders["both"]
    assert answer(opened(both)) == answer(opened(both, form="fast")) == answer(opened(folders["fast"]))
    assert opened(both, device="auto").provider.startswith("CPU")


def test_the_plain_graphs_are_those_of_a_plain_bundle(folders: Folders) -> None:
    models = [opened(folders["both"], form="plain"), opened(folders["plain"])]
    assert answer(models[0]) == answer(models[1])
    source = (4, 5, 2) if isinstance(models[0], Translator) else ()
    one, other = (model.stepper.score([Prompt((1, 5, 6, 7), source)])[0] for model in models)
    assert np.array_equal(one, other)


@pytest.mark.parametrize("form", ["plain", "fast"])
def test_a_bundle_of_one_form_has_no_other(folders: Folders, form: Forms) -> None:
    other = "fast" if form == "plain" else "plain"
    assert answer(opened(folders[form], form=form)) == answer(opened(folders[form]))
    with pytest.raises(ValueError, match=f"has no {other} form"):
        open_bundle(folders[form], form=other)


def test_each_form_has_golden_answers_of_its_own(folders: Folders, tmp_path: Path) -> None:
    folder = tmp_path / "it"
    shutil.copytree(folders["both"], folder)
    manifest = read_manifest(folder)
    assert manifest.golden_fast
    for field, checked in (("golden", "plain"), ("golden_fast", "fast")):
        first, *others = getattr(manifest, field)
        wrong = msgspec.structs.replace(first, scores=[score - 1.0 for score in first.scores])
        (folder / "manifest.json").write_bytes(
            encode(msgspec.structs.replace(manifest, **{field: [wrong, *others]}))
        )
        with pytest.raises(BundleError, match="golden input"):
            open_bundle(folder, form=checked)  # type: ignore[arg-type]
        open_bundle(folder, form="fast" if checked == "plain" else "plain")


def test_a_damaged_fast_graph_is_refused(folders: Folders, tmp_path: Path) -> None:
    folder = tmp_path / "it"
    shutil.copytree(folders["both"], folder)
    path = folder / FAST_GRAPHS[read_manifest(folder).kind][-1]
    path.write_bytes(path.read_bytes()[:-1] + b"\0")
    with pytest.raises(BundleError, match=path.name):
        open_bundle(folder, form="plain")


def test_older_formats_have_no_word_for_it(folders: Folders, tmp_path: Path) -> None:
    folder = tmp_path / "it"
    shutil.copytree(folders["both"], folder)
    manifest = msgspec.structs.replace(read_manifest(folder), format=3)
    (folder / "manifest.json").write_bytes(encode(manifest))
    with pytest.raises(BundleError, match="says what format 3 has no word for"):
        read_manifest(folder)


def test_recurrent_translators_have_one_form(make_run: MakeRun, tmp_path: Path) -> None:
    with pytest.raises(Exception, match="has no fast form; export it as plain"):
        export_run(make_run("translator", "lstm"), tmp_path / "it", form="both")
    assert not (tmp_path / "it").exists()
