"""Estimators back from skops and joblib files: only types that skops knows, and those that the caller names.

A skops file is looked through before skops sees it: skops reads members whole, and arrays as long as their headers say.
What is loaded can still be wrong, and an estimator's own code does not check it: a tree whose nodes lead astray crashes
when it predicts. Load estimators of people whom you would let run code.
"""

from __future__ import annotations

import math
import zipfile
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import skops.io
from numpy.lib import format as npy
from skops.io.exceptions import UntrustedTypesFoundException

from reprokit.checkpoint.pickles import BROKEN, load_pickled, not_named
from reprokit.checkpoint.reader import Checkpoint, load_checkpoint
from reprokit.errors import DataMismatchError, NotFoundError
from reprokit.registry import Registry
from reprokit.untrusted import load_json

__all__ = ["estimator_of", "load_estimator", "load_skops", "save_joblib"]

_MAX_DEPTH = 400
_MAX_SCHEMA = 256 * 1024 * 1024
_RATIO, _SLACK = 200, 64 * 1024 * 1024  # a sparse matrix may unpack to so many times its size, and this
_STATE_LENGTH = 624  # of the Mersenne Twister
_MAX_POOL = 64


def load_estimator(ref: str, *, types: Sequence[str] = (), registry: Registry | str | None = None) -> Any:
    """Return the scikit-learn estimator of a checkpoint.

    Args:
        types: Full names of types beyond those that skops knows, e.g. `["mypackage.MyTransformer"]`. Their code runs.
    Raises:
        RefusedError: It holds further types; they are named.
        DataMismatchError: It is corrupt or malformed.
        NotFoundError: The checkpoint holds no estimator.
    """
    return estimator_of(load_checkpoint(ref, registry=registry), types=types)


def estimator_of(checkpoint: Checkpoint, *, types: Sequence[str] = ()) -> Any:
    """Return the estimator of an open checkpoint; see `load_estimator`."""
    package = checkpoint.package
    if "model.skops" in package:
        return load_skops(package.entry("model.skops").read(), types=types, what=f"model.skops of {package}")
    if "model.joblib" in package:
        return load_pickled(package.entry("model.joblib").read(), types=types)
    raise NotFoundError(f"{package} holds no estimator.", hint="`reprokit ls` lists its files.")


def save_joblib(checkpoint: Checkpoint, path: Path, *, types: Sequence[str] = ()) -> None:
    """Write the estimator as a joblib file, for whoever trusts us: joblib files run code where they are loaded."""
    joblib.dump(estimator_of(checkpoint, types=types), path)


def load_skops(data: bytes, *, types: Sequence[str] = (), what: str = "The skops file") -> Any:
    """Return what a skops file of reprokit's holds; the errors are those of `load_estimator`."""
    try:
        _audit(data, what)
        return skops.io.loads(data, trusted=list(types))
    except UntrustedTypesFoundException:
        raise not_named(what, set(skops.io.get_untrusted_types(data=data)) - set(types)) from None
    except DataMismatchError:
        raise
    except BROKEN as error:
        raise DataMismatchError(f"{what} is malformed: {type(error).__name__}: {str(error)[:200]}.") from None


def _audit(data: bytes, what: str) -> None:
    """Raise if a skops file is not one that the callback writes, or holds what takes memory out of proportion."""
    with zipfile.ZipFile(BytesIO(data)) as archive:
        members = archive.infolist()
        stored = all(m.compress_type == zipfile.ZIP_STORED and not m.flag_bits & 1 for m in members)
        names = {m.filename for m in members}
        flat = all("/" not in name and "\\" not in name for name in names)
        if not stored or not flat or len(names) != len(members) or sum(m.file_size for m in members) > len(data):
            raise DataMismatchError(
                f"{what} is not a skops file that reprokit wrote: its members are not stored as such."
            )
        schema = load_json(
            archive.read("schema.json"), what=f"schema.json in {what}", max_bytes=_MAX_SCHEMA, max_depth=_MAX_DEPTH
        )
        for member in members:
            if member.filename.endswith((".npy", ".npz")):
                _check_arrays(archive.read(member), f"{member.filename} in {what}")
        _check_nodes(schema, archive, what)


def _check_arrays(data: bytes, what: str) -> None:
    if not zipfile.is_zipfile(BytesIO(data)) or data.startswith(b"\x93NUMPY"):
        _check_npy(BytesIO(data), len(data), what)
        return
    with zipfile.ZipFile(BytesIO(data)) as archive:
        members = archive.infolist()
        if sum(member.file_size for member in members) > _SLACK + _RATIO * len(data):
            raise DataMismatchError(f"{what} would unpack to out of proportion with its {len(data):,} bytes.")
        for member in members:
            with archive.open(member) as handle:
                _check_npy(handle, member.file_size, what)


def _check_npy(handle: Any, size: int, what: str) -> None:
    """Raise if the array does not have the bytes that its header says, or would be unpickled."""
    version = npy.read_magic(handle)
    shape, _, dtype = npy.read_array_header_1_0(handle) if version == (1, 0) else npy.read_array_header_2_0(handle)
    if dtype.hasobject or math.prod(shape) * dtype.itemsize != size - handle.tell() or math.prod(shape) > size:
        raise DataMismatchError(f"{what} has {size:,} bytes, which are not the array that its header says.")


def _check_nodes(schema: Any, archive: zipfile.ZipFile, what: str) -> None:
    """Refuse the states that compiled code takes without looking: of generators and of trees."""
    pending = [schema]
    while pending:
        node = pending.pop()
        if isinstance(node, list):
            pending.extend(node)
        if not isinstance(node, dict):
            continue
        pending.extend(node.values())
        if not _is_below(node.get("pos"), _STATE_LENGTH) or not _is_below(node.get("pool_size"), _MAX_POOL):
            raise DataMismatchError(f"{what} holds the state of a generator that cannot be one.")
        if node.get("__class__") == "Tree" and str(node.get("__module__")).startswith("sklearn.tree"):
            _, classes, outputs = node["__reduce__"]["args"]["content"]
            count = np.load(BytesIO(archive.read(classes["file"])), allow_pickle=False).size
            if load_json(outputs["content"].encode(), what=what) != count:
                raise DataMismatchError(f"{what} holds a tree whose outputs are not those it has classes for.")


def _is_below(node: Any, limit: int) -> bool:
    """True unless it is a number, as skops spells one, that is not in 0 … `limit`."""
    text = node.get("content") if isinstance(node, dict) else None
    return not isinstance(text, str) or not text.lstrip("-").isdecimal() or 0 <= int(text) <= limit
