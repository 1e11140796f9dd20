"""How weights are stored: fp32, fp16, or int8 with one scale per row.

Only storage changes. A graph turns every weight back into float32 before it multiplies: activations are never
rounded, and a row's answer cannot depend on the other rows of its batch.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from bundle.manifest import Precision
from training.rounding import int8_rows, int8_stores

Weight = NDArray[np.float32]


@dataclass(frozen=True)
class Quantized:
    """A matrix, `values * scales[:, None]`: int8 [rows, columns] in -127..127 and float32 [rows]."""

    values: NDArray[np.int8]
    scales: NDArray[np.float32]

    def restored(self) -> Weight:
        """The float32 matrix that the graph computes with."""
        restored: Weight = self.values.astype(np.float32) * self.scales[:, None]
        return restored


def quantize(weight: Weight) -> Quantized:
    """Round a matrix symmetrically, row by row; a row is an output channel or a token's vector.

    Args:
        weight: float32 [rows, columns], finite.

    Raises:
        ValueError: not a matrix, or not finite.
    """
    if weight.ndim != 2:
        raise ValueError(f"only a matrix is stored as int8, this has shape {weight.shape}")
    if not np.isfinite(weight).all():
        raise ValueError("a weight is not finite")
    values, scales = int8_rows(torch.tensor(weight))
    return Quantized(values.numpy().astype(np.int8), scales[:, 0].numpy())


def halved(weight: Weight) -> NDArray[np.float16]:
    """The weight as fp16.

    Raises:
        ValueError: a number is beyond the range of fp16 (65,504), or not finite.
    """
    if not (np.abs(weight) <= np.finfo(np.float16).max).all():
        raise ValueError("a weight is beyond the range of fp16")
    return weight.astype(np.float16)


def storage(weight: NDArray[Any], precision: Precision) -> Precision:
    """How a weight is really stored: matrices with rows long enough as asked, everything else as fp32."""
    return precision if int8_stores(*weight.shape) else "fp32"


def restored(weight: Weight, precision: Precision) -> Weight:
    """The weight after a trip through its storage."""
    kept = storage(weight, precision)
    if kept == "int8":
        return quantize(weight).restored()
    return halved(weight).astype(np.float32) if kept == "fp16" else weight.copy()


def round_weights(module: nn.Module, precision: Precision) -> None:
    """Replace a module's weights, in place, by what a graph of that precision holds.

    The lowered graph and the module then differ by the order of additions alone, which separates the error
    of rounding from an error of lowering.
    """
    with torch.no_grad():
        for parameter in module.parameters():
            weight = parameter.detach().cpu().float().numpy()
            parameter.copy_(torch.from_numpy(restored(weight, precision)))
