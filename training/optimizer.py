"""Optimisers: AdamW for everything, or Muon for the matrices inside a network and AdamW for the rest.

Muon (Jordan et al. 2024) replaces the momentum of a weight matrix by the nearest matrix whose singular values
are all about one, so that no direction of the matrix starves. Embeddings, output layers, biases and norms
stay with AdamW. A stacked matrix (the three projections of an attention layer, the gates of a recurrent cell)
is several matrices that share an input: each is orthogonalised by itself.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from training.config import Train
from training.models.attention import Attention

# Newton-Schulz coefficients of Jordan et al. 2024: singular values end between about 0.7 and 1.2, which is
# close enough, after few steps, which is what matters.
_A, _B, _C = 3.4445, -4.7750, 2.0315
_STEPS = 5
# The root mean square of an AdamW update is about 0.2; at this scale one learning rate serves both (Liu et
# al. 2025, "Muon is scalable for LLM training").
_RMS = 0.2


def orthogonalised(matrices: Tensor) -> Tensor:
    """Nearly U V' of each U S V' by five Newton-Schulz steps; [..., rows, columns], shape and type kept."""
    tall = matrices.shape[-2] > matrices.shape[-1]
    x: Tensor = matrices.mT if tall else matrices
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(_STEPS):
        square = x @ x.mT
        x = _A * x + (_B * square + _C * square @ square) @ x
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """Muon with Nesterov momentum and decoupled weight decay.

    Args:
        matrices: parameters [blocks * rows, columns] with their number of blocks.
    """

    def __init__(
        self,
        matrices: list[tuple[nn.Parameter, int]],
        *,
        lr: float,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
    ) -> None:
        groups: dict[int, list[nn.Parameter]] = {}
        for parameter, blocks in matrices:
            groups.setdefault(blocks, []).append(parameter)
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay}
        super().__init__([{"params": some, "blocks": blocks} for blocks, some in groups.items()], defaults)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One update of every matrix that has a gradient."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, group)

    def _update(self, parameter: nn.Parameter, group: dict[str, Any]) -> None:
        assert parameter.grad is not None
        state = self.state[parameter]
        if not state:
            state["momentum"] = torch.zeros_like(parameter)
        mean: Tensor = state["momentum"].lerp_(parameter.grad, 1.0 - group["momentum"])
        ahead = parameter.grad.lerp(mean, group["momentum"])
        blocks = ahead.view(group["blocks"], -1, ahead.shape[1])
        scale = _RMS * math.sqrt(max(blocks.shape[-2:]))
        parameter.mul_(1.0 - group["lr"] * group["weight_decay"])
        parameter.add_(orthogonalised(blocks).flatten(0, 1), alpha=-group["lr"] * scale)


class Optimizers:
    """One or two optimisers that go step by step together."""

    def __init__(self, model: nn.Module, train: Train) -> None:
        matrices = list(inner_matrices(model)) if train.optimizer == "muon" else []
        taken = {id(parameter) for parameter, _ in matrices}
        rest = [p for p in model.parameters() if p.requires_grad and id(p) not in taken]
        # biases and norms do not decay (Loshchilov and Hutter 2019)
        groups = [
            {"params": [p for p in rest if p.dim() >= 2], "weight_decay": train.weight_decay},
            {"params": [p for p in rest if p.dim() < 2], "weight_decay": 0.0},
        ]
        self.all: list[torch.optim.Optimizer] = [
            torch.optim.AdamW(groups, lr=train.learning_rate, betas=train.betas, fused=True)
        ]
        if matrices:
            self.all.append(Muon(matrices, lr=train.learning_rate, weight_decay=train.weight_decay))

    @property
    def rate(self) -> float:
        """The learning rate of the last step."""
        return float(self.all[0].param_groups[0]["lr"])

    def step(self, rate: float) -> None:
        """One update at the learning rate `rate`; the gradients are gone afterwards."""
        for optimizer in self.all:
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    def state_dict(self) -> list[dict[str, Any]]:
        """What a checkpoint keeps."""
        return [optimizer.state_dict() for optimizer in self.all]

    def load_state_dict(self, states: list[dict[str, Any]]) -> None:
        """Goes on from :meth:`state_dict`. Raises ValueError where they are of other optimisers."""
        if len(states) != len(self.all):
            raise ValueError("the optimiser is another one")
        for optimizer, state in zip(self.all, states, strict=True):
            optimizer.load_state_dict(state)


def inner_matrices(model: nn.Module) -> Iterator[tuple[nn.Parameter, int]]:
    """The matrices that map one hidden layer to another, with how many are stacked in each.

    Embeddings and output layers, whose rows are tokens, are none.
    """
    stacked = {id(module.inputs): 3 for module in model.modules() if isinstance(module, Attention)}
    for name, module in model.named_modules():
        if isinstance(module, nn.RNNBase):
            for parameter in module.parameters():
                if parameter.dim() == 2:
                    assert isinstance(parameter, nn.Parameter)
                    yield parameter, int(parameter.shape[0]) // int(module.hidden_size)
        elif isinstance(module, nn.Linear) and "output" not in name.split(".")[:1]:
            yield module.get_parameter("weight"), stacked.get(id(module), 1)
