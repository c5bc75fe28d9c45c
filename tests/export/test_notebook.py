"""The notebook of a run loads the run's data and best checkpoint when it is executed, by nbclient and a real kernel."""

from __future__ import annotations

import json
from pathlib import Path

import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient

from reprokit.checkpoint.load import load_checkpoint
from reprokit.export.notebook import as_notebook
from reprokit.registry.local import LocalRegistry
from reprokit.runs.store import RunStore
from reprokit.schema.record import CodeFacts
from tests.conftest import Project, put_run


def test_it_loads_the_runs_data_and_best_checkpoint(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    record = project.json("run", "recipe.yaml")
    file = project.base / "run.ipynb"
    project.reprokit("export", record["run_id"], "--as", "notebook", "-o", str(file))
    project.json("run", "recipe.yaml", "-p", "rate=0.5")  # what came later is not what is opened
    found = nbformat.read(file, as_version=4)
    nbformat.validate(found)
    found.cells.append(nbformat.v4.new_code_cell(
        "import json\n"
        "print(json.dumps([params, {k: data['in'][k].read().decode() for k in data['in']},"
        " tensors['layer.weight'].tolist(), checkpoint.facts.run]))"
    ))  # fmt: skip
    for name, value in project.environment("fresh").items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("IPYTHONDIR", str(project.base / "ipython"))
    NotebookClient(found, kernel_name="python3", timeout=60).execute()
    params, data, weights, run = json.loads(found.cells[-1]["outputs"][0]["text"])
    assert params == {"epochs": 3, "rate": 0.1}
    assert data == {"0.txt": "0\n", "1.txt": "1\n", "2.txt": "2\n"}
    assert run == record["run_id"]
    best = load_checkpoint(f"{run}@best:loss", registry=str(project.registry))
    assert np.array_equal(best.tensor("layer.weight"), np.array(weights))


def test_what_a_record_says_never_becomes_code_or_markup(tmp_path: Path) -> None:
    evil = 'x\nimport os; os.abort()  # \'""" <script>alert(1)</script> [a](javascript:alert(1))'
    registry = LocalRegistry(tmp_path / "registry")
    code = CodeFacts(tree="0" * 40, commit=evil)
    record = put_run(registry, "20260102-030405-aaaaaa", name=evil, params={evil: evil}, metrics={evil: 1.0}, code=code)
    run = RunStore(registry).load(record.run_id)
    found = nbformat.reads(as_notebook(run, registry=registry).decode(), as_version=4)
    nbformat.validate(found)
    for cell in found.cells:
        if cell.cell_type == "code":
            assert all(not line.lstrip().startswith("import os") for line in cell.source.splitlines())
            compile(cell.source, "cell", "exec")
        else:
            assert "<script" not in cell.source
            assert "[a]" not in cell.source
    values: dict[str, object] = {}
    exec(next(c.source for c in found.cells if c.id == "parameters"), values)  # noqa: S102 - it is a literal
    assert values["params"] == {evil: evil}


def test_a_run_without_a_lock_or_checkpoints_has_no_cells_for_them(tmp_path: Path) -> None:
    registry = LocalRegistry(tmp_path / "registry")
    put_run(registry, "20260102-030405-aaaaaa")
    run = RunStore(registry).load("latest")
    found = nbformat.reads(as_notebook(run, registry=registry).decode(), as_version=4)
    assert [cell.id for cell in found.cells] == ["run", "registry", "about-parameters", "parameters", "again"]
