"""Of several things that were changed at once, the guilty one is found by running."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.conftest import LONG, Project

_SCRIPT = """\
import json, os, pathlib
import numpy as np
import reprokit

params = reprokit.params(rate=0.1, spare=1, epochs=3)
files = {p.name: p.read_text() for p in sorted(pathlib.Path("data/in").iterdir())}
rng = np.random.default_rng(5)
weights = rng.normal(size=(4, 3))
scale = float(os.environ.get("SCALE", "1"))
for epoch in range(params["epochs"]):
    weights = weights - params["rate"] * scale * (weights - float(files["0.txt"]))
    LINE
    reprokit.save_checkpoint({"w": weights}, epoch=epoch, loss=float(np.square(weights).mean()))
json.dump({"loss": 1.0}, open("metrics.json", "w"))
"""

_RECIPE = """\
name: five
code: {entrypoint: train.py}
data: {in: {package: t/in, path: data/in}}
params: {rate: 0.1, spare: 1, epochs: 3}
execution: {seed: 7, threads: 1}
checkpoints: {package: t/model}
outputs: [metrics.json]
"""

_HARMLESS = ["param.spare=2", "variable.OTHER=1", "threads=2", "data.in=t/in:latest"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, small: Path) -> Project:
    """A run of a script, and after it a version of its data and a tree of its code that are other ones."""
    project = Project(tmp_path_factory.mktemp("bisecting"), small)
    project.build()
    project.write("train.py", _SCRIPT.replace("LINE", "pass"))
    project.write("recipe.yaml", _RECIPE)
    project.commit()
    project.reprokit("run", "recipe.yaml", "-q")
    (project.base / "inputs" / "2.txt").write_text("another\n")
    project.build()
    return project


def _bisected(made: Project, tmp_path: Path, line: str, *changes: str) -> dict[str, object]:
    """Reproduce with all the changes at once, the code's line among them, and return what --bisect found."""
    run = made.json("ls")["runs"][0]["run_id"]
    elsewhere = tmp_path / "code"
    shutil.copytree(made.root, elsewhere)
    (elsewhere / "train.py").write_text(_SCRIPT.replace("LINE", line))
    options = [word for change in (f"code={elsewhere}", *changes) for word in ("--with", change)]
    found: dict[str, object] = made.json("reproduce", run, *options, "--bisect", expect=7)["bisection"]
    return found


@pytest.mark.parametrize(
    ("line", "changes", "guilty"),
    [
        ("pass  # as before", ["param.rate=0.1000001", *_HARMLESS], "param.rate=0.1000001"),
        ("weights = weights * (1 + 1e-9 * (epoch == 1))", _HARMLESS, "code="),
        ("pass  # as before", ["variable.SCALE=1.5", *_HARMLESS], "variable.SCALE=1.5"),
    ],
)
def test_the_guilty_one_of_five_is_named(
    made: Project, tmp_path: Path, line: str, changes: list[str], guilty: str
) -> None:
    found = _bisected(made, tmp_path, line, *changes)
    assert len(found["guilty"]) == 1
    assert found["guilty"][0].startswith(guilty)
    assert "alone makes the difference" in found["conclusion"]
    assert "param.spare=2 changes nothing." in found["conclusion"] or "param.spare=2" not in str(found["trials"])
    trials = found["trials"]
    assert trials[0]["factors"] == [] and trials[0]["equals"] == "original"
    assert trials[-1]["equals"] == "other"
    assert all(len(trial["factors"]) == 1 for trial in trials[1:])


def test_two_that_matter_only_together_are_named_together(made: Project, tmp_path: Path) -> None:
    line = 'weights = weights * (2 if params["spare"] == 2 and "OTHER" in os.environ else 1)'
    # the code is the same on both sides: it is committed, and the original is a run of it
    made.write("train.py", _SCRIPT.replace("LINE", line))
    made.commit()
    run = made.json("run", "recipe.yaml")["run_id"]
    changes = ["param.spare=2", "variable.OTHER=1", "threads=2"]
    options = [word for change in changes for word in ("--with", change)]
    found = made.json("reproduce", run, *options, "--bisect", expect=7)["bisection"]
    assert sorted(found["guilty"]) == ["param.spare=2", "variable.OTHER=1"]
    assert "only together" in found["conclusion"]


def test_two_that_each_change_bits_are_both_guilty(made: Project, tmp_path: Path) -> None:
    found = _bisected(made, tmp_path, "pass", "param.rate=0.2", "variable.SCALE=1.5", "param.spare=2")
    assert sorted(found["guilty"]) == ["param.rate=0.2", "variable.SCALE=1.5"]
    assert found["together"]
    assert "together; each of them changes bits" in found["conclusion"]


_TORCH = """\
import torch
import reprokit
from reprokit.callbacks.pytorch import PackageCheckpoint

p = reprokit.params(lr=0.1, width=8, decay=0.0)
model = torch.nn.Linear(4, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=p["lr"])
x = torch.arange(32.0).reshape(8, 4) / 32
saver = PackageCheckpoint(model=model, optimizer=optimizer)
for epoch in saver.epochs(2):
    loss = (model(x) - 1).square().mean() + p["decay"] * model.weight.square().sum()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    saver.save(loss=loss.item())
"""


