"""What torchrun starts in tests/training/test_group.py: several jobs, one after the other, in each process.

    torchrun --nproc-per-node 2 --max-restarts 3 tests/training/several_processes.py FOLDER

One job is interrupted, one killed, each in a process that does not lead and between two checkpoints.
FOLDER/codes-RANK.json says how each ended.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# torchrun puts this file's folder on the path, not the one it was started in
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from training.__main__ import main
from training.group import joined, leave, restarted
from training.loop import Loop

#: dropout, averages, Muon and everything else that a checkpoint has to know
RANDOM = [
    *("--set", "train.steps=24", "--set", "model.dropout=0.2", "--set", "train.average=0.9"),
    *("--set", "train.optimizer=muon", "--set", "train.accumulate=2", "--set", "train.save_every=8"),
]
#: ends by the clock
BRIEF = ("--set", "train.steps=1000000", "--set", "train.minutes=0.01", "--set", "train.evaluate_every=0")
EQUAL = ("lstm", "transformer", "translator", "attention")


class Blow:
    """Sends this process a signal, just before a certain step."""

    def __init__(self, number: signal.Signals, step: int) -> None:
        self.number = number
        self.step = step
        self.advance = Loop.advance

    def __enter__(self) -> None:
        def advance(loop: Loop) -> tuple[float, int]:
            if loop.step + 1 == self.step and os.environ["RANK"] == "1":
                os.kill(os.getpid(), self.number)
            return self.advance(loop)

        Loop.advance = advance  # type: ignore[method-assign]

    def __exit__(self, *_: object) -> None:
        Loop.advance = self.advance  # type: ignore[method-assign]


@contextmanager
def another_machine(folder: Path) -> Iterator[None]:
    """Process 1 is the first of a machine with another text."""
    before = {name: os.environ[name] for name in ("LOCAL_RANK", "TEXTS")}
    if os.environ["RANK"] == "1":
        os.environ |= {"LOCAL_RANK": "0", "TEXTS": str(folder / "other")}
    yield
    os.environ |= before


def train(folder: Path, recipe: str, run: str, *more: str) -> int:
    return main([str(folder / f"{recipe}.toml"), "--run", str(folder / run), *more])


def everything(folder: Path) -> dict[str, int]:
    codes = {name: train(folder, name, f"two-{name}") for name in EQUAL}
    codes["words"] = train(folder, "words", "two-words")
    codes["minutes"] = train(folder, "lstm", "minutes", *BRIEF)
    with another_machine(folder):
        codes["elsewhere"] = train(folder, "lstm", "elsewhere")
    codes["whole"] = train(folder, "lstm", "whole", *RANDOM)
    with Blow(signal.SIGTERM, step=13):
        codes["interrupted"] = train(folder, "lstm", "interrupted", *RANDOM)
    codes["again"] = train(folder, "lstm", "interrupted", *RANDOM)  # refused: nobody said --resume
    codes["resumed"] = train(folder, "lstm", "interrupted", *RANDOM, "--resume")
    (folder / f"codes-{os.environ['RANK']}.json").write_text(json.dumps(codes))
    with Blow(signal.SIGKILL, step=21):
        train(folder, "lstm", "killed", *RANDOM)
    return 1  # not to be reached


if __name__ == "__main__":
    place = Path(sys.argv[1])
    os.environ["TEXTS"] = str(place)
    with joined("cpu"):  # one group for all jobs: torch cannot be relied on to make several
        status = train(place, "lstm", "killed", *RANDOM) if restarted() else everything(place)
    if status == 0:
        leave()
    sys.exit(status)
