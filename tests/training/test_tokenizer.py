"""Tokenizers lose nothing, read no special token out of a text, and are the same file for the same text."""

from __future__ import annotations

import random
import time
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from training.tokenizer import SPECIALS, TokenizerError, listed, train_tokenizer

TEXTS = [
    "Où est la gare ? — Là-bas, près de l'église.",
    "The quick brown fox jumps over the lazy dog 123 times.",
    "  deux espaces,\tune tabulation\n",
] * 5

anything = st.text(st.characters(exclude_categories=["Cs"]))


@pytest.fixture(scope="module", params=[False, True], ids=["language", "translator"])
def bpe(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    path = tmp_path_factory.mktemp("bpe") / "tokenizer.json"
    train_tokenizer(TEXTS, path, level="bpe", size=330, translator=request.param)
    return Tokenizer.from_file(str(path))


@given(text=anything)
def test_bytes_are_lossless(bpe: Tokenizer, text: str) -> None:
    ids = bpe.encode(text).ids
    assert bpe.decode(ids, skip_special_tokens=False) == unicodedata.normalize("NFC", text)
    assert all(id >= len(SPECIALS) for id in ids)


@pytest.mark.parametrize("level", ["char", "bpe"])
def test_a_text_cannot_spell_a_special_token(tmp_path: Path, level: str) -> None:
    texts = ["<eos> <pad> <bos> <unk>"] * 20
    tokenizer = train_tokenizer(texts, tmp_path / "t.json", level=level, size=300, translator=level == "bpe")  # type: ignore[arg-type]
    ids = tokenizer.encode(texts[0]).ids
    assert min(ids) >= len(SPECIALS)
    assert tokenizer.decode(ids, skip_special_tokens=False) == texts[0]


def test_specials_come_first_and_the_size_is_kept(bpe: Tokenizer) -> None:
    assert [bpe.id_to_token(id) for id in range(4)] == list(SPECIALS)
    assert bpe.get_vocab_size() == 330
    assert sorted(bpe.get_vocab().values()) == list(range(330))


def test_a_word_has_one_form_in_a_translator(tmp_path: Path) -> None:
    tokenizer = train_tokenizer(
        ["a dog a dog dog"] * 9, tmp_path / "t.json", level="bpe", size=280, translator=True
    )
    assert tokenizer.encode("dog").ids == tokenizer.encode("a dog").ids[-1:]
    assert tokenizer.encode("").ids == []


def test_plain_text_has_one_apostrophe_and_one_space(tmp_path: Path) -> None:
    tokenizer = train_tokenizer(TEXTS, tmp_path / "t.json", level="bpe", size=300, plain=True)
    ids = tokenizer.encode("l’été\u202f!\u00a0Où\u2009?").ids
    assert tokenizer.decode(ids, skip_special_tokens=False) == "l'été ! Où ?"


def test_digits_stand_alone(bpe: Tokenizer) -> None:
    tokens = [token.strip("Ġ") for token in bpe.encode("123 123").tokens]
    assert [token for token in tokens if token] == list("123123")


@given(text=st.text(st.sampled_from("".join(sorted(set(unicodedata.normalize("NFC", "".join(TEXTS))))))))
def test_characters_are_lossless_over_their_alphabet(characters: Tokenizer, text: str) -> None:
    encoding = characters.encode(text)
    assert len(encoding.ids) == len(text)
    assert characters.decode(encoding.ids, skip_special_tokens=False) == text


@pytest.fixture(scope="module")
def characters(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    path = tmp_path_factory.mktemp("char") / "tokenizer.json"
    train_tokenizer(TEXTS, path, level="char")
    return Tokenizer.from_file(str(path))


def test_the_most_frequent_characters_are_kept(tmp_path: Path) -> None:
    tokenizer = train_tokenizer(["aaabbc", "É"], tmp_path / "t.json", level="char", size=6)
    assert tokenizer.get_vocab() == {"<pad>": 0, "<bos>": 1, "<eos>": 2, "<unk>": 3, "a": 4, "b": 5}
    assert tokenizer.encode("abc").ids == [4, 5, 3]
    rare = train_tokenizer(["aaabbc"], tmp_path / "t.json", level="char", min_count=2)
    assert rare.get_vocab_size() == 6


def test_without_unk_the_alphabet_is_all_there_is(tmp_path: Path) -> None:
    tokenizer = train_tokenizer(["masse"], tmp_path / "t.json", level="char", with_unk=False)
    assert tokenizer.get_vocab() == {"<pad>": 0, "<bos>": 1, "<eos>": 2, "s": 3, "a": 4, "e": 5, "m": 6}
    with pytest.raises(Exception, match="UNK"):
        tokenizer.encode("mot")


def test_words_are_normalised(tmp_path: Path) -> None:
    texts = ["Aujourd’hui il pleut", "aujourd'hui E\u0301te\u0301 <eos>"]
    tokenizer = train_tokenizer(texts, tmp_path / "t.json", level="word", lowercase=True)
    assert tokenizer.encode("AUJOURD’HUI été").tokens == ["aujourd'hui", "été"]
    assert tokenizer.encode("<eos>").tokens == ["eos"]
    assert tokenizer.encode("neige").ids == [3]
    assert tokenizer.decode(tokenizer.encode("il pleut").ids, skip_special_tokens=False) == "il pleut"


@pytest.mark.parametrize("level", ["char", "word", "bpe"])
def test_the_same_text_gives_the_same_file(tmp_path: Path, level: str) -> None:
    for name in ("one.json", "two.json"):
        train_tokenizer(iter(TEXTS), tmp_path / name, level=level, size=300, lowercase=True)  # type: ignore[arg-type]
    assert (tmp_path / "one.json").read_bytes() == (tmp_path / "two.json").read_bytes()


def test_reading_stops_where_it_is_told(tmp_path: Path) -> None:
    def endless() -> Iterator[str]:
        while True:
            yield "une phrase de plus"

    for level in ("char", "word", "bpe"):
        train_tokenizer(endless(), tmp_path / "t.json", level=level, size=300, sample=100)  # type: ignore[arg-type]
        train_tokenizer(endless(), tmp_path / "t.json", level=level, size=300, characters=2000)  # type: ignore[arg-type]


def test_three_thousand_merges_of_a_few_megabytes_are_quick(tmp_path: Path) -> None:
    draw = random.Random(0)
    syllables = ["".join(draw.choices("abcdefghijklmnoprstuvz", k=draw.randint(1, 4))) for _ in range(500)]
    words = ["".join(draw.choices(syllables, k=3)) for _ in range(20_000)]
    texts = (" ".join(draw.choices(words, k=10)) for _ in range(40_000))
    start = time.process_time()
    tokenizer = train_tokenizer(texts, tmp_path / "t.json", level="bpe", size=3000)
    assert tokenizer.get_vocab_size() == 3000
    assert time.process_time() - start < 10  # for 3 MB


def test_what_cannot_be_built_is_refused(tmp_path: Path) -> None:
    for level in ("char", "word", "bpe"):
        with pytest.raises(TokenizerError, match="no text"):
            train_tokenizer([], tmp_path / "t.json", level=level, size=300)  # type: ignore[arg-type]
    with pytest.raises(TokenizerError, match="at least 260 tokens"):
        train_tokenizer(TEXTS, tmp_path / "t.json", level="bpe", size=100)
    with pytest.raises(TokenizerError, match="no room"):
        train_tokenizer(TEXTS, tmp_path / "t.json", level="char", size=4)
    with pytest.raises(TokenizerError, match="occurs 99 times"):
        train_tokenizer(TEXTS, tmp_path / "t.json", level="word", min_count=99)
    with pytest.raises(TokenizerError, match="twice"):
        listed(["a", "a"], level="word")
    assert not (tmp_path / "t.json").exists()
