"""Which parameters reached a script: by its own asking, or unasked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from reprokit.execution.asked import Asked
from reprokit.registry.local import LocalRegistry
from reprokit.runs.store import RunStore
from reprokit.schema.lock import RunLock
from tests.comparison.making import locked
from tests.conftest import Project
from tests.notebooks import notebook

SCRIPT = """\
import argparse, pathlib
import reprokit

parser = argparse.ArgumentParser()
parser.add_argument("--lr", type=float, default=0.01)
momentum = reprokit.params()["momentum"] if "momentum" in reprokit.params() else 0
pathlib.Path("out.txt").write_text(f"lr={parser.parse_args().lr} momentum={momentum}\\n")
"""
RECIPE = """\
name: tiny
code: {entrypoint: train.py}
params: {lr: 0.01, momentum: 0.9}
outputs: [out.txt]
"""


def lock(*, code: dict[str, Any] | None = None, **execution: Any) -> RunLock:
    recipe = {"code": code or {"entrypoint": "t.py"}, "params": {"lr": 0.5, "depth": 3}, "execution": execution}
    return locked(recipe=recipe, params={"lr": 0.5, "depth": 3})


@pytest.mark.parametrize(
    ("notes", "made", "unused"),
    [
        ("", lock(), ["lr", "depth"]),
        ("P lr\n", lock(), ["depth"]),
        ("P lr\nP other\nX depth\nP dep", lock(), ["depth"]),
        ("", lock(params="flags"), []),
        ("V 00 REPROKIT_PARAM_LR\n", lock(params="variables"), ["depth"]),
        ("V 00 REPROKIT_PARAM_LR\nW sh\n", lock(params="variables"), []),
        ("", lock(params="variables", inputs="off"), []),
        ("", lock(code={"command": ["sh", "t.sh"]}, params="variables"), []),
        ("P depth\n", lock(code={"command": ["sh", "-c", "echo {params.lr}"]}), []),
        ("", lock(code={"command": ["sh", "train.sh"]}), ["lr", "depth"]),
    ],
)
def test_a_parameter_is_unused_that_reached_the_script_in_no_way(
    notes: str, made: RunLock, unused: list[str], tmp_path: Path
) -> None:
    (tmp_path / "asked.txt").write_text(notes)
    assert Asked.read(tmp_path / "asked.txt").unused(made, tmp_path) == unused


@pytest.mark.parametrize(("tag", "unused"), [("parameters", []), ("other", ["lr", "depth"])])
def test_of_a_notebook_the_cell_of_parameters_gives_them(tag: str, unused: list[str], tmp_path: Path) -> None:
    (tmp_path / "t.ipynb").write_text(notebook(("lr = 1", tag)))
    assert Asked.read(tmp_path / "none").unused(lock(code={"notebook": "t.ipynb"}), tmp_path) == unused


def test_a_run_says_which_parameters_never_reached_it(project: Project) -> None:
    project.write("train.py", SCRIPT)
    project.write("recipe.yaml", RECIPE)
    project.commit()
    first = project.json("run", "recipe.yaml", "-p", "lr=0.5")
    assert first["unused"] == ["lr"]
    assert first["warnings"][0].startswith(
        "Parameters never reached the script: lr. It gets them by `reprokit.params()`"
    )
    assert "lr=0.5 (unused)  momentum=0.9\n" in project.reprokit("show", "latest").stdout
    verdict = project.json("reproduce", "latest", "--with", "param.lr=0.25")
    assert verdict["rung"] == "EQUAL-RELAXED"
    assert verdict["provisos"] == ["Parameters differ that never reached the script: lr."]
    told = {row["what"]: row["detail"] for row in verdict["comparisons"]}
    assert told["params.lr"].startswith(
        "0.5 → 0.25 changes nothing: every bit is equal, and it never reached the script"
    )
    project.write("recipe.yaml", RECIPE + "execution: {params: flags, flags: {momentum: bare}}\n")
    project.write("train.py", SCRIPT.replace("momentum =", "parser.add_argument('more'); momentum ="))
    project.commit()
    flagged = project.json("run", "recipe.yaml", "-p", "lr=0.5")
    assert flagged["unused"] == []
    assert RunStore(LocalRegistry(project.registry)).load(flagged["run_id"]).manifest["outputs/out.txt"].size == len(
        "lr=0.5 momentum=0.9\n"
    )
