"""OpenAI's list of models, with what our bundles tell of themselves."""

from __future__ import annotations

from datetime import datetime

from litestar import get
from litestar.handlers import HTTPRouteHandler

from service.errors import Problem
from service.house import House
from service.parsing import AnyRequest
from service.registry import Opened, Registry
from service.responses import Json
from service.routes import described
from service.schemas_openai import ErrorBody, ModelCard, ModelList
from service.trace import trace_of


def opened(registry: Registry, name: str) -> Opened:
    """The bundle of that name or alias.

    Raises:
        Problem: 404 where there is none.
    """
    for each in registry:
        if name == each.name or name in each.manifest.aliases:
            return each
    known = ", ".join(each.name for each in registry)
    raise Problem(404, "unknown_model", f"there is no model of that name; there are {known}", field="model")


def card(each: Opened) -> ModelCard:
    manifest = each.manifest
    return ModelCard(
        id=manifest.name,
        created=int(datetime.fromisoformat(manifest.provenance.created).timestamp()),
        kind=manifest.kind,
        level=manifest.level,
        languages=list(manifest.languages),
        aliases=list(manifest.aliases),
        revision=manifest.revision,
    )


def routes(house: House) -> list[HTTPRouteHandler]:
    """GET /v1/models and /v1/models/{id}."""

    @get("/v1/models", opt=described("meta", "The open bundles", answer=ModelList, error=ErrorBody))
    async def models(request: AnyRequest) -> Json:
        return Json(ModelList([card(each) for each in house.registry]))

    @get(
        "/v1/models/{name:str}",
        opt=described("meta", "One open bundle, with its scores", answer=ModelCard, error=ErrorBody),
    )
    async def model(request: AnyRequest) -> Json:
        each = opened(house.registry, request.path_params["name"])
        trace_of(request.scope).revision = each.manifest.revision
        body = card(each)
        body.scores = each.scores.get("scores", [])
        return Json(body)

    return [models, model]
