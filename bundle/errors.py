"""The errors that opening and asking a bundle may raise."""

from os import PathLike, fspath


class VoisinError(Exception):
    """Base of every error that this project raises on purpose."""


class BundleError(VoisinError):
    """A bundle is damaged, foreign or not understood: which file, and why."""

    def __init__(self, path: str | PathLike[str], reason: str) -> None:
        super().__init__(path, reason)
        self.path = fspath(path)
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


class InvalidRequest(VoisinError, ValueError):
    """A request cannot be answered as it was asked: which field, why, and the limit it broke."""

    def __init__(self, field: str, message: str, *, limit: int | float | None = None) -> None:
        super().__init__(field, message)
        self.field = field
        self.message = message
        self.limit = limit

    def __str__(self) -> str:
        return f"{self.field}: {self.message}"


class UnknownWord(VoisinError, LookupError):
    """A word that the vocabulary lacks, with the nearest spellings that it has."""

    def __init__(self, word: str, did_you_mean: list[str]) -> None:
        super().__init__(word, did_you_mean)
        self.word = word
        self.did_you_mean = did_you_mean

    def __str__(self) -> str:
        return f"unknown word {self.word!r}"
