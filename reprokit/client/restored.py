"""A checkpoint as a folder, read back inside the script's process: what the runner laid out for a resumed run.

The runner verified every byte before; what the files say is still checked before it is used. Nothing is unpickled.
"""

from __future__ import annotations

import mmap
import os
import resource
import stat
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, BinaryIO

from reprokit.client import context, probe
from reprokit.client.connection import connect
from reprokit.client.facts.numeric import numeric_facts
from reprokit.client.plain import from_json, strict_json
from reprokit.client.tensors import MalformedError, StoredArray, as_array, parse

__all__ = ["MAX_JSON", "Restored", "check_index", "check_names", "resumed", "some"]

MAX_JSON = 256 * 1024 * 1024  # bytes
_LARGE = 1024 * 1024  # bytes; smaller files are read
_NAMED = 5  # of a list of names, in a message


class Restored:
    """One checkpoint, read from a folder with its files.

    Attributes:
        folder: Where they lie.
        carried: What variables of the script held beside it; see `reprokit.client.probe.carried`.
        raw_state: state.json as it is; `state` gives the values that were saved.
        converters: Kind of a tensor in the state (`torch`) → function that makes one; others come as NumPy arrays.
    """

    def __init__(self, folder: str | Path, carried: dict[str, str] | None = None) -> None:
        self.folder = Path(folder)
        self.carried = carried or {}
        self.converters: dict[str, Callable[[StoredArray], Any]] = {}
        self._sections: dict[str, dict[str, StoredArray]] = {}
        # each mapped file keeps a descriptor open; where they are few, the rest is read
        descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self._maps_left = descriptors // 4 if descriptors != resource.RLIM_INFINITY else 65_536
        self.raw_state = self._json("state.json")
        if not isinstance(self.raw_state, dict):
            raise MalformedError(f"{self.folder / 'state.json'} is not a mapping")

    @property
    def epoch(self) -> int | None:
        """The epoch (from 0) that it was saved in; None before the first."""
        return self._count(self.raw_state.get("epoch"), "epoch")

    @property
    def step(self) -> int:
        """Optimiser steps done."""
        return self._count(self.raw_state.get("step"), "step") or 0

    @property
    def batch(self) -> int | None:
        """Batches done of the epoch; None if the epoch was over."""
        position = self.raw_state.get("position")
        if position is None:
            return None
        batch = position.get("batch") if isinstance(position, dict) else None
        return self._count("" if batch is None else batch, "position.batch")

    def _count(self, value: Any, name: str) -> int | None:
        if value is None or (type(value) is int and 0 <= value < 2**63):
            return value
        raise MalformedError(f"{self.folder / 'state.json'}: {name} is {str(value)[:40]!r}, which is no count")

    def state(self, name: str, default: Any = None) -> Any:
        """Return one part of the state by `name` (`scheduler`, `rng`, `user`, …), as it was given; else `default`."""
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
        """Return the tensors of a section by name, tied weights under each of their names.

        Args:
            section: `model`, `optimizer`, `ema`, …
        Raises:
            MalformedError: A file is not what the format says.
        """
        if section not in self._sections:
            self._sections[section] = self._read(section)
        return self._sections[section]

    def array(self, name: str, section: str = "model") -> Any:
        """Return a copy of the tensor `name` of a `section` as a NumPy array; bfloat16 comes as float32."""
        return as_array(self.section(section)[name]).copy()

    def _read(self, section: str) -> dict[str, StoredArray]:
        name = f"{section}.safetensors.index.json"
        if not os.path.lexists(self.folder / name):
            return {}
        try:
            places, aliases = check_index(self._json(name), section)
        except MalformedError as error:
            raise MalformedError(f"{self.folder / name} {error}") from None
        found: dict[str, StoredArray] = {}
        for key, names in places.items():
            shard = self._shard(key)
            if shard.keys() != names:
                raise MalformedError(f"{self.folder / name} does not list the tensors of {key!r} as that file does")
            found |= shard
        return found | {alias: found[of] for alias, of in aliases.items()}

    def _shard(self, key: str) -> dict[str, StoredArray]:
        with self._open(key) as handle:
            if self._maps_left > 0 and os.fstat(handle.fileno()).st_size >= _LARGE:
                self._maps_left -= 1
                data = memoryview(mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ))
            else:
                data = memoryview(handle.read())
        try:
            return parse(data)
        except MalformedError as error:
            raise MalformedError(
                f"{self.folder / key} is not a safetensors file that reprokit reads: {error}"
            ) from None

    def _json(self, name: str) -> Any:
        path = self.folder / name
        with self._open(name) as handle:
            if os.fstat(handle.fileno()).st_size > MAX_JSON:
                raise MalformedError(f"{path} is larger than {MAX_JSON:,} bytes")
            data = handle.read(MAX_JSON)
        try:
            return strict_json(data)
        except ValueError as error:
            raise MalformedError(f"{path} is not JSON: {str(error)[:200]}") from None

    def _open(self, key: str) -> BinaryIO:
        """Open a file below the folder: a regular one, reached through folders alone and no link."""
        *parents, name = key.split("/")
        folder = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            for part in parents:
                inner = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=folder)
                os.close(folder)
                folder = inner
            found = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)  # a pipe would block
        except OSError as error:
            raise MalformedError(f"{self.folder / key} cannot be read as a file: {error.strerror}") from None
        finally:
            os.close(folder)
        if not stat.S_ISREG(os.fstat(found).st_mode):
            os.close(found)
            raise MalformedError(f"{self.folder / key} is not a regular file")
        return os.fdopen(found, "rb")


