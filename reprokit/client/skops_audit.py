"""Look through a skops file before skops sees it, which reads members whole, and arrays as long as their headers say.

What passes can still be wrong, and an estimator's own code does not check it: a tree whose nodes lead astray crashes
when it predicts.
"""

from __future__ import annotations

import math
import zipfile
from collections.abc import Iterator
from io import BytesIO
from typing import Any

import numpy as np
from numpy.lib import format as npy

from reprokit.client.plain import strict_json

__all__ = ["audit"]

_MAX_DEPTH = 400
_RATIO, _SLACK = 200, 64 * 1024 * 1024  # a sparse matrix may unpack to so many times its size, and this
_STATE_LENGTH = 624  # of the Mersenne Twister
_MAX_POOL = 64


def audit(data: bytes) -> None:
    """Do nothing if a file is one that the callback could have written, in memory in proportion to its size.

    Raises:
        ValueError: It is not; or something that reading a malformed file raises.
    """
    with zipfile.ZipFile(BytesIO(data)) as archive:
        members = archive.infolist()
        stored = all(m.compress_type == zipfile.ZIP_STORED and not m.flag_bits & 1 for m in members)
        names = {m.filename for m in members}
        flat = all("/" not in name and "\\" not in name for name in names)
        if not stored or not flat or len(names) != len(members) or sum(m.file_size for m in members) > len(data):
            raise ValueError("its members are not stored as such")
        schema = strict_json(archive.read("schema.json"))
        for member in members:
            if member.filename.endswith((".npy", ".npz")):
                _check_arrays(archive.read(member), member.filename)
        _check_nodes(schema, archive)


def _check_arrays(data: bytes, name: str) -> None:
    if not zipfile.is_zipfile(BytesIO(data)) or data.startswith(b"\x93NUMPY"):
        _check_npy(BytesIO(data), len(data), name)
        return
    with zipfile.ZipFile(BytesIO(data)) as archive:
        members = archive.infolist()
        if sum(member.file_size for member in members) > _SLACK + _RATIO * len(data):
            raise ValueError(f"{name} would unpack to out of proportion with its {len(data):,} bytes")
        for member in members:
            with archive.open(member) as handle:
                _check_npy(handle, member.file_size, name)


def _check_npy(handle: Any, size: int, name: str) -> None:
    """Raise if the array does not have the bytes that its header says, or would be unpickled."""
    version = npy.read_magic(handle)
    shape, _, dtype = npy.read_array_header_1_0(handle) if version == (1, 0) else npy.read_array_header_2_0(handle)
    if dtype.hasobject or math.prod(shape) * dtype.itemsize != size - handle.tell() or math.prod(shape) > size:
        raise ValueError(f"{name} has {size:,} bytes, which are not the array that its header says")


def _check_nodes(schema: Any, archive: zipfile.ZipFile) -> None:
    """Refuse the states that compiled code takes without looking, and sets whose items can be endless to hash."""
    nodes = list(_nodes(schema))
    no_plain = {node.get("__id__") for node in nodes if node.get("__loader__") != "JsonNode"} - {None}
    for node in nodes:
        if not _is_below(node.get("pos"), _STATE_LENGTH) or not _is_below(node.get("pool_size"), _MAX_POOL):
            raise ValueError("it holds the state of a generator that cannot be one")
        # a node is that which first had its number, whatever else it says of itself
        if node.get("__loader__") == "SetNode" and any(
            item.get("__loader__") != "JsonNode" or item.get("__id__") in no_plain for item in node["content"]
        ):
            raise ValueError("it holds a set of more than numbers and text")
        if node.get("__class__") == "Tree" and str(node.get("__module__")).startswith("sklearn.tree"):
            _, classes, outputs = node["__reduce__"]["args"]["content"]
            count = np.load(BytesIO(archive.read(classes["file"])), allow_pickle=False).size
            if strict_json(outputs["content"].encode()) != count:
                raise ValueError("it holds a tree whose outputs are not those it has classes for")


def _nodes(schema: Any) -> Iterator[dict[str, Any]]:
    pending = [(schema, 0)]
    while pending:
        node, depth = pending.pop()
        if depth > _MAX_DEPTH:
            raise ValueError(f"it nests deeper than {_MAX_DEPTH} levels")
        if isinstance(node, dict):
            yield node
            pending.extend((item, depth + 1) for item in node.values())
        elif isinstance(node, list):
            pending.extend((item, depth + 1) for item in node)


def _is_below(node: Any, limit: int) -> bool:
    """True unless it is a number, as skops spells one, that is not in 0 … `limit`."""
    text = node.get("content") if isinstance(node, dict) else None
    return not isinstance(text, str) or not text.lstrip("-").isdecimal() or 0 <= int(text) <= limit
