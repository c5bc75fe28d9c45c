"""Which differences of two locks, machines and undeclared files are causes, how each is told, and what gives it."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from reprokit.comparison.causes import Between, causes_between
from reprokit.schema.factor import Factor
from reprokit.schema.lock import CodeIdentity, CondaPackage, DataPin, EnvironmentLock, PipPackage, RunLock
from reprokit.schema.machine import Machine, Numeric
from reprokit.schema.manifest import ManifestDiff
from reprokit.schema.recipe import Execution
from reprokit.schema.record import UndeclaredFile
from reprokit.schema.verdict import Cause
from tests.comparison.making import locked

OTHER = "20260102-030405-bbbbbb"
TREE = CodeIdentity(tree="d" * 40)
IDLE = "what differs are comments, layout, and files that neither run imported or opened"
UNSEEN = "no file that differs was imported by either run; whether one was read is not known"


def diff(*changed: str, added: tuple[str, ...] = (), removed: tuple[str, ...] = ()) -> ManifestDiff:
    return ManifestDiff(added=added, removed=removed, changed=changed)


def found(lock: RunLock, **between: Any) -> list[Cause]:
    return causes_between(locked(), lock, Between(**between))


def only(lock: RunLock, **between: Any) -> Cause:
    (cause,) = found(lock, **between)
    return cause


def test_of_equal_locks_nothing_is_a_cause_and_without_locks_what_was_read_and_the_machine_are() -> None:
    assert found(locked(), other=OTHER) == []
    undeclared = ([UndeclaredFile(path="/f", size=1, digest="1")], [])
    machines = (Machine(numeric=Numeric(cpu="one")), Machine(numeric=Numeric(cpu="other")))
    for locks in ((None, locked()), (locked(), None), (None, None)):
        told = causes_between(*locks, Between(undeclared=undeclared, machines=machines, code=diff("code/a.py")))
        assert [cause.what for cause in told] == ["inputs./f", "machine.cpu"]


@pytest.mark.parametrize(
    ("code", "between", "told"),
    [
        (diff("code/a.py"), {}, ("code", "possible", "", "a.py changed")),
        (diff("code/a.py"), {"imported_files": {"a.py"}}, ("code", "possible", "", "a.py changed")),
        (diff("code/a.py"), {"imported_files": set()}, ("code", "unlikely", IDLE, "a.py changed")),
        (diff("code/a.py"), {"imported_files": {"a.py"}, "same": {"code/a.py"}},
         ("code", "unlikely", IDLE, "a.py changed")),
        (diff("code/a.txt"), {"imported_files": set()}, ("code.files", "possible", UNSEEN, "a.txt changed")),
        (diff("code/a.txt"), {"imported_files": {"b.py"}, "opened_files": set()},
         ("code", "unlikely", IDLE, "a.txt changed")),
        (diff("code/a.txt"), {"imported_files": set(), "opened_files": {"a.txt"}},
         ("code", "possible", "", "a.txt changed")),
        (diff("code/a.py", "code/b.txt"), {"imported_files": set()},
         ("code.files", "possible", UNSEEN, "a.py changed, b.txt changed")),
        (diff("code/a.py", "code/b.py"), {"imported_files": {"b.py"}},
         ("code", "possible", "", "b.py changed, a.py changed")),
        (diff(added=("code/a.py",), removed=("code/b.py",)), {"imported_files": set()},
         ("code", "unlikely", IDLE, "a.py added, b.py removed")),
        (diff("code/a.py", removed=("code/b.py",), added=("code/c.py",)), {},
         ("code", "possible", "", "a.py changed, c.py added, b.py removed")),
        (diff(), {"imported_files": set()}, ("code.files", "possible", UNSEEN, "nothing but modes or metadata")),
        (diff("code/n.ipynb"), {"cells": {"code/n.ipynb": ["cell 3", "cell 4"]}},
         ("code", "possible", "", "n.ipynb (cell 3, cell 4)")),
        (diff("code/n.ipynb"), {"cells": {"code/n.ipynb": [f"cell {n}" for n in range(7)]}},
         ("code", "possible", "", "n.ipynb (cell 0, cell 1, cell 2, cell 3, cell 4 and 2 more)")),
        (diff("code/n.ipynb"), {"cells": {"code/n.ipynb": [f"cell {n}" for n in range(5)]}},
         ("code", "possible", "", "n.ipynb (cell 0, cell 1, cell 2, cell 3, cell 4)")),
        (diff("code/a.py", "code/n.ipynb"), {"cells": {"code/n.ipynb": []}},
         ("code", "possible", "", "a.py changed")),  # its outputs alone differ
        (diff(*(f"code/{n}.py" for n in range(5))), {},
         ("code", "possible", "", ", ".join(f"{n}.py changed" for n in range(5)))),
        (diff(*(f"code/{n}.py" for n in range(7))), {"imported_files": {"6.py"}},
         ("code", "possible", "", "6.py changed, " + ", ".join(f"{n}.py changed" for n in range(4)) + " and 2 more")),
    ],
)  # fmt: skip
def test_code_counts_by_what_the_runs_had_of_it(
    code: ManifestDiff, between: dict[str, Any], told: tuple[str, str, str, str]
) -> None:
    frozen = {name: frozenset(value) if isinstance(value, set) else value for name, value in between.items()}
    cause = only(locked(code=TREE), code=code, other=OTHER, **frozen)
    what, weight, why, names = told
    assert (cause.kind, cause.what, cause.weight, cause.why) == ("code", what, weight, why)
    assert cause.text == f"code: {names} (tree cccccccc → dddddddd)"
    assert cause.factor == Factor(kind="code", value=OTHER)
    assert only(locked(code=TREE), code=code, **frozen).factor is None


def test_lines_of_code_that_ran_come_first_and_there_is_an_end_to_them() -> None:
    lines = {"code/a.txt": ["-a"], "code/b.py": ["-b", "+b"], "code/c.py": ["+c"], "code/elsewhere.py": ["+e"]}
    code = diff("code/c.py", "code/a.txt", removed=("code/b.py",))
    cause = only(locked(code=TREE), code=code, lines=lines, imported_files=frozenset({"c.py", "b.py"}))
    assert cause.lines == ["-b", "+b", "+c", "-a"]
    for count, capped in ((200, [str(n) for n in range(200)]), (1201, [*map(str, range(200)), "… and 1,001 more"])):
        many = {"code/a.py": [str(n) for n in range(count)]}
        assert only(locked(code=TREE), code=diff("code/a.py"), lines=many).lines == capped


def test_folders_that_modules_come_from_are_code() -> None:
    cause = only(locked(code=CodeIdentity(tree="c" * 40, python_path=["src"])), other=OTHER)
    assert (cause.kind, cause.what, cause.weight) == ("code", "code.python_path", "possible")
    assert (cause.text, cause.factor) == ("code: module folders [] → ['src']", Factor(kind="code", value=OTHER))


PIN = DataPin(name="in", package="t/in", top_hash="6" * 64, path="in")
NEWER = msgspec.structs.replace(PIN, top_hash="7" * 64)


@pytest.mark.parametrize(
    ("pins", "entries", "text", "lines", "option"),
    [
        ([NEWER], None, "data.in: t/in@66666666 → t/in@77777777", [], f"data.in=t/in@{'7' * 16}"),
        ([NEWER], diff("1", added=("2",), removed=("3",)),
         "data.in: t/in@66666666 → t/in@77777777: 1 changed, 2 added, 3 removed", ["~ 1", "+ 2", "- 3"],
         f"data.in=t/in@{'7' * 16}"),
        ([NEWER], diff(), "data.in: t/in@66666666 → t/in@77777777: nothing but modes or metadata", [],
         f"data.in=t/in@{'7' * 16}"),
        ([NEWER], diff(*(f"code/{n}" for n in range(6))),
         "data.in: t/in@66666666 → t/in@77777777: " + ", ".join(f"code/{n} changed" for n in range(5)) + " and 1 more",
         [f"~ code/{n}" for n in range(6)], f"data.in=t/in@{'7' * 16}"),
        ([msgspec.structs.replace(NEWER, within="a/b")], None,
         "data.in: t/in@66666666 → t/in@77777777:a/b", [], None),
        ([msgspec.structs.replace(NEWER, run=f"{OTHER}@epoch=7", within="a", content="8" * 64)], None,
         "data.in: t/in@66666666 → t/in@77777777:a", [], f"data.in={OTHER}@epoch=7"),
        ([msgspec.structs.replace(PIN, path="there")], None, "data.in: laid out at in → there", [], None),
        ([], None, "data.in: only one of the runs has it", [], None),
    ],
)  # fmt: skip
def test_an_input_counts_by_what_it_holds_and_where_it_lies(
    pins: list[DataPin], entries: ManifestDiff | None, text: str, lines: list[str], option: str | None
) -> None:
    cause = only(locked(data=pins), data={} if entries is None else {"in": entries})
    assert (cause.kind, cause.what, cause.weight, cause.why) == ("data", "data.in", "possible", "")
    assert (cause.text, cause.lines) == (text, lines)
    assert (cause.factor and cause.factor.option) == option


def test_inputs_are_held_against_each_other_by_name_and_one_more_is_told() -> None:
    more = msgspec.structs.replace(PIN, name="more")
    told = found(locked(data=[more, NEWER]))
    assert [cause.what for cause in told] == ["data.in", "data.more"]
    assert told[1].text == "data.more: only one of the runs has it"
    same = [msgspec.structs.replace(PIN, content="8" * 64, top_hash=digit * 64) for digit in "12"]
    assert (
        causes_between(locked(data=same[:1]), locked(data=same[1:]), Between()) == []
    )  # other versions of one content


@pytest.mark.parametrize(
    ("params", "told"),
    [
        ({"rate": 0.1}, []),
        ({"rate": 0.2}, [("rate", "0.1 → 0.2", 0.2)]),
        ({}, [("rate", "0.1 → None", None)]),
        ({"rate": None}, [("rate", "0.1 → None", None)]),
        ({"rate": 0.1, "more": None}, [("more", "None → None", None)]),
        ({"rate": [1], "deep": 2}, [("rate", "0.1 → [1]", [1]), ("deep", "None → 2", None)]),
        ({"rate": "x" * 58}, [("rate", f"0.1 → '{'x' * 58}'", "x" * 58)]),
        ({"rate": "x" * 59}, [("rate", f"0.1 → '{'x' * 56}…", "x" * 59)]),
    ],
)
def test_each_parameter_is_one_cause(params: dict[str, Any], told: list[tuple[str, str, Any]]) -> None:
    causes = found(locked(params=params))
    assert [(cause.kind, cause.what, cause.text) for cause in causes] == [
        ("params", f"params.{name}", f"params.{name} {how}") for name, how, _ in told
    ]
    for cause, (name, _, value) in zip(causes, told, strict=True):
        assert cause.factor == (Factor(kind="param", name=name, value=value) if name == "rate" and params else None)


@pytest.mark.parametrize(
    ("execution", "told"),
    [
        ({"threads": 2}, [("threads", " 1 → 2 (numeric class differs)", "threads=2")]),
        ({"seed": 8}, [("seed", " 7 → 8", "seed=8")]),
        ({"determinism": "off"}, [("determinism", " 'strict' → 'off'", 'determinism="off"')]),
        ({"inputs": "off"}, [("inputs", " 'warn' → 'off'", 'inputs="off"')]),
        ({"layout": "copy"}, [("layout", " 'bind' → 'copy'", 'layout="copy"')]),
        ({"params": "flags"}, [("params", " 'api' → 'flags'", None)]),
        ({"secrets": ["A"]}, [("secrets", " [] → ['A']", None)]),
        (
            {"variables": {"B": "1", "A": "2"}},
            [
                ("variables.A", " unset → 2 (numeric class differs)", "variable.A=2"),
                ("variables.B", " unset → 1 (numeric class differs)", "variable.B=1"),
            ],
        ),
    ],
)
def test_each_setting_and_variable_is_one_cause(
    execution: dict[str, Any], told: list[tuple[str, str, str | None]]
) -> None:
    changed = Execution(**{"seed": 7, "threads": 1, **execution})
    causes = found(locked(execution=changed))
    assert [(cause.kind, cause.what, cause.text) for cause in causes] == [
        ("execution", f"execution.{name}", f"execution.{name}{how}") for name, how, _ in told
    ]
    assert [cause.factor and cause.factor.option for cause in causes] == [option for _, _, option in told]


def test_a_variable_that_is_set_on_one_side_alone_can_be_unset() -> None:
    one, other = (locked(execution=Execution(variables=variables)) for variables in ({"A": "1", "B": "2"}, {"B": "2"}))
    (cause,) = causes_between(one, other, Between())
    assert cause.text == "execution.variables.A 1 → unset (numeric class differs)"
    assert cause.factor == Factor(kind="variable", name="A", value=None)


@pytest.mark.parametrize(
    ("recipe", "told"),
    [
        ({"name": "other"}, [("execution", "name", "'made' → 'other'", "unlikely")]),
        ({"outputs": ["b"]}, [("execution", "outputs", "['a'] → ['b']", "unlikely")]),
        ({"tolerance": {"weights": {"atol": 0.5}}},
         [("execution", "tolerance.weights.atol", "None → 0.5", "unlikely")]),
        ({"code": {"entrypoint": "other.py"}}, [("code", "code.entrypoint", "'train.py' → 'other.py'", "possible")]),
        ({"checkpoints": {"package": "t/model", "best": {"score": "max"}, "every": "2 epochs"}},
         [("execution", "checkpoints.every", "None → '2 epochs'", "possible")]),
        ({"data": {"in": {"package": "t/in", "path": "in"}}}, []),
        ({"params": {"rate": 3}}, []),
        ({"execution": {"seed": 8}}, []),
    ],
)  # fmt: skip
def test_what_else_a_recipe_says_is_a_cause_unless_it_is_told_from_what_was_locked(
    recipe: dict[str, Any], told: list[tuple[str, str, str, str]]
) -> None:
    causes = found(msgspec.structs.replace(locked(recipe=recipe), execution=locked().execution))
    assert [(cause.kind, cause.what, cause.text, cause.weight) for cause in causes] == [
        (kind, f"recipe.{path}", f"recipe.{path} {how}", weight) for kind, path, how, weight in told
    ]
    for cause in causes:
        assert cause.why == ("nothing is computed by it" if cause.weight == "unlikely" else "")


def environment(*packages: PipPackage | CondaPackage, **facts: Any) -> EnvironmentLock:
    return EnvironmentLock(
        python="3.11.7", implementation="CPython", platform="linux-x86_64",
        pip=[one for one in packages if isinstance(one, PipPackage)],
        conda=[one for one in packages if isinstance(one, CondaPackage)], **facts,
    )  # fmt: skip


PIP = PipPackage(name="numpy", version="2.1")
CONDA = CondaPackage(name="mkl", version="1", build="0", subdir="linux-64", sha256="1" * 64)


@pytest.mark.parametrize(
    ("changed", "imported", "weight", "why"),
    [
        (environment(PIP), set(), "possible", ""),
        (environment(PIP), {"numpy"}, "possible", "imported"),
        (environment(PIP), {"torch"}, "unlikely", "not imported by either run"),
        (environment(CONDA), set(), "possible", ""),
        (environment(CONDA), {"mkl"}, "possible", "imported"),
        (environment(CONDA), {"torch"}, "possible", "not imported by either run"),  # libraries are linked, not imported
        (msgspec.structs.replace(environment(), python="3.12"), {"torch"}, "possible", ""),
        (environment(container=f"sha256:{'1' * 64}"), {"torch"}, "possible", ""),
    ],
)
def test_a_package_counts_by_whether_it_was_imported(
    changed: EnvironmentLock, imported: set[str], weight: str, why: str
) -> None:
    cause = only(locked(environment=changed), imported=frozenset(imported), other=OTHER)
    (change,) = locked().environment.changes_to(changed)
    assert (cause.kind, cause.what, cause.text) == (
        "environment",
        f"environment.{change.name}",
        f"environment: {change}",
    )
    assert (cause.weight, cause.why) == (weight, why)
    given = Factor(kind="environment", value=OTHER)
    assert cause.factor == (None if changed.container else given)  # an image cannot be given
    assert only(locked(environment=changed)).factor is None


def read(digest: str | None = "1", size: int | None = 1, path: str = "/f") -> UndeclaredFile:
    return UndeclaredFile(path=path, size=size, digest=digest)


@pytest.mark.parametrize(
    ("left", "right", "how"),
    [
        ([read()], [read()], None),
        ([read()], [read("2")], "changed between the runs"),
        ([read(None, 1)], [read(None, 2)], "changed between the runs"),
        ([read()], [read(None, None)], "changed between the runs"),
        ([read()], [], "was read by the first run alone"),
        ([], [read()], "was read by the second run alone"),
    ],
)
def test_a_file_that_nothing_pins_is_a_cause_if_it_changed_or_one_run_alone_read_it(
    left: list[UndeclaredFile], right: list[UndeclaredFile], how: str | None
) -> None:
    causes = found(locked(), undeclared=([*left, read(path="/same")], [read(path="/same"), *right]))
    why = "it was read, and nothing pins it"
    assert [(cause.kind, cause.what, cause.text, cause.why) for cause in causes] == (
        [] if how is None else [("inputs", "inputs./f", f"inputs: /f {how}, and is not declared", why)]
    )


def numeric(**facts: Any) -> Machine:
    return Machine(numeric=Numeric(**facts))


@pytest.mark.parametrize(
    ("left", "right", "told"),
    [
        ({"cpu": "one"}, {"cpu": "other"}, [("cpu", "possible")]),
        ({"variables": {"MKL_CBWR": "A"}}, {}, [("MKL_CBWR", "unlikely")]),
        ({"variables": {"MKL_CBWR": "A"}, "blas": {"libmkl.so": {}}}, {}, [("MKL_CBWR", "possible")]),
        ({"variables": {"OMP_NUM_THREADS": "1"}}, {"variables": {"OMP_NUM_THREADS": "2"}}, []),
        ({"variables": {"PYTHONHASHSEED": "1"}}, {"variables": {"PYTHONHASHSEED": "2"}}, []),
        ({"variables": {"TZ": "UTC"}}, {"variables": {"TZ": "CET"}}, [("TZ", "unlikely")]),
        ({"libraries": {"torch": {"version": "1"}}}, {"libraries": {"torch": {"version": "2"}}}, []),
        ({"libraries": {"torch": {"threads": 1}}}, {"libraries": {"torch": {"threads": 2}}}, []),
        ({"libraries": {"torch": {"mkldnn": True}}}, {"libraries": {"torch": {"mkldnn": False}}},
         [("torch.mkldnn", "possible")]),
    ],
)  # fmt: skip
def test_a_machine_counts_by_what_its_libraries_compute_with(
    left: dict[str, Any], right: dict[str, Any], told: list[tuple[str, str]]
) -> None:
    causes = found(locked(), machines=(numeric(**left), numeric(**right)))
    assert [(cause.kind, cause.what, cause.weight) for cause in causes] == [
        ("machine", f"machine.{what}", weight) for what, weight in told
    ]
    for cause in causes:
        assert cause.text.startswith(f"machine: {cause.what.partition('.')[2]} ")
        idle = "no library that was loaded computes by it"
        assert cause.why == (idle if cause.weight == "unlikely" else "")


CAPABLE = {"libraries": {"torch": {"capability": "AVX512"}}, "fingerprint": {"version": 1, "torch": {"linear": "1"}}}
LESS = {
    "libraries": {"torch": {"capability": "AVX2"}}, "fingerprint": {"version": 1, "torch": {"linear": "2"}},
    "variables": {"ATEN_CPU_CAPABILITY": "avx2"},
}  # fmt: skip
FROM_OUTSIDE = ["machine.torch.capability"]


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({}, ["machine.torch", *FROM_OUTSIDE]),
        # The variable is not of the lock: that its fact changed is no consequence of what is.
        ({"execution": Execution(seed=7, threads=2)}, ["execution.threads", *FROM_OUTSIDE]),
        ({"execution": Execution(seed=7, threads=1, determinism="off")}, ["execution.determinism", *FROM_OUTSIDE]),
        (
            {"execution": Execution(seed=7, threads=1, variables={"ATEN_CPU_CAPABILITY": "avx2"})},
            ["execution.variables.ATEN_CPU_CAPABILITY"],
        ),
        ({"environment": environment(PIP)}, ["environment.numpy", *FROM_OUTSIDE]),
        ({"execution": Execution(seed=8, threads=1)}, ["execution.seed", "machine.torch", *FROM_OUTSIDE]),
    ],
)
def test_a_switch_from_outside_the_lock_stays_a_cause_and_what_follows_from_the_lock_is_none(
    changes: dict[str, Any], named: list[str]
) -> None:
    machines = (numeric(**CAPABLE), numeric(**LESS))
    assert [cause.what for cause in found(locked(**changes), machines=machines)] == named


def test_variables_that_strict_sets_follow_from_it_and_others_do_not() -> None:
    strict = {"variables": {"CUBLAS_WORKSPACE_CONFIG": ":4096:8"}, "libraries": {"torch": {"version": "2"}}}
    machines = (numeric(**strict), numeric(libraries=strict["libraries"]))
    assert [cause.what for cause in found(locked(), machines=machines)] == ["machine.CUBLAS_WORKSPACE_CONFIG"]
    off = locked(execution=Execution(seed=7, threads=1, determinism="off"))
    assert [cause.what for cause in found(off, machines=machines)] == ["execution.determinism"]


def test_a_package_that_nobody_imported_sets_no_kernels() -> None:
    machines = (numeric(**CAPABLE), numeric(**{**LESS, "variables": {}}))
    idle = found(locked(environment=environment(PIP)), machines=machines, imported=frozenset({"torch"}))
    assert [cause.what for cause in idle] == ["environment.numpy", "machine.torch", "machine.torch.capability"]
