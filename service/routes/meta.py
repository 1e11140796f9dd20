"""The service about itself: metrics, what is open, and the floor that benchmarks compare with."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from litestar import get
from litestar.handlers import HTTPRouteHandler
from prometheus_client import CONTENT_TYPE_LATEST

from service import VERSION
from service.house import House
from service.parsing import AnyRequest
from service.pooling import MOST_WORDS
from service.registry import Opened
from service.responses import Answer, Json
from service.routes import described

_PRIVATE = ("redis_url", "models", "host", "listen_port", "api_keys", "api_keys_file")


def describe(each: Opened) -> dict[str, Any]:
    """What /info says of a bundle: its manifest without tensors' worth of hashes, and its scores."""
    manifest = each.manifest
    return {
        "name": manifest.name,
        "aliases": manifest.aliases,
        "kind": manifest.kind,
        "level": manifest.level,
        "languages": manifest.languages,
        "revision": manifest.revision,
        "precision": manifest.precision,
        "provider": each.model.provider,
        "bytes": sum(record.size for record in manifest.files.values()),
        "parameters": manifest.provenance.parameters,
        "created": manifest.provenance.created,
        "commit": manifest.provenance.commit,
        "corpora": manifest.provenance.corpora,
        "limits": manifest.limits,
        "decoding": manifest.decoding,
        "parity": manifest.parity,
        "scores": each.scores,
    }


def inform(house: House) -> dict[str, Any]:
    """The body of /info. Addresses and paths of this machine are not in it."""
    settings = dataclasses.asdict(house.settings)
    limits = {name: value for name, value in settings.items() if name not in _PRIVATE}
    return {
        "name": "voisin",
        "version": VERSION,
        "device": {
            "asked": house.settings.device,
            "providers": sorted({each.model.provider for each in house.registry}),
        },
        "cache": {
            "entries": len(house.memory),
            "bytes": house.memory.size,
            "redis": "none" if house.redis is None else "up" if house.redis.up else "down",
        },
        "settings": {
            name: str(value) if isinstance(value, Path) else value for name, value in limits.items()
        },
        "models": [describe(each) for each in house.registry],
    } | _tei(house)


def _tei(house: House) -> dict[str, Any]:
    """What Text Embeddings Inference's clients look for, of the vectors that `/embed` answers with."""
    settings = house.settings
    first = house.registry.vectors[0].manifest if house.registry.vectors else None
    return {
        "model_id": None if first is None else first.name,
        "model_sha": None if first is None else first.revision,
        "model_dtype": "float32",
        "model_type": {"embedding": {"pooling": "mean"}},
        "max_concurrent_requests": settings.queue_texts,
        "max_input_length": MOST_WORDS,
        "max_batch_tokens": settings.queue_tokens,
        "max_batch_requests": settings.batch_rows,
        "max_client_batch_size": settings.batch_texts,
        "auto_truncate": False,
        "tokenization_workers": 1,
        "sha": None,
        "docker_label": None,
    }


def routes(house: House) -> list[HTTPRouteHandler]:
    """GET /ping, /info, /metrics."""

    @get("/ping", opt=described("meta", "A constant through all layers", answer=dict[str, str]))
    async def ping(request: AnyRequest) -> Json:
        return Json({"ping": "pong"})

    @get("/info", opt=described("meta", "Open bundles, device, limits", answer=dict[str, Any]))
    async def info(request: AnyRequest) -> Json:
        return Json(inform(house))

    @get("/metrics", opt=described("probe", "Prometheus", media="text/plain", answer=str))
    async def metrics(request: AnyRequest) -> Answer:
        return Answer(house.metrics.render(), media_type=CONTENT_TYPE_LATEST)

    return [ping, info, metrics]
