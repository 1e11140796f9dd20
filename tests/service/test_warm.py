"""What is run before anybody waits, and how the terms of the GPU reach the runtime."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

import service.__main__
from bundle import session
from bundle.errors import BundleError
from bundle.load import open_bundle
from service.registry import Opened
from service.warm import row_counts, warm, warm_gpu


class Seen:
    """A graph, and the shapes of the ids that it was fed."""

    def __init__(self, graph: Any) -> None:
        self._graph = graph
        self.inputs, self.outputs = graph.inputs, graph.outputs
        self.shapes: list[tuple[int, ...]] = []

    def run(self, feeds: Mapping[str, Any], fetches: Sequence[str]) -> list[Any]:
        self.shapes.append(feeds["ids"].shape)
        found: list[Any] = self._graph.run(feeds, fetches)
        return found


def watched(folder: Path) -> tuple[Any, Seen]:
    model: Any = open_bundle(folder, check=False)
    model.stepper._graph = seen = Seen(model.stepper._graph)
    return model, seen


@pytest.mark.parametrize(
    ("rows", "counts"), [(1, [1]), (2, [2, 1]), (6, [6, 4, 2, 1]), (64, [64, 32, 16, 8, 4, 2, 1])]
)
def test_row_counts(rows: int, counts: list[int]) -> None:
    assert row_counts(rows) == counts


def test_a_language_model_runs_at_every_size(models: Path) -> None:
    model, seen = watched(models / "chars-en")
    longest = model.manifest.limits.prompt_tokens
    assert warm(model, 3) == len(seen.shapes)
    one_length = [shape for count in (3, 2, 1) for shape in ((count, None), (count, 1))] + [(1, None), (2, 1)]
    expected = [(rows, width or length) for length in (longest, 8) for rows, width in one_length]
    assert seen.shapes == expected


def test_a_translator_encodes_the_longest_and_the_short(models: Path) -> None:
    model, seen = watched(models / "fr-en")
    model.stepper._encoder = sources = Seen(model.stepper._encoder)
    assert warm(model, 2) == len(seen.shapes)
    assert {shape[0] for shape in seen.shapes} == {1, 2}
    longest = -(-model.manifest.limits.prompt_tokens // 4) * 4  # whole groups
    assert set(sources.shapes) == {(2, longest), (1, longest), (2, 8), (1, 8)}


def test_vectors_are_asked_once(models: Path) -> None:
    assert warm(open_bundle(models / "words-en", check=False), 64) == 1


def test_only_what_a_gpu_runs_is_warmed(models: Path, caplog: pytest.LogCaptureFixture) -> None:
    model, seen = watched(models / "chars-en")
    caplog.set_level(logging.INFO, "voisin")
    warm_gpu([Opened(models / "chars-en", model, 0.0, {})], rows=2)
    assert seen.shapes == []
    assert caplog.messages == []
    model.provider = "CUDAExecutionProvider"
    warm_gpu([Opened(models / "chars-en", model, 0.0, {})], rows=2)
    [record] = caplog.records
    assert record.message == "warmed"
    data: dict[str, Any] = record.data  # type: ignore[attr-defined]
    assert data.pop("seconds") > 0
    assert data == {"model": "chars-en", "provider": "CUDAExecutionProvider", "runs": len(seen.shapes)}


def test_what_does_not_fit_is_said_before_anybody_asks(models: Path) -> None:
    model, seen = watched(models / "chars-en")
    model.provider = "CUDAExecutionProvider"

    def full(feeds: Mapping[str, Any], fetches: Sequence[str]) -> list[Any]:
        raise RuntimeError("Failed to allocate memory\nat some line")

    seen.run = full  # type: ignore[method-assign]
    with pytest.raises(
        BundleError, match=r"chars-en: 8 rows .*\(Failed to allocate memory\): lower VOISIN_BATCH"
    ):
        warm_gpu([Opened(models / "chars-en", model, 0.0, {})], rows=8)


def test_the_bound_of_memory_reaches_the_runtime(
    models: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[Any] = []

    def refused(source: Any, options: Any, providers: list[Any]) -> Any:
        asked.extend(providers)
        raise RuntimeError("no such device")

    monkeypatch.setattr(service.__main__, "configure", lambda level: None)
    monkeypatch.setattr(
        session.onnxruntime,
        "get_available_providers",
        lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"],
    )
    monkeypatch.setattr(session.onnxruntime, "InferenceSession", refused)
    for name, value in {"MODELS": str(models), "DEVICE": "cuda", "DEVICE_BYTES": "12345"}.items():
        monkeypatch.setenv(f"VOISIN_{name}", value)
    assert service.__main__.main([]) == 1
    assert "no such device" in capsys.readouterr().err
    (name, options), _ = asked
    assert (name, options["gpu_mem_limit"]) == ("CUDAExecutionProvider", "12345")
