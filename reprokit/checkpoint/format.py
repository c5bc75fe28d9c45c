"""The checkpoint format: shards of safetensors with the ecosystem's index, state.json, the state digest. No I/O.

Every tensor of 1 MiB or more has a file of its own; smaller ones share one by top-level module and by trainable,
frozen or buffer. What did not change since the last checkpoint is therefore the same object, stored once.
Source: https://github.com/huggingface/safetensors (format), transformers' `*.safetensors.index.json`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from reprokit.client.restored import MAX_JSON
from reprokit.client.tensors import MAX_HEADER, by_rows, check_shape, spell
from reprokit.core.canonical_json import canonical, ordered
from reprokit.core.digest import Digest, hash_all, hash_bytes
from reprokit.errors import DataMismatchError, UsageError
from reprokit.schema.facts import Carried
from reprokit.schema.manifest import Entry, Manifest
from reprokit.schema.place import Place, SaveKind

__all__ = ["Piece", "SnapshotMessage", "StoredTensor", "encode", "section_of", "state_digest_of", "stored_tensors"]

_OWN_FILE = 1024 * 1024
_DIGEST_NAME = "sha256-merkle-v1"


class TensorMessage(msgspec.Struct, frozen=True, kw_only=True):
    """One tensor in the shared memory; or, with `alias`, another name of one."""

    section: Literal["model", "optimizer", "ema", "gradients", "state"]
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

    kind: SaveKind
    framework: str
    tensors: list[TensorMessage]
    files: list[FileMessage]
    state: Any
    config: Any = None
    epoch: int | None = None
    step: int | None = None
    batch: int | None = None
    metrics: dict[str, float] = {}
    package: str | None = None
    numeric: dict[str, Any] = {}
    carried: Carried = {}
    unresumable: list[str] = []

    @property
    def place(self) -> Place:
        return Place(kind=self.kind, epoch=self.epoch, step=self.step, batch=self.batch)


@dataclass(frozen=True, slots=True)
class Piece:
    """One entry of a checkpoint version, not stored yet: its bytes in parts, which lie in the shared memory."""

    key: str
    parts: list[memoryview]
    digest: Digest
    meta: dict[str, Any]

    @property
    def size(self) -> int:
        return sum(len(part) for part in self.parts)


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """Where a tensor lies in a stored checkpoint: bytes `offset … offset + nbytes` of entry `key`.

    `digest` is that of the whole entry where the tensor has a file of its own (1 MiB or more), else that of its bytes
    in C's order. In a file that is kept whole it may lie column by column: `order` is `F` then.
    """

    key: str
    section: str
    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    nbytes: int
    digest: str
    alone: bool = False
    order: Literal["C", "F"] = "C"

    def of(self, data: memoryview) -> memoryview:
        """Return its bytes in C's order, given those that lie in the entry."""
        return by_rows(data, self.dtype, self.shape) if self.order == "F" else data


def encode(message: SnapshotMessage, memory: memoryview) -> tuple[list[Piece], str]:
    """Return the entries of a checkpoint and its state digest. Tensors are hashed where they lie, none is copied.

    Args:
        memory: The shared memory; every range of `message` is checked against it.
    Raises:
        DataMismatchError: The message does not fit the memory: a range outside it, a shape that is not its bytes.
    """
    for tensor in message.tensors:
        if tensor.alias is None:
            _check(tensor, len(memory))
    for file in message.files:
        if file.offset < 0 or file.nbytes < 0 or file.offset + file.nbytes > len(memory):
            raise DataMismatchError(f"The file {file.key!r} of a snapshot lies outside its memory.")
    shards = _shards(message.tensors, memory)
    files = {file.key: memory[file.offset : file.offset + file.nbytes] for file in message.files}
    small = [tensor for shard in shards for tensor in shard.tensors if tensor.nbytes < _OWN_FILE]
    inner = {file.key: _inner(file, files[file.key]) for file in message.files}
    hashed = iter(
        hash_all(
            [
                *(shard.parts for shard in shards),
                *([memory[tensor.offset : tensor.offset + tensor.nbytes]] for tensor in small),
                *([view] for view in files.values()),
                *([view] for views in inner.values() for view in views),
            ]
        )
    )
    of_shards = [next(hashed) for _ in shards]
    digests: dict[tuple[str, str], str] = {(tensor.section, tensor.name): next(hashed).hex for tensor in small}
    pieces: list[Piece] = []
    for shard, digest in zip(shards, of_shards, strict=True):
        if shard.tensors[0].nbytes >= _OWN_FILE:  # the file is this tensor: one hash does for both
            digests[shard.section, shard.tensors[0].name] = digest.hex
        pieces.append(Piece(shard.key, shard.parts, digest, {"reprokit": {"tensors": shard.rows(digests)}}))
    of_files = {key: next(hashed) for key in files}
    for file in message.files:
        rows = [{**tensor, "digest": next(hashed).hex} for tensor in file.tensors]
        pieces.append(Piece(file.key, [files[file.key]], of_files[file.key], {"reprokit": {"tensors": rows}}))
    for section in dict.fromkeys(tensor.section for tensor in message.tensors):
        pieces.append(_index(section, message.tensors, shards))
    state = ordered(message.state)
    pieces.append(_plain("state.json", state))
    if message.config is not None:
        pieces.append(_plain("config.json", ordered(message.config)))
        of_files["config.json"] = pieces[-1].digest
    return pieces, _state_digest(message, digests, of_files, state)


