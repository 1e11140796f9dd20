"""The open bundles, and which of them answers a request."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from time import perf_counter
from typing import Any, TypeVar

import msgspec

from bundle.errors import BundleError
from bundle.language import Language
from bundle.load import Model, open_bundle
from bundle.manifest import MANIFEST, SCORES, Manifest
from bundle.session import Device, place_of
from bundle.translator import Translator
from bundle.vectors import Vectors
from service.errors import Problem, invalid

logger = logging.getLogger("voisin")

M = TypeVar("M", Vectors, Language, Translator)


@dataclass(frozen=True)
class Opened:
    """A bundle that was opened: what it says about itself, how long that took, what its evaluation found."""

    folder: Path
    model: Model
    seconds: float
    scores: dict[str, Any]

    @property
    def manifest(self) -> Manifest:
        return self.model.manifest

    @property
    def name(self) -> str:
        return self.model.manifest.name


class Registry:
    """Bundles by name and alias, by task and language.

    Languages come in the order of `languages`, then by code; bundles of one kind in the order of their names.
    """

    def __init__(self, opened: Sequence[Opened], languages: Sequence[str]) -> None:
        self.opened: dict[str, Opened] = {}
        self._names: dict[str, Model] = {}
        for each in sorted(opened, key=lambda each: each.name):
            for name in (each.name, *each.manifest.aliases):
                if name in self._names:
                    other = self._names[name].manifest.name
                    raise BundleError(
                        each.folder / MANIFEST, f"the name {name} is taken by the bundle {other}"
                    )
                self._names[name] = each.model
            self.opened[each.name] = each
        order = {code: place for place, code in enumerate(languages)}

        def rank(code: str) -> tuple[int, str]:
            return order.get(code, len(order)), code

        self._rank = rank
        models = [each.model for each in self.opened.values()]
        self.vectors = sorted((m for m in models if isinstance(m, Vectors)), key=self._first_language)
        self.languages = sorted((m for m in models if isinstance(m, Language)), key=self._first_language)
        self.translators = [m for m in models if isinstance(m, Translator)]
        self.codes = sorted({code for m in models for code in m.manifest.languages}, key=rank)

    def _first_language(self, model: Model) -> tuple[int, str]:
        return min(self._rank(code) for code in model.manifest.languages)

    @property
    def decoding(self) -> dict[str, Language | Translator]:
        """The models that write token by token, by name."""
        return {each.name: each.model for each in self if isinstance(each.model, Language | Translator)}

    def __iter__(self) -> Iterator[Opened]:
        return iter(self.opened.values())

    def named(self, name: str, kind: type[M], task: str) -> M:
        """The model of that name or alias.

        Raises:
            Problem: 404 where there is none, 400 where it does something else.
        """
        model = self._names.get(name)
        if model is None:
            known = ", ".join(each.name for each in self if isinstance(each.model, kind))
            raise Problem(
                404, "unknown_model", f"there is no model of that name; {task} has {known}", field="model"
            )
        if not isinstance(model, kind):
            raise invalid(
                "model", f"{model.manifest.name} is a {model.manifest.kind} bundle: no use for {task}"
            )
        return model

    def vectors_for(self, lang: str | None, model: str | None) -> list[Vectors]:
        """The word vectors to try, in this order."""
        if model is not None:
            return [self.named(model, Vectors, "similar")]
        return _some(
            [m for m in self.vectors if lang in (None, *m.manifest.languages)], lang, "similar", self.vectors
        )

    def language_for(self, lang: str, level: str | None) -> Language:
        """The language model of a language; without a level, one of words before one of characters."""
        found = _some(
            [m for m in self.languages if lang in m.manifest.languages], lang, "complete", self.languages
        )
        wanted = [m for m in found if (m.manifest.level == "char") == (level == "char")]
        if not wanted and level is not None:
            have = ", ".join(sorted({"char" if m.manifest.level == "char" else "word" for m in found}))
            raise invalid("level", f"no model of {lang} completes by {level}; there is {have}")
        return (wanted or found)[0]

    def speller_for(self, model: Language) -> Language | None:
        """A model of characters of the same language, where there is one."""
        codes = set(model.manifest.languages)
        return next(
            (m for m in self.languages if m.manifest.level == "char" and codes & set(m.manifest.languages)),
            None,
        )

    def completion_languages(self) -> list[str]:
        """The languages that can be completed, in their order."""
        return sorted({code for m in self.languages for code in m.manifest.languages}, key=self._rank)

    @cached_property
    def targets(self) -> dict[str, dict[str, Translator]]:
        """Source language -> target language -> its translator."""
        table: dict[str, dict[str, Translator]] = {}
        for model in self.translators:
            table.setdefault(model.source_language, {}).setdefault(model.target_language, model)
        return {code: table[code] for code in sorted(table, key=self._rank)}


def _some(found: list[M], lang: str | None, task: str, all_of_them: Sequence[M]) -> list[M]:
    if found:
        return found
    if not all_of_them:
        raise Problem(404, "no_model", f"no bundle is open that could answer {task}")
    known = ", ".join(dict.fromkeys(code for model in all_of_them for code in model.manifest.languages))
    raise invalid("lang", f"{lang} is not a language of {task}; it has {known}", code="unknown_language")


def open_registry(folder: Path, *, device: Device, languages: Sequence[str]) -> Registry:
    """Open every bundle of a folder. All of them must be whole: a service with a hole is found out too late.

    Raises:
        BundleError: the folder is missing or holds no bundle, a bundle is refused, or two share a name.
    """
    try:
        found = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    except OSError as error:
        raise BundleError(folder, f"cannot be read: {error.strerror} (VOISIN_MODELS)") from error
    if not found:
        raise BundleError(folder, "holds no bundle (VOISIN_MODELS): train one, or point to another folder")
    opened = []
    for path in found:
        start = perf_counter()
        model = open_bundle(path, device=device, threads=1)
        each = Opened(path, model, perf_counter() - start, _scores(path / SCORES))
        opened.append(each)
        data = {"model": each.name, "revision": each.manifest.revision, "provider": model.provider}
        logger.info("opened", extra={"data": data | {"seconds": round(each.seconds, 3)}})
        if place_of(device).device == "auto" and model.provider.startswith("CPU") and _gpu_runtime():
            logger.warning("no GPU could be used: running on the CPU", extra={"data": data})
    return Registry(opened, languages)


def _gpu_runtime() -> bool:
    from importlib.metadata import PackageNotFoundError, version

    try:
        version("onnxruntime-gpu")
    except PackageNotFoundError:
        return False
    return True


def _scores(path: Path) -> dict[str, Any]:
    """The evaluation's numbers. They decide no answer: a bundle may lack them, but not have them broken."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    except FileNotFoundError:
        return {}
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, OSError) as error:
        raise BundleError(path, f"is not a JSON object: {error}") from error
