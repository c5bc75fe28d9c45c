"""In what two checkpoints differ first: which tensor, where in it, and by how much."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import msgspec

from reprokit.checkpoint.format import StoredTensor
from reprokit.checkpoint.reader import Checkpoint
from reprokit.client.tensors import StoredArray
from reprokit.comparison.tensor_distance import distance, within_tolerance
from reprokit.core.canonical_json import canonical
from reprokit.core.digest import hash_bytes
from reprokit.schema.recipe import Tolerance
from reprokit.schema.verdict import Divergence

__all__ = ["Difference", "differing_paths", "first_difference", "how_far"]

_MOST_PATHS = 8
_MOST_ITEMS = 64  # of a list that is told item by item: a generator's state has hundreds

_Key = tuple[str, str]  # section and name


@dataclass(frozen=True, slots=True)
class Difference:
    """The first tensor in which two checkpoints differ, how many do, and whether all are within the tolerance.

    Attributes:
        any_tensor: False if all are equal in every bit, and what differs is the state beside them.
    """

    divergence: Divergence
    count: int
    within: bool
    any_tensor: bool = True

    def __str__(self) -> str:
        return self.divergence.tensor_text() + (f" (and {self.count - 1} more)" if self.count > 1 else "")


def first_difference(left: Checkpoint, right: Checkpoint, tolerance: Tolerance, *, values: bool = True) -> Difference:
    """Return the first tensor in which two checkpoints differ, the model's before others, or else the path of a state.

    Digests tell which tensors differ; of these, only as many are read as it takes to know whether all are within the
    tolerance. A tensor that has another name on the other side differs, and is not within.

    Args:
        values: Without, no object is read: it is said which tensor differs, not by how much; none that does is within;
            and one with a file of its own under another name is missing.
    """
    ours, theirs = left.all_stored(), right.all_stored()
    differing = [key for key in ours.keys() | theirs.keys() if not _same(ours.get(key), theirs.get(key))]
    if not differing:
        return Difference(_no_tensor(left, right, values=values), 1, within=True, any_tensor=False)
    unmatched = {key for key in differing if (key in ours) != (key in theirs)}
    renamed = _renamed(left, right, {key for key in unmatched if values or not (ours.get(key) or theirs[key]).alone})
    found = set(renamed.values())
    differing = [key for key in differing if key in ours or key not in found]
    order = {key: number for number, key in enumerate([*ours, *(key for key in theirs if key not in ours)])}
    differing.sort(key=lambda key: (key[0] != "model", key not in ours, order[key]))
    within = True
    first: Divergence | None = None
    for key in differing:
        one, other = ours.get(key), theirs.get(key)
        if one is None or other is None or one.shape != other.shape or one.dtype != other.dtype:
            within = False
            first = first or _unlike(key, one, other, renamed.get(key))
        elif not values:
            within = False
            first = first or Divergence(tensor=_label(key), shape=list(one.shape), elements=math.prod(one.shape))
        else:
            a, b = _array(left, key), _array(right, key)
            within = within and within_tolerance(a, b, tolerance.weights.atol, tolerance.weights.rtol)
            first = first or how_far(key, a, b)
        if not within:
            break
    first = first or Divergence()
    stored = ours.get(differing[0]) or theirs[differing[0]]
    first = msgspec.structs.replace(first, shard=stored.key)
    if values and _state(left) != _state(right):
        first = msgspec.structs.replace(first, state=_paths(left, right))
    return Difference(first, len(differing), within)


def _no_tensor(left: Checkpoint, right: Checkpoint, *, values: bool) -> Divergence:
    """Say in what two checkpoints differ whose tensors are equal, one by one."""
    if _state(left) == _state(right):
        return _whole_file(left, right)
    paths = _paths(left, right) if values else []
    return Divergence(tensor=f"state.json:{paths[0]}" if paths else "state.json", state=paths)


def _whole_file(left: Checkpoint, right: Checkpoint) -> Divergence:
    """Say which file differs where neither a tensor nor the state does: an estimator's, or the list of tied weights."""
    ours, theirs = (side.package.manifest.by_key for side in (left, right))
    for key in dict.fromkeys([*ours, *theirs]):
        one, other = ours.get(key), theirs.get(key)
        if key != "config.json" and (one is None or other is None or one.digest != other.digest):
            index = key.endswith(".index.json")
            how = "other names of tied weights" if index else "its arrays are equal, and what describes them is not"
            return Divergence(tensor=key, shard=key, how=how)
    return Divergence(how="the lists of tensors differ")


