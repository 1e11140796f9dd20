"""One graph opened by onnxruntime: the only file that knows the runtime."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from os import PathLike, fspath
from typing import Literal

import onnxruntime

from bundle.errors import BundleError
from bundle.stepper import Array, TensorSpec

Device = Literal["auto", "cpu", "cuda"]

_DTYPES = {"tensor(int64)": "int64", "tensor(int32)": "int32", "tensor(float)": "float32"}
_CUDA = "CUDAExecutionProvider"
_CPU = "CPUExecutionProvider"


class Session:
    """A graph that runs. Any number of threads may call :meth:`run` at once.

    Args:
        path: the ``.onnx`` file.
        device: ``auto`` takes CUDA where it works and says in ``provider`` what it got.
        threads: intra-op threads. One, with as many callers as cores, gives the most answers a second.

    Attributes:
        inputs, outputs: the tensors at the border, by name.
        provider: the execution provider that runs the graph.

    Raises:
        BundleError: the file is missing or damaged, its border has a type that the contract lacks, or CUDA
            was asked for and not obtained.
    """

    def __init__(self, path: str | PathLike[str], *, device: Device = "cpu", threads: int = 1) -> None:
        available = onnxruntime.get_available_providers()
        if device == "cuda" and _CUDA not in available:
            raise BundleError(path, f"cuda was asked for, and this onnxruntime has {', '.join(available)}")
        providers = [_CUDA, _CPU] if device != "cpu" and _CUDA in available else [_CPU]
        try:
            self._session = onnxruntime.InferenceSession(fspath(path), _options(threads), providers=providers)
        except Exception as error:  # every fault of a file is its own class here, derived from Exception
            raise BundleError(path, f"cannot be opened: {_first_line(error)}") from error
        # The runtime falls back to the CPU without a word, so what it got is asked, not assumed.
        self.provider: str = self._session.get_providers()[0]
        if device == "cuda" and self.provider != _CUDA:
            raise BundleError(path, f"cuda was asked for and {self.provider} was obtained")
        self.inputs: Mapping[str, TensorSpec] = _specs(path, self._session.get_inputs())
        self.outputs: Mapping[str, TensorSpec] = _specs(path, self._session.get_outputs())
        self._run = self._session.run

    def run(self, feeds: Mapping[str, Array], fetches: Sequence[str]) -> list[Array]:
        """Compute ``fetches`` from ``feeds``.

        The runtime computes every output of the graph whatever is fetched (its switch for that exists in
        training builds only); what is not fetched is merely not copied.
        """
        result: list[Array] = self._run(fetches, feeds)
        return result

    def bind(self, feeds: Mapping[str, Array], fetches: Mapping[str, Array]) -> Callable[[], None] | None:
        """A run that reads ``feeds`` and writes ``fetches`` where they lie, as often as it is called.

        Telling the runtime where arrays are costs as much as a small step; so it is told once.

        Args:
            fetches: for every output wanted the array to write, of the right shape and type; one of ``feeds``
                where the graph works in place. All arrays are contiguous.

        Returns:
            None where the provider is not the CPU: its arrays lie elsewhere.
        """
        if self.provider != _CPU:
            return None
        binding = self._session.io_binding()
        for name, array in feeds.items():
            binding.bind_input(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
        for name, array in fetches.items():
            binding.bind_output(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
        return partial(self._session.run_with_iobinding, binding)


def may_use_gpu(device: Device) -> bool:
    """Whether opening a graph on ``device`` may put it on a GPU, or must be refused because there is none."""
    return device == "cuda" or (device == "auto" and _CUDA in onnxruntime.get_available_providers())


def _options(threads: int) -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # faults are raised; what would be printed is repeated in the exception
    # Two sessions whose threads spin destroy each other.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # Weights behind DequantizeLinear are unfolded to fp32 once, at load. Left as pairs, the runtime would
    # fuse them into kernels that quantise activations for a whole batch, and a row's answer would depend on
    # its neighbours.
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    return options


def _specs(path: str | PathLike[str], tensors: Sequence[onnxruntime.NodeArg]) -> dict[str, TensorSpec]:
    specs = {}
    for tensor in tensors:
        if tensor.type not in _DTYPES:
            raise BundleError(path, f"{tensor.name} is {tensor.type}, which the contract does not have")
        if any(not isinstance(axis, str | int) for axis in tensor.shape):
            raise BundleError(path, f"{tensor.name} has an axis without name or size: {tensor.shape}")
        specs[tensor.name] = TensorSpec(tensor.name, _DTYPES[tensor.type], tuple(tensor.shape))
    return specs


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
