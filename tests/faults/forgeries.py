"""Kinds of forgery: what somebody with write access publishes over an honest run, every hash of it made to fit."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from reprokit.core.canonical_json import canonical
from reprokit.core.digest import hash_bytes
from reprokit.runs.store import LOCK_KEY, RECORD_KEY, RunStore, StoredRun
from reprokit.runs.verdict_store import VERDICT_KEY, VerdictStore
from reprokit.schema.facts import meta_of
from reprokit.schema.lock import RunLock
from reprokit.schema.manifest import Entry, Manifest
from reprokit.schema.record import Attempt, CheckpointEntry, Record
from reprokit.schema.verdict import RunLink, Verdict, VerdictRecord
from tests.faults.forging import Forger

__all__ = ["KINDS", "Forgery", "Honest", "Kind", "kind"]

_replace = msgspec.structs.replace
_INVENTED = "20260101-000000-abcdef"


@dataclass(frozen=True)
class Honest:
    """A registry with a run, one that repeated it, BITWISE, and one with another parameter, DIVERGED."""

    registry: Path
    run: str
    again: str
    other: str


class Forgery(Forger):
    """A copy of an honest registry, to be forged."""

    def __init__(self, honest: Honest, copy: Path, draw: random.Random) -> None:
        super().__init__(honest.registry, copy, honest.run)
        self.honest, self.draw = honest, draw
        self.runs = RunStore(self.registry)
        self.lock = self.runs.lock(self.run)
        self.given = VerdictStore(self.registry).of(honest.run)[0]
        self.at = draw.randrange(len(self.run.record.checkpoints))

    @property
    def entry(self) -> CheckpointEntry:
        """The checkpoint that was drawn."""
        return self.run.record.checkpoints[self.at]

    @property
    def manifest(self) -> Manifest:
        return self.registry.read_manifest(self.entry.top_hash)

    @property
    def facts(self) -> dict[str, Any]:
        """What the header of that checkpoint says."""
        return dict(self.manifest.user_meta["reprokit"])

    def read(self, key: str, manifest: Manifest | None = None) -> bytes:
        return self.registry.read_object((manifest or self.manifest)[key], what=key)

    def publish(
        self, run: StoredRun, record: Record, files: Mapping[str, bytes | Entry] | None = None,
        gone: tuple[str, ...] = (), summary: dict[str, Any] | None = None,
    ) -> str:  # fmt: skip
        """Publish another version of a run's record."""
        replaced: dict[str, bytes | Entry] = {**(files or {}), RECORD_KEY: record.encode()}
        kept = [e for e in run.manifest.entries if e.logical_key not in (*replaced, *gone)]
        with self.registry.staging() as sink:
            kept += [
                data if isinstance(data, Entry) else Entry(key, len(data), sink.put_bytes(data)[0])
                for key, data in replaced.items()
            ]
        meta = {"reprokit": {**meta_of(record.summary())["reprokit"], **(summary or {})}}
        manifest = Manifest.make(kept, message=run.manifest.message, user_meta=meta)
        self.registry.publish(f"runs/{record.run_id}", manifest)
        return manifest.top_hash

    def say(self, **changes: Any) -> None:
        """Publish the run's record with other facts."""
        self.publish(self.run, _replace(self.run.record, **changes))

    def checkpoint(self, **changes: Any) -> None:
        """Publish the record with other facts of the checkpoint that was drawn."""
        self._point(self.at, _replace(self.entry, **changes))

    def version(
        self, files: dict[str, bytes] | None = None, metas: dict[str, Any] | None = None, *, gone: tuple[str, ...] = (),
        consistent: bool = False, **facts: Any,
    ) -> CheckpointEntry:  # fmt: skip
        """Publish another version of that checkpoint, and return its entry.

        Args:
            consistent: With the state digest that follows from its metadata; else with the honest one.
            facts: Of its header.
        """
        old = self.manifest
        entries = {e.logical_key: e for e in old.entries if e.logical_key not in gone}
        with self.registry.staging() as sink:
            for key, data in (files or {}).items():
                digest, size = sink.put_bytes(data)
                entries[key] = Entry(key, size, digest, entries[key].meta if key in entries else {})
        for key, meta in (metas or {}).items():
            entries[key] = entries[key]._replace(meta=meta)
        told = {**self.facts, **facts}
        if consistent:
            told["state_digest"] = self._state_digest(list(entries.values()))
        made = Manifest.make(entries.values(), message=old.message, user_meta={**old.user_meta, "reprokit": told})
        self.registry.publish(self.entry.package, made)
        return _replace(self.entry, top_hash=made.top_hash, state_digest=told["state_digest"])

    def shard(self) -> tuple[str, list[dict[str, Any]]]:
        """Return a file of tensors by its key, and its rows."""
        files = [e for e in self.manifest.entries if e.meta.get("reprokit", {}).get("tensors")]
        chosen = self.draw.choice(files)
        return chosen.logical_key, [dict(row) for row in chosen.meta["reprokit"]["tensors"]]

    def altered(self) -> tuple[str, bytes, list[dict[str, Any]], list[dict[str, Any]]]:
        """Return a file with a bit of a tensor changed: its key, its bytes, its rows as they were, and as they are."""
        key, rows = self.shard()
        row = self.draw.choice(rows)
        data = bytearray(self.read(key))
        data[row["offset"] + self.draw.randrange(row["nbytes"])] ^= 1 << self.draw.randrange(8)
        true = [{**r, "digest": hash_bytes(bytes(data[r["offset"] : r["offset"] + r["nbytes"]])).hex} for r in rows]
        return key, bytes(data), rows, true

    def relock(self, lock: RunLock, files: Mapping[str, bytes | Entry] | None = None, **changes: Any) -> None:
        """Publish the run with another lock, and with what its record says of it."""
        record = _replace(self.run.record, lock_hash=lock.hash, **changes)
        self.publish(self.run, record, files={**(files or {}), LOCK_KEY: lock.encode()})

    def recipe(self, **changes: Any) -> RunLock:
        return _replace(self.lock, recipe=_replace(self.lock.recipe, **changes))

    def verdict(self, reproduction: str, rung: str, **changes: Any) -> VerdictRecord:
        """Return a verdict that nobody gave."""
        verdict = Verdict(run_id=reproduction, reproduces=self.honest.run, verdict=rung)  # type: ignore[arg-type]
        lock_hash = self.runs.load(reproduction).record.lock_hash if self.runs.has(reproduction) else None
        link = _replace(self.given.reproduction, run_id=reproduction, lock_hash=lock_hash)
        return _replace(self.given, **{"verdict": verdict, "reproduction": link, "by": "auditor@lab", **changes})

    def logged(self, package: str) -> list[Path]:
        """Return the entries of a package's log, oldest first."""
        return sorted((self.place / "log" / package).iterdir())


