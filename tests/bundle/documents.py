"""Random documents, the same from the same seed: French words with everything that must come back between."""

from __future__ import annotations

import random

TALK = "la voiture rouge est devant maison je ne sais pas il a acheté un livre hier ma mère très fatiguée"
WORDS = [*TALK.split(), "l'hôtel", "où", "gare", "d'eau", "Paris", "Tom"]
PLACEHOLDERS = [
    "%1$s", "%d", "{name}", "{{x}}", "${x}", "<br />", "https://ex.org/a?b=c&d=1", "me@ex.org", "%s", "{0}",
    "#{a}", "www.x.fr", "`code x`", "😀", "&nbsp;", "@bob",
]  # fmt: skip
NUMBERS = ["12", "3,50 €", "12 km", "100 %", "10 000", "5", "12:30"]
ENTITIES = [
    "&lt;", "&gt;", "&amp;", "&quot;", "&nbsp;", "&copy;", "&euro;", "&#8364;", "&laquo;", "&unknown;",
    "&lt;script&gt;",
]  # fmt: skip
ELEMENTS = ["b", "i", "a href='x&amp;y'", 'span class="z"', "em", "strong", "u"]
BLOCKS = ["p", "div", "li", "h1", "td", ""]
BETWEEN = [
    "\n",
    "",
    "<hr>",
    "<script>if (a<b) alert('é');</script>",
    "<style>p{}</style>",
    "<pre> a\n  b</pre>",
]
PIECES = [
    "<br>", "<br/>", "<img src='a.png' alt='b'>", "<!-- c -->", "<code>x = 1 < 2</code>", "</b>", "<i>",
    " < ", " & ", "<span translate='no'>ne pas</span>", *ENTITIES,
]  # fmt: skip


def sentence(rng: random.Random, extra: list[str], most: int = 12) -> str:
    """Some words, every fifth of them one of ``extra``."""
    words = [rng.choice(WORDS if rng.random() < 0.8 else extra) for _ in range(rng.randint(1, most))]
    return " ".join(words) + rng.choice([".", "?", "!", "", " ?", "…"])


def html(rng: random.Random) -> str:
    """A fragment of some block elements."""
    blocks = []
    for _ in range(rng.randint(1, 2)):
        name = rng.choice(BLOCKS)
        inner = _inline(rng, 0)
        blocks += [f"<{name}>{inner}</{name}>" if name else inner, rng.choice(BETWEEN)]
    return "".join(blocks)


def _inline(rng: random.Random, depth: int) -> str:
    pieces = []
    for _ in range(rng.randint(1, 3)):
        kind = rng.random()
        if kind < 0.55:
            pieces.append(sentence(rng, [*NUMBERS, *ENTITIES], 4))
        elif kind < 0.8 and depth < 2:
            name = rng.choice(ELEMENTS)
            pieces.append(f"<{name}>{_inline(rng, depth + 1)}</{name.split()[0]}>")
        else:
            pieces.append(rng.choice(PIECES))
        pieces.append(rng.choice([" ", "", "\n  ", "  "]))
    return "".join(pieces)


def document(rng: random.Random) -> str:
    """Paragraphs with all that a plain text may have between its sentences."""
    lines = []
    for _ in range(rng.randint(2, 6)):
        sentences = [sentence(rng, [*PLACEHOLDERS, *NUMBERS], 6) for _ in range(rng.randint(0, 3))]
        lines.append(rng.choice(["", "  ", "\t", "- "]) + rng.choice([" ", "  "]).join(sentences))
        lines.append(rng.choice(["\n", "\n\n", "\r\n", " \n", "\n\n\n"]))
    return "".join(lines)
