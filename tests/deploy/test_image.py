"""The images, built and run as in production: user 10001, root read-only, no network (`make test-image`)."""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import missing
from tests.deploy.engine import Container, Engine
from tests.service.making import make_bundles

pytestmark = pytest.mark.image

LIMIT_MB = 350
GRACE = 60  # seconds, terminationGracePeriodSeconds of deploy/base
BASE = "docker.io/library/python:3.11-slim-bookworm"
SERVICE = "localhost/voisin-test:service"
TRAINING = "localhost/voisin-test:training"

ASK = """
import json, sys, urllib.request, urllib.error
def ask(path, body=None):
    data = None if body is None else json.dumps(body).encode()
    kind = {"content-type": "application/json"}
    request = urllib.request.Request("http://127.0.0.1:8000" + path, data, kind)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return [answer.status, answer.headers.get("x-model-revision"), json.loads(answer.read())]
    except urllib.error.HTTPError as error:
        return [error.code, None, json.loads(error.read())]
print(json.dumps([ask(*each) for each in json.loads(sys.argv[1])]))
"""
IDENTITY = """
import importlib.util as found, json, os, pathlib
def refused(path):
    try:
        pathlib.Path(path, "x").write_text("x")
    except OSError as error:
        return error.strerror
status = pathlib.Path("/proc/1/status").read_text()
print(json.dumps({
    "uid": os.getuid(), "first": pathlib.Path("/proc/1/cmdline").read_text().split(chr(0))[0],
    "first_uid": [line.split()[1] for line in status.splitlines() if line.startswith("Uid:")],
    "torch": found.find_spec("torch") is not None, "pip": found.find_spec("pip") is not None,
    "refused": {path: refused(path) for path in ("/", "/opt/voisin", "/models", "/home", "/var/tmp")},
    "tmp": refused("/tmp"), "routes": pathlib.Path("/proc/net/route").read_text().splitlines()[1:],
}))
"""


@pytest.fixture(scope="module")
def engine() -> Engine:
    engine = Engine()
    if lacking := engine.missing():
        missing(lacking)
    return engine


@pytest.fixture(scope="module")
def service(engine: Engine) -> str:
    engine.build(SERVICE, "--target", "service")
    return SERVICE


@pytest.fixture(scope="module")
def training(engine: Engine) -> str:
    engine.build(TRAINING, "--target", "training")
    return TRAINING


@pytest.fixture(scope="module")
def running(engine: Engine, service: str) -> Iterator[Container]:
    """The image with the models that are baked in, answering."""
    with engine.running(service) as container:
        container.wait_healthy(engine.check(service))
        yield container


def ask(container: Container, *requests: list[object]) -> list[list[object]]:
    answers: list[list[object]] = container.python(ASK, json.dumps(requests))
    return answers


def test_what_the_image_says_of_itself(engine: Engine, service: str) -> None:
    config = engine.inspect(service)["Config"]
    assert config["User"] == "10001:10001"
    assert config["Entrypoint"] == ["tini", "--"]
    assert config["StopSignal"] == "SIGTERM"
    labels = {name.rpartition(".")[2]: text for name, text in config["Labels"].items()}
    assert labels["licenses"] == "Apache-2.0"
    assert re.fullmatch("[0-9a-f]{40}|unknown", labels["revision"])
    assert not [each for each in config["Env"] if re.match("PIP_|SSL_|REQUESTS_", each)]


def test_the_service_is_small(engine: Engine, service: str) -> None:
    if engine.name == "docker":  # its builder need not leave the base behind
        engine.call("pull", BASE, timeout=600)
    above = (engine.inspect(service)["Size"] - engine.inspect(BASE)["Size"]) / 1e6
    print(f"service image: {above:.0f} MB above its base")
    assert above < LIMIT_MB


def test_it_runs_as_nobody_in_particular_and_writes_nowhere(running: Container) -> None:
    found = running.python(IDENTITY)
    assert found["uid"] == 10001
    assert (found["first"], found["first_uid"]) == ("tini", ["10001"])
    assert set(found["refused"].values()) <= {"Read-only file system", "Permission denied"}
    assert found["tmp"] is None
    assert (found["torch"], found["pip"]) == (False, False)
    assert found["routes"] == []  # and yet it started


