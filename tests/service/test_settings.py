"""What the environment may say, and how it is told off."""

from __future__ import annotations

from pathlib import Path

import pytest

from service.settings import Settings, SettingsError, read_settings


def test_an_empty_environment_gives_the_defaults() -> None:
    assert read_settings({}) == Settings()


def test_every_kind_of_value_is_read() -> None:
    settings = read_settings({
        "VOISIN_HOST": "0.0.0.0",
        "VOISIN_MODELS": "/srv/models",
        "VOISIN_QUEUE_TOKENS": "12",
        "VOISIN_DEADLINE_SECONDS": "1.5",
        "VOISIN_DEVICE": "cpu",
        "VOISIN_LANGUAGES": "fr, en",
        "PATH": "/usr/bin",
    })  # fmt: skip
    assert settings.host == "0.0.0.0"
    assert settings.models == Path("/srv/models")
    assert settings.queue_tokens == 12
    assert settings.deadline_seconds == 1.5
    assert settings.device == "cpu"
    assert settings.language_order == ("fr", "en")


def test_port_is_read_where_listen_port_is_not_set() -> None:
    assert read_settings({"PORT": "81"}).listen_port == 81
    assert read_settings({"PORT": "81", "VOISIN_LISTEN_PORT": "82"}).listen_port == 82


def test_an_empty_value_is_no_value() -> None:
    assert read_settings({"VOISIN_THREADS": ""}).threads == 0


def test_an_unknown_name_is_refused_with_the_nearest() -> None:
    with pytest.raises(SettingsError, match=r"VOISIN_REDIS_URI: .*did you mean VOISIN_REDIS_URL\?"):
        read_settings({"VOISIN_REDIS_URI": "redis://x"})


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("VOISIN_QUEUE_TOKENS", "many", "whole number"),
        ("VOISIN_QUEUE_TOKENS", "1.5", "whole number"),
        ("VOISIN_QUEUE_TOKENS", "0", "between 1 and"),
        ("VOISIN_DEADLINE_SECONDS", "soon", "must be a number"),
        ("VOISIN_DEADLINE_SECONDS", "nan", "between"),
        ("VOISIN_DEADLINE_SECONDS", "-1", "between"),
        ("VOISIN_DEVICE", "gpu", "auto, cpu, cuda"),
        ("VOISIN_LISTEN_PORT", "65536", "between 0 and 65535"),
        ("PORT", "http", "whole number"),
    ],
)
def test_a_bad_value_is_refused_by_name(name: str, value: str, why: str) -> None:
    with pytest.raises(SettingsError, match=f"{name}={value}: .*{why}"):
        read_settings({name: value})


@pytest.mark.parametrize(
    "name",
    [
        "VOISIN_PORT", "VOISIN_SERVICE_HOST", "VOISIN_SERVICE_PORT", "VOISIN_SERVICE_PORT_HTTP",
        "VOISIN_PORT_80_TCP", "VOISIN_PORT_80_TCP_ADDR", "VOISIN_REDIS_PORT",
        "VOISIN_REDIS_PORT_6379_TCP_PROTO",
        "VOISIN_REDIS_SERVICE_HOST", "VOISIN_DATA", "VOISIN_CORPORA", "VOISIN_REQUIRE_ALL",
    ],
)  # fmt: skip
def test_what_others_put_there_is_left_alone(name: str) -> None:
    assert read_settings({name: "tcp://10.0.0.1:80"}) == Settings()
