"""A run is sent while it goes on, by a process of its own; whatever that meets, the run is as without it."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from reprokit.recording.tracking import live
from reprokit.recording.tracking.live import followed
from reprokit.registry.local import LocalRegistry
from reprokit.runs.verdict_store import VerdictStore
from reprokit.schema.metric_log import metric_lines
from tests.conftest import Project, put_run
from tests.recording.tracking.test_client import WHO
from tests.recording.tracking.test_tags import AGAIN, RUN, given_verdict

# What stands in for MLflow's client, which takes seconds to load: it writes down what it is asked.
CLIENT = """
import json, os, time, types
class MlflowClient:
    def __init__(self, tracking_uri):
        self.how, self.log = os.environ["STAND_IN"].split(":", 1)
    def __getattr__(self, name):
        def call(*given, **named):
            print("View run at http://…")  # as MLflow does
            if self.how == "hangs":
                time.sleep(60)
            if self.how == "refuses":
                raise OSError("nobody is there")
            with open(self.log, "a") as file:
                file.write(json.dumps([name, given, named], default=vars) + "\\n")
            data = types.SimpleNamespace(params={}, tags={})
            run = types.SimpleNamespace(info=types.SimpleNamespace(run_id="theirs"), data=data)
            class Page(list): token = None
            asked = named.get("filter_string", "")
            found = {"search_experiments": Page([types.SimpleNamespace(experiment_id="7")]), "create_run": run,
                     "search_runs": [run] if os.environ.get("THERE", "none") in asked else [],
                     "get_metric_history": [], "list_artifacts": []}
            return found.get(name)
        return call
"""
ENTITIES = """
class Metric:
    def __init__(self, key, value, timestamp, step): vars(self).update(key=key, value=value, step=step)
class Param:
    def __init__(self, key, value): vars(self).update(key=key, value=value)
