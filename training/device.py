"""Where a model is trained, and how numpy arrays get there."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bundle.errors import VoisinError


class DeviceError(VoisinError):
    """A device that was asked for and is not there."""


def choose(wish: Literal["auto", "cpu", "cuda"]) -> torch.device:
    """The device of a job; ``auto`` is CUDA where there is one.

    Raises:
        DeviceError: CUDA is asked for, and torch sees none.
    """
    if wish == "cuda" and not torch.cuda.is_available():
        raise DeviceError("train.device = cuda, but torch sees no CUDA device: say auto or cpu")
    return torch.device("cuda" if wish != "cpu" and torch.cuda.is_available() else "cpu")


def bf16_units(device: torch.device) -> list[str]:
    """What multiplies bf16 on a device, as torch finds it; without any, bf16 is slower than fp32."""
    if device.type == "cuda":
        return ["CUDA"] if torch.cuda.is_bf16_supported(including_emulation=False) else []
    found = {
        "AMX": torch.cpu._is_amx_tile_supported(),
        "AVX512-BF16": torch.cpu._is_avx512_bf16_supported(),
    }
    return [name for name, there in found.items() if there]


def halves(wish: Literal["auto", "fp32", "bf16"], device: torch.device) -> bool:
    """Whether a job computes in bf16; ``auto`` does where that is faster."""
    return wish == "bf16" or (wish == "auto" and bool(bf16_units(device)))


def device_of(model: nn.Module) -> torch.device:
    """Where the weights are; the CPU for a model without any."""
    for parameter in model.parameters():
        return parameter.device
    return torch.device("cpu")


def tensor(array: NDArray[Any], model: nn.Module) -> Tensor:
    """An array as a tensor beside the weights of `model`."""
    return torch.from_numpy(np.ascontiguousarray(array)).to(device_of(model), non_blocking=True)
