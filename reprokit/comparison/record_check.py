"""Does a record agree with what it points to? What a run claims is compared with what it stored.

A record is verified by its hash, and yet whoever may write to a registry can publish another one. What it says of a
checkpoint must be what that version's own header says, the digest in it that of the bytes that are stored, its metrics
those that the run logged, its lock the one that it began with, and it must not replace another record that had ended.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from reprokit.checkpoint.claims import state_digest
from reprokit.checkpoint.reader import Checkpoint
from reprokit.comparison.lock_check import against_lock, code_contradicts
from reprokit.core.canonical_json import canonical
from reprokit.core.digest import hash_all
from reprokit.core.refs import RESERVED
from reprokit.errors import DataMismatchError, NotFoundError
from reprokit.registry import Registry
from reprokit.runs.history import amendments
from reprokit.runs.logged import MAX_SERIES, digests_of, last_logged, read_logged
from reprokit.runs.store import StoredRun
from reprokit.schema.bounds import LeftOut, cut_metrics
from reprokit.schema.facts import CheckpointFacts, RunSummary, facts_in, meta_of
from reprokit.schema.lock import RunLock
from reprokit.schema.metric_log import METRICS_KEY
from reprokit.schema.record import CheckpointEntry, Record

__all__ = ["check_alike", "check_record", "contradictions", "same_number", "stored_digest", "unlike"]

_OUTPUTS = "outputs/"


def contradictions(
    run: StoredRun,
    lock: RunLock | None,
    registry: Registry,
    *,
    thorough: bool = True,
) -> list[tuple[str, str]]:
    """Return in what a record contradicts what it names, what was published before it, and its lock: what, and how.

    Args:
        lock: The run's, if it has one.
        thorough: Read what the run logged and the code that it keeps, and verify the versions of its checkpoints; else
            their headers alone are looked at.
    """
    record, found = run.record, []

    def header(top_hash: str) -> Any:
        return (
            registry.read_manifest(top_hash).user_meta if thorough else registry.read_header(top_hash).get("user_meta")
        )

    if thorough:
        saved = [entry.top_hash for entry in record.checkpoints if not entry.dropped]
        registry.fetch_versions([*saved, *registry.top_hashes(f"{RESERVED}/{record.run_id}")])
    there = functools.cache(lambda package: frozenset(registry.top_hashes(package)))
    for entry in [*([record.initial] if record.initial else []), *record.checkpoints]:
        found += [(str(entry.place), text) for text in _of_checkpoint(entry, record, header, there)]
    found += _of_outputs(run)
    found += [("record", str(one)) for one in amendments(record.run_id, registry)]
    if not _describes(run):
        found.append(("summary", "the header of the record's version says something else of the run"))
    if lock is not None:
        found += against_lock(record, lock)
    if not thorough:
        return found
    if lock is not None and (wrong := code_contradicts(run, lock, registry)) is not None:
        found.append(("code", wrong))
    return [*found, *_of_metrics(run, registry)]


def _of_metrics(run: StoredRun, registry: Registry) -> Iterator[tuple[str, str]]:
    if METRICS_KEY not in run.manifest:
        return
    record, entry = run.record, run.manifest[METRICS_KEY]
    logged, left = cut_metrics(last_logged(entry, registry, what=f"{METRICS_KEY} of run {record.run_id}"))
    for name in dict.fromkeys([*record.metrics, *logged]):
        claimed = record.metrics.get(name)
        if not same_number(claimed, logged.get(name)):
            yield f"metric {name}", f"the record says {claimed}, the run logged {logged.get(name)}"
    if left != _left_out(record, "metrics"):
        yield "metrics", "of those that the record does not list the run logged others"
    if record.logged is None or entry.size > MAX_SERIES:
        return
    found = digests_of(read_logged(run, registry), again=bool(record.attempts))
    for name in dict.fromkeys([*record.logged, *logged]):
        if record.logged.get(name) != found.get(name):
            yield f"metric {name}", "what the run logged of it is not what the record says"


def check_record(run: StoredRun, lock: RunLock, registry: Registry) -> None:
    """Raise DataMismatchError if a record contradicts what it names: asked before anything of it is executed."""
    found = contradictions(run, lock, registry)
    if not found:
        return
    what, how = found[0]
    run_id, more = run.record.run_id, f"; and {len(found) - 1} more" if len(found) > 1 else ""
    raise DataMismatchError(
        f"The record of run {run_id} is not borne out, so nothing of it was executed: {what}: {how}{more}.",
        hint=f"`reprokit verify {run_id}` says all that is wrong. Get the run anew from where it was made.",
    )


def _describes(run: StoredRun) -> bool:
    """True if the header of a record's version says what the record says; one that is completed on reading may not."""
    header = facts_in(run.manifest.user_meta, RunSummary)
    if header is not None and header.status == "running":
        return header.run == run.record.run_id
    return canonical(run.manifest.user_meta) == canonical(meta_of(run.record.summary()))