@dataclass(frozen=True)
class Kind:
    """A kind of forgery.

    Attributes:
        run: It is about the run itself, so that no verdict on it may be BITWISE.
        forge: Commits it.
    """

    area: str
    run: bool
    forge: Callable[[Forgery], None]


KINDS: dict[str, Kind] = {}


def kind(area: str, name: str, *, run: bool = True) -> Callable[[Callable[[Forgery], Any]], Callable[[Forgery], Any]]:
    """Add what it decorates as a kind."""

    def keep(forge: Callable[[Forgery], Any]) -> Callable[[Forgery], Any]:
        assert f"{area}: {name}" not in KINDS
        KINDS[f"{area}: {name}"] = Kind(area, run, forge)
        return forge

    return keep


def _simple(area: str, run: bool = True, **kinds: Callable[[Forgery], Any]) -> None:
    for name, forge in kinds.items():
        kind(area, name.replace("_", " "), run=run)(forge)


# what the record says

_simple(
    "record",
    better_metric=lambda f: f.say(metrics={**f.run.record.metrics, "loss": 0.001}),
    metric_removed=lambda f: f.say(metrics={}),
    metric_added=lambda f: f.say(metrics={**f.run.record.metrics, "accuracy": 0.99}),
    metric_of_a_checkpoint=lambda f: f.checkpoint(metrics={"loss": f.draw.random()}),
    state_digest=lambda f: f.checkpoint(state_digest="sha256-merkle-v1:" + f"{f.draw.getrandbits(256):064x}"),
    checkpoint_removed=lambda f: f.say(checkpoints=[c for c in f.run.record.checkpoints if c != f.entry]),
    all_checkpoints_removed=lambda f: f.say(checkpoints=[]),
    checkpoints_swapped=lambda f: f.say(
        checkpoints=[
            _replace(one, top_hash=other.top_hash)
            for one, other in zip(f.run.record.checkpoints, f.run.record.checkpoints[::-1], strict=True)
        ]
        if len(f.run.record.checkpoints) % 2 == 0
        else [
            _replace(one, top_hash=other.top_hash)
            for one, other in zip(
                f.run.record.checkpoints, f.run.record.checkpoints[1:] + f.run.record.checkpoints[:1], strict=True
            )
        ]
    ),
    epoch_renumbered=lambda f: f.checkpoint(epoch=40 + f.at),
    package_of_a_checkpoint=lambda f: f.checkpoint(package="t/other"),
    no_package_of_a_checkpoint=lambda f: f.checkpoint(package="../../etc", dropped=True),
    top_hash_of_a_checkpoint=lambda f: f.checkpoint(top_hash="../../etc/passwd"),
    kind_of_a_checkpoint=lambda f: f.checkpoint(kind="signal"),
    checkpoint_twice=lambda f: f.say(checkpoints=[*f.run.record.checkpoints, f.entry]),
    dropped=lambda f: f.checkpoint(dropped=True),
    initial_state=lambda f: f.say(initial=_replace(f.entry, kind="initial", epoch=None)),
    params=lambda f: f.say(params={**f.run.record.params, "rate": 0.5}),
    name=lambda f: f.say(name="another"),
    began_earlier=lambda f: f.say(started="2020-01-01T00:00:00.000Z"),
    ended_earlier=lambda f: f.say(ended="2020-01-01T00:00:00.000Z"),
    environment=lambda f: f.say(environment=_replace(f.run.record.environment, hash="0" * 64)),
    python=lambda f: f.say(environment=_replace(f.run.record.environment, python="2.7.18")),
    code=lambda f: f.say(code=_replace(f.run.record.code, tree="0" * 40)),
    imported=lambda f: f.say(code=_replace(f.run.record.code, imported=["nothing.py"])),
    machine=lambda f: f.say(machine=_replace(f.run.record.machine, hostname="elsewhere")),
    seed=lambda f: f.say(execution=_replace(f.run.record.execution, seed=8)),
    warnings=lambda f: f.say(warnings=["All is well."]),
    undeclared=lambda f: f.say(undeclared=[{"path": "x"}] if not f.run.record.undeclared else []),
    exit_code=lambda f: f.say(exit_code=3),
    failed=lambda f: f.say(status="failed"),
    running=lambda f: f.say(status="running"),
    repetition=lambda f: f.say(reproduces=_INVENTED),
    relaxed=lambda f: f.say(relaxed=["param.rate=0.2"]),
    output_ignored=lambda f: f.say(outputs=[_replace(o, compare="ignore") for o in f.run.record.outputs]),
    output_missing=lambda f: f.say(outputs=[_replace(o, missing=True) for o in f.run.record.outputs]),
    output_removed=lambda f: f.say(outputs=[]),
    lock_hash=lambda f: f.say(lock_hash="0" * 64),
    data=lambda f: f.say(data=[_replace(d, top_hash=f.entry.top_hash) for d in f.run.record.data]),
    data_removed=lambda f: f.say(data=[]),
    checkpoint_package=lambda f: f.say(checkpoint_package="t/other"),
    resumed=lambda f: f.say(
        metrics={"loss": 0.001},
        attempts=[Attempt(started="a", ended=None, status="failed", resumed="b", resumed_from="c")],
    ),
    release=lambda f: f.say(reprokit="0.0.1"),
    verdict=lambda f: f.say(verdicts=[Verdict(run_id=f.honest.run, reproduces=_INVENTED, verdict="BITWISE")]),
)


