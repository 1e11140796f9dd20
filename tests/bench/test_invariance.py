"""The count of requests that are answered otherwise in a crowd: none, unless a decoder mixes up its rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bench import invariance
from bundle.state import State
from bundle.stepper import Scores, Stepper


@pytest.mark.parametrize("kernels", [True, False])
def test_none_differs_and_a_fault_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kernels: bool
) -> None:
    make = invariance.fast(tmp_path / "fast", kernels=kernels)
    asked = invariance.requests(12, 0, vocab=2000, translates=True, bos=1, eos=2)
    assert invariance.differing(make, asked, 0) == 0
    advance = Stepper.advance

    def swapped(self: Stepper, state: State, ids: np.ndarray, *, logits: bool) -> tuple[Scores, State]:
        """Two rows of a crowd change places."""
        return advance(self, state, ids if len(ids) < 5 else np.roll(ids, 1), logits=logits)

    monkeypatch.setattr(Stepper, "advance", swapped)
    assert invariance.differing(make, asked, 0) > 0


def test_the_command_counts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert invariance.main(["--models", str(tmp_path), "--requests", "6", "--crowd", "6"]) == 0
    said = capsys.readouterr().out
    assert "fast int8, kernels: 0 of 3 requests differ" in said
    assert "fast int8, onnxruntime: 0 of 3 requests differ" in said
