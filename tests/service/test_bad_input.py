"""Nothing a client can send gives a 5xx, and what is wrong is named."""

from __future__ import annotations

import json
from http.client import HTTPConnection
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.service.making import HOST, Service

# route, query, the field at fault, the limit that was broken
QUERIES: list[tuple[str, str, str | None, float | None]] = [
    ("/similar", "", "word", None),
    ("/similar", "word=", "word", 1),
    ("/similar", "word=%20%20", "word", None),
    ("/similar", "word=" + "x" * 201, "word", 200),
    ("/similar", "word=king&word=queen", "word", None),
    ("/similar", "word=king&topn=0", "topn", 1),
    ("/similar", "word=king&topn=1001", "topn", 1000),
    ("/similar", "word=king&topn=-1", "topn", 1),
    ("/similar", "word=king&topn=ten", "topn", None),
    ("/similar", "word=king&topn=1.5", "topn", None),
    ("/similar", "word=king&topn=" + "9" * 40, "topn", 1000),
    ("/similar", "word=king&topn=", "topn", None),
    ("/similar", "word=king&lang=zz", "lang", None),
    ("/similar", "word=king&lang=", "lang", 1),
    ("/similar", "word=king&model=fr-en", "model", None),
    ("/similar", "word=king&nonsense=1", "nonsense", None),
    ("/similar", "word=%FF%FE", None, None),
    ("/similar", "word=%ED%A0%80", None, None),
    ("/similar", "&".join("a" * 3 for _ in range(300)), None, 256),
    ("/complete", "", "prompt", None),
    ("/complete", "prompt=a&level=sentence", "level", None),
    ("/complete", "prompt=a&lang=zz", "lang", None),
    ("/complete", "prompt=a&lang=fr&level=char", "level", None),
    ("/complete", "prompt=a&model=words-en", "model", None),
    ("/complete", "prompt=a&model=text-en&level=char", "level", None),
    ("/complete", "prompt=a&max_tokens=0", "max_tokens", 1),
    ("/complete", "prompt=a&max_tokens=41&lang=en", "max_tokens", 40),
    ("/complete", "prompt=a&n=0", "n", 1),
    ("/complete", "prompt=a&n=33", "n", 32),
    ("/complete", "prompt=a&temperature=-0.1", "temperature", 0),
    ("/complete", "prompt=a&temperature=2.1", "temperature", 2),
    ("/complete", "prompt=a&temperature=nan", "temperature", None),
    ("/complete", "prompt=a&temperature=inf", "temperature", None),
    ("/complete", "prompt=a&temperature=1e999", "temperature", None),
    ("/complete", "prompt=a&temperature=warm", "temperature", None),
    ("/complete", "prompt=a&top_k=-1", "top_k", 0),
    ("/complete", "prompt=a&lang=en&temperature=1&top_k=999999", "top_k", None),
    ("/complete", "prompt=a&top_p=0", "top_p", 0),
    ("/complete", "prompt=a&top_p=1.01", "top_p", 1),
    ("/complete", "prompt=a&seed=-1", "seed", 0),
    ("/complete", "prompt=a&seed=9223372036854775808", "seed", None),
    ("/complete", "prompt=a&stream=perhaps", "stream", None),
    ("/complete", "prompt=a&beam=4&temperature=1", "beam", None),
    ("/complete", "prompt=a&stop=", "stop", None),
    ("/complete", "prompt=a&stop=" + "x" * 200, "stop", None),
    ("/complete", "prompt=a&" + "&".join(f"stop={i}" for i in range(20)), "stop", 16),
    ("/complete", "prompt=" + "a" * 5001, "prompt", 5000),
    ("/complete", "prompt=" + "abc%20" * 200 + "&model=chars-en", "prompt", 200),
]

