"""Runs that are nothing alike, and runs that are not whole: a defined verdict or a named error, never BITWISE."""

from __future__ import annotations

import contextlib
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from reprokit.registry.local import LocalRegistry
from reprokit.runs.store import RunStore
from tests.conftest import RECIPE, SCRIPT, Project, lies_at, overwrite
from tests.faults.reproducing import Bench

_SAVE = SCRIPT[SCRIPT.index("    reprokit.save_checkpoint") : SCRIPT.index('    print("epoch"')]
_WRITE = SCRIPT[SCRIPT.index("json.dump(") :]


def _run(project: Project, script: str, recipe: str = RECIPE, *, expect: int = 0) -> str:
    """Run a variant of the script; return the ID of the run."""
    project.write("train.py", script.replace("HOOK", "pass"))
    project.write("recipe.yaml", recipe)
    project.commit()
    return str(project.json("run", "recipe.yaml", expect=expect)["run_id"])


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, small: Path) -> tuple[Project, str]:
    """A project, and the ID of a run that is whole."""
    project = Project(tmp_path_factory.mktemp("unlike"), small)
    project.build()
    return project, _run(project, SCRIPT)


@pytest.mark.slow
def test_two_frameworks_have_different_tensors_and_no_traceback(bench: Bench) -> None:
    pytest.importorskip("torch")
    (bench.base / "inputs").mkdir(exist_ok=True)
    bench.project.build()
    other = bench.project.json("run", "recipe.yaml")["run_id"]
    verdict = bench.diff(bench.original("torch"), other)
    assert (verdict["verdict"], verdict["exit"]) == ("DIVERGED", 0)
    first = verdict["first_divergence"]
    assert first["what"].startswith("initial state")
    assert {"data.images", "data.in"} <= {cause["what"] for cause in verdict["explanations"]}


def test_two_scripts_of_one_tree_differ_in_their_code(runs: tuple[Project, str]) -> None:
    project, _ = runs
    project.write("other.py", SCRIPT.replace("HOOK", "weights = weights * 1.5"))
    project.write("other.yaml", RECIPE.replace("train.py", "other.py"))
    one = _run(project, SCRIPT)
    other = project.json("run", "other.yaml")["run_id"]
    verdict = project.json("diff", one, other)
    assert (verdict["verdict"], verdict["first_divergence"]["what"]) == ("DIVERGED", "epoch 1")
    cause = verdict["explanations"][0]
    assert (cause["weight"], cause["kind"]) == ("likely", "code")
    assert "train.py" in cause["text"] and "other.py" in cause["text"]


def test_a_run_without_checkpoints_against_one_with_them_lacks_each(runs: tuple[Project, str]) -> None:
    project, whole = runs
    without = _run(project, SCRIPT.replace(_SAVE, ""))
    for left, right, side in ((whole, without, "repetition"), (without, whole, "original")):
        verdict = project.json("diff", left, right)
        assert verdict["verdict"] == "DIVERGED"
        assert verdict["first_divergence"]["what"] == f"epoch 0 is missing from the {side}"


def test_a_run_without_checkpoints_is_judged_by_its_outputs(runs: tuple[Project, str]) -> None:
    project, _ = runs
    without = SCRIPT.replace(_SAVE, "")
    verdict = project.json("reproduce", _run(project, without))
    assert verdict["verdict"] == "BITWISE"
    assert [line["what"] for line in verdict["comparisons"] if line["result"] == "match"][-1] == "metrics.json"
    timed = without.replace('"loss": float', '"time": time.time_ns(), "loss": float')
    verdict = project.json("reproduce", _run(project, timed), expect=7)
    assert (verdict["verdict"], verdict["first_divergence"]["what"]) == ("DIVERGED", "output metrics.json")


def test_a_run_that_saves_and_writes_nothing_is_inconclusive(runs: tuple[Project, str]) -> None:
    project, _ = runs
    recipe = RECIPE.replace("[metrics.json]", "[]")
    nothing = _run(project, SCRIPT.replace(_SAVE, "").replace(_WRITE, ""), recipe)
    assert project.json("reproduce", nothing, expect=8)["verdict"] == "INCONCLUSIVE"


def test_a_run_that_failed_is_inconclusive_as_a_repetition_and_never_bitwise_as_an_original(
    runs: tuple[Project, str],
) -> None:
    project, whole = runs
    failing = SCRIPT.replace("HOOK", 'epoch < 1 or sys.exit("no more")')
    failed = _run(project, failing, expect=6)
    assert project.json("diff", whole, failed)["verdict"] == "INCONCLUSIVE"
    verdict = project.json("diff", failed, whole)
    assert verdict["verdict"] not in ("BITWISE", "DIVERGED", "INCONCLUSIVE"), "what the failed one has, the other has"
    assert any("train.py" in text for text in verdict["relaxed"])
    assert verdict["first_divergence"] is None
    counted = next(line for line in verdict["comparisons"] if line["what"] == "checkpoints")
    assert (counted["result"], counted["detail"]) == ("match", "2 of 2 equal in every bit")
    assert project.json("reproduce", failed, expect=8)["verdict"] == "INCONCLUSIVE"