def _of_outputs(run: StoredRun) -> Iterator[tuple[str, str]]:
    told = {output.path for output in run.record.outputs}
    for output in run.record.outputs:
        stored = run.manifest.by_key.get(f"{_OUTPUTS}{output.path}")
        if output.is_kept == (stored is None):
            yield output.path, "the record says otherwise whether it was written, and kept"
        elif stored is not None and (stored.digest.hex, stored.size) != (output.digest, output.size):
            yield output.path, "what is kept of it is not what the record says"
    kept = [entry.logical_key.removeprefix(_OUTPUTS) for entry in run.manifest.below(_OUTPUTS)]
    untold = [path for path in kept if path not in told]
    left = _left_out(run.record, "outputs")
    if left is None or len(untold) > left.count:
        for path in untold:
            yield path, "it is kept as an output, and the record does not speak of it"


def _left_out(record: Record, what: str) -> LeftOut | None:
    return next((one for one in record.left_out if one.what == what), None)


def _of_checkpoint(
    entry: CheckpointEntry, record: Record, header: Callable[[str], Any], there: Callable[[str], frozenset[str]]
) -> Iterator[str]:
    """Yield in what a record contradicts the header of a checkpoint's version, which its top hash covers."""
    try:
        meta = header(entry.top_hash)
    except NotFoundError:  # deleted, by `keep` or by hand: the digest that the record keeps of it is all there is
        return
    facts = facts_in(meta, CheckpointFacts, what=f"{entry.package}@{entry.top_hash[:8]}")
    if facts is None:
        yield f"{entry.package}@{entry.top_hash[:8]} is no checkpoint"
        return
    if entry.dropped and entry.top_hash in there(entry.package):
        yield f"the record says that it was dropped, and {entry.package}@{entry.top_hash[:8]} is there"
    told: list[tuple[str, Any, Any]] = [("run", record.run_id, facts.run)]
    told.append(("state_digest", entry.state_digest, facts.state_digest))
    told.append(("lock_hash", record.lock_hash, facts.lock_hash))
    told += [(name, getattr(entry, name), getattr(facts, name)) for name in ("kind", "epoch", "step", "batch")]
    for name, claimed, found in told:
        if found != claimed:
            yield f"{name} is {claimed} in the record, and {found} in the version"
    inputs = [
        {(one.name, one.package, one.top_hash, one.within) for one in some} for some in (record.data, facts.inputs)
    ]
    for name, *_ in sorted(inputs[0] ^ inputs[1], key=str):
        yield f"it was made from another {name} than the record says"
    stored = facts.metrics
    for name in dict.fromkeys([*entry.metrics, *stored]):
        if not same_number(entry.metrics.get(name), stored.get(name)):
            yield f"{name} is {entry.metrics.get(name)} in the record, and {stored.get(name)} in the version"


def same_number(one: Any, other: Any) -> bool:
    """True if two metrics are the same: equal, or neither is a number; none is only the same as none."""
    if isinstance(one, float) and isinstance(other, float) and math.isnan(one) and math.isnan(other):
        return True
    return bool(one == other)


def unlike(left: Checkpoint, right: Checkpoint) -> str | None:
    """Say how two checkpoints differ whose versions claim one state digest; None if they do hold the same.

    Equal entries are enough, for a version names them by their digests. Otherwise everything is read, and the digest
    is computed again from the bytes.
    """
    if left.package.manifest.entries == right.package.manifest.entries or _entries(left) == _entries(right):
        return None
    for side, checkpoint in (("original", left), ("repetition", right)):
        claimed, found = checkpoint.facts.state_digest, stored_digest(checkpoint)
        if claimed != found:
            return f"what the {side} stored has the state digest {found[-12:]}, its version claims {str(claimed)[-12:]}"
    return None


def check_alike(left: Checkpoint, right: Checkpoint) -> None:
    """Raise DataMismatchError if two versions say the same of the tensors in a file of which they have other bytes, and
    one of them says what is not so. Only such files are read."""
    ours, theirs = left.package.manifest.by_key, right.package.manifest.by_key
    for key, one in ours.items():
        other = theirs.get(key)
        if other is None or one.digest == other.digest or not one.meta or one.meta != other.meta:
            continue
        for side in (left, right):
            (view,) = side.package.reader.views([side.package.manifest.position(key)])
            side.check_files({key: view})


def _entries(checkpoint: Checkpoint) -> list[tuple[str, str, Mapping[str, Any]]]:
    entries = checkpoint.package.manifest.entries
    return [(e.logical_key, e.digest.hex, e.meta) for e in entries]


def stored_digest(checkpoint: Checkpoint) -> str:
    """Return the state digest of what is stored, computed from every byte of it."""
    manifest, reader = checkpoint.package.manifest, checkpoint.package.reader
    files: dict[str, list[tuple[str, str]]] = {}
    for name, one in checkpoint.all_stored().items():
        files.setdefault(one.key, []).append(name)
    found: dict[tuple[str, str], str] = {}
    for key, names in files.items():
        (view,) = reader.views([manifest.position(key)])
        checkpoint.check_header(key, view)
        places = [checkpoint.stored(name, section) for section, name in names]
        digests = hash_all([[one.of(view[one.offset : one.offset + one.nbytes])] for one in places if not one.alone])
        hashed = (digest.hex for digest in digests)
        found |= {
            name: manifest[key].digest.hex if one.alone else next(hashed)
            for name, one in zip(names, places, strict=True)
        }
    return state_digest(checkpoint, checkpoint.package.entry("state.json").read(), found)
