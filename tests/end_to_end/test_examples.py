"""The examples, run at small size as a reader would: their own scripts build their data. Two of them are repeated."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import LONG, ROOT, Project

pytestmark = pytest.mark.slow

_CIFAR = ["-p", "images=100", "-p", "epochs=1", "-p", "batch_size=20"]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A repository with the examples, and nothing of theirs built."""
    made = Project(tmp_path_factory.mktemp("examples"))
    shutil.copytree(ROOT / "examples", made.root / "examples", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / ".gitignore", made.root)
    made.commit()
    return made


def by_python(project: Project, *words: str) -> None:
    """Run a script of an example from the root of the repository."""
    done = subprocess.run(
        [sys.executable, *words], cwd=project.root, env=project.environment(), capture_output=True, text=True,
        timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def run_and_repeat(project: Project, recipe: str, *options: str) -> dict[str, Any]:
    """Return the record of a run whose repetition is equal in every bit, and of which nothing is to be said."""
    record: dict[str, Any] = project.json("run", f"examples/{recipe}", *options, patience=300)
    verdict = project.json("reproduce", record["run_id"], "-y", patience=300)
    assert verdict["verdict"] == "BITWISE", verdict
    odd = [one for one in record["warnings"] if "not declared" in one or "never reached" in one]
    assert not odd
    return record


def test_a_credit_risk_model_is_judged_by_later_months(project: Project) -> None:
    for module in ("sklearn", "xgboost", "pandas", "matplotlib"):
        pytest.importorskip(module, reason=f"{module} is not installed")
    by_python(project, "examples/credit_risk/make_loans.py", "--rows", "4000")
    record = run_and_repeat(project, "credit_risk/credit.yaml", "-p", "rounds=20")
    assert [one["epoch"] for one in record["checkpoints"]] == [19]
    assert record["metrics"]["test_auc"] > 0.7
    assert {one["path"] for one in record["outputs"]} == {
        f"credit/{name}" for name in ("metrics.json", "scorecard.csv", "scores.csv", "curves.csv", "curves.png")
    }


def test_the_notebook_of_a_talk_grows_a_forest(project: Project) -> None:
    for module in ("sklearn", "skops", "nbclient", "ipykernel", "pandas"):
        pytest.importorskip(module, reason=f"{module} is not installed")
    by_python(project, "examples/talk_notebook/make_cells.py")
    record = run_and_repeat(project, "talk_notebook/forest.yaml", "-p", "rounds=2")
    assert record["notebook"] == "notebook/forest.ipynb"
    assert record["metrics"]["out_of_bag"] > 0.9
    assert "forest/forest.joblib" in [one["path"] for one in record["outputs"]]


def test_a_frozen_backbone_is_the_same_in_every_checkpoint(project: Project) -> None:
    pytest.importorskip("torch", reason="the torch extra is not installed")
    first = project.json("run", "examples/frozen_backbone/pretrain.yaml", "-p", "epochs=2", patience=300)
    record = project.json("run", "examples/frozen_backbone/finetune.yaml", "-p", "epochs=2", patience=300)
    assert record["data"][0]["run"].startswith(f"{first['run_id']}@")
    apart = project.json("diff", f"{record['run_id']}@epoch=0", f"{record['run_id']}@last")
    rows = [row for row in apart["tensors"]["rows"] if row["section"] == "model"]
    moved = {row["name"] for row in rows if row["how"] != "equal"}
    assert moved == {"head.weight", "head.bias"}


@pytest.mark.parametrize(
    ("framework", "module"),
    [pytest.param("torch", "torch", marks=LONG), ("tensorflow", "tensorflow"),
     pytest.param("keras", "tensorflow", marks=LONG)],
)  # fmt: skip
def test_cifar_10_in_each_framework(project: Project, framework: str, module: str) -> None:
    pytest.importorskip(module, reason=f"{module} is not installed")
    image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    if not (project.root / "data" / "cifar10").exists():
        _draw_images(image, project.base / "images")
        made = ["examples/cifar10/make_package.py", "--from", str(project.base / "images")]
        by_python(project, *made)
    record = project.json("run", f"examples/cifar10/{framework}.yaml", *_CIFAR, patience=300)
    assert [one["epoch"] for one in record["checkpoints"]] == [0]
    assert record["params"]["images"] == 100 and "accuracy" in record["metrics"]


def _draw_images(image: Any, folder: Path) -> None:
    """Ten classes of plain colours, each image with a square elsewhere."""
    for part, count in (("train", 10), ("test", 2)):
        for number in range(10):
            place = folder / part / f"class{number}"
            place.mkdir(parents=True)
            for index in range(count):
                drawn = image.new("RGB", (32, 32), (25 * number, 255 - 25 * number, 128))
                drawn.paste((255, 255, 255), (index * 2, index * 2, index * 2 + 8, index * 2 + 8))
                drawn.save(place / f"{index:04}.png")
