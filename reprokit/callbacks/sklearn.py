"""Checkpoints of scikit-learn estimators, as skops files with the same bytes for the same fit."""

from __future__ import annotations

import io
import json
import zipfile
from typing import Any

import numpy as np
import skops.io

from reprokit.client import connect, number
from reprokit.client.rng import rng_state
from reprokit.client.snapshot import Snapshot
from reprokit.client.tensors import DTYPES
from reprokit.client.writer import Saving

__all__ = ["PackageCheckpoint"]

_EPOCH = (1980, 1, 1, 0, 0, 0)
KEY = "model.skops"


class PackageCheckpoint:
    """Saves an estimator after `fit`, or after each `partial_fit`.

    ckpt = PackageCheckpoint()
    model.fit(x, y)
    ckpt.save(model, accuracy=model.score(x_test, y_test))
    """

    def __init__(self, *, package: str | None = None) -> None:
        self.package = package
        self._saved = 0

    def save(
        self, estimator: Any, *, epoch: int | None = None, state: dict[str, Any] | None = None, **metrics: Any
    ) -> Saving:
        """Save a fitted estimator.

        Args:
            epoch: From 0; counts the saves if not given.
            state: Anything of your own that training depends on.
        Returns:
            Its way into the registry; `.result()` waits for it.
        """
        values = {name: number(name, value) for name, value in metrics.items()}
        if epoch is None:
            epoch = self._saved
        data, tensors = canonical_skops(skops.io.dumps(estimator))
        snapshot = Snapshot(framework="sklearn")
        snapshot.add_file(KEY, data, tensors)
        snapshot.state = {"epoch": epoch, "rng": rng_state(), "user": state or {}}
        snapshot.config = {"class": f"{type(estimator).__module__}.{type(estimator).__qualname__}"}
        result = snapshot.save(epoch=epoch, step=None, metrics=values, package=self.package)
        connect().send({"type": "epoch", "epoch": epoch})
        self._saved += 1
        return result


def canonical_skops(data: bytes) -> tuple[bytes, list[dict[str, Any]]]:
    """Return a skops file whose bytes depend on the estimator alone, and where its arrays lie in it.

    skops names members after memory addresses, numbers objects by `id()` and stamps times; arrays of records carry
    whatever their padding held. All four are replaced: members and objects are renumbered in the order in which the
    schema mentions them, times are fixed, padding is zero, nothing is compressed.
    """
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        schema = json.loads(archive.read("schema.json"))
        members = {name: archive.read(name) for name in archive.namelist() if name != "schema.json"}
    order: dict[str, tuple[str, str]] = {}
    identities: dict[int, int] = {}
    schema = _renumber(schema, "", order, identities)
    out = io.BytesIO()
    tensors: list[dict[str, Any]] = []
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        _write(archive, "schema.json", json.dumps(schema, sort_keys=True, indent=1).encode())
        for old, (new, where) in order.items():
            body = _without_padding(members[old]) if old.endswith(".npy") else members[old]
            start = _write(archive, new, body)
            tensors += _describe(where, body, start) if new.endswith(".npy") else []
    return out.getvalue(), tensors


def _renumber(node: Any, where: str, order: dict[str, tuple[str, str]], identities: dict[int, int]) -> Any:
    if isinstance(node, list):
        return [_renumber(item, f"{where}[{i}]", order, identities) for i, item in enumerate(node)]
    if not isinstance(node, dict):
        return node
    result: dict[str, Any] = {}
    for key, value in node.items():
        if key == "__id__" and isinstance(value, int):
            result[key] = identities.setdefault(value, len(identities) + 1)
        elif key == "file" and isinstance(value, str):
            suffix = value.rpartition(".")[2]
            result[key], _ = order.setdefault(value, (f"{len(order) + 1}.{suffix}", where))
        else:
            step = where if key in ("content", "__reduce__") else f"{where}.{key}" if where else key
            result[key] = _renumber(value, step, order, identities)
    return result


def _write(archive: zipfile.ZipFile, name: str, body: bytes) -> int:
    """Add a member; return where its bytes start in the archive."""
    archive.writestr(zipfile.ZipInfo(name, date_time=_EPOCH), body)
    stream: Any = archive.fp
    return int(stream.tell()) - len(body)


def _without_padding(body: bytes) -> bytes:
    array = np.load(io.BytesIO(body), allow_pickle=False)
    if array.dtype.names is None:
        return body
    clean = np.zeros(array.shape, dtype=array.dtype)
    for field in array.dtype.names:
        clean[field] = array[field]
    out = io.BytesIO()
    np.save(out, clean, allow_pickle=False)
    return out.getvalue()


def _describe(where: str, body: bytes, start: int) -> list[dict[str, Any]]:
    array = np.load(io.BytesIO(body), allow_pickle=False)
    name = where or "content"
    plain = DTYPES.get(str(array.dtype)) if array.dtype.isnative else None
    if plain is None or not array.flags.c_contiguous:  # records, text, Fortran order: compared as bytes
        return [{"name": name, "dtype": "U8", "shape": [len(body)], "offset": start, "nbytes": len(body)}]
    offset = start + len(body) - array.nbytes
    return [{"name": name, "dtype": plain, "shape": list(array.shape), "offset": offset, "nbytes": array.nbytes}]
