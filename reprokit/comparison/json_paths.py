"""Where two JSON values differ."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from reprokit.core.canonical_json import ordered

__all__ = ["differing_paths"]

_MOST_ITEMS = 64  # of a list that is told item by item: a generator's state has hundreds


def differing_paths(left: Any, right: Any, where: str = "") -> Iterator[str]:
    """Yield the paths of the values that differ between two JSON values, in the first one's order.

    A mapping that has its keys in another order differs too, for a script that iterates over it does otherwise.
    """
    ours, theirs = _steps(left), _steps(right)
    if ours is not None and theirs is not None:
        for step in [*ours, *(step for step in theirs if step not in ours)]:
            path = f"{where}{step}" if where else step.removeprefix(".")
            if step not in ours or step not in theirs:
                yield path
            elif ordered(ours[step]) != ordered(theirs[step]):
                yield from differing_paths(ours[step], theirs[step], path)
        if [step for step in ours if step in theirs] != [step for step in theirs if step in ours]:
            yield f"{where or '(all)'} (order of keys)"
    elif isinstance(left, list) and isinstance(right, list) and len(left) == len(right) <= _MOST_ITEMS:
        for index, (a, b) in enumerate(zip(left, right, strict=True)):
            if ordered(a) != ordered(b):
                yield from differing_paths(a, b, f"{where}[{index}]")
    else:
        yield where or "(all)"


def _steps(value: Any) -> dict[str, Any] | None:
    """Return a mapping's values by what a path says of their keys; None for what is none.

    Source: `reprokit.client.plain` for `$dict`, which has the mappings whose keys are not all text.
    """
    if not isinstance(value, dict):
        return None
    pairs = value.get("$dict")
    paired = isinstance(pairs, list) and all(isinstance(pair, list) and len(pair) == 2 for pair in pairs)
    if paired and pairs and len(value) == 1:
        steps = {f"[{ordered(key).decode('ascii')}]": item for key, item in pairs}
        if len(steps) == len(pairs):  # a key that comes twice would hide a value
            return steps
    return {f".{key}": item for key, item in value.items()}
