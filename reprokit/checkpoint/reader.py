"""Read checkpoints: verified before it is parsed, and never unpickled."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt

from reprokit.checkpoint.format import StoredTensor, stored_tensors
from reprokit.client.tensors import StoredArray, as_array
from reprokit.config import Config
from reprokit.digest import hash_bytes
from reprokit.errors import DataMismatchError, NotFoundError
from reprokit.package import Package
from reprokit.refs import PackageRef, is_package_ref, parse_run
from reprokit.registry import Registry, open_registry
from reprokit.runs import RunStore
from reprokit.untrusted import load_json

__all__ = ["Checkpoint", "load_checkpoint"]


class Checkpoint:
    """One stored checkpoint; tensors are read when they are asked for."""

    def __init__(self, package: Package) -> None:
        self.package = package
        self._tensors = stored_tensors(package.manifest)

    @property
    def facts(self) -> dict[str, Any]:
        """What links it: kind, run, epoch, step, parent, inputs, lock_hash, state_digest, metrics, framework."""
        facts = self.package.manifest.user_meta.get("reprokit")
        return dict(facts) if isinstance(facts, dict) else {}

    @property
    def state(self) -> Any:
        """Everything that is not a tensor, as state.json holds it."""
        return load_json(self.package.entry("state.json").read(), what=f"state.json of {self.package}")

    def names(self, section: str = "model") -> list[str]:
        """Return the tensors' names, without aliases of tied weights."""
        return [name for part, name in self._tensors if part == section]

    def aliases(self, section: str = "model") -> dict[str, str]:
        """Return the other names of tied weights: name → the name it is stored under."""
        key = f"{section}.safetensors.index.json"
        if key not in self.package:
            return {}
        index = load_json(self.package.entry(key).read(), what=f"{key} of {self.package}")
        aliases = index.get("metadata", {}).get("aliases", {})
        if not isinstance(aliases, dict):
            raise DataMismatchError(f"{key} of {self.package} is malformed.")
        return {str(name): str(of) for name, of in aliases.items()}

    def all_stored(self) -> dict[tuple[str, str], StoredTensor]:
        """Return every tensor by (section, name), from metadata alone."""
        return dict(self._tensors)

    def stored(self, name: str, section: str = "model") -> StoredTensor:
        """Return where a tensor lies; raise NotFoundError if there is none of that name."""
        try:
            return self._tensors[section, name]
        except KeyError:
            raise NotFoundError(f"{self.package} has no {section} tensor {name!r}.") from None

    def raw(self, name: str, section: str = "model") -> bytes:
        """Return a tensor's bytes, read by range and verified against its own digest."""
        tensor = self.stored(name, section)
        entry = self.package.manifest[tensor.key]
        if tensor.alone:
            if entry.digest.hex != tensor.digest:
                raise DataMismatchError(f"{tensor.key} of {self.package} is not what its metadata says.")
            return self.package.entry(tensor.key).read()[tensor.offset : tensor.offset + tensor.nbytes]
        data = self.package.registry.read_range(
            entry, tensor.offset, tensor.nbytes, what=f"{tensor.key} of {self.package}"
        )
        if hash_bytes(data).hex != tensor.digest:
            raise DataMismatchError(
                f"{name} in {tensor.key} of {self.package} is corrupt: expected {tensor.digest[:12]}….",
                hint=f"`reprokit verify {self.package.name}@{self.package.top_hash[:12]}` lists all that is.",
            )
        return data

    def tensor(self, name: str, section: str = "model") -> npt.NDArray[Any]:
        """Return a tensor. BF16 comes as float32, which holds every value of it; 8-bit floats come as their bytes."""
        stored = self.stored(name, section)
        return as_numpy(self.raw(name, section), stored.dtype, stored.shape)

    def tensors(self, section: str = "model") -> dict[str, npt.NDArray[Any]]:
        """Return all tensors of a section by name, tied weights under each of their names."""
        found = {name: self.tensor(name, section) for name in self.names(section)}
        return found | {name: found[of] for name, of in self.aliases(section).items() if of in found}


def as_numpy(data: bytes, dtype: str, shape: tuple[int, ...]) -> npt.NDArray[Any]:
    """Return bytes as an array of the dtype that safetensors names."""
    return as_array(StoredArray(dtype, shape, memoryview(data)))


def load_checkpoint(ref: str, *, registry: Registry | str | None = None) -> Checkpoint:
    """Open a checkpoint by `RUN@best:val_loss`, `RUN@epoch=7`, `ns/name:tag` or `ns/name@hash`.

    Raises:
        NotFoundError: No such run, checkpoint, package or version.
        DataMismatchError: It is corrupt.
    """
    if registry is None or isinstance(registry, str):
        registry = open_registry(Config.load(registry=registry).registry)
    if is_package_ref(ref):
        return Checkpoint(Package.open(ref, registry=registry))
    chosen = RunStore(registry).checkpoint(parse_run(ref))
    return Checkpoint(Package.open(PackageRef(chosen.package, hash=chosen.top_hash), registry=registry))
