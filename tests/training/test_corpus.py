"""Corpora: what is read, in which order, what is held out, and how damage is told."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import itertools
import lzma
import tracemalloc
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
import zstandard

from training.corpus import (
    CorpusError,
    Source,
    digests,
    files,
    is_held_out,
    lines,
    normal_form,
    pairs,
    read_lines,
    shuffled,
)

COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    ".txt": bytes,
    ".gz": gzip.compress,
    ".xz": lzma.compress,
    ".bz2": bz2.compress,
    ".zst": zstandard.ZstdCompressor().compress,
}


def source(path: Path | str, **more: object) -> Source:
    fields = {"path": str(path), "name": "test", "licence": "CC0-1.0", "attribution": "us"}
    return msgspec.convert(fields | more, Source)


def write(path: Path, *texts: str) -> Path:
    path.write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
    return path


@pytest.mark.parametrize("suffix", COMPRESS)
def test_every_compression_reads_alike(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"corpus{suffix}"
    path.write_bytes(COMPRESS[suffix]("\ufeffété\r\n\nune\u2028phrase\ndernière".encode()))
    assert list(read_lines(path)) == ["été", "", "une\u2028phrase", "dernière"]
    assert list(lines([source(path)])) == ["été", "une\u2028phrase", "dernière"]


@pytest.mark.parametrize("suffix", [".gz", ".xz", ".bz2", ".zst"])
def test_several_frames_are_one_text(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"corpus{suffix}"
    path.write_bytes(COMPRESS[suffix](b"one\n") + COMPRESS[suffix](b"two\n"))
    assert list(read_lines(path)) == ["one", "two"]


@pytest.mark.parametrize("suffix", [".gz", ".xz", ".bz2", ".zst"])
@pytest.mark.parametrize("damage", ["truncated", "foreign"])
def test_a_damaged_file_is_named(tmp_path: Path, suffix: str, damage: str) -> None:
    whole = COMPRESS[suffix]("".join(f"{number} line\n" for number in range(9999)).encode())
    path = tmp_path / f"corpus{suffix}"
    path.write_bytes(whole[: len(whole) // 2] if damage == "truncated" else b"plain text\n" * 50)
    with pytest.raises(CorpusError, match=rf"corpus\{suffix}.*damaged"):
        list(lines([source(path)]))


def test_bytes_that_are_not_utf8_are_placed(tmp_path: Path) -> None:
    path = tmp_path / "latin.txt"
    path.write_bytes(b"fine\n\xe9t\xe9\n")
    with pytest.raises(CorpusError, match=r"latin\.txt:2: not UTF-8"):
        list(lines([source(path)]))


def test_a_wrong_number_of_columns_is_placed(tmp_path: Path) -> None:
    path = write(tmp_path / "pairs.tsv", "one\tun", "two\tdeux\tzwei")
    with pytest.raises(CorpusError, match=r"pairs\.tsv:2: expected 2 columns \(en fr\), found 3"):
        list(pairs([source(path, columns=["en", "fr"])]))


def test_a_missing_file_or_variable_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CorpusError, match=r"nothing\*\.txt: no such file"):
        list(lines([source(tmp_path / "nothing*.txt")]))
    monkeypatch.delenv("VOISIN_NOWHERE", raising=False)
    with pytest.raises(CorpusError, match="VOISIN_NOWHERE is not set"):
        files(source("${VOISIN_NOWHERE}/a.txt"))


def test_variables_and_globs_are_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = [write(tmp_path / name, name) for name in ("a.txt", "b.txt")]
    write(tmp_path / "c.csv", "no")
    monkeypatch.setenv("SOMEWHERE", str(tmp_path))
    assert files(source("${SOMEWHERE}/*.txt")) == wanted
    odd = write(tmp_path / "odd[1].txt", "odd")
    assert files(source(odd)) == [odd]


@pytest.mark.parametrize(
    "wrong",
    [{"weight": 0}, {"weight": float("inf")}, {"limit": -1}, {"columns": ["en", "en"]}, {"colour": 1}],
)
def test_a_source_that_makes_no_sense_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(msgspec.ValidationError):
        source("a.txt", **wrong)


def test_sources_are_mixed_evenly_and_end_together(tmp_path: Path) -> None:
    long = source(write(tmp_path / "long.txt", *(f"a{number:05}" for number in range(3000))))
    short = source(write(tmp_path / "short.txt", *(f"b{number:05}" for number in range(1000))))
    mixed = list(lines([long, short]))
    assert sorted(mixed) == sorted(itertools.chain(lines([long]), lines([short])))
    for start in range(0, 4000, 400):
        share = Counter(text[0] for text in mixed[start : start + 400])
        assert share["a"] == pytest.approx(300, abs=3)
    assert mixed == list(lines([long, short]))


def test_the_seed_decides_the_order_and_nothing_else(tmp_path: Path) -> None:
    for shard in "abcdef":
        write(tmp_path / f"{shard}.txt", *(f"{shard}{number}" for number in range(50)))
    shards = [source(tmp_path / "*.txt")]
    one, same, other = (list(lines(shards, seed=seed)) for seed in (1, 1, 2))
    assert one == same
    assert one != other
    assert sorted(one) == sorted(other)


def test_weight_is_how_often_a_source_is_seen(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", *(f"line {number}" for number in range(2000)))
    counts = Counter(lines([source(path, weight=2.5)]))
    assert set(counts.values()) == {2, 3}
    assert sum(counts.values()) == pytest.approx(5000, rel=0.03)
    assert counts != Counter(lines([source(path, weight=2.5)], seed=7))


def test_limit_is_taken_evenly_from_the_files(tmp_path: Path) -> None:
    for shard in "abc":
        write(tmp_path / f"{shard}.txt", *(f"{shard}{number}" for number in range(100)))
    limited = source(tmp_path / "*.txt", limit=7)
    assert sorted(lines([limited])) == ["a0", "a1", "a2", "b0", "b1", "c0", "c1"]
    assert list(lines([source(tmp_path / "*.txt", limit=1)])) == ["a0"]
    # A limited source lasts as long as the others.
    whole = source(write(tmp_path / "whole", *(f"w{number}" for number in range(90))))
    mixed = list(lines([source(tmp_path / "a.txt", limit=30), whole]))
    assert sum(text[0] == "a" for text in mixed[:40]) == pytest.approx(10, abs=2)


def test_columns_choose_the_language(tmp_path: Path) -> None:
    path = write(tmp_path / "p.tsv", "1\tone\tun", "2\ttwo\tdeux", "3\t\ttrois")
    both = source(path, columns=["-", "en", "fr"])
    assert list(pairs([both])) == [("one", "un"), ("two", "deux")]
    assert list(pairs([both], ("fr", "en"))) == [("un", "one"), ("deux", "two")]
    assert list(lines([both], language="fr")) == ["un", "deux", "trois"]
    assert list(lines([source(path, columns=["-", "-", "fr"])])) == ["un", "deux", "trois"]
    with pytest.raises(CorpusError, match="not 'de'"):
        next(lines([both], language="de"))
    with pytest.raises(CorpusError, match="no column 'fr'"):
        next(pairs([source(path, columns=["-", "en", "-"])]))


def test_what_is_held_out_parts_the_corpus(tmp_path: Path) -> None:
    path = write(tmp_path / "p.tsv", *(f"sentence {n}\tphrase {n % 3} {n}" for n in range(4000)))
    both = [source(path, columns=["en", "fr"])]
    train = set(pairs(both, held_out=0.1, split="train"))
    test = set(pairs(both, held_out=0.1, split="held_out"))
    assert not train & test
    assert train | test == set(pairs(both))
    assert len(test) == pytest.approx(400, rel=0.2)
    # The other direction, and a model of the French side alone, hold out the same sentences.
    assert {(en, fr) for fr, en in pairs(both, ("fr", "en"), held_out=0.1, split="held_out")} == test
    assert set(lines(both, language="fr", held_out=0.1, split="held_out")) == {fr for _, fr in test}
    assert test <= set(pairs(both, held_out=0.2, split="held_out"))
    halves = [set(pairs(both, held_out=0.1, split=half)) for half in ("development", "test")]
    assert halves[0] | halves[1] == test
    assert not halves[0] & halves[1]
    assert len(halves[0]) == pytest.approx(200, rel=0.3)


def test_variants_of_a_sentence_stay_on_one_side() -> None:
    assert normal_form("  Hello,   ＷＯＲＬＤ! ") == normal_form("hello world")
    assert normal_form("?!") != normal_form("...")
    for number in range(300):
        spellings = (f"It is {number} o'clock.", f"it is  {number} o’clock", f"IT IS {number} O'CLOCK!")
        assert len({is_held_out(spelling, 0.5) for spelling in spellings}) == 1
    assert not any(is_held_out(str(number), 0.0) for number in range(300))


def test_digests_are_those_of_the_files_as_they_lie(tmp_path: Path) -> None:
    path = tmp_path / "a.gz"
    path.write_bytes(gzip.compress(b"text"))
    [one] = digests([source(path, name="ours")])
    assert one.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (one.name, one.licence, one.attribution) == ("ours", "CC0-1.0", "us")
    (tmp_path / "b.gz").write_bytes(b"more")
    [two] = digests([source(tmp_path / "*.gz")])
    listing = "".join(
        f"{hashlib.sha256(p.read_bytes()).hexdigest()}  {p.name}\n" for p in (path, tmp_path / "b.gz")
    )
    assert two.sha256 == hashlib.sha256(listing.encode()).hexdigest()


def test_shuffling_is_a_permutation_fixed_by_its_seed() -> None:
    numbers = range(5000)
    one = list(shuffled(numbers, 500, 3))
    assert sorted(one) == list(numbers)
    assert one == list(shuffled(numbers, 500, 3))
    assert one != list(shuffled(numbers, 500, 4))
    assert list(shuffled(numbers, 0, 3)) == list(numbers)
    assert next(shuffled(itertools.count(), 500, 3)) < 500  # an endless stream is no obstacle


def test_a_corpus_is_never_held_in_memory(tmp_path: Path) -> None:
    path = tmp_path / "large.gz"
    path.write_bytes(
        gzip.compress(b"a line of sixty-four characters, more or less, and its number\n" * 60_000, 1)
    )
    tracemalloc.start()
    try:
        count = sum(1 for _ in lines([source(path)]))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert count == 60_000
    assert peak < 1_000_000  # of 3.7 MB
