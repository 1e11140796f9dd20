"""The processes that train one model together: torchrun starts them, torch.distributed joins them.

Every process cuts the same batches out of the same text and takes its own rows of each; gradients are summed
over the group. So a batch means the same whatever the number of processes, and so does a place in the text.
Process 0 leads: it alone reads and writes the run folder, and tells the others what they need of it.

What the processes tell each other is packed as checkpoints are, and read as plain values and tensors only.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal, NoReturn, TypeVar, cast

import torch
from torch import Tensor, distributed, nn
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from bundle.errors import VoisinError
from training.device import DeviceError, choose

Result = TypeVar("Result")
#: loss of a batch in nats, summed over its tokens
Loss = Callable[[Any], Tensor]

# How long processes wait for process 0, which may be building a tokenizer or translating the held-out text. A
# process that died is noticed at once by its closed connections, and by torchrun.
_PATIENCE = timedelta(hours=2)


class GroupError(VoisinError):
    """A group that cannot be joined or has lost a process."""


@dataclass(frozen=True)
class Group:
    """A process among those of its job.

    Every method but :meth:`rows` is for all of them together: one that calls alone waits for the others.

    Args:
        rank: number of this process, from 0.
        size: processes in all.
        local_rank: number of this process among those of its machine.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @property
    def leads(self) -> bool:
        """Whether this is process 0."""
        return self.rank == 0

    def rows(self, total: int) -> slice:
        """This process's part of so many rows; all parts in the order of their processes are all rows."""
        return slice(total * self.rank // self.size, total * (self.rank + 1) // self.size)

    def sum(self, *numbers: float) -> list[float]:
        """Each number, added up over the processes."""
        if self.size == 1:
            return list(numbers)
        sums = torch.tensor(numbers, dtype=torch.float64)
        distributed.all_reduce(sums)
        return cast(list[float], sums.tolist())

    def led(self, call: Callable[[], Result]) -> Result:
        """What a call returns in process 0: plain values and tensors, on the CPU in the others.

        Raises:
            VoisinError: the call failed; in the other processes a GroupError with the same words.
        """
        if self.size == 1:
            return call()
        if not self.leads:
            failure, result = cast(tuple[str | None, Result], _unpacked(_told(None)))
            if failure is not None:
                raise GroupError(f"process 0 failed: {failure}")
            return result
        try:
            result = call()
        except (VoisinError, OSError) as error:
            _told(_packed((str(error), None)))
            raise
        _told(_packed((None, result)))
        return result

    def collect(self, value: Result) -> list[Result]:
        """The values of all processes in process 0, in their order and on the CPU; none in the others."""
        if self.size == 1:
            return [value]
        mine = _packed(value)
        sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(self.size)]
        distributed.all_gather(sizes, torch.tensor([len(mine)]))
        longest = max(int(size) for size in sizes)
        padded = torch.zeros(longest, dtype=torch.uint8)
        padded[: len(mine)] = mine
        parts = [torch.empty_like(padded) for _ in range(self.size)] if self.leads else None
        distributed.gather(padded, parts)
        return [
            cast(Result, _unpacked(part[: int(size)])) for part, size in zip(parts or [], sizes, strict=False)
        ]

    def reduced(self, model: nn.Module, loss: Loss) -> Loss:
        """The loss, whose gradients are averaged over the processes in the backward pass.

        The weights become those of process 0.
        """
        if self.size == 1:
            return loss
        shared = DistributedDataParallel(_Loss(model, loss))
        # After its first pass DDP packs the gradients anew, in the order in which they came. How they are
        # packed decides in which order three and more numbers are added, so that pass is made now, on
        # nothing: a step does not depend on whether it is the first after a resumption.
        shared(None).backward()
        model.zero_grad(set_to_none=True)
        return shared


#: the group of a process that was not started by torchrun
ALONE = Group()


class _Loss(nn.Module):
    """A loss as a module, which is what DDP takes: the weights alone, for our buffers are constants."""

    def __init__(self, model: nn.Module, loss: Loss) -> None:
        super().__init__()
        self.weights = nn.ParameterList(model.parameters())
        self._loss = loss

    def forward(self, batch: Any) -> Tensor:
        """Loss of a batch; 0 of none, with gradients ready from the last weight to the first."""
        if batch is None:
            return torch.stack([0.0 * weight.sum() for weight in self.weights]).sum()
        return self._loss(batch)


