"""Where a job runs."""

import numpy as np
import pytest
import torch
from torch import nn

from training.device import DeviceError, choose, device_of, tensor

CUDA = torch.cuda.is_available()


def test_the_device_is_what_is_there() -> None:
    assert choose("cpu").type == "cpu"
    assert choose("auto").type == ("cuda" if CUDA else "cpu")


@pytest.mark.skipif(CUDA, reason="needs a machine without a GPU")
def test_cuda_is_not_silently_replaced() -> None:
    with pytest.raises(DeviceError, match="say auto or cpu"):
        choose("cuda")


def test_arrays_follow_the_weights() -> None:
    array = np.arange(6).reshape(2, 3)[:, ::-1]  # negative strides, which torch does not take
    found = tensor(array, nn.Linear(1, 1).to(choose("auto")))
    assert found.device.type == choose("auto").type
    assert found.tolist() == array.tolist()
    assert device_of(nn.Identity()).type == "cpu"
    assert tensor(array, nn.Linear(1, 1, device="meta")).device.type == "meta"
