"""What the completion of words is worth to somebody who types: next-word accuracy, and keystrokes saved."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from bundle.completion import Completion, CompletionOptions
from bundle.errors import InvalidRequest
from bundle.language import Language
from bundle.words import first_run
from export import ExportError
from export.scores import Score
from export.testsets import rank

SUGGESTIONS = 5
"""Words in the list that the typist sees."""
RANKS = (1, 5, 10)


def word_scores(model: Language, lines: Sequence[str], *, name: str, command: str) -> list[Score]:
    """One word of each line, chosen by hash, given what stands before it in the line.

    Accuracy: the word is among the first 1, 5 or 10 that ``level=word`` suggests before a letter is typed.

    Keystrokes saved (Trnka and McCoy 2008, "Evaluating Word Prediction: Framing Keystroke Savings"):
    ``1 - keys with suggestions / keys without``, in per cent. Without, a word costs its letters and the space
    after it. With, the typist sees five suggestions before every letter, takes the word as soon as it is
    among them, which costs one key and brings the space, and types the next letter where it is not.
    """
    chosen = [found for line in lines if (found := _chosen(line)) is not None]
    if not chosen:
        raise ExportError(f"{name}: no line has a word after another one")
    spelt = [model.tokenizer.normalize(word) for _, word in chosen]
    lists = suggestions(model, [before for before, _ in chosen], max(RANKS))
    score = partial(Score, set=name, size=len(chosen), unit="words", command=command, part="words")
    scores = [
        score(
            metric=f"next word among {count}, %" if count > 1 else "next word right, %",
            value=100.0
            * sum(word in found[:count] for word, found in zip(spelt, lists, strict=True))
            / len(chosen),
        )
        for count in RANKS
    ]
    keys = typed_keys(model, chosen)
    without = sum(len(word) + 1 for _, word in chosen)
    saved = score(
        metric="keystrokes saved, %",
        value=100.0 * (1 - sum(keys) / without),
        note=f"{SUGGESTIONS} suggestions, taking one costs one key; {without:,} keys without",
    )
    return [*scores, saved]


def typed_keys(model: Language, words: Sequence[tuple[str, str]]) -> list[int]:
    """Keys that each word costs, with the space after it, given (text before it, word)."""
    keys = [len(word) + 1 for _, word in words]
    waiting = list(range(len(words)))
    typed = 0
    while waiting:
        lists = suggestions(model, [words[at][0] + words[at][1][:typed] for at in waiting], SUGGESTIONS)
        missed = []
        for at, found in zip(waiting, lists, strict=True):
            if model.tokenizer.normalize(words[at][1]) in found:
                keys[at] = typed + 1
            else:
                missed.append(at)
        typed += 1
        # with all its letters typed, taking a word costs as much as the space
        waiting = [at for at in missed if typed < len(words[at][1])]
    return keys


def suggestions(model: Language, prompts: Sequence[str], count: int) -> list[list[str]]:
    """The words that the service would list after each prompt, likeliest first."""
    options = CompletionOptions(level="word", n=count, max_tokens=1)
    return [
        [model.tokenizer.normalize(one.word or "") for one in found]
        for found in complete_all(model, prompts, options)
    ]


def complete_all(
    model: Language, prompts: Sequence[str], options: CompletionOptions
) -> list[list[Completion]]:
    """The completions of many prompts at once, as users get them one by one.

    A prompt too long is read without its beginning; one that cannot be spelt has no completion.
    """
    jobs = {}
    for at, prompt in enumerate(prompts):
        try:
            jobs[at] = model.job(_fitting(model, prompt), options)
        except InvalidRequest:
            continue
    decoder = model.decoder()
    # like lengths together: a batch is as long as its longest row
    for at in sorted(jobs, key=lambda at: len(prompts[at])):
        for index, request in enumerate(jobs[at].requests):
            decoder.add(request, (at, index))
    while decoder.active or decoder.waiting:
        for event in decoder.step():
            assert isinstance(event.tag, tuple)
            at, index = event.tag
            jobs[at].feed(index, event)
    return [jobs[at].result() if at in jobs else [] for at in range(len(prompts))]


def _fitting(model: Language, prompt: str) -> str:
    """The end of a prompt, from a word on, that the model can read with room for a word after it."""
    limits = model.manifest.limits
    longest = min(limits.prompt_tokens, limits.context_tokens or limits.prompt_tokens) - 1
    while (count := len(model.tokenizer.encode(prompt))) > longest:
        cut = max(1, len(prompt) - len(prompt) * longest // count)
        space = prompt.find(" ", cut, len(prompt) - 1)
        prompt = prompt[space + 1 if space >= 0 else cut :]
    return prompt


def _chosen(line: str) -> tuple[str, str] | None:
    """A word of the line after the first, and all that stands before it."""
    found = []
    place = line.find(" ") + 1
    while place:
        word = first_run(line[place:])
        if any(character.isalnum() for character in word):
            found.append((line[:place], word))
        place = line.find(" ", place) + 1
    return found[int.from_bytes(rank(line), "big") % len(found)] if found else None