# route, body, the field at fault, the limit that was broken
BODIES: list[tuple[str, Any, str | None, float | None]] = [
    ("/similar", {}, "positive", None),
    ("/similar", {"positive": []}, "positive", None),
    ("/similar", {"positive": "king"}, "positive", None),
    ("/similar", {"positive": [1]}, "positive[0]", None),
    ("/similar", {"positive": ["king", ""]}, "positive[1]", 1),
    ("/similar", {"positive": ["king"] * 33}, "positive", 32),
    ("/similar", {"positive": ["king"], "negative": ["king"]}, "negative", None),
    ("/similar", {"positive": ["king"], "topn": True}, "topn", None),
    ("/similar", {"positive": ["king"], "topn": None}, "topn", None),
    ("/similar", {"positive": ["king"], "topn": "5"}, "topn", None),
    ("/similar", {"positive": ["king"], "word": "queen"}, "word", None),
    ("/similar", {"positive": ["king"], "topn": 10**30}, "topn", 1000),
    ("/complete", {"prompt": 1}, "prompt", None),
    ("/complete", {"prompt": None}, "prompt", None),
    ("/complete", {"prompt": ["a"]}, "prompt", None),
    ("/complete", {"prompt": "a", "temperature": "0"}, "temperature", None),
    ("/complete", {"prompt": "a", "stop": ["a", 1]}, "stop[1]", None),
    ("/complete", {"prompt": "a", "stop": ["a"] * 17}, "stop", 16),
    ("/complete", {"prompt": "a", "stream": "yes"}, "stream", None),
    ("/complete", {"prompt": "a", "seed": 1.5}, "seed", None),
    ("/translate", {}, "q", None),
    ("/translate", {"q": "a", "source": "fr"}, "target", None),
    ("/translate", {"q": "", "source": "fr", "target": "en"}, "q", None),
    ("/translate", {"q": [], "source": "fr", "target": "en"}, "q", None),
    ("/translate", {"q": [1], "source": "fr", "target": "en"}, "q[0]", None),
    ("/translate", {"q": {"a": 1}, "source": "fr", "target": "en"}, "q", None),
    ("/translate", {"q": "a", "source": "zz", "target": "en"}, "source", None),
    ("/translate", {"q": "a", "source": "fr", "target": "zz"}, "target", None),
    ("/translate", {"q": "a", "source": "fr", "target": "auto"}, "target", None),
    ("/translate", {"q": "a", "source": "fr", "target": "en", "glossary": [""]}, "glossary", 200),
    ("/translate", {"q": "a", "source": "fr", "target": "en", "format": "markdown"}, "format", None),
    ("/translate", {"q": "a", "source": "fr", "target": "en", "alternatives": -1}, "alternatives", 0),
    ("/translate", {"q": "a", "source": "fr", "target": "en", "alternatives": 17}, "alternatives", 16),
    ("/translate", {"q": "a", "source": "fr", "target": "en", "alternatives": "many"}, "alternatives", None),
    ("/translate", {"q": "a", "source": "fr", "target": "en", "beam": 0}, "beam", 1),
    ("/translate", {"q": "a" * 5001, "source": "fr", "target": "en"}, "q", 5000),
    ("/translate", {"q": ["a"] * 129, "source": "fr", "target": "en"}, "q", 128),
    ("/translate", {"q": "a", "source": "fr", "target": "en", "model": "zz"}, "model", None),
    ("/translate", {"q": "a", "source": "fr", "target": "en", "colour": 1}, "colour", None),
    ("/detect", {}, "q", None),
    ("/detect", {"q": ""}, "q", None),
    ("/detect", {"q": [1]}, "q[0]", None),
    ("/detect", {"q": "a" * 5001}, "q", 5000),
    ("/v1/embeddings", {"input": "king"}, "model", None),
    ("/v1/embeddings", {"input": [], "model": "words-en"}, "input", None),
    ("/v1/embeddings", {"input": [[1, 2]], "model": "words-en"}, "input[0]", None),
    ("/v1/embeddings", {"input": "zzzz", "model": "words-en"}, "input", None),
    ("/v1/embeddings", {"input": ["king"] * 129, "model": "words-en"}, "input", 128),
    (
        "/v1/embeddings",
        {"input": "king", "model": "words-en", "encoding_format": "hex"},
        "encoding_format",
        None,
    ),
    ("/v1/embeddings", {"input": "king", "model": "words-en", "dimensions": 17}, "dimensions", 16),
]

