"""Scikit-learn estimators as bytes, and back: skops files with one possible spelling.

A file to be loaded comes from a registry and is hostile until proven otherwise: it is constructed only if every type in
it is one of skops' own list, a class that scikit-learn itself defines, or part of the estimator that the script made.
"""

from __future__ import annotations

import importlib
import io
import json
import re
import zipfile
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse
from sklearn.utils import Bunch, check_random_state

from reprokit.client.frameworks.sklearn import is_no_state
from reprokit.client.skops_audit import audit
from reprokit.client.skops_import import skops_io
from reprokit.client.tensors import DTYPES

__all__ = ["Dumped", "dump", "load"]

_EPOCH = (1980, 1, 1, 0, 0, 0)
_SCHEMA = "schema.json"
# skops numbers every object; whether two places hold one object matters only for what can be changed
_IMMUTABLE = frozenset({"JsonNode", "TupleNode", "TypeNode", "FunctionNode", "SliceNode", "DTypeNode", "BytesNode"})
_CONTAINERS = frozenset({"DictNode", "DefaultDictNode", "ListNode", "SetNode", "TupleNode"})  # their order is kept
_SEARCH_TIMES = re.compile(r"(.*\.)?(cv_results_\.(mean|std)_(fit|score)_time|refit_time_)")
_NULL = {"__class__": "str", "__module__": "builtins", "__loader__": "JsonNode", "content": "null", "is_json": True}
# parts of scikit-learn whose classes are no part of a model
_NO_MODELS = ("datasets", "experimental", "externals", "utils", "tests", "conftest")
_ALSO = frozenset({f"{Bunch.__module__}.{Bunch.__qualname__}"})


class Dumped(NamedTuple):
    """An estimator as a canonical skops file.

    Attributes:
        tensors: Where its arrays lie in it: name, dtype, shape, offset, nbytes, and `order` if that is `F`.
        shares_global: The estimator draws from NumPy's global generator itself.
    """

    data: bytes
    tensors: list[dict[str, Any]]
    shares_global: bool


def dump(estimator: Any) -> Dumped:
    """Return a skops file whose bytes depend on the estimator alone.

    skops names members after memory addresses, numbers objects by `id()`, stamps times and orders attributes as they
    came to be; arrays of records carry whatever their padding held. All of it is replaced: attributes are sorted,
    members and objects are numbered in that order, times are fixed, padding is zero, nothing is compressed. What is no
    state of an estimator is null, and the seconds that a search over parameters took are NaN.
    """
    return _canonical(skops_io.dumps(estimator), id(check_random_state(None)))


def _canonical(data: bytes, shared: int | None = None) -> Dumped:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        schema = json.loads(archive.read(_SCHEMA))
        members = {name: archive.read(name) for name in archive.namelist() if name != _SCHEMA}
    spelling = _Spelling(members)
    schema = spelling.node(schema, "")
    out = io.BytesIO()
    tensors: list[dict[str, Any]] = []
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        _write(archive, _SCHEMA, json.dumps(schema, indent=1).encode())
        for new, where, body in spelling.bodies:
            start = _write(archive, new, body)
            tensors += _describe(new, where or "content", body, start)
    return Dumped(out.getvalue(), tensors, shared in spelling.numbers)


class _Spelling:
    """One way to write a schema: its walk, and what it met."""

    def __init__(self, members: dict[str, bytes]) -> None:
        self._members = members
        self.numbers: dict[int, int] = {}
        self._names: dict[str, str] = {}
        self.bodies: list[tuple[str, str, bytes]] = []

    def node(self, node: Any, where: str) -> Any:
        """Return a node of the schema with numbers of its own."""
        if isinstance(node, list):
            return [self.node(item, f"{where}[{i}]") for i, item in enumerate(node)]
        if not isinstance(node, dict):
            return node
        if "__loader__" not in node:
            return {name: self.node(value, f"{where}.{name}" if where else name) for name, value in node.items()}
        loader = node["__loader__"]
        immutable = loader in _IMMUTABLE or (loader == "NdArrayNode" and node["__class__"] != "ndarray")
        result: dict[str, Any] = {}
        for key in sorted(node):
            value = node[key]
            if key == "__id__":
                if not immutable:
                    result[key] = self.numbers.setdefault(value, len(self.numbers) + 1)
            elif key == "file" and isinstance(value, str):
                result[key] = self._member(value, where, shared=not immutable)
            elif key == "content" and loader == "JsonNode":
                result[key] = self._plain(value, where)
            elif key == "content" and loader not in _CONTAINERS:
                result[key] = self.node(_attributes(value, str(node.get("__module__"))), where)
            else:
                step = f"{where}.{key}" if where else key
                result[key] = self.node(value, where if key in ("content", "__reduce__") else step)
        return result

    def _plain(self, text: Any, where: str) -> Any:
        return "NaN" if _SEARCH_TIMES.fullmatch(where) else text

    def _member(self, old: str, where: str, *, shared: bool) -> str:
        if shared and old in self._names:
            return self._names[old]
        name = self._names[old] = f"{len(self.bodies) + 1}.{old.rpartition('.')[2]}"
        body = self._members[old]
        if old.endswith(".npy"):
            array = _load(body)
            if _SEARCH_TIMES.fullmatch(where):
                body = _saved(np.full_like(array, np.nan))
            elif array.dtype.names is not None:
                body = _saved(_without_padding(array))
        elif old.endswith(".npz"):  # a sparse matrix
            body = _stored(body)
        self.bodies.append((name, where, body))
        return name


