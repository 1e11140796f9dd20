"""The parts of one running service, put together once; routes are given this and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from service.admission import Admission
from service.answers import Answers
from service.batcher import Batcher
from service.cache import MemoryStore
from service.collector import collect_in_peace
from service.detection import Detector
from service.device import watch_device
from service.health import Health
from service.keys import Keys
from service.metrics import Metrics
from service.prepared import Prepared
from service.processes import Processes
from service.redis_store import RedisStore
from service.registry import Registry
from service.settings import Settings, SettingsError
from service.workers import Workers


@dataclass(frozen=True)
class House:
    """What stands for as long as the process does."""

    settings: Settings
    registry: Registry
    metrics: Metrics
    memory: MemoryStore
    redis: RedisStore | None
    admission: Admission
    workers: Workers
    answers: Answers
    health: Health
    detector: Detector
    prepared: dict[str, Prepared]
    keys: Keys | None = None

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Threads, Redis and canaries run inside this block."""
        self.workers.start(asyncio.get_running_loop())
        if self.redis is not None:
            await self.redis.start()

        def busy() -> bool:
            return self.admission.jobs > 0

        def waited_for() -> bool:
            return any(task.under_way for task in self.metrics.tasks.values())

        tasks = [
            asyncio.create_task(self.health.watch(), name="canaries"),
            asyncio.create_task(collect_in_peace(waited_for), name="collector"),
        ]
        tasks += [asyncio.create_task(each.fill(busy), name="prepared") for each in self.prepared.values()]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self.workers.stop()
            if self.redis is not None:
                await self.redis.close()


def build_house(
    settings: Settings, registry: Registry, detector: Detector, *, processes: bool = False
) -> House:
    """The parts, connected, nothing started.

    Args:
        processes: whether other processes decode. They have to be launched before the house is opened.

    Raises:
        SettingsError: VOISIN_REDIS_URL is no Redis URL, or the API keys cannot be read.
    """
    metrics = Metrics()
    memory = MemoryStore(max_bytes=settings.cache_bytes, max_entries=settings.cache_entries)
    redis = _redis(settings, metrics)
    admission = Admission(
        tokens=settings.queue_tokens,
        texts=settings.queue_texts,
        seconds=settings.queue_seconds,
        rows=settings.batch_rows,
        metrics=metrics,
    )
    workers = _workers(settings, registry, metrics, processes=processes)
    answers = Answers(memory, redis, admission, workers, metrics, settings.deadline_seconds)
    health = Health(registry, workers, admission, canary_seconds=settings.canary_seconds)
    _watch(metrics, memory, redis, health, registry)
    keys = _keys(settings)
    prepared = {vectors.manifest.name: Prepared(vectors) for vectors in registry.vectors}
    return House(
        settings,
        registry,
        metrics,
        memory,
        redis,
        admission,
        workers,
        answers,
        health,
        detector,
        prepared,
        keys,
    )


def _workers(settings: Settings, registry: Registry, metrics: Metrics, *, processes: bool) -> Workers:
    models, rows = registry.decoding, settings.batch_rows
    if processes:
        return Processes(models, processes=settings.worker_count, rows=rows, metrics=metrics)
    makers = {name: partial(model.decoder, max_rows=rows) for name, model in models.items()}
    return Batcher(makers, threads=settings.worker_count, metrics=metrics)


def _keys(settings: Settings) -> Keys | None:
    if not settings.api_keys and not settings.api_keys_file:
        return None
    return Keys(settings.api_keys, Path(settings.api_keys_file) if settings.api_keys_file else None)


def _redis(settings: Settings, metrics: Metrics) -> RedisStore | None:
    if not settings.redis_url:
        return None
    try:
        return RedisStore(
            settings.redis_url,
            ttl=settings.cache_ttl_seconds,
            timeout=settings.redis_timeout_seconds,
            metrics=metrics,
        )
    except ValueError as error:
        raise SettingsError(f"VOISIN_REDIS_URL: {error}") from None


def _watch(
    metrics: Metrics, memory: MemoryStore, redis: RedisStore | None, health: Health, registry: Registry
) -> None:
    metrics.watch(metrics.cache_bytes, lambda: memory.size)
    metrics.watch(metrics.redis_up, lambda: float(redis is not None and redis.up))
    metrics.watch(metrics.ready, lambda: float(not health.reasons()))
    metrics.watch(metrics.warmup, lambda: health.warm_after or 0.0)
    if any(each.model.provider.startswith("CUDA") for each in registry):
        watch_device(metrics)
    for each in registry:
        manifest = each.manifest
        metrics.model_info.labels(
            each.name, manifest.kind, manifest.revision, manifest.precision, each.model.provider
        ).set(1)
        metrics.model_load.labels(each.name).set(each.seconds)
