"""The loop's schedule, averages, stops and failures, on a task of one number."""

import math
import os
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from training import checkpoint
from training.config import Train
from training.loop import Loop, TrainingError, learning_rate
from training.progress import read_metrics


@dataclass
class Some:
    tokens: int = 2


class Number(nn.Module):
    """One weight."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1, 1))


class Slope:
    """Minimises (w - 3)^2 over "batches" of two tokens."""

    def __init__(self) -> None:
        self.model: nn.Module = Number()
        self.seen = 0
        self.scores: list[float] = []
        self.before_step: Callable[[int], None] = lambda step: None

    def next_batch(self) -> Some:
        self.seen += 1
        self.before_step(self.seen)
        return Some()

    def loss(self, batch: Some) -> Tensor:
        return batch.tokens * (weight(self.model) - 3.0).square().sum()

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        value = self.scores.pop(0) if self.scores else float((weight(model) - 3.0).square())
        return {"loss": value}

    def state(self) -> dict[str, Any]:
        return {"seen": self.seen}

    def restore(self, state: dict[str, Any]) -> None:
        self.seen = state["seen"]


def weight(model: nn.Module) -> Tensor:
    assert isinstance(model, Number)
    return model.weight


def loop(folder: Path, task: Slope | None = None, **train: Any) -> Loop:
    settings = {"steps": 20, "warmup": 0, "learning_rate": 0.3, "weight_decay": 0.0} | train
    return Loop(task or Slope(), Train(**settings), folder, name="slope", text="")


def test_it_learns_and_leaves_what_it_should(tmp_path: Path) -> None:
    scores = loop(tmp_path, steps=60, evaluate_every=20).run()
    assert scores["loss"] < 0.05
    assert {path.name for path in (tmp_path / "checkpoints").iterdir()} == {"last.pt", "best.pt"}
    records = read_metrics(tmp_path / "metrics.jsonl")
    assert [r["step"] for r in records if "evaluation" in r] == [20, 40, 60]
    assert [r["step"] for r in records if "loss" in r] == list(range(1, 61))
    assert records[0]["loss"] == pytest.approx(9.0)
    assert (tmp_path / "curves.png").stat().st_size > 1000


def test_accumulated_batches_make_one_step(tmp_path: Path) -> None:
    task = Slope()
    once = loop(tmp_path)
    several = loop(tmp_path, task, accumulate=4)
    assert once.advance()[0] == several.advance()[0]
    assert task.seen == 4
    assert torch.equal(weight(once.task.model), weight(several.task.model))


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", [0.5, 1.0, 1.0, 1.0]),
        ("cosine", [0.5, 1.0, 0.02 + 0.98 * 0.5, 0.02]),
        ("inverse-sqrt", [0.5, 1.0, math.sqrt(10 / 50), math.sqrt(10 / 100)]),
        ("stable", [0.5, 1.0, 1.0, 0.0]),
    ],
)
def test_the_rate_rises_and_falls(schedule: Any, expected: list[float]) -> None:
    train = Train(steps=100, warmup=10, learning_rate=1.0, schedule=schedule)
    found = [learning_rate(train, step, step / 100) for step in (5, 10, 50, 100)]
    assert found == pytest.approx(expected)


def test_a_long_gradient_is_cut(tmp_path: Path) -> None:
    seen: list[float] = []
    job = loop(tmp_path, clip=0.25)

    def look(*_: Any) -> None:
        gradient = weight(job.task.model).grad
        assert gradient is not None
        seen.append(float(gradient.norm()))

    job.optimizers.all[0].register_step_pre_hook(look)
    job.advance()
    assert seen == [pytest.approx(0.25, rel=1e-4)]


def test_the_average_follows_the_weights(tmp_path: Path) -> None:
    job = loop(tmp_path, average=0.5)
    assert job.averaged is not None
    mean = 0.0
    for step in range(1, 6):
        job.advance()
        decay = min(0.5, (1 + step) / (10 + step))
        mean = decay * mean + (1 - decay) * float(weight(job.task.model).detach())
        assert float(weight(job.averaged)) == pytest.approx(mean, rel=1e-5)
    assert job.weights is job.averaged


def test_it_stops_when_nothing_improves_and_keeps_the_best(tmp_path: Path) -> None:
    task = Slope()
    task.scores = [3.0, 2.0, 2.5, 2.1, 1.0]
    job = loop(tmp_path, task, steps=1000, evaluate_every=5, early_stop=2)
    job.run()
    assert job.step == 20
    best = checkpoint.load(tmp_path / "checkpoints" / "best.pt")
    assert (best["step"], best["scores"]) == (10, {"loss": 2.0})
    assert checkpoint.load(tmp_path / "checkpoints" / "last.pt")["step"] == 20


def test_the_minutes_end_a_job(tmp_path: Path) -> None:
    job = loop(tmp_path, steps=10_000_000, minutes=0.005)
    job.run()
    assert 0 < job.step < 10_000_000
    assert job.progress == 1.0
    assert read_metrics(tmp_path / "metrics.jsonl")[-1]["step"] == job.step


def test_a_loss_that_is_no_number_ends_the_job(tmp_path: Path) -> None:
    task = Slope()
    nn.init.constant_(weight(task.model), math.nan)
    with pytest.raises(TrainingError, match="the loss is nan in step 1"):
        loop(tmp_path, task).run()
    assert not (tmp_path / "checkpoints").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_job_with_a_checkpoint(tmp_path: Path, number: signal.Signals) -> None:
    assert threading.current_thread() is threading.main_thread()
    before = signal.getsignal(number)
    task = Slope()
    task.before_step = lambda step: os.kill(os.getpid(), number) if step == 7 else None
    with pytest.raises(TrainingError, match="interrupted after step 7"):
        loop(tmp_path, task).run()
    assert signal.getsignal(number) is before
    resumed = loop(tmp_path)
    resumed.resume()
    assert resumed.step == 7
    resumed.run()
    whole = loop(tmp_path / "whole")
    whole.run()
    assert torch.equal(weight(resumed.task.model), weight(whole.task.model))


def test_metrics_of_steps_that_were_lost_are_dropped(tmp_path: Path) -> None:
    task = Slope()
    task.before_step = lambda step: os.kill(os.getpid(), signal.SIGTERM) if step == 7 else None
    with pytest.raises(TrainingError):
        loop(tmp_path, task).run()
    metrics = tmp_path / "metrics.jsonl"
    metrics.write_bytes(metrics.read_bytes() + b'{"step": 8, "loss": 1.0}\n{"step": 9, "lo')
    resumed = loop(tmp_path)
    resumed.resume()
    resumed.run()
    assert [r["step"] for r in read_metrics(metrics) if "loss" in r] == list(range(1, 21))
