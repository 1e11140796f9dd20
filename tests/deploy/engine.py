"""Images built and containers run for real: by docker, by podman, or by one's own builder and podman."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import time
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


class Engine:
    """The command that runs containers, and the one that builds images (`VOISIN_IMAGE_BUILDER`)."""

    def __init__(self) -> None:
        builder = Path(os.environ.get("VOISIN_IMAGE_BUILDER", "docker")).name
        # a builder of one's own leaves its images in the store that podman shares with buildah
        self.name = builder if builder in ("docker", "podman") else "podman"
        self.builder = shutil.which(os.environ.get("VOISIN_IMAGE_BUILDER", "docker"))
        self._command = [self.name]
        if self.name == "podman" and shutil.which("buildah"):
            driver = subprocess.run(
                ["buildah", "info", "--format", "{{.store.GraphDriverName}}"],
                capture_output=True, text=True, check=True,
            ).stdout.strip()  # fmt: skip
            self._command = ["env", f"STORAGE_DRIVER={driver}", "podman"]
        self._own: list[str] = []
        if self.name == "podman":  # it would give a read-only container four more places to write
            self._own = ["--read-only-tmpfs=false"] + (["--runtime", "runc"] if shutil.which("runc") else [])

    def missing(self) -> str | None:
        """What this machine lacks to build and run, if anything."""
        if self.builder is None:
            return "the image builder (VOISIN_IMAGE_BUILDER)"
        if shutil.which(self.name) is None:
            return self.name
        found = subprocess.run([*self._command, "info"], capture_output=True, timeout=60)
        return None if found.returncode == 0 else f"a running {self.name}"

    def build(self, tag: str, *options: str) -> None:
        """`deploy/build-image.sh`, as an operator calls it."""
        command = [str(ROOT / "deploy" / "build-image.sh"), tag, *options]
        built = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
        assert built.returncode == 0, built.stdout[-4000:] + built.stderr[-4000:]

    def call(self, *arguments: str, stdin: str = "", timeout: float = 120) -> str:
        """The engine's answer; fails with what it said."""
        done = subprocess.run(
            [*self._command, *arguments], input=stdin, capture_output=True, text=True, timeout=timeout
        )
        assert done.returncode == 0, f"{arguments}: {done.stdout}{done.stderr}"
        return done.stdout

    def inspect(self, tag: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.call("image", "inspect", tag))[0]
        return found

    def check(self, tag: str) -> list[str]:
        """The command of the image's HEALTHCHECK."""
        found = self.inspect(tag)
        check = found.get("Healthcheck") or found["Config"]["Healthcheck"]  # podman, docker
        kind, *command = check["Test"]
        assert kind == "CMD"
        return list(command)

    def arguments(self, volumes: Sequence[str] = ()) -> list[str]:
        """How every container of these tests is held: nothing to write on, nowhere to go, 2 GiB."""
        held = [*self._own, "--read-only", "--tmpfs", "/tmp", "--network", "none", "--memory", "2g"]
        held += ["--cap-drop", "ALL", "--security-opt", "no-new-privileges"]
        held += ["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=4096:4096"]
        return held + [part for volume in volumes for part in ("--volume", volume)]

    def once(self, tag: str, *command: str, volumes: Sequence[str] = (), timeout: float = 300) -> str:
        """The output of a command in a container of its own."""
        return self.call("run", "--rm", *self.arguments(volumes), tag, *command, timeout=timeout)

    @contextlib.contextmanager
    def running(self, tag: str, volumes: Sequence[str] = ()) -> Iterator[Container]:
        """A container in the background, removed at the end."""
        name = f"voisin-test-{uuid.uuid4().hex[:12]}"
        self.call("run", "--detach", "--name", name, *self.arguments(volumes), tag)
        try:
            yield Container(self, name)
        finally:
            self.call("rm", "--force", name)


class Container:
    """One running container."""

    def __init__(self, engine: Engine, name: str) -> None:
        self.engine = engine
        self.name = name

    def command(self, *command: str) -> list[str]:
        """What to execute on the host to execute a command in the container, its standard input passed on."""
        return [*self.engine._command, "exec", "--interactive", self.name, *command]

    def python(self, program: str, *arguments: str) -> Any:
        """What a program that runs in the container printed, as JSON."""
        return json.loads(
            self.engine.call("exec", "--interactive", self.name, "python", "-", *arguments, stdin=program)
        )

    def state(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.engine.call("inspect", self.name))[0]["State"]
        return found

    def wait_healthy(self, check: Sequence[str]) -> None:
        """Until the image's own health check succeeds."""
        for _ in range(600):
            if subprocess.run(self.command(*check), capture_output=True).returncode == 0:
                return
            assert self.state()["Running"], self.logs()
            time.sleep(0.1)
        raise AssertionError(self.logs())

    def logs(self) -> str:
        """What it wrote to either stream."""
        command = [*self.engine._command, "logs", self.name]
        return subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=True
        ).stdout

    def stop(self, seconds: int) -> int:
        """The exit status after the stop signal; 137 where it had to be killed after `seconds`."""
        self.engine.call("stop", "-t", str(seconds), self.name, timeout=seconds + 60)
        status: int = self.state()["ExitCode"]
        return status
