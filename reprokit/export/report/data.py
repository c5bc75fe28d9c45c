"""What a report on one run, or on two, draws: pairs of checkpoints, curves, a grid of cells. Reads no files.

Names, numbers and their amount come from a registry: everything is bounded here, and nothing is taken for finite.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from reprokit.comparison.record_check import same_number
from reprokit.core.terminal_text import printable
from reprokit.schema.record import Record

__all__ = ["Cell", "Curve", "Grid", "curves", "extremes", "group", "merged", "thin", "thinned"]

Points = list[tuple[float, float]]

_MOST_CURVES = 12
_MOST_POINTS = 400  # of a line; more are not seen
_LARGEST = 1e300  # what is larger is drawn as little as an infinity: differences of two must be finite


# ---------------------------------------------------------------------------------------------------- curves


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """One metric of one or both runs, thinned out.

    Attributes:
        axis: What x counts: `epoch`, `step` or `checkpoint`.
        other: None if there is one run alone.
        same: Every value of both is the same; None if there is one run alone.
        apart: The x from which on they differ.
        lost: Values that are NaN, infinite or too large, and not drawn.
    """

    name: str
    axis: str
    one: Points
    other: Points | None
    same: bool | None = None
    apart: float | None = None
    lost: int = 0

    @property
    def status(self) -> str:
        """Whether the two lines are one, in a few words."""
        if self.other is None:
            said = ""
        elif self.same:
            said = "identical"
        elif self.apart is None:
            said = "in one run only"
        else:
            said = f"differs from {self.axis} {self.apart:g} on"
        return ", ".join(part for part in (said, f"{self.lost:,} not finite" if self.lost else "") if part)


def curves(
    left: Record,
    right: Record | None,
    steps: Sequence[Mapping[str, Points]] = ({}, {}),
    *,
    first: Iterable[str] = (),
) -> tuple[list[Curve], int]:
    """Return the metrics of checkpoints, then those logged by step, and how many more there are than are drawn.

    Args:
        steps: Of each run, what it logged: name → (step, value).
        first: Metrics that come before others: what the recipe calls best.
    """
    sides = [left] if right is None else [left, right]
    axis = _axis(sides)
    by_place = [_metrics(side, axis) for side in sides]
    names = [*first, *(name for found in by_place for name in found)]
    chosen = [(name, axis, by_place) for name in dict.fromkeys(names) if any(name in found for found in by_place)]
    known = {name for name, _, _ in chosen}
    logged = [name for found in steps[: len(sides)] for name in found if name not in known]
    chosen += [(name, "step", [dict(found) for found in steps[: len(sides)]]) for name in dict.fromkeys(logged)]
    drawn = [_curve(name, unit, found) for name, unit, found in chosen[:_MOST_CURVES]]
    return drawn, len(chosen) - len(drawn)


def _curve(name: str, axis: str, found: Sequence[Mapping[str, Points]]) -> Curve:
    lines = [side.get(name, []) for side in found]
    same, apart = None, None
    if len(lines) == 2:
        ours, theirs = dict(lines[0]), dict(lines[1])
        unlike = [x for x in ours.keys() | theirs.keys() if not same_number(ours.get(x), theirs.get(x))]
        same = not unlike
        apart = min(unlike) if unlike and ours and theirs else None
    finite = [[(x, y) for x, y in line if math.isfinite(y) and abs(y) <= _LARGEST] for line in lines]
    return Curve(
        name=printable(name, 40),
        axis=axis,
        one=thin(finite[0], _MOST_POINTS),
        other=thin(finite[1], _MOST_POINTS) if len(finite) == 2 else None,
        same=same,
        apart=apart,
        lost=sum(map(len, lines)) - sum(map(len, finite)),
    )


def _axis(sides: Sequence[Record]) -> str:
    """Return what tells all checkpoints of all runs apart."""
    for axis in ("epoch", "step"):
        for side in sides:
            places = [getattr(entry, axis) for entry in side.checkpoints]
            if any(place is None or abs(place) > 2**53 for place in places) or len(set(places)) < len(places):
                break
        else:
            return axis
    return "checkpoint"


def _metrics(record: Record, axis: str) -> dict[str, Points]:
    found: dict[str, Points] = {}
    for index, entry in enumerate(record.checkpoints):
        place = index if axis == "checkpoint" else getattr(entry, axis)
        for name, value in entry.metrics.items():
            found.setdefault(name, []).append((float(place), float(value)))
    return found


def thin(points: Points, most: int) -> Points:
    """Return at most `most` points: of each stretch the lowest and the highest, so that no spike is lost."""
    return [points[i] for i in extremes([y for _, y in points], most)]


def extremes(values: Sequence[float], most: int) -> Sequence[int]:
    """Return at most `most` places of finite values: of each stretch that of the lowest and that of the highest."""
    if len(values) <= most:
        return range(len(values))
    kept: list[int] = []
    for part in _parts(len(values), most // 2):
        stretch = values[part.start : part.stop]
        kept += sorted({part.start + stretch.index(min(stretch)), part.start + stretch.index(max(stretch))})
    return kept


def thinned(count: int, most: int, *, keep: Iterable[int] = ()) -> list[int]:
    """Return at most `most` of `count` places, evenly spread, the ends and those of `keep` among them."""
    if count <= most:
        return list(range(count))
    wanted = {0, count - 1, *list(keep)[: most - 2]}
    spread = [round(i * (count - 1) / (most - 1)) for i in range(most)]
    for place in sorted(spread, key=lambda p: -min(abs(p - w) for w in wanted)):
        if len(wanted) >= most:
            break
        wanted.add(place)
    return sorted(wanted)


def _parts(count: int, parts: int) -> list[range]:
    return [range(i * count // parts, (i + 1) * count // parts) for i in range(parts)]


# ------------------------------------------------------------------------------------------------------ grid


Kind = Literal["absent", "equal", "unmeasured", "apart", "unlike"]


@dataclass(frozen=True, slots=True)
class Cell:
    """How a tensor, or several of a module, compare at one checkpoint.

    Attributes:
        kind: `apart` by `size`; `unmeasured`: differs, by how much was not read; `unlike`: cannot be subtracted, or is
            in one run alone; `absent`: in neither, or nothing is known of it.
        size: Largest |Δ| in parts of the largest |weight|; infinite where NaN or an infinity is on one side alone.
    """

    kind: Kind
    size: float = 0.0


_ORDER = ("absent", "equal", "unmeasured", "apart", "unlike")


def merged(cells: Iterable[Cell]) -> Cell:
    """Return what a row says that stands for several tensors: the worst of them."""
    return max(cells, key=lambda cell: (_ORDER.index(cell.kind), cell.size), default=Cell("absent"))


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Tensors, or modules, by checkpoints. The first row is the state as a whole, from its digest.

    Attributes:
        tensors, numbers: Of the largest checkpoint among the columns.
        digests: Pairs of tensors' digests that were compared, and how many of them were equal.
        contradictions: Checkpoints whose records say that they are equal, and whose tensors are not.
        notes: What was not drawn or not read, and why.
    """

    rows: list[str]
    columns: list[str]
    cells: list[list[Cell]]
    tensors: int = 0
    numbers: int = 0
    digests: tuple[int, int] = (0, 0)
    contradictions: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def sizes(self) -> list[float]:
        return [cell.size for row in self.cells for cell in row if cell.kind == "apart"]

    @property
    def first(self) -> int | None:
        """The first column with a tensor of the model that differs."""
        columns = range(len(self.columns))
        return next((x for x in columns if any(row[x].kind not in ("equal", "absent") for row in self.cells[1:])), None)

    @property
    def equal(self) -> bool:
        return all(cell.kind in ("equal", "absent") for row in self.cells for cell in row)


def group(names: Sequence[str], most: int) -> dict[str, list[str]]:
    """Return the rows that stand for these tensors, by their labels: each, or their modules, or as many as fit."""
    names = sorted(names, key=_natural)
    if len(names) <= most:
        return {name: [name] for name in names}
    parts = {name: re.split(r"[./]", name[:2000]) for name in names}
    for depth in range(min(max(map(len, parts.values())), 32), 0, -1):
        found: dict[str, list[str]] = {}
        for name in names:
            found.setdefault(".".join(parts[name][:depth]), []).append(name)
        if len(found) <= most:
            return found
    chunks = [[names[i] for i in part] for part in _parts(len(names), most)]
    return {f"{number}. {chunk[0]} …": chunk for number, chunk in enumerate(chunks, 1)}


def _natural(name: str) -> list[tuple[int, str]]:
    """Return what sorts names so that layer 2 comes before layer 10."""
    return [(len(part) if part.isdigit() else 0, part) for part in re.split(r"(\d+)", name[:500])]
