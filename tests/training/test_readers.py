"""JSON Lines and parquet: the same lines as from plain text, and damage told with its place."""

from __future__ import annotations

import gzip
import json
import lzma
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pyarrow
import pytest
from pyarrow import parquet

from bundle.tokenizer import Tokenizer
from training.batching import LanguageBatch
from training.config import encode_recipe, load_recipe, recipe_from
from training.corpus import CorpusError, Source, digests, lines, pairs
from training.language import LanguageTask
from training.models import build
from training.tokenizer import train_tokenizer

Rows = Sequence[dict[str, Any]]


def source(path: Path | str, **more: object) -> Source:
    fields = {"path": str(path), "name": "test", "licence": "CC0-1.0", "attribution": "us"}
    return msgspec.convert(fields | more, Source)


def json_lines(path: Path, rows: Rows) -> Path:
    data = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    path.write_bytes({".gz": gzip.compress, ".xz": lzma.compress}.get(path.suffix, bytes)(data))
    return path


def table(path: Path, rows: Rows) -> Path:
    parquet.write_table(pyarrow.Table.from_pylist(list(rows)), path, row_group_size=50)
    return path


WRITERS: dict[str, Callable[[Path, Rows], Path]] = {
    ".jsonl": json_lines,
    ".jsonl.gz": json_lines,
    ".json.xz": json_lines,
    ".parquet": table,
}
PAIRS = [{"id": n, "translation": {"en": f"sentence {n}", "fr": f"phrase {n}"}} for n in range(120)]
IN_PAIRS = {"en": "translation.en", "fr": "translation.fr"}


@pytest.mark.parametrize("suffix", WRITERS)
def test_every_format_gives_the_lines_of_plain_text(tmp_path: Path, suffix: str) -> None:
    texts = [f"line {number}" for number in range(200)]
    path = WRITERS[suffix](tmp_path / f"a{suffix}", [{"text": text, "other": 1} for text in texts])
    assert list(lines([source(path)])) == texts
    assert list(lines([source(path, fields={"en": "text"})], language="en")) == texts
    with pytest.raises(CorpusError, match="not 'fr'"):
        next(lines([source(path, fields={"en": "text"})], language="fr"))


@pytest.mark.parametrize("suffix", WRITERS)
def test_fields_within_fields_are_pairs(tmp_path: Path, suffix: str) -> None:
    both = source(WRITERS[suffix](tmp_path / f"a{suffix}", PAIRS), fields=IN_PAIRS)
    wanted = [(f"sentence {n}", f"phrase {n}") for n in range(120)]
    assert list(pairs([both])) == wanted
    assert list(pairs([both], ("fr", "en"))) == [(fr, en) for en, fr in wanted]
    tsv = tmp_path / "a.tsv"
    tsv.write_text("".join(f"{en}\t{fr}\n" for en, fr in wanted), encoding="utf-8")
    plain = source(tsv, columns=["en", "fr"])
    for split in ("train", "development", "test"):
        held: dict[str, Any] = {"held_out": 0.3, "split": split}
        assert list(pairs([both], **held)) == list(pairs([plain], **held))
        assert list(lines([both], language="fr", **held)) == list(lines([plain], language="fr", **held))


@pytest.mark.parametrize("suffix", WRITERS)
def test_a_name_with_a_dot_is_a_name_first(tmp_path: Path, suffix: str) -> None:
    rows = [{"translation.en": "whole", "translation": {"en": "part"}}]
    path = WRITERS[suffix](tmp_path / f"a{suffix}", rows)
    if suffix != ".parquet":  # which has one name for both
        assert list(lines([source(path, fields={"en": "translation.en"})])) == ["whole"]
    rows = [{"dc.text": "whole"}]
    path = WRITERS[suffix](tmp_path / f"b{suffix}", rows)
    assert list(lines([source(path, fields={"en": "dc.text"})])) == ["whole"]


@pytest.mark.parametrize("suffix", WRITERS)
def test_null_and_empty_are_dropped(tmp_path: Path, suffix: str) -> None:
    rows: Rows = [{"text": "one"}, {"text": None}, {"text": " "}, {"text": "two"}]
    assert list(lines([source(WRITERS[suffix](tmp_path / f"a{suffix}", rows))])) == ["one", "two"]
    rows = [{"translation": None}, {"translation": {"en": "a", "fr": None}}, *PAIRS[:1]]
    both = source(WRITERS[suffix](tmp_path / f"b{suffix}", rows), fields=IN_PAIRS)
    assert list(pairs([both])) == [("sentence 0", "phrase 0")]


