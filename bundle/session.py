"""One graph opened by onnxruntime: the only file that knows the runtime."""

import io
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import cache, partial
from os import PathLike, fspath
from typing import Literal

import numpy as np
import onnxruntime

from bundle.errors import BundleError
from bundle.node import OUTPUT
from bundle.resident import DeviceRows, Resident, Run
from bundle.stepper import Array, TensorSpec
from bundle.tensors import RowOps, Tensor

DeviceName = Literal["auto", "cpu", "cuda"]


@dataclass(frozen=True)
class Place:
    """Where graphs run, and on what terms.

    Attributes:
        device: ``auto`` takes CUDA where it works.
        memory: bytes of the GPU that the weights and tensors of one graph may take; 0 = unbounded.
        resident: whether state stays where it is computed; None = wherever that is not the CPU.
        kernels: whether graphs that our own kernels know are run by them on a CPU (:mod:`bundle.native`).
    """

    device: DeviceName = "cpu"
    memory: int = 0
    resident: bool | None = None
    kernels: bool = True


Device = DeviceName | Place
"""A name stands for the place of that name, on the usual terms."""

_DTYPES = {"tensor(int64)": "int64", "tensor(int32)": "int32", "tensor(float)": "float32"}
_CUDA = "CUDAExecutionProvider"
_CPU = "CPUExecutionProvider"


class Session:
    """A graph that runs. Any number of threads may call :meth:`run` at once.

    Args:
        path: the ``.onnx`` file.
        device: ``auto`` takes CUDA where it works; ``provider`` says what was got.
        threads: intra-op threads. One, with as many callers as cores, gives the most answers a second.

    Attributes:
        inputs, outputs: the tensors at the border, by name.
        provider: the execution provider that runs the graph.
        rows: arranges rows of what the graph keeps on its device; None where nothing is kept there.

    Raises:
        BundleError: the file is missing or damaged, its border has a type that the contract lacks, or CUDA
            was asked for and not obtained.
    """

    def __init__(self, path: str | PathLike[str], *, device: Device = "cpu", threads: int = 1) -> None:
        place = place_of(device)
        available = onnxruntime.get_available_providers()
        if place.device == "cuda" and _CUDA not in available:
            raise BundleError(path, f"cuda was asked for, and this onnxruntime has {', '.join(available)}")
        try:
            self._session = _open(fspath(path), place, threads)
        except Exception as error:  # every fault of a file is its own class here, derived from Exception
            raise BundleError(path, f"cannot be opened: {_first_line(error)}") from error
        # The runtime falls back to the CPU without a word, so what it got is asked, not assumed.
        self.provider: str = self._session.get_providers()[0]
        if place.device == "cuda" and self.provider != _CUDA:
            raise BundleError(path, f"cuda was asked for and {self.provider} was obtained")
        stays = self.provider != _CPU if place.resident is None else place.resident
        self.rows: RowOps | None = _device_rows(place) if stays else None
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
            None where the provider is not the CPU, or state is kept there: its arrays lie elsewhere.
        """
        if self.provider != _CPU or self.rows is not None:
            return None
        binding = self._session.io_binding()
        for name, array in feeds.items():
            binding.bind_input(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
        for name, array in fetches.items():
            binding.bind_output(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
        return partial(self._session.run_with_iobinding, binding)

    def keep(
        self, feeds: Mapping[str, Tensor], fetches: Sequence[str], kept: Sequence[str]
    ) -> tuple[list[Array], list[Tensor]]:
        """Compute ``fetches``, which come to the host, and ``kept``, which stay on the device.

        Args:
            feeds: what was kept before is read where it lies, arrays are copied to the device.
        """
        found, left = _run_bound(self._session, feeds, fetches, kept)
        return found, [*left]


def place_of(device: Device) -> Place:
    """The place that a name stands for."""
    return device if isinstance(device, Place) else Place(device)


def may_use_gpu(device: Device) -> bool:
    """Whether opening a graph on ``device`` may put it on a GPU, or must be refused because there is none."""
    name = place_of(device).device
    return name == "cuda" or (name == "auto" and _CUDA in onnxruntime.get_available_providers())


def _open(source: str | bytes, place: Place, threads: int) -> onnxruntime.InferenceSession:
    providers: list[str | tuple[str, dict[str, str]]] = [_CPU]
    options = _options(threads)
    if place.device != "cpu" and _CUDA in onnxruntime.get_available_providers():
        _load_cuda()
        providers = [(_CUDA, cuda_options(place.memory)), _CPU]
        # sums in an order that is the same each time, rather than by whoever comes first
        options.use_deterministic_compute = True
    session = onnxruntime.InferenceSession(source, options, providers=providers)
    session.disable_fallback()  # else a run that fails on a GPU is quietly repeated, and goes on, on the CPU
    return session


def cuda_options(memory: int) -> dict[str, str]:
    """Options of the CUDA provider, by the names of
    https://onnxruntime.ai/docs/execution-providers/CUDA-ExecutionProvider.html.

    Args:
        memory: most bytes of a graph's arena; 0 = unbounded.
    """
    options = {
        # twice as much at every extension would soon be more than is needed, with several graphs on one GPU
        "arena_extend_strategy": "kSameAsRequested",
        # an exhaustive search would be repeated for every new shape, of which there are many
        "cudnn_conv_algo_search": "HEURISTIC",
        # TF32 rounds factors to 10 bits, in some of the kernels that are chosen by the number of rows: scores
        # would move by a thousandth with the size of the batch, and goldens would not come out
        "use_tf32": "0",
    }
    return options | ({"gpu_mem_limit": str(memory)} if memory else {})


@cache
def _load_cuda() -> None:
    """CUDA and cuDNN that came as wheels lie where the loader does not look, and are loaded by their paths.

    What is missing is not said here: the provider that was obtained is looked at afterwards.
    """
    with redirect_stdout(io.StringIO()):
        onnxruntime.preload_dlls(directory="")


@cache
def _device_rows(place: Place) -> DeviceRows:
    """One for all graphs of a place."""

    def opened(raw: bytes) -> Run:
        session = _open(raw, place, 1)

        def run(feeds: Mapping[str, Tensor]) -> Resident:
            return _run_bound(session, feeds, [], [OUTPUT])[1][0]

        return run

    return DeviceRows(opened)


def _run_bound(
    session: onnxruntime.InferenceSession,
    feeds: Mapping[str, Tensor],
    fetches: Sequence[str],
    kept: Sequence[str],
) -> tuple[list[Array], list[Resident]]:
    binding = session.io_binding()
    for name, tensor in feeds.items():
        if isinstance(tensor, Resident):
            binding.bind_ortvalue_input(name, tensor.value)
        else:
            binding.bind_cpu_input(name, np.ascontiguousarray(tensor))
    for name in fetches:
        binding.bind_output(name, "cpu")
    device = "cuda" if session.get_providers()[0] == _CUDA else "cpu"
    for name in kept:
        binding.bind_output(name, device)
    session.run_with_iobinding(binding)
    values = binding.get_outputs()  # in the order of binding
    # outputs may refer to their binding, which shall not keep the inputs alive: those of every step before
    binding.clear_binding_inputs()
    found = [value.numpy() for value in values[: len(fetches)]]
    return found, [Resident(value) for value in values[len(fetches) :]]


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
