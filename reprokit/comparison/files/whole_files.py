"""In what two files that checkpoints keep whole differ besides their arrays: attributes, text, how arrays are laid out.

The places of the arrays are known; every other byte counts. In an archive, as skops writes them, the sums over members
that hold arrays follow from these, and are left out.
"""

from __future__ import annotations

import io
import re
import struct
import zipfile
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

from reprokit.checkpoint.format import StoredTensor
from reprokit.client.plain import strict_json
from reprokit.comparison.json_paths import differing_paths

__all__ = ["parts_besides_arrays"]

_SCHEMA = "schema.json"
_ARRAYS = (".npy", ".npz")
_MOST_PARTS = 8
_MALFORMED = (zipfile.BadZipFile, struct.error, ValueError, NotImplementedError, RecursionError, KeyError, TypeError)


def parts_besides_arrays(
    left: tuple[bytes, Iterable[StoredTensor]], right: tuple[bytes, Iterable[StoredTensor]]
) -> list[str]:
    """Return in what two files differ that is none of their arrays, at most eight parts; nothing if all else is equal.

    Args:
        left, right: The bytes of each, and the arrays that lie in it.
    """
    one, other = (_Blanked(*side) for side in (left, right))
    if one.data == other.data:
        return []
    if not (one.members and other.members):
        return ["what is no array"]
    return list(dict.fromkeys(islice(_named(one, other), _MOST_PARTS))) or ["the archive itself"]


class _Blanked:
    """A file with zeros for its arrays, and for what is computed of them."""

    def __init__(self, data: bytes, arrays: Iterable[StoredTensor]) -> None:
        self.data = bytearray(data)
        self.members: dict[str, bytes] = {}
        sums: list[int] = []
        try:
            spans = dict(_members(data, 0, len(data), sums))
        except _MALFORMED:
            spans, sums = {}, []
        for array in arrays:
            inside = any(a <= array.offset and array.offset + array.nbytes <= b for _, (a, b) in _holders(spans))
            if inside or not spans:
                self.data[array.offset : array.offset + array.nbytes] = bytes(array.nbytes)
        for place in sums:
            self.data[place : place + 4] = bytes(4)
        self.members = {name: bytes(self.data[start:end]) for name, (start, end) in spans.items()}

    def schema(self) -> Any:
        return strict_json(self.members[_SCHEMA])


def _holders(spans: dict[str, tuple[int, int]]) -> Iterator[tuple[str, tuple[int, int]]]:
    return ((name, span) for name, span in spans.items() if name.endswith(_ARRAYS))


def _members(data: bytes, start: int, end: int, sums: list[int]) -> Iterator[tuple[str, tuple[int, int]]]:
    """Yield where the members of an archive lie, with those of archives of arrays in it; note where sums stand."""
    with zipfile.ZipFile(io.BytesIO(data[start:end])) as archive:
        members, at = archive.infolist(), start + getattr(archive, "start_dir")  # noqa: B009 - typeshed lacks it
    for info in members:
        if info.compress_type != zipfile.ZIP_STORED:
            raise ValueError("a member is packed")
        local = start + info.header_offset
        begin = local + 30 + sum(struct.unpack_from("<HH", data, local + 26))
        heads = data[local : local + 4], data[at : at + 4]
        if heads != (b"PK\x03\x04", b"PK\x01\x02") or begin + info.file_size > end:
            raise ValueError("a member lies elsewhere")
        if info.filename.endswith(_ARRAYS):
            sums += [local + 14, at + 16]
        yield info.filename, (begin, begin + info.file_size)
        if info.filename.endswith(".npz") and start == 0:
            inner = _members(data, begin, begin + info.file_size, sums)
            yield from ((f"{info.filename}/{name}", span) for name, span in inner)
        at += 46 + sum(struct.unpack_from("<HHH", data, at + 28))


def _named(one: _Blanked, other: _Blanked) -> Iterator[str]:
    """Yield the parts that differ, as the attributes of the object that the archive describes."""
    try:
        ours, theirs = one.schema(), other.schema()
        for path in differing_paths(ours, theirs):
            if not path.endswith(("__id__", "file")):
                yield _attribute(path) or _SCHEMA
        names = {str(file): _attribute(path) for path, file in _files(ours)}
    except _MALFORMED:
        names = {}
    for name in dict.fromkeys([*one.members, *other.members]):
        if name != _SCHEMA and one.members.get(name) != other.members.get(name):
            yield names.get(name.partition("/")[0]) or name


def _attribute(path: str) -> str:
    return re.sub(r"(^|\.)(content|__reduce__)(?=[.\[]|$)", "", path).strip(".")


def _files(node: Any, where: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(node, list):
        for index, item in enumerate(node):
            yield from _files(item, f"{where}[{index}]")
    elif isinstance(node, dict):
        if "file" in node:
            yield where, node["file"]
        for key, item in node.items():
            yield from _files(item, f"{where}.{key}")
