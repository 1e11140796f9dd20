"""Training on matrices as int8 stores them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from export.quantize import quantize, restored, round_weights
from tests.training.test_loop import Some
from training.config import Train
from training.loop import Loop
from training.rounding import int8_stores, rounded_weights


def rounded(weight: Tensor) -> Tensor:
    return torch.from_numpy(restored(weight.detach().numpy(), "int8"))


def test_it_rounds_as_export_does() -> None:
    torch.manual_seed(1)
    model = nn.Linear(64, 50)
    with torch.no_grad():
        model.weight *= torch.rand(50, 1) * 30
        model.weight[7] = 0.0
        model.weight[8, 3] = 40.0
    wanted, bias = rounded(model.weight), model.bias.clone()
    with rounded_weights(model):
        seen = model.weight.detach().clone()
        assert torch.equal(model.bias, bias)
    assert torch.equal(seen, wanted)
    assert torch.equal(seen[7], model.weight[7])
    # what export then makes of the rounded is the same once more
    again, once = (quantize(weight.detach().numpy()).values for weight in (seen, model.weight))
    assert np.array_equal(again, once)


@pytest.mark.parametrize("shape", [(64, 32), (64, 31), (64,), (1, 32), (2, 40, 40)])
def test_what_is_stored_as_int8(shape: tuple[int, ...]) -> None:
    weight = torch.linspace(-1, 1, int(np.prod(shape))).view(shape)
    kept = bool((torch.from_numpy(restored(weight.numpy(), "int8")) == weight).all())
    assert int8_stores(*shape) is not kept


def test_the_exact_weights_come_back_whatever_happens() -> None:
    model = nn.Sequential(nn.Linear(32, 8), nn.Linear(8, 8))
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    with rounded_weights(model):
        inside = {name: weight.clone() for name, weight in model.state_dict().items()}
    assert [name for name in before if not torch.equal(before[name], inside[name])] == ["0.weight"]
    with pytest.raises(ZeroDivisionError), rounded_weights(model):
        raise ZeroDivisionError
    assert all(torch.equal(before[name], weight) for name, weight in model.state_dict().items())


class Regression:
    """Fits a matrix to another, whose rows each have one number that makes the steps of int8 coarse."""

    def __init__(self) -> None:
        torch.manual_seed(3)
        self.model: nn.Module = nn.Linear(64, 4, bias=False)
        self.wanted = 0.02 * torch.randn(4, 64)
        self.wanted[:, 0] = 3.0
        self.x = torch.randn(256, 2) @ torch.randn(2, 64)  # two directions: errors can cancel out
        self.seen: list[Tensor] = []

    def next_batch(self) -> Some:
        return Some(256)

    def loss(self, batch: Some) -> Tensor:
        self.seen.append(next(self.model.parameters()).detach().clone())
        return F.mse_loss(self.model(self.x), self.x @ self.wanted.T) * batch.tokens

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        return {"loss": float(F.mse_loss(model(self.x), self.x @ self.wanted.T))}

    def state(self) -> dict[str, Any]:
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        pass


def fitted(folder: Path, share: float) -> tuple[Regression, float]:
    """The task after its training, and what it scores as int8."""
    task = Regression()
    train = Train(
        steps=600,
        learning_rate=0.01,
        schedule="stable",
        cooldown=0.5,
        weight_decay=0.0,
        quantization_aware=share,
    )
    Loop(task, train, folder, name="fit", text="").run()
    round_weights(task.model, "int8")
    with torch.no_grad():
        return task, task.evaluate(task.model)["loss"]


def test_rounding_costs_less_after_it(tmp_path: Path) -> None:
    plain, lost = fitted(tmp_path / "plain", 0.0)
    aware, less = fitted(tmp_path / "aware", 0.5)
    assert less < lost / 2
    # the first half is the same, and sees the exact weights
    assert all(torch.equal(a, b) for a, b in zip(plain.seen[:300], aware.seen[:300], strict=True))
    assert not any(torch.equal(rounded(weight), weight) for weight in aware.seen[:300])
    for weight in aware.seen[300:]:
        torch.testing.assert_close(rounded(weight), weight)
    assert not torch.equal(rounded(plain.seen[-1]), plain.seen[-1])
