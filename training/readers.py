"""The formats of a corpus: plain text and TSV, JSON Lines, parquet. A file in, lines of text out.

Of JSON Lines and parquet the recipe names the fields that are read, `translation.en` for a field within a
field. A null is an empty text, which the mixing drops; a field that is not there, or is no text, is an error.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from types import ModuleType
from typing import Any, Literal

import msgspec

from training.shards import CorpusError, LocalShard, Shard, compression, raw_lines

Format = Literal["text", "jsonl", "parquet"]
Record = tuple[list[str], float]
"""The texts of one line, and its share of :func:`volume`."""

TEXT_FIELD = "text"
"""What is read of JSON Lines and parquet where the recipe names no field."""

_FORMATS: Mapping[str, Format] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".parquet": "parquet",
}
# Text per byte of a compressed file. Only used to pace the mixing, where a rough figure is enough.
_RATIO = 3.5
_ROWS = 1024  # of a parquet file, in memory at once
_BUFFER = 1 << 16


def format_of(name: str) -> Format:
    """The format of a file by its name, a suffix of compression aside; anything unknown is text."""
    stem = name.removesuffix(compression(name))
    return _FORMATS.get(PurePosixPath(stem).suffix, "text")


def volume(shard: Shard) -> float:
    """Roughly what the shares of a file's records add up to."""
    return shard.size * (_RATIO if compression(shard.name) else 1.0)


def records(shard: Shard, columns: Sequence[str], fields: Mapping[str, str]) -> Iterator[Record]:
    """The lines of one file, as many texts each as there are columns or fields; one where there are none.

    Where one field is read, a text of several lines gives several records; where several are read, which
    belong together, each is put on one line.

    Raises: CorpusError, naming the file and the line or row.
    """
    form = format_of(shard.name)
    if form == "text":
        if fields:
            raise CorpusError(shard.name, "fields are those of jsonl and parquet; a tsv has columns")
        yield from _text(shard, columns)
        return
    if columns:
        raise CorpusError(shard.name, f"columns are those of a tsv; a {form} file has fields")
    read = _json_lines if form == "jsonl" else _parquet
    for texts, share in read(shard, list(fields.values()) or [TEXT_FIELD]):
        if len(texts) > 1:
            yield [" ".join(text.splitlines()) for text in texts], share
            continue
        lines = texts[0].split("\n")
        for line in lines:
            yield [line], share / len(lines)


def read_lines(path: Path) -> Iterator[str]:
    """The lines of a UTF-8 file, decompressed by its suffix, without their line ends.

    Only a line feed ends a line: a U+2028 in a sentence does not tear a pair apart.

    Raises: CorpusError for a missing file, bytes that are not UTF-8, or a damaged compressed file.
    """
    return _lines(LocalShard(path))


def _lines(shard: Shard) -> Iterator[str]:
    for number, raw in enumerate(raw_lines(shard), start=1):
        try:
            text = raw.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise CorpusError(
                f"{shard.name}:{number}", f"not UTF-8: {error.reason} at byte {error.start}"
            ) from error
        yield text.rstrip("\r\n")


def _text(shard: Shard, columns: Sequence[str]) -> Iterator[Record]:
    width = len(columns)
    for number, line in enumerate(_lines(shard), start=1):
        texts = line.split("\t") if width else [line]
        if width and len(texts) != width:
            raise CorpusError(
                f"{shard.name}:{number}",
                f"expected {width} columns ({' '.join(columns)}), found {len(texts)}",
            )
        yield texts, sum(map(len, texts)) + len(texts)


def _json_lines(shard: Shard, fields: Sequence[str]) -> Iterator[Record]:
    decoder = msgspec.json.Decoder()
    paths = [(field, field.split(".")) for field in fields]
    for number, raw in enumerate(raw_lines(shard), start=1):
        line = raw.removeprefix(b"\xef\xbb\xbf").strip() if number == 1 else raw.strip()
        if not line:
            continue
        place = f"{shard.name}:{number}"
        try:
            found = decoder.decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise CorpusError(place, f"not JSON: {error}") from error
        if not isinstance(found, dict):
            raise CorpusError(place, f"expected one JSON object a line, found {_kind(found)}")
        yield [_member(found, field, parts, place) for field, parts in paths], len(raw)


