"""A checkpoint without one part of its state: with that part as it was before training, as a restore that forgot it
would leave it. It proves that whoever compares resumed runs notices.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from reprokit.checkpoint.format import FileMessage, SnapshotMessage, StoredTensor, TensorMessage, encode
from reprokit.checkpoint.reader import Checkpoint
from reprokit.client.frameworks import frameworks
from reprokit.core.safe_json import load_json
from reprokit.errors import NotFoundError
from reprokit.registry import Registry
from reprokit.schema.facts import meta_of
from reprokit.schema.manifest import Entry, Manifest

__all__ = ["PARTS", "without"]

_RNG = {label: key for one in frameworks().values() for label, key in one.stored.generators.items()}
PARTS = {
    "parameters": "parameters",
    "buffers": "buffers",
    "non-persistent-buffers": "non-persistent buffers",
    "moments": "optimiser moments",
    "step": "optimiser step",
    "groups": "optimiser groups",
    "scheduler": "scheduler",
    **{label.lower().replace(" ", "-"): label for label in _RNG},
    "loader-generator": "loader generator",
    "own-generator": "own generator",
    "scaler": "GradScaler",
    "ema": "EMA",
    "gradients": "gradients",
}
"""What can be left out: the name on the command line, and the name in what a doctor finds."""

_OWN = ("state.json", "config.json")
_STATE = {
    "optimiser groups": re.compile(r"optimizer\.[^.]+\.groups"),
    "scheduler": re.compile(r"parts\.scheduler\..*"),
    "GradScaler": re.compile(r"parts\.scaler\..*"),
    "loader generator": re.compile(r"rng(\.ranks\.\d+)?\.held\.loader\..*"),
    "own generator": re.compile(r"rng(\.ranks\.\d+)?\.held\.own\..*"),
    **{part: re.compile(rf"rng(\.ranks\.\d+)?\.{key}") for part, key in _RNG.items()},
}
_SECTIONS = {
    **dict.fromkeys(("parameters", "buffers", "non-persistent buffers"), "model"),
    **dict.fromkeys(("optimiser moments", "optimiser step", "optimiser groups"), "optimizer"),
    "EMA": "ema",
    "gradients": "gradients",
}


def without(
    part: str, checkpoint: Checkpoint, initial: Checkpoint, sources: list[Mapping[str, Any]], *, registry: Registry
) -> Manifest:
    """Return a version in the registry, published nowhere, that is `checkpoint` but for one part.

    Args:
        part: One of the values of `PARTS`.
        initial: The state before training, which the part is taken from; what is not in it becomes zero.
        sources: What was found in the process, which tells parameters, buffers and optimiser slots apart.
    Raises:
        NotFoundError: This checkpoint has no such part.
    """
    tensors = {key: one for key, one in checkpoint.all_stored().items() if one.key.endswith(".safetensors")}
    before = initial.all_stored()
    chosen = {key for key in tensors if _is_of(part, *key, sources)}
    state, old = copy.deepcopy(checkpoint.raw_state), initial.raw_state
    borrowed = _replace(state, old, part) if part in _STATE else None
    if not chosen and borrowed is None:
        raise NotFoundError(f"This recipe's checkpoints have no {part}: nothing can be left out.")
    memory, messages = bytearray(), []
    for key, stored in tensors.items():
        if part == "gradients" and key in chosen:
            continue
        data = checkpoint.raw(stored.name, stored.section)
        if key in chosen:
            data = initial.raw(stored.name, stored.section) if key in before else bytes(stored.nbytes)
        messages.append(_append(memory, stored, data))
    for name in borrowed or ():
        stored = before["state", name]
        messages.append(_append(memory, stored, initial.raw(name, "state"), name=f"initial/{name}"))
    for section in {stored.section for stored in tensors.values()}:
        for alias, of in checkpoint.aliases(section).items():
            messages.append(_alias(section, alias, of))
    return _store(checkpoint, messages, memory, state, registry)


def _is_of(part: str, section: str, name: str, sources: list[Mapping[str, Any]]) -> bool:
    """True if a tensor of the checkpoint belongs to the part; of several models, each puts its name before its own."""
    if _SECTIONS.get(part) != section:
        return False
    if section in ("ema", "gradients"):
        return True
    items = {item for source in sources for item in source["parts"].get(part, {})}
    return name in items or any(name.endswith((f".{item}", f":{item}")) for item in items)


def _append(memory: bytearray, stored: StoredTensor, data: bytes, *, name: str | None = None) -> TensorMessage:
    offset = len(memory)
    memory += data
    section: Any = stored.section
    return TensorMessage(
        section=section,
        name=name or stored.name,
        dtype=stored.dtype,
        shape=list(stored.shape),
        offset=offset,
        nbytes=stored.nbytes,
    )


def _alias(section: Any, name: str, of: str) -> TensorMessage:
    return TensorMessage(section=section, name=name, alias=of)


def _replace(state: Any, old: Any, part: str) -> list[str] | None:
    """Put what `old` has into `state`, in place; return the tensors that it names, None if nothing was replaced.

    In the middle of an epoch the generators are there a second time, as they were when its batches were drawn.
    """
    pattern, found = _STATE[part], False
    names: list[str] = []
    for path, parent, key in list(_paths(state)):
        plain = re.sub(r"^position\.[^.]+\.", "rng.", path)
        value = _at(old, plain) if pattern.fullmatch(plain) else _ABSENT
        if value is _ABSENT:
            continue
        parent[key] = _borrow(copy.deepcopy(value), names)
        found = True
    return names if found else None


def _paths(value: Any, where: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yield (path, parent, key) of everything in JSON, parents first."""
    items: Any = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        path = f"{where}.{key}" if where else str(key)
        yield path, value, key
        yield from _paths(item, path)


