"""Every fact that a record has from its lock is held against it, and nothing else is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from reprokit.comparison import record_check
from reprokit.comparison.lock_check import against_lock, code_contradicts
from reprokit.comparison.record_check import contradictions
from reprokit.core.digest import hash_bytes
from reprokit.locking.git_hash import identity_of_entries
from reprokit.registry.local import LocalRegistry
from reprokit.runs.store import RunStore, StoredRun
from reprokit.schema.lock import CodeIdentity, RunLock
from reprokit.schema.manifest import Entry, Manifest
from reprokit.schema.record import CodeFacts, OutputFacts, Record
from tests.comparison.making import locked, made

RUN = "20260102-030405-aaaaaa"
OUTPUTS = ["a", "folder/", {"path": "folder/inner", "compare": "values"}, {"path": "b", "compare": "ignore"}]
LOCK = locked(recipe={"outputs": OUTPUTS})


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> Record:
    return made(LocalRegistry(tmp_path_factory.mktemp("registry")), RUN, lock=LOCK).record


def told(record: Record, lock: RunLock = LOCK, **facts: Any) -> list[str]:
    return [what for what, _ in against_lock(msgspec.structs.replace(record, **facts), lock)]


def test_an_honest_record_contradicts_no_lock_and_says_no_more_than_it_knows(record: Record) -> None:
    assert told(record) == []
    assert told(record, code=None, environment=None, execution=None) == []


@pytest.mark.parametrize(
    ("field", "lie", "what"),
    [
        ("lock_hash", "0" * 64, "lock"),
        ("lock_hash", None, "lock"),
        ("params", {"rate": 0.2}, "params"),
        ("params", {}, "params"),
        ("checkpoint_package", "t/other", "checkpoint package"),
        ("checkpoint_package", None, "checkpoint package"),
        ("data", [], "data"),
        ("code.tree", "d" * 40, "code"),
        ("environment.hash", "0" * 64, "environment"),
        ("environment.packages", 1, "environment"),
        ("environment.python", "3.12.0", "environment"),
        *((f"data.{name}", lie, "data") for name, lie in (
            ("name", "other"), ("package", "t/other"), ("top_hash", "7" * 64), ("path", "other"),
            ("run", RUN), ("within", "part"),
        )),
        *((f"execution.{name}", lie, "execution") for name, lie in (
            ("seed", 8), ("threads", 2), ("determinism", "off"), ("inputs", "off"), ("layout", "copy"),
            ("params", "flags"), ("variables", {"A": "1"}),
        )),
    ],
)  # fmt: skip
def test_each_fact_that_is_not_the_lock_s_is_found(record: Record, field: str, lie: object, what: str) -> None:
    part, _, name = field.partition(".")
    value: Any = lie
    if name:
        whole = getattr(record, part)
        value = msgspec.structs.replace(whole[0] if part == "data" else whole, **{name: lie})
        value = [value] if part == "data" else value
    assert told(record, **{part: value}) == [what]
    (how,) = (how for _, how in against_lock(msgspec.structs.replace(record, **{part: value}), LOCK))
    assert how.startswith("the record says ") and ", its lock " in how


def test_what_a_stranger_wrote_is_printed_as_text_and_not_at_any_length(record: Record) -> None:
    lying = msgspec.structs.replace(record, params={"\x1b[2J": "x" * 10_000})
    ((_, how),) = against_lock(lying, LOCK)
    assert "\x1b" not in how and len(how) < 500


def test_a_hermetic_run_reads_nothing_undeclared_where_the_lock_warns(record: Record) -> None:
    assert record.execution is not None
    denied = msgspec.structs.replace(record.execution, hermetic=True, inputs="deny")
    assert told(record, execution=denied) == []
    assert told(record, execution=msgspec.structs.replace(denied, inputs="warn")) == ["execution"]
    assert told(record, execution=msgspec.structs.replace(denied, hermetic=False)) == ["execution"]


def test_of_a_notebook_the_tree_of_the_lock_is_another_one(record: Record) -> None:
    assert record.code is not None
    notebook = locked(recipe={"code": {"notebook": "n.ipynb"}, "outputs": OUTPUTS})
    of_notebook = {"lock_hash": notebook.hash, "code": msgspec.structs.replace(record.code, tree="d" * 40)}
    assert told(record, notebook, **of_notebook) == []
    assert told(record, notebook, **{**of_notebook, "lock_hash": record.lock_hash}) == ["lock"]


@pytest.mark.parametrize(
    ("path", "compare", "how"),
    [
        ("a", "bytes", None),
        ("a/b", "bytes", None),  # a folder, where it is one
        ("folder/x", "bytes", None),
        ("folder/inner", "values", None),
        ("folder/inner", "bytes", None),  # it lies in both
        ("b", "ignore", None),
        ("b", "bytes", "it is compared as 'bytes' in the record, and as 'ignore' in its lock"),
        ("a", "ignore", "it is compared as 'ignore' in the record, and as 'bytes' in its lock"),
        ("folder/x", "ignore", "it is compared as 'ignore' in the record, and as 'bytes' in its lock"),
        ("folder/inner", "ignore", "it is compared as 'ignore' in the record, and as 'values' in its lock"),
        ("ab", "bytes", "the record has it as an output, and its lock declares none there"),
        ("folder2/x", "bytes", "the record has it as an output, and its lock declares none there"),
    ],
)
def test_an_output_is_one_that_the_lock_declares_compared_as_it_says(
    record: Record, path: str, compare: Any, how: str | None
) -> None:
    lying = msgspec.structs.replace(record, outputs=[OutputFacts(path=path, compare=compare)])
    assert list(against_lock(lying, LOCK)) == ([] if how is None else [(path, how)])


def test_where_the_whole_folder_is_declared_every_output_is(record: Record) -> None:
    whole = locked(recipe={"outputs": ["."]})
    lying = {"lock_hash": whole.hash, "outputs": [OutputFacts(path="anything/at/all")]}
    assert told(record, whole, **lying) == []


EMPTY, ONE = "4b825dc642cb6eb9a060e54bf8d69288fbee4904", "4e71d83239356f2f4ca6efe3ccd6ffd93adf4750"
"""Git trees of nothing, and of `a.py` with the line `x = 1`, as `git write-tree` says."""


def kept(registry: LocalRegistry, lock: RunLock, files: dict[str, bytes], tree: str | None = None) -> StoredRun:
    """Return a run that keeps these files of its code, and whose record says that they are a tree."""
    run = made(registry, RUN, lock=lock)
    with registry.staging() as sink:
        code = [
            Entry(f"code/{path}", len(data), sink.put_bytes(data)[0], {"reprokit": {"mode": "100644"}})
            for path, data in files.items()
        ]
    entries = [entry for entry in run.manifest.entries if not entry.logical_key.startswith("code/")]
    registry.publish(f"runs/{RUN}", Manifest.make([*entries, *code], user_meta=run.manifest.user_meta))
    found = RunStore(registry).load(RUN)
    told = CodeFacts(tree=tree) if tree is not None else None
    return StoredRun(msgspec.structs.replace(found.record, code=told), found.manifest)


@pytest.mark.parametrize(
    ("tree", "files", "found"),
    [
        (EMPTY, {}, None),
        (ONE, {"a.py": b"x = 1\n"}, None),
        (EMPTY, {"a.py": b"x = 1\n"}, f"it is the git tree {ONE[:12]}, its lock says {EMPTY[:12]}"),
        (ONE, {}, f"it is the git tree {EMPTY[:12]}, its lock says {ONE[:12]}"),
    ],
)
def test_the_code_that_is_kept_is_the_tree_that_the_lock_names(
    tmp_path: Path, tree: str, files: dict[str, bytes], found: str | None
) -> None:
    registry, lock = LocalRegistry(tmp_path), locked(code=CodeIdentity(tree=tree))
    assert code_contradicts(kept(registry, lock, files), lock, registry) == found


def notebook(output: str) -> bytes:
    cell = {"cell_type": "code", "execution_count": 1, "id": "a", "metadata": {}, "source": "1", "outputs": []}
    shown = {"output_type": "stream", "name": "stdout", "text": output}
    whole = {"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": [{**cell, "outputs": [shown]}]}
    return json.dumps(whole).encode()


def test_of_a_notebook_that_is_kept_the_lock_names_its_cells_and_the_record_all_of_it(tmp_path: Path) -> None:
    registry = LocalRegistry(tmp_path)
    files = {"n.ipynb": notebook("1")}

    def trees(data: bytes) -> list[str]:
        entry = Entry("code/n.ipynb", len(data), hash_bytes(data), {"reprokit": {"mode": "100644"}})
        return [identity_of_entries((entry,), "sha1", lambda _: data, notebook=name).tree for name in ("n.ipynb", None)]

    (cells, whole), (same, other) = trees(files["n.ipynb"]), trees(notebook("2"))
    assert (cells == same, whole == other) == (True, False)
    lock = locked(recipe={"code": {"notebook": "n.ipynb"}}, code=CodeIdentity(tree=cells))
    honest = kept(registry, lock, files, whole)
    assert code_contradicts(honest, lock, registry) is None
    assert code_contradicts(kept(registry, lock, files), lock, registry) is None
    run = kept(registry, lock, files, other)
    said = f"it is the git tree {whole[:12]}, its record says {other[:12]}"
    assert code_contradicts(run, lock, registry) == said
    wrong = locked(recipe={"code": {"notebook": "n.ipynb"}}, code=CodeIdentity(tree=whole))
    said = f"it is the git tree {cells[:12]}, its lock says {whole[:12]}"
    assert code_contradicts(kept(registry, wrong, files, whole), wrong, registry) == said


def test_what_contradicts_the_lock_is_a_contradiction_of_the_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = LocalRegistry(tmp_path)
    lock = locked(code=CodeIdentity(tree=ONE))
    run = kept(registry, lock, {"a.py": b"x = 1\n"}, ONE)

    def found(run: StoredRun, lock: RunLock | None, *, thorough: bool = True) -> list[str]:
        told = contradictions(run, lock, registry, thorough=thorough)
        return [what for what, _ in told if what != "record"]  # that code was put beside it is one, too

    params = StoredRun(msgspec.structs.replace(run.record, params={"rate": 9}), run.manifest)
    for thorough in (True, False):
        assert found(run, lock, thorough=thorough) == []
        assert "params" in found(params, lock, thorough=thorough)
        assert "params" not in found(params, None, thorough=thorough)
    other = kept(registry, lock, {"a.py": b"x = 2\n"}, ONE)
    assert (found(other, lock), found(other, lock, thorough=False), found(other, None)) == (["code"], [], [])
    logged = made(registry, RUN, lock=lock, logged=[{"loss": 0.5}])
    size = logged.manifest["metrics.jsonl"].size
    for most in (size, size - 1):  # of a longer log the last values alone are held against the record
        monkeypatch.setattr(record_check, "MAX_SERIES", most)
        assert found(logged, None) == []