@kind("record", "header alone")
def _(f: Forgery) -> None:
    f.publish(f.run, f.run.record, summary={"metrics": {"loss": 0.001}})


@kind("record", "a finished one for an unfinished one, and back")
def _(f: Forgery) -> None:
    f.say(status="interrupted")
    f.say(metrics={"loss": 0.001})


# the lock

_simple(
    "lock",
    tolerance_of_weights=lambda f: f.relock(
        f.recipe(tolerance=_replace(f.lock.recipe.tolerance, weights=_weights(f.lock, 1e6)))
    ),
    tolerance_of_metrics=lambda f: f.relock(
        f.recipe(tolerance=_replace(f.lock.recipe.tolerance, metrics={"loss": "ignore"}))
    ),
    output_ignored=lambda f: f.relock(
        f.recipe(outputs=[_replace(o, compare="ignore") for o in f.lock.recipe.declared_outputs]),
        outputs=[_replace(o, compare="ignore") for o in f.run.record.outputs],
    ),
    output_undeclared=lambda f: f.relock(f.recipe(outputs=[]), outputs=[]),
    data=lambda f: f.relock(
        _replace(f.lock, data=[_replace(d, top_hash="1" * 64) for d in f.lock.data]),
        data=[_replace(d, top_hash="1" * 64) for d in f.run.record.data],
    ),
    data_removed=lambda f: f.relock(_replace(f.lock, data=[]), data=[]),
    package_fewer=lambda f: _fewer(f),
    params=lambda f: f.relock(_replace(f.lock, params={**f.lock.params, "rate": 0.5}), params={"rate": 0.5}),
    seed=lambda f: f.relock(_replace(f.lock, execution=_replace(f.lock.execution, seed=8))),
    determinism=lambda f: f.relock(_replace(f.lock, execution=_replace(f.lock.execution, determinism="off"))),
    code=lambda f: f.relock(_replace(f.lock, code=_replace(f.lock.code, tree="0" * 40))),
    best=lambda f: f.relock(f.recipe(checkpoints=_replace(f.lock.recipe.checkpoints, best={"loss": "max"}))),
    file_alone=lambda f: f.publish(
        f.run, f.run.record, files={LOCK_KEY: f.recipe(tolerance=_tolerant(f.lock)).encode()}
    ),
    removed=lambda f: f.publish(f.run, f.run.record, gone=(LOCK_KEY,)),
    removed_with_its_hash=lambda f: f.publish(f.run, _replace(f.run.record, lock_hash=None), gone=(LOCK_KEY,)),
)


