"""Text to ids and back, at once and piece by piece."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend

from bundle.errors import BundleError, InvalidRequest
from bundle.manifest import Special
from bundle.tokenizer import Detokenizer, Tokenizer
from training.tokenizer import listed, save, train_tokenizer

TEXT = [
    "Où est la gare ? La gare est là-bas, près de l'hôtel.",
    "The grand hotel is near the station; the grandmother grants it.",
    "Il était une fois, à l'été 1789, une œuvre naïve — «déjà vu»…",
] * 3


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("tokenizers")
    train_tokenizer(TEXT, folder / "char.json", level="char")
    train_tokenizer(TEXT, folder / "toy.json", level="char", with_unk=False)
    train_tokenizer(TEXT, folder / "word.json", level="word", lowercase=True)
    train_tokenizer(TEXT, folder / "bpe.json", level="bpe", size=320)
    train_tokenizer(TEXT, folder / "translator.json", level="bpe", size=320, translator=True)
    return {path.stem: path for path in folder.iterdir()}


@pytest.fixture(scope="module")
def loaded(files: dict[str, Path]) -> dict[str, Tokenizer]:
    return {name: Tokenizer.load(path) for name, path in files.items()}


NAMES = ["char", "toy", "word", "bpe", "translator"]


@pytest.fixture(params=NAMES)
def tokenizer(request: pytest.FixtureRequest, files: dict[str, Path]) -> Tokenizer:
    return Tokenizer.load(files[request.param])


def test_levels_and_specials(files: dict[str, Path]) -> None:
    found = {name: Tokenizer.load(path) for name, path in files.items()}
    assert {name: one.level for name, one in found.items()} == {
        "char": "char", "toy": "char", "word": "word", "bpe": "bpe", "translator": "bpe"
    }  # fmt: skip
    assert found["char"].special == Special(pad=0, bos=1, eos=2, unk=3)
    assert found["toy"].special == Special(pad=0, bos=1, eos=2, unk=None)
    assert {name for name, one in found.items() if one.strips_first_space} == {"word", "translator"}
    for one in found.values():
        assert len(one.words()) == one.size
        assert [one.id_of(one.token_of(id)) for id in range(one.size)] == list(range(one.size))
        assert one.id_of("no such token") is None
        assert [one.surface(id) for id in one.special_ids] == [b""] * len(one.special_ids)


def test_texts_come_back(tokenizer: Tokenizer) -> None:
    for text in TEXT[:3]:
        ids = tokenizer.encode(text)
        assert not tokenizer.special_ids & set(ids)
        expected = " ".join(text.lower().split()) if tokenizer.level == "word" else text
        assert tokenizer.decode(ids) == expected
        special = [id for id in tokenizer.special_ids if id != tokenizer.special.unk]
        assert tokenizer.decode([*special, *ids, *special]) == expected


@given(data=st.data())
def test_pieces_are_the_whole(loaded: dict[str, Tokenizer], data: st.DataObject) -> None:
    """Any ids at all, even those that spell no text: what comes piece by piece is what comes at once."""
    for tokenizer in loaded.values():
        ids = data.draw(st.lists(st.integers(0, tokenizer.size - 1), max_size=12))
        detokenizer = Detokenizer(tokenizer)
        pieces = [detokenizer.feed(id) for id in ids]
        assert "".join(pieces) + detokenizer.flush() == tokenizer.decode(ids)


@given(st.text(max_size=30))
def test_bytes_lose_nothing(loaded: dict[str, Tokenizer], text: str) -> None:
    for name in ("bpe", "translator"):
        tokenizer = loaded[name]
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == tokenizer.normalize(text).removeprefix(" " if name != "bpe" else "")
        # every piece is whole characters, whatever bytes the tokens end with
        detokenizer = Detokenizer(tokenizer)
        assert "�" in text or not any("�" in detokenizer.feed(id) for id in ids)


def test_a_continued_text_keeps_its_first_space(files: dict[str, Path]) -> None:
    words = Tokenizer.load(files["word"])
    ids = words.encode("the grand hotel")
    assert Detokenizer(words).feed(ids[0]) == "the"
    assert Detokenizer(words, continues=True).feed(ids[0]) == " the"


def test_a_text_cannot_speak_of_specials(tokenizer: Tokenizer) -> None:
    """A user who writes <eos> has written five characters, and ends nothing."""
    try:
        ids = tokenizer.encode("<eos> <bos>the<pad>")
    except InvalidRequest:
        assert tokenizer.special.unk is None  # the toy alphabet has no <
    else:
        assert not {tokenizer.special.pad, tokenizer.special.bos, tokenizer.special.eos} & set(ids)


def test_added_specials_are_not_read_either(files: dict[str, Path], tmp_path: Path) -> None:
    """Tokenizers from elsewhere look for their specials in every text; not here."""
    backend = Backend.from_file(str(files["bpe"]))
    backend.add_special_tokens(["<pad>", "<bos>", "<eos>"])
    assert backend.encode("the <eos>").ids[-1] == 2
    backend.save(str(tmp_path / "tokenizer.json"))
    tokenizer = Tokenizer.load(tmp_path / "tokenizer.json")
    assert not tokenizer.special_ids & set(tokenizer.encode("the <eos>"))
    assert tokenizer.decode(tokenizer.encode("the <eos>")) == "the <eos>"


def test_unknown_characters(files: dict[str, Path]) -> None:
    assert Tokenizer.load(files["char"]).encode("a☃") == [Tokenizer.load(files["char"]).id_of("a"), 3]
    toy = Tokenizer.load(files["toy"])
    with pytest.raises(InvalidRequest, match="'☃' is not in the alphabet") as caught:
        toy.encode("a☃", field="prompt")
    assert caught.value.field == "prompt"


def test_half_a_surrogate_pair_is_no_text(tokenizer: Tokenizer) -> None:
    with pytest.raises(InvalidRequest, match=r"U\+D83D is half"):
        tokenizer.encode("a\ud83d")


def test_files_that_are_no_tokenizers(tmp_path: Path, files: dict[str, Path]) -> None:
    with pytest.raises(BundleError, match=r"absent.json: cannot be read"):
        Tokenizer.load(tmp_path / "absent.json")
    broken = tmp_path / "tokenizer.json"
    raw = files["bpe"].read_bytes()
    for content in (b"", b"{}", raw[: len(raw) // 2], b"\xff\xfe", raw.replace(b'"BPE"', b'"Unigram"')):
        broken.write_bytes(content)
        with pytest.raises(BundleError, match=r"tokenizer\.json: "):
            Tokenizer.load(broken)


def test_alphabets_of_bytes_are_complete(files: dict[str, Path]) -> None:
    bpe = Tokenizer.load(files["bpe"])
    single = {bpe.surface(id) for id in range(bpe.size) if len(bpe.surface(id)) == 1}
    assert single == {bytes([byte]) for byte in range(256)}


def test_toys_are_what_the_course_draws(tmp_path: Path) -> None:
    save(listed(list("aems"), level="char", with_unk=False), tmp_path / "toy.json")
    toy = Tokenizer.load(tmp_path / "toy.json")
    assert toy.decode(toy.encode("masse")) == "masse"
    assert toy.size == 7


def test_what_was_encoded_last_is_nobodys_own(tokenizer: Tokenizer) -> None:
    """The list that is remembered is not the one that a caller may change."""
    first = tokenizer.encode("la gare")
    first.append(7)
    second = tokenizer.encode("la gare")
    assert second == first[:-1] == tokenizer.encode("la gare")
    second.clear()
    assert tokenizer.encode("la gare") == first[:-1] != tokenizer.encode("la")


def test_a_text_that_cannot_be_encoded_is_not_remembered(tokenizer: Tokenizer) -> None:
    known = tokenizer.encode("la gare")
    for _ in range(2):
        with pytest.raises(InvalidRequest):
            tokenizer.encode("la \ud800 gare")
    assert tokenizer.encode("la gare") == known
    assert tokenizer.encode("") == []