def _state(checkpoint: Checkpoint) -> str | None:
    """Return the digest of what is no tensor, from the version's list alone."""
    entry = checkpoint.package.manifest.by_key.get("state.json")
    return None if entry is None else entry.digest.value


def _paths(left: Checkpoint, right: Checkpoint) -> list[str]:
    """Return where in state.json two checkpoints differ, at most eight."""
    return list(islice(differing_paths(left.raw_state, right.raw_state), _MOST_PATHS))


def _renamed(left: Checkpoint, right: Checkpoint, unmatched: set[_Key]) -> dict[_Key, _Key]:
    """Pair tensors that one side lacks with those of other names that have the same dtype, shape and bytes."""
    ours, theirs = left.all_stored(), right.all_stored()
    gone = [key for key in ours if key in unmatched]
    come = [key for key in theirs if key in unmatched]
    shapes = {(ours[key].dtype, ours[key].shape) for key in gone} & {
        (theirs[key].dtype, theirs[key].shape) for key in come
    }

    def contents(checkpoint: Checkpoint, key: _Key) -> tuple[Any, ...]:
        stored = checkpoint.stored(key[1], key[0])
        # the digest of a tensor's own file covers the name in its header
        digest = hash_bytes(_array(checkpoint, key).data).hex if stored.alone else stored.digest
        return stored.dtype, stored.shape, digest

    free: dict[tuple[Any, ...], list[_Key]] = {}
    for key in come:
        if (theirs[key].dtype, theirs[key].shape) in shapes:
            free.setdefault(contents(right, key), []).append(key)
    found: dict[_Key, _Key] = {}
    for key in gone:
        if (ours[key].dtype, ours[key].shape) in shapes and (names := free.get(contents(left, key))):
            found[key] = names.pop(0)
    return found


def _array(checkpoint: Checkpoint, key: _Key) -> StoredArray:
    section, name = key
    return checkpoint.arrays(section, [name])[name]


def _label(key: _Key) -> str:
    section, name = key
    return name if section == "model" else f"{section}:{name}"


def _unlike(key: _Key, one: StoredTensor | None, other: StoredTensor | None, renamed: _Key | None) -> Divergence:
    """Say of two tensors that cannot be subtracted why."""
    shape = next(list(side.shape) for side in (one, other) if side is not None)
    if renamed is not None:
        how = f"renamed to {_label(renamed)}"
    elif one is None or other is None:
        how = f"missing from the {'first' if one is None else 'second'} of the two"
    else:
        kinds = [f"{side.dtype} {list(side.shape)}" for side in (one, other)]
        how = f"{kinds[0]} → {kinds[1]}"
    return Divergence(tensor=_label(key), shape=shape, how=how)


def how_far(key: tuple[str, str], left: StoredArray, right: StoredArray) -> Divergence:
    """Return how far apart two tensors of one section and name, dtype and shape are."""
    found = distance(left, right)
    if found is None:  # not reached: the metadata said that they are of one dtype and shape
        return Divergence(tensor=_label(key), shape=list(left.shape))
    counted = [
        (found.nan_one, "NaN against a value"),
        (found.nan_both, "NaN of other bits"),
        (found.infinite, "infinity against another value"),
        (found.zeros, "+0 against −0"),
    ]
    said = [f"{count:,} × {what}" for count, what in counted if count]
    return Divergence(
        tensor=_label(key),
        shape=list(left.shape),
        elements=found.elements,
        differing=found.differing,
        max_abs=_finite(found.max_abs),
        relative=_finite(found.relative),
        ulp=found.ulp,
        index=None if found.index is None else list(found.index),
        how=", ".join(said) or None,
    )


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None  # JSON has no infinity


def _same(one: StoredTensor | None, other: StoredTensor | None) -> bool:
    return (
        one is not None
        and other is not None
        and (one.dtype, one.shape, one.digest) == (other.dtype, other.shape, other.digest)
    )


def differing_paths(left: Any, right: Any, where: str = "") -> Iterator[str]:
    """Yield the paths of the values that differ between two JSON values, in the first one's order."""
    if isinstance(left, dict) and isinstance(right, dict):
        for key in [*left, *(key for key in right if key not in left)]:
            path = f"{where}.{key}" if where else str(key)
            if key not in left or key not in right:
                yield path
            elif canonical(left[key]) != canonical(right[key]):
                yield from differing_paths(left[key], right[key], path)
    elif isinstance(left, list) and isinstance(right, list) and len(left) == len(right) <= _MOST_ITEMS:
        for index, (a, b) in enumerate(zip(left, right, strict=True)):
            if canonical(a) != canonical(b):
                yield from differing_paths(a, b, f"{where}[{index}]")
    else:
        yield where or "(all)"
