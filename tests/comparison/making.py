"""Whole runs with checkpoints, outputs and metrics in a registry, that nobody has to wait for."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np

from reprokit.comparison.compare_runs import compare_with
from reprokit.comparison.ladder import Terms
from reprokit.core.canonical_json import canonical, spelled
from reprokit.registry.local import LocalRegistry
from reprokit.runs.store import RunStore, StoredRun
from reprokit.schema.facts import CheckpointFacts, InputLink, meta_of
from reprokit.schema.lock import CodeIdentity, DataPin, EnvironmentLock, RunLock
from reprokit.schema.manifest import Entry, Manifest
from reprokit.schema.recipe import Tolerance, WeightTolerance, from_plain
from reprokit.schema.record import (
    CheckpointEntry,
    CodeFacts,
    DataFacts,
    EnvironmentFacts,
    ExecutionFacts,
    OutputFacts,
    Record,
)
from reprokit.schema.verdict import Verdict
from tests.checkpoint.making import Tensor, encoded

__all__ = ["Save", "compared", "locked", "made"]

_WEIGHT = np.arange(12, dtype="<f8").reshape(3, 4)


def locked(**changes: Any) -> RunLock:
    """Return a lock of one input; `changes` are of its fields, those of `recipe` as in a recipe's file."""
    recipe = from_plain(
        {
            "name": "made",
            "code": {"entrypoint": "train.py"},
            "checkpoints": {"package": "t/model", "best": {"score": "max"}},
            "execution": {"seed": 7, "threads": 1},
            "outputs": ["a"],
            **changes.pop("recipe", {}),
        }
    )
    whole = RunLock(
        recipe=recipe,
        code=CodeIdentity(tree="c" * 40),
        environment=EnvironmentLock(python="3.11.7", implementation="CPython", platform="linux-x86_64"),
        data=[DataPin(name="in", package="t/in", top_hash="6" * 64, path="in")],
        params={"rate": 0.1},
        execution=recipe.execution,
    )
    return msgspec.structs.replace(whole, **changes)


@dataclass(frozen=True, kw_only=True)
class Save:
    """A checkpoint to be; `shift` is added to its one tensor, and makes it another."""

    shift: float = 0.0
    place: dict[str, Any] = field(default_factory=dict)
    tensors: dict[str, Tensor] | None = None
    more: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    dropped: bool = False


def _facts_of(lock: RunLock) -> dict[str, Any]:
    """Return what a record of a run of a lock says of it."""
    environment, execution = lock.environment, msgspec.structs.asdict(lock.execution)
    told = {"name", "package", "top_hash", "path", "run", "within"}
    pins = [{key: value for key, value in msgspec.structs.asdict(pin).items() if key in told} for pin in lock.data]
    return {
        "lock_hash": lock.hash,
        "params": lock.params,
        "checkpoint_package": lock.recipe.checkpoint_package,
        "code": CodeFacts(tree=lock.code.tree),
        "environment": EnvironmentFacts(hash=environment.hash, packages=environment.size, python=environment.python),
        "execution": ExecutionFacts(**execution),
        "data": [DataFacts(**pin, entries=0, size=0) for pin in pins],
    }


