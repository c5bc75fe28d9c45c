"""In what two checkpoints differ: tensor by tensor, the first one, where in it and by how much, and what is no tensor.

Which tensor is which, and which are equal, is `tensor_pairs`' to say. No object is read unless values are asked for.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from reprokit.checkpoint.format import StoredTensor
from reprokit.checkpoint.reader import Checkpoint
from reprokit.client.tensors import StoredArray
from reprokit.comparison.files.beside_tensors import FileRow, compare_files, differs_beside, state_paths
from reprokit.comparison.tensor_distance import distance, within_tolerance
from reprokit.comparison.tensor_pairs import How, Key, Side, TensorPair, pair_tensors
from reprokit.core.digest import hash_bytes
from reprokit.schema.recipe import Tolerance
from reprokit.schema.verdict import Divergence

__all__ = [
    "Difference",
    "SectionCount",
    "TensorDiff",
    "TensorRow",
    "compare_tensors",
    "first_difference",
]


class TensorRow(msgspec.Struct, frozen=True, kw_only=True):
    """One tensor of two checkpoints.

    Attributes:
        how: `dtype` and `shape`: these differ, so no value is compared. `renamed`: the right one has it, equal, under
            `renamed`. `unknown`: on that `side` alone, or renamed; only its bytes would tell, and they were not read.
        dtype, shape: Of the left one, or of the only one.
        right_dtype, right_shape: Of the right one, where they are others.
        distance: How far apart the values are, where they were read.
    """

    section: str
    name: str
    how: How
    dtype: str
    shape: list[int]
    side: Side | None = None
    right_dtype: str | None = None
    right_shape: list[int] | None = None
    renamed: str | None = None
    distance: Divergence | None = None

    @classmethod
    def of(cls, pair: TensorPair, distance: Divergence | None) -> TensorRow:
        """Return the row of a pair."""
        one, other = pair.one, pair.other
        unlike = other if pair.how in ("dtype", "shape") else None
        return cls(
            section=one.section,
            name=one.name,
            how=pair.how,
            dtype=one.dtype,
            shape=list(one.shape),
            side=pair.side if pair.how == "unknown" else None,
            right_dtype=unlike.dtype if unlike is not None else None,
            right_shape=list(unlike.shape) if unlike is not None else None,
            renamed=other.name if other is not None and pair.how == "renamed" else None,
            distance=distance,
        )

    @property
    def label(self) -> str:
        """Its name, with `SECTION:` before it if it is not the model's."""
        return self.name if self.section == "model" else f"{self.section}:{self.name}"


class SectionCount(msgspec.Struct, frozen=True, kw_only=True):
    """How many tensors of a section the two have together, and how many of these differ."""

    section: str
    tensors: int
    differing: int


class TensorDiff(msgspec.Struct, frozen=True, kw_only=True):
    """Two checkpoints compared.

    Attributes:
        tensors, differing: How many tensors the two have together, and how many of these are not equal.
        first: The first that is not; the model's come before others, in the order they are stored in.
        rows: All of them, in that order.
    """

    tensors: int
    differing: int
    first: str | None
    sections: list[SectionCount]
    rows: list[TensorRow]
    files: list[FileRow]

    @property
    def unequal(self) -> list[TensorRow]:
        return [row for row in self.rows if row.how != "equal"]

    @property
    def equal(self) -> bool:
        """True if nothing that a state digest covers differs, but for the other names of tied weights."""
        return not self.differing and all(row.how == "equal" for row in self.files)


@dataclass(frozen=True, slots=True)
class Difference:
    """The first tensor in which two checkpoints differ, how many do, and whether that is all, and tolerated.

    Attributes:
        divergence: Of what differs beside the tensors, if none of them does.
        within: Nothing but tensors differs, and all that do are within a tolerance that was declared.
        beside: What differs beside tensors that are within it.
    """

    divergence: Divergence
    count: int
    within: bool
    beside: Divergence | None = None

    def __str__(self) -> str:
        more = f" (and {self.count - 1} more)" if self.count > 1 else ""
        beside = f"; beside it {self.beside.tensor_text()}" if self.beside is not None else ""
        return self.divergence.tensor_text() + more + beside


def compare_tensors(left: Checkpoint, right: Checkpoint, *, values: bool = False) -> TensorDiff:
    """Return in what two checkpoints differ, tensor by tensor.

    Args:
        values: Read the tensors that differ, to say by how much, and those that may be one under two names. Without, no
            object is read.
    Raises:
        DataMismatchError: What a version says of its tensors is malformed, or one is corrupt.
    """
    pairs = _pairs(left, right, values=values)
    distances = _distances(left, right, pairs) if values else {}
    rows = [TensorRow.of(pair, distances.get(pair.key)) for pair in pairs]
    unequal = [row for row in rows if row.how != "equal"]
    sections = [
        SectionCount(
            section=section,
            tensors=sum(row.section == section for row in rows),
            differing=sum(row.section == section for row in unequal),
        )
        for section in dict.fromkeys(row.section for row in rows)
    ]
    return TensorDiff(
        tensors=len(rows),
        differing=len(unequal),
        first=unequal[0].label if unequal else None,
        sections=sections,
        rows=rows,
        files=compare_files(left, right),
    )