BROKEN = [
    b"", b"{", b"[]", b"null", b'"text"', b"{'q': 1}", b'{"prompt": "a",}', b"\xff\xfe",
    b'{"prompt": "\xff"}', b'{"prompt": "\\ud800"}', b'{"prompt": NaN}',
    b"[" * 100_000, b'{"prompt":' * 5000, b'{"a\\u0000": 1}',
]  # fmt: skip


def field_and_limit(service: Service, path: str, body: dict[str, Any]) -> tuple[str | None, float | None]:
    if path.startswith("/v1/"):
        return body["error"]["param"], None
    assert body["title"]
    assert body["detail"]
    assert body["code"]
    return body.get("field"), body.get("limit")


@pytest.mark.parametrize(("path", "query", "field", "limit"), QUERIES)
def test_bad_queries(service: Service, path: str, query: str, field: str | None, limit: float | None) -> None:
    answer = service.ask("GET", f"{path}?{query}")
    assert answer.status in (400, 404), answer.body
    assert answer.headers["content-type"] == "application/problem+json"
    found = field_and_limit(service, path, answer.json)
    assert found == (field, limit) or (limit is None and found[0] == field), answer.body


@pytest.mark.parametrize(("path", "body", "field", "limit"), BODIES)
def test_bad_bodies(service: Service, path: str, body: Any, field: str | None, limit: float | None) -> None:
    answer = service.post(path, body)
    assert answer.status in (400, 404), answer.body
    found = field_and_limit(service, path, answer.json)
    assert found[0] == field, answer.body
    assert limit is None or path.startswith("/v1/") or found[1] == limit, answer.body


@pytest.mark.parametrize("path", ["/similar", "/complete", "/translate", "/detect", "/v1/embeddings"])
@pytest.mark.parametrize("body", BROKEN)
def test_broken_json(service: Service, path: str, body: bytes) -> None:
    answer = service.post(path, body, **{"Content-Type": "application/json"})
    assert answer.status == 400, answer.body
    assert "x-request-id" in answer.headers


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("DELETE", "/similar", {"GET", "POST"}),
        ("PUT", "/complete", {"GET", "POST"}),
        ("GET", "/translate", {"POST"}),
        ("PATCH", "/v1/embeddings", {"POST"}),
        ("POST", "/health/live", {"GET"}),
        ("POST", "/metrics", {"GET"}),
    ],
)
def test_the_wrong_method(service: Service, method: str, path: str, allowed: set[str]) -> None:
    answer = service.ask(method, path)
    assert answer.status == 405
    assert allowed <= {each.strip() for each in answer.headers["allow"].split(",")}


@pytest.mark.parametrize(
    "path", ["/nope", "/similar/king", "/v1", "/v1/models/a/b", "/%00", "/..%2f..%2fetc", "//"]
)
def test_no_such_route(service: Service, path: str) -> None:
    answer = service.ask("GET", path)
    assert answer.status in (200, 404) if path == "//" else answer.status == 404
    assert "x-request-id" in answer.headers


@pytest.mark.parametrize("path", ["/similar", "/complete", "/translate", "/v1/embeddings"])
def test_the_wrong_type_of_body(service: Service, path: str) -> None:
    for kind in ("text/plain", "application/xml", "image/png"):
        answer = service.post(path, b"word=king", **{"Content-Type": kind})
        assert answer.status == 415
    gzipped = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    assert service.post(path, b"\x1f\x8b", **gzipped).status == 415