RunTag = Param
"""


@pytest.fixture
def registry(tmp_path: Path) -> LocalRegistry:
    return LocalRegistry(tmp_path / "registry")


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    package = tmp_path / "stand-in" / "mlflow"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "tracking.py").write_text(CLIENT)
    (package / "entities.py").write_text(ENTITIES)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(package.parent), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.delenv("REPROKIT_OFFLINE", raising=False)

    def choose(how: str) -> Path:
        monkeypatch.setenv("STAND_IN", f"{how}:{tmp_path / 'asked'}")
        return tmp_path / "asked"

    return choose


def asked(file: Path, name: str) -> list[Any]:
    lines = file.read_text().splitlines() if file.exists() else []
    return [call for call in map(json.loads, lines) if call[0] == name]


def values(file: Path) -> list[tuple[str, float, int]]:
    sent = [metric for call in asked(file, "log_batch") for metric in call[2].get("metrics", [])]
    return [(one["key"], one["value"], one["step"]) for one in sent]


def tags(file: Path) -> dict[str, str]:
    return {one["key"]: one["value"] for call in asked(file, "log_batch") for one in call[2].get("tags", [])}


def wait_for(what: Callable[[], Any]) -> None:
    until = time.monotonic() + 30
    while not what():
        assert time.monotonic() < until
        time.sleep(0.05)


def test_what_is_logged_is_there_while_the_run_goes_on(
    registry: LocalRegistry, stand_in: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, notes, log = stand_in("takes"), list[str](), tmp_path / "metrics.jsonl"
    monkeypatch.setenv("THERE", AGAIN)  # the run that this one repeats
    first, second = (b"".join(metric_lines(step, {"loss": 1.0 - step}, time=step)) for step in range(2))
    log.write_bytes(first + second[:10])
    facts: dict[str, Any] = {"params": {"rate": 0.1}, "reproduces": AGAIN}
    put_run(registry, RUN, status="running", **facts)
    with registry.claim(RUN), followed("mlruns", RUN, log, registry=registry, note=notes.append):
        wait_for(lambda: values(file))
        assert values(file) == [("loss", 1.0, 0)] and asked(file, "set_terminated") == []
        assert tags(file)["reprokit.run"] == RUN
        with log.open("ab") as handle:
            handle.write(second[10:])
        wait_for(lambda: len(values(file)) == 2)
        put_run(registry, RUN, status="finished", ended="2026-11-23T10:16:00Z", **facts)
        VerdictStore(registry).add(_of_the_original())
    assert values(file) == [("loss", 1.0, 0), ("loss", 0.0, 1)]
    ((_, told, _),) = asked(file, "set_terminated")
    assert told == ["theirs", "FINISHED", 1795428960000]
    assert tags(file)["reprokit.verdict"] == "BITWISE" and notes == []
    params = [one for call in asked(file, "log_batch") for one in call[2].get("params", [])]
    assert params[0] == {"key": "rate", "value": "0.1"}


def _of_the_original() -> Any:
    import msgspec

    given = given_verdict("BITWISE", RUN)
    return msgspec.structs.replace(given, original=msgspec.structs.replace(given.original, run_id=AGAIN))


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ("refuses", ["is not sent to MLflow now; it goes on. MLflow's store", "sends what is missing."]),
        ("hangs", ["does not answer, and has not all of run"]),
    ],
)
def test_a_store_that_fails_is_said_once_and_left(
    registry: LocalRegistry, stand_in: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    how: str, told: list[str],
) -> None:  # fmt: skip
    stand_in(how)
    monkeypatch.setattr(live, "_PATIENCE", 1.5 if how == "hangs" else 30.0)
    put_run(registry, RUN, status="running")
    notes: list[str] = []
    began = time.monotonic()
    with followed(f"http://{WHO}@127.0.0.1:9", RUN, tmp_path / "no-log", registry=registry, note=notes.append):
        within = time.monotonic() - began
        if how == "refuses":
            wait_for(lambda: notes)
    assert within < 1.0
    assert len(notes) == len(told) and all(part in note for part, note in zip(told, notes, strict=True)), notes
    assert f"`reprokit export {RUN} --as mlflow -o http://127.0.0.1:9`" in notes[-1] and WHO not in "".join(notes)


def test_a_runner_that_was_killed_leaves_a_run_that_ended(
    registry: LocalRegistry, stand_in: Callable[[str], Path], tmp_path: Path
) -> None:
    file = stand_in("takes")
    put_run(registry, RUN, status="running")  # that nobody claims any more
    process = live._started("mlruns", RUN, tmp_path / "no-log", registry)
    assert process is not None and process.stdin is not None
    process.stdin.close()
    assert process.wait(30) == 0
    assert asked(file, "set_terminated")[0][1][:2] == ["theirs", "KILLED"]


def test_nothing_is_sent_offline_or_where_nobody_asked(
    registry: LocalRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REPROKIT_OFFLINE", "1")
    monkeypatch.setattr(live, "_started", lambda *_: pytest.fail("started"))
    notes: list[str] = []
    with followed(None, RUN, tmp_path, registry=registry, note=notes.append):
        assert notes == []
    with followed("https://host", RUN, tmp_path, registry=registry, note=notes.append):
        assert notes == [
            f"Run {RUN} is not sent to MLflow, for nothing is asked of the network: "
            f"`reprokit export {RUN} --as mlflow -o https://host` sends it later."
        ]


def test_a_run_is_the_same_with_and_without(
    project: Project, stand_in: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = stand_in("takes")
    project.build()
    environment = project.environment()
    path = os.pathsep.join([environment["PYTHONPATH"], os.environ["PYTHONPATH"]])
    without = project.json("run", "recipe.yaml")
    chosen = {**environment, "PYTHONPATH": path, "REPROKIT_MLFLOW": "mlruns"}
    monkeypatch.setattr(project, "environment", lambda _="home": chosen)
    sent = project.json("run", "recipe.yaml")
    assert sent["lock_hash"] == without["lock_hash"] and sent["metrics"] == without["metrics"]
    assert [one for one in sent["variables"] if "MLFLOW" in one["name"]] == []
    assert tags(file)["reprokit.run"] == sent["run_id"]
    assert len(asked(file, "set_terminated")) == 1
