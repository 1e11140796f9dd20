"""Which sentences bundles are scored on: the test half, the same in both directions, nested samples."""

from __future__ import annotations

import lzma
import random
from pathlib import Path

import msgspec
import pytest

from export import ExportError
from export.testsets import (
    NEWSTEST,
    PAIRS,
    SHARE,
    held_out_lines,
    held_out_pairs,
    key_of,
    lambada,
    lines_of,
    pairs_of,
)
from training.config import Recipe, recipe_from
from training.corpus import CorpusError, split_of

TATOEBA, DOCS, _ = PAIRS.values()


def translator(*languages: str, held_out: float = 0.3, path: str = TATOEBA) -> Recipe:
    columns = ["en", "de" if "de" in languages else "fr"]
    source = {"path": f"${{VOISIN_DATA}}/{path}", "name": "Tatoeba", "licence": "", "attribution": ""}
    return recipe_from(
        {
            "kind": "translator",
            "name": "t",
            "languages": list(languages),
            "corpus": {"sources": [source | {"columns": columns, "limit": 5}], "held_out": held_out},
            "model": {"architecture": "lstm", "layers": 1, "hidden": 8},
        }
    )


def text(count: int, seed: int) -> list[tuple[str, str]]:
    """Pairs in which either sentence has variants on the other side."""
    draw = random.Random(seed)
    return [(f"sentence {draw.randrange(count)}", f"phrase {draw.randrange(count)}") for _ in range(count)]


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for place, (file, count) in enumerate({TATOEBA: 400, DOCS: 2000, NEWSTEST: 30}.items()):
        path = tmp_path / file
        path.parent.mkdir(exist_ok=True)
        lines = "".join(f"{one}\t{two}\n" for one, two in text(count, place))
        path.write_bytes(lzma.compress(lines.encode()))
    monkeypatch.setenv("VOISIN_DATA", str(tmp_path))
    return tmp_path


def test_both_directions_are_scored_on_the_same_pairs(data: Path) -> None:
    there = list(held_out_pairs(translator("en", "fr"), 20))
    back = list(held_out_pairs(translator("fr", "en"), 20))
    assert [sample.key for sample in there] == ["tatoeba", "python_docs", "newstest2013"]
    assert [sample.unseen for sample in there] == [False, True, True]
    for one, two in zip(there, back, strict=True):
        assert [(english, french) for french, english in two.items] == one.items
        assert (one.name, one.unseen) == (two.name, two.unseen)


def test_pairs_are_of_the_test_half_and_no_sentence_comes_twice(data: Path) -> None:
    ours, docs, _ = held_out_pairs(translator("en", "fr"), 10_000)
    assert ours.name == "Tatoeba, held-out test (15 %)"
    assert ours.items  # beyond the recipe's limit of lines too: what is held out is never trained on
    for sample, share in ((ours, 0.3), (docs, 0.3)):
        assert {split_of(english, share) for english, _ in sample.items} == {"test"}
        for side in zip(*sample.items, strict=True):
            assert len(set(side)) == len(side)


def test_a_toy_is_scored_on_what_it_learnt_and_on_the_test_half_of_others(data: Path) -> None:
    ours, docs, _ = held_out_pairs(translator("en", "fr", held_out=0.0), 10_000)
    assert ours.name == "Tatoeba, the training text"
    assert {split_of(english, SHARE) for english, _ in docs.items} == {"test"}


def test_a_smaller_sample_is_part_of_a_larger_one(data: Path) -> None:
    small, large = (next(held_out_pairs(translator("en", "fr"), limit)).items for limit in (5, 20))
    assert large[:5] == small
    assert len(large) == 20


def test_other_languages_have_their_own_sets_alone(data: Path) -> None:
    (data / "own.tsv").write_text("".join(f"sentence {i}\tsatz {i}\n" for i in range(50)))
    samples = list(held_out_pairs(translator("en", "de", path="own.tsv"), 10))
    assert [sample.key for sample in samples] == ["own"]


def test_references_of_a_model_are_no_references(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = translator("en", "fr")
    [tatoeba] = recipe.corpus.sources
    (data / "made.tsv").write_text("".join(f"<bt> made {i}\tphrase {i}\n" for i in range(50)))
    made = msgspec.structs.replace(tatoeba, path=str(data / "made.tsv"), name="made")
    gone = msgspec.structs.replace(tatoeba, path=str(data / "gone.tsv"), name="gone")
    corpus = msgspec.structs.replace(recipe.corpus, sources=[tatoeba, made, gone])
    samples = list(held_out_pairs(msgspec.structs.replace(recipe, corpus=corpus), 10))
    assert [sample.key for sample in samples] == ["tatoeba", "python_docs", "newstest2013"]
    assert "not scored: " in capsys.readouterr().err
    corpus = msgspec.structs.replace(recipe.corpus, sources=[gone])
    with pytest.raises(CorpusError, match="gone"):
        next(held_out_pairs(msgspec.structs.replace(recipe, corpus=corpus), 10))


def test_each_source_of_a_language_model_is_a_set(tmp_path: Path) -> None:
    (tmp_path / "wiki").mkdir()
    for shard in range(3):
        lines = [f"article {shard} {i}" for i in range(100)]
        (tmp_path / "wiki" / f"part_{shard}.txt").write_text("\n".join([*lines, *lines]))
    (tmp_path / "voice.txt").write_text("\n".join(f"spoken {i}" for i in range(100)))
    sources = [
        {"path": str(tmp_path / path), "name": name, "licence": "", "attribution": "", "weight": 3.0}
        for path, name in (("wiki/*.txt", "Wiki"), ("voice.txt", "Voice"))
    ]
    recipe = recipe_from(
        {
            "kind": "language",
            "name": "t",
            "languages": ["en"],
            "corpus": {"sources": sources, "held_out": 0.2},
            "model": {"architecture": "lstm", "layers": 1, "hidden": 8},
        }
    )
    wiki, voice = held_out_lines(recipe, 1000)
    assert (wiki.key, voice.key) == ("wiki", "voice")
    every = {f"article {shard} {i}" for shard in range(3) for i in range(100)}
    assert sorted(wiki.items) == sorted(line for line in every if split_of(line, 0.2) == "test")
    assert all(line.startswith("spoken") for line in voice.items)


def test_files_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one\n\ntwo\none\n")
    assert sorted(lines_of(tmp_path / "a.txt", 10).items) == ["one", "two"]
    (tmp_path / "a.tsv").write_text("un\tone\ndeux\ttwo\n")
    assert sorted(pairs_of(tmp_path / "a.tsv", ("fr", "en"), 10).items) == [("deux", "two"), ("un", "one")]
    (tmp_path / "empty.txt").write_text("\n")
    with pytest.raises(ExportError, match=r"empty.txt: nothing to score on"):
        lines_of(tmp_path / "empty.txt", 10)


def test_lambada_is_there_or_not(data: Path) -> None:
    assert lambada(10) is None
    (data / "eval_public").mkdir()
    file = data / "eval_public" / "lambada_development_plain_text.txt.xz"
    file.write_bytes(lzma.compress(b"a b c\nd e f\n\n"))
    sample = lambada(10)
    assert sample is not None
    assert sorted(sample.items) == ["a b c", "d e f"]


@pytest.mark.parametrize(
    ("path", "key"),
    [
        ("${VOISIN_DATA}/mono/en_wiki/*.txt.xz", "en_wiki"),
        ("${VOISIN_DATA}/parallel/tatoeba.en-fr.tsv.xz", "tatoeba"),
        ("text", "text"),
    ],
)
def test_short_names(path: str, key: str) -> None:
    assert key_of(path) == key
