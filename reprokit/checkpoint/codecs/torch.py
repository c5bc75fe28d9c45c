"""Checkpoints as PyTorch sees them: state dicts of real dtypes, and `.pt` files that load with `weights_only=True`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from reprokit.callbacks.pytorch.state import restore_model
from reprokit.checkpoint.reader import Checkpoint
from reprokit.client.tensors import DTYPES, StoredArray
from reprokit.errors import DataMismatchError

__all__ = ["load_into", "save_pt", "state_dict"]

_TORCH = {stored: getattr(torch, name) for name, stored in DTYPES.items() if hasattr(torch, name)}


def state_dict(
    checkpoint: Checkpoint, section: str = "model", names: Iterable[str] | None = None
) -> dict[str, torch.Tensor]:
    """Return tensors of a section by name; tied weights are one tensor under each of their names.

    Large ones are mapped and copied on the first write to them; the checkpoint stays as it is.
    """
    arrays = checkpoint.arrays(section, names, own=True)
    made = {id(stored): _tensor(stored) for stored in arrays.values()}
    return {name: made[id(stored)] for name, stored in arrays.items()}


def _tensor(stored: StoredArray) -> torch.Tensor:
    dtype = _TORCH.get(stored.dtype)
    if dtype is None:
        raise DataMismatchError(f"This PyTorch ({torch.__version__}) has no dtype for {stored.dtype}.")
    if not stored.data:
        return torch.empty(stored.shape, dtype=dtype)
    return torch.frombuffer(stored.data, dtype=dtype).view(stored.shape)


def load_into(
    checkpoint: Checkpoint, model: torch.nn.Module | Mapping[str, torch.nn.Module], section: str = "model"
) -> None:
    """Put a model, or several by name, to what was saved, as a resumed run does.

    Raises:
        DataMismatchError: The model has other tensors.
    """
    models = model if isinstance(model, Mapping) else {"0": model}
    try:
        restore_model(_Restorable(checkpoint), section, models)  # type: ignore[arg-type]
    except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        text = str(error).removeprefix("reprokit: ")
        raise DataMismatchError(
            f"{checkpoint.package} does not fit: {text}.", hint="Nothing can be loaded in part."
        ) from None


class _Restorable:
    """A checkpoint in a registry as callbacks restore one: what they ask of a `Restored`."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint
        self._state = checkpoint.decoded_state({"torch": _tensor})

    def section(self, section: str) -> dict[str, StoredArray]:
        return self._checkpoint.arrays(section)

    def state(self, name: str, default: Any = None) -> Any:
        return self._state.get(name, default)


def save_pt(checkpoint: Checkpoint, path: Path) -> None:
    """Write {"model", "optimizer", "state"} and further sections with `torch.save`.

    `optimizer` is what `load_state_dict` of the optimiser takes where a PyTorch callback saved it, by name if there are
    several; else its tensors by name. Arrays become tensors, NumPy's numbers Python's: `weights_only=True` loads them.
    """
    state = checkpoint.decoded_state({"torch": _tensor})
    whole: dict[str, Any] = {section: state_dict(checkpoint, section) for section in checkpoint.sections}
    whole.pop("state", None)  # these tensors stand where they belong in the decoded state
    told = state.pop("optimizer", None)
    if isinstance(told, dict):
        whole["optimizer"] = _optimizers(told, whole.get("optimizer", {}))
    whole["state"] = state
    torch.save(_plain(whole), path)


def _optimizers(told: dict[str, Any], tensors: Mapping[str, torch.Tensor]) -> Any:
    try:
        made = {key: _optimizer(facts, tensors) for key, facts in told.items()}
    except (AttributeError, LookupError, TypeError):  # another framework's description
        return {"tensors": dict(tensors), "state": told}
    return made["0"] if made.keys() == {"0"} else made


def _optimizer(facts: dict[str, Any], tensors: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """Return a `state_dict` as the optimiser gave it: slots by the parameter's number."""
    slots = {
        number: {
            slot: place["value"] if "value" in place else tensors[place["optimizer"]]
            for slot, place in facts["slots"][label].items()
        }
        for number, label in enumerate(facts["parameters"])
        if label in facts["slots"]
    }
    return {"state": slots, "param_groups": facts["groups"]}


def _plain(value: Any) -> Any:
    """Return a value in the types that `weights_only=True` reads."""
    if isinstance(value, dict):
        return {_plain(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_plain(item) for item in value)
    if isinstance(value, np.generic):
        return _plain_scalar(value)
    return _plain_array(value) if isinstance(value, np.ndarray) else value


def _plain_scalar(value: np.generic) -> Any:
    item = value.item()
    return item if isinstance(item, (bool, int, float, complex, str, bytes)) else str(value)


def _plain_array(value: np.ndarray[Any, Any]) -> Any:
    native = value.astype(value.dtype.newbyteorder("="))
    try:
        return torch.from_numpy(native)
    except TypeError:  # text, times, extended precision
        return (native if native.dtype.kind == "S" else native.astype(str)).tolist()
