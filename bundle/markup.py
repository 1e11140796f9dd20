"""HTML as units of running text. Every byte of a tag, comment or entity that is not translated is kept.

``html.parser`` says where things begin; what they are is read from the source itself, so that what is not
understood (broken tags, unknown entities) passes through as it was written.
"""

import html
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html.parser import HTMLParser
from typing import Literal

from bundle.kept import OBJECT
from bundle.units import Part, Tag, make_unit

#: Elements inside a sentence; every other ends it.
INLINE = frozenset({
    "a", "abbr", "acronym", "b", "bdi", "bdo", "big", "cite", "data", "del", "dfn", "em", "font", "i",
    "img", "ins", "label", "mark", "nobr", "q", "rp", "rt", "ruby", "s", "small", "span", "strike",
    "strong", "sub", "sup", "time", "u", "wbr",
})  # fmt: skip
#: Elements without content.
_VOID = frozenset({
    "area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "param", "source",
    "track", "wbr",
})  # fmt: skip
#: Elements whose content is not language.
_OPAQUE = frozenset({
    "code", "kbd", "math", "noscript", "object", "pre", "samp", "script", "style", "svg", "template",
    "textarea", "tt", "var", "audio", "video",
})  # fmt: skip
_OPAQUE_INLINE = frozenset({
    "code", "kbd", "math", "object", "samp", "svg", "tt", "var",
})  # fmt: skip

_ENTITY = re.compile(r"(&#?\w+;)")
_DEEPEST = 40  # elements in elements inside one sentence; further ones are tags without a partner

Kind = Literal["open", "close", "void", "text", "entity", "comment", "other"]


@dataclass(frozen=True)
class Token:
    """A stretch of the source.

    Attributes:
        name: of the element, in lower case, for tags.
        opaque: the element is marked as not to be translated.
    """

    kind: Kind
    source: str
    name: str = ""
    opaque: bool = False


def read_html(source: str, glossary: Mapping[str, str]) -> list[Part]:
    """The parts of a document or a fragment: a unit for the text of each block element."""
    reader = _Reader(glossary)
    tokens = tokenize(source)
    at = 0
    while at < len(tokens):
        at = reader.take(tokens, at)
    reader.close()
    return [part for part in reader.parts if part != ""]


def tokenize(source: str) -> list[Token]:
    """``source`` as tokens, which joined are ``source``."""
    # No tag ends after the last ">"; the parser would look for one again and again.
    whole = source.rfind(">") + 1
    parser = _Parser(source[:whole])
    try:
        parser.feed(source[:whole])
        parser.close()
    except AssertionError:  # a declaration that it cannot read: from there on nothing is understood
        parser.stop()
    ends = [*[start for start, *_ in parser.found[1:]], whole] if parser.found else []
    found = [
        Token(kind, source[start:end], name, opaque)
        for (start, kind, name, opaque), end in zip(parser.found, ends, strict=True)
        if end > start
    ]
    rest = _ENTITY.split(source[whole:])
    return found + [Token("entity" if at % 2 else "text", part) for at, part in enumerate(rest) if part]


class _Parser(HTMLParser):
    """Where each token begins."""

    def __init__(self, source: str) -> None:
        super().__init__(convert_charrefs=False)
        self.found: list[tuple[int, Kind, str, bool]] = []
        self._lines = [0]
        for line in source.split("\n"):
            self._lines.append(self._lines[-1] + len(line) + 1)

    def _add(self, kind: Kind, name: str = "", opaque: bool = False) -> None:
        line, column = self.getpos()
        start = self._lines[line - 1] + column
        if self.found and self.found[-1][0] >= start:  # <br/> may be told as two
            return
        if not self.found and start:
            self.found.append((0, "other", "", False))
        self.found.append((start, kind, name, opaque))

    def stop(self) -> None:
        """What was not read stays as it is."""
        self._add("other")

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        marked = given.get("translate", "").lower() == "no" or "notranslate" in given.get("class", "").split()
        self._add("void" if tag in _VOID else "open", tag, marked)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._add("void", tag)

    def handle_endtag(self, tag: str) -> None:
        self._add("close", tag)

    def handle_data(self, data: str) -> None:
        self._add("text")

    def handle_entityref(self, name: str) -> None:
        self._add("entity")

    def handle_charref(self, name: str) -> None:
        self._add("entity")

    def handle_comment(self, data: str) -> None:
        self._add("comment")

    def handle_decl(self, decl: str) -> None:
        self._add("other")

    def handle_pi(self, data: str) -> None:
        self._add("other")

    def unknown_decl(self, data: str) -> None:
        self._add("other")


