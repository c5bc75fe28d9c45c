"""Which of the things that differ would explain what was seen first: on real runs, by `reproduce` and `diff`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from reprokit.comparison.causes import Between, Evidence, Where, causes_between, weigh
from reprokit.schema.lock import CodeIdentity, EnvironmentLock, PipPackage, RunLock
from reprokit.schema.machine import Machine, Numeric
from reprokit.schema.recipe import Execution, from_plain
from reprokit.schema.record import Program, UndeclaredFile
from tests.conftest import SCRIPT, Project


def _causes(verdict: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {cause["what"]: cause for cause in verdict["explanations"]}


def test_code_is_shown_line_by_line_and_files_that_no_run_imported_do_not_count(project: Project) -> None:
    project.write("spare.py", "x = 1\n")
    project.commit()
    run = project.json("run", "recipe.yaml")
    assert (run["code"]["imported"], run["code"]["opened"]) == (["train.py"], [])
    project.write("spare.py", "x = 2\n")
    verdict = project.json("reproduce", run["run_id"], "--with", "code=.", "--with", "param.rate=0.2", expect=7)
    assert verdict["causes"][0] == "params.rate 0.1 → 0.2"
    idle = _causes(verdict)["code"]
    assert idle["weight"] == "unlikely"
    assert idle["why"] == "what differs are comments, layout, and files that neither run imported or opened"
    assert idle["lines"] == ["--- spare.py", "+++ spare.py", "@@ -1 +1 @@", "-x = 1", "+x = 2"]
    project.write("train.py", SCRIPT.replace("HOOK", "weights = weights * (1 if epoch < 1 else 1.5)"))
    verdict = project.json("reproduce", run["run_id"], "--with", "code=.", expect=7)
    assert verdict["causes"][0].startswith("code: train.py changed, spare.py changed")
    late = _causes(verdict)["code"]
    assert late["weight"] == "likely"
    assert "everything before epoch 2 is equal in every bit: code can act late" in late["why"]
    assert "+    weights = weights * (1 if epoch < 1 else 1.5)" in late["lines"]


def test_a_file_of_the_tree_counts_if_the_script_reads_it_and_comments_do_not(project: Project) -> None:
    project.write("scale.yaml", "2.0\n")
    project.write("notes.md", "Nothing\n")
    project.hook('weights = weights * float(open("scale.yaml").read())')
    run = project.json("run", "recipe.yaml")
    assert run["code"]["opened"] == ["scale.yaml"]
    project.write("notes.md", "Something\n")
    project.write("train.py", (project.root / "train.py").read_text() + "\n# a comment\n")
    idle = project.json("reproduce", run["run_id"], "--with", "code=.", "--with", "param.rate=0.2", expect=7)
    assert _causes(idle)["code"]["weight"] == "unlikely"
    assert idle["causes"][0] == "params.rate 0.1 → 0.2"
    project.write("scale.yaml", "2.5\n")
    verdict = project.json("reproduce", run["run_id"], "--with", "code=.", expect=7)
    assert verdict["causes"][0].startswith("code: scale.yaml changed, ")
    assert _causes(verdict)["code"]["weight"] == "likely"


def test_what_is_executed_and_when_checkpoints_are_saved_are_causes_too(project: Project) -> None:
    project.write("other.py", (project.root / "train.py").read_text().replace("(4, 3)", "(4, 2)"))
    recipe = (project.root / "recipe.yaml").read_text()
    project.write("other.yaml", recipe.replace("train.py", "other.py"))
    project.write("named.yaml", recipe.replace("name: tiny", "name: renamed"))
    project.commit()
    first, second, third = (project.json("run", f"{name}.yaml")["run_id"] for name in ("recipe", "other", "named"))
    compared = project.json("diff", first, second)
    assert compared["causes"] == ["recipe.code.entrypoint 'train.py' → 'other.py'"]
    assert compared["explanations"][0]["weight"] == "likely"
    same = project.json("diff", first, third)
    assert (same["verdict"], same["causes"]) == ("EQUAL-RELAXED", [])
    assert same["relaxed"] == ["recipe.name 'tiny' → 'renamed'"]


def test_data_cannot_explain_a_late_difference_as_well_as_code(project: Project) -> None:
    project.hook("weights = weights + 0 * data.sum()")
    run = project.json("run", "recipe.yaml")
    (project.base / "inputs" / "1.txt").write_text("1\n\n")  # the same number
    project.build()
    project.write("train.py", SCRIPT.replace("HOOK", "weights = weights * (1 + 1e-15 * epoch)"))
    changes = ["--with", "code=.", "--with", "data.in=t/in:latest"]
    verdict = project.json("reproduce", run["run_id"], *changes, expect=7)
    assert verdict["causes"][0].startswith("code: ")
    data = _causes(verdict)["data.in"]
    assert data["weight"] == "unlikely"
    assert data["lines"] == ["~ 1.txt"]
    assert data["factor"]["option"].startswith("data.in=t/in@")


def test_an_undeclared_file_that_changed_is_the_cause(project: Project, tmp_path: Path) -> None:
    outside = tmp_path / "offset.txt"
    outside.write_text("0.5")
    project.hook(f"weights = weights + float(open({str(outside)!r}).read())")
    run = project.json("run", "recipe.yaml")
    assert [(file["path"], file["size"]) for file in run["undeclared"]] == [(str(outside), 3)]
    outside.write_text("0.6")
    verdict = project.json("reproduce", run["run_id"], expect=7)
    assert verdict["causes"] == [f"inputs: {outside} changed between the runs, and is not declared"]
    assert verdict["explanations"][0]["weight"] == "likely"
    outside.write_text("0.5")
    again = project.json("reproduce", run["run_id"])
    assert (again["verdict"], again["rung"]) == ("BITWISE, with provisos", "BITWISE")
    assert again["provisos"] == [f"Read without being declared as an input: {outside}."]
    found = project.json("ls", "--where", "verdict == 'BITWISE, with provisos'")
    assert again["run_id"] in str(found) and run["run_id"] not in [row["run_id"] for row in found["runs"]]
    for shown in (("show", run["run_id"]), ("show", again["run_id"]), ("show", f"verdicts/{run['run_id']}")):
        text = project.reprokit(*shown).stdout
        assert "BITWISE, with provisos" in text and str(outside) in text and "UNSUPPORTED" not in text
    said = project.reprokit("diff", run["run_id"], again["run_id"]).stdout.splitlines()
    assert said[-2:] == [f"  proviso      {again['provisos'][0]}", "  verdict      BITWISE, with provisos"]


def test_a_generator_that_nothing_seeds_is_unexplained_and_is_said_so(project: Project) -> None:
    text = SCRIPT.replace('default_rng(int(os.environ["PYTHONHASHSEED"]))', "default_rng()").replace("HOOK", "pass")
    project.write("train.py", text)
    project.commit()
    run = project.json("run", "recipe.yaml")
    verdict = project.json("reproduce", run["run_id"], expect=7)
    assert verdict["causes"] == [
        "unexplained: code, environment, data, params, execution and numeric class are the same"
    ]
    assert "a generator that nothing seeds" in verdict["explanations"][0]["why"]
    assert verdict["first_divergence"]["epoch"] == 0


def test_an_output_alone_is_not_blamed_on_the_seed(project: Project) -> None:
    run = project.json("run", "recipe.yaml")
    text = SCRIPT.replace("HOOK", "pass").replace('{"loss":', '{"more": 1, "loss":')
    project.write("train.py", text)
    verdict = project.json("reproduce", run["run_id"], "--with", "code=.", expect=7)
    assert verdict["first_divergence"]["what"] == "output metrics.json"
    code = verdict["explanations"][0]
    assert (code["kind"], code["weight"], code["why"]) == ("code", "likely", "every checkpoint is equal in every bit")


def test_a_switch_is_named_by_itself_and_can_be_tried(project: Project) -> None:
    project.hook("weights = weights + len(os.environ.get('MKL_CBWR', ''))")
    run = project.json("run", "recipe.yaml")
    verdict = project.json("reproduce", run["run_id"], "--with", "variable.MKL_CBWR=COMPATIBLE", expect=7)
    cause = _causes(verdict)["execution.variables.MKL_CBWR"]
    assert not any(what.startswith("machine.") for what in _causes(verdict)), "what comes of a switch is no cause"
    assert cause["text"] == "execution.variables.MKL_CBWR unset → COMPATIBLE (numeric class differs)"
    assert cause["factor"]["option"] == "variable.MKL_CBWR=COMPATIBLE"
    recipe = (project.root / "recipe.yaml").read_text()
    project.write("recipe.yaml", recipe.replace("threads: 1", "threads: 1, variables: {MKL_CBWR: COMPATIBLE}"))
    project.commit()
    other = project.json("run", "recipe.yaml")
    unset = project.json("reproduce", other["run_id"], "--with", "variable.MKL_CBWR=", expect=7)
    assert _causes(unset)["execution.variables.MKL_CBWR"]["text"].startswith(
        "execution.variables.MKL_CBWR COMPATIBLE → "
    )


def test_code_and_environment_of_another_run_can_be_given(project: Project) -> None:
    first = project.json("run", "recipe.yaml")
    project.hook("weights = weights * 2")
    second = project.json("run", "recipe.yaml")
    compared = project.json("diff", first["run_id"], second["run_id"])
    code = _causes(compared)["code"]
    assert code["factor"]["option"] == f"code={second['run_id']}"
    given = project.json("reproduce", first["run_id"], "--with", code["factor"]["option"], expect=7)
    repeated = project.json("show", given["run_id"])
    assert [c["state_digest"] for c in repeated["checkpoints"]] == [c["state_digest"] for c in second["checkpoints"]]
    assert repeated["code"]["tree"] == second["code"]["tree"]
    same = project.json("reproduce", first["run_id"], "--with", f"env={second['run_id']}")
    assert same["verdict"] == "EQUAL-RELAXED"
    gone = project.reprokit("reproduce", first["run_id"], "--with", "code=nowhere/at/all", expect=2)
    assert "there is no such folder, and it names no run" in gone.stderr


def test_explain_prints_why_the_lines_and_the_experiment(project: Project) -> None:
    run = project.json("run", "recipe.yaml")
    project.hook("weights = weights * 2")
    said = project.reprokit("reproduce", run["run_id"], "--with", "code=.", "--explain", expect=7).stdout
    assert "likely    code: train.py changed" in said
    assert "+    weights = weights * 2" in said
    assert f"try: reprokit reproduce {run['run_id']} --with code=" in said


def test_nothing_that_a_stranger_named_reaches_the_terminal_as_it_is(project: Project, tmp_path: Path) -> None:
    outside = tmp_path / "\x1b[2J\u202e.txt"
    outside.write_text("0.5")
    project.hook(f"weights = weights + float(open({str(outside)!r}).read())  # \x1b[31m")
    run = project.json("run", "recipe.yaml")
    outside.write_text("0.6")
    said = project.reprokit("reproduce", run["run_id"], "--explain", expect=7).stdout
    assert r"\x1b[2J\u202e.txt changed between the runs" in said
    assert "\x1b" not in said and "\u202e" not in said


def _lock(rate: float = 0.1, threads: int = 1, variables: dict[str, str] | None = None, numpy: str = "2.0") -> RunLock:
    return RunLock(
        recipe=from_plain({"name": "t", "code": {"entrypoint": "t.py"}}),
        code=CodeIdentity(tree="0" * 40),
        environment=EnvironmentLock(
            python="3.11", implementation="CPython", platform="linux-x86_64",
            pip=[PipPackage(name="numpy", version=numpy)],
        ),
        data=[],
        params={"rate": rate},
        execution=Execution(threads=threads, variables=variables or {}),
    )  # fmt: skip


def _machine(kernel: str, cpu: str = "one", mkldnn: bool = True, **variables: str) -> Machine:
    torch = {"version": "2", "mkldnn": mkldnn, "capability": kernel}
    told = {"cpu": cpu, "torch": torch, "fingerprint": {"version": 1, "torch": {"linear": kernel}}}
    return Machine(numeric=Numeric.told({**told, "variables": variables}))


@pytest.mark.parametrize(("lock", "other", "named"), [
    (_lock(), _machine("b" * 12), ["machine.torch", "machine.torch.capability"]),
    (_lock(threads=2), _machine("b" * 12), ["execution.threads"]),
    (_lock(variables={"MKL_CBWR": "COMPATIBLE"}), _machine("b" * 12, MKL_CBWR="COMPATIBLE"),
     ["execution.variables.MKL_CBWR"]),
    (_lock(numpy="2.1"), _machine("b" * 12), ["environment.numpy"]),
    (_lock(threads=2), _machine("b" * 12, cpu="other"), ["execution.threads", "machine.cpu"]),
    (_lock(rate=0.2), _machine("b" * 12), ["params.rate", "machine.torch", "machine.torch.capability"]),
    (_lock(rate=0.2), _machine("b" * 12, mkldnn=False), ["params.rate", "machine.torch.capability"]),
    (_lock(), _machine("a" * 12, mkldnn=False), ["machine.torch.mkldnn"]),
])  # fmt: skip
def test_what_comes_of_another_difference_is_no_cause_of_its_own(
    lock: RunLock, other: Machine, named: list[str]
) -> None:
    found = causes_between(_lock(), lock, Between(machines=(_machine("a" * 12), other)))
    assert [cause.what for cause in found] == named


def test_a_module_from_elsewhere_that_changed_is_a_likely_cause_wherever_bits_differ_and_a_program_a_possible_one() -> (
    None
):
    module = [UndeclaredFile(path="/o/m.py", kind="module", size=1, digest=digest * 64) for digest in "ab"]
    programs = [Program(path="/usr/bin/x", size=size) for size in (1, 2)]
    between = Between(undeclared=(module[:1], module[1:]), programs=(programs[:1], programs[1:]))
    places: list[Where] = ["initial", "first", "later", "outputs", "metrics", "missing"]
    for where in places:
        told = weigh(causes_between(None, None, between), Evidence(where=where, first=None, checkpoints=True))
        assert told[0].text == "inputs: the module /o/m.py changed between the runs, and is not declared"
        assert (told[0].weight, told[0].kind) == ("likely", "inputs")
        assert told[1].text == "inputs: the program /usr/bin/x changed between the runs"
    assert causes_between(None, None, Between(undeclared=(module[:1], module[:1]))) == []


@pytest.mark.parametrize("by", ["first", "second"])
def test_a_program_that_one_run_alone_started_is_a_cause(by: str) -> None:
    sides = [Program(path="/usr/bin/x", size=1)], []
    between = Between(programs=sides if by == "first" else sides[::-1])
    (cause,) = causes_between(None, None, between)
    assert cause.text == f"inputs: the program /usr/bin/x was started by the {by} run alone"
    assert (cause.what, cause.kind) == ("inputs.program./usr/bin/x", "inputs")
