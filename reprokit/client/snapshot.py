"""A snapshot: named tensors copied into memory that the runner shares, plus state."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from reprokit.client import number, probe
from reprokit.client.facts.numeric import numeric_facts
from reprokit.client.plain import to_json
from reprokit.client.rng import rng_state
from reprokit.client.tensors import DTYPES, MAX_RANK, is_native
from reprokit.client.writer import Saving, writer

__all__ = ["Snapshot", "save_checkpoint"]

_ALIGN = 64
_INLINE = 16 * 1024  # bytes of an array that state.json carries itself


class Snapshot:
    """Collects what one checkpoint holds, then hands it to the runner.

    Args:
        framework: Whose callback this is; a resumed run is refused to another one's.
        tensor: Called with this snapshot, a name and a value of the state; adds a framework's tensor to the section
            `state` and returns its kind, or returns None if the value is none.

    Attributes:
        state: JSON-like; goes to state.json. No metrics, clocks, paths or IDs belong in it.
        config: The architecture, if the framework has one.
        unresumable: Why no run could go on from here with the same bits, and what to do about it; what the state has as
            `refused` counts too. It is told to the runner, and no part of the checkpoint.
    """

    def __init__(self, *, framework: str, tensor: Callable[[Snapshot, str, Any], str | None] | None = None) -> None:
        self.framework = framework
        self.state: dict[str, Any] = {}
        self.config: Any = None
        self.unresumable: list[str] = []
        self._tensor = tensor
        self._tensors: list[dict[str, Any]] = []
        self._files: list[dict[str, Any]] = []
        self._copies: list[tuple[int, int, Callable[[Any], None]]] = []
        self._size = 0
        self._names: set[tuple[str, str]] = set()

    def add(
        self,
        section: str,
        name: str,
        *,
        dtype: str,
        shape: tuple[int, ...],
        nbytes: int,
        copy: Callable[[Any], None],
        group: str = "trainable",
    ) -> None:
        """Add a tensor.

        Args:
            section: `model`, `optimizer`, `ema`, `gradients` or `state`.
            dtype: As NumPy or the framework names it.
            copy: Writes the tensor's bytes, C-contiguous and little-endian, into a memoryview of `nbytes`.
            group: `trainable`, `frozen` or `buffer`; tensors of one kind share files.
        Raises:
            TypeError: A dtype that is not stored, or a name given twice.
        """
        if dtype not in DTYPES:
            raise TypeError(f"reprokit: {section} tensor {name!r} has the dtype {dtype}, which is not stored")
        if len(shape) > MAX_RANK:
            raise TypeError(f"reprokit: {section} tensor {name!r} has {len(shape)} dimensions; {MAX_RANK} are stored")
        self._claim(section, name)
        offset = self._reserve(nbytes, copy)
        self._tensors.append(
            {
                "section": section, "name": name, "dtype": DTYPES[dtype], "shape": list(shape),
                "offset": offset, "nbytes": nbytes, "group": group,
            }
        )  # fmt: skip

    def add_array(self, section: str, name: str, value: Any, *, group: str = "trainable") -> None:
        """Add a NumPy array, or anything that NumPy converts without loss."""
        if isinstance(value, np.ma.MaskedArray):
            raise TypeError(f"reprokit: {section} tensor {name!r} is a masked array, which is not stored")
        # asarray with order="C", and not ascontiguousarray, which would turn a 0-d array into 1-d
        array = np.asarray(value, order="C")
        if array.dtype.byteorder == ">" or (array.dtype.byteorder == "=" and sys.byteorder == "big"):
            array = array.astype(array.dtype.newbyteorder("<"))

        def copy(view: Any) -> None:
            view[:] = array.reshape(-1).view(np.uint8).data if array.size else b""

        self.add(section, name, dtype=str(array.dtype), shape=array.shape, nbytes=array.nbytes, copy=copy, group=group)

    def add_alias(self, section: str, name: str, of: str) -> None:
        """Say that `name` is the same memory as tensor `of`: a tied weight, stored once."""
        self._claim(section, name)
        self._tensors.append({"section": section, "name": name, "alias": of})

    def add_file(self, key: str, data: bytes, tensors: list[dict[str, Any]]) -> None:
        """Add a whole file; `tensors` says which ranges of it are arrays: name, dtype, shape, offset, nbytes."""

        def copy(view: Any) -> None:
            view[:] = data

        offset = self._reserve(len(data), copy)
        self._files.append({"key": key, "offset": offset, "nbytes": len(data), "tensors": tensors})

    def save(
        self,
        *,
        epoch: int | None,
        step: int | None,
        metrics: dict[str, float],
        batch: int | None = None,
        kind: str = "checkpoint",
        package: str | None = None,
        carried: dict[str, str] | None = None,
    ) -> Saving:
        """Copy everything into shared memory and hand it over; storing goes on in the runner.

        Args:
            batch: Batches done of the epoch, in the middle of one.
            carried: What the script's own variables hold beside it; see `reprokit.client.probe.carried`.
            kind: `checkpoint`, `initial`, or why it was not asked for: `signal`, `exception`.
        Raises:
            RuntimeError: An earlier checkpoint could not be stored.
            TypeError: A value cannot be stored faithfully; it is named.
        """
        state = to_json(self.state, "state", tensor=self._keep_aside)
        message = {
            "kind": kind, "framework": self.framework, "epoch": epoch, "step": step, "batch": batch, "metrics": metrics,
            "tensors": self._tensors, "files": self._files, "state": state, "config": self.config,
            "package": package, "numeric": numeric_facts(), "carried": carried or {},
            "unresumable": [*self.unresumable, *self.state.get("refused", [])],
        }  # fmt: skip
        body = json.dumps(message, allow_nan=True).encode()
        place = writer()
        buffer = place.reserve(self._size + len(body))
        for offset, nbytes, copy in self._copies:
            with buffer.memory[offset : offset + nbytes] as piece:
                copy(piece)
        buffer.memory[self._size : self._size + len(body)] = body
        saving = place.submit(buffer, self._size, len(body))
        probe.look("initial" if kind == "initial" else "saved", epoch=epoch, step=step)
        return saving

    def _keep_aside(self, name: str, value: Any) -> Any:
        """Store a framework's tensor or a large array of the state among the tensors; None for anything else."""
        plain = type(value) in (np.ndarray, np.memmap)
        if plain and value.nbytes > _INLINE and value.ndim <= MAX_RANK and is_native(value.dtype):
            name = self._unused(name)
            self.add_array("state", name, value)
            return {"$tensor": {"name": name, "kind": "numpy"}}
        if self._tensor is None:
            return None
        name = self._unused(name)
        kind = self._tensor(self, name, value)
        return None if kind is None else {"$tensor": {"name": name, "kind": kind}}

    def _unused(self, name: str) -> str:
        count, found = 0, name
        while ("state", found) in self._names:
            count += 1
            found = f"{name}#{count}"
        return found

    def _claim(self, section: str, name: str) -> None:
        if (section, name) in self._names:
            raise TypeError(f"reprokit: two {section} tensors are named {name!r}")
        if name == "__metadata__" or not _is_text(name):
            raise TypeError(f"reprokit: a {section} tensor cannot be named {name!r}")
        self._names.add((section, name))

    def _reserve(self, nbytes: int, copy: Callable[[Any], None]) -> int:
        offset = -(-self._size // _ALIGN) * _ALIGN
        self._size = offset + nbytes
        if nbytes:
            self._copies.append((offset, nbytes, copy))
        return offset


def _is_text(name: Any) -> bool:
    """True for text that UTF-8 can hold: half of a surrogate pair is none."""
    return isinstance(name, str) and name == name.encode("utf-8", "ignore").decode("utf-8")


def save_checkpoint(
    tensors: dict[str, Any],
    *,
    state: dict[str, Any] | None = None,
    epoch: int | None = None,
    step: int | None = None,
    **metrics: float,
) -> Saving:
    """Save arrays, and what else is given, as a checkpoint.

    Args:
        tensors: Arrays by name: NumPy's, or anything with `__array__`.
        state: JSON-like; lists, mappings, tuples, bytes, numbers and arrays.
        epoch: From 0, as `RUN@epoch=3` names it.
        step: Steps done, as `RUN@step=1200` names it.
        metrics: Numbers; the recipe says of which the best one counts.
    Returns:
        Its way into the registry; `.result()` waits for it.
    Raises:
        TypeError: A value cannot be stored faithfully; it is named.
        RuntimeError: An earlier checkpoint could not be stored.
    """
    snapshot = Snapshot(framework="numpy")
    for name, value in tensors.items():
        snapshot.add_array("model", name, value)
    snapshot.state = {"epoch": epoch, "step": step, "rng": rng_state(), "user": state or {}}
    return snapshot.save(epoch=epoch, step=step, metrics={key: number(key, value) for key, value in metrics.items()})
