"""What was changed in a registry by someone who can compute a digest: every hash fits, and the numbers are others."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from reprokit.core.canonical_json import canonical
from reprokit.core.digest import hash_bytes
from reprokit.registry.local import LocalRegistry
from reprokit.runs.store import RunStore, StoredRun
from reprokit.schema.facts import meta_of
from reprokit.schema.manifest import Entry, Manifest
from reprokit.schema.record import CheckpointEntry, Record

__all__ = ["Forger"]


class Forger:
    """A copy of a registry, in which one run's record and what it names can be published anew."""

    def __init__(self, registry: Path, copy: Path, run_id: str) -> None:
        shutil.copytree(registry, copy, ignore=shutil.ignore_patterns("running", "tmp"))
        self.place = copy
        self.registry = LocalRegistry(copy)
        self.run: StoredRun = RunStore(self.registry).load(run_id)

    def record(
        self, changes: dict[str, Any], entries: dict[str, bytes] | None = None, *, gone: tuple[str, ...] = ()
    ) -> None:
        """Publish the run's record with other facts, with other bytes in some of its entries, and without some."""
        record: Record = msgspec.structs.replace(self.run.record, **changes)
        replaced = {**(entries or {}), "record.json": record.encode()}
        kept = [entry for entry in self.run.manifest.entries if entry.logical_key not in (*replaced, *gone)]
        with self.registry.staging() as sink:
            kept += [Entry(key, len(data), sink.put_bytes(data)[0]) for key, data in replaced.items()]
        manifest = Manifest.make(kept, message=self.run.manifest.message, user_meta=meta_of(record.summary()))
        self.registry.publish(f"runs/{record.run_id}", manifest)

    def metric(self, epoch: int, name: str, value: float, *, header: bool) -> None:
        """Change a metric of a checkpoint in the record; with `header`, in the checkpoint's own version too."""
        entry = self.run.record.checkpoints[epoch]
        if header:
            manifest = self.registry.read_manifest(entry.top_hash)
            metrics = {**manifest.user_meta["reprokit"]["metrics"], name: value}
            entry = self._publish(entry, list(manifest.entries), manifest, metrics=metrics)
        self._point(epoch, msgspec.structs.replace(entry, metrics={**entry.metrics, name: value}))

    def output(self, path: str, data: bytes) -> None:
        """Put other bytes in the place of an output, and say in the record that they are it."""
        digest = hash_bytes(data).hex
        facts = [
            msgspec.structs.replace(output, size=len(data), digest=digest) if output.path == path else output
            for output in self.run.record.outputs
        ]
        self.record({"outputs": facts}, {f"outputs/{path}": data})

    def nudge(self, epoch: int, tensor: str, place: int, ulps: int) -> tuple[int, ...]:
        """Move an element of a stored tensor by some steps of its dtype; return its index."""
        entry = self.run.record.checkpoints[epoch]
        manifest = self.registry.read_manifest(entry.top_hash)
        assert self._state_digest(list(manifest.entries)) == entry.state_digest
        section, _, name = tensor.rpartition(":")
        entries = list(manifest.entries)
        for number, file in enumerate(entries):
            rows = [dict(row) for row in file.meta.get("reprokit", {}).get("tensors", [])]
            row = next((row for row in rows if row["name"] == name), None)
            if row is None or not file.logical_key.startswith(f"{section or 'model'}/"):
                continue
            data = bytearray(self.registry.read_object(file, what="the forged file"))
            begin, end = row["offset"], row["offset"] + row["nbytes"]
            steps = np.frombuffer(data[begin:end], {"F32": "<i4", "F64": "<i8"}[row["dtype"]]).copy()
            steps[place] += ulps  # of floats of one sign, neighbours are neighbouring integers
            data[begin:end] = steps.tobytes()
            row["digest"] = hash_bytes(bytes(data[begin:end])).hex
            with self.registry.staging() as sink:
                digest, size = sink.put_bytes(bytes(data))
            entries[number] = Entry(file.logical_key, size, digest, {"reprokit": {"tensors": rows}})
            self._point(epoch, self._publish(entry, entries, manifest))
            return tuple(int(axis) for axis in np.unravel_index(place, row["shape"]))
        raise AssertionError(f"no tensor {tensor}")

    def tensors(self, epoch: int) -> dict[str, int]:
        """Return how many elements each floating-point tensor of the model has."""
        manifest = self.registry.read_manifest(self.run.record.checkpoints[epoch].top_hash)
        rows = [
            row
            for file in manifest.entries
            if file.logical_key.startswith("model/")
            for row in file.meta["reprokit"]["tensors"]
        ]
        return {row["name"]: int(np.prod(row["shape"])) for row in rows if row["dtype"] in ("F32", "F64")}

    def _publish(
        self, entry: CheckpointEntry, entries: list[Entry], manifest: Manifest, **facts: Any
    ) -> CheckpointEntry:
        digest = self._state_digest(entries)
        meta = {**manifest.user_meta, "reprokit": {**manifest.user_meta["reprokit"], "state_digest": digest, **facts}}
        made = Manifest.make(entries, message=manifest.message, user_meta=meta)
        self.registry.publish(entry.package, made)
        return msgspec.structs.replace(entry, top_hash=made.top_hash, state_digest=digest)

    def _point(self, epoch: int, entry: CheckpointEntry) -> None:
        checkpoints = [*self.run.record.checkpoints]
        checkpoints[epoch] = entry
        self.record({"checkpoints": checkpoints})

    def _state_digest(self, entries: list[Entry]) -> str:
        """As docs/format.md defines it, of a checkpoint without whole files but `config.json`."""
        leaves: list[dict[str, Any]] = []
        files: list[dict[str, Any]] = []
        state = ""
        for entry in entries:
            if entry.logical_key.endswith(".index.json"):
                aliases = json.loads(self.registry.read_object(entry, what="index"))["metadata"].get("aliases", {})
                section = entry.logical_key.partition(".")[0]
                leaves += [{"section": section, "name": name, "alias": of} for name, of in aliases.items()]
            elif entry.logical_key == "state.json":
                state = hashlib.sha256(self.registry.read_object(entry, what="state")).hexdigest()
            elif entry.logical_key == "config.json":
                files.append({"file": entry.logical_key, "digest": entry.digest.hex})
            else:
                section = entry.logical_key.partition("/")[0]
                keys = ("name", "dtype", "shape", "digest")
                rows = entry.meta.get("reprokit", {}).get("tensors", [])
                leaves += [{"section": section, **{key: row[key] for key in keys}} for row in rows]
        leaves.sort(key=lambda leaf: (leaf["section"], leaf["name"]))
        root = canonical({"leaves": leaves + files, "state": state})
        return f"sha256-merkle-v1:{hashlib.sha256(root).hexdigest()}"
