"""Training that sees its matrices as int8 will store them, so that rounding them costs next to nothing.

Forward and backward passes run on rounded matrices, and the step moves the exact ones by the gradient found
there: the straight-through estimator (Bengio et al. 2013; Jacob et al. 2018).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import torch
from torch import Tensor, nn

#: Rows with fewer numbers stay fp32: their scale would eat what int8 saves, and a toy gains nothing.
SHORTEST_ROW: Final = 32


def int8_stores(*shape: int) -> bool:
    """Whether int8 stores a weight of this shape: a matrix whose rows are long enough.

    Decided by the row, so that a part of a matrix and several matrices in one are stored as the whole.
    """
    return len(shape) == 2 and shape[1] >= SHORTEST_ROW


def int8_rows(weight: Tensor) -> tuple[Tensor, Tensor]:
    """A matrix [rows, columns] as whole numbers from -127 to 127, and the scale [rows, 1] of each row, whose
    largest number is 127 of them; of its own type, both."""
    largest = weight.abs().amax(dim=1, keepdim=True)
    scales = torch.where(largest > 0, largest / 127, 1.0)
    return (weight / scales).round_().clamp_(-127, 127), scales


@contextmanager
def rounded_weights(model: nn.Module) -> Iterator[None]:
    """A model whose matrices are rounded in place until it ends; gradients found meanwhile stay."""
    matrices = [weight for weight in model.parameters() if int8_stores(*weight.shape)]
    with torch.no_grad():
        exact = [weight.clone() for weight in matrices]
        for weight in matrices:
            values, scales = int8_rows(weight)
            torch.mul(values, scales, out=weight)
    try:
        yield
    finally:
        with torch.no_grad():
            for weight, before in zip(matrices, exact, strict=True):
                weight.copy_(before)
