"""What a bundle says about itself: the records of ``manifest.json`` and its revision."""

import hashlib
from os import PathLike
from pathlib import Path
from typing import Any, Literal

import msgspec
from msgspec import UNSET, UnsetType

from bundle.errors import BundleError

FORMAT = 4
READABLE = (4, 3, 2, 1)  # what is read is more than what is promised: the current number and the previous
MANIFEST = "manifest.json"
TOKENIZER = "tokenizer.json"
SCORES = "scores.json"
CARD = "CARD.md"

Kind = Literal["vectors", "language", "translator"]
Level = Literal["char", "word", "bpe"]
Precision = Literal["fp32", "fp16", "int8"]
Form = Literal["plain", "fast"]
"""Of graphs: operators of ONNX alone, or laid out for onnxruntime on CPUs."""

GRAPHS: dict[Kind, tuple[str, ...]] = {
    "vectors": ("vectors.onnx",),
    "language": ("model.onnx",),
    "translator": ("encoder.onnx", "decoder.onnx"),
}
FAST_GRAPHS: dict[Kind, tuple[str, ...]] = {
    "vectors": (),
    "language": ("model.fast.onnx",),
    "translator": ("encoder.fast.onnx", "decoder.fast.onnx"),
}
"""What stands beside `GRAPHS`, in the same order, in a bundle that has both forms."""