class _Reader:
    """Gathers the text and the tags of a block until it ends."""

    def __init__(self, glossary: Mapping[str, str]) -> None:
        self.parts: list[Part] = []
        self._glossary = glossary
        self._at = 0
        self._pieces: list[tuple[str, str]] = []
        self._length = 0
        self._tags: list[Token] = []
        self._places: list[int] = []

    def take(self, tokens: Sequence[Token], at: int) -> int:
        """Read the token ``at``; returns where to go on."""
        token = tokens[at]
        if token.kind in ("text", "entity"):
            self._text(token)
        elif token.kind == "comment" or (token.name in INLINE and not token.opaque):
            self._tags.append(token)
            self._places.append(self._length)
        elif token.kind == "open" and (token.opaque or token.name in _OPAQUE):
            end = _end_of(tokens, at)
            if end:
                self._opaque(token, "".join(each.source for each in tokens[at:end]))
                return end
            self._wall(token.source)
        else:
            self._wall(token.source)
        return at + 1

    def close(self) -> None:
        """The block has ended."""
        if self._pieces or self._tags:
            tags = _paired(self._tags, self._places)
            part = make_unit(self._pieces, self._at, self._glossary, tags=tags, escaped=True)
            self.parts.append(part)
            self._at += len(part if isinstance(part, str) else part.source)
        self._pieces, self._length, self._tags, self._places = [], 0, [], []

    def _text(self, token: Token) -> None:
        plain = token.source
        if token.kind == "entity" and plain.endswith(";"):
            # what is unknown, or no character of text, stays as it is written
            found = html.unescape(plain)
            known = found.isspace() or (len(found) < len(plain) and found.isprintable())
            plain = found if known else plain
        self._pieces.append((plain, token.source))
        self._length += len(plain)

    def _opaque(self, token: Token, source: str) -> None:
        if token.name in INLINE or token.name in _OPAQUE_INLINE:
            self._pieces.append((OBJECT, source))
            self._length += 1
        else:
            self._wall(source)

    def _wall(self, source: str) -> None:
        self.close()
        self.parts.append(source)
        self._at += len(source)


def _end_of(tokens: Sequence[Token], at: int) -> int:
    """Where the element that opens ``at`` is over; 0 where it is never closed."""
    depth = 0
    for place in range(at, len(tokens)):
        token = tokens[place]
        if token.name == tokens[at].name:
            depth += (token.kind == "open") - (token.kind == "close")
            if depth == 0:
                return place + 1
    return 0


def _paired(tokens: Sequence[Token], places: Sequence[int]) -> list[Tag]:
    """Tags of a unit, each opening one with its partner; those without stand for themselves."""
    partners: dict[int, int] = {}
    stack: list[int] = []
    for index, token in enumerate(tokens):
        if token.kind == "open":
            stack.append(index)
        elif token.kind == "close":
            for depth in range(len(stack) - 1, -1, -1):
                if tokens[stack[depth]].name == token.name:
                    if depth < _DEEPEST:
                        partners[stack[depth]] = index
                    del stack[depth:]
                    break
    return [
        Tag(place, token.source, partners.get(index))
        for index, (token, place) in enumerate(zip(tokens, places, strict=True))
    ]
