"""Our cross entropy is torch's, gradient included."""

import pytest
import torch
from torch.nn import functional as F

from training.loss import cross_entropy


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("rows", [1, 30])
@pytest.mark.parametrize("block", [1, 100, 1 << 20])
def test_loss_and_gradient_are_those_of_torch(
    smoothing: float, rows: int, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.loss._BLOCK", block)
    torch.manual_seed(rows)
    ours = torch.randn(rows, 2, 13, dtype=torch.float64, requires_grad=True)
    theirs = ours.detach().clone().requires_grad_()
    targets = torch.randint(0, 13, (rows, 2))
    targets[0, 1] = -100
    loss = cross_entropy(ours, targets, smoothing=smoothing)
    expected = F.cross_entropy(
        theirs.flatten(0, 1), targets.flatten(), reduction="sum", label_smoothing=smoothing, ignore_index=-100
    )
    (loss / 3).backward()
    (expected / 3).backward()
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(ours.grad, theirs.grad)


def test_the_gradient_is_that_of_the_loss() -> None:
    torch.manual_seed(1)
    logits = torch.randn(4, 5, dtype=torch.float64, requires_grad=True)
    targets = torch.tensor([0, 4, -100, 2])
    assert torch.autograd.gradcheck(lambda x: cross_entropy(x, targets, smoothing=0.2), (logits,))


def test_bfloat16_logits_are_scored_in_float32() -> None:
    torch.manual_seed(1)
    logits = torch.randn(64, 50).bfloat16().requires_grad_()
    targets = torch.randint(0, 50, (64,))
    loss = cross_entropy(logits, targets)
    loss.backward()
    assert loss.dtype == torch.float32
    assert logits.grad is not None
    assert logits.grad.dtype == torch.bfloat16
    torch.testing.assert_close(loss, F.cross_entropy(logits.float(), targets, reduction="sum"))
