"""Corpora by name on the Hugging Face hub, read where they lie: `hf://datasets/OWNER/NAME@REVISION/PATTERN`.

huggingface_hub finds the files and reads them by ranges, so that a corpus larger than the disk is no
obstacle. The revision is resolved to its commit once a process: what a job reads cannot change under it. The
library's own variables hold: HF_TOKEN for what is not public, HF_ENDPOINT for a mirror.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import IO, Any, TypeVar

from training.readers import format_of
from training.shards import CorpusError

SCHEME = "hf://"
Found = TypeVar("Found")

_BLOCK = 1 << 20  # bytes of one request; many files are open at once
_TRAIN = re.compile(r"(^|[-_./])train([-_./]|$)")


@dataclass(frozen=True)
class HubShard:
    """A file of a commit on the hub."""

    name: str
    size: int
    sha256: str
    """Of its contents; for a file that git itself holds, the id of its blob."""
    filesystem: Any = field(repr=False, compare=False)

    def open(self) -> IO[bytes]:
        file = _asked(self.name, lambda: self.filesystem.open(self.name, "rb", block_size=_BLOCK))
        return io.BufferedReader(_Remote(self.name, file), 1 << 16)

    def digest(self) -> str:
        return self.sha256


def find(address: str) -> tuple[str, list[HubShard]]:
    """The commit that an address means now, and its files there, sorted.

    Args:
        address: `hf://datasets/OWNER/NAME[@REVISION][/PATTERN]`, the revision a branch, a tag or a commit
            (`main` where there is none). Without a pattern, the jsonl and parquet files of the repository:
            those with `train` in their path, or all where none has it.

    Raises: CorpusError for an address that is none, an unknown repository, revision or pattern, a hub that
        does not answer, and where huggingface_hub is not installed.
    """
    return _found(address, os.environ.get("HF_ENDPOINT", ""))


@lru_cache(maxsize=256)
def _found(address: str, endpoint: str) -> tuple[str, list[HubShard]]:
    try:
        from huggingface_hub import HfApi, HfFileSystem
    except ImportError:
        raise CorpusError(address, "the hub needs huggingface_hub: pip install huggingface_hub") from None
    if not address.startswith(f"{SCHEME}datasets/"):
        raise CorpusError(address, "expected hf://datasets/OWNER/NAME[@REVISION][/PATTERN]")
    filesystem: Any = HfFileSystem(endpoint=endpoint or None, skip_instance_cache=True)
    resolved = _asked(address, lambda: filesystem.resolve_path(address))
    hub = HfApi(endpoint=endpoint or None)
    info = _asked(address, lambda: hub.dataset_info(resolved.repo_id, revision=resolved.revision))
    commit = str(info.sha)
    root = f"datasets/{resolved.repo_id}@{commit}"
    pattern = resolved.path_in_repo
    listed: Mapping[str, Mapping[str, Any]] = _asked(
        address, lambda: filesystem.glob(f"{root}/{pattern or '**'}", detail=True)
    )
    names = sorted(name for name, entry in listed.items() if entry["type"] == "file")
    if not pattern:
        names = _data(names, root)
    if not names:
        raise CorpusError(address, f"no such file at commit {commit}{_offer(filesystem, root, address)}")
    return commit, [_shard(SCHEME + name, listed[name], filesystem) for name in names]


def _data(names: list[str], root: str) -> list[str]:
    """What a bare name means."""
    known = [name for name in names if format_of(name) != "text"]
    return [name for name in known if _TRAIN.search(name.removeprefix(root))] or known


def _offer(filesystem: Any, root: str, address: str) -> str:
    there = _asked(address, lambda: filesystem.glob(f"{root}/**", detail=True))
    names = sorted(name.removeprefix(f"{root}/") for name, entry in there.items() if entry["type"] == "file")
    return f"; there is {', '.join(names[:8])}" + (" and more" if len(names) > 8 else "")


def _shard(name: str, entry: Mapping[str, Any], filesystem: Any) -> HubShard:
    lfs = entry.get("lfs")
    return HubShard(name, int(entry["size"]), lfs.sha256 if lfs else str(entry["blob_id"]), filesystem)


class _Remote(io.RawIOBase):
    """A file of the hub whose every failure is a CorpusError."""

    def __init__(self, name: str, file: Any) -> None:
        self._name = name
        self._file = file

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return int(self._file.seek(offset, whence))

    def tell(self) -> int:
        return int(self._file.tell())

    def readinto(self, buffer: Any) -> int:
        data: bytes = _asked(self._name, lambda: self._file.read(len(buffer)))
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        self._file.close()
        super().close()


def _asked(place: str, ask: Callable[[], Found]) -> Found:
    """An answer of the hub."""
    try:
        return ask()
    except CorpusError:
        raise
    except (
        Exception
    ) as error:  # the library's transport, and with it its exceptions, changes with its version
        # FileNotFoundError says only that; its cause says whether repository or revision is unknown.
        cause = str(error.__cause__ or error).strip().splitlines() or [type(error).__name__]
        reason = " ".join(line.strip() for line in cause if line.strip())
        raise CorpusError(place, f"the hub does not give it: {reason}") from error