def _member(found: dict[str, Any], field: str, parts: Sequence[str], place: str) -> str:
    """The text at a path; a key that itself holds a dot is taken first."""
    value: Any = found
    if field in found:
        value = found[field]
    else:
        for part in parts:
            if value is None:
                break
            if not isinstance(value, dict) or part not in value:
                there = ", ".join(value) if isinstance(value, dict) else _kind(value)
                raise CorpusError(place, f"no field {field!r}: there is {there or 'nothing'}")
            value = value[part]
    if value is None:
        return ""
    if not isinstance(value, str):
        raise CorpusError(place, f"the field {field!r} is {_kind(value)}, not text")
    return value


def _kind(value: object) -> str:
    """A JSON value's type in JSON's words."""
    if isinstance(value, bool):
        return "a boolean"
    kinds: Mapping[type, str] = {str: "a text", list: "a list", dict: "an object", type(None): "null"}
    return kinds.get(type(value), "a number")


def _parquet(shard: Shard, fields: Sequence[str]) -> Iterator[Record]:
    if compression(shard.name):
        raise CorpusError(shard.name, "a parquet file is compressed inside; unpack it")
    try:
        import pyarrow
        import pyarrow.parquet as parquet
    except ImportError:
        raise CorpusError(shard.name, "parquet needs pyarrow: pip install pyarrow") from None
    row = 0
    try:
        with shard.open() as stored:
            # One thread and no read-ahead: memory stays that of a few pages, however long a row group is.
            file = parquet.ParquetFile(stored, buffer_size=_BUFFER, pre_buffer=False)
            _check(pyarrow, file.schema_arrow, fields, shard.name)
            share = volume(shard) / max(1, file.metadata.num_rows)
            batches = file.iter_batches(
                batch_size=_ROWS, columns=list(dict.fromkeys(fields)), use_threads=False
            )
            for batch in batches:
                texts = [_values(batch, field) for field in fields]
                for row_texts in zip(*texts, strict=True):
                    yield [text or "" for text in row_texts], share
                row += batch.num_rows
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        place = f"{shard.name}: row {row + 1}" if row else shard.name
        raise CorpusError(place, f"damaged parquet file: {error}") from error


def _check(pyarrow: ModuleType, schema: Any, fields: Sequence[str], name: str) -> None:
    """Raises CorpusError for a field that the schema lacks or that holds no text."""
    types = pyarrow.types
    for field in fields:
        within, place = schema, field
        if field not in schema.names:
            *path, place = field.split(".")
            for part in path:
                inner = within.field(part).type if part in _names(types, within) else None
                if inner is None or not types.is_struct(inner):
                    raise CorpusError(
                        name, f"no field {field!r}: there is {', '.join(_names(types, within))}"
                    )
                within = inner
        if place not in _names(types, within):
            raise CorpusError(name, f"no field {field!r}: there is {', '.join(_names(types, within))}")
        kind = within.field(place).type
        if types.is_dictionary(kind):
            kind = kind.value_type
        textual = (types.is_string, types.is_large_string, types.is_string_view, types.is_null)
        if not any(test(kind) for test in textual):
            raise CorpusError(name, f"the field {field!r} is {kind}, not text")


def _names(types: Any, within: Any) -> list[str]:
    """The names of a schema, or of a struct's members."""
    if hasattr(within, "names"):
        return list(within.names)
    return [within.field(place).name for place in range(within.num_fields)]


def _values(batch: Any, field: str) -> list[str | None]:
    import pyarrow.compute as compute

    if field in batch.schema.names:
        return list(batch.column(field).to_pylist())
    first, *rest = field.split(".")
    # Unlike StructArray.field, this knows that the members of a null are null.
    return list(compute.struct_field(batch.column(first), rest).to_pylist())