def _attributes(attributes: Any, module: str) -> Any:
    """Return the mapping of an object's attributes in the order of their names, null for what is no state."""
    if not isinstance(attributes, dict) or attributes.get("__loader__") != "DictNode":
        return attributes
    told = {name: _NULL if is_no_state(name, module) else value for name, value in attributes["content"].items()}
    return {**attributes, "content": dict(sorted(told.items()))}


def _write(archive: zipfile.ZipFile, name: str, body: bytes) -> int:
    """Add a member; return where its bytes start in the archive."""
    archive.writestr(zipfile.ZipInfo(name, date_time=_EPOCH), body)
    stream: Any = archive.fp
    return int(stream.tell()) - len(body)


def _load(body: bytes) -> Any:
    return np.load(io.BytesIO(body), allow_pickle=False)


def _saved(array: Any) -> bytes:
    out = io.BytesIO()
    np.save(out, array, allow_pickle=False)
    return out.getvalue()


def _stored(body: bytes) -> bytes:
    """Return a zip file with the same members, not compressed and without times."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(body)) as before, zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        for name in before.namelist():
            _write(archive, name, before.read(name))
    return out.getvalue()


def _without_padding(array: Any) -> Any:
    clean = np.zeros(array.shape, dtype=array.dtype)
    for field in array.dtype.names:
        clean[field] = array[field]
    return clean


def _describe(member: str, where: str, body: bytes, start: int) -> list[dict[str, Any]]:
    """Return the arrays of a member, which begins at `start`: the one that it is, or those of a sparse matrix.

    Records, text and numbers of the other byte order are none: they count as the bytes that they are stored as.
    """
    if member.endswith(".npz"):
        found = []
        with zipfile.ZipFile(io.BytesIO(body)) as archive:
            for info in archive.infolist():
                begin = start + info.header_offset + 30 + len(info.filename.encode())  # as `_write` writes its head
                part = f"{where}.{info.filename.removesuffix('.npy')}"
                found += _describe(info.filename, part, archive.read(info), begin)
        return found
    if not member.endswith(".npy"):
        return []
    array = _load(body)
    plain = DTYPES.get(str(array.dtype)) if array.dtype.isnative else None
    if plain is None:
        return []
    offset = start + len(body) - array.nbytes
    row = {"name": where, "dtype": plain, "shape": list(array.shape), "offset": offset, "nbytes": array.nbytes}
    return [row if array.flags.c_contiguous else {**row, "order": "F"}]


def load(data: bytes, *, like: Any, trusted: Iterable[str] = ()) -> Any:
    """Return the estimator of a canonical skops file.

    Args:
        like: An estimator of the script's own making; the types in it are trusted.
        trusted: Full names of further types.
    Raises:
        RuntimeError: The file has types that nothing vouches for (they are named), or is no file of `dump`'s making.
    """
    own = skops_io.dumps(like)
    known = {*trusted, *skops_io.get_untrusted_types(data=own)}
    try:
        _check(data, own)
        unknown = [name for name in skops_io.get_untrusted_types(data=data) if name not in known]
        refused = [name for name in unknown if not _is_part_of_models(name)]
        if not refused:
            return skops_io.loads(data, trusted=sorted({*known, *unknown}))
    except Exception as error:  # noqa: BLE001 - whatever a hostile file makes a parser raise
        raise RuntimeError(f"reprokit: the checkpoint's estimator cannot be read: {error!r}") from None
    raise RuntimeError(
        f"reprokit: the checkpoint's estimator has types that are not trusted: {', '.join(refused)}. Nothing was "
        "loaded. If they are yours, name them: PackageCheckpoint(…, trusted=[…])"
    )


def _check(data: bytes, own: bytes) -> None:
    """Raise a ValueError unless `data` is spelled as this module spells it, by the skops that wrote `own`."""
    audit(data)
    protocol, expected = _protocol(data), _protocol(own)
    if protocol != expected:  # files of an older protocol are judged by its laxer rules
        raise ValueError(f"it has protocol {protocol} of skops, here is {expected}")
    if _canonical(data).data != data:
        raise ValueError("it is not spelled as reprokit spells it")


def _protocol(data: bytes) -> Any:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return json.loads(archive.read(_SCHEMA))["protocol"]


def _is_part_of_models(name: str) -> bool:
    """True for a class that scikit-learn defines itself, in a module for models, and for a sparse matrix."""
    module, _, attribute = name.rpartition(".")
    parts = module.split(".")
    own = parts[0] == "sklearn" and not any(part in _NO_MODELS for part in parts)
    if not own and name not in _ALSO and parts[:2] != ["scipy", "sparse"]:
        return False
    try:
        found = getattr(importlib.import_module(module), attribute, None)
    except ImportError:
        return False
    if not isinstance(found, type) or found.__module__ != module or found.__qualname__ != attribute:
        return False
    return parts[0] == "sklearn" or issubclass(found, (scipy.sparse.spmatrix, scipy.sparse.sparray))
