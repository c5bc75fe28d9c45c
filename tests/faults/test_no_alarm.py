"""Honest runs over all frameworks, whatever became of them: `verify` says nothing of any.

REPROKIT_TEST_SCALE=10 makes more than two hundred: trainings with drawn settings, each repeated, repeated with
something relaxed, and killed and resumed. REPROKIT_TEST_SCALE=2 makes one of each family.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from reprokit.comparison.verify import verify
from reprokit.registry.context import Context
from reprokit.registry.local import LocalRegistry
from reprokit.runs.store import RunStore
from tests.conftest import LONG, SCALE
from tests.faults.families import BOOSTING, FAMILIES, Family, scripts_to
from tests.faults.reproducing import Bench

pytestmark = [pytest.mark.slow, LONG]

_SEED = int(os.environ.get("REPROKIT_TEST_SEED", "1"))
_RELAXED = [("seed=3",), ("threads=1",), ("variable.MARK=1",), ("determinism=seeded",), ("env=current",)]


class _Honest:
    """A bench whose runs are verified as soon as they are there."""

    def __init__(self, base: Path) -> None:
        self.bench = Bench(base)
        self.project = self.bench.project
        self.alarms: list[str] = []
        self.runs: set[str] = set()
        self.killed = 0
        scripts_to(self.project.root)

    def look(self, run_id: str, how: str) -> None:
        """Verify a run as an auditor would, with what this machine saw of the registry before."""
        found = verify([run_id], context=self.context())
        self.runs.add(run_id)
        self.alarms += [f"{how}: {problem.message}" for problem in found.problems]

    def context(self) -> Context:
        home = self.project.base / "home"
        return Context(home=home, cache=home / "cache", registry=LocalRegistry(self.project.registry))

    def made(self, number: int, name: str, family: Family) -> None:
        """Run a training, repeat it twice, and kill and resume it; look after each."""
        draw = random.Random(f"{name} {number} {_SEED}")
        recipe = {**family.recipe(draw), "name": f"honest-{number}"}
        how = f"{name}, {recipe['execution']['threads']} threads, {json.dumps(recipe['params'])}"
        marker = self.project.base / f"kill-{number}"
        if family.can_be_killed:
            recipe["params"]["marker"] = str(marker)
        self.project.write(f"{number}.yaml", json.dumps(recipe))
        run = self.project.json("run", f"{number}.yaml", "--allow-dirty", patience=900)["run_id"]
        self.look(run, how)
        empty = f"empty-{number}"
        again = self.bench.said("reproduce", run, home=empty)
        self.look(again["run_id"], f"a repetition of {how}: {again['verdict']}")
        shutil.rmtree(self.bench.base / empty)
        shutil.rmtree(self.bench.base / f"{empty}-cache")
        relaxed = draw.choice(_RELAXED)
        other = self.bench.said("reproduce", run, *[part for one in relaxed for part in ("--with", one)])
        self.look(other["run_id"], f"relaxed by {relaxed}, {how}: {other['verdict']}")
        self.look(run, f"{how}, repeated")
        if family.can_be_killed:
            self.interrupted(number, how, marker, draw)

    def interrupted(self, number: int, how: str, marker: Path, draw: random.Random) -> None:
        """Kill a run, its script or its runner too; look at what is left, resume it, and look again."""
        marker.write_text(str(draw.randint(2, 6)))
        at_once = draw.random() < 0.5
        before = self.named(number)
        command = self.project.command("run", f"{number}.yaml", "--allow-dirty", "-q")
        where = {"cwd": self.project.root, "env": self.project.environment(), "start_new_session": True}
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **where) as process:
            if at_once:
                while marker.exists() and process.poll() is None:
                    time.sleep(0.02)
                with contextlib.suppress(ProcessLookupError):  # it may have come to its end at this moment
                    os.killpg(process.pid, signal.SIGKILL)
            process.wait(900)
        marker.unlink(missing_ok=True)
        (run,) = self.named(number) - before
        self.project.reprokit("ls", run)  # whatever comes next completes the record of a run whose runner was killed
        self.look(run, f"killed, {'with its runner, ' if at_once else ''}{how}")
        self.killed += 1
        record = RunStore(LocalRegistry(self.project.registry)).load(run).record
        if record.status != "finished":
            self.project.reprokit("resume", run, "-q", patience=900)
            self.look(run, f"resumed, {how}")

    def named(self, number: int) -> set[str]:
        """Return the runs of a training that nobody repeats."""
        found = RunStore(LocalRegistry(self.project.registry)).summaries()
        return {one.run for one in found if one.name == f"honest-{number}" and one.reproduces is None}


def test_honest_runs_raise_no_alarm(tmp_path: Path) -> None:
    honest = _Honest(tmp_path)
    families = [(name, family) for name, family in (FAMILIES | BOOSTING).items() if family.is_possible]
    rounds = max(1, round(SCALE / 2))
    began = time.monotonic()
    with ThreadPoolExecutor(2) as pool:
        todo = [
            pool.submit(honest.made, number, *families[number % len(families)])
            for number in range(rounds * len(families))
        ]
        for one in todo:
            one.result()
    for run_id in sorted(honest.runs):
        honest.look(run_id, "at the end")
    found = verify(everything=True, context=honest.context())
    honest.alarms += [f"verify --all: {problem.message}" for problem in found.problems]
    count, seconds = len(honest.runs), time.monotonic() - began
    print(f"{count} honest runs, {honest.killed} killed: {len(honest.alarms)} alarms, {seconds / count:.1f} s a run")
    assert honest.alarms == []
    assert len(honest.runs) >= (200 if SCALE >= 10 else 3 * len(families))
