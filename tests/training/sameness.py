"""Equality of checkpoints, to the last bit."""

from __future__ import annotations

import torch


def assert_same(one: object, two: object, place: str = "") -> None:
    """Equal bit for bit, all the way down."""
    assert type(one) is type(two), place
    if isinstance(one, torch.Tensor) and isinstance(two, torch.Tensor):
        assert torch.equal(one, two), place
    elif isinstance(one, dict) and isinstance(two, dict):
        assert one.keys() == two.keys(), place
        for key in one:
            assert_same(one[key], two[key], f"{place}/{key}")
    elif isinstance(one, list) and isinstance(two, list):
        assert len(one) == len(two), place
        for index, (a, b) in enumerate(zip(one, two, strict=True)):
            assert_same(a, b, f"{place}/{index}")
    else:
        assert one == two, place