def made(
    registry: LocalRegistry,
    run_id: str,
    saves: Sequence[Save] = (),
    *,
    outputs: dict[str, bytes] | None = None,
    told: Sequence[OutputFacts] = (),
    logged: Sequence[dict[str, float]] = (),
    steps: bool = False,
    logged_digests: dict[str, str] | None = None,
    lock: RunLock | None = None,
    code: dict[str, bytes] | None = None,
    fresh: bool = True,
    **facts: Any,
) -> StoredRun:
    """Publish a run: its checkpoints, what it logged, its outputs and the record that names all of them.

    Args:
        saves: In the order of their epochs from 0, where they do not say their place themselves.
        told: Facts of outputs that are not just there: missing, or compared in another way than by bytes.
        logged: The lines of its metrics; with `steps`, each is of a step of its own.
        logged_digests: What the record says of them.
        code: The files of its tree.
        fresh: A run of this ID that was there is forgotten; else this is one more version of its record.
        facts: Of the record; a finished run without a lock unless told otherwise.
    """
    if fresh:
        shutil.rmtree(registry.root / "log" / "runs" / run_id, ignore_errors=True)
    links = [
        InputLink(name=p.name, package=p.package, top_hash=p.top_hash, within=p.within)
        for p in (lock.data if lock else [])
    ]
    initial, checkpoints = None, []
    for number, save in enumerate(saves):
        place = {"kind": "checkpoint", **(save.place or {"epoch": number, "step": 10 * (number + 1)})}
        tensors = save.tensors if save.tensors is not None else {"w": _WEIGHT + number + save.shift}
        pieces, digest = encoded(tensors, **{"state": {"at": number}, **save.more})
        header = CheckpointFacts(run=run_id, state_digest=digest, metrics=save.metrics, framework="numpy", **place)
        header = msgspec.structs.replace(header, inputs=links, lock_hash=lock.hash if lock else None)
        with registry.staging() as sink:
            entries = [Entry(p.key, p.size, sink.put_bytes(b"".join(p.parts))[0], p.meta) for p in pieces]
        manifest = Manifest.make(entries, message=None, user_meta=meta_of(header))
        registry.publish("t/model", manifest)
        entry = CheckpointEntry.of(header, package="t/model", top_hash=manifest.top_hash)
        entry = msgspec.structs.replace(entry, dropped=save.dropped)
        if entry.kind == "initial":
            initial = entry
        else:
            checkpoints.append(entry)
    files = {f"outputs/{path}": data for path, data in (outputs or {}).items()}
    files |= {f"code/{path}": data for path, data in (code or {}).items()}
    if lock is not None:
        files["lock.json"] = lock.encode()
        facts = {**_facts_of(lock), **facts}
    if logged:
        numbered = [(step if steps else None, values) for step, values in enumerate(logged)]
        rows = (canonical({"step": at, "time": 1.0, "values": spelled(values)}) + b"\n" for at, values in numbered)
        files["metrics.jsonl"] = b"".join(rows)
    entries, shown = [], {facts.path: facts for facts in told}
    with registry.staging() as sink:
        for path, data in (outputs or {}).items():
            digest_, size = sink.put_bytes(data)
            known = shown.get(path, OutputFacts(path=path))
            shown[path] = msgspec.structs.replace(known, size=size, digest=digest_.hex)
        needed = {"name": "made", "status": "finished", "lock_hash": None, "code": None, "environment": None}
        record = Record(**{
            "run_id": run_id, "started": "2026-01-02T03:04:05.000Z", "initial": initial, "checkpoints": checkpoints,
            "outputs": list(shown.values()), "metrics": {k: v for row in logged for k, v in row.items()},
            "logged": logged_digests, **needed, **facts,
        })  # fmt: skip
        for key, data in {**files, "record.json": record.encode()}.items():
            digest_, size = sink.put_bytes(data)
            entries.append(Entry(key, size, digest_))
    registry.publish(f"runs/{run_id}", Manifest.make(entries, message=None, user_meta=meta_of(record.summary())))
    return RunStore(registry).load(run_id)


def compared(
    left: StoredRun,
    right: StoredRun,
    registry: LocalRegistry,
    *,
    atol: float = 0.0,
    rtol: float = 0.0,
    metrics: dict[str, float] | None = None,
    relaxed: list[str] | None = None,
    **terms: Any,
) -> Verdict:
    """Return how `right` compares with `left`, under a tolerance and without a lock."""
    tolerance = Tolerance(weights=WeightTolerance(atol=atol, rtol=rtol), metrics=metrics or {})
    asked = Terms(tolerance=tolerance, relaxed=relaxed if relaxed is not None else [], **terms)
    return compare_with(left, right, (None, None), asked, registry=registry)
