"""The README is executed: bash blocks run in order, a json block is the answer of the block before it."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
README_PORT = "8000"


def blocks(text: str) -> list[tuple[str, str]]:
    return [(language, body) for language, body in FENCE.findall(text) if language in ("bash", "json")]


def same(found: Any, expected: Any, where: str = "$") -> None:
    """Equal JSON, but for the last digits of numbers, and for strings written as `...` in the README."""
    if expected == "...":
        return
    if isinstance(expected, float):
        assert found == pytest.approx(expected, abs=2e-3), where
    elif isinstance(expected, dict):
        assert isinstance(found, dict), where
        assert set(expected) <= set(found), where
        for key, value in expected.items():
            same(found[key], value, f"{where}.{key}")
    elif isinstance(expected, list):
        assert isinstance(found, list), where
        assert len(found) == len(expected), where
        for index, value in enumerate(expected):
            same(found[index], value, f"{where}[{index}]")
    else:
        assert found == expected, where


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_ready(port: int, server: subprocess.Popen[bytes], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        assert server.poll() is None, "the server stopped"
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health/ready", timeout=2) as answer:
                if answer.status == 200:
                    return
        except OSError:
            time.sleep(0.2)
    pytest.fail(f"not ready after {seconds} s")


class Reader:
    """Executes blocks one after the other, with the README's port replaced by a free one."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.port = free_port()
        self.server: subprocess.Popen[bytes] | None = None
        self.output = ""

    def stop(self) -> None:
        if self.server is not None:
            if self.server.poll() is None:
                os.killpg(self.server.pid, signal.SIGTERM)
            self.server.wait(timeout=60)
            self.server = None

    def bash(self, body: str) -> None:
        command = body.replace(f"localhost:{README_PORT}", f"localhost:{self.port}")
        if "make serve" in command:
            self.stop()
            command = command.replace("make serve", f"make serve PORT={self.port}")
            self.server = subprocess.Popen(["bash", "-ec", command], cwd=self.root, start_new_session=True)
            wait_ready(self.port, self.server, 120)
            return
        done = subprocess.run(
            ["bash", "-ec", command], cwd=self.root, capture_output=True, text=True, timeout=240
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        self.output = done.stdout


@pytest.fixture
def reader(root: Path) -> Iterator[Reader]:
    reader = Reader(root)
    try:
        yield reader
    finally:
        reader.stop()
        shutil.rmtree(root / "runs" / "readme", ignore_errors=True)


def test_readme(reader: Reader, root: Path) -> None:
    text = (root / "README.md").read_text(encoding="utf-8")
    found = blocks(text)
    assert sum("curl" in body for language, body in found if language == "bash") >= 4
    for language, body in found:
        if language == "bash":
            if "make test" not in body:
                reader.bash(body)
        else:
            same(json.loads(reader.output), json.loads(body))
