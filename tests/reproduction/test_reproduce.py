"""Reproductions from nothing but the registry: the verdict, the first divergence, the cause."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from reprokit.core.refs import PackageRef
from reprokit.registry.local import LocalRegistry
from reprokit.runs.store import RunStore
from tests.conftest import RECIPE, SCRIPT, Project, lies_at, overwrite


def test_a_colleague_reproduces_bitwise_from_the_registry_alone(project: Project, tmp_path: Path) -> None:
    record = project.json("run", "recipe.yaml")
    shutil.rmtree(project.root)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    verdict = project.json("reproduce", record["run_id"], home="empty", cwd=elsewhere)
    assert verdict["verdict"] == "BITWISE"
    assert verdict["reproduces"] == record["run_id"]
    assert verdict["relaxed"] == []
    assert verdict["causes"] == []
    repeated = project.json("show", verdict["run_id"])
    assert repeated["lock_hash"] == record["lock_hash"]
    assert repeated["verdicts"][0]["verdict"] == "BITWISE"
    assert verdict["run_id"] in project.reprokit("show", record["run_id"]).stdout


def test_a_reproduction_moves_no_tags(project: Project) -> None:
    record = project.json("run", "recipe.yaml")
    project.json("reproduce", "latest", "--with", "param.rate=0.001", expect=7)
    last = record["checkpoints"][-1]["top_hash"]
    assert project.json("show", "t/model:latest")["top_hash"] == last


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        ("param.rate=0.10000001", "params.rate 0.1 → 0.10000001"),
        ("seed=8", "execution.seed 7 → 8"),
    ],
)
def test_one_changed_value_is_the_cause_and_is_listed(project: Project, change: str, cause: str) -> None:
    project.reprokit("run", "recipe.yaml", "-q")
    verdict = project.json("reproduce", "latest", "--with", change, expect=7)
    assert verdict["verdict"] == "DIVERGED"
    assert verdict["relaxed"] == [change]
    assert cause in verdict["causes"]
    assert verdict["first_divergence"]["epoch"] == 0
    assert verdict["first_divergence"]["tensor"] == "layer.weight"
    assert verdict["first_divergence"]["shape"] == [4, 3]
    assert verdict["first_divergence"]["shard"] == "model/layer.trainable.safetensors"
    assert verdict["first_divergence"]["max_abs"] > 0
    assert verdict["first_divergence"]["elements"] == 12
    assert verdict["first_divergence"]["differing"] > 0
    assert verdict["first_divergence"]["ulp"] > 0
    assert len(verdict["first_divergence"]["index"]) == 2


def test_one_changed_line_is_the_cause(project: Project) -> None:
    project.reprokit("run", "recipe.yaml", "-q")
    project.write("train.py", SCRIPT.replace("HOOK", "weights = weights * (1 if epoch < 1 else 1.5)"))
    verdict = project.json("reproduce", "latest", "--with", "code=.", expect=7)
    assert verdict["relaxed"] == ["code=."]
    assert verdict["causes"][0].startswith("code: train.py changed (tree ")
    assert verdict["first_divergence"]["epoch"] == 2


def test_one_changed_data_byte_is_the_cause_also_through_diff(project: Project) -> None:
    first = project.json("run", "recipe.yaml")
    (project.base / "inputs" / "1.txt").write_text("8\n")
    project.build()
    verdict = project.json("reproduce", first["run_id"], "--with", "data.in=t/in:latest", expect=7)
    assert verdict["causes"][0].startswith("data.in: t/in@")
    assert verdict["causes"][0].endswith(": 1.txt changed")
    second = project.json("run", "recipe.yaml")
    compared = project.json("diff", first["run_id"], second["run_id"])
    assert compared["verdict"] == "DIVERGED"
    assert compared["causes"] == verdict["causes"]


def test_a_relaxed_run_with_equal_bits_is_not_called_bitwise(project: Project) -> None:
    project.reprokit("run", "recipe.yaml", "-q")
    done = project.reprokit("reproduce", "latest", "--with", "env=current", "--with", "threads=2")
    assert "EQUAL, RELAXED" in done.stdout and "tolerance" not in done.stdout and "cause" not in done.stdout
    run = project.json("show", "latest")
    verdict = project.json("reproduce", "latest", "--with", "threads=2")
    assert (verdict["verdict"], verdict["causes"]) == ("EQUAL-RELAXED", [])
    assert verdict["relaxed"] == ["threads=2"]
    assert run["verdicts"][0]["verdict"] == "EQUAL-RELAXED"


@pytest.mark.parametrize(("line", "where"), [
    ("reprokit.log(loss=1.0, chance=float(int.from_bytes(os.urandom(6), 'big')))", "metric chance"),
    ("reprokit.save_checkpoint({}, state={'chance': os.urandom(7).hex()}, epoch=0)", "epoch 0"),
])  # fmt: skip
def test_a_run_of_metrics_or_of_state_alone_diverges_if_these_do(project: Project, line: str, where: str) -> None:
    project.write("train.py", f"import os, reprokit\n{line}\n")
    project.write("recipe.yaml", RECIPE.replace("[metrics.json]", "[]"))
    project.commit()
    project.reprokit("run", "recipe.yaml", "-q")
    verdict = project.json("reproduce", "latest", expect=7)
    assert (verdict["verdict"], verdict["first_divergence"]["what"]) == ("DIVERGED", where)
    assert verdict["first_divergence"]["tensor"] in (None, "state.json:user.chance")
    assert not any(line["result"] == "tolerated" for line in verdict["comparisons"])


def test_a_rerun_that_fails_is_inconclusive(project: Project) -> None:
    marked = project.base / "mark"
    project.write("recipe.yaml", RECIPE.replace("threads: 1", f"threads: 1, variables: {{MARK: {marked}}}"))
    project.write("train.py", SCRIPT.replace("HOOK", "pathlib.Path(os.environ['MARK']).exists() and sys.exit(1)"))
    project.commit()
    project.reprokit("run", "recipe.yaml", "-q")
    marked.touch()
    assert project.json("reproduce", "latest", expect=8)["verdict"] == "INCONCLUSIVE"


def test_a_declared_tolerance_gives_the_lower_rungs(project: Project) -> None:
    project.write("recipe.yaml", RECIPE + "tolerance: {weights: {atol: 1.0e-3}, metrics: {loss: 0.5}}\n")
    project.write("recipe.yaml", (project.root / "recipe.yaml").read_text().replace("[metrics.json]", "[]"))
    project.commit()
    record = project.json("run", "recipe.yaml")
    near = project.json("reproduce", record["run_id"], "--with", "param.rate=0.1000001")
    assert near["verdict"] == "TENSOR-TOLERANCE"
    far = project.json("reproduce", record["run_id"], "--with", "param.rate=0.11")
    assert far["verdict"] == "METRIC-TOLERANCE"


def test_a_flipped_data_byte_in_the_registry_is_a_data_mismatch(project: Project) -> None:
    project.reprokit("run", "recipe.yaml", "-q")
    registry = LocalRegistry(project.registry)
    entry = registry.read_manifest(registry.resolve(PackageRef("t/in")))["1.txt"]
    overwrite(*lies_at(registry, entry), b"7\n")
    done = project.reprokit("reproduce", "latest", home="empty", expect=4)
    assert "1.txt of t/in@" in done.stderr
    assert "is corrupt" in done.stderr


def test_a_record_edited_by_hand_fails_its_hash(project: Project) -> None:
    project.reprokit("run", "recipe.yaml", "-q")
    registry = LocalRegistry(project.registry)
    stored = RunStore(registry).load("latest")
    path, offset = lies_at(registry, stored.manifest["record.json"])
    record = stored.record.encode()
    overwrite(path, offset, record.replace(b'"loss":', b'"lost":'))
    assert "is corrupt" in project.reprokit("show", "latest", expect=4).stderr


def test_another_package_version_exits_5_and_is_named(project: Project, tmp_path: Path) -> None:
    venv = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(venv)], check=True)
    site_packages = next(venv.glob("lib/python*/site-packages"))
    outer = [path for path in sys.path if path.endswith("site-packages")]
    (site_packages / "outer.pth").write_text("\n".join(outer))
    project.python = str(venv / "bin" / "python")
    _install(site_packages, "1.0.0")
    first = project.json("run", "recipe.yaml")
    shutil.rmtree(site_packages / "leftpad_demo-1.0.0.dist-info")
    _install(site_packages, "1.0.1")
    done = project.reprokit("reproduce", "latest", expect=5)
    assert "leftpad-demo 1.0.0 → 1.0.1" in done.stderr
    verdict = project.json("reproduce", "latest", "--with", "env=current")
    assert verdict["relaxed"] == ["env=current"]
    assert verdict["verdict"] == "EQUAL-RELAXED"
    second = project.json("run", "recipe.yaml")
    assert project.json("diff", first["run_id"], second["run_id"])["relaxed"] == [
        "environment: leftpad-demo 1.0.0 → 1.0.1"
    ]


def _install(site: Path, version: str) -> None:
    info = site / f"leftpad_demo-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: leftpad-demo\nVersion: {version}\n")
    (info / "RECORD").write_text(f"leftpad_demo.py,sha256=x,1\n{info.name}/METADATA,,\n")
    (info / "INSTALLER").write_text("pip\n")


def test_what_a_script_cached_for_itself_outside_stands_beside_the_verdict(project: Project) -> None:
    cached = project.base / "cached.npy"
    project.write(
        "train.py",
        SCRIPT.replace(
            "weights = rng.normal(size=(4, 3))",
            f"place = pathlib.Path({str(cached)!r})\n"
            "if not place.exists():\n"
            "    np.save(place, np.random.default_rng().normal(size=(4, 3)))\n"
            "weights = np.load(place)",
        ).replace("HOOK", "pass"),
    )
    project.commit()
    run = project.json("run", "recipe.yaml")
    assert run["undeclared"] == [], "it wrote the file itself"
    done = project.reprokit("reproduce", run["run_id"])
    assert [line.split(maxsplit=1) for line in done.stdout.splitlines()[-2:]] == [
        ["proviso", f"Read without being declared as an input: {cached} (by the second run alone)."],
        ["verdict", "BITWISE, with provisos: every state digest and declared output is equal in every bit"],
    ]
