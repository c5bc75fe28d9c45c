"""Programs as people write them: killed anywhere and resumed, they end with the bits of a run that was left alone.

Where one cannot, it is refused by name, when it is first saved or when it is resumed, or the record of the resumed run
names the variables that were lost: it never ends with other bits and says nothing. REPROKIT_TEST_SCALE=n kills each
program n times; without it one program is tried once.
"""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import random
import re
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Project, lean

pytestmark = pytest.mark.slow

_SCALE = float(os.environ.get("REPROKIT_TEST_SCALE", "1"))
_SEED = os.environ.get("REPROKIT_TEST_SEED", "1")
_HERE = Path(__file__).parent / "programs"
_NEEDS = {
    "torch": ("torch",), "lightning": ("lightning",), "transformers": ("transformers", "accelerate"),
    "keras": ("keras", "tensorflow", "torch"), "tensorflow": ("tensorflow",), "sklearn": ("sklearn", "skops"),
    "xgboost": ("xgboost",), "lightgbm": ("lightgbm",),
}  # fmt: skip
_EVERYDAY = ("torch_gan",)


@dataclass(frozen=True)
class Program:
    """A script; its docstring says when checkpoints are saved, and how its resumption ends if not in equal bits.

    `refused: TEXT` stands in the message; `loses: NAMES` are the variables that no checkpoint holds.
    """

    name: str

    @property
    def text(self) -> str:
        return (_HERE / f"{self.name}.py").read_text()

    def told(self, what: str, default: str) -> str:
        found = re.search(rf"^{what}: (.+)$", ast.get_docstring(ast.parse(self.text)) or "", re.MULTILINE)
        return found[1] if found else default


PROGRAMS = [Program(file.stem) for file in sorted(_HERE.glob("*_*.py"))]
_DRAWN = [one for one in PROGRAMS if _SCALE > 1 or one.name in _EVERYDAY]


class Trial:
    """A repository with one program, and what its runs leave in the registry."""

    def __init__(self, program: Program, base: Path) -> None:
        self.program = program
        self.project = Project(base)
        self.marker = base / "kill"
        shutil.copy(_HERE / "ticking.py", self.project.root)
        script = program.text
        self.project.write("train.py", lean(script) if program.name.startswith(("keras", "tensorflow")) else script)
        recipe = {
            "name": program.name.replace("_", "-"),
            "code": {"entrypoint": "train.py"},
            "params": {"marker": str(self.marker)},
            "execution": {"seed": 5, "threads": 1},
            "checkpoints": {"every": program.told("every", "1 epoch")},
        }
        self.project.write("recipe.yaml", json.dumps(recipe))
        self.project.commit()

    def reprokit(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self.project.reprokit(*arguments, expect=None, patience=300)

    def record(self, ref: str = "latest") -> dict[str, Any]:
        shown: dict[str, Any] = self.project.json("show", ref)
        return shown

    def ticks(self, run: str) -> int:
        found = re.findall(r"ticks (\d+)$", self.reprokit("logs", run).stdout, re.MULTILINE)
        return int(found[-1])

    def killed(self, at: int, draw: random.Random) -> dict[str, Any]:
        """Start the program, kill it at that tick or the runner some time after its first checkpoint; its record."""
        if draw.random() < 0.7:
            self.marker.write_text(str(at))
            self.reprokit("run", "recipe.yaml")
            self.marker.unlink(missing_ok=True)
        else:
            started = subprocess.Popen(
                self.project.command("run", "recipe.yaml"), cwd=self.project.root, env=self.project.environment(),
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            )  # fmt: skip
            assert started.stdout is not None
            for line in started.stdout:
                if line.startswith("  saved"):
                    break
            time.sleep(draw.uniform(0, 0.3))
            started.send_signal(draw.choice([signal.SIGKILL, signal.SIGTERM]))
            started.communicate(timeout=300)
        return self.record()


def _saved(record: dict[str, Any]) -> dict[tuple[Any, ...], str]:
    return {
        (entry["epoch"], entry["step"], entry["batch"]): entry["state_digest"]
        for entry in record["checkpoints"]
        if entry["kind"] == "checkpoint"
    }


@pytest.mark.parametrize("program", [pytest.param(one, id=one.name) for one in _DRAWN])
def test_a_program_is_resumed_to_the_bit_or_refused_by_name(program: Program, tmp_path: Path) -> None:
    for module in _NEEDS[program.name.partition("_")[0]]:
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is not installed: install reprokit's extra for it")
    draw = random.Random(f"{program.name} {_SEED}")
    trial = Trial(program, tmp_path)
    refused, loses = program.told("refused", ""), [name for name in program.told("loses", "").split(", ") if name]
    done = trial.reprokit("run", "recipe.yaml")
    said = done.stdout + done.stderr
    if done.returncode != 0:
        assert refused, said
        assert re.search(refused, said), said
        return
    whole = trial.record()
    saved, ticks = _saved(whole), trial.ticks(whole["run_id"])
    assert len(saved) > 1
    outcomes = []
    for number in range(max(1, round(_SCALE))):
        record = trial.killed(draw.randint(1, ticks), draw)
        if record["status"] == "finished":
            outcomes.append("finished")
            continue
        done = trial.reprokit("resume", record["run_id"])
        said = done.stdout + done.stderr
        if done.returncode != 0:
            assert refused, said
            assert re.search(refused, said), said
            outcomes.append("refused")
            continue
        record = trial.record(record["run_id"])
        assert record["status"] == "finished", said
        found = _saved(record)
        differing = [key for key in saved if key in found and found[key] != saved[key]]
        lost = [name for attempt in record["attempts"] for name in attempt["lost"]]
        if differing and loses:
            assert set(loses) <= set(lost), said
            outcomes.append("told")
            continue
        assert set(lost) <= set(loses), f"{program.name} is said to lose {lost}"
        assert not differing, f"kill {number} of {program.name}: other bits from {differing[0]}\n{said}"
        assert [*found][-1] == [*saved][-1], said
        outcomes.append("equal")
    assert not refused or "refused" in outcomes or "equal" not in outcomes, f"{program.name} is not refused any more"
    again = trial.project.json("reproduce", whole["run_id"], patience=300)
    assert (again["verdict"], again.get("provisos", [])) == ("BITWISE", [])
