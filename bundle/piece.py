"""One sentence on its way through the model, so that what must come back as it is does.

A small model cannot be trusted to copy ``%1$s`` or 12:30. It can be with names it has seen a thousand times.
So a sentence that holds such things is tried, until a translation has each of them exactly once:

1. numbers and symbols as they are, anything else behind a name (``Bonjour Tom``), all hypotheses of the beam;
2. the same, and the wrong numbers in it put right, where there are as many as in the source;
3. numbers behind names, too;
4. only what stands between them is translated, part by part: nothing is left to the model.

A part in which the model invents something of their kind stays untranslated. So the rule holds always.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from bundle.clauses import cut
from bundle.decoding import Finished
from bundle.edits import Edits, Span
from bundle.errors import InvalidRequest
from bundle.kept import OBJECT, Kept, find_kept, has_words, intact, runs_on
from bundle.tokenizer import Detokenizer, Tokenizer

#: Names that are the same in the languages of Western Europe, and that models of everyday sentences know.
STAND_INS = ("Tom", "Boston", "Mary", "John", "Kyoto", "Tokyo", "Paris", "Alice")

_LINE = re.compile(r"[\n\r\t\x0b\x0c\x1c-\x1e\x85\u2028\u2029\ufffc]")
_SPACES = re.compile(r" {2,}")
_DIGITS = re.compile(r"\d")
_CORE = re.compile(r"[^\w(«“\"'¿¡]*")
_END = re.compile(r"[.!?…]\W*\Z")


@dataclass(frozen=True)
class Run:
    """A hypothesis that became part of a translation: what alignment needs to know of it.

    Attributes:
        shown: what the model was shown, as made from a part of the sentence that begins at ``start``.
        ids: of the hypothesis, without eos.
        spans: where each of them stands in the translation of the sentence.
    """

    shown: Edits
    start: int
    ids: tuple[int, ...]
    spans: list[Span]

    def place(self, span: Span) -> Span:
        """Where the sentence has a part of what was shown."""
        first, last = self.shown.backward(span)
        return self.start + first, self.start + last


@dataclass(frozen=True)
class Variant:
    """One translation of a sentence.

    Attributes:
        atoms: ``(start, end, which of the sentence's kept)`` of all that came back as it was.
        logprob: of its tokens, the ends that were reached counted; ``counted`` is how many these are.
    """

    text: str
    atoms: tuple[tuple[int, int, int], ...] = ()
    logprob: float = 0.0
    tokens: int = 0
    counted: int = 0
    truncated: bool = False
    runs: tuple[Run, ...] = field(default=(), compare=False)


class Reading:
    """What a translator can read, and under which names it sees what must come back."""

    def __init__(self, tokenizer: Tokenizer, most: int) -> None:
        """
        Args:
            most: tokens of a sentence, its end not counted.
        """
        self.tokenizer = tokenizer
        self._most = most
        self.stand_ins = tuple(name for name in STAND_INS if self._knows(name))

    def fits(self, text: str) -> bool:
        """Whether it is short enough."""
        return len(self.tokenizer.encode(text)) <= self._most

    def legible(self, text: str) -> bool:
        """Whether it is short enough, and every character has a token."""
        try:
            return self.fits(text)
        except InvalidRequest:
            return False

    def _knows(self, name: str) -> bool:
        try:
            ids = self.tokenizer.encode(f" {name}")
        except InvalidRequest:
            return False
        return self.tokenizer.special.unk not in ids

    def disguised(self, text: str, kept: Sequence[Kept], *, numbers: bool) -> Edits | None:
        """``text`` as the model sees it, None where there are too few names.

        Args:
            numbers: whether numbers go behind names, too.
        """
        names = (name for name in self.stand_ins if name not in text)
        changes: list[tuple[int, int, str]] = []
        for each in kept:
            if each.kind == "symbol" or (each.kind == "number" and not numbers):
                if each.plain != text[each.start : each.end]:
                    changes.append((each.start, each.end, each.plain))
                continue
            name = next(names, None)
            if name is None:
                return None
            changes.append((each.start, each.end, name))
        return Edits.of(text, sorted([*changes, *_doubled(text, kept)]))


class Piece:
    """A sentence, or as much of one as the model can read at once.

    ``asked`` lists the texts to translate next; give their hypotheses, best first, to :meth:`take`, which
    says whether there is more to ask. In the end ``variants`` has the translations, best first, each once.
    """

    def __init__(self, reading: Reading, text: str, kept: Sequence[Kept]) -> None:
        """
        Args:
            kept: of ``text``, in order; there are letters beside them.

        Raises:
            InvalidRequest: a character that the model has no token for.
        """
        self.text = text
        self.kept = tuple(kept)
        self.variants: list[Variant] = []
        self._reading = reading
        self._tried = 0  # disguises
        self._seen: Edits | None = None
        self._plan: Edits | None = None
        self._between: list[Span] = []
        self.asked: list[str] = []
        self._next()

    @property
    def nbest(self) -> bool:
        """Whether more hypotheses than the best are of use."""
        return self._plan is not None and bool(self.kept)

    def take(self, found: Sequence[Sequence[Finished]]) -> bool:
        """The hypotheses of each of ``asked``; whether ``asked`` holds new texts to translate."""
        if self._plan is None:
            self.variants = [self._joined([choices[0] for choices in found])]
            return False
        for mended in (False, True):
            restored = [self._restored(each, self._plan, mended=mended) for each in found[0]]
            seen: dict[str, Variant] = {}
            for variant in restored:
                if variant is not None:
                    seen.setdefault(variant.text, variant)
            self.variants = list(seen.values())
            if self.variants:
                return False
        if not self.kept:  # the model says nothing, or invents what looks like mark-up
            self.variants = [Variant(self.text)]
            return False
        self._next()
        return not self.variants

    def _disguise(self) -> Edits | None:
        """The next that differs from the one before; no generator, which could not be sent to a process."""
        while self._tried < 2:
            plan = self._reading.disguised(self.text, self.kept, numbers=self._tried == 1)
            self._tried += 1
            if plan is None or plan == self._seen:
                continue
            self._seen = plan
            if not self.kept or self._reading.legible(plan.result):
                return plan
        return None

    def _next(self) -> None:
        self._plan = self._disguise()
        if self._plan is not None:
            self.asked = [self._plan.result]
            return
        self._between = list(self._spaces_between())
        self.asked = [_shown(self.text[start:end]).result for start, end in self._between]
        if not self.asked:
            self.variants = [self._joined([])]

    def _spaces_between(self) -> Iterator[Span]:
        """What stands between kept things and has a word, cut to what fits."""
        at = 0
        for stop, after in (*((each.start, each.end) for each in self.kept), (len(self.text), 0)):
            lead = _CORE.match(self.text, at, stop)
            start = lead.end() if lead else at
            core = self.text[start:stop].rstrip()
            if has_words(core):
                for left, right in cut(core, self._reading.fits):
                    if has_words(core[left:right]):
                        yield start + left, start + right
            at = after

    def _restored(self, found: Finished, plan: Edits, *, mended: bool) -> Variant | None:
        """The translation with what was disguised; None where something is missing, doubled or invented.

        Args:
            mended: whether wrong numbers are put right, where there are as many as in the source.
        """
        text, spans = _decoded(self._reading.tokenizer, found.ids)
        places = self._places(text, plan, mended=mended)
        if places is None:
            return None
        edits = Edits.of(text, [(start, end, self.kept[which].plain) for start, end, which in places])
        if not edits.result or not self._holds(edits.result) or not self._apart(edits, places):
            return None
        atoms = [(*edits.forward((start, end)), which) for start, end, which in places]
        mark = _END.search(self.text) if runs_on(edits.result) else None
        run = Run(plan, 0, found.ids, [edits.forward(span) for span in spans])
        ended = found.reason == "stop"
        return Variant(
            edits.result + (mark[0] if mark else ""),  # or the next sentence's number becomes part of its own
            tuple(atoms),
            found.logprob,
            len(found.ids),
            len(found.ids) + ended,
            not ended,
            (run,),
        )

    def _holds(self, text: str) -> bool:
        # a sentence without any number may spell some out; beside others, an invented one is a fault
        return intact(text, self.kept, spelt=not self.kept)

    def _apart(self, edits: Edits, places: Sequence[tuple[int, int, int]]) -> bool:
        """Whether symbols stay apart from the words they stood apart from: ``a < b`` is no tag."""
        for start, end, which in places:
            kept, after = self.kept[which], edits.forward((start, end))[1]
            loose = kept.kind == "symbol" and self.text[kept.end : kept.end + 1].isspace()
            if loose and not edits.result[after : after + 1].isspace() and after < len(edits.result):
                return False
        return True

    def _places(self, text: str, plan: Edits, *, mended: bool) -> list[tuple[int, int, int]] | None:
        """Where ``text`` has what the model was shown for each of ``kept``, in the order of ``text``."""
        shown = [plan.result[slice(*plan.forward((each.start, each.end)))] for each in self.kept]
        found: list[tuple[int, int, int]] = []
        numbers = [
            at for at, each in enumerate(self.kept) if each.kind == "number" and shown[at] == each.plain
        ]
        if mended:
            said = [each for each in find_kept(text) if each.kind == "number"]
            if not numbers or len(said) != len(numbers):
                return None
            found += [
                (each.start, each.end, at)
                for each, at in zip(said, self._matched(said, numbers), strict=True)
            ]
        counted = Counter(form for at, form in enumerate(shown) if not mended or at not in numbers)
        for form, count in counted.items():
            left, right = (
                (r"(?<![\w])" if form[0].isalnum() else ""),
                (r"(?!\w)" if form[-1].isalnum() else ""),
            )
            matches = list(re.finditer(left + re.escape(form) + right, text))
            if len(matches) != count:
                return None
            which = [at for at, each in enumerate(shown) if each == form and not (mended and at in numbers)]
            found += [(*match.span(), index) for match, index in zip(matches, which, strict=True)]
        found.sort()
        overlaps = any(a[1] > b[0] for a, b in pairwise(found))
        return None if overlaps else found

    def _matched(self, said: Sequence[Kept], numbers: Sequence[int]) -> list[int]:
        """Which of ``kept`` each number of a translation is: the one of its digits, else the next left."""
        left = list(numbers)
        same: dict[int, int] = {}
        for place, each in enumerate(said):
            digits = _DIGITS.findall(each.plain)
            match = next((at for at in left if _DIGITS.findall(self.kept[at].plain) == digits), None)
            if match is not None:
                same[place] = match
                left.remove(match)
        return [same[place] if place in same else left.pop(0) for place in range(len(said))]

    def _joined(self, found: Sequence[Finished]) -> Variant:
        """What is kept where it stood, and between it the translations of the parts."""
        changes = [
            (each.start, each.end, each.plain)
            for each in self.kept
            if each.plain != self.text[each.start : each.end]
        ]
        used: list[tuple[Finished, Span, list[Span]]] = []
        for (start, end), each in zip(self._between, found, strict=True):
            text, spans = _as_part(self.text[start:end], *_decoded(self._reading.tokenizer, each.ids))
            if text and intact(text, (), spelt=True) and not any(kept.plain in text for kept in self.kept):
                changes.append((start, end, text))
                used.append((each, (start, end), spans))
        edits = Edits.of(self.text, sorted(changes))
        merges = runs_on(edits.result) and not runs_on(self.text)
        if merges or not intact(edits.result, self.kept, spelt=True):
            edits, used = Edits.of(self.text, [(each.start, each.end, each.plain) for each in self.kept]), []
        runs = []
        for each, (start, end), spans in used:
            at = edits.forward((start, end))[0]
            shown = _shown(self.text[start:end])
            runs.append(Run(shown, start, each.ids, [(at + first, at + last) for first, last in spans]))
        tokens = sum(len(each.ids) for each, *_ in used)
        return Variant(
            edits.result,
            tuple((*edits.forward((each.start, each.end)), which) for which, each in enumerate(self.kept)),
            sum(each.logprob for each, *_ in used),
            tokens,
            tokens + sum(each.reason == "stop" for each, *_ in used),
            any(each.reason == "length" for each, *_ in used),
            tuple(runs),
        )


def pieces_of(reading: Reading, text: str, kept: Sequence[Kept]) -> Iterator[tuple[int, str | Piece]]:
    """A sentence as pieces that the model can read and what stands between them, each with its place.

    Raises:
        InvalidRequest: a character that the model has no token for.
    """
    names = [name for name in reading.stand_ins if name not in text] or [OBJECT]
    shown = Edits.of(text, [(each.start, each.end, names[at % len(names)]) for at, each in enumerate(kept)])
    long = names[0] != OBJECT and not reading.legible(shown.result)
    if not kept and not reading.fits(text):
        long = True
    spans: list[Span] = [(0, len(text))]
    if long:
        whole = [(start, end) for _, _, start, end in shown.stretches]
        spans = [shown.backward(span) for span in cut(shown.result, reading.fits, whole)]
    at = 0
    for start, end in spans:
        if start > at:
            yield at, text[at:start]
        within = [
            each._replace(start=each.start - start, end=each.end - start)
            for each in kept
            if start <= each.start and each.end <= end
        ]
        part = text[start:end]
        yield start, Piece(reading, part, within) if has_words(part, within) else part
        at = end


def _doubled(text: str, kept: Sequence[Kept] = ()) -> list[tuple[int, int, str]]:
    """Runs of spaces, as changes into one: between two of them stood a tag."""
    found = [match.span() for match in _SPACES.finditer(text)]
    inside = [(start, end) for start, end in found if any(k.start < end and start < k.end for k in kept)]
    return [(start, end, " ") for start, end in found if (start, end) not in inside]


def _shown(part: str) -> Edits:
    return Edits.of(part, _doubled(part))


def _decoded(tokenizer: Tokenizer, ids: Sequence[int]) -> tuple[str, list[Span]]:
    """The text of a hypothesis on one line, trimmed, and the characters of each id."""
    detokenizer = Detokenizer(tokenizer)
    ends: list[int] = []
    length = 0
    for id in ids:
        length += len(detokenizer.feed(id))
        ends.append(length)
    text = tokenizer.decode(ids)
    stripped = text.strip()
    lead = text.index(stripped) if stripped else 0
    most = len(stripped)
    starts = [0, *ends][: len(ends)]
    spans = [
        (min(max(start - lead, 0), most), min(max(end - lead, 0), most))
        for start, end in zip(starts, ends, strict=True)
    ]
    return _LINE.sub(" ", stripped), spans


def _as_part(source: str, text: str, spans: list[Span]) -> tuple[str, list[Span]]:
    """A translation of a part of a sentence without what only whole sentences have."""
    if not _END.search(source):
        shorter = text.rstrip(" .!?…")
        text = shorter or text
    first = text[:1]
    if (
        source[:1].islower()
        and first.isupper()
        and not (text[1:2].isupper() or text[:2] in ("I ", "I'", "I"))
    ):
        lowered = first.lower()
        text = lowered + text[1:] if len(lowered) == 1 else text
    return text, [(min(start, len(text)), min(end, len(text))) for start, end in spans]
