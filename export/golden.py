"""Golden examples: inputs with the outputs that the packed bundle gave, re-checked when it is opened."""

from __future__ import annotations

from collections.abc import Sequence

from bundle.language import CompletionOptions, Language
from bundle.manifest import Golden
from bundle.translator import TranslationOptions, Translator
from bundle.vectors import Vectors
from export import ExportError

COUNT = 4
NEIGHBOURS = 5
NEW_TOKENS = 16

WORDS = {
    "en": ("rome", "king", "river", "good", "computer"),
    "fr": ("paris", "roi", "maison", "bon", "mer"),
}
PROMPTS = {
    "en": ("The history of ", "He was born in ", "In the summer, ", "I think that "),
    "fr": ("Il était une fois ", "La maison ", "Je ne sais pas ", "Dans la rue, "),
}
SENTENCES = {
    "en": ("Thank you very much.", "Where is the station?", "I don't know.", "She is reading a book."),
    "fr": ("Où est la gare ?", "Merci beaucoup.", "Je ne sais pas.", "Elle lit un livre."),
}


def golden(model: Vectors | Language | Translator, wishes: Sequence[str]) -> list[Golden]:
    """Answers of `model` to `wishes` (the recipe's samples) and to the defaults of its language.

    Inputs that the model's alphabet or vocabulary cannot spell are passed over. Raises ExportError if none is
    left.
    """
    language = model.manifest.languages[0]
    if isinstance(model, Vectors):
        words = [word for word in (*wishes, *WORDS.get(language, ())) if word in model][:COUNT]
        # any vocabulary has its most frequent words
        words = words or [word for word in model.tokenizer.words() if word in model][:COUNT]
        # where words never seen are composed, one of them: two words run together
        words += [word for word in ["".join(words[:2])] if model.composes(word)]
        found = [_neighbours(model, word) for word in words]
    elif isinstance(model, Translator):
        found = [_translation(model, text) for text in _spelt(model, (*wishes, *SENTENCES.get(language, ())))]
    else:
        found = [_completion(model, text) for text in _spelt(model, (*wishes, *PROMPTS.get(language, ())))]
    if not found:
        raise ExportError(
            "no golden example can be spelt with this tokenizer: give train.samples in the recipe"
        )
    return found


def _spelt(model: Language | Translator, texts: Sequence[str]) -> list[str]:
    kept = []
    for text in dict.fromkeys(texts):
        try:
            ids = model.tokenizer.encode(text)
        except ValueError:  # InvalidRequest: a character outside the alphabet
            continue
        if ids and model.manifest.special.unk not in ids and len(ids) < model.manifest.limits.prompt_tokens:
            kept.append(text)
    return kept[:COUNT]


def _neighbours(model: Vectors, word: str) -> Golden:
    near = model.most_similar([word], topn=NEIGHBOURS)
    return Golden(input=[word], output=[other for other, _ in near], scores=[score for _, score in near])


def _completion(model: Language, prompt: str) -> Golden:
    options = CompletionOptions(
        max_tokens=min(NEW_TOKENS, model.manifest.limits.new_tokens), beam=1, temperature=0.0
    )
    [completion] = model.complete(prompt, options)
    return Golden(input=[prompt], output=[completion.text], scores=[completion.logprob])


def _translation(model: Translator, text: str) -> Golden:
    translation = model.translate(text, TranslationOptions())
    return Golden(input=[text], output=[translation.text], scores=[translation.score])