def _weights(lock: RunLock, atol: float) -> Any:
    return _replace(lock.recipe.tolerance.weights, atol=atol)


def _tolerant(lock: RunLock) -> Any:
    return _replace(lock.recipe.tolerance, weights=_weights(lock, 1e6))


def _fewer(f: Forgery) -> None:
    left = [package for package in f.lock.environment.pip if package.name != "numpy"]
    environment = _replace(f.lock.environment, pip=left)
    told = _replace(f.run.record.environment, hash=environment.hash, packages=environment.size)
    f.relock(_replace(f.lock, environment=environment), environment=told)


@kind("lock", "in every header too")
def _(f: Forgery) -> None:
    lock = f.recipe(tolerance=_tolerant(f.lock))
    entries = []
    for at in range(len(f.run.record.checkpoints)):
        f.at = at
        entries.append(f.version(lock_hash=lock.hash))
    f.relock(lock, checkpoints=entries)


# checkpoints: headers, metadata of entries, tensors, state


def _header(**facts: Any) -> Callable[[Forgery], None]:
    return lambda f: f._point(f.at, f.version(**facts))


_simple(
    "header",
    run=_header(run=_INVENTED),
    epoch=_header(epoch=77),
    lock_hash=_header(lock_hash="0" * 64),
    no_lock=_header(lock_hash=None),
    inputs=_header(inputs=[]),
    metrics=_header(metrics={"loss": 0.001}),
    parent=_header(parent={"package": "t/model", "top_hash": "0" * 64}),
    state_digest=_header(state_digest="sha256-merkle-v1:" + "0" * 64),
    framework=_header(framework="tensorflow"),
    kind=_header(kind="exception"),
)


