"""What lies between two runs beside their locks: the files of their code, the cells of a notebook, what both told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from reprokit.comparison import compare_runs as comparing
from reprokit.comparison.compare_runs import compare_runs
from reprokit.registry.local import LocalRegistry
from reprokit.runs.store import StoredRun
from reprokit.schema.lock import CodeIdentity, DataPin, RunLock
from reprokit.schema.machine import Machine
from reprokit.schema.record import CodeFacts
from reprokit.schema.verdict import Cause
from tests.comparison.making import Save, locked, made

ONE, OTHER = "20260102-030405-aaaaaa", "20260102-030406-bbbbbb"
TREES = ("c" * 40, "d" * 40)


@pytest.fixture
def registry(tmp_path: Path) -> LocalRegistry:
    return LocalRegistry(tmp_path / "registry")


def causes(
    registry: LocalRegistry,
    left: dict[str, bytes],
    right: dict[str, bytes],
    *,
    locks: tuple[RunLock, RunLock] | None = None,
    told: tuple[Any, Any] = (None, None),
    machines: tuple[Machine, Machine] = (Machine(), Machine()),
) -> dict[str, Cause]:
    """Return the causes of two runs of this code whose first checkpoints differ; `told`: what each imported, opened."""
    chosen = locks or tuple(locked(code=CodeIdentity(tree=tree)) for tree in TREES)
    runs = []
    for number, (run_id, files) in enumerate(((ONE, left), (OTHER, right))):
        run = made(registry, run_id, [Save(shift=number)], lock=chosen[number], code=files, machine=machines[number])
        facts = None
        if told[number] is not None:
            imported, opened = told[number]
            facts = CodeFacts(tree=chosen[number].code.tree, imported=imported, opened=opened)
        runs.append(StoredRun(msgspec.structs.replace(run.record, code=facts), run.manifest))
    return {cause.what: cause for cause in compare_runs(*runs, registry=registry).explanations}


def notebook(*sources: str, output: str = "") -> bytes:
    cells = [
        {"cell_type": "code", "execution_count": 1, "id": f"c{number}", "metadata": {}, "source": source,
         "outputs": [{"output_type": "stream", "name": "stdout", "text": output}]}
        for number, source in enumerate(sources)
    ]  # fmt: skip
    return json.dumps({"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": cells}).encode()


def of_notebook(*names: str) -> tuple[RunLock, RunLock]:
    one, other = (
        locked(recipe={"code": {"notebook": name}}, code=CodeIdentity(tree=tree))
        for name, tree in zip(names, TREES, strict=True)
    )
    return one, other


def test_of_a_notebook_that_both_execute_its_cells_are_told(registry: LocalRegistry) -> None:
    left = {"n.ipynb": notebook("a = 1", "b = 2"), "other.ipynb": notebook("x")}
    right = {"n.ipynb": notebook("a = 1", "b = 3"), "other.ipynb": notebook("y")}
    text = causes(registry, left, right, locks=of_notebook("n.ipynb", "n.ipynb"))["code"].text
    assert "n.ipynb (cell 2" in text and "other.ipynb changed" in text
    only = {"n.ipynb": notebook("a = 1", output="1")}, {"n.ipynb": notebook("a = 1", output="2")}
    quiet = causes(registry, *only, locks=of_notebook("n.ipynb", "n.ipynb"))["code"]
    assert quiet.text.startswith("code: nothing but modes or metadata")


def test_of_two_notebooks_or_none_files_are_told(registry: LocalRegistry) -> None:
    left, right = ({"n.ipynb": notebook(text), "m.ipynb": notebook(text)} for text in ("a", "b"))
    for locks in (of_notebook("n.ipynb", "m.ipynb"), None):
        text = causes(registry, left, right, locks=locks)["code"].text
        assert "m.ipynb changed, n.ipynb changed" in text
    gone = causes(registry, left, {}, locks=of_notebook("n.ipynb", "n.ipynb"))["code"].text
    assert "n.ipynb removed" in gone
    come = causes(registry, {}, right, locks=of_notebook("n.ipynb", "n.ipynb"))["code"].text
    assert "n.ipynb added" in come


IMPORTED = (["a.py"], [])


@pytest.mark.parametrize(
    ("name", "left", "right", "same"),
    [
        ("a.py", b"x = 1\n", b"x = 1  # one\n", True),
        ("a.py", b"x = 1\n", b"x = (1)\n", True),
        ("a.py", b"x = 1\n", b"x = 2\n", False),
        ("a.py", b"x = 'a'\n", b"x = 'b'\n", False),
        ("a.py", b"x = \n", b"x =\n", False),  # no program
        ("a.py", b"", b"# a comment\n", False),  # an empty file, or none
        ("a.py", None, b"# a comment\n", False),
        ("a.txt", b"x = 1\n", b"x = 1  # one\n", False),  # to whoever reads it, a comment is text
        ("a.py", b"\xff = 1", b"x = 1", False),
        ("a.py", b"x = '\\d'\n", b"x = '\\d' # one\n", True),  # of which Python warns
    ],
)
def test_comments_and_layout_make_no_other_program(
    registry: LocalRegistry, name: str, left: bytes | None, right: bytes, same: bool
) -> None:
    sides = ({} if left is None else {name: left}), {name: right}
    told = ([name], [name]), ([name], [name])
    cause = causes(registry, *sides, told=told)["code"]
    assert cause.weight == ("unlikely" if same else "likely")


def test_lines_are_told_of_text_that_is_not_too_long_in_so_many_files(
    registry: LocalRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    left, right = ({f"{n}.py": b"x = %d\n" % value for n in range(4)} for value in (1, 2))
    left["text.bin"], right["text.bin"] = b"\xff", b"\xfe"
    right["new.ipynb"] = notebook("a")
    lines = causes(registry, left, right)["code"].lines
    assert lines.count("-x = 1") == lines.count("+x = 2") == 4
    assert not any("bin" in line or "ipynb" in line for line in lines)
    monkeypatch.setattr(comparing, "_MAX_FILES", 2)
    lines = causes(registry, left, right)["code"].lines
    assert [line for line in lines if line.startswith("---")] == ["--- 0.py", "--- 1.py"]
    monkeypatch.undo()
    monkeypatch.setattr(comparing, "_MAX_TEXT", 6)
    assert causes(registry, left, right)["code"].lines.count("+x = 2") == 4
    monkeypatch.setattr(comparing, "_MAX_TEXT", 5)
    assert causes(registry, left, right)["code"].lines == []
    monkeypatch.undo()
    monkeypatch.setattr(comparing, "_MAX_LINE", 3)
    assert "+x " in causes(registry, left, right)["code"].lines


@pytest.mark.parametrize(
    ("told", "what", "weight"),
    [
        ((IMPORTED, IMPORTED), "code", "unlikely"),
        ((IMPORTED, (["b.py"], [])), "code", "likely"),
        (((["b.py"], []), IMPORTED), "code", "likely"),
        ((IMPORTED, (["a.py"], ["b.py"])), "code", "likely"),
        ((IMPORTED, None), "code", "likely"),  # one that did not tell may have
        ((None, IMPORTED), "code", "likely"),
        ((IMPORTED, ([], [])), "code", "likely"),  # no run imports nothing
        ((IMPORTED, (["a.py"], None)), "code", "unlikely"),  # a module that nobody imported
    ],
)
def test_a_module_counts_unless_both_runs_told_that_they_did_not_import_it(
    registry: LocalRegistry, told: tuple[Any, Any], what: str, weight: str
) -> None:
    found = causes(registry, {"b.py": b"x = 1\n"}, {"b.py": b"x = 2\n"}, told=told)
    assert found[what].weight == weight


def test_packages_that_either_run_imported_count(registry: LocalRegistry) -> None:
    from tests.comparison.test_causes_found import PIP, environment

    locks = locked(), locked(environment=environment(PIP))
    for machines, why in (
        ((Machine(imported=["numpy"]), Machine()), "imported"),
        ((Machine(), Machine(imported=["numpy"])), "imported"),
        ((Machine(imported=["torch"]), Machine()), "not imported by either run"),
    ):
        found = causes(registry, {}, {}, locks=locks, machines=machines)["environment.numpy"]
        assert why in found.why


def test_entries_of_inputs_are_told_where_both_versions_are_there(registry: LocalRegistry) -> None:
    pins = [DataPin(name="in", package="t/in", top_hash=digit * 64, path="in") for digit in "67"]
    one, other = (locked(data=[pin]) for pin in pins)
    cause = causes(registry, {}, {}, locks=(one, other))["data.in"]
    assert (cause.text, cause.lines) == ("data.in: t/in@66666666 → t/in@77777777", [])
    lacking = causes(registry, {}, {}, locks=(one, locked(data=[])))["data.in"]
    assert lacking.text == "data.in: only one of the runs has it"
