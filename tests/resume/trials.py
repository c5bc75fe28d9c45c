"""Runs of one training script, killed and resumed, beside one that never was."""

from __future__ import annotations

import json
import random
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.conftest import Project, lean

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Case:
    """A training script and its parameters.

    Attributes:
        batches: How many calls of `maybe_die` a whole run makes.
        needs: Modules without which the case cannot run.
        command: What starts the script, if not Python alone.
    """

    name: str
    script: str
    batches: int
    every: str = "1 epoch"
    params: dict[str, Any] = field(default_factory=dict)
    variables: dict[str, str] = field(default_factory=dict)
    needs: tuple[str, ...] = ()
    command: tuple[str, ...] = ()


class Trial:
    """A project with one case's script, and the digests of a run of it that was left alone."""

    def __init__(self, case: Case, base: Path) -> None:
        self.case = case
        self.project = Project(base)
        self.marker = base / "kill"
        shutil.copy(HERE / "killing.py", self.project.root)
        script = (HERE / case.script).read_text()
        if case.script.startswith(("keras", "tensorflow")):
            on_torch = case.variables.get("KERAS_BACKEND") == "torch" and "tensorflow" not in case.needs
            script = lean(script, *(("tensorflow",) if on_torch else ()))
        self.project.write(case.script, script)
        recipe = {
            "name": "trial",
            "code": {"command": [*case.command, case.script]} if case.command else {"entrypoint": case.script},
            "params": {"marker": str(self.marker), **case.params},
            "execution": {"seed": 5, "threads": 1, "inputs": "off", "variables": case.variables},
            "checkpoints": {"every": case.every},
        }
        self.project.write("trial.yaml", json.dumps(recipe))
        self.project.commit()
        self.whole = self.digests(self.start().wait_for(0))

    def start(self, *arguments: str) -> Attempt:
        return Attempt(self, list(arguments) or ["run", "trial.yaml"])

    def digests(self, record: dict[str, Any]) -> dict[tuple[Any, ...], str]:
        found = {
            (entry["epoch"], entry["step"], entry["batch"]): entry["state_digest"]
            for entry in record["checkpoints"]
            if entry["kind"] == "checkpoint"
        }
        return {(-1, 0, None): record["initial"]["state_digest"], **found} if record["initial"] else found

    def record(self, ref: str = "latest") -> dict[str, Any]:
        shown: dict[str, Any] = self.project.json("show", ref)
        return shown

    def killed(self, draw: random.Random) -> str:
        """Start a run and have it killed somewhere; return how."""
        how = draw.choice(["script", "script", "runner", "preempted"])
        self._kill(self.start(), how, draw)
        return how

    def _kill(self, attempt: Attempt, how: str, draw: random.Random) -> None:
        if how == "script":
            self.marker.write_text(str(draw.randint(1, self.case.batches)))
            attempt.process.wait(300)
            self.marker.unlink(missing_ok=True)
            return
        attempt.wait_for_checkpoint()
        time.sleep(draw.uniform(0, 1.5))
        attempt.process.send_signal(signal.SIGKILL if how == "runner" else signal.SIGTERM)
        attempt.process.wait(300)

    def killed_at(self, batch: int) -> dict[str, Any]:
        """Start a run, have its script killed at the call of `maybe_die` of this number, and return its record."""
        self.marker.write_text(str(batch))
        self.start().process.wait(300)
        assert not self.marker.exists(), "it was not killed"
        return self.record()

    def killed_and_resumed(self, batch: int) -> str:
        """Kill a run there, resume it once, compare it with the whole one, and return what it said."""
        run = self.killed_at(batch)["run_id"]
        done = self.project.reprokit("resume", run, patience=300)
        record = self.record()
        assert record["status"] == "finished" and len(record["attempts"]) == 1
        found = self.digests(record)
        assert max(self.whole) == max(found) and len(found) >= 2
        assert {key: self.whole[key] for key in found} == found
        return done.stdout + done.stderr

    def resume_until_done(self, draw: random.Random, *, kills: int) -> dict[str, Any]:
        """Resume the latest run, killing it again up to `kills` times, and return its record."""
        for _ in range(kills):
            if self.record()["status"] == "finished":
                break
            self._kill(self.start("resume", "latest"), draw.choice(["script", "runner", "preempted"]), draw)
        record = self.record()
        return record if record["status"] == "finished" else self.start("resume", record["run_id"]).wait_for(0)


class Attempt:
    """One process of the command line."""

    def __init__(self, trial: Trial, arguments: list[str]) -> None:
        self.trial = trial
        self.process = subprocess.Popen(
            trial.project.command(*arguments),
            cwd=trial.project.root,
            env=trial.project.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def wait_for_checkpoint(self) -> None:
        """Return when the first checkpoint was said to be saved, or the process ended."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("  saved"):
                break

    def wait_for(self, code: int) -> dict[str, Any]:
        out, _ = self.process.communicate(timeout=300)
        assert self.process.returncode == code, out
        return self.trial.record()