@kind("header", "epoch in the record too")
def _(f: Forgery) -> None:
    f._point(f.at, _replace(f.version(epoch=77), epoch=77))


@kind("header", "published beside the run", run=False)
def _(f: Forgery) -> None:
    f.version(metrics={"loss": 0.0})


def _rows(f: Forgery, change: Callable[[dict[str, Any]], Any], *, consistent: bool = False) -> None:
    key, rows = f.shard()
    row = f.draw.choice(rows)
    row |= change(row)
    entry = f.version(metas={key: {"reprokit": {"tensors": rows}}}, consistent=consistent)
    f._point(f.at, entry)


_simple(
    "entry",
    digest=lambda f: _rows(f, lambda _: {"digest": f"{f.draw.getrandbits(256):064x}"}),
    digest_and_state_digest=lambda f: _rows(
        f, lambda _: {"digest": f"{f.draw.getrandbits(256):064x}"}, consistent=True
    ),
    dtype=lambda f: _rows(f, lambda row: {"dtype": "I64" if row["dtype"] == "F64" else "F64"}, consistent=True),
    shape=lambda f: _rows(f, lambda row: {"shape": [1, *row["shape"]]}, consistent=True),
    name=lambda f: _rows(f, lambda _: {"name": "layer.other"}, consistent=True),
    offset=lambda f: _rows(f, lambda row: {"offset": row["offset"] - 8}, consistent=True),
)


@kind("entry", "rows removed")
def _(f: Forgery) -> None:
    key, _ = f.shard()
    f._point(f.at, f.version(metas={key: {}}, consistent=True))


def _altered(*, rows: bool, consistent: bool, dropped: bool = False) -> Callable[[Forgery], None]:
    def forge(f: Forgery) -> None:
        key, data, old, true = f.altered()
        metas = {key: {"reprokit": {"tensors": true if rows else old}}}
        f._point(f.at, _replace(f.version({key: data}, metas, consistent=consistent), dropped=dropped))

    return forge


_simple(
    "tensors",
    others_under_honest_digests=_altered(rows=False, consistent=False),
    others_under_the_honest_state_digest=_altered(rows=True, consistent=False),
    others_with_every_digest=_altered(rows=True, consistent=True),
    others_and_dropped=_altered(rows=False, consistent=False, dropped=True),
    others_with_every_digest_and_dropped=_altered(rows=True, consistent=True, dropped=True),
)


@kind("tensors", "published beside the run", run=False)
def _(f: Forgery) -> None:
    key, data, _, true = f.altered()
    f.version({key: data}, {key: {"reprokit": {"tensors": true}}}, consistent=True)


@kind("tensors", "of another epoch")
def _(f: Forgery) -> None:
    other = f.registry.read_manifest(f.run.record.checkpoints[f.at - 1].top_hash)
    key, _ = f.shard()
    f._point(f.at, f.version({key: f.read(key, other)}))


@kind("tensors", "of another epoch in every file")
def _(f: Forgery) -> None:
    other = f.run.record.checkpoints[f.at - 1]
    manifest = f.registry.read_manifest(other.top_hash)
    meta = {**manifest.user_meta, "reprokit": f.facts}
    made = Manifest.make(manifest.entries, message=f.manifest.message, user_meta=meta)
    f.registry.publish(f.entry.package, made)
    f.checkpoint(top_hash=made.top_hash)


@kind("tensors", "file removed")
def _(f: Forgery) -> None:
    key, _ = f.shard()
    f._point(f.at, f.version(gone=(key,)))


@kind("tensors", "file added")
def _(f: Forgery) -> None:
    key, _ = f.shard()
    f._point(f.at, f.version({"model/more.safetensors": f.read(key)}))


