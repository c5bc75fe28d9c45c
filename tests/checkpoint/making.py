"""Checkpoints made from arrays, in a registry, without a run; and with whatever is done to their files in between."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np

from reprokit.checkpoint.format import SnapshotMessage, encode
from reprokit.checkpoint.reader import Checkpoint
from reprokit.client.tensors import DTYPES
from reprokit.packages.package import Package
from reprokit.registry import Registry
from reprokit.schema.manifest import Entry, Manifest

Files = dict[str, tuple[bytes, dict[str, Any]]]
Tensor = np.ndarray[Any, Any] | tuple[str, tuple[int, ...], bytes]


def files_of(tensors: dict[str, Tensor], **more: Any) -> Files:
    """Return the files of a checkpoint, and the metadata of each.

    Args:
        tensors: By `section:name`, or by name in the model. An array, or dtype, shape and bytes.
        more: `aliases` (`section:name` → name), `state`, `config`, `files` (key → bytes), `framework`.
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
    for key, data in more.get("files", {}).items():
        files.append({"key": key, "offset": len(memory), "nbytes": len(data)})
        memory += data
    plain = {"kind": "checkpoint", "framework": more.get("framework", "numpy"), "tensors": rows, "files": files}
    plain |= {"state": more.get("state", {"epoch": 0, "step": 0}), "config": more.get("config")}
    pieces, _ = encode(msgspec.convert(plain, SnapshotMessage), memoryview(bytes(memory)))
    return {piece.key: (b"".join(piece.parts), piece.meta) for piece in pieces}


def store(registry: Registry, files: Files, *, name: str = "t/model", framework: str = "numpy") -> Checkpoint:
    """Publish files as a checkpoint, whatever they are, and open it."""
    with registry.staging() as sink:
        entries = [Entry(key, len(data), sink.put_bytes(data)[0], meta) for key, (data, meta) in files.items()]
    facts = {"kind": "checkpoint", "framework": framework}
    manifest = Manifest.make(entries, message=None, user_meta={"reprokit": facts})
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