@LONG
def test_what_only_settles_the_settings_is_not_blamed_for_the_weights_alone(tmp_path: Path) -> None:
    """The rate stands in the optimiser's state from the start; the decay acts with the first step."""
    project = Project(tmp_path)
    project.write("train.py", _TORCH)
    project.write(
        "recipe.yaml",
        "name: t\ncode: {entrypoint: train.py}\nparams: {lr: 0.1, width: 8, decay: 0.0}\nexecution: {threads: 1}\n",
    )
    project.commit()
    run = project.json("run", "recipe.yaml")["run_id"]
    changes = ["param.lr=0.2", "param.width=9", "param.decay=0.01"]
    options = [word for change in changes for word in ("--with", change)]
    found = project.json("reproduce", run, *options, "--bisect", expect=7)["bisection"]
    assert found["where"] == "initial state"
    assert found["guilty"] == ["param.lr=0.2", "param.decay=0.01"]
    assert "makes the difference at initial state" in found["conclusion"]
    assert "beside param.lr=0.2, makes the difference at epoch 0" in found["conclusion"]


def test_what_does_not_repeat_is_not_blamed_on_anything(made: Project) -> None:
    made.write("train.py", _SCRIPT.replace("LINE", "weights = weights + np.random.default_rng().normal()"))
    made.commit()
    run = made.json("run", "recipe.yaml")["run_id"]
    found = made.json("reproduce", run, "--with", "param.spare=2", "--bisect", expect=7)["bisection"]
    assert found["guilty"] == []
    assert "does not repeat here even unchanged" in found["conclusion"]
    assert len(found["trials"]) == 1


def test_two_runs_that_are_there_already_are_told_apart_by_diff(made: Project) -> None:
    made.write("train.py", _SCRIPT.replace("LINE", "pass"))
    made.commit()
    first = made.json("run", "recipe.yaml")["run_id"]
    made.write("train.py", _SCRIPT.replace("LINE", "pass  # another comment"))
    made.write("recipe.yaml", _RECIPE.replace("rate: 0.1, spare: 1", "rate: 0.2, spare: 3"))
    made.commit()
    second = made.json("run", "recipe.yaml")["run_id"]
    found = made.json("diff", first, second, "--bisect")
    assert found["verdict"] == "DIVERGED"
    assert found["bisection"]["guilty"] == ["param.rate=0.2"]
    said = made.reprokit("diff", first, second, "--bisect", "--explain").stdout
    assert "params.rate 0.1 → 0.2 alone makes the difference at epoch 0: bit for bit." in said
    assert f"try: reprokit reproduce {first} --with param.rate=0.2" in said
    made.write("recipe.yaml", _RECIPE)
    made.commit()
    again = made.json("run", "recipe.yaml")["run_id"]
    assert "there is nothing to look for" in made.reprokit("diff", first, again, "--bisect", expect=3).stderr
    same = made.reprokit("diff", first, first, "--bisect", expect=2)
    assert f"are one run, {first}: it equals itself, which shows nothing" in same.stderr


def test_a_factor_that_cannot_be_tried_by_itself_is_no_reason_to_stop(made: Project) -> None:
    made.write("train.py", _SCRIPT.replace("LINE", 'assert params["spare"] != 2, "not yet"'))
    made.write("recipe.yaml", _RECIPE)
    made.commit()
    first = made.json("run", "recipe.yaml")["run_id"]
    made.write("train.py", _SCRIPT.replace("LINE", 'weights = weights + (params["spare"] == 2)'))
    made.write("recipe.yaml", _RECIPE.replace("spare: 1", "spare: 2"))
    made.commit()
    second = made.json("run", "recipe.yaml")["run_id"]
    found = made.json("diff", first, second, "--bisect")["bisection"]
    assert [trial["equals"] for trial in found["trials"]] == ["original", "original", "nothing", "other"]
    assert found["guilty"] == [f"code={second}", "param.spare=2"]
    assert "only together" in found["conclusion"]


def test_a_parameter_with_an_emoji_is_given_to_a_repetition_as_it_is(tmp_path: Path, small: Path) -> None:
    project = Project(tmp_path, small)
    project.build()
    project.write("train.py", _SCRIPT.replace("LINE", "weights = weights * len(params['word'].encode())"))
    project.write("recipe.yaml", _RECIPE.replace("spare: 1", "spare: 1, word: a"))
    project.commit()
    first = project.json("run", "recipe.yaml")["run_id"]
    second = project.json("run", "recipe.yaml", "-p", "word=😀")["run_id"]
    found = project.json("diff", first, second, "--bisect", "-y")["bisection"]
    assert found["guilty"] == ['param.word="😀"']
    assert [trial["equals"] for trial in found["trials"]] == ["original", "other"]
