"""A checkpoint as a folder, read back inside the script's process: what the runner laid out for a resumed run.

The runner verified every byte before; what the files say is still checked before it is used. Nothing is unpickled.
"""

from __future__ import annotations

import json
import mmap
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from reprokit.client import context, probe
from reprokit.client.connection import connect
from reprokit.client.plain import from_json
from reprokit.client.tensors import MalformedError, StoredArray, as_array, parse

__all__ = ["Restored", "resumed"]

_MAX_JSON = 256 * 1024 * 1024


class Restored:
    """One checkpoint, read from a folder with its files.

    Attributes:
        folder: Where they lie.
        raw_state: state.json as it is; `state` gives the values that were saved.
        converters: Kind of a tensor in the state (`torch`) → function that makes one; others come as NumPy arrays.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.converters: dict[str, Callable[[StoredArray], Any]] = {}
        self.raw_state = self._json("state.json")
        self._sections: dict[str, dict[str, StoredArray]] = {}
        if not isinstance(self.raw_state, dict):
            raise MalformedError(f"{self.folder / 'state.json'} is not a mapping")

    @property
    def epoch(self) -> int | None:
        """The epoch (from 0) that it was saved in; None before the first."""
        epoch = self.raw_state.get("epoch")
        return epoch if isinstance(epoch, int) else None

    @property
    def step(self) -> int:
        """Optimiser steps done."""
        step = self.raw_state.get("step")
        return step if isinstance(step, int) else 0

    @property
    def batch(self) -> int | None:
        """Batches done of the epoch; None if the epoch was over."""
        position = self.raw_state.get("position")
        return int(position["batch"]) if isinstance(position, dict) else None

    def state(self, name: str, default: Any = None) -> Any:
        """Return one part of the state (`scheduler`, `rng`, `user`, …) as it was given."""
        if name not in self.raw_state:
            return default
        return from_json(self.raw_state[name], tensor=self._tensor)

    def _tensor(self, name: str, kind: str) -> Any:
        stored = self.section("state").get(name)
        if stored is None:
            raise ValueError(f"the tensor {name!r} is missing")
        convert = self.converters.get(kind)
        return convert(stored) if convert is not None else as_array(stored).copy()

    def section(self, section: str) -> dict[str, StoredArray]:
        """Return the tensors of `model`, `optimizer`, `ema`, … by name, tied weights under each of their names.

        Raises:
            MalformedError: A file is not what the format says.
        """
        if section not in self._sections:
            self._sections[section] = dict(self._read(section))
        return self._sections[section]

    def array(self, name: str, section: str = "model") -> Any:
        """Return a copy of one tensor as a NumPy array; bfloat16 comes as float32."""
        return as_array(self.section(section)[name]).copy()

    def _read(self, section: str) -> Iterator[tuple[str, StoredArray]]:
        name = f"{section}.safetensors.index.json"
        if not (self.folder / name).exists():
            return
        index = self._json(name)
        try:
            places, aliases = dict(index["weight_map"]), dict(index["metadata"].get("aliases", {}))
        except (TypeError, KeyError, ValueError, AttributeError):
            raise MalformedError(f"{self.folder / name} is malformed") from None
        found: dict[str, StoredArray] = {}
        for key in dict.fromkeys(places.values()):
            if not isinstance(key, str) or PurePosixPath(key).is_absolute() or ".." in PurePosixPath(key).parts:
                raise MalformedError(f"{self.folder / name} names the file {key!r}")
            found |= self._shard(self.folder / key)
        missing = places.keys() - found.keys()
        if missing or places.keys() != found.keys():
            raise MalformedError(f"{self.folder / name} does not list the tensors of its files")
        yield from found.items()
        for alias, of in aliases.items():
            if of not in found:
                raise MalformedError(f"{self.folder / name}: {alias!r} stands for {of!r}, which is missing")
            yield alias, found[of]

    def _shard(self, path: Path) -> dict[str, StoredArray]:
        try:
            with path.open("rb") as handle:
                data = memoryview(mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ))
            return parse(data)
        except (MalformedError, ValueError) as error:
            raise MalformedError(f"{path} is not a safetensors file that reprokit reads: {error}") from None

    def _json(self, name: str) -> Any:
        path = self.folder / name
        if path.stat().st_size > _MAX_JSON:
            raise MalformedError(f"{path} is larger than {_MAX_JSON:,} bytes")
        try:
            return json.loads(path.read_bytes())
        except (ValueError, RecursionError) as error:
            raise MalformedError(f"{path} is not JSON: {error}") from None


def resumed(framework: str | None = None) -> Restored | None:
    """Return the checkpoint that this run goes on from; None if it starts at its beginning.

    Args:
        framework: What the caller can restore; another one's checkpoint is refused.
    Raises:
        RuntimeError: The checkpoint was saved by another framework's callback.
    """
    told = context().get("resume")
    if not told:
        return None
    if framework is not None and told["framework"] != framework:
        raise RuntimeError(
            f"reprokit: this run goes on from a checkpoint of {told['framework']}, which the callback for {framework} "
            "cannot restore"
        )
    connect().send({"type": "resumed"})
    probe.look("start")
    return Restored(told["folder"])