def _state(consistent: bool) -> Callable[[Forgery], None]:
    def forge(f: Forgery) -> None:
        state = {**json.loads(f.read("state.json")), "user": {"trick": f.draw.random()}}
        f._point(f.at, f.version({"state.json": canonical(state)}, consistent=consistent))

    return forge


_simple(
    "state",
    another_under_the_honest_digest=_state(False),
    another_with_its_digest=_state(True),
    removed=lambda f: f._point(f.at, f.version(gone=("state.json",))),
    no_json=lambda f: f._point(f.at, f.version({"state.json": b"{"})),
    file_added=lambda f: f._point(f.at, f.version({"model.joblib": b"\x80\x04cos\nsystem\n."})),
    aliases=lambda f: f._point(f.at, f.version({"model.safetensors.index.json": _aliased(f)})),
)


def _aliased(f: Forgery) -> bytes:
    index = json.loads(f.read("model.safetensors.index.json"))
    index["metadata"]["aliases"] = {"tied": next(iter(index["weight_map"]))}
    return canonical(index) + b"\n"


# outputs, what was logged, the code

_simple(
    "outputs",
    others=lambda f: f.publish(f.run, f.run.record, files={"outputs/metrics.json": b'{"loss": 0}'}),
    others_with_their_digest=lambda f: f.output("metrics.json", b'{"loss": 0}'),
    removed=lambda f: f.publish(f.run, f.run.record, gone=("outputs/metrics.json",)),
    added=lambda f: f.publish(f.run, f.run.record, files={"outputs/more.json": b"{}"}),
)

_LOGGED = b"".join(canonical({"step": None, "time": 1.0, "values": {"loss": 0.001}}) + b"\n" for _ in range(3))

_simple(
    "metrics",
    logged=lambda f: f.publish(f.run, f.run.record, files={"metrics.jsonl": _LOGGED}),
    logged_and_recorded=lambda f: f.publish(
        f.run, _replace(f.run.record, metrics={"loss": 0.001}), files={"metrics.jsonl": _LOGGED}
    ),
    not_logged=lambda f: f.publish(f.run, f.run.record, gone=("metrics.jsonl",)),
    what_it_printed=lambda f: f.publish(f.run, f.run.record, files={"log.txt": b"fine\n"}),
)

_simple(
    "code",
    another_script=lambda f: f.publish(f.run, f.run.record, files={"code/train.py": b"print('fine')\n"}),
    a_file_more=lambda f: f.publish(f.run, f.run.record, files={"code/more.py": b"\n"}),
)


# verdicts


def _given(f: Forgery, kept: VerdictRecord, summary: dict[str, Any] | None = None) -> None:
    with f.registry.staging() as sink:
        digest, size = sink.put_bytes(kept.encode())
    meta = {"reprokit": {**meta_of(kept.summary())["reprokit"], **(summary or {})}}
    manifest = Manifest.make([Entry(VERDICT_KEY, size, digest)], message="BITWISE", user_meta=meta)
    f.registry.publish(f"verdicts/{kept.original.run_id}", manifest)


_simple(
    "verdicts",
    run=False,
    of_a_run_that_never_was=lambda f: _given(f, f.verdict(_INVENTED, "BITWISE")),
    of_one_that_diverged=lambda f: _given(f, f.verdict(f.honest.other, "BITWISE")),
    tolerant_of_one_that_diverged=lambda f: _given(f, f.verdict(f.honest.other, "TENSOR-TOLERANCE")),
    of_the_run_itself=lambda f: _given(f, f.verdict(f.honest.run, "BITWISE")),
    in_the_header_alone=lambda f: _given(
        f, VerdictStore(f.registry).of(f.honest.run)[1], {"verdict": "BITWISE", "relaxed": []}
    ),
    under_another_lock=lambda f: _given(
        f, f.verdict(f.honest.again, "BITWISE", original=_link(f, f.honest.run, "0" * 64))
    ),
    not_what_the_record_says=lambda f: _given(f, f.verdict(f.honest.again, "DIVERGED")),
    no_verdict=lambda f: _given(f, _replace(f.verdict(f.honest.again, "BITWISE"), original=_link(f, _INVENTED, None))),
)


