"""A script is run once, and the recipe that is drafted of what it did runs as it stands."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest

from reprokit.execution.drafting.draft import draft
from reprokit.execution.drafting.observe import observe
from reprokit.locking.recipe_file import read_recipe
from reprokit.schema.recipe import Recipe
from tests.conftest import Project

SCRIPT = """\
import argparse, csv, json, os, pathlib
parser = argparse.ArgumentParser()
parser.add_argument("--rate", type=float, default=0.5)
parser.add_argument("--data", default="data/raw")
args = parser.parse_args()
rows = [row for name in sorted(os.listdir(args.data)) for row in csv.reader(open(os.path.join(args.data, name)))]
rows += csv.reader(open("extra.csv"))
settings = json.load(open("settings.json"))
os.makedirs("plots", exist_ok=True)
pathlib.Path("plots/a.txt").write_text(str(len(rows)))
pathlib.Path("model.bin").write_bytes(bytes(len(rows)))
json.dump({"rows": len(rows), "rate": args.rate}, open("metrics.json", "w"))
open("training.log", "w").write("done")
print("saw", len(rows))
"""


@pytest.fixture
def adopted(project: Project) -> Project:
    """A project whose script is in git, with what it reads beside it: some ignored, some tracked."""
    project.write("fit.py", SCRIPT)
    project.write("settings.json", "{}")
    project.write(".gitignore", "data/\nextra.csv\n")
    (project.root / "data" / "raw").mkdir(parents=True)
    for number in range(3):
        project.write(f"data/raw/{number}.csv", f"{number},1\n")
    project.write("data/notes.txt", "not read")
    project.commit()
    project.write("extra.csv", "9,9\n")
    return project


def recipe_of(project: Project, name: str = "fit") -> Recipe:
    return read_recipe(project.root / "recipes" / f"{name}.yaml")


def test_what_a_script_does_becomes_a_recipe_that_reproduces_as_it_stands(adopted: Project) -> None:
    made = adopted.json("init", "fit.py", "--build")
    recipe = recipe_of(adopted)
    assert {name: (item.package, item.entry, item.path) for name, item in recipe.data.items()} == {
        "raw": ("fit/raw", None, "data/raw"),
        "extra": ("fit/extra", "extra.csv", "extra.csv"),
    }
    assert {output.path: output.compare for output in recipe.declared_outputs} == {
        "metrics.json": "values",
        "model.bin": "bytes",
        "plots/a.txt": "lines",
        "training.log": "ignore",
    }
    assert recipe.params == {"rate": 0.5, "data": "data/raw"}
    assert sorted(made["built"]) == ["fit/extra", "fit/raw"]
    assert made["notes"] == []
    ignored = (adopted.root / ".gitignore").read_text()
    assert "/metrics.json\n" in ignored and "/plots/a.txt\n" in ignored and "/data/raw" not in ignored
    adopted.commit()
    record = adopted.json("run", "recipes/fit.yaml")
    assert (record["status"], record["undeclared"]) == ("finished", [])
    assert adopted.json("reproduce", "latest", home="other", cwd=adopted.base)["verdict"] == "BITWISE"


def test_it_says_what_is_next_and_shows_what_the_script_prints(adopted: Project) -> None:
    done = adopted.reprokit("init", "fit.py", "--", "--rate", "0.25", "--extra=x", expect=0)
    assert "fit.py failed" not in done.stdout
    assert "wants arguments" in done.stdout and "unrecognized arguments: --extra=x" in done.stdout
    (adopted.root / "recipes" / "fit.yaml").unlink()
    done = adopted.reprokit("init", "fit.py", "--", "--rate", "0.25")
    assert "saw 4" in done.stderr
    assert "  reprokit package build data/raw fit/raw\n" in done.stdout
    assert done.stdout.endswith("  reprokit run recipes/fit.yaml\n")
    assert recipe_of(adopted).params["rate"] == 0.25


def test_no_run_drafts_from_the_text_alone(adopted: Project) -> None:
    done = adopted.reprokit("init", "fit.py", "--no-run")
    assert not (adopted.root / "metrics.json").exists()
    assert "saw" not in done.stderr
    assert (recipe_of(adopted).data, recipe_of(adopted).params["rate"]) == ({}, 0.5)


def test_where_it_is_called_is_where_the_script_runs(project: Project) -> None:
    folder = project.root / "examples" / "digits"
    folder.mkdir(parents=True)
    (folder / "main.py").write_text("open('here.txt', 'w').write(open('../../shared.txt').read())\n")
    project.write("shared.txt", "1")
    project.commit()
    project.reprokit("init", "main.py", cwd=folder)
    recipe = recipe_of(project, "digits-main")
    assert (recipe.code.entrypoint, recipe.code.workdir) == ("examples/digits/main.py", "examples/digits")
    assert [output.path for output in recipe.declared_outputs] == ["examples/digits/here.txt"]
    project.commit()
    assert project.json("run", "recipes/digits-main.yaml")["status"] == "finished"


def test_data_elsewhere_that_an_option_names_moves_into_the_run(adopted: Project, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "a.csv").write_text("1,2\n")
    adopted.reprokit("init", "fit.py", "--build", "--", "--data", str(elsewhere))
    recipe = recipe_of(adopted)
    assert recipe.params["data"] == "data/elsewhere"
    assert recipe.data["elsewhere"].path == "data/elsewhere"
    adopted.commit()
    record = adopted.json("run", "recipes/fit.yaml")
    assert (record["status"], record["undeclared"]) == ("finished", [])


@pytest.mark.parametrize(
    ("script", "note"),
    [
        ("import no_such_thing\n", "imports no_such_thing, which this environment lacks"),
        ("import inside\n", "imports inside, which lies in this repository"),
        ("raise ValueError('too few')\n", "failed (exit code 1): ValueError: too few"),
        ("open('kept.txt', 'a').write('x')\n", "it changed kept.txt, which git tracks"),
        ("open('small.yaml').read()\n", "it reads small.yaml, which git does not have"),
        ("open('.env').read()\n", "it reads .env, which may hold secrets"),
        ("print(1)\n", "it wrote no file and saves no checkpoint"),
        (f"open({__file__!r}).read()\n", "outside the repository: a run notes that as undeclared"),
    ],
)
def test_what_a_recipe_cannot_mend_is_said(project: Project, script: str, note: str) -> None:
    project.write("fit.py", script)
    project.write("kept.txt", "")
    (project.root / "src" / "inside").mkdir(parents=True)
    project.write("src/inside/part.py", "")
    project.commit()
    project.write("small.yaml", "a: 1")
    project.write(".env", "A=1")
    notes = project.json("init", "fit.py")["notes"]
    assert any(note in text for text in notes), notes


def test_names_that_hold_times_are_no_names_of_outputs(project: Project) -> None:
    project.write(
        "fit.py",
        "import os, time\nfor n in range(2):\n    os.makedirs(f'runs/{time.time_ns()}', exist_ok=True)\n"
        "    open(f'runs/{time.time_ns()}.txt', 'w').write('1')\nos.makedirs('wandb')\nopen('wandb/x', 'w').close()\n",
    )
    project.commit()
    project.reprokit("init", "fit.py")
    assert [(o.path, o.compare) for o in recipe_of(project).declared_outputs] == [("runs/", "ignore")]
    assert "/wandb/\n" in (project.root / ".gitignore").read_text()


def test_a_script_that_goes_on_is_stopped_and_what_was_seen_is_kept(project: Project) -> None:
    project.write(
        "fit.py", "import time\nopen('begun.txt', 'w').write('x')\nprint('begun', flush=True)\ntime.sleep(600)\n"
    )
    project.commit()
    began = time.monotonic()
    notes = project.json("init", "fit.py", "--for", "2")["notes"]
    assert time.monotonic() - began < 60
    assert any("was stopped after" in note for note in notes)
    assert [output.path for output in recipe_of(project).declared_outputs] == ["begun.txt"]


def test_control_c_ends_the_observation_and_not_the_draft(project: Project) -> None:
    project.write(
        "fit.py",
        "import time, sys\nopen('begun.txt', 'w').write('x')\n"
        "try:\n    print('begun', flush=True)\n    time.sleep(600)\n"
        "except KeyboardInterrupt:\n    open('ended.txt', 'w').write('x')\n",
    )
    project.commit()
    process = subprocess.Popen(
        project.command("init", "fit.py", "--json"),
        cwd=project.root, env=project.environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith(b"begun"):
            break
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert json.loads(out)["made"][-1].endswith("recipes/fit.yaml")
    assert sorted(output.path for output in recipe_of(project).declared_outputs) == ["begun.txt", "ended.txt"]


def test_the_callback_is_written_only_when_asked(project: Project) -> None:
    script = (
        "import torch\nmodel = torch.nn.Linear(1, 1)\noptimizer = torch.optim.SGD(model.parameters(), lr=0.1)\n"
        "for epoch in range(2):\n    optimizer.step()\n"
    )
    project.write("fit.py", script)
    project.commit()
    done = project.reprokit("init", "fit.py", "--no-run")
    assert "+for epoch in ckpt.epochs(2):" in done.stdout
    assert (project.root / "fit.py").read_text() == script
    assert "`reprokit init fit.py --callback --no-run`" in project.reprokit("init", "fit.py", expect=3).stderr
    recipe = (project.root / "recipes" / "fit.yaml").read_text()
    project.reprokit("init", "fit.py", "--no-run", "--callback")  # beside the recipe, which stays as it is
    assert (project.root / "recipes" / "fit.yaml").read_text() == recipe
    assert (
        "for epoch in ckpt.epochs(2):\n    optimizer.step()\n    ckpt.save()\n" in (project.root / "fit.py").read_text()
    )


def test_a_script_without_a_place_for_the_callback_is_told_so(project: Project) -> None:
    project.write("plain.py", "print(1)\n")
    project.commit()
    for _ in range(2):  # with the recipe, and beside it
        said = project.reprokit("init", "plain.py", "--no-run", "--callback").stdout
        assert "plain.py has no loop, fit or trainer that lines are known for, or has them: it is as it was." in said
    assert (project.root / "plain.py").read_text() == "print(1)\n"


def test_nothing_of_an_observed_script_reaches_a_registry(project: Project) -> None:
    project.write(
        "fit.py",
        "import numpy as np, reprokit\nreprokit.save_checkpoint({'a': np.ones(1)}, epoch=0)\n",
    )
    project.commit()
    notes = project.json("init", "fit.py")["notes"]
    assert not any("failed" in note for note in notes), notes
    assert project.json("ls") == {"runs": [], "packages": ["t/in"]}


def test_a_notebook_is_not_run(project: Project) -> None:
    (project.root / "nb.ipynb").write_text(
        json.dumps({"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5})
    )
    made = draft("nb.ipynb", folder=project.root, limit=5)
    assert [path.name for path in made.made] == ["nb.yaml"]


def gone(pid: int) -> bool:
    """Wait until a process is no more, but for its parent to hear of it."""
    for _ in range(200):
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.05)
    return False


def test_children_are_watched_and_do_not_outlive_it(tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text("1")
    (tmp_path / "fit.py").write_text(
        "import subprocess, sys\n"
        "subprocess.run([sys.executable, '-c', \"open('in.csv').read()\"], check=True)\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'], stdout=subprocess.DEVNULL)\n"
        "open('pid', 'w').write(str(child.pid))\n"
    )
    seen = observe(["fit.py"], root=tmp_path, folder=tmp_path, limit=30, screen=None)
    assert (seen.exit_code, seen.read, seen.written) == (0, ("in.csv",), ("pid",))
    assert gone(int((tmp_path / "pid").read_text()))
