"""Which language is this? Only those that are served come into question."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future

from py3langid.langid import MODEL_FILE, LanguageIdentifier  # type: ignore[import-untyped]

_ENOUGH = 2000  # characters; more change nothing and cost time on the event loop


def load() -> LanguageIdentifier:
    """The model of py3langid. Takes about a second, nearly all of it decompression."""
    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


def load_beside() -> Callable[[], LanguageIdentifier]:
    """Begin to load in a thread of its own; call what is returned to have the result."""
    loaded: Future[LanguageIdentifier] = Future()

    def run() -> None:
        try:
            loaded.set_result(load())
        except Exception as error:
            loaded.set_exception(error)

    # a daemon: a start that is refused meanwhile does not wait for it
    threading.Thread(target=run, name="detector", daemon=True).start()
    return loaded.result


class Detector:
    """py3langid (Lui and Baldwin 2012) over a closed set of languages; the same text always scores the same.

    Codes that py3langid does not know are left out; where none is left, the first code is always the answer.
    """

    def __init__(self, identifier: LanguageIdentifier, codes: Sequence[str]) -> None:
        self._codes = [code for code in codes if code in identifier.labels]
        self._identifier = identifier
        if self._codes:
            identifier.set_languages(self._codes)

    def rank(self, text: str) -> list[tuple[str, float]]:
        """(code, probability) of every language, likeliest first; none for a text without letters.

        Equally likely languages keep the order in which they are served.
        """
        text = text[:_ENOUGH]
        if not self._codes or not any(map(str.isalpha, text)):
            return []
        found = [(code, float(share)) for code, share in self._identifier.rank(text)]
        return sorted(found, key=lambda each: (-each[1], self._codes.index(each[0])))

    def best(self, text: str, among: Sequence[str]) -> str:
        """The likeliest of `among`; the first of them where the text says nothing."""
        if len(among) == 1:
            return among[0]
        return next((code for code, _ in self.rank(text) if code in among), among[0])
