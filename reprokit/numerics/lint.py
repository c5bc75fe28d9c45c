"""What in a recipe, or in its script's process, gives other bits elsewhere or in another run. Reads no files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from reprokit.client.frameworks import frameworks
from reprokit.schema.lock import RunLock

__all__ = ["lint"]


def lint(lock: RunLock, facts: Mapping[str, Any]) -> list[str]:
    """Return one sentence or two for each thing that decides bits and was left open.

    Args:
        facts: What the script's process said of itself; see `reprokit.client.probe`.
    """
    found = _execution(lock)
    for framework in frameworks().values():
        found += framework.numbers.lint(facts, lock.execution.determinism, lock.execution.variables)
    return found


def _execution(lock: RunLock) -> list[str]:
    execution, found = lock.execution, []
    if lock.recipe.execution.threads is None:
        found.append(
            f"execution.threads is not set: it is {execution.threads} here, the cores of this machine; another number "
            "of threads gives other bits."
        )
    if execution.determinism == "off":
        found.append(
            "execution.determinism is off: PYTHONHASHSEED is unset, so that sets are ordered by chance, and no "
            "generator is seeded, those of DataLoader workers neither."
        )
    elif execution.determinism == "seeded":
        found.append(
            "execution.determinism is seeded: operators without a fixed order of additions stay in use, on GPUs and in "
            "TensorFlow; strict turns them off."
        )
    return found