def test_the_three_tasks_are_answered(running: Container) -> None:
    similar, complete, translate, lost = ask(
        running,
        ["/similar?word=rome&topn=3"],
        ["/complete?level=word&lang=fr&prompt=la+porte+de+la+mai&n=3&max_tokens=1"],
        ["/translate", {"q": "Où est la gare ?", "source": "fr", "target": "en"}],
        ["/similar?word=xqzw"],
    )
    assert [each[0] for each in (similar, complete, translate, lost)] == [200, 200, 200, 404]
    assert all(re.fullmatch("[0-9a-f]{12}", str(each[1])) for each in (similar, complete, translate))
    assert len(similar[2]["neighbours"]) == 3  # type: ignore[call-overload,index]
    assert translate[2]["translatedText"]  # type: ignore[call-overload,index]


def test_models_may_be_mounted_instead(engine: Engine, service: str, tmp_path: Path) -> None:
    models = make_bundles(tmp_path / "models")
    tmp_path.chmod(0o755)
    with engine.running(service, [f"{models}:/models:ro"]) as container:
        container.wait_healthy(engine.check(service))
        (answer,) = ask(container, ["/v1/models"])
        names = {each["id"] for each in answer[2]["data"]}  # type: ignore[call-overload,index]
        assert "slow-xx" in names
        assert not names & {"chars-fr"}  # which is baked in


def test_it_stops_in_good_order_and_in_time(engine: Engine, service: str, tmp_path: Path) -> None:
    models = make_bundles(tmp_path / "models")
    with engine.running(service, [f"{models}:/models:ro"]) as container:
        container.wait_healthy(engine.check(service))
        path = "/complete?prompt=a&model=slow-xx&temperature=1&seed=1&max_tokens=200"
        with subprocess.Popen(
            container.command("python", "-", json.dumps([[path]])),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        ) as client:  # fmt: skip
            assert client.stdin
            assert client.stdout
            client.stdin.write(ASK)
            client.stdin.close()
            for _ in range(600):
                (info,) = container.python(BACKLOG)
                if info:
                    break
                time.sleep(0.05)
            assert container.stop(GRACE) == 0
            (answer,) = json.loads(client.stdout.read())
        assert answer[0] == 200
        assert len(answer[2]["completions"][0]["text"]) == 200
        assert '"message":"drained"' in container.logs()


BACKLOG = """
import json, re, urllib.request
text = urllib.request.urlopen("http://127.0.0.1:8000/metrics", timeout=30).read().decode()
print(json.dumps([float(re.search(r"^voisin_backlog_requests (\\S+)", text, re.M)[1])]))
"""


def test_a_signal_while_the_models_are_opened_ends_it(engine: Engine, service: str) -> None:
    with engine.running(
        service
    ) as container:  # the first process of a container ignores what it does not handle
        assert container.stop(GRACE) in (0, 143)


def test_without_a_model_it_says_so_and_leaves(engine: Engine, service: str, tmp_path: Path) -> None:
    with engine.running(service, [f"{tmp_path}:/models:ro"]) as container:
        for _ in range(600):
            if not container.state()["Running"]:
                break
            time.sleep(0.1)
        assert container.state()["ExitCode"] == 1
        assert "VOISIN_MODELS" in container.logs() or "/models" in container.logs()


def test_training_to_serving_without_leaving_the_images(
    engine: Engine, service: str, training: str, tmp_path: Path
) -> None:
    recipe = Path(__file__).resolve().parents[2] / "training" / "recipes" / "toy"
    work = tmp_path / "work"
    (work / "models").mkdir(parents=True)
    for folder in (work, work / "models"):
        folder.chmod(0o777)
    volumes = [f"{work}:/job", f"{recipe}:/recipes:ro"]
    engine.once(training, "voisin-train", "/recipes/masse-lstm.toml", "--run", "/job/run", volumes=volumes)
    engine.once(training, "voisin-export", "/job/run", "/job/models/masse", volumes=volumes)
    assert (work / "models" / "masse").stat().st_uid == 10001
    with engine.running(service, [f"{work / 'models'}:/models:ro"]) as container:
        container.wait_healthy(engine.check(service))
        (answer,) = ask(container, ["/complete?prompt=m"])
        assert answer[2]["completions"][0]["text"] == "asse"  # type: ignore[call-overload,index]