def _link(f: Forgery, run_id: str, lock_hash: str | None) -> RunLink:
    return RunLink(run_id=run_id, top_hash=f.run.manifest.top_hash, lock_hash=lock_hash)


@kind("verdicts", "in the record of one that diverged", run=False)
def _(f: Forgery) -> None:
    other = f.runs.load(f.honest.other)
    verdict = _replace(other.record.verdicts[-1], verdict="BITWISE", relaxed=[])
    f.publish(other, _replace(other.record, verdicts=[verdict], relaxed=[]))
    _given(f, f.verdict(f.honest.other, "BITWISE", verdict=verdict))


@kind("verdicts", "of a repetition that was made up", run=False)
def _(f: Forgery) -> None:
    f.publish(f.run, _replace(f.run.record, run_id=_INVENTED, reproduces=f.honest.run))
    _given(f, f.verdict(_INVENTED, "BITWISE"))


# logs and tags


@kind("log", "newest entry of a package removed", run=False)
def _(f: Forgery) -> None:
    f.logged("t/model")[-1].unlink()


@kind("log", "newest entry of the run removed")
def _(f: Forgery) -> None:
    f.logged(f"runs/{f.honest.run}")[-1].unlink()


@kind("log", "of the verdicts removed", run=False)
def _(f: Forgery) -> None:
    shutil.rmtree(f.place / "log" / "verdicts" / f.honest.run)


@kind("log", "newest entry written anew", run=False)
def _(f: Forgery) -> None:
    _sealed(f.logged("t/model")[-1], writer="somebody@else")


@kind("log", "whole log written anew", run=False)
def _(f: Forgery) -> None:
    before = None
    for file in f.logged("t/model"):
        _sealed(file, prev=before, time=1)
        before = hashlib.sha256(file.read_bytes()).hexdigest()


@kind("log", "an entry in the middle removed", run=False)
def _(f: Forgery) -> None:
    f.logged("t/model")[1].unlink()


def _sealed(file: Path, **changes: Any) -> None:
    body = json.dumps({**json.loads(file.read_bytes().partition(b"\n")[0]), **changes}, sort_keys=True).encode()
    file.chmod(0o644)
    file.write_bytes(b"%s\n%s\n" % (body, hashlib.sha256(body).hexdigest().encode()))


@kind("log", "first version of the record deleted")
def _(f: Forgery) -> None:
    name = f"runs/{f.honest.run}"
    f.registry.delete(name, f.registry.top_hashes(name)[0])


@kind("log", "the run deleted, and another in its place")
def _(f: Forgery) -> None:
    name = f"runs/{f.honest.run}"
    for top_hash in f.registry.top_hashes(name):
        f.registry.delete(name, top_hash)
    f.say(metrics={"loss": 0.001})


@kind("tags", "the run set back")
def _(f: Forgery) -> None:
    name = f"runs/{f.honest.run}"
    f.registry.rollback(name, f.registry.top_hashes(name)[0])


@kind("tags", "latest of the run moved")
def _(f: Forgery) -> None:
    name = f"runs/{f.honest.run}"
    f.registry.tag(name, f.registry.top_hashes(name)[0], ("latest",))


@kind("tags", "latest of the run on a checkpoint")
def _(f: Forgery) -> None:
    f.registry.publish(f"runs/{f.honest.run}", f.manifest)


@kind("tags", "a permanent one moved", run=False)
def _(f: Forgery) -> None:
    one, other = (entry.top_hash for entry in f.run.record.checkpoints[:2])
    f.registry.tag("t/model", one, ("paper",), permanent=True)
    f.registry.tag("t/model", one, ("x",))
    last = f.logged("t/model")[-1]
    tags = json.loads(last.read_bytes().partition(b"\n")[0])["tags"]
    _sealed(last, tags={**tags, "paper": other})
