"""Place: what the environment says about this process. Read once, at start; unknown names are refused."""

from __future__ import annotations

import dataclasses
import difflib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from service.cores import cores

PREFIX = "VOISIN_"
# Other rooms' variables that may stand in the same environment.
_FOREIGN = frozenset(
    {"VOISIN_DATA", "VOISIN_CORPORA", "VOISIN_REQUIRE_ALL", "VOISIN_FUZZ_SECONDS", "VOISIN_IMAGE_BUILDER"}
)
# Kubernetes injects these shapes for every Service it knows (a Service named voisin-redis gives
# VOISIN_REDIS_PORT=tcp://...): nobody wrote them, so nobody is told off for them.
_INJECTED = re.compile(r"_SERVICE_(HOST|PORT)(_\w+)?$|_PORT(_\d+_(TCP|UDP|SCTP)(_\w+)?)?$")

_MODELS = Path("models")


class SettingsError(Exception):
    """A variable that cannot be used; the text names it and says what would be right."""


def setting(default: object, doc: str, *, low: float | None = None, high: float | None = None,
            choices: tuple[str, ...] = ()) -> Any:  # fmt: skip
    """A dataclass field with the text of its documentation and its bounds."""
    return dataclasses.field(
        default=default,
        metadata={"doc": doc, "low": low, "high": high, "choices": choices},
    )


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Every setting of the service; field `x_y` is read from `VOISIN_X_Y`."""

    host: str = setting("127.0.0.1", "Address to listen on; `0.0.0.0` in a container")
    # not VOISIN_PORT: Kubernetes sets that to tcp://... where a Service is named voisin
    listen_port: int = setting(
        8000, "Port to listen on, 0 = a free one; `PORT` where this is not set", low=0, high=65535
    )
    models: Path = setting(Path("models"), "Folder of bundles; every sub-folder must be one")  # noqa: RUF009
    languages: str = setting("en,fr", "Order in which languages are tried when a request names none")
    device: str = setting(
        "auto",
        "Where graphs run; `cuda` refuses to start without a GPU, `auto` says what it got",
        choices=("auto", "cpu", "cuda"),
    )
    device_bytes: int = setting(
        0, "Most GPU memory for the weights and tensors of one graph; 0 = no bound", low=0, high=2**50
    )
    kernels: str = setting(
        "auto",
        "Who runs fast int8 graphs on a CPU with AVX-512 VNNI: `auto` = our own kernels",
        choices=("auto", "onnxruntime"),
    )
    workers: str = setting(
        "auto",
        "What decodes beside the event loop: `processes`, which share its weights and nothing else, or "
        "`threads`; `auto` = processes where there is no GPU and more than one of them",
        choices=("auto", "threads", "processes"),
    )
    threads: int = setting(
        0, "How many workers decode, each a step at a time; 0 = one a core", low=0, high=256
    )
    batch_rows: int = setting(
        64, "Most rows (sentences, beams, samples) of one model in one step", low=1, high=4096
    )
    deadline_seconds: float = setting(30.0, "A request not answered by then gets 504", low=0.01, high=3600)
    client_seconds: float = setting(
        30.0, "How long a client may take to send its request, or leave an answer unread", low=0.1, high=3600
    )
    drain_seconds: float = setting(
        30.0, "After SIGTERM, how long running answers may take to finish", low=0, high=3600
    )
    queue_tokens: int = setting(
        65536, "Most tokens admitted and not yet answered; beyond it 429", low=1, high=2**31
    )
    queue_texts: int = setting(
        1024, "Most texts admitted and not yet answered; beyond it 429", low=1, high=2**31
    )
    queue_seconds: float = setting(
        0.5, "Most seconds of work waiting for one model; beyond it 429", low=0.05, high=3600
    )
    body_bytes: int = setting(1_048_576, "Longest request body", low=1024, high=2**31)
    text_chars: int = setting(5000, "Longest text or prompt, in characters", low=1, high=2**31)
    batch_texts: int = setting(128, "Most texts in one request", low=1, high=65536)
    cache_bytes: int = setting(
        64 * 2**20, "Size of the answer cache in memory; 0 turns it off", low=0, high=2**40
    )
    cache_entries: int = setting(100_000, "Most answers held in memory", low=0, high=2**31)
    cache_ttl_seconds: int = setting(604_800, "How long Redis keeps an answer", low=1, high=2**31)
    redis_url: str = setting(
        "", "Second cache tier shared between processes, e.g. `redis://redis:6379/0`; empty = none"
    )
    redis_timeout_seconds: float = setting(
        0.05, "Longest wait for Redis; after it the answer is computed", low=0.001, high=10
    )
    canary_seconds: float = setting(
        15.0, "An idle model proves itself this often with a tiny forward pass", low=0.1, high=3600
    )
    api_keys: str = setting(
        "", "Lines `NAME SHA256 [scopes=...] [rate=...] [concurrent=...]`, `;` between; empty = open to all"
    )
    api_keys_file: str = setting("", "File of such lines, read again when it changes")
    cors_origins: str = setting(
        "", "Origins whose pages may call, e.g. `https://a.example,https://b.example`, or `*`; empty = none"
    )
    log_level: str = setting(
        "info",
        "`info` logs every request, `warning` only those that failed on our side",
        choices=("debug", "info", "warning", "error"),
    )

    @property
    def language_order(self) -> tuple[str, ...]:
        return tuple(code.strip() for code in self.languages.split(",") if code.strip())

    @property
    def models_folder(self) -> Path:
        """`models`, or the folder of that name beside the package where the current one has none."""
        beside = Path(__file__).resolve().parent.parent / self.models
        return beside if self.models == _MODELS and not self.models.exists() else self.models

    @property
    def worker_count(self) -> int:
        return self.threads or cores()


def variable(field: dataclasses.Field[Any]) -> str:
    """The name under which the environment gives this setting."""
    return PREFIX + field.name.upper()


def read_settings(environ: Mapping[str, str] | None = None) -> Settings:
    """Settings from the environment.

    Raises:
        SettingsError: an unknown `VOISIN_*` variable (with the nearest known name) or a value out of bounds.
    """
    environ = os.environ if environ is None else environ
    fields = {variable(field): field for field in dataclasses.fields(Settings)}
    for name in environ:
        if not name.startswith(PREFIX) or name in fields or name in _FOREIGN or _INJECTED.search(name):
            continue
        near = difflib.get_close_matches(name, fields, n=1, cutoff=0.4)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise SettingsError(f"{name}: no such setting{hint} (python -m service --print-settings lists them)")
    values: dict[str, Any] = {
        field.name: _convert(name, environ[name], field)
        for name, field in fields.items()
        if environ.get(name, "") != ""
    }
    if "listen_port" not in values and environ.get("PORT"):
        values["listen_port"] = _convert("PORT", environ["PORT"], fields["VOISIN_LISTEN_PORT"])
    return Settings(**values)


def _convert(name: str, text: str, field: dataclasses.Field[Any]) -> Any:
    wanted: Any = type(field.default)
    choices, low, high = field.metadata["choices"], field.metadata["low"], field.metadata["high"]
    if issubclass(wanted, Path):  # the class of the machine: PosixPath
        return Path(text)
    if wanted is str:
        if choices and text not in choices:
            raise SettingsError(f"{name}={text}: must be one of {', '.join(choices)}")
        return text
    try:
        number = wanted(text)
    except ValueError:
        kind = "a whole number" if wanted is int else "a number"
        raise SettingsError(f"{name}={text}: must be {kind}") from None
    if not low <= number <= high:  # also refuses nan
        raise SettingsError(f"{name}={text}: must be between {low} and {high}")
    return number


def settings_table() -> str:
    """The settings as a Markdown table, for docs/operations.md."""
    lines = ["| variable | default | meaning |", "|---|---|---|"]
    for field in dataclasses.fields(Settings):
        choices = field.metadata["choices"]
        meaning = field.metadata["doc"] + (f" ({', '.join(choices)})" if choices else "")
        default = f"`{field.default}`" if str(field.default) else "(empty)"
        lines.append(f"| `{variable(field)}` | {default} | {meaning} |")
    return "\n".join(lines) + "\n"
