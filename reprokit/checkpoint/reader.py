"""Read checkpoints: verified before it is parsed, and never unpickled."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from reprokit.checkpoint.format import StoredTensor, section_of, stored_tensors
from reprokit.client.plain import from_json
from reprokit.client.restored import MAX_JSON, check_index
from reprokit.client.tensors import MalformedError, Place, StoredArray, as_array, places_of, spell
from reprokit.core.digest import hash_all, hash_bytes
from reprokit.core.safe_json import load_json
from reprokit.errors import DataMismatchError, NotFoundError
from reprokit.packages.package import Package
from reprokit.schema.facts import CheckpointFacts, facts_in
from reprokit.store.packs import SMALL

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["Checkpoint"]

_STATE_DEPTH = 256  # levels of JSON; those of `to_json` are fewer


class Checkpoint:
    """One stored checkpoint; tensors are read when they are asked for, each byte verified.

    Sections are `model`, `optimizer`, and where the script has them `ema`, `gradients` and `state` (tensors that stand
    in `state.json`). Arrays are read-only; large ones are the registry's own files, mapped.
    """

    def __init__(self, package: Package) -> None:
        self.package = package
        self._aliases: dict[str, dict[str, str]] = {}

    @functools.cached_property
    def _tensors(self) -> dict[tuple[str, str], StoredTensor]:
        return stored_tensors(self.package.manifest)

    @functools.cached_property
    def _files(self) -> dict[tuple[str, str], list[StoredTensor]]:
        """The tensors by section and key."""
        found: dict[tuple[str, str], list[StoredTensor]] = {}
        for tensor in self._tensors.values():
            found.setdefault((tensor.section, tensor.key), []).append(tensor)
        return found

    @functools.cached_property
    def facts(self) -> CheckpointFacts:
        """What links it: run, place, parent, inputs, lock, state digest, metrics, framework.

        Raises:
            DataMismatchError: The version is no checkpoint, or what it says of itself is malformed.
        """
        facts = facts_in(self.package.manifest.user_meta, CheckpointFacts, what=str(self.package))
        if facts is None:
            raise DataMismatchError(f"{self.package} is no checkpoint.", hint="`reprokit ls RUN` lists those of a run.")
        return facts

    # state

    @property
    def raw_state(self) -> dict[str, Any]:
        """Everything that is not a tensor, as state.json holds it."""
        value = self._json("state.json")
        if not isinstance(value, dict):
            raise DataMismatchError(f"state.json of {self.package} is not a mapping.")
        return value

    @property
    def state(self) -> dict[str, Any]:
        """Everything that is not a tensor, as it was saved: tuples, bytes, arrays; a framework's tensors as arrays."""
        return self.decoded_state()

    def decoded_state(self, converters: Mapping[str, Callable[[StoredArray], Any]] | None = None) -> dict[str, Any]:
        """Return the state; `converters` make a framework's tensors of those kinds (`torch`) that stand in it."""
        arrays = self.arrays("state", own=bool(converters))

        def tensor(name: str, kind: str) -> Any:
            convert = (converters or {}).get(kind)
            return convert(arrays[name]) if convert is not None else as_array(arrays[name]).copy()

        try:
            return {key: from_json(value, tensor=tensor) for key, value in self.raw_state.items()}
        except ValueError as error:
            raise DataMismatchError(f"state.json of {self.package} is malformed: {error}.") from None

    @property
    def config(self) -> Any:
        """The architecture, as the framework describes it; None where it does not."""
        return self._json("config.json") if "config.json" in self.package else None

    # what there is

    @property
    def sections(self) -> list[str]:
        """The sections that have tensors."""
        return list(dict.fromkeys(section for section, _ in self._tensors))

    def names(self, section: str = "model") -> list[str]:
        """Return the names of the tensors of a `section`, without aliases of tied weights."""
        return [name for part, name in self._tensors if part == section]

    def aliases(self, section: str = "model") -> dict[str, str]:
        """Return the other names of tied weights of a `section`: name → the name it is stored under."""
        if section not in self._aliases:
            self._aliases[section] = self._read_aliases(f"{section}.safetensors.index.json", section)
        return dict(self._aliases[section])

    def _read_aliases(self, key: str, section: str) -> dict[str, str]:
        if key not in self.package:
            return {}
        try:
            places, aliases = check_index(self._json(key), section)
        except MalformedError as error:
            raise DataMismatchError(f"{key} of {self.package} {error}.") from None
        stored = {(name, tensor.key) for (part, name), tensor in self._tensors.items() if part == section}
        if stored != {(name, file) for file, names in places.items() for name in names}:
            raise DataMismatchError(
                f"{key} of {self.package} does not list the tensors that the version's metadata lists."
            )
        return aliases

    def all_stored(self) -> dict[tuple[str, str], StoredTensor]:
        """Return every tensor by (section, name), from metadata alone."""
        return dict(self._tensors)

    def stored(self, name: str, section: str = "model") -> StoredTensor:
        """Return where a tensor lies; raise NotFoundError if there is none of that name."""
        try:
            return self._tensors[section, name]
        except KeyError:
            raise NotFoundError(f"{self.package} has no {section} tensor {name!r}.") from None

    # tensors

    def tensor(self, name: str, section: str = "model") -> npt.NDArray[Any]:
        """Return the tensor `name` of a `section`.

        BF16 comes as float32, which holds every value of it; 8-bit floats come as their bytes.
        """
        return as_array(self.arrays(section, [name])[name])

    def tensors(self, section: str = "model", names: Iterable[str] | None = None) -> dict[str, npt.NDArray[Any]]:
        """Return tensors of a section by name, tied weights under each of their names.

        Args:
            names: Only these; of files that hold others too, their bytes alone are read.
        """
        arrays = self.arrays(section, names)
        made = {id(stored): as_array(stored) for stored in arrays.values()}  # tied weights stay one
        return {name: made[id(stored)] for name, stored in arrays.items()}

    def raw(self, name: str, section: str = "model") -> bytes:
        """Return the bytes of the tensor `name` of a `section`."""
        return bytes(self.arrays(section, [name])[name].data)

    def arrays(
        self, section: str = "model", names: Iterable[str] | None = None, *, own: bool = False
    ) -> dict[str, StoredArray]:
        """Return tensors as the bytes they are stored as, tied weights under each of their names.

        A tensor of 1 MiB or more is a file of its own and read whole. Of smaller ones that are named, only their bytes
        are read, by the place that the version's metadata gives. Whole files are compared with their digests, and what
        their headers say with the metadata. Either way a tensor's bytes are compared with the digest that it has there.

        Args:
            own: Give memory that the caller may write to.
        Raises:
            NotFoundError: There is no such tensor.
            DataMismatchError: Something is corrupt, or contradicts itself.
        """
        aliases = self.aliases(section)
        wanted = [*self.names(section), *aliases] if names is None else list(names)
        stored = {name: self.stored(name, section) for name in (aliases.get(name, name) for name in wanted)}
        parts = {} if names is None else self._parts(stored)
        found = {name: StoredArray(t.dtype, t.shape, self._range(t, own=own)) for name, t in parts.items()}
        keys = list(dict.fromkeys(t.key for name, t in stored.items() if name not in parts))
        positions = [self.package.manifest.position(key) for key in keys]
        views = dict(zip(keys, self.package.reader.views(positions, own=own), strict=True))
        self.check_files(views)
        for key, view in views.items():
            for t in self._files[section, key]:
                found[t.name] = StoredArray(t.dtype, t.shape, t.of(view[t.offset : t.offset + t.nbytes]))
        return {name: found[aliases.get(name, name)] for name in wanted}

    def _parts(self, stored: dict[str, StoredTensor]) -> dict[str, StoredTensor]:
        """Return those tensors that are better read by their range than with their whole file."""
        used: dict[str, int] = {}
        for tensor in stored.values():
            used[tensor.key] = used.get(tensor.key, 0) + tensor.nbytes
        sizes = {key: self.package.manifest[key].size for key in used}
        return {name: t for name, t in stored.items() if not t.alone and sizes[t.key] > max(SMALL, 2 * used[t.key])}

    def check_files(self, views: Mapping[str, memoryview]) -> None:
        """Raise unless files, given as their verified bytes by key, hold the tensors that the version's metadata says.

        A tensor with a file of its own is not hashed again: its digest is that of the file.

        Raises:
            DataMismatchError: A header says something else, or a tensor's bytes have another digest.
        """
        parts: list[StoredTensor] = []
        for key, view in views.items():
            self.check_header(key, view)
            parts += [t for t in self._in(key) if not t.alone]
        found = hash_all([[t.of(views[t.key][t.offset : t.offset + t.nbytes])] for t in parts])
        for tensor, digest in zip(parts, found, strict=True):
            if digest.hex != tensor.digest:
                raise DataMismatchError(
                    f"{tensor.name} in {tensor.key} of {self.package} is not what the version says: expected "
                    f"{tensor.digest[:12]}…, its bytes have {digest.hex[:12]}….",
                    hint="The checkpoint was altered, and published anew: use another version of it.",
                )

    def check_header(self, key: str, view: memoryview) -> None:
        """Raise unless a safetensors file, given as verified bytes, says of itself what the version's metadata says.

        Raises:
            DataMismatchError: It says something else.
        """
        if not key.endswith(".safetensors"):
            return
        here = self._in(key)
        told = {t.name: Place(t.dtype, t.shape, t.offset, t.nbytes) for t in here}
        head, inside = spell({t.name: (t.dtype, t.shape, t.nbytes) for t in here})
        if view[: len(head)] != head or len(view) - len(head) != sum(t.nbytes for t in here):  # as others spell it
            try:
                inside = places_of(view)
            except MalformedError as error:
                raise DataMismatchError(f"{key} of {self.package} is not a safetensors file: {error}.") from None
        whole = self.package.manifest[key].digest.hex
        if inside != told or any(t.alone and t.digest != whole for t in here):
            raise DataMismatchError(f"{key} of {self.package} does not hold what the version's metadata says of it.")

    def _in(self, key: str) -> list[StoredTensor]:
        return self._files.get((section_of(key), key), [])

    def _range(self, tensor: StoredTensor, *, own: bool) -> memoryview:
        what = f"{tensor.key} of {self.package}"
        entry = self.package.manifest[tensor.key]
        data = tensor.of(memoryview(self.package.registry.read_range(entry, tensor.offset, tensor.nbytes, what=what)))
        if hash_bytes(data).hex != tensor.digest:
            raise DataMismatchError(
                f"{tensor.name} in {what} is corrupt: expected {tensor.digest[:12]}….",
                hint=f"`reprokit verify {self.package.name}@{self.package.top_hash[:12]}` lists all that is.",
            )
        return memoryview(bytearray(data)) if own else data

    def _json(self, key: str) -> Any:
        data = self.package.entry(key).read()
        return load_json(data, what=f"{key} of {self.package}", max_bytes=MAX_JSON, max_depth=_STATE_DEPTH, halves=True)
