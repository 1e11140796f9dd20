"""Kernels of our own for fast int8 graphs on processors with AVX-512 VNNI (decision 16)."""

from bundle.native.graph import EncoderKernels, Kernels, StepKernels, open_native
from bundle.native.library import PROVIDER
from bundle.native.recurrent import RecurrentKernels

__all__ = ["PROVIDER", "EncoderKernels", "Kernels", "RecurrentKernels", "StepKernels", "open_native"]
