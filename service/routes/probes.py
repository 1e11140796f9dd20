"""Health, as LibreTranslate, Kubernetes and KServe ask for it. None of these waits for anything."""

from __future__ import annotations

from typing import Any

from litestar import get
from litestar.handlers import HTTPRouteHandler

from service.house import House
from service.parsing import AnyRequest
from service.responses import Json
from service.routes import described


def routes(house: House) -> list[HTTPRouteHandler]:
    """GET /health, /health/{ready,startup,live}, /v2/health/{ready,live}."""

    def health(good: dict[str, Any], bad: dict[str, Any]) -> Json:
        reasons = house.health.reasons()
        return Json(bad | {"reasons": reasons}, status=503) if reasons else Json(good)

    @get("/health", opt=described("probe", "LibreTranslate's health, told truly", answer=dict[str, Any]))
    async def overall(request: AnyRequest) -> Json:
        return health({"status": "ok"}, {"status": "error"})

    @get("/health/ready", opt=described("probe", "May requests come here?", answer=dict[str, Any]))
    async def ready(request: AnyRequest) -> Json:
        return health({"status": "ready", "reasons": []}, {"status": "not ready"})

    @get("/health/startup", opt=described("probe", "Has every model answered once?", answer=dict[str, Any]))
    async def startup(request: AnyRequest) -> Json:
        if house.health.started:
            return Json({"status": "started"})
        return Json({"status": "starting", "reasons": house.health.reasons()}, status=503)

    @get("/health/live", opt=described("probe", "Would a restart be no help?", answer=dict[str, Any]))
    async def live(request: AnyRequest) -> Json:
        if house.health.is_live():
            return Json({"status": "live"})
        return Json({"status": "dead", "reasons": house.health.reasons()}, status=503)

    @get("/v2/health/ready", opt=described("probe", "KServe's readiness", answer=dict[str, bool]))
    async def kserve_ready(request: AnyRequest) -> Json:
        is_ready = not house.health.reasons()
        return Json({"ready": is_ready}, status=200 if is_ready else 503)

    @get("/v2/health/live", opt=described("probe", "KServe's liveness", answer=dict[str, bool]))
    async def kserve_live(request: AnyRequest) -> Json:
        is_live = house.health.is_live()
        return Json({"live": is_live}, status=200 if is_live else 503)

    return [overall, ready, startup, live, kserve_ready, kserve_live]
