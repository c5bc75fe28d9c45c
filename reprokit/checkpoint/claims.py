"""Does a checkpoint hold what its version says of it? Digests that stand beside the bytes are claims: they are computed
again, of the tensors and of the state as a whole."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from reprokit.checkpoint.format import state_digest_of
from reprokit.checkpoint.reader import Checkpoint
from reprokit.errors import DataMismatchError

__all__ = ["check_claims", "check_state", "claims_of", "state_digest"]

_STATE = "state.json"
_INDEX = ".safetensors.index.json"


def claims_of(checkpoint: Checkpoint) -> Mapping[str, Callable[[memoryview], None]]:
    """Return what is to be checked of the verified bytes of its files, by key; each raises DataMismatchError.

    Raises:
        DataMismatchError: What the version says of itself is malformed, or contradicts itself.
    """
    manifest = checkpoint.package.manifest
    if _STATE not in manifest:
        raise DataMismatchError(f"{checkpoint.package} has no {_STATE}.", hint="Use another version of it.")
    rows = {tensor.key for tensor in checkpoint.all_stored().values()}
    found: dict[str, Callable[[memoryview], None]] = {
        key: partial(_check_file, checkpoint, key)
        for key in manifest.keys
        if key in rows or key.endswith(".safetensors")
    }
    return {**found, _STATE: partial(check_state, checkpoint)}


def _check_file(checkpoint: Checkpoint, key: str, view: memoryview) -> None:
    checkpoint.check_files({key: view})


def check_claims(checkpoint: Checkpoint) -> None:
    """Raise DataMismatchError unless a checkpoint holds what its version says of it; every byte is read."""
    reader = checkpoint.package.reader
    for key, check in claims_of(checkpoint).items():
        check(reader.views([checkpoint.package.manifest.position(key)])[0])


def check_state(checkpoint: Checkpoint, state: bytes | memoryview) -> None:
    """Raise DataMismatchError unless the state digest that a version claims follows from what it says of its tensors.

    Args:
        state: The bytes of `state.json`.
    """
    claimed, found = checkpoint.facts.state_digest, state_digest(checkpoint, state)
    if claimed != found:
        raise DataMismatchError(
            f"{checkpoint.package} claims the state digest {claimed[-12:]}, but what it holds has {found[-12:]}.",
            hint="The checkpoint was altered, and published anew: use another version of it.",
        )


def state_digest(
    checkpoint: Checkpoint,
    state: bytes | memoryview,
    digest_of: Mapping[tuple[str, str], str] | None = None,
) -> str:
    """Return the state digest of what a version says that it holds.

    Args:
        state: The bytes of `state.json`.
        digest_of: Digests of tensors by section and name, instead of those that the version's metadata claims.
    """
    manifest = checkpoint.package.manifest
    tensors: dict[tuple[str, str], tuple[str, tuple[int, ...], str] | str] = {
        name: (one.dtype, one.shape, one.digest if digest_of is None else digest_of[name])
        for name, one in checkpoint.all_stored().items()
        if one.key.endswith(".safetensors")
    }
    for key in manifest.keys:
        if key.endswith(_INDEX):
            section = key.removesuffix(_INDEX)
            tensors |= {(section, name): target for name, target in checkpoint.aliases(section).items()}
    apart = (".safetensors", _INDEX)
    files = {
        entry.logical_key: entry.digest.hex
        for entry in manifest.entries
        if entry.logical_key != _STATE and not entry.logical_key.endswith(apart)
    }
    return state_digest_of(tensors, files, bytes(state))
