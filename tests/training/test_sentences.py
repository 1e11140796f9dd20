"""What counts as a word, and which words are joined."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from training.sentences import (
    count_words,
    join_phrases,
    read_sentences,
    split_sentences,
    words,
    write_sentences,
)


@pytest.mark.parametrize(
    ("language", "text", "expected"),
    [
        ("en", "Rome's walls don’t stand; 12 of 1,300 do.", "rome walls don't stand of do"),
        ("en", "MP3 players, the 19th century, formula_12", "mp3 players the century"),
        ("en", "Ame\u0301lie — it's “fine”", "amélie it fine"),
        ("fr", "L’eau qu’il boit aujourd’hui", "l' eau qu' il boit aujourd'hui"),
        ("fr", "quelqu'un d'autre, lorsqu'elle s'en va", "quelqu'un d' autre lorsqu' elle s' en va"),
        ("fr", "Peut-être l'arc-en-ciel, en 1789…", "peut être l' arc en ciel en"),
        ("fr", "presqu'île", "presqu'île"),
        ("en", "?! 42 _", ""),
    ],
)
def test_words(language: str, text: str, expected: str) -> None:
    assert " ".join(words(text, language)) == expected


def test_sentences_are_written_read_counted_and_split(tmp_path: Path) -> None:
    path = tmp_path / "sentences.txt"
    texts = ["One two three.", "Four.", "two two", "", "three four five six"]
    assert write_sentences(texts, path, "en") == (3, 9)  # one word has no neighbours
    sentences = list(read_sentences(path))
    assert sentences == [["one", "two", "three"], ["two", "two"], ["three", "four", "five", "six"]]
    assert count_words(path) == Counter(word for sentence in sentences for word in sentence)
    shards = split_sentences(path, 4)
    assert [(shard.lines, shard.words) for shard in shards] == [(2, 5), (1, 4)]
    assert "".join(shard.path.read_text() for shard in shards) == path.read_text()


def test_what_belongs_together_is_joined(tmp_path: Path) -> None:
    path = tmp_path / "sentences.txt"
    others = [f"mot{number} mot{number * 7 % 50} mot{number * 3 % 50}" for number in range(50)]
    texts = [
        f"{other} organisation des Nations Unies {other} New York {other} coup d’œil" for other in others
    ]
    write_sentences(texts, path, "fr")
    assert join_phrases(path, "fr", min_count=5) > 0
    counts = count_words(path)
    assert counts["new_york"] == 50
    assert counts["york"] == 0
    assert counts["coup_d'œil"] == 50
    assert counts["organisation_des_nations"] == 50
    join_phrases(path, "fr", min_count=5)
    assert count_words(path)["organisation_des_nations_unies"] == 50
    assert count_words(path)["mot1"] == counts["mot1"]
