"""Kernels of our own for fast int8 Transformers on processors with AVX-512 VNNI (decision 16)."""

from bundle.native.graph import PROVIDER, EncoderKernels, Kernels, StepKernels, open_native

__all__ = ["PROVIDER", "EncoderKernels", "Kernels", "StepKernels", "open_native"]
