"""`with reprokit.start_run(…)` and `%load_ext reprokit`, in a real kernel and in a plain script."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

import reprokit
from reprokit.errors import UsageError
from reprokit.registry.local import LocalRegistry
from reprokit.runs.store import RunStore
from tests.conftest import Project
from tests.notebooks import notebook


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


def in_kernel(project: Project, monkeypatch: pytest.MonkeyPatch, *cells: str) -> list[str]:
    """Execute cells in a kernel as Jupyter starts one; return what each printed."""
    for name, value in project.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("IPYTHONDIR", str(project.base / "ipython"))
    found = nbformat.reads(notebook(*cells), as_version=4)
    NotebookClient(
        found, kernel_name="python3", timeout=60, resources={"metadata": {"path": str(project.base)}}
    ).execute()
    return ["".join(o.get("text", "") for o in cell["outputs"]) for cell in found.cells]


def finished(project: Project, name: str) -> dict[str, Any]:
    """Wait for a run of this name to end, and return its record."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        found = [run for run in project.json("ls")["runs"] if run["name"] == name]
        if found and found[0]["status"] != "running":
            record: dict[str, Any] = project.json("show", found[0]["run_id"])
            return record
        time.sleep(0.1)
    raise AssertionError(f"no run {name} ended")


def test_a_block_in_a_notebook_is_a_run_that_says_why_it_cannot_be_reproduced(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    block = (
        "with reprokit.start_run(name='try', params={'rate': 0.5}) as run:\n"
        "    print(reprokit.params(rate=1, other=2))\n"
        "    reprokit.log(accuracy=0.5)\n"
        "    reprokit.save_checkpoint({'w': np.ones(3)}, epoch=0, loss=0.25);"
    )
    after = "print(reprokit.params(rate=1))\nreprokit.save_checkpoint({'w': np.zeros(3)}, epoch=0);"
    printed = in_kernel(
        project, monkeypatch, "import numpy as np, reprokit\nlearned = 1", block, "learned = 2", after,
        "%load_ext reprokit", "%reprokit ls", "%reprokit show nothing",
    )  # fmt: skip
    assert printed[1] == "{'rate': 0.5, 'other': 2}\n"
    assert printed[3] == "{'rate': 1}\n"
    assert " try " in printed[5]
    assert printed[6].startswith("error: Not a run: 'nothing'") or printed[6].startswith("error: No run")
    record = finished(project, "try")
    assert (record["status"], record["params"]) == ("finished", {"rate": 0.5})
    assert record["metrics"] == {"accuracy": 0.5, "loss": 0.25}
    assert len(record["checkpoints"]) == 1
    assert record["warnings"] == [
        "Recorded interactively: its environment is known, but its code and data are not pinned, and it cannot be "
        "reproduced as it is.",
        "The notebook has the cells as they were executed: a recipe that names it makes a run that can be reproduced.",
    ]
    registry = LocalRegistry(project.registry)
    run = RunStore(registry).load(record["run_id"])
    kept = nbformat.reads(registry.read_object(run.manifest["notebook/try.ipynb"], what="it").decode(), as_version=4)
    nbformat.validate(kept)
    assert [cell.source for cell in kept.cells] == ["import numpy as np, reprokit\nlearned = 1", block]
    assert "has no lock" in project.reprokit("reproduce", record["run_id"], expect=3).stderr
    # what was saved outside a block is recorded although the kernel, which ends its children with itself, is gone
    assert finished(project, "ipykernel_launcher")["status"] == "finished"


SCRIPT = """\
import numpy as np, os, reprokit, sys
how = sys.argv[1]
with reprokit.start_run(name="block"):
    reprokit.save_checkpoint({"w": np.ones(3)}, epoch=0)
    if how == "raise":
        raise ValueError("on purpose")
    if how == "die":
        os._exit(9)
    with reprokit.start_run(name="inner"):
        pass
"""


@pytest.mark.parametrize(
    ("how", "status", "failure"),
    [
        ("raise", "failed", "ValueError: on purpose"),
        ("die", "interrupted", "Its process ended inside the block."),
        ("nest", "failed", "RuntimeError: reprokit: a run is being recorded already: "),
    ],
)
def test_a_block_that_does_not_end_well_says_so(project: Project, how: str, status: str, failure: str) -> None:
    file = project.base / "script.py"
    file.write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, file, how], env=project.environment(), cwd=project.base, capture_output=True, check=False
    )
    assert done.returncode != 0
    record = finished(project, "block")
    assert record["status"] == status
    assert record["failure"].startswith(failure)
    assert len(record["checkpoints"]) == 1
    assert record["notebook"] is None


def test_inside_a_run_a_block_is_part_of_it(project: Project) -> None:
    project.write("train.py", "import numpy as np, os, reprokit\n"
                  "with reprokit.start_run(name='block', params={'rate': 9}) as run:\n"
                  "    assert run.run_id == os.environ['REPROKIT_RUN_ID']\n"
                  "    assert reprokit.params()['rate'] == 1\n"
                  "    reprokit.save_checkpoint({'w': np.ones(3)}, epoch=0)\n")  # fmt: skip
    project.write("recipe.yaml", "name: outer\ncode: {entrypoint: train.py}\nparams: {rate: 1}\n")
    project.commit()
    assert len(project.json("run", "recipe.yaml")["checkpoints"]) == 1
    assert len(project.json("ls")["runs"]) == 1


def test_what_is_chosen_is_known_and_json(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"no choice 'sed'; there are params, seed, env, "):
        reprokit.run(tmp_path / "recipe.yaml", sed=1)  # type: ignore[call-arg]
    with pytest.raises(UsageError, match="params: a value is not JSON, NaN or infinite"):
        reprokit.start_run(params={"x": float("nan")})


def test_each_block_is_a_run_whose_first_training_is_the_first(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("sklearn", reason="the sklearn extra is not installed")
    block = (
        "with reprokit.start_run(name='NAME'):\n"
        "    model = SGDClassifier()\n"
        "    ckpt = PackageCheckpoint(estimator=model)\n"
        "    for _ in ckpt.epochs(2):\n"
        "        model.partial_fit(x, y, classes=[0, 1])\n"
        "        ckpt.save()\n"
    )
    in_kernel(
        project,
        monkeypatch,
        "import numpy as np, reprokit\nfrom sklearn.linear_model import SGDClassifier\n"
        "from reprokit.callbacks.sklearn import PackageCheckpoint\nx, y = np.eye(2), [0, 1]",
        block.replace("NAME", "one"),
        block.replace("NAME", "two"),
    )
    for name in ("one", "two"):
        record = finished(project, name)
        assert [(entry["epoch"], entry["step"]) for entry in record["checkpoints"]] == [(0, 1), (1, 2)]
        assert record["initial"] is not None
        assert not any(entry.get("unresumable") for entry in record["checkpoints"])