class Record(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of the manifest's records: immutable, and strict about what they read."""


class Special(Record, frozen=True, kw_only=True):
    """Ids of the special tokens, ``None`` where the tokenizer has none."""

    pad: int | None = None
    bos: int | None = None
    eos: int | None = None
    unk: int | None = None


class Limits(Record, frozen=True, kw_only=True):
    """Most tokens of a prompt or source sentence, of one answer, and of one past (0 = unbounded)."""

    prompt_tokens: int
    new_tokens: int
    context_tokens: int = 0


class Decoding(Record, frozen=True, kw_only=True):
    """Defaults of the wishes that come with a request."""

    max_tokens: int = 32
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    beam: int = 1
    length_penalty: float = 1.0


class FileRecord(Record, frozen=True, kw_only=True):
    """Digest (hexadecimal sha256) and size in bytes of one file."""

    sha256: str
    size: int


class Corpus(Record, frozen=True, kw_only=True, omit_defaults=True):
    """One source of the training text; of one from the Hugging Face hub, with the commit that was read."""

    name: str
    licence: str
    attribution: str
    sha256: str
    revision: str = ""


class Provenance(Record, frozen=True, kw_only=True):
    """Where the weights come from. ``created`` is UTC, to the second."""

    commit: str
    recipe: str
    corpora: list[Corpus]
    libraries: dict[str, str]
    opset: int
    parameters: int
    created: str


class Check(Record, frozen=True, kw_only=True):
    """One equality that export verified: the bound stated and the largest difference seen."""

    bound: float
    observed: float


class Golden(Record, frozen=True, kw_only=True):
    """An input with the outputs it must give, and their scores.

    vectors: a word, its neighbours, their cosines. language: a prompt, its greedy completion of 16 tokens,
    the sum of their log-probabilities. translator: a text, its translation, the mean log-probability of its
    tokens.
    """

    input: list[str]
    output: list[str]
    scores: list[float]


class Subwords(Record, frozen=True, kw_only=True):
    """How words that were never seen are composed: their n-grams of ``min_n`` to ``max_n`` characters, hashed
    into ``bucket`` rows (see ``bundle/ngrams.py``)."""

    min_n: int
    max_n: int
    bucket: int


class Manifest(Record, frozen=True, kw_only=True):
    """The facts that travel with a model; see ``docs/bundle-format.md``.

    ``golden_fast`` is for the fast graphs of a bundle that has both forms: rounding activations moves scores.
    """

    format: int = FORMAT
    kind: Kind
    name: str
    aliases: list[str] = []
    level: Level
    languages: list[str]
    special: Special
    limits: Limits
    decoding: Decoding
    precision: Precision
    form: Literal["fast", "both"] | UnsetType = UNSET
    subwords: Subwords | UnsetType = UNSET
    files: dict[str, FileRecord]
    revision: str
    provenance: Provenance
    parity: dict[str, Check] = {}
    golden: list[Golden] = []
    golden_fast: list[Golden] | UnsetType = UNSET
    tolerance: dict[str, float] = {}


def graph_names(manifest: Manifest) -> tuple[str, ...]:
    """The files of all graphs that a bundle has."""
    more = FAST_GRAPHS[manifest.kind] if manifest.form == "both" else ()
    return GRAPHS[manifest.kind] + more


def least_format(manifest: Manifest) -> int:
    """The lowest format that can say what this manifest says: what export writes, so that older readers open
    a bundle that uses nothing new."""
    if manifest.form == "both" or manifest.golden_fast is not UNSET:
        return 4
    if manifest.form is not UNSET:
        return 3
    later = manifest.subwords is not UNSET or any(each.revision for each in manifest.provenance.corpora)
    return 2 if later else 1


def compute_revision(manifest: Manifest) -> str:
    """First 12 hexadecimal digits of the sha256 of everything that decides an answer."""
    deciding: dict[str, Any] = {
        "kind": manifest.kind,
        "level": manifest.level,
        "languages": manifest.languages,
        "special": manifest.special,
        "limits": manifest.limits,
        "decoding": manifest.decoding,
        "precision": manifest.precision,
        "files": {name: record.sha256 for name, record in manifest.files.items()},
    }
    if manifest.subwords is not UNSET:
        deciding["subwords"] = manifest.subwords
    return hashlib.sha256(msgspec.json.encode(deciding, order="sorted")).hexdigest()[:12]


def encode(manifest: Manifest) -> bytes:
    """The bytes of ``manifest.json``: keys sorted, two-space indent, final newline."""
    return msgspec.json.format(msgspec.json.encode(manifest, order="sorted"), indent=2) + b"\n"


def read_manifest(folder: str | PathLike[str]) -> Manifest:
    """Read and check the manifest of a bundle, but not the files it names.

    Raises:
        BundleError: missing, not JSON, a format not understood, a field unknown, missing or of the wrong
            type, a graph or tokenizer without record, or a revision that does not match.
    """
    path = Path(folder) / MANIFEST
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise BundleError(path, f"cannot be read: {error.strerror}") from error
    try:
        plain: Any = msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BundleError(path, f"is not JSON: {error}") from error
    # The format is judged first: a future manifest has fields that this reader would call unknown.
    number = plain.get("format") if isinstance(plain, dict) else None
    if number not in READABLE:
        raise BundleError(path, f"format {number!r} is not understood (this reader knows {READABLE})")
    try:
        manifest = msgspec.convert(plain, Manifest)
    except msgspec.ValidationError as error:
        raise BundleError(path, str(error)) from error
    _check(path, manifest)
    return manifest


def _check(path: Path, manifest: Manifest) -> None:
    for name in (*graph_names(manifest), TOKENIZER):
        if name not in manifest.files:
            raise BundleError(path, f"files: {name} is not recorded")
    for name in manifest.files:
        if Path(name).name != name or "\0" in name or name in {"", ".", "..", MANIFEST}:
            raise BundleError(path, f"files: {name!r} is not a file beside the manifest")
    if manifest.form is not UNSET and manifest.kind == "vectors":
        raise BundleError(path, f"form: {manifest.form!r} makes no sense for kind vectors")
    if manifest.format < least_format(manifest):
        raise BundleError(path, f"says what format {manifest.format} has no word for")
    subwords = manifest.subwords
    if subwords is not UNSET and (
        manifest.kind != "vectors" or not 1 <= subwords.min_n <= subwords.max_n or subwords.bucket < 1
    ):
        raise BundleError(path, f"subwords: {subwords} makes no sense for kind {manifest.kind}")
    expected = compute_revision(manifest)
    if manifest.revision != expected:
        raise BundleError(path, f"revision {manifest.revision!r} does not match its contents ({expected})")