def _state_digest(
    message: SnapshotMessage, digests: dict[tuple[str, str], str], files: dict[str, Digest], state: bytes
) -> str:
    return state_digest_of(
        {
            (t.section, t.name): t.alias if t.alias is not None else (t.dtype, t.shape, digests[t.section, t.name])
            for t in message.tensors
        },
        {key: digest.hex for key, digest in files.items()},
        state,
    )


def state_digest_of(
    tensors: Mapping[tuple[str, str], tuple[str, Sequence[int], str] | str], files: Mapping[str, str], state: bytes
) -> str:
    """Return the Merkle root over a checkpoint's tensors, whole files and state.

    Args:
        tensors: By (section, name), dtype, shape and hex digest of each; of an alias the name it is stored under.
        files: By key, the hex digests of files that are kept whole, and of `config.json`.
        state: The bytes of `state.json`, in which the order of keys is state too.
    """
    leaves: list[dict[str, Any]] = [
        {"section": section, "name": name, "alias": told}
        if isinstance(told, str)
        else {"section": section, "name": name, "dtype": told[0], "shape": list(told[1]), "digest": told[2]}
        for (section, name), told in sorted(tensors.items())
    ]
    leaves += [{"file": key, "digest": files[key]} for key in sorted(files)]
    root = canonical({"leaves": leaves, "state": hashlib.sha256(state).hexdigest()})
    return f"{_DIGEST_NAME}:{hashlib.sha256(root).hexdigest()}"


def _plain(key: str, data: bytes) -> Piece:
    if len(data) > MAX_JSON:
        raise UsageError(
            f"{key} of the checkpoint would be {len(data):,} bytes long; at most {MAX_JSON:,} are read.",
            hint="Keep what is that long as arrays, or in a file of its own.",
        )
    return Piece(key, [memoryview(data)], hash_bytes(data), {})


def _check(tensor: TensorMessage, available: int) -> None:
    inside = 0 <= tensor.offset <= available - tensor.nbytes
    wrong = check_shape(tensor.dtype, tensor.shape, tensor.nbytes)
    if wrong or not inside or tensor.name == "__metadata__":
        raise DataMismatchError(f"The snapshot's tensor {tensor.name!r} is malformed: {tensor}.")


@dataclass(frozen=True, slots=True)
class _Shard:
    """A safetensors file with one possible spelling: widest dtype first, then by name, header padded to 8."""

    key: str
    section: str
    tensors: list[TensorMessage]
    parts: list[memoryview]

    @classmethod
    def of(cls, key: str, section: str, members: Iterable[TensorMessage], memory: memoryview) -> _Shard:
        by_name = {tensor.name: tensor for tensor in members}
        head, places = spell({name: (t.dtype, t.shape, t.nbytes) for name, t in by_name.items()})
        if len(head) > MAX_HEADER:
            raise DataMismatchError(f"{key} would have {len(by_name):,} tensors, too many for one file.")
        ordered = [by_name[name] for name in places]
        bodies = [memory[tensor.offset : tensor.offset + tensor.nbytes] for tensor in ordered]
        return cls(key, section, ordered, [memoryview(head), *bodies])

    def rows(self, digests: dict[tuple[str, str], str]) -> list[dict[str, Any]]:
        """Return what the entry's metadata says of each tensor."""
        rows = []
        offset = len(self.parts[0])
        for tensor in self.tensors:
            rows.append(
                {
                    "name": tensor.name,
                    "dtype": tensor.dtype,
                    "shape": tensor.shape,
                    "offset": offset,
                    "nbytes": tensor.nbytes,
                    "digest": digests[tensor.section, tensor.name],
                }
            )
            offset += tensor.nbytes
        return rows


def _shards(tensors: list[TensorMessage], memory: memoryview) -> list[_Shard]:
    groups: dict[tuple[str, str], list[TensorMessage]] = {}
    for tensor in tensors:
        if tensor.alias is None:
            groups.setdefault((tensor.section, _shard_name(tensor)), []).append(tensor)
    taken: set[str] = set()
    return [
        _Shard.of(_file_name(f"{section}/", name, taken), section, members, memory)
        for (section, name), members in sorted(groups.items())
    ]


