"""Does a record agree with what it points to? What a run claims is compared with what it stored.

A record is verified by its hash, and yet whoever may write to a registry can publish another one. What it says of a
checkpoint must be what that version's own header says, the digest in it that of the bytes that are stored, and its
metrics those that the run logged.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from reprokit.checkpoint.format import state_digest_of
from reprokit.checkpoint.reader import Checkpoint
from reprokit.core.canonical_json import metric_values
from reprokit.core.digest import hash_bytes
from reprokit.core.safe_json import load_json
from reprokit.errors import DataMismatchError, NotFoundError
from reprokit.registry import Registry
from reprokit.runs.store import StoredRun
from reprokit.schema.record import CheckpointEntry

__all__ = ["contradictions", "same_number", "stored_digest", "unlike"]

_METRICS = "metrics.jsonl"
_MAX_METRICS = 256 * 1024 * 1024


def contradictions(run: StoredRun, registry: Registry) -> list[tuple[str, str]]:
    """Return in what a record contradicts the checkpoints, outputs and metrics that it names: what, and how."""
    record, found = run.record, []
    named = [("initial state", record.initial)] if record.initial else []
    for where, entry in [*named, *((_place(one), one) for one in record.checkpoints)]:
        found += [(where, text) for text in _of_checkpoint(entry, record.run_id, registry)]
    for output in record.outputs:
        key = f"outputs/{output.path}"
        stored = run.manifest.by_key.get(key)
        if output.missing != (stored is None):
            found.append((output.path, "the record says otherwise whether it was written"))
        elif stored is not None and (stored.digest.hex, stored.size) != (output.digest, output.size):
            found.append((output.path, "what is kept of it is not what the record says"))
    if _METRICS in run.manifest:
        logged = _logged(run, registry)
        for name in dict.fromkeys([*record.metrics, *logged]):
            claimed = record.metrics.get(name)
            if not same_number(claimed, logged.get(name)):
                found.append((f"metric {name}", f"the record says {claimed}, the run logged {logged.get(name)}"))
    return found


def _place(entry: CheckpointEntry) -> str:
    return f"epoch {entry.epoch}" if entry.epoch is not None else f"step {entry.step}"


def _of_checkpoint(entry: CheckpointEntry, run_id: str, registry: Registry) -> Iterator[str]:
    """Yield in what a record contradicts the header of a checkpoint's version, which its top hash covers."""
    if entry.dropped:
        return
    try:
        meta = registry.read_manifest(entry.top_hash).user_meta
    except NotFoundError:  # deleted by hand: the digest that the record keeps of it is all there is
        return
    facts = meta.get("reprokit")
    if not isinstance(facts, dict):
        yield f"{entry.package}@{entry.top_hash[:8]} is no checkpoint"
        return
    told = [("run", run_id), ("state_digest", entry.state_digest), ("epoch", entry.epoch), ("step", entry.step)]
    for name, claimed in told:
        if facts.get(name) != claimed:
            yield f"{name} is {claimed} in the record, and {facts.get(name)} in the version"
    stored = metric_values(facts.get("metrics"))
    stored = stored if isinstance(stored, dict) else {}
    for name in dict.fromkeys([*entry.metrics, *stored]):
        if not same_number(entry.metrics.get(name), stored.get(name)):
            yield f"{name} is {entry.metrics.get(name)} in the record, and {stored.get(name)} in the version"


def _logged(run: StoredRun, registry: Registry) -> dict[str, float]:
    """Return the last value of each metric that a run logged."""
    what = f"{_METRICS} of run {run.record.run_id}"
    entry = run.manifest[_METRICS]
    if entry.size > _MAX_METRICS:
        raise DataMismatchError(f"{what} is {entry.size:,} bytes long; at most {_MAX_METRICS:,} are read.")
    found: dict[str, Any] = {}
    for number, line in enumerate(registry.read_object(entry, what=what).splitlines(), 1):
        row = load_json(line, what=f"Line {number} of {what}")
        values = metric_values(row.get("values")) if isinstance(row, dict) else None
        if not isinstance(values, dict):
            raise DataMismatchError(f"Line {number} of {what} is malformed: {line[:80]!r}.")
        found.update(values)
    return found


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
        claimed, found = checkpoint.facts.get("state_digest"), stored_digest(checkpoint)
        if claimed != found:
            return f"what the {side} stored has the state digest {found[-12:]}, its version claims {str(claimed)[-12:]}"
    return None


def _entries(checkpoint: Checkpoint) -> list[tuple[str, str, Mapping[str, Any]]]:
    entries = checkpoint.package.manifest.entries
    return [(e.logical_key, e.digest.hex, e.meta) for e in entries if e.logical_key != "config.json"]


def stored_digest(checkpoint: Checkpoint) -> str:
    """Return the state digest of what is stored, computed from every byte of it."""
    tensors: dict[tuple[str, str], tuple[str, tuple[int, ...], str] | str] = {}
    kept = {key: one for key, one in checkpoint.all_stored().items() if one.key.endswith(".safetensors")}
    manifest = checkpoint.package.manifest
    indexed = [key.partition(".")[0] for key in manifest.keys if key.endswith(".safetensors.index.json")]
    for section in dict.fromkeys([*(section for section, _ in kept), *indexed]):
        names = [name for part, name in kept if part == section]
        aliases = checkpoint.aliases(section)
        arrays = checkpoint.arrays(section)
        for name in names:
            one, array = kept[section, name], arrays[name]
            digest = manifest[one.key].digest.hex if one.alone else hash_bytes(array.data).hex
            tensors[section, name] = (one.dtype, one.shape, digest)
        tensors |= {(section, name): target for name, target in aliases.items()}
    other = {"state.json", "config.json"}
    files = {
        entry.logical_key: entry.digest.hex
        for entry in manifest.entries
        if entry.logical_key not in other and not entry.logical_key.endswith((".safetensors", ".index.json"))
    }
    return state_digest_of(tensors, files, checkpoint.package.entry("state.json").read())
