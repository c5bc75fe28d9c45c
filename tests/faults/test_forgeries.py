"""Somebody with write access changes a run afterwards, and every hash fits: nothing that is stored is believed."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from reprokit.cli.main import cli
from reprokit.comparison.compare_runs import compare_runs, compare_with
from reprokit.comparison.ladder import Terms
from reprokit.comparison.verify import Verification, verify
from reprokit.errors import DataMismatchError, Error, RefusedError
from reprokit.packages.purge import purge
from reprokit.registry import open_registry
from reprokit.registry.context import Context
from reprokit.registry.gc import collect_garbage
from reprokit.runs.listing import Contents, ShownRun, ShownVerdict, ls, show
from reprokit.runs.remove import rm
from reprokit.runs.store import RunStore
from reprokit.runs.transfer import pull
from tests.conftest import LONG, RECIPE, ROOT, SCRIPT, Project
from tests.faults.audit import SCALE
from tests.faults.forgeries import KINDS, Forgery, Honest
from tests.faults.traps import born, executed, surroundings, trap

SEEDS = 1 if SCALE < 10 else 3
NAMES = sorted(KINDS)
ALWAYS = [
    "lock: data", "lock: in every header too", "lock: output ignored", "lock: package fewer",
    "lock: tolerance of weights", "log: newest entry of a package removed", "record: better metric",
    "tensors: others and dropped", "tensors: others under honest digests", "verdicts: of a run that never was",
    "verdicts: of one that diverged",
]  # fmt: skip
DRAWN = sorted({*ALWAYS, *random.Random("forgeries").sample(NAMES, 8)}) if SCALE < 10 else NAMES

JAILED = [
    "traps: a variable that loads code", "traps: a variable that loads code, of the machine",
    "traps: modules from outside", "traps: a working directory outside", "traps: an entrypoint outside",
    "traps: a notebook outside", "traps: an input laid outside", "traps: a part of an input from outside",
    "traps: an output outside", "traps: a package of checkpoints outside",
    "traps: a link in its tree to modules outside", "traps: a link in its tree where outputs lie",
    "traps: a pickle in the checkpoint", "traps: a pickle in the state",
    "traps: a package that is an option of pip",
]  # fmt: skip
"""What is refused by what it says, though nothing contradicts it: the record that there was from the beginning."""
SPRUNG = [
    *[(name, seed, False) for name in NAMES for seed in range(3 if name.startswith("traps") else 1)],
    *[(name, seed, True) for name in JAILED for seed in range(4)],
]
if SCALE < 10:
    SPRUNG = [
        ("traps: another script in its tree", 0, False), (random.Random("sprung").choice(NAMES), 0, False),
        ("traps: a variable that loads code", 0, True), (random.Random("born").choice(JAILED), 1, True),
    ]  # fmt: skip


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory, small: Path) -> Honest:
    project = Project(tmp_path_factory.mktemp("honest"), small)
    project.build()
    run = project.json("run", "recipe.yaml")["run_id"]
    again = project.json("reproduce", run)
    other = project.json("reproduce", run, "--with", "param.rate=0.2", expect=7)
    assert (again["verdict"], other["verdict"]) == ("BITWISE", "DIVERGED")
    return Honest(project.registry, run, again["run_id"], other["run_id"])


@pytest.fixture
def home(tmp_path: Path, honest: Honest, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The copy that is forged lies here; this machine saw it when it was honest."""
    monkeypatch.setenv("REPROKIT_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("REPROKIT_CACHE", str(tmp_path / "cache"))
    assert look(honest.registry).problems == []
    return tmp_path


def look(registry: Path, *refs: str) -> Verification:
    opened = open_registry(str(registry))
    context = Context(home=registry.parent / "home", cache=registry.parent / "cache", registry=opened)
    return verify(refs, context=context, everything=not refs)


def reproduced(registry: Path, honest: Honest) -> str:
    """Return the verdict of a repetition of the run that has the bits of the honest one; or the error instead."""
    opened = open_registry(str(registry))
    runs = RunStore(opened)
    try:
        left, right = runs.load(honest.run), runs.load(honest.again)
        locks = runs.lock(left), runs.lock(right)
        terms = Terms(tolerance=locks[0].recipe.tolerance, relaxed=[], thorough=True)
        return compare_with(left, right, locks, terms, registry=opened).verdict
    except Error as error:
        return type(error).__name__


def test_there_are_kinds_of_everything_that_is_stored() -> None:
    assert len(KINDS) >= 100
    areas = {"record", "lock", "header", "entry", "tensors", "state", "outputs", "metrics", "verdicts", "log", "tags"}
    assert {kind.area for kind in KINDS.values()} == {*areas, "code", "traps"}


def test_an_honest_registry_raises_no_alarm(home: Path, honest: Honest) -> None:
    assert look(honest.registry, honest.run, honest.again, honest.other).problems == []
    assert reproduced(honest.registry, honest) == "BITWISE"
    found = show(honest.run, registry=open_registry(str(honest.registry)))
    assert isinstance(found, ShownRun)
    assert ([one.unsupported for one in found.reproductions], found.amendments) == ([None, None], [])


@pytest.mark.parametrize("seed", range(SEEDS))
@pytest.mark.parametrize("name", DRAWN)
def test_a_forgery_is_found_and_never_reproduced(home: Path, honest: Honest, name: str, seed: int) -> None:
    forged = Forgery(honest, home / "registry", random.Random(f"{name} {seed}"))
    KINDS[name].forge(forged)
    assert look(home / "registry").wrong, "verify --all found nothing"
    if KINDS[name].run:
        assert reproduced(home / "registry", honest) not in ("BITWISE", "TENSOR-TOLERANCE", "METRIC-TOLERANCE")
        try:
            assert look(home / "registry", honest.run).wrong, "verify RUN found nothing"
        except Error as error:
            assert error.message


@pytest.mark.parametrize(("name", "seed", "first"), SPRUNG)
def test_a_forgery_executes_nothing_and_writes_nowhere(
    tmp_path: Path, honest: Honest, small: Path, name: str, seed: int, first: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All that reads a run, and `reproduce` itself; the record is an amendment, or the first that there ever was."""
    for folder in ("user/.config", "tmp", "work", "around"):
        (tmp_path / folder).mkdir(parents=True)
    for file in ("user/.bashrc", "user/.config/x", "around/file", "file", "trap.txt"):
        (tmp_path / file).write_text("mine")
    variables = {
        "HOME": "user", "TMPDIR": "tmp", "REPROKIT_HOME": "home", "REPROKIT_REGISTRY": "registry",
    }  # fmt: skip
    for variable, folder in variables.items():
        monkeypatch.setenv(variable, str(tmp_path / folder))
    monkeypatch.setenv("REPROKIT_CACHE", str(honest.registry.parent / "shared-cache"))  # what is installed is known
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.chdir(tmp_path / "work")
    trap(tmp_path)
    if not first:
        shutil.copytree(honest.registry, tmp_path / "registry", ignore=shutil.ignore_patterns("running", "tmp"))
        assert look(tmp_path / "registry").problems == []  # this machine saw it when it was honest
        shutil.rmtree(tmp_path / "registry")
    forged = Forgery(honest, tmp_path / "registry", random.Random(f"{name} {seed}"))
    KINDS[name].forge(forged)
    if first:
        born(forged)
    around = surroundings(tmp_path, *variables.values(), "work", "marks")
    user, before = surroundings(tmp_path / "user"), forged.runs.ids()
    run, again = honest.run, honest.again
    verbs = [
        f"logs {run}", f"show {run}", "ls", f"ls {run}", f"diff {run} {again}", f"diff {again} {run} --tensors",
        f"checkpoint get {run}@epoch={forged.at} out/stored", f"checkpoint get {run}@last out/one --format safetensors",
        f"export {run} --as report -o out/report.html", f"export {run} --as notebook -o out/n.ipynb",
        f"lineage {run}", f"env check {run}",
    ]  # fmt: skip
    if SCALE >= 10 and ("package" in name or "environment" in name):  # each asks the indexes of pip, for seconds
        verbs += [f"export {run} --as image -o out/image", f"export {run} --as requirements -o out/r.txt"]
    for verb in verbs:
        done = CliRunner().invoke(cli, verb.split(), standalone_mode=False)
        known = done.exception is None or isinstance(done.exception, SystemExit | Error | click.ClickException)
        assert known, (verb, done.exception, done.output)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    repeated = subprocess.run(
        [small, "-m", "reprokit", "reproduce", run, "--json"],
        env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False,
    )  # fmt: skip
    assert repeated.returncode in (0, 2, 3, 4, 5, 6, 7, 8, 10, 11), repeated.stderr
    assert "Traceback" not in repeated.stderr
    assert executed(tmp_path) == []
    assert surroundings(tmp_path, *variables.values(), "work", "marks") == around
    assert {path: said for path, said in surroundings(tmp_path / "user").items() if path in user} == user
    assert {path.name for path in (tmp_path / "work").iterdir()} <= {"out"}
    if KINDS[name].run and not first:
        assert repeated.returncode not in (0, 7), repeated.stdout
        assert forged.runs.ids() == before, "it was executed"
    elif not first and repeated.returncode != 4:  # a log that was rewritten is not written to
        assert json.loads(repeated.stdout)["verdict"] == "BITWISE", repeated.stderr


def test_what_is_wrong_is_said(home: Path, honest: Honest) -> None:
    said = {
        "tensors: others under honest digests": "is not what the version says: expected ",
        "tensors: others under the honest state digest": "claims the state digest ",
        "lock: in every header too": "other lock_hash, lock.json than the finished record before it",
        "lock: tolerance of weights": "record.json: epoch 0: lock_hash is ",
        "record: better metric": "other metrics than the finished record before it",
        "record: dropped": "the record says that it was dropped, and t/model@",
        "verdicts: of a run that never was": "run 20260101-000000-abcdef is not in ",
        "verdicts: of one that diverged": "says otherwise: DIVERGED",
        "log: newest entry of a package removed": "The history of t/model got shorter: it ends with entry ",
        "log: of the verdicts removed": f"The history of verdicts/{honest.run} is gone; this machine saw entry 2",
        "tensors: published beside the run": f"it says that it is of run {honest.run}, whose record does not name it",
    }
    for number, (name, text) in enumerate(said.items()):
        KINDS[name].forge(Forgery(honest, home / f"{number}" / "registry", random.Random(name)))
        messages = [problem.message for problem in look(home / f"{number}" / "registry").problems]
        assert any(text in message for message in messages), (name, messages)


def test_two_runs_with_other_weights_under_one_digest_are_not_equal_in_a_diff(home: Path, honest: Honest) -> None:
    for name in ("tensors: others under honest digests", "tensors: others and dropped"):
        place = home / name[-7:] / "registry"
        KINDS[name].forge(Forgery(honest, place, random.Random(name)))
        registry = open_registry(str(place))
        sides = (RunStore(registry).load(run) for run in (honest.run, honest.again))
        assert compare_runs(*sides, registry=registry, values=False).verdict == "DIVERGED"


@pytest.mark.parametrize("name", ["of a run that never was", "of one that diverged", "of the run itself"])
def test_a_verdict_that_nobody_gave_is_shown_as_such_and_counts_for_nothing(
    home: Path, honest: Honest, name: str
) -> None:
    forged = Forgery(honest, home / "registry", random.Random(name))
    shutil.rmtree(home / "registry" / "log" / "verdicts" / honest.run)
    KINDS[f"verdicts: {name}"].forge(forged)
    registry = open_registry(str(home / "registry"))
    listed = ls(registry=registry)
    assert isinstance(listed, Contents)
    assert [(run.reproduced, run.reproductions) for run in listed.runs] == [(False, 0)] * 3
    found = show(honest.run, registry=registry)
    assert isinstance(found, ShownRun)
    (one,) = found.reproductions
    assert one.verdict == "BITWISE" and one.unsupported
    newest = show(f"verdicts/{honest.run}", registry=registry)
    assert isinstance(newest, ShownVerdict)
    assert newest.plain()["unsupported"] == one.unsupported


def test_what_a_repetition_says_of_itself_is_recomputed_too(home: Path, honest: Honest) -> None:
    KINDS["verdicts: in the record of one that diverged"].forge(Forgery(honest, home / "registry", random.Random(0)))
    listed = ls(registry=open_registry(str(home / "registry")))
    assert isinstance(listed, Contents)
    assert [run.verdict for run in listed.runs] == [None, "BITWISE", "UNSUPPORTED"]
    assert ls(registry=open_registry(str(honest.registry))).runs[2].verdict == "DIVERGED"  # type: ignore[union-attr]


def test_a_record_that_replaces_a_finished_one_is_an_amendment_with_both(home: Path, honest: Honest) -> None:
    forged = Forgery(honest, home / "registry", random.Random(0))
    honest_hash = forged.run.manifest.top_hash
    forged.say(metrics={"loss": 0.001})
    found = show(honest.run, registry=open_registry(str(home / "registry")))
    assert isinstance(found, ShownRun)
    (one,) = found.amendments
    assert (one.before, one.how) == (honest_hash, "other metrics than the finished record before it")
    assert one.after == RunStore(forged.registry).latest(honest.run)
    assert found.plain()["amendments"] == [{"before": one.before, "after": one.after, "how": one.how}]


def test_a_pull_that_would_replace_a_finished_record_is_refused(home: Path, honest: Honest) -> None:
    mine = open_registry(str(home / "mine"))
    pull(honest.run, source=open_registry(str(honest.registry)), target=mine)
    before = RunStore(mine).latest(honest.run)
    forged = Forgery(honest, home / "registry", random.Random(0))
    forged.say(metrics={"loss": 0.001})
    with pytest.raises(RefusedError, match="has other metrics than the finished record before it"):
        pull(honest.run, source=forged.registry, target=mine)
    assert RunStore(mine).latest(honest.run) == before
    pull(honest.run, source=open_registry(str(honest.registry)), target=mine)


def test_a_run_that_was_deleted_and_pulled_again_is_the_same_run(home: Path, honest: Honest) -> None:
    forged = Forgery(honest, home / "registry", random.Random(0))
    mine = open_registry(str(home / "registry"))
    rm(honest.run, registry=mine, force=True)
    assert look(home / "registry").problems == []
    collect_garbage(forged.registry, grace=0)
    pull(honest.run, source=open_registry(str(honest.registry)), target=mine)
    assert look(home / "registry").problems == look(home / "registry", honest.run).problems == []


def test_a_checkpoint_whose_list_outlived_its_tensors_differs_all_the_same(home: Path, honest: Honest) -> None:
    forged = Forgery(honest, home / "registry", random.Random(0))
    digests = {entry.digest for one in range(3) for entry in forged.registry.read_manifest(
        forged.run.record.checkpoints[one].top_hash).entries}  # fmt: skip
    purge(forged.registry, digests, cache=home / "cache", reason="swept")
    registry = open_registry(str(home / "registry"))
    left, right = (RunStore(registry).load(run) for run in (honest.run, honest.other))
    found = compare_runs(left, right, registry=registry)
    assert found.verdict == "DIVERGED"
    assert "its version was deleted: no tensors to compare" in [one.detail for one in found.comparisons]


def test_a_history_that_got_shorter_is_said_by_whoever_reads_it(home: Path, honest: Honest) -> None:
    forged = Forgery(honest, home / "registry", random.Random(0))
    name = f"runs/{honest.run}"
    newest = forged.logged(name)[-1]
    kept = newest.read_bytes()
    newest.unlink()
    registry = open_registry(str(home / "registry"))
    with pytest.raises(DataMismatchError, match="got shorter: it ends with entry 1; this machine saw entry 2"):
        show(honest.run, registry=registry)
    registry.tag(name, registry.top_hashes(name)[0], ("x",))  # what is written on top does not hide it
    with pytest.raises(DataMismatchError, match="was rewritten: entry 2 is another; this machine saw entry 2"):
        registry.log(name)
    forged.logged(name)[-1].unlink()
    newest.write_bytes(kept)
    assert [entry.seq for entry in registry.log(name)] == [1, 2]
    shutil.rmtree(home / "home")  # nothing is known of it any more
    newest.unlink()
    assert [entry.seq for entry in open_registry(str(home / "registry")).log(name)] == [1]


@LONG
def test_honest_runs_of_many_kinds_raise_no_alarm(tmp_path: Path, small: Path) -> None:
    project = Project(tmp_path, small)
    project.build()
    mark = tmp_path / "mark"

    def run(hook: str, recipe: str, *options: str, expect: int = 0) -> str:
        project.write("train.py", SCRIPT.replace("HOOK", hook))
        project.write("recipe.yaml", recipe)
        if not options:
            project.commit()
        return str(project.json("run", "recipe.yaml", *options, expect=expect)["run_id"])

    kept = run("pass", RECIPE.replace("best: {loss: min}", "keep: 1"))
    assert project.json("reproduce", kept)["verdict"] == "BITWISE"
    project.reprokit("verify", "--all")
    project.reprokit("gc", "--grace", "0")
    assert project.json("reproduce", kept)["verdict"] == "BITWISE"
    stops = f"assert epoch < 1 or pathlib.Path({str(mark)!r}).exists()"
    stopped = run(stops, RECIPE.replace("threads: 1", "threads: 1, inputs: 'off'"), expect=6)
    project.reprokit("verify", "--all")
    mark.touch()
    assert len(project.json("resume", stopped)["attempts"]) == 1
    (project.root / "tool.sh").write_text("#!/bin/sh\n")
    (project.root / "tool.sh").chmod(0o755)
    (project.root / "link").symlink_to("tool.sh")
    writes = "pathlib.Path('out/d').mkdir(parents=True, exist_ok=True); pathlib.Path('out/d/x').touch()"
    outputs = "[metrics.json, {path: out, compare: lines}, {path: gone.txt, compare: ignore}]"
    run(writes, RECIPE.replace("[metrics.json]", outputs))
    changed = run("pass", RECIPE + "tolerance: {metrics: {loss: ignore}}\n")
    project.json("reproduce", changed, "--with", "param.rate=0.11", expect=7)
    run("print(epoch)", RECIPE, "--allow-dirty")
    project.reprokit("verify", "--all")
    project.reprokit("push", changed, str(tmp_path / "other"), "--all")
    project.reprokit("verify", "--all", "--registry", str(tmp_path / "other"))


def test_what_was_purged_is_no_alarm(home: Path, honest: Honest) -> None:
    forged = Forgery(honest, home / "registry", random.Random(0))
    digests = {forged.run.manifest[key].digest for key in ("metrics.jsonl", "outputs/metrics.json")}
    purge(forged.registry, digests | {forged.manifest["state.json"].digest}, cache=home / "cache", reason="asked for")
    for refs in ((), (honest.run,), (honest.again,)):
        found = look(home / "registry", *refs)
        assert found.wrong == []
        assert len(found.problems) >= 2
