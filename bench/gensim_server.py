"""`python -m bench.gensim_server`: the service, and gensim's `most_similar` as a route of the same server.

Settings are the service's. gensim has the same vectors, and answers on the event loop, its best case:
no hand-over, no cache to ask, no parsing beyond the word.
"""

from __future__ import annotations

import sys
from types import SimpleNamespace
from urllib.parse import unquote

from gensim.models import KeyedVectors
from litestar import get
from litestar.handlers import HTTPRouteHandler

from bundle.vectors import Vectors
from service import app
from service.__main__ import main
from service.house import House
from service.parsing import AnyRequest
from service.responses import Json
from service.routes import described


def routes(house: House) -> list[HTTPRouteHandler]:
    """GET /gensim?word="""
    vectors = house.registry.vectors[0]
    keyed = keyed_vectors(vectors)

    @get("/gensim", opt=described("similar", "gensim"))
    async def gensim(request: AnyRequest) -> Json:
        word = unquote(request.scope["query_string"].decode().removeprefix("word="))
        return Json([{"word": near, "score": score} for near, score in keyed.most_similar(word)])

    return [gensim]


def keyed_vectors(vectors: Vectors) -> KeyedVectors:
    """gensim's object over the vectors of a bundle, norms computed."""
    words = [word for word in vectors.tokenizer.words() if word in vectors]
    keyed = KeyedVectors(vectors.rows.hidden)
    keyed.add_vectors(words, vectors.embed(words))
    keyed.fill_norms()
    return keyed


if __name__ == "__main__":
    app.OURS = (*app.OURS, SimpleNamespace(routes=routes))  # type: ignore[assignment]
    sys.exit(main())