def check_index(index: Any, section: str) -> tuple[dict[str, set[str]], dict[str, str]]:
    """Return what an untrusted index of a section says: file → names of its tensors, and alias → name.

    Raises:
        MalformedError: It names a file outside `<section>/`, or is not of the form that a checkpoint has.
    """
    try:
        weights, aliases = index["weight_map"], index["metadata"].get("aliases", {})
    except (AttributeError, LookupError, TypeError):
        raise MalformedError("is malformed") from None
    if not isinstance(weights, dict) or not isinstance(aliases, dict):
        raise MalformedError("is malformed")
    places: dict[str, set[str]] = {}
    for name, key in weights.items():
        folder, _, file = key.partition("/") if isinstance(key, str) else ("", "", "")
        if folder != section or not file.endswith(".safetensors") or "/" in file or "\\" in file or "\0" in file:
            raise MalformedError(f"names the file {str(key)[:200]!r}")
        places.setdefault(key, set()).add(name)
    for alias, of in aliases.items():
        if not isinstance(of, str) or of not in weights:
            raise MalformedError(f"says that {alias[:200]!r} stands for {str(of)[:200]!r}, which is missing")
        if alias in weights:
            raise MalformedError(f"says that {alias[:200]!r} is stored, and that it stands for another")
    return places, aliases


def check_names(here: Iterable[str], there: Iterable[str], what: str, *, hint: str = "") -> None:
    """See that what a script has is what the checkpoint has.

    Args:
        what: Both, for people: `model has other tensors`.
    Raises:
        RuntimeError: One of them has more; some are named.
    """
    ours, theirs = set(here), set(there)
    parts = [f"not in the checkpoint: {some(ours - theirs)}"] if ours - theirs else []
    parts += [f"only in the checkpoint: {some(theirs - ours)}"] if theirs - ours else []
    if parts:
        raise RuntimeError(f"reprokit: the {what} than the checkpoint ({'; '.join(parts)}){hint}")


def some(names: Iterable[str]) -> str:
    """Return the first names, and how many more there are."""
    listed = sorted(names)
    return ", ".join(listed[:_NAMED]) + (f" and {len(listed) - _NAMED:,} more" if len(listed) > _NAMED else "")


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
    connect().send({"type": "resumed", "numeric": numeric_facts()})
    probe.look("start")
    return Restored(told["folder"], told.get("carried"))