def first_difference(left: Checkpoint, right: Checkpoint, tolerance: Tolerance, *, values: bool = True) -> Difference:
    """Return the first tensor in which two checkpoints differ, the model's before others, or else what differs beside.

    Digests tell which tensors differ; of these, only as many are read as it takes to know whether all are within the
    tolerance. A tensor that has another name on the other side differs, and is not within.

    Args:
        values: Without, no object is read: it is said which tensor differs, not by how much; and none that does is
            within.
    """
    pairs = [pair for pair in _pairs(left, right, values=values) if pair.how != "equal"]
    if not pairs:
        beside = differs_beside(left, right, [], values=values)
        return Difference(beside or Divergence(how="the lists of tensors differ"), 1, within=False)
    weights = tolerance.weights
    within = values and (weights.atol > 0 or weights.rtol > 0)
    first: Divergence | None = None
    for pair in pairs:
        if pair.how != "differs":
            within = False
            first = first or _unlike(pair)
        elif not values:
            first = Divergence(tensor=pair.label, shape=list(pair.one.shape), elements=math.prod(pair.one.shape))
        else:
            a, b = _array(left, pair.one), _array(right, pair.one)
            within = within and within_tolerance(a, b, weights.atol, weights.rtol)
            first = first or _how_far(pair.label, a, b)
        if not within:
            break
    first = msgspec.structs.replace(first or Divergence(), shard=pairs[0].one.key)
    if values:
        first = msgspec.structs.replace(first, state=state_paths(left, right))
    differing = [stored for pair in pairs for stored in (pair.one, pair.other) if stored is not None]
    beside = differs_beside(left, right, differing, values=values) if within else None
    return Difference(first, len(pairs), within and beside is None, beside)


def _pairs(left: Checkpoint, right: Checkpoint, *, values: bool) -> list[TensorPair]:
    contents = (_content_of(left), _content_of(right)) if values else None
    return pair_tensors(left.all_stored(), right.all_stored(), contents)


def _content_of(checkpoint: Checkpoint) -> Callable[[StoredTensor], str]:
    return lambda stored: hash_bytes(_array(checkpoint, stored).data).hex


def _distances(left: Checkpoint, right: Checkpoint, pairs: list[TensorPair]) -> dict[Key, Divergence]:
    """Read every tensor that differs in its values alone, and return by how much."""
    by_section: dict[str, list[TensorPair]] = {}
    for pair in pairs:
        if pair.how == "differs":
            by_section.setdefault(pair.one.section, []).append(pair)
    found: dict[Key, Divergence] = {}
    for section, differing in by_section.items():
        ours, theirs = (side.arrays(section, [pair.one.name for pair in differing]) for side in (left, right))
        found |= {pair.key: _how_far(pair.label, ours[pair.one.name], theirs[pair.one.name]) for pair in differing}
    return found


def _array(checkpoint: Checkpoint, stored: StoredTensor) -> StoredArray:
    return checkpoint.arrays(stored.section, [stored.name])[stored.name]


def _unlike(pair: TensorPair) -> Divergence:
    """Say of two tensors that cannot be subtracted why."""
    if pair.other is None:
        how = f"missing from the {'first' if pair.side == 'right' else 'second'} of the two"
        how += ", or renamed: its values were not read" if pair.how == "unknown" else ""
    elif pair.renamed is not None:
        how = f"renamed to {pair.renamed}"
    else:
        how = " → ".join(f"{side.dtype} {list(side.shape)}" for side in (pair.one, pair.other))
    return Divergence(tensor=pair.label, shape=list(pair.one.shape), how=how)


def _how_far(label: str, left: StoredArray, right: StoredArray) -> Divergence:
    """Return how far apart two tensors of one dtype and shape are."""
    found = distance(left, right)
    if found is None:  # not reached: the metadata said that they are of one dtype and shape
        return Divergence(tensor=label, shape=list(left.shape))
    counted = [
        (found.nan_one, "NaN against a value"),
        (found.nan_both, "NaN of other bits"),
        (found.infinite, "infinity against another value"),
        (found.zeros, "+0 against −0"),
    ]
    said = [f"{count:,} × {what}" for count, what in counted if count]
    return Divergence(
        tensor=label,
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
