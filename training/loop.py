"""The training loop: steps, schedule, evaluation, checkpoints. What is trained, a :class:`Task` knows.

A checkpoint holds everything a step depends on: weights, averages, optimiser, torch's random numbers, the
place in the corpus, the state carried between windows. On the CPU, with the same seed and threads, as many
processes and no wall-clock budget, a job killed and resumed ends with the very weights of one that was not.

Several processes (:mod:`training.group`) make each step together and stay equal: each computes the gradients
of its rows, and all take the sum. Process 0 evaluates, so that scores, and with them the best weights and
the early stop, do not depend on how many there are; what it decides, and its clock, hold for all.
"""

from __future__ import annotations

import copy
import math
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from bundle.errors import VoisinError
from training import checkpoint
from training.config import Train
from training.device import device_of, halves
from training.group import ALONE, Group, unreduced
from training.optimizer import Optimizers
from training.progress import Metrics, Progress, draw_curves
from training.rounding import rounded_weights


class TrainingError(VoisinError):
    """A job that cannot go on."""


class Batch(Protocol):
    """One forward pass."""

    @property
    def tokens(self) -> int: ...


class Task(Protocol):
    """What is trained: the model, its data and its yardstick."""

    model: nn.Module

    def next_batch(self) -> Batch:
        """The next batch of the stream."""

    def loss(self, batch: Any) -> Tensor:
        """Loss of a batch in nats, summed over its tokens; in a group, of this process's rows."""

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Scores on held-out text, ``loss`` (nats per token) among them. Draws no random numbers."""

    def state(self) -> dict[str, Any]:
        """Place in the corpus and carried state: tensors and plain values.

        All processes of a group call it; process 0 gets what is true of all."""

    def restore(self, state: dict[str, Any]) -> None:
        """Goes on from :meth:`state`."""


class Loop:
    """One job, or a process's part in it.

    Args:
        text: the recipe, kept in the checkpoints.
        group: the processes that share the job; the task has to know the same.
    """

    def __init__(
        self, task: Task, train: Train, folder: Path, *, name: str, text: str, group: Group = ALONE
    ) -> None:
        self.task = task
        self.train = train
        self.folder = folder
        self.name = name
        self.text = text
        self.group = group
        self.step = 0
        self.elapsed = 0.0
        self.best = math.inf
        self.stale = 0
        self.evaluated = -1
        self.device = device_of(task.model)
        self._half = halves(train.precision, self.device)
        self.optimizers = Optimizers(task.model, train)
        averages = train.average and group.leads
        self.averaged = copy.deepcopy(task.model).requires_grad_(False) if averages else None
        self._loss = group.reduced(task.model, task.loss)
        self._stop = threading.Event()
        self._stopped = False

    @property
    def weights(self) -> nn.Module:
        """The module that is evaluated and exported: the averaged one, if there is one."""
        return self.task.model if self.averaged is None else self.averaged

    @property
    def progress(self) -> float:
        """Share of the job that is done: of its steps or of its minutes, whichever is more."""
        shares = [self.step / self.train.steps]
        if self.train.minutes:
            shares.append(self.elapsed / (60.0 * self.train.minutes))
        return min(1.0, max(shares))

    @property
    def _rounds(self) -> bool:
        return self.progress >= 1.0 - self.train.quantization_aware

    def run(self) -> dict[str, float]:
        """Trains to the end and returns the last evaluation.

        A SIGINT or SIGTERM to any process ends the job after the current step, with a checkpoint to resume
        from.

        Raises:
            TrainingError: the loss is no longer a number, or the job was interrupted.
            CheckpointError: the disk is full.
            GroupError: the same, in other processes than the one that saw it.
        """
        if self.group.leads:
            self.folder.mkdir(parents=True, exist_ok=True)
        metrics = Metrics(self.folder / "metrics.jsonl", self.step, kept=self.group.leads)
        bar = Progress(self.name, self.progress, shown=self.group.leads)
        scores: dict[str, float] = {}
        begun = time.perf_counter() - self.elapsed
        log_every = max(1, self.train.steps // 500)
        recent, tokens = 0.0, 0
        try:
            with self._signals():
                while self._goes_on():
                    loss, count = self.advance()
                    self.elapsed = time.perf_counter() - begun
                    recent, tokens = recent + loss * count, tokens + count
                    bar.update(self.progress, self.step, loss, count)
                    if self.step % log_every == 0:
                        metrics.write(self._record(recent / tokens, tokens))
                        recent, tokens = 0.0, 0
                    if _due(self.step, self.train.evaluate_every):
                        scores = self._evaluate(metrics, bar)
                        self._save()
                    elif _due(self.step, self.train.save_every):
                        self._save()
            if self._stopped and self.progress < 1.0:
                self._save()
                raise TrainingError(f"interrupted after step {self.step}; --resume goes on from there")
            if self.evaluated != self.step:
                scores = self._evaluate(metrics, bar)
            self._save()
        finally:
            bar.close()
        if self.group.leads:
            draw_curves(self.folder / "metrics.jsonl", self.folder / "curves.png", self.name)
        return scores

    def advance(self) -> tuple[float, int]:
        """One optimiser step. Returns its loss in nats per token, and the tokens, of all processes."""
        batches = [self.task.next_batch() for _ in range(self.train.accumulate)]
        count = sum(batch.tokens for batch in batches)
        self.task.model.train()
        own = 0.0
        with rounded_weights(self.task.model) if self._rounds else nullcontext():
            with unreduced(self._loss):
                for batch in batches[:-1]:
                    own += self._add_gradients(batch, count)
            own += self._add_gradients(batches[-1], count)
        (total,) = self.group.sum(own)
        if not math.isfinite(total):
            raise TrainingError(f"the loss is {total} in step {self.step + 1}: lower train.learning_rate")
        if self.train.clip:
            nn.utils.clip_grad_norm_(self.task.model.parameters(), self.train.clip)
        self.optimizers.step(learning_rate(self.train, self.step + 1, self.progress))
        self.step += 1
        self._average()
        return total / count, count

    def _add_gradients(self, batch: Batch, tokens: int) -> float:
        """One pass forward and back. Returns the loss of this process's rows, summed."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self._half):
            loss = self._loss(batch)
        # Gradients are averaged over the processes, and each token counts the same in whichever it is.
        (loss * self.group.size / tokens).backward()  # type: ignore[no-untyped-call]
        return float(loss.item())

    def _goes_on(self) -> bool:
        """Whether another step is due: by process 0's clock, and unless a signal came to any process."""
        stopped, self.elapsed = self.group.sum(
            float(self._stop.is_set()), self.elapsed if self.group.leads else 0.0
        )
        self._stopped = stopped > 0
        return self.progress < 1.0 and not self._stopped and not self._stagnant()

    def resume(self) -> None:
        """Goes on from the folder's last checkpoint, exactly so with as many processes as wrote it.

        Others go on from the same weights and place in the text, with other random numbers.

        Raises:
            CheckpointError: damaged, or of another recipe.
            GroupError: the same, in other processes than the first.
        """
        place = self.folder / checkpoint.CHECKPOINTS / checkpoint.LAST
        state = self.group.led(lambda: checkpoint.load(place))
        try:
            self.task.model.load_state_dict(state["model"])
            if self.averaged is not None:
                self.averaged.load_state_dict(state["averaged"] or state["model"])
            self.optimizers.load_state_dict(state["optimizer"])
            self.step = state["step"]
            self.elapsed = state["scheduler"]["elapsed"]
            self.best = state["best"]
            self.stale = state["stale"]
            self.evaluated = state["evaluated"]
            self.task.restore(state["position"])
            self._restore_random(state)
        except (KeyError, ValueError, RuntimeError) as error:
            raise checkpoint.CheckpointError(place, f"does not fit the recipe: {error}") from error

    def _restore_random(self, state: dict[str, Any]) -> None:
        several = state.get("processes") or []
        if not self.group.leads and len(several) != self.group.size:
            torch.manual_seed(torch.initial_seed() + self.step)
            return
        mine = state if self.group.leads else several[self.group.rank]
        torch.set_rng_state(mine["rng"])
        if self.device.type == "cuda" and mine.get("rng_cuda") is not None:
            torch.cuda.set_rng_state(mine["rng_cuda"])

    def _average(self) -> None:
        if self.averaged is None:
            return
        # young averages forget faster, so that the random initial weights leave them soon
        decay = min(self.train.average, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for mean, current in zip(self.averaged.parameters(), self.task.model.parameters(), strict=True):
                mean.lerp_(current, 1.0 - decay)

    def _evaluate(self, metrics: Metrics, bar: Progress) -> dict[str, float]:
        scores = self.group.led(self._scores)
        self.evaluated = self.step
        metrics.write({"step": self.step, "elapsed": round(self.elapsed, 1), "evaluation": scores})
        bar.say(f"step {self.step}: " + ", ".join(f"{name} {value:.4g}" for name, value in scores.items()))
        if scores["loss"] < self.best:
            self.best, self.stale = scores["loss"], 0
            best = {"model": self.weights.state_dict(), "scores": scores}
            self.group.led(lambda: self._keep(checkpoint.BEST, best))
        else:
            self.stale += 1
        return scores

    def _scores(self) -> dict[str, float]:
        model = self.weights.eval()
        with torch.inference_mode():
            return self.task.evaluate(model)

    def _stagnant(self) -> bool:
        return 0 < self.train.early_stop <= self.stale

    def _save(self) -> None:
        random = {
            "rng": torch.get_rng_state(),
            "rng_cuda": torch.cuda.get_rng_state() if self.device.type == "cuda" else None,
        }
        processes = self.group.collect(random)
        state = {
            "model": self.task.model.state_dict(),
            "averaged": self.averaged.state_dict() if self.averaged is not None else None,
            "optimizer": self.optimizers.state_dict(),
            "scheduler": {"elapsed": self.elapsed},
            **random,
            "position": self.task.state(),
            "best": self.best,
            "stale": self.stale,
            "evaluated": self.evaluated,
        }
        if len(processes) > 1:
            state["processes"] = processes
        self.group.led(lambda: self._keep(checkpoint.LAST, state))

    def _keep(self, name: str, state: dict[str, Any]) -> None:
        checkpoint.save(
            self.folder / checkpoint.CHECKPOINTS / name, state | {"step": self.step, "recipe": self.text}
        )

    def _record(self, loss: float, tokens: int) -> dict[str, Any]:
        return {
            "step": self.step,
            "loss": loss,
            "learning_rate": self.optimizers.rate,
            "tokens": tokens,
            "elapsed": round(self.elapsed, 1),
        }

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """Ends the job between two steps on SIGINT and SIGTERM; a second one ends it at once."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def stop(number: int, frame: FrameType | None) -> None:
            self._stop.set()
            signal.signal(number, before[signal.Signals(number)])

        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        for number in before:
            signal.signal(number, stop)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def learning_rate(train: Train, step: int, progress: float) -> float:
    """The rate of a step (from 1): linear warm-up, then down to 2 % of the peak along a cosine (Loshchilov
    and Hutter 2017) of ``progress``, or with the inverse square root of the step (Vaswani et al. 2017), or
    level, to the end or to the last stretch (Zhai et al. 2022)."""
    if step <= train.warmup:
        return train.learning_rate * step / train.warmup
    if train.schedule == "cosine":
        return train.learning_rate * (0.02 + 0.98 * 0.5 * (1.0 + math.cos(math.pi * progress)))
    if train.schedule == "stable":
        return train.learning_rate * min(1.0, (1.0 - progress) / max(train.cooldown, 1e-9))
    if train.schedule == "inverse-sqrt":
        return train.learning_rate * math.sqrt(max(1, train.warmup) / step)
    return train.learning_rate


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0
