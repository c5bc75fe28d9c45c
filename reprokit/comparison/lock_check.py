"""Is a run's lock the one that it was executed with? What the record says beside it is held against it.

A lock decides what a verdict tolerates, and whoever may write to a registry can publish another one with the record:
headers of checkpoints, the first version of the record, and the record itself must name the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from reprokit.core.terminal_text import printable
from reprokit.locking.git_hash import identity_of_entries
from reprokit.registry import Registry
from reprokit.runs.store import StoredRun
from reprokit.schema.lock import RunLock
from reprokit.schema.manifest import Entry
from reprokit.schema.record import Record

__all__ = ["against_lock", "code_contradicts"]


def against_lock(record: Record, lock: RunLock) -> Iterator[tuple[str, str]]:
    """Yield in what a record contradicts its lock: what, and how."""
    told: list[tuple[str, Any, Any]] = [("lock", record.lock_hash, lock.hash), ("params", record.params, lock.params)]
    told += [("checkpoint package", record.checkpoint_package, lock.recipe.checkpoint_package)]
    if record.code is not None and lock.recipe.code.notebook is None:  # whose outputs the lock's tree leaves out
        told.append(("code", record.code.tree, lock.code.tree))
    if record.environment is not None:
        one, other = record.environment, lock.environment
        told.append(("environment", (one.hash, one.packages, one.python), (other.hash, other.size, other.python)))
    if record.execution is not None:
        how = msgspec.structs.asdict(record.execution)
        locked = msgspec.structs.asdict(lock.execution.executed(hermetic=record.execution.hermetic))
        told.append(("execution", {name: how[name] for name in locked}, locked))
    told.append(
        (
            "data",
            [(d.name, d.package, d.top_hash, d.path, d.run, d.within) for d in record.data],
            [(p.name, p.package, p.top_hash, p.path, p.run, p.within) for p in lock.data],
        )
    )
    for what, claimed, wanted in told:
        if claimed != wanted:
            yield what, f"the record says {printable(str(claimed), 200)}, its lock {printable(str(wanted), 200)}"
    yield from _outputs(record, lock)


def _outputs(record: Record, lock: RunLock) -> Iterator[tuple[str, str]]:
    declared = [(f"{output.path.rstrip('/')}/", output.compare) for output in lock.recipe.declared_outputs]
    for output in record.outputs:
        modes = [mode for path, mode in declared if path == "./" or f"{output.path}/".startswith(path)]
        if not modes:
            yield output.path, "the record has it as an output, and its lock declares none there"
        elif output.compare not in modes:
            yield output.path, f"it is compared as {output.compare!r} in the record, and as {modes[-1]!r} in its lock"


def code_contradicts(run: StoredRun, lock: RunLock, registry: Registry) -> str | None:
    """Say so if the code that a record keeps is not the git tree that its lock names; every byte of it is read.

    Of a notebook, the lock's tree is that without its outputs, the record's is git's own: both are computed.
    """
    entries = run.manifest.below("code")
    read: dict[str, bytes] = {}

    def content(entry: Entry) -> bytes:
        if entry.logical_key not in read:
            what = f"{entry.logical_key} of run {run.record.run_id}"
            read[entry.logical_key] = registry.read_object(entry, what=what)
        return read[entry.logical_key]

    notebook, form = lock.recipe.code.notebook, lock.code.object_format
    trees = [(lock.code.tree, "lock", identity_of_entries(entries, form, content, notebook=notebook).tree)]
    if notebook is not None and run.record.code is not None:
        trees.append((run.record.code.tree, "record", identity_of_entries(entries, form, content).tree))
    for claimed, whose, found in trees:
        if claimed != found:
            return f"it is the git tree {found[:12]}, its {whose} says {claimed[:12]}"
    return None
