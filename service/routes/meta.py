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
from service.registry import Opened
from service.responses import Answer, Json
from service.routes import described

_PRIVATE = ("redis_url", "models", "host", "listen_port")


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