def unreduced(loss: Loss) -> AbstractContextManager[None]:
    """Where the passes of :meth:`Group.reduced` only add up gradients at home: all of a step but the last."""
    return loss.no_sync() if isinstance(loss, DistributedDataParallel) else nullcontext()


@contextmanager
def joined(wish: Literal["auto", "cpu", "cuda"]) -> Iterator[Group]:
    """The group that this process was started in: by torchrun, or alone.

    NCCL carries the gradients of CUDA devices, one device a process; gloo carries everything else. Where
    torch.distributed stands ready, its group is taken as it is, and left so.

    Args:
        wish: ``train.device``, the same in all processes.

    Raises:
        GroupError: the others are not to be found, or one of them ended before its time.
        DeviceError: CUDA is asked for, and not every process has a device.
    """
    size = world_size()
    if size == 1:
        yield ALONE
        return
    try:
        group = Group(int(os.environ["RANK"]), size, int(os.environ["LOCAL_RANK"]))
    except (KeyError, ValueError) as error:
        raise GroupError(f"WORLD_SIZE is {size}, but {error}: torchrun sets them all") from None
    backend = "gloo"
    if choose(wish).type == "cuda":
        count = torch.cuda.device_count()
        if group.local_rank >= count:
            raise DeviceError(f"{count} CUDA devices for more processes: torchrun --nproc-per-node {count}")
        torch.cuda.set_device(group.local_rank)
        backend = "cpu:gloo,cuda:nccl"
    try:
        if distributed.is_initialized():
            yield group
            return
        distributed.init_process_group(
            backend, timeout=_PATIENCE, store=_store(), rank=group.rank, world_size=size
        )
        try:
            yield group
        finally:
            distributed.destroy_process_group()
    except RuntimeError as error:
        if not _of_the_group(error):
            raise
        raise GroupError(
            f"another process ended or cannot be reached ({str(error).splitlines()[0]})"
        ) from error


def world_size() -> int:
    """Processes of the job that this one was started in, 1 without torchrun."""
    try:
        return int(os.environ.get("WORLD_SIZE") or 1)
    except ValueError as error:
        raise GroupError(f"WORLD_SIZE: {error}") from None


def restarted() -> bool:
    """Whether torchrun started this process in place of one that ended badly."""
    return os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"


def leave() -> NoReturn:
    """Ends a process of a group whose job is done, without what Python does at its end.

    With torch 2.13 and gloo that ended in an abort now and then, Python's threads gone and all files written,
    and torchrun started a job again that was done.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _store() -> Store:
    """Where the processes leave their addresses for each other.

    torchrun lends its own store, in which those of processes that it started before still lie: whoever is
    quick would call the dead. On one machine the number of the attempt tells them apart. Machines may count
    differently; for them torchrun is told to lend none (TORCH_DISABLE_SHARE_RDZV_TCP_STORE).
    """
    store, _, _ = next(rendezvous("env://", timeout=_PATIENCE))
    if os.environ.get("LOCAL_WORLD_SIZE") == os.environ["WORLD_SIZE"]:
        return PrefixStore(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"), store)
    return cast(Store, store)


def _of_the_group(error: RuntimeError) -> bool:
    # gloo's errors come as plain RuntimeErrors
    return isinstance(error, distributed.DistError) or "gloo" in str(error).lower()


def _packed(value: object) -> Tensor:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return torch.frombuffer(bytearray(buffer.getbuffer()), dtype=torch.uint8)


def _unpacked(data: Tensor) -> Any:
    return torch.load(io.BytesIO(data.numpy().tobytes()), map_location="cpu", weights_only=True)


def _told(data: Tensor | None) -> Tensor:
    """The bytes of process 0, which gives them, in every process."""
    size = torch.tensor([0 if data is None else len(data)])
    distributed.broadcast(size, 0)
    if data is None:
        data = torch.empty(int(size), dtype=torch.uint8)
    distributed.broadcast(data, 0)
    return data