_ABSENT = object()


def _at(value: Any, path: str) -> Any:
    for found, parent, key in _paths(value):
        if found == path:
            return parent[key]
    return _ABSENT


def _borrow(value: Any, names: list[str]) -> Any:
    """Return a value whose tensors are named as those taken from the initial state are."""
    if isinstance(value, list):
        return [_borrow(item, names) for item in value]
    if not isinstance(value, dict):
        return value
    if set(value) == {"$tensor"}:
        names.append(str(value["$tensor"]["name"]))
        return {"$tensor": {**value["$tensor"], "name": f"initial/{names[-1]}"}}
    return {key: _borrow(item, names) for key, item in value.items()}


def _store(
    checkpoint: Checkpoint, tensors: list[TensorMessage], memory: bytearray, state: Any, registry: Registry
) -> Manifest:
    package, facts = checkpoint.package, checkpoint.facts
    config = package.entry("config.json").read() if "config.json" in package else None
    files = []
    for entry in package.manifest.entries:
        if (
            not entry.logical_key.endswith((".safetensors", ".safetensors.index.json"))
            and entry.logical_key not in _OWN
        ):
            files.append(FileMessage(key=entry.logical_key, offset=len(memory), nbytes=entry.size))
            memory += package.entry(entry.logical_key).read()
    message = SnapshotMessage(
        kind="checkpoint",
        framework=facts.framework,
        tensors=tensors,
        files=files,
        state=state,
        config=None if config is None else load_json(config, what=f"config.json of {package}"),
    )
    pieces, digest = encode(message, memoryview(memory))
    with registry.staging() as sink:
        for piece in pieces:
            sink.put_hashed(piece.digest, piece.parts, piece.size)
    entries = [Entry(piece.key, piece.size, piece.digest, piece.meta) for piece in pieces]
    return Manifest.make(
        entries, message="without a part", user_meta=meta_of(msgspec.structs.replace(facts, state_digest=digest))
    )