@contextlib.contextmanager
def _running(project: Project, mark: Path) -> Iterator[str]:
    """Start a run that waits after its first epoch; yield its ID while it does."""
    waits = f"while not pathlib.Path({str(mark)!r}).exists(): time.sleep(0.05)"
    project.write("train.py", SCRIPT.replace("HOOK", waits))
    project.write("recipe.yaml", RECIPE.replace("threads: 1", "threads: 1, inputs: 'off'"))
    project.commit()
    before = {run["run_id"] for run in project.json("ls")["runs"]}
    process = subprocess.Popen(project.command("run", "recipe.yaml", "-q"), cwd=project.root, env=project.environment())
    try:
        deadline = time.monotonic() + 30
        new: set[str] = set()
        while not new and time.monotonic() < deadline:
            new = {run["run_id"] for run in project.json("ls")["runs"]} - before
        yield new.pop()
    finally:
        mark.touch()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            raise


def test_a_run_that_still_runs_is_refused_or_inconclusive(runs: tuple[Project, str], tmp_path: Path) -> None:
    project, whole = runs
    with _running(project, tmp_path / "go on") as run:
        assert "is still running" in project.reprokit("reproduce", run, expect=3).stderr
        assert project.json("diff", run, whole)["verdict"] == "INCONCLUSIVE"
        assert project.json("diff", whole, run)["verdict"] == "INCONCLUSIVE"


@pytest.mark.parametrize(
    ("instead", "said"),
    [
        ("", "the repetition does not have it"),
        ('os.mkdir("metrics.json"); open("metrics.json/a", "w").write("1")', "the repetition has a folder there"),
    ],
)
def test_an_output_that_is_missing_or_a_folder_instead_is_named(
    runs: tuple[Project, str], instead: str, said: str
) -> None:
    project, whole = runs
    project.write("train.py", SCRIPT.replace("HOOK", "pass").replace(_WRITE, instead))
    verdict = project.json("reproduce", whole, "--with", "code=.", expect=7)
    assert verdict["verdict"] == "DIVERGED"
    assert verdict["first_divergence"]["what"] == "output metrics.json"
    missing = next(line for line in verdict["comparisons"] if line["what"] == "metrics.json")
    assert (missing["result"], missing["detail"]) == ("missing", said)


def test_nothing_but_nan_equals_itself_and_no_number(runs: tuple[Project, str]) -> None:
    project, whole = runs
    lost = SCRIPT.replace("rng.normal(size=(4, 3))", "np.full((4, 3), np.nan)")
    verdict = project.json("reproduce", _run(project, lost))
    assert verdict["verdict"] == "BITWISE"
    compared = project.json("diff", "--tensors", whole, verdict["run_id"])
    assert compared["verdict"] == "DIVERGED"
    first = compared["first_divergence"]
    assert (first["what"], first["tensor"], first["differing"]) == ("epoch 0", "layer.weight", 12)
    assert (first["max_abs"], first["how"]) == (None, "12 × NaN against a value")


def test_a_tolerance_for_a_value_of_an_output_asks_for_no_metric_of_that_name(runs: tuple[Project, str]) -> None:
    project, _ = runs
    script = SCRIPT.replace('json.dump({"loss": ', 'json.dump({"final": ')
    recipe = RECIPE.replace("[metrics.json]", "[{path: metrics.json, compare: values}]")
    run = _run(project, script, recipe + "tolerance: {metrics: {final: 0.5}}\n")
    assert project.json("reproduce", run)["verdict"] == "BITWISE"


def test_a_record_that_was_edited_by_hand_is_not_compared(runs: tuple[Project, str], tmp_path: Path) -> None:
    project, whole = runs
    copy = tmp_path / "registry"
    shutil.copytree(project.registry, copy, ignore=shutil.ignore_patterns("running"))
    registry = LocalRegistry(copy)
    stored = RunStore(registry).load(whole)
    path, offset = lies_at(registry, stored.manifest["record.json"])
    overwrite(path, offset, stored.record.encode().replace(b'"loss":', b'"lost":'))
    for command in (["reproduce", whole], ["diff", whole, whole], ["reproduce", whole, "--with", "seed=8"]):
        said = project.reprokit(*command, "--registry", str(copy), home="empty", expect=4)
        assert f"record.json of run {whole} is corrupt" in said.stderr
        assert "Traceback" not in said.stderr