@pytest.mark.parametrize("suffix", WRITERS)
def test_a_text_of_several_lines(tmp_path: Path, suffix: str) -> None:
    rows: Rows = [{"text": "title\n\nfirst\u2028half\r\nlast"}]
    path = WRITERS[suffix](tmp_path / f"a{suffix}", rows)
    assert list(lines([source(path)])) == ["title", "first\u2028half", "last"]
    assert list(lines([source(path, limit=2)])) == ["title"]  # the empty line counts
    rows = [{"en": "one\nsentence", "fr": "une\r\nphrase"}]
    both = source(WRITERS[suffix](tmp_path / f"b{suffix}", rows), fields={"en": "en", "fr": "fr"})
    assert list(pairs([both])) == [("one sentence", "une phrase")]


@pytest.mark.parametrize("suffix", WRITERS)
@pytest.mark.parametrize(
    ("rows", "fields", "complaint"),
    [
        ([{"body": "x", "n": 1}], {}, "no field 'text': there is body, n"),
        ([{"text": "x"}], {"en": "translation.en"}, "no field 'translation.en': there is text"),
        ([{"a": {"fr": "x"}}], {"en": "a.en"}, "no field 'a.en': there is fr"),
        ([{"text": 7}], {}, "the field 'text' is (a number|int64), not text"),
        ([{"text": ["a"]}], {}, "the field 'text' is (a list|list<.*>), not text"),
        ([{"text": {"en": "x"}}], {}, "the field 'text' is (an object|struct<.*>), not text"),
    ],
)
def test_a_field_that_is_not_there_or_no_text(
    tmp_path: Path, suffix: str, rows: Rows, fields: dict[str, str], complaint: str
) -> None:
    path = WRITERS[suffix](tmp_path / f"a{suffix}", rows)
    place = r"a\.parquet: " if suffix == ".parquet" else rf"a\{suffix}:1: "
    with pytest.raises(CorpusError, match=place + complaint):
        list(lines([source(path, fields=fields)]))


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (b'{"text": "one"}\n{"text": "tw', r"a\.jsonl:2: not JSON: Input data was truncated"),
        (b'{"text": "one"}\n\n[1]\n', r"a\.jsonl:3: expected one JSON object a line, found a list"),
        (b'[\n{"text": "one"}]', r"a\.jsonl:1: not JSON"),
        (b'{"text": "\xff"}', r"a\.jsonl:1: not JSON: .*utf-8"),
        (b'{"text": "one"}\n{"other": "x"}', r"a\.jsonl:2: no field 'text': there is other"),
    ],
)
def test_damaged_json_lines_are_placed(tmp_path: Path, data: bytes, complaint: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(data)
    with pytest.raises(CorpusError, match=complaint):
        list(lines([source(path)]))


def test_a_truncated_compressed_file_is_named(tmp_path: Path) -> None:
    path = json_lines(tmp_path / "a.jsonl.gz", [{"text": f"line {n}"} for n in range(5000)])
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(CorpusError, match=r"a\.jsonl\.gz:\d+: damaged compressed file"):
        list(lines([source(path)]))


def test_a_damaged_parquet_file_is_named(tmp_path: Path) -> None:
    rows = [{"text": f"line {number} {number * 7919 % 1000}"} for number in range(5000)]
    whole = table(tmp_path / "a.parquet", rows).read_bytes()
    path = tmp_path / "b.parquet"
    for data in (whole[: len(whole) // 2], b"", b"plain text\n" * 50):
        path.write_bytes(data)
        with pytest.raises(CorpusError, match=r"b\.parquet: damaged parquet file: "):
            list(lines([source(path)]))
    middle = len(whole) // 2
    path.write_bytes(whole[:middle] + bytes(5000) + whole[middle + 5000 :])
    with pytest.raises(CorpusError, match=r"b\.parquet: row \d+: damaged parquet file: "):
        list(lines([source(path)]))
    with pytest.raises(CorpusError, match="compressed inside"):
        list(lines([source(json_lines(tmp_path / "a.parquet.gz", rows))]))


def test_columns_and_fields_are_not_mistaken(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="columns are those of a tsv"):
        list(lines([source(json_lines(tmp_path / "a.jsonl", PAIRS), columns=["en"])]))
    (tmp_path / "a.tsv").write_text("x\n")
    with pytest.raises(CorpusError, match="fields are those of jsonl and parquet"):
        list(lines([source(tmp_path / "a.tsv", fields={"en": "en"})]))
    for wrong in ({"fields": {"en": ""}}, {"fields": {"en": "a"}, "columns": ["en"]}, {"fields": ["text"]}):
        with pytest.raises(msgspec.ValidationError):
            source("a.jsonl", **wrong)


def test_formats_are_mixed_evenly(tmp_path: Path) -> None:
    plain = tmp_path / "a.txt"
    plain.write_text("".join(f"a{number:05}\n" for number in range(1000)))
    # What else is in a row weighs nothing in parquet; in JSON Lines it is read, and paces the mixing.
    column = table(
        tmp_path / "b.parquet", [{"text": f"b{number:05}", "x": "y" * 99} for number in range(500)]
    )
    rows = [{"text": f"c{number:05}", "x": "y" * 99} for number in range(1000)]
    mixed = list(lines([source(plain), source(column), source(json_lines(tmp_path / "c.jsonl", rows))]))
    for start in range(0, 2500, 250):
        part = [text[0] for text in mixed[start : start + 250]]
        assert [part.count(letter) for letter in "abc"] == pytest.approx([100, 50, 100], abs=3)


def test_many_files_are_all_read_but_not_all_at_once(tmp_path: Path) -> None:
    for number in range(150):
        json_lines(tmp_path / f"{number:03}.jsonl", [{"text": f"{number} {n}"} for n in range(4)])
    many = [source(tmp_path / "*.jsonl")]
    open_files = 0
    for place, _ in enumerate(lines(many)):
        if place == 70:
            links = [Path("/proc/self/fd") / name for name in Path("/proc/self/fd").iterdir()]
            open_files = sum(str(tmp_path) in str(link.resolve()) for link in links)
    assert 0 < open_files <= 64
    found = list(lines(many, seed=5))
    assert sorted(found) == sorted(f"{number} {n}" for number in range(150) for n in range(4))
    assert found == list(lines(many, seed=5))
    assert len(list(lines([source(tmp_path / "*.jsonl", limit=200)]))) == 200


def test_recipes_name_fields_and_keep_them(tmp_path: Path) -> None:
    corpus = {"path": "a.parquet", "name": "n", "licence": "l", "attribution": "a", "fields": IN_PAIRS}
    recipe = recipe_from(
        {
            "kind": "translator",
            "name": "pairs",
            "languages": ["fr", "en"],
            "corpus": {"sources": [corpus]},
            "model": {"architecture": "transformer"},
        }
    )
    path = tmp_path / "recipe.toml"
    path.write_text(encode_recipe(recipe), encoding="utf-8")
    assert load_recipe(path, expand=False) == recipe
    [found] = load_recipe(path).corpus.sources
    assert found.path == str(tmp_path / "a.parquet")
    assert found.fields == IN_PAIRS


def test_a_job_resumes_in_the_middle_of_every_format(tmp_path: Path) -> None:
    texts = [f"line {number} of the text" for number in range(300)]
    sources = [
        source(WRITERS[suffix](tmp_path / f"{place}{suffix}", [{"text": text} for text in texts]))
        for place, suffix in enumerate(WRITERS)
    ]
    recipe = recipe_from(
        {
            "kind": "language",
            "name": "small",
            "languages": ["en"],
            "corpus": {"sources": msgspec.to_builtins(sources), "held_out": 0.1, "shuffle": 70},
            "tokenizer": {"level": "char"},
            "model": {"architecture": "rnn", "hidden": 4},
            "train": {"sequence": 12, "batch_tokens": 96},
        }
    )
    train_tokenizer(texts, tmp_path / "tokenizer.json", level="char")
    tokenizer = Tokenizer.load(tmp_path / "tokenizer.json")
    assert recipe.model is not None

    def job() -> LanguageTask:
        assert recipe.model is not None
        return LanguageTask(recipe, tokenizer, build("language", recipe.model, tokenizer.size))

    def batches(task: LanguageTask, count: int) -> list[LanguageBatch]:
        return [task.next_batch() for _ in range(count)]

    unbroken = job()
    before = batches(unbroken, 150)
    state = unbroken.state()
    after = batches(unbroken, 150)  # into the second epoch
    resumed = job()
    resumed.restore(state)
    for one, two in zip(after, batches(resumed, 150), strict=True):
        assert (one.ids == two.ids).all()
        assert (one.targets == two.targets).all()
    assert any((one.ids != two.ids).any() for one, two in zip(before, after, strict=True))


def test_digests_are_of_the_files(tmp_path: Path) -> None:
    one = table(tmp_path / "a.parquet", PAIRS)
    [digest] = digests([source(one)])
    assert (digest.sha256, digest.revision) == (digests([source(tmp_path / "*.parquet")])[0].sha256, "")
    assert b"revision" not in msgspec.json.encode(digest)
