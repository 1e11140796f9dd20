"""Products of whole numbers are exact."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from bundle.native.library import Product, kernels
from bundle.native.network import PANEL, address, aligned

SET, ADD, RELU = range(3)


@given(
    st.integers(1, 20),
    st.integers(1, 12),
    st.integers(1, 150),
    st.integers(0, 2**32),
    st.sampled_from([0, 128]),
)
@settings(max_examples=60, deadline=None)
def test_sums_are_exact(rows: int, sixteens: int, outputs: int, seed: int, zero: int) -> None:
    """Every row count takes another path, and columns rarely fill a panel."""
    rng = np.random.default_rng(seed)
    inputs = 16 * sixteens
    weight = rng.integers(-127, 128, (inputs, outputs)).astype(np.int8)
    x = rng.integers(0, 256, (rows, inputs)).astype(np.uint8)
    sums = (x.astype(np.int64) - zero) @ weight.astype(np.int64)
    assert abs(sums).max() < 2**24  # what float32 can say
    np.testing.assert_array_equal(multiplied(weight, x, zero), sums)
    # the same matrix stored the other way round, as tables are
    np.testing.assert_array_equal(multiplied(weight.T.copy().T, x, zero), sums)


def test_what_becomes_of_the_sums() -> None:
    rng = np.random.default_rng(3)
    weight, x = rng.integers(-9, 10, (32, 70)).astype(np.int8), rng.integers(0, 9, (9, 32)).astype(np.uint8)
    sums = x.astype(np.float32) @ weight.astype(np.float32)
    largest, bias = rng.integers(1, 5, 9).astype(np.float32), rng.integers(-9, 9, 70).astype(np.float32)
    scaled = sums * largest[:, None] + bias
    before = rng.integers(-9, 9, (9, 70)).astype(np.float32)
    given = {"largest": largest, "bias": bias}
    np.testing.assert_array_equal(multiplied(weight, x, 0, **given), scaled)
    np.testing.assert_array_equal(
        multiplied(weight, x, 0, then=ADD, y=before.copy(), **given), before + scaled
    )
    peaks = np.zeros((9, 16), np.float32)
    found = multiplied(weight, x, 0, then=RELU, peaks=peaks, **given)
    np.testing.assert_array_equal(found, np.maximum(scaled, 0))
    np.testing.assert_array_equal(peaks.max(axis=1), found.max(axis=1))


def multiplied(
    weight: NDArray[np.int8],
    x: NDArray[np.uint8],
    zero: int,
    *,
    then: int = SET,
    y: NDArray[np.float32] | None = None,
    largest: NDArray[np.float32] | None = None,
    bias: NDArray[np.float32] | None = None,
    peaks: NDArray[np.float32] | None = None,
) -> NDArray[np.float32]:
    kernel: Any = kernels()
    inputs, outputs = weight.shape
    room = -(-outputs // PANEL) * PANEL
    packed, offset = aligned(room * inputs), np.empty(room, np.int32)
    kernel.voisin_pack(
        address(weight), *weight.strides, inputs, outputs, zero, address(packed), address(offset)
    )
    scales, biases = np.ones(room, np.float32), np.zeros(room, np.float32)
    if bias is not None:
        biases[:outputs] = bias
    product = Product(*map(address, (packed, offset, scales, biases)), inputs, outputs)
    if y is None:
        y = np.full((len(x), outputs), np.nan, np.float32)
    places = [None if each is None else ctypes.c_void_p(address(each)) for each in (largest, y, peaks)]
    kernel.multiply(ctypes.byref(product), len(x), ctypes.c_void_p(address(x)), places[0], then, *places[1:])
    return y
