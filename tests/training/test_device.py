"""Where a job runs."""

import numpy as np
import pytest
import torch
from torch import nn

from training.device import DeviceError, bf16_units, choose, device_of, halves, tensor

CUDA = torch.cuda.is_available()


def test_the_device_is_what_is_there() -> None:
    assert choose("cpu").type == "cpu"
    assert choose("auto").type == ("cuda" if CUDA else "cpu")


@pytest.mark.skipif(CUDA, reason="needs a machine without a GPU")
def test_cuda_is_not_silently_replaced() -> None:
    with pytest.raises(DeviceError, match="say auto or cpu"):
        choose("cuda")


def test_bf16_is_for_devices_with_units_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    here = torch.device("cpu")
    assert halves("bf16", here)
    assert not halves("fp32", here)
    assert halves("auto", here) == bool(bf16_units(here))
    for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"):
        monkeypatch.setattr(torch.cpu, name, lambda: False)
    assert not halves("auto", here)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    assert halves("auto", here)
    assert bf16_units(here) == ["AVX512-BF16"]


def test_arrays_follow_the_weights() -> None:
    array = np.arange(6).reshape(2, 3)[:, ::-1]  # negative strides, which torch does not take
    found = tensor(array, nn.Linear(1, 1).to(choose("auto")))
    assert found.device.type == choose("auto").type
    assert found.tolist() == array.tolist()
    assert device_of(nn.Identity()).type == "cpu"
    assert tensor(array, nn.Linear(1, 1, device="meta")).device.type == "meta"
