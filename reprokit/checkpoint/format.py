"""The checkpoint format: shards of safetensors with the ecosystem's index, state.json, the state digest. No I/O.

Every tensor of 1 MiB or more has a file of its own; smaller ones share one by top-level module and by trainable,
frozen or buffer. What did not change since the last checkpoint is therefore the same object, stored once.
Source: https://github.com/huggingface/safetensors (format), transformers' `*.safetensors.index.json`.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from reprokit.canonical import canonical
from reprokit.digest import hash_bytes
from reprokit.errors import DataMismatchError
from reprokit.manifest import Manifest

__all__ = ["DTYPE_BYTES", "Piece", "SnapshotMessage", "StoredTensor", "encode", "stored_tensors"]

DTYPE_BYTES = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1, "I64": 8, "I32": 4, "I16": 2, "I8": 1,
    "U64": 8, "U32": 4, "U16": 2, "U8": 1, "BOOL": 1, "C64": 8,
}  # fmt: skip

_OWN_FILE = 1024 * 1024
_DIGEST_NAME = "sha256-merkle-v1"


class TensorMessage(msgspec.Struct, frozen=True, kw_only=True):
    """One tensor in the shared memory; or, with `alias`, another name of one."""

    section: Literal["model", "optimizer"]
    name: str
    dtype: str = ""
    shape: list[int] = []
    offset: int = 0
    nbytes: int = 0
    group: Literal["trainable", "frozen", "buffer"] = "trainable"
    alias: str | None = None


class FileMessage(msgspec.Struct, frozen=True, kw_only=True):
    """A whole file in the shared memory, and the arrays inside it."""

    key: str
    offset: int
    nbytes: int
    tensors: list[dict[str, Any]] = []


class SnapshotMessage(msgspec.Struct, frozen=True, kw_only=True):
    """What a script's process hands over; see `reprokit.client.snapshot`."""

    kind: Literal["checkpoint", "initial"]
    framework: str
    size: int
    tensors: list[TensorMessage]
    files: list[FileMessage]
    state: Any
    config: Any = None
    epoch: int | None = None
    step: int | None = None
    metrics: dict[str, float] = {}
    package: str | None = None
    numeric: dict[str, Any] = {}


@dataclass(frozen=True, slots=True)
class Piece:
    """One entry of a checkpoint version, not stored yet."""

    key: str
    data: bytes | memoryview
    meta: dict[str, Any]


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """Where a tensor lies in a stored checkpoint: bytes `offset … offset + nbytes` of entry `key`."""

    key: str
    section: str
    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    nbytes: int
    digest: str


def encode(message: SnapshotMessage, memory: memoryview) -> tuple[list[Piece], str]:
    """Return the entries of a checkpoint and its state digest.

    Args:
        memory: The shared memory; every range of `message` is checked against it.
    Raises:
        DataMismatchError: The message does not fit the memory: a range outside it, a shape that is not its bytes.
    """
    tensors = [tensor for tensor in message.tensors if tensor.alias is None]
    for tensor in tensors:
        _check(tensor, len(memory))
    for file in message.files:
        if file.offset < 0 or file.nbytes < 0 or file.offset + file.nbytes > len(memory):
            raise DataMismatchError(f"The file {file.key!r} of a snapshot lies outside its memory.")
    with ThreadPoolExecutor(2) as pool:
        digests: dict[tuple[str, str], str] = dict(
            zip(
                ((tensor.section, tensor.name) for tensor in tensors),
                pool.map(lambda t: hash_bytes(memory[t.offset : t.offset + t.nbytes]).hex, tensors),
                strict=True,
            )
        )
    pieces: list[Piece] = []
    for section in ("model", "optimizer"):
        pieces += _section(section, [t for t in message.tensors if t.section == section], digests, memory)
    leaves: list[dict[str, Any]] = [
        {"section": t.section, "name": t.name, "alias": t.alias}
        if t.alias is not None
        else {
            "section": t.section,
            "name": t.name,
            "dtype": t.dtype,
            "shape": t.shape,
            "digest": digests[t.section, t.name],
        }
        for t in sorted(message.tensors, key=lambda t: (t.section, t.name))
    ]
    for file in sorted(message.files, key=lambda file: file.key):
        data = bytes(memory[file.offset : file.offset + file.nbytes])
        pieces.append(Piece(file.key, data, {"reprokit": {"tensors": _inner(file, data)}}))
        leaves.append({"file": file.key, "digest": hash_bytes(data).hex})
    state = canonical(message.state)
    pieces.append(Piece("state.json", state, {}))
    if message.config is not None:
        pieces.append(Piece("config.json", canonical(message.config), {}))
    root = canonical({"leaves": leaves, "state": hashlib.sha256(state).hexdigest()})
    return pieces, f"{_DIGEST_NAME}:{hashlib.sha256(root).hexdigest()}"


def _check(tensor: TensorMessage, available: int) -> None:
    width = DTYPE_BYTES.get(tensor.dtype)
    count = 1
    for length in tensor.shape:
        count *= length
    inside = tensor.offset >= 0 and tensor.offset + tensor.nbytes <= available
    if width is None or any(n < 0 for n in tensor.shape) or count * width != tensor.nbytes or not inside:
        raise DataMismatchError(f"The snapshot's tensor {tensor.name!r} is malformed: {tensor}.")


