"""Tokenizers from text: characters, words, or byte-level BPE (Sennrich et al. 2016), in one tokenizer.json.

The file adds no special token by itself and has no "added tokens": a text that spells `<eos>` stays text and
cannot end a sentence. Ids 0..3 are `<pad> <bos> <eos> <unk>`.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from bundle.errors import VoisinError

Level = Literal["char", "word", "bpe"]
SPECIALS = ("<pad>", "<bos>", "<eos>", "<unk>")


class TokenizerError(VoisinError):
    """A tokenizer that cannot be built from the texts given."""


def train_tokenizer(
    texts: Iterable[str],
    path: Path,
    *,
    level: Level,
    size: int = 0,
    lowercase: bool = False,
    translator: bool = False,
    with_unk: bool = True,
    plain: bool = False,
    min_count: int = 1,
    sample: int = 0,
    characters: int = 40_000_000,
) -> Tokenizer:
    """Learn a tokenizer from `texts`, write it to `path` and return it.

    size: tokens in all, specials included; for characters and words 0 keeps every one that occurs.
    translator: every text begins with a space, taken off again by the decoder, so that a word has one form
        wherever it stands in the sentence (BPE only).
    with_unk: False leaves `<unk>` out; text outside the vocabulary is then an error (never for BPE).
    plain: no-break and thin spaces become spaces and typographic apostrophes straight ones, so that what a
        phone types and what a keyboard types is one text (BPE only; decoding then gives back the plain form).
    min_count: occurrences below which a character or word gets no id (BPE: below 2 no pair is merged).
    sample: texts read; 0 = all of them, until they hold so many `characters`, which bounds memory and time.

    Raises: TokenizerError when there is no text, or `size` has no room for the alphabet.
    """
    specials = SPECIALS if with_unk else SPECIALS[:3]
    texts = _head(texts, sample, characters)
    if level == "bpe":
        tokenizer = _bpe(texts, size, specials, lowercase, translator, plain)
    else:
        cleaner = normalizer(level, lowercase)
        counts: Counter[str] = Counter()
        for text in texts:
            clean = cleaner.normalize_str(text)
            counts.update(clean.split() if level == "word" else clean)
        # The most frequent first; ties by the token itself, so that the order of the texts is of no account.
        kept = [token for token in counts if counts[token] >= min_count]
        ranked = sorted(kept, key=lambda token: (-counts[token], token))
        if not ranked:
            raise TokenizerError(f"the texts hold no {level} that occurs {min_count} times")
        if size and size <= len(specials):
            raise TokenizerError(f"size {size} leaves no room beside the special tokens")
        tokens = ranked[: size - len(specials)] if size else ranked
        tokenizer = listed(tokens, level=level, lowercase=lowercase, with_unk=with_unk)
    save(tokenizer, path)
    return tokenizer


def listed(
    tokens: Sequence[str],
    *,
    level: Literal["char", "word"],
    lowercase: bool = False,
    with_unk: bool = True,
    phrases: bool = False,
) -> Tokenizer:
    """A tokenizer over a given list of characters or words; the id of `tokens[i]` is i + the specials.

    phrases: a hyphen is read as the `_` that joins the words of a phrase (`peut-être` is `peut_être`).
    """
    specials = SPECIALS if with_unk else SPECIALS[:3]
    vocabulary = {token: index for index, token in enumerate([*specials, *tokens])}
    if len(vocabulary) != len(specials) + len(tokens):
        raise TokenizerError("a token is listed twice")
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.normalizer = normalizer(level, lowercase, phrases)
    if level == "char":
        tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
        tokenizer.decoder = decoders.Fuse()
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        # without a decoder the library joins tokens with single spaces
    return tokenizer


def normalizer(level: Level, lowercase: bool, phrases: bool = False) -> Any:
    """Unicode NFC; words have one apostrophe and no angle brackets, so that no word looks like `<eos>`."""
    steps: list[Any] = [normalizers.NFC()]
    if lowercase:
        steps.append(normalizers.Lowercase())
    if level == "word":
        steps += [normalizers.Replace("’", "'"), normalizers.Replace(Regex("[<>]"), " ")]
    if phrases:
        steps.append(normalizers.Replace(Regex("[-‐‑]"), "_"))
    return normalizers.Sequence(steps)


def save(tokenizer: Tokenizer, path: Path) -> None:
    """Write tokenizer.json: UTF-8, indented, byte for byte the same for the same tokenizer."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(tokenizer.to_str(pretty=True) + "\n", encoding="utf-8")


def _bpe(
    texts: Iterator[str], size: int, specials: Sequence[str], lowercase: bool, translator: bool, plain: bool
) -> Tokenizer:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    least = len(alphabet) + len(specials)
    if size < least:
        raise TokenizerError(f"a byte-level vocabulary needs at least {least} tokens, size is {size}")
    tokenizer = Tokenizer(models.BPE())
    # Digits stand alone: numbers are copied one digit at a time instead of filling the vocabulary.
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    steps: list[Any] = [normalizers.NFC()]
    decoder: Any = decoders.ByteLevel()
    if lowercase:
        steps.append(normalizers.Lowercase())
    if plain:
        steps += [normalizers.Replace(Regex("[\u00a0\u2009\u202f]"), " "), normalizers.Replace("’", "'")]
    if translator:
        # Not ByteLevel's add_prefix_space: that one adds nothing before a space, which decoding would lose.
        steps.append(normalizers.Prepend(" "))
        decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Strip(" ", 1, 0)])
    tokenizer.normalizer = normalizers.Sequence(steps)
    tokenizer.decoder = decoder
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        min_frequency=2,
        special_tokens=list(specials),
        initial_alphabet=alphabet,
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    # The specials keep their ids in the model's vocabulary but are no longer looked for in texts.
    written = json.loads(tokenizer.to_str())
    written["added_tokens"] = []
    return Tokenizer.from_str(json.dumps(written))


def _head(texts: Iterable[str], count: int, characters: int) -> Iterator[str]:
    """The first `count` texts (0: all), until they hold `characters`. At least one text is needed."""
    seen = 0
    number = 0
    for number, text in enumerate(texts, start=1):
        yield text
        seen += len(text)
        if number == count or seen >= characters:
            return
    if not number:
        raise TokenizerError("no text to build a tokenizer from")
