"""What a browser is told about our pages, and that nothing sets what a page of elsewhere could borrow."""

from __future__ import annotations

import hashlib
import html.parser
from base64 import b64encode

import pytest

from tests.service.making import Service


class Scripts(html.parser.HTMLParser):
    """The inline scripts and event handlers of a page, as a browser's parser finds them."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=False)
        self.inside = False
        self.found: list[str] = []
        self.handlers: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.inside = tag == "script"
        if self.inside:
            self.found.append("")
        self.handlers += [name for name, _ in attrs if name.startswith("on")]

    def handle_endtag(self, tag: str) -> None:
        self.inside = self.inside and tag != "script"

    def handle_data(self, data: str) -> None:
        if self.inside:
            self.found[-1] += data


@pytest.mark.parametrize("path", ["/", "/schema"])
def test_a_page_runs_its_own_scripts_and_no_other(service: Service, path: str) -> None:
    page = service.ask("GET", path, headers={"Accept": "text/html"})
    directives = dict(
        each.strip().partition(" ")[::2] for each in page.headers["content-security-policy"].split(";")
    )
    scripts = Scripts()
    scripts.feed(page.body.decode())
    hashes = {
        f"'sha256-{b64encode(hashlib.sha256(each.encode()).digest()).decode()}'" for each in scripts.found
    }
    assert hashes
    assert set(directives["script-src"].split()) == hashes
    assert scripts.handlers == []
    assert directives["default-src"] == "'none'"
    assert directives["frame-ancestors"] == "'none'"
    assert directives["base-uri"] == "'none'"
    assert page.headers["x-content-type-options"] == "nosniff"
    assert page.headers["x-frame-options"] == "DENY"
    assert page.headers["referrer-policy"] == "no-referrer"
    assert "set-cookie" not in page.headers


def test_answers_with_user_text_are_never_html(service: Service) -> None:
    markup = "<script>alert(1)</script>"
    for answer in (
        service.get("/similar", word=markup),
        service.get("/complete", prompt=markup, lang="en"),
        service.get(f"/{markup.replace('/', '')}"),
        service.post("/translate", {"q": markup, "source": markup, "target": "en"}),
        service.get("/v1/models/%3Cb%3E"),
    ):
        assert "html" not in answer.headers["content-type"]
