"""Vectors rank as gensim's do, or are not packed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from bundle.load import open_bundle
from bundle.vectors import Vectors
from export import ExportError
from export.pipeline import export_run
from export.verify import require
from export.verify_vectors import missing, same_ranking, verify_vectors
from training.word2vec import load_run


@pytest.fixture
def opened(vectors_run: Path, tmp_path: Path) -> Vectors:
    export_run(vectors_run, tmp_path / "words")
    model = open_bundle(tmp_path / "words")
    assert isinstance(model, Vectors)
    return model


def test_what_was_trained_passes(opened: Vectors, vectors_run: Path) -> None:
    words, matrix, _ = load_run(vectors_run)
    checks = verify_vectors(opened, words, matrix, "fp32")
    require(checks)
    assert set(checks) == {
        "cosines_vs_gensim", "missed_of_ten", "neighbours_vs_scan", "rankings_vs_gensim"
    }  # fmt: skip
    assert checks["rankings_vs_gensim"].observed == 0.0


def test_other_vectors_are_caught(opened: Vectors, vectors_run: Path) -> None:
    words, matrix, _ = load_run(vectors_run)
    turned = matrix.copy()
    turned[4:40] = turned[4:40][::-1]
    with pytest.raises(ExportError, match="missed_of_ten"):
        require(verify_vectors(opened, words, turned, "fp32"))


def test_a_slight_tilt_is_caught_by_the_cosines(opened: Vectors, vectors_run: Path) -> None:
    words, matrix, _ = load_run(vectors_run)
    tilted = matrix.copy()
    tilted[4:, 0] += 1e-3
    checks = verify_vectors(opened, words, tilted, "fp32")
    assert checks["cosines_vs_gensim"].observed > checks["cosines_vs_gensim"].bound


def test_a_word_the_bundle_lacks_is_named(opened: Vectors, vectors_run: Path) -> None:
    words, matrix, _ = load_run(vectors_run)
    with pytest.raises(ExportError, match="does not know 'zzz'"):
        verify_vectors(opened, [*words[:4], "zzz", *words[5:]], matrix, "fp32")


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_rounded_vectors_are_close(vectors_run: Path, tmp_path: Path, precision: str) -> None:
    report = export_run(vectors_run, tmp_path / "words", precision=precision)  # type: ignore[arg-type]
    parity = report.manifest.parity
    assert "rankings_vs_gensim" not in parity
    assert 0.0 < parity["cosines_vs_gensim"].observed <= parity["cosines_vs_gensim"].bound


def test_ties_may_swap() -> None:
    want = [("a", 0.9), ("b", 0.5), ("c", 0.5 - 1e-7)]
    assert same_ranking([("a", 0.9), ("c", 0.5), ("b", 0.5)], want, 1e-5)
    assert not same_ranking([("b", 0.5), ("a", 0.9), ("c", 0.5)], want, 1e-5)
    assert not same_ranking(want[:2], want, 1e-5)
    assert same_ranking(want, want, 0.0)


def test_a_tie_for_the_last_place_is_not_missed() -> None:
    got = [("a", 0.9), ("b", 0.5)]
    assert missing(got, [("a", 0.9), ("c", 0.5 + 1e-7)]) == set()
    assert missing(got, [("a", 0.9), ("c", 0.501)]) == {"c"}
    assert missing([], [("a", 0.9)]) == {"a"}


def test_analogies_are_asked(opened: Vectors, vectors_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words, matrix, _ = load_run(vectors_run)
    asked = []
    plain = Vectors.most_similar

    def watched(
        self: Vectors, positive: Sequence[str], negative: Sequence[str] = (), topn: int = 10
    ) -> list[tuple[str, float]]:
        asked.append((len(positive), len(negative)))
        return plain(self, positive, negative, topn)

    monkeypatch.setattr(Vectors, "most_similar", watched)
    verify_vectors(opened, words, matrix, "fp32")
    assert asked.count((2, 1)) == 50
    assert 100 < asked.count((1, 0)) <= 200  # 100 frequent ones, and those of 100 drawn from all that are not
