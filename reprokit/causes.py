"""Every difference between two runs that could explain a divergence: locks first, then machines. Reads no files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from reprokit.lock import RunLock
from reprokit.manifest import ManifestDiff
from reprokit.numeric_class import differences

__all__ = ["causes_between"]

_CONSEQUENCES = {"PYTHONHASHSEED"}  # of the seed; thread variables are told by their names
_MAX_NAMED = 5


def causes_between(
    left: RunLock | None,
    right: RunLock | None,
    *,
    machines: tuple[Mapping[str, Any], Mapping[str, Any]],
    code: ManifestDiff | None,
    data: Mapping[str, ManifestDiff],
    cells: Mapping[str, list[str]] | None = None,
) -> list[str]:
    """Return every difference between two runs that could explain a divergence.

    Args:
        left, right: Their locks; None for a run that was not started from a recipe.
        machines: What the two records say about their machines.
        code: Files that differ between the two trees; None if the trees are equal.
        data: By input name, the entries that differ.
        cells: By name of a file of the code, what changed in it, cell by cell: of the notebook that is executed.
    """
    found: list[str] = []
    if left is not None and right is not None:
        one, other = left, right
        if code is not None:
            found.append(f"code: {_named(code, 'code/', cells)} (tree {one.code.tree[:8]} → {other.code.tree[:8]})")
        if one.code.python_path != other.code.python_path:
            found.append(f"code: module folders {one.code.python_path} → {other.code.python_path}")
        found += _data_causes(one, other, data)
        found += _value_causes("params", one.params, other.params)
        found += _execution_causes(one, other)
        found += [f"environment: {change}" for change in one.environment.changes_to(other.environment)]
    found += _machine_causes(*machines)
    return found


def _data_causes(one: RunLock, other: RunLock, data: Mapping[str, ManifestDiff]) -> list[str]:
    ours, theirs = {pin.name: pin for pin in one.data}, {pin.name: pin for pin in other.data}
    found = []
    for name in dict.fromkeys([*ours, *theirs]):
        a, b = ours.get(name), theirs.get(name)
        if a is None or b is None:
            found.append(f"data.{name}: only one of the runs has it")
        elif a.identity != b.identity:
            entries = f": {_named(data[name], '')}" if name in data else ""
            found.append(f"data.{name}: {a} → {b}{entries}")
        elif a.path != b.path:
            found.append(f"data.{name}: laid out at {a.path} → {b.path}")
    return found


def _execution_causes(one: RunLock, other: RunLock) -> list[str]:
    found = []
    for name in one.execution.__struct_fields__:
        a, b = getattr(one.execution, name), getattr(other.execution, name)
        if a != b:
            note = " (numeric class differs)" if name in ("threads", "variables") else ""
            found.append(f"execution.{name} {_short(a)} → {_short(b)}{note}")
    return found


def _value_causes(where: str, left: Mapping[str, Any], right: Mapping[str, Any]) -> list[str]:
    return [
        f"{where}.{key} {_short(left.get(key))} → {_short(right.get(key))}"
        for key in dict.fromkeys([*left, *right])
        if left.get(key) != right.get(key) or (key in left) != (key in right)
    ]


def _machine_causes(left: Mapping[str, Any], right: Mapping[str, Any]) -> list[str]:
    """Return how the numeric classes differ; threads are told once, by execution.threads."""
    return [
        f"machine: {item}"
        for item in differences(left.get("numeric"), right.get("numeric"))
        if "thread" not in item.what and item.what not in _CONSEQUENCES
    ]


def _named(diff: ManifestDiff, prefix: str, cells: Mapping[str, list[str]] | None = None) -> str:
    inside = cells or {}
    names = [(key, _cells_named(inside.get(key))) for key in diff.changed if inside.get(key) != []]
    names += [(key, "added") for key in diff.added] + [(key, "removed") for key in diff.removed]
    shown = ", ".join(f"{key.removeprefix(prefix)} {how}" for key, how in names[:_MAX_NAMED])
    more = len(names) - _MAX_NAMED
    return shown + (f" and {more} more" if more > 0 else "") if names else "nothing but modes or metadata"


def _cells_named(found: list[str] | None) -> str:
    if found is None:
        return "changed"
    more = f" and {len(found) - _MAX_NAMED} more" if len(found) > _MAX_NAMED else ""
    return f"({', '.join(found[:_MAX_NAMED])}{more})"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "…"
