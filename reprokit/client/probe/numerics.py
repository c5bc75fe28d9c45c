"""What this process says about itself that decides floating-point bits, or that no checkpoint can bring back."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from reprokit.client.probe.digests import is_generator
from reprokit.client.probe.places import Living
from reprokit.client.probe.pytorch import loaders

__all__ = ["facts"]

_FORESTS = ("sklearn.ensemble", "sklearn.tree")


def facts(names: Mapping[int, str], objects: list[tuple[str, Any]], held: list[Any], living: Living) -> dict[str, Any]:
    """Return the switches of the loaded frameworks, the loaders with workers, and estimators without a seed."""
    found: dict[str, Any] = {}
    torch = sys.modules.get("torch")
    if torch is not None and hasattr(torch, "backends"):
        found["torch"] = {
            "cuda": torch.cuda.is_available(),
            "tf32": [name for name, on in _tf32(torch).items() if on],
            "benchmark": bool(torch.backends.cudnn.benchmark),
            "deterministic": bool(torch.are_deterministic_algorithms_enabled()),
            "precision": str(torch.get_float32_matmul_precision()),
        }
        found["loaders"] = [
            {
                "name": name,
                "workers": int(loader.num_workers),
                "persistent": bool(loader.persistent_workers),
                "held": any(loader is one for one in held),
                "generators": _copied(name, objects),
                "worker_init": loader.worker_init_fn is not None,
            }
            for name, loader in loaders(names, living)
            if loader.num_workers
        ]
    keras = sys.modules.get("keras")
    if keras is not None and hasattr(keras, "config"):
        found["keras"] = {"backend": keras.config.backend(), "shuffles_arrays": _shuffles_arrays(living)}
    if "sklearn" in sys.modules:
        found["unseeded"] = [
            f"{type(thing).__name__} ({name})"
            for name, thing in objects
            if type(thing).__module__.startswith(_FORESTS)
            and not name.endswith(".estimator`")  # the pattern that a forest's trees are made after
            and getattr(thing, "__dict__", {}).get("random_state", 0) is None
        ]
    return found


def _tf32(torch: Any) -> dict[str, bool]:
    if not torch.cuda.is_available():
        return {}
    return {
        "torch.backends.cuda.matmul.allow_tf32": bool(torch.backends.cuda.matmul.allow_tf32),
        "torch.backends.cudnn.allow_tf32": bool(torch.backends.cudnn.allow_tf32),
    }


def _copied(loader: str, objects: list[tuple[str, Any]]) -> list[str]:
    """Return the generators below a loader's dataset: each worker gets a copy of them, and draws the same from it."""
    inside = loader.rstrip("`") + ".dataset"
    return [name for name, thing in objects if is_generator(thing) and name.startswith(inside)]


def _shuffles_arrays(living: Living) -> bool:
    """True if `fit` is shuffling arrays through tf.data."""
    module = sys.modules.get("keras.src.trainers.data_adapters.array_data_adapter")
    adapters = living.of(module.ArrayDataAdapter) if module is not None else []
    return any(getattr(adapter, "_shuffle", False) is True for adapter in adapters)