def _section(
    section: str, tensors: list[TensorMessage], digests: dict[tuple[str, str], str], memory: memoryview
) -> list[Piece]:
    if not tensors:
        return []
    shards: dict[str, list[TensorMessage]] = {}
    for tensor in tensors:
        if tensor.alias is None:
            shards.setdefault(_shard_name(tensor), []).append(tensor)
    pieces: list[Piece] = []
    weight_map: dict[str, str] = {}
    taken: set[str] = set()
    for name, members in sorted(shards.items()):
        file = _file_name(name, taken)
        key = f"{section}/{file}.safetensors"
        data, rows = _safetensors(members, digests, memory)
        pieces.append(Piece(key, data, {"reprokit": {"tensors": rows}}))
        weight_map.update({tensor.name: key for tensor in members})
    aliases = {tensor.name: tensor.alias for tensor in tensors if tensor.alias is not None}
    metadata: dict[str, Any] = {"total_size": sum(tensor.nbytes for tensor in tensors)}
    if aliases:
        metadata["aliases"] = aliases
    index = {"metadata": metadata, "weight_map": weight_map}
    return [Piece(f"{section}.safetensors.index.json", canonical(index) + b"\n", {}), *pieces]


def _shard_name(tensor: TensorMessage) -> str:
    if tensor.nbytes >= _OWN_FILE:
        return tensor.name
    module = re.split(r"[./]", tensor.name, maxsplit=1)[0]
    return f"{module}.{tensor.group}" if module != tensor.name else tensor.group


def _file_name(name: str, taken: set[str]) -> str:
    """Return a file name for a shard: legal everywhere, and unlike the others by more than case."""
    safe = re.sub(r"[^A-Za-z0-9_.\-]", "_", name).strip(".") or "_"
    if len(safe) > 120 or safe.casefold() in taken:
        safe = f"{safe[:100]}-{hashlib.sha256(name.encode()).hexdigest()[:12]}"
    taken.add(safe.casefold())
    return safe


def _safetensors(
    tensors: Iterable[TensorMessage], digests: dict[tuple[str, str], str], memory: memoryview
) -> tuple[bytes, list[dict[str, Any]]]:
    """Return a safetensors file with one possible spelling: widest dtype first, then by name, header padded to 8."""
    ordered = sorted(tensors, key=lambda t: (-DTYPE_BYTES[t.dtype], t.name))
    header: dict[str, Any] = {}
    position = 0
    for tensor in ordered:
        end = position + tensor.nbytes
        header[tensor.name] = {"dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": [position, end]}
        position = end
    head = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    head += b" " * (-len(head) % 8)
    start = 8 + len(head)
    rows = [
        {
            "name": tensor.name,
            "dtype": tensor.dtype,
            "shape": tensor.shape,
            "offset": start + header[tensor.name]["data_offsets"][0],
            "nbytes": tensor.nbytes,
            "digest": digests[tensor.section, tensor.name],
        }
        for tensor in ordered
    ]
    parts = [len(head).to_bytes(8, "little"), head]
    parts += [memory[tensor.offset : tensor.offset + tensor.nbytes] for tensor in ordered]  # type: ignore[misc]
    return b"".join(parts), rows


def _inner(file: FileMessage, data: bytes) -> list[dict[str, Any]]:
    rows = []
    for tensor in file.tensors:
        offset, nbytes = tensor["offset"], tensor["nbytes"]
        if not 0 <= offset <= offset + nbytes <= len(data):
            raise DataMismatchError(f"An array of {file.key!r} lies outside it: {tensor}.")
        digest = hash_bytes(data[offset : offset + nbytes]).hex
        rows.append({**{key: tensor[key] for key in ("name", "dtype", "shape", "offset", "nbytes")}, "digest": digest})
    return rows


def stored_tensors(manifest: Manifest) -> dict[tuple[str, str], StoredTensor]:
    """Return every tensor of a checkpoint version by (section, name), from entry metadata alone.

    Raises:
        DataMismatchError: The metadata does not have the form that `encode` writes.
    """
    found: dict[tuple[str, str], StoredTensor] = {}
    for entry in manifest.entries:
        facts = entry.meta.get("reprokit")
        section = entry.logical_key.partition("/")[0] if "/" in entry.logical_key else "model"
        for row in facts.get("tensors", []) if isinstance(facts, dict) else []:
            try:
                stored = StoredTensor(
                    key=entry.logical_key,
                    section=section,
                    name=str(row["name"]),
                    dtype=str(row["dtype"]),
                    shape=tuple(int(n) for n in row["shape"]),
                    offset=int(row["offset"]),
                    nbytes=int(row["nbytes"]),
                    digest=str(row["digest"]),
                )
            except (KeyError, TypeError, ValueError):
                raise DataMismatchError(f"The tensors of {entry.logical_key!r} are malformed: {row!r}.") from None
            count = 1
            for length in stored.shape:
                count *= length
            inside = 0 <= stored.offset <= stored.offset + stored.nbytes <= entry.size
            if (
                not inside
                or count * DTYPE_BYTES.get(stored.dtype, -1) != stored.nbytes
                or min(stored.shape, default=0) < 0
            ):
                raise DataMismatchError(f"Tensor {stored.name!r} does not lie in {entry.logical_key!r} as it says.")
            found[section, stored.name] = stored
    return found