def _index(section: str, tensors: list[TensorMessage], shards: list[_Shard]) -> Piece:
    """Return the ecosystem's index of a section's shards."""
    ours = [tensor for tensor in tensors if tensor.section == section]
    aliases = {tensor.name: tensor.alias for tensor in ours if tensor.alias is not None}
    metadata: dict[str, Any] = {"total_size": sum(tensor.nbytes for tensor in ours)}
    if aliases:
        metadata["aliases"] = aliases
    places = {tensor.name: shard.key for shard in shards if shard.section == section for tensor in shard.tensors}
    return _plain(f"{section}.safetensors.index.json", canonical({"metadata": metadata, "weight_map": places}) + b"\n")


def _shard_name(tensor: TensorMessage) -> str:
    if tensor.nbytes >= _OWN_FILE:
        return tensor.name
    module = re.split(r"[./]", tensor.name, maxsplit=1)[0]
    return f"{module}.{tensor.group}" if module != tensor.name else tensor.group


def _file_name(folder: str, name: str, taken: set[str]) -> str:
    """Return the key of a shard: legal everywhere, and unlike the others by more than case."""
    safe = re.sub(r"[^A-Za-z0-9_.\-]", "_", name).strip(".") or "_"
    if len(safe) > 120 or (folder + safe).casefold() in taken:
        safe = f"{safe[:100]}-{hashlib.sha256(name.encode()).hexdigest()[:12]}"
    taken.add((folder + safe).casefold())
    return f"{folder}{safe}.safetensors"


def _inner(file: FileMessage, data: memoryview) -> list[memoryview]:
    """Return the arrays inside a whole file."""
    found = []
    for tensor in file.tensors:
        offset, nbytes = tensor["offset"], tensor["nbytes"]
        inside = 0 <= offset <= offset + nbytes <= len(data)
        if not inside or check_shape(tensor["dtype"], tensor["shape"], nbytes):
            raise DataMismatchError(f"An array of {file.key!r} lies outside it: {tensor}.")
        body = data[offset : offset + nbytes]
        found.append(by_rows(body, tensor["dtype"], tensor["shape"]) if tensor.get("order") == "F" else body)
    return found


def stored_tensors(manifest: Manifest) -> dict[tuple[str, str], StoredTensor]:
    """Return every tensor of a checkpoint version by (section, name), from entry metadata alone.

    Raises:
        DataMismatchError: The metadata does not have the form that `encode` writes.
    """
    found: dict[tuple[str, str], StoredTensor] = {}
    for entry in manifest.entries:
        facts = entry.meta.get("reprokit")
        rows = facts.get("tensors", []) if isinstance(facts, dict) else []
        if not isinstance(rows, list):
            raise DataMismatchError(f"The tensors of {entry.logical_key!r} are malformed: {str(rows)[:200]}.")
        section = section_of(entry.logical_key)
        for row in rows:
            stored = _stored(row, entry, section)
            if (section, stored.name) in found and entry.logical_key.endswith(".safetensors"):
                raise DataMismatchError(f"The {section} tensor {stored.name[:200]!r} is in two places.")
            found[section, stored.name] = stored
    return found


def section_of(key: str) -> str:
    """Return the section that the tensors of a file belong to, by its key."""
    folder, slash, _ = key.partition("/")
    return folder if slash else "model"


def _stored(row: Any, entry: Entry, section: str) -> StoredTensor:
    try:
        name, dtype, shape, digest = row["name"], row["dtype"], row["shape"], row["digest"]
        offset, nbytes, order = row["offset"], row["nbytes"], row.get("order", "C")
    except (KeyError, TypeError, AttributeError):
        raise DataMismatchError(f"The tensors of {entry.logical_key!r} are malformed: {str(row)[:200]}.") from None
    well_typed = isinstance(name, str) and isinstance(dtype, str) and isinstance(shape, list) and _is_text(name)
    orders = ("C",) if entry.logical_key.endswith(".safetensors") else ("C", "F")
    well_placed = type(offset) is int and type(nbytes) is int and order in orders
    if not well_typed or not well_placed or not _is_hex(digest):
        raise DataMismatchError(f"The tensors of {entry.logical_key!r} are malformed: {str(row)[:200]}.")
    if check_shape(dtype, shape, nbytes) or not 0 <= offset <= offset + nbytes <= entry.size:
        raise DataMismatchError(f"Tensor {name[:200]!r} does not lie in {entry.logical_key!r} as it says.")
    return StoredTensor(
        key=entry.logical_key,
        section=section,
        name=name,
        dtype=dtype,
        shape=tuple(shape),
        offset=offset,
        nbytes=nbytes,
        digest=digest,
        alone=entry.logical_key.endswith(".safetensors") and nbytes >= _OWN_FILE,
        order=order,
    )


def _is_text(name: str) -> bool:
    """True for what UTF-8 can hold: half of a surrogate pair is JSON, and no text."""
    return name == name.encode("utf-8", "ignore").decode("utf-8")


def _is_hex(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch(r"[0-9a-f]{64}", value) is not None
