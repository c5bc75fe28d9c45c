"""A snapshot: named tensors copied into memory that the runner shares, plus state."""

from __future__ import annotations

import mmap
import os
import sys
import tempfile
from collections.abc import Callable
from typing import Any

import numpy as np

from reprokit.client import context, number
from reprokit.client.connection import connect
from reprokit.client.plain import to_json

__all__ = ["Snapshot", "due", "rng_state", "save_checkpoint"]

# dtype names as safetensors spells them; what is not here is refused by name
DTYPES = {
    "float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16",
    "float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2",
    "int64": "I64", "int32": "I32", "int16": "I16", "int8": "I8",
    "uint64": "U64", "uint32": "U32", "uint16": "U16", "uint8": "U8",
    "bool": "BOOL", "complex64": "C64",
}  # fmt: skip

_ALIGN = 64


class Snapshot:
    """Collects what one checkpoint holds, then hands it to the runner.

    Attributes:
        state: JSON-like; goes to state.json. No metrics, clocks, paths or IDs belong in it.
        config: The architecture, if the framework has one.
    """

    def __init__(self, *, framework: str, array: Callable[[Any], Any] | None = None) -> None:
        self.framework = framework
        self.state: dict[str, Any] = {}
        self.config: Any = None
        self._array = array
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
            section: `model` or `optimizer`.
            dtype: As NumPy or the framework names it.
            copy: Writes the tensor's bytes, C-contiguous and little-endian, into a memoryview of `nbytes`.
            group: `trainable`, `frozen` or `buffer`; tensors of one kind share files.
        """
        if dtype not in DTYPES:
            raise TypeError(f"reprokit: {section} tensor {name!r} has the dtype {dtype}, which is not stored")
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
        kind: str = "checkpoint",
        package: str | None = None,
    ) -> dict[str, Any]:
        """Copy everything into shared memory, hand it over and wait until it is stored.

        Returns:
            {"package", "top_hash", "state_digest"}.
        """
        state = to_json(self.state, "state", array=self._array)
        descriptor = _memory(max(self._size, 1))
        try:
            with mmap.mmap(descriptor, max(self._size, 1)) as shared:
                view = memoryview(shared)
                for offset, nbytes, copy in self._copies:
                    piece = view[offset : offset + nbytes]
                    copy(piece)
                    piece.release()
                view.release()
            message = {
                "type": "snapshot", "kind": kind, "framework": self.framework, "epoch": epoch, "step": step,
                "metrics": metrics, "tensors": self._tensors, "files": self._files, "state": state,
                "config": self.config, "size": self._size, "package": package, "numeric": numeric_facts(),
            }  # fmt: skip
            answer = connect().request(message, descriptor=descriptor)
        finally:
            os.close(descriptor)
        return {key: answer[key] for key in ("package", "top_hash", "state_digest")}

    def _claim(self, section: str, name: str) -> None:
        if (section, name) in self._names:
            raise TypeError(f"reprokit: two {section} tensors are named {name!r}")
        self._names.add((section, name))

    def _reserve(self, nbytes: int, copy: Callable[[Any], None]) -> int:
        offset = -(-self._size // _ALIGN) * _ALIGN
        self._size = offset + nbytes
        if nbytes:
            self._copies.append((offset, nbytes, copy))
        return offset


def save_checkpoint(
    tensors: dict[str, Any],
    *,
    state: dict[str, Any] | None = None,
    epoch: int | None = None,
    step: int | None = None,
    **metrics: float,
) -> dict[str, Any]:
    """Save named arrays (NumPy, or anything with `__array__`) and JSON-like `state` as a checkpoint.

    Returns:
        {"package", "top_hash", "state_digest"}.
    Raises:
        TypeError: A value cannot be stored faithfully; it is named.
    """
    snapshot = Snapshot(framework="numpy")
    for name, value in tensors.items():
        snapshot.add_array("model", name, value)
    snapshot.state["user"] = state or {}
    return snapshot.save(epoch=epoch, step=step, metrics={key: number(key, value) for key, value in metrics.items()})


def due(epoch: int, last: int | None = None) -> bool:
    """True if the recipe's `checkpoints.every` asks for a checkpoint after `epoch` (from 0); the last one always."""
    every = int(context().get("every", 1))
    return (epoch + 1) % every == 0 or (last is not None and epoch >= last)


def rng_state() -> dict[str, Any]:
    """Return the state of the global generators of Python and NumPy, where they are in use."""
    state: dict[str, Any] = {}
    if (random := sys.modules.get("random")) is not None:
        state["python"] = random.getstate()
    if (generator := sys.modules.get("numpy.random")) is not None:
        state["numpy"] = generator.get_state(legacy=False)
    return state


def numeric_facts() -> dict[str, Any]:
    """Return what the loaded frameworks say decides their bits: builds, instruction sets, threads, devices."""
    facts: dict[str, Any] = {"numpy": np.__version__}
    if (torch := sys.modules.get("torch")) is not None:
        facts["torch"] = {
            "version": str(torch.__version__),
            "threads": torch.get_num_threads(),
            "capability": torch.backends.cpu.get_cpu_capability(),
            "cuda": torch.version.cuda,
            "devices": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
            if torch.cuda.is_available()
            else [],
        }
    if (tensorflow := sys.modules.get("tensorflow")) is not None and hasattr(tensorflow, "__version__"):
        facts["tensorflow"] = {"version": tensorflow.__version__}
    if (keras := sys.modules.get("keras")) is not None and hasattr(keras, "__version__"):
        facts["keras"] = {"version": keras.__version__, "backend": keras.config.backend()}
    if (sklearn := sys.modules.get("sklearn")) is not None and hasattr(sklearn, "__version__"):
        facts["sklearn"] = {"version": sklearn.__version__}
    return facts


def _memory(size: int) -> int:
    """Return a descriptor of `size` bytes that lives in memory (Linux) or in an unlinked file."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("reprokit-snapshot", os.MFD_CLOEXEC)
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    os.ftruncate(descriptor, size)
    return descriptor
