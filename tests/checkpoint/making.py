"""Checkpoints made from arrays, in a registry, without a run; and with whatever is done to their files in between."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np

from reprokit.checkpoint.claims import state_digest
from reprokit.checkpoint.format import Piece, SnapshotMessage, encode
from reprokit.checkpoint.reader import Checkpoint
from reprokit.client.tensors import DTYPES
from reprokit.errors import Error
from reprokit.packages.package import Package
from reprokit.registry import Registry
from reprokit.schema.facts import CheckpointFacts, meta_of
from reprokit.schema.manifest import Entry, Manifest

Files = dict[str, tuple[bytes, dict[str, Any]]]
Tensor = np.ndarray[Any, Any] | tuple[str, tuple[int, ...], bytes]


def files_of(tensors: dict[str, Tensor], **more: Any) -> Files:
    """Return the files of a checkpoint, and the metadata of each; see `encoded`."""
    return {piece.key: (b"".join(piece.parts), piece.meta) for piece in encoded(tensors, **more)[0]}


def encoded(tensors: dict[str, Tensor], **more: Any) -> tuple[list[Piece], str]:
    """Return the entries of a checkpoint, and its state digest.

    Args:
        tensors: By `section:name`, or by name in the model. An array, or dtype, shape and bytes.
        more: `aliases` (`section:name` → name), `state`, `config`, `files` (key → bytes, or these and the rows of the
            arrays in them), `framework`.
    """
    memory = bytearray()
    rows: list[dict[str, Any]] = []
    for name, value in tensors.items():
        section, _, short = name.rpartition(":")
        if isinstance(value, np.ndarray):
            value = DTYPES[str(value.dtype)], value.shape, value.tobytes()
        memory += bytes(-len(memory) % 64)
        row = {"section": section or "model", "name": short, "dtype": value[0], "shape": list(value[1])}
        rows.append({**row, "offset": len(memory), "nbytes": len(value[2])})
        memory += value[2]
    for name, of in more.get("aliases", {}).items():
        section, _, short = name.rpartition(":")
        rows.append({"section": section or "model", "name": short, "alias": of})
    files = []
    for key, value in more.get("files", {}).items():
        data, inside = value if isinstance(value, tuple) else (value, [])
        files.append({"key": key, "offset": len(memory), "nbytes": len(data), "tensors": inside})
        memory += data
    plain = {"kind": "checkpoint", "framework": more.get("framework", "numpy"), "tensors": rows, "files": files}
    plain |= {"state": more.get("state", {"epoch": 0, "step": 0}), "config": more.get("config")}
    return encode(msgspec.convert(plain, SnapshotMessage), memoryview(bytes(memory)))


def store(registry: Registry, files: Files, *, name: str = "t/model", framework: str = "numpy") -> Checkpoint:
    """Publish files as a checkpoint, whatever they are, and open it. Its state digest is true if they can have one."""
    with registry.staging() as sink:
        entries = [Entry(key, len(data), sink.put_bytes(data)[0], meta) for key, (data, meta) in files.items()]
    digest = "0" * 64
    with contextlib.suppress(Error, KeyError):
        digest = state_digest(Checkpoint(Package(name, Manifest.make(entries), registry)), files["state.json"][0])
    facts = CheckpointFacts(kind="checkpoint", framework=framework, run="20260102-030405-abcdef", state_digest=digest)
    manifest = Manifest.make(entries, message=None, user_meta=meta_of(facts))
    registry.publish(name, manifest)
    return Checkpoint(Package.open(f"{name}@{manifest.top_hash}", registry=registry))


def make(registry: Registry, tensors: dict[str, Tensor], **more: Any) -> Checkpoint:
    return store(registry, files_of(tensors, **more), framework=more.get("framework", "numpy"))


def change_meta(files: Files, key: str, change: Callable[[list[dict[str, Any]]], None]) -> Files:
    """Return the files with what the metadata of one says of its tensors changed."""
    data, meta = files[key]
    rows = [dict(row) for row in meta["reprokit"]["tensors"]]
    change(rows)
    return {**files, key: (data, {"reprokit": {"tensors": rows}})}