def test_a_form_where_json_is_wanted(service: Service) -> None:
    kind = {"Content-Type": "application/x-www-form-urlencoded"}
    assert service.post("/similar", b"positive=king", **kind).status == 415


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("multipart/form-data", b"--x--"),
        ("multipart/form-data; boundary=x", b"not multipart"),
        ("multipart/form-data; boundary=x", b"--x\r\nContent-Disposition: form-data; name=q\r\n\r\nabc"),
        ("multipart/form-data; boundary=x",
         b'--x\r\nContent-Disposition: form-data; name="q"; filename="a"\r\n\r\nabc\r\n--x--\r\n'),
        ("application/x-www-form-urlencoded", b"q=%FF&source=fr&target=en"),
        ("application/x-www-form-urlencoded", b"&".join([b"q=a"] * 300)),
        ("application/x-www-form-urlencoded", b""),
    ],
)  # fmt: skip
def test_bad_forms(service: Service, kind: str, body: bytes) -> None:
    answer = service.post("/translate", body, **{"Content-Type": kind})
    assert answer.status == 400, answer.body
    assert answer.json["error"]


def test_a_body_that_is_too_long(service: Service) -> None:
    answer = service.post("/complete", {"prompt": "a" * 1_100_000})
    assert answer.status == 413
    assert "VOISIN_BODY_BYTES" in answer.json["detail"]
    form = service.post(
        "/translate", b"q=" + b"a" * 1_100_000, **{"Content-Type": "application/x-www-form-urlencoded"}
    )
    assert form.status == 413
    chunked = HTTPConnection(HOST, service.port, timeout=10)
    chunked.request("POST", "/complete", iter([b"a" * 100_000] * 12), encode_chunked=True)
    assert chunked.getresponse().status == 413
    chunked.close()


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n",
        b"GET /similar?word=\xff HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"nonsense\r\n\r\n",
        b"POST /complete HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n",
    ],
)
def test_broken_http(service: Service, request_bytes: bytes) -> None:
    with service.raw(request_bytes) as connection:
        assert connection.recv(4096).startswith(b"HTTP/1.1 4")
    assert service.get("/ping").status == 200


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
NAMES = [
    "word", "topn", "lang", "model", "positive", "negative", "prompt", "level", "max_tokens", "n", "beam",
    "temperature", "top_k", "top_p", "seed", "stop", "stream", "q", "source", "target", "format",
    "alternatives", "scores", "input", "encoding_format", "dimensions",
]  # fmt: skip
GOOD = st.sampled_from([
    "king", "the gran", "fr", "en", "auto", "text-en", "chars-en", "words-en", "fr-en", "word", "char", 1, 2,
    0.5, True, ["king"], ["a", "b"],
])  # fmt: skip
often = settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    database=None,
)


@often
@given(
    path=st.sampled_from(["/similar", "/complete", "/translate", "/detect", "/v1/embeddings"]),
    body=st.dictionaries(st.sampled_from(NAMES), GOOD | JSON, max_size=6) | JSON,
)
def test_any_json_is_answered(service: Service, path: str, body: Any) -> None:
    try:
        raw = json.dumps(body).encode()
    except UnicodeEncodeError:
        return
    assert service.post(path, raw, **{"Content-Type": "application/json"}).status < 500


@often
@given(
    path=st.sampled_from(["/similar", "/complete", "/translate"]),
    query=st.dictionaries(
        st.sampled_from(NAMES) | st.text(max_size=5), GOOD.map(str) | st.text(max_size=30), max_size=5
    ),
)
def test_any_query_is_answered(service: Service, path: str, query: dict[str, str]) -> None:
    pairs = (
        f"{quote(name, errors='surrogatepass')}={quote(value, errors='surrogatepass')}"
        for name, value in query.items()
    )
    method = "POST" if path == "/translate" else "GET"
    assert service.ask(method, path + "?" + "&".join(pairs)).status < 500
