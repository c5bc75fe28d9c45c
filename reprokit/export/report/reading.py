"""What a report reads of two runs beside their records: metrics by step, tensors that differ.

Every byte is verified before it is used. How much is read is bounded, and what was left out is said.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from reprokit.checkpoint.format import StoredTensor
from reprokit.checkpoint.reader import Checkpoint
from reprokit.client.tensors import StoredArray, as_array
from reprokit.comparison.compare_runs import open_checkpoint
from reprokit.comparison.tensor_distance import distance
from reprokit.comparison.tensor_pairs import pair_tensors
from reprokit.core.canonical_json import metric_values
from reprokit.core.progress import SILENT, Progress
from reprokit.core.safe_json import load_json
from reprokit.core.terminal_text import printable
from reprokit.errors import DataMismatchError, NotFoundError
from reprokit.export.report.data import Cell, Grid, Kind, Points, group, merged, thinned
from reprokit.registry import Registry
from reprokit.runs.pairs import Pair
from reprokit.runs.store import StoredRun
from reprokit.schema.metric_log import MAX_LINE
from reprokit.schema.record import CheckpointEntry

__all__ = ["BUDGET", "Histogram", "read_grid", "read_histogram", "read_steps"]

BUDGET = 500_000_000  # bytes of tensors, of both runs together
_MOST_ROWS, _MOST_COLUMNS = 40, 60
_MOST_LOGGED, _MOST_LINES = 64 * 1024 * 1024, 200_000
_ENOUGH = 64  # elements of a tensor whose histogram says something
_MOST_DRAWN = 1_000_000  # elements of a histogram
_LARGEST = 1e300


# ----------------------------------------------------------------------------------------- metrics by step


def read_steps(run: StoredRun, registry: Registry) -> tuple[dict[str, Points], list[str]]:
    """Return what a run logged by step, by name, and what of it was not read."""
    key = "metrics.jsonl"
    if key not in run.manifest:
        return {}, []
    entry, what = run.manifest[key], f"{key} of run {run.record.run_id}"
    if entry.size > _MOST_LOGGED:
        return {}, [f"{what} has {entry.size:,} bytes; above {_MOST_LOGGED:,} it is not read."]
    lines = registry.read_object(entry, what=what).split(b"\n")
    found: dict[str, Points] = {}
    unread = max(len(lines) - _MOST_LINES, 0)
    for line in lines[:_MOST_LINES]:
        if line:
            try:
                row = load_json(line, what=what, max_bytes=MAX_LINE, max_depth=4, constants=True)
            except DataMismatchError:
                unread += 1
                continue
            _take(row, found)
    notes = [f"{unread:,} lines of {what} were not read: malformed, or too many."] if unread else []
    return found, notes


def _take(row: object, found: dict[str, Points]) -> None:
    step = row.get("step") if isinstance(row, dict) else None
    values = metric_values(row.get("values")) if isinstance(row, dict) else None
    if type(step) is not int or abs(step) > 2**53 or not isinstance(values, dict):
        return
    for name, value in values.items():
        if type(value) in (int, float) and (name in found or len(found) < 1000):
            found.setdefault(name, []).append((float(step), _as_float(value)))


def _as_float(value: int | float) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf


# ------------------------------------------------------------------------------------------------- the grid

_Key = tuple[int, str]  # number of a pair, and name of a tensor of the model


@dataclass
class _Reading:
    """What is known of each tensor at each checkpoint so far."""

    registry: Registry
    left: int
    cells: dict[_Key, Cell] = field(default_factory=dict)
    names: dict[str, None] = field(default_factory=dict)
    opened: dict[int, tuple[Checkpoint, Checkpoint]] = field(default_factory=dict)
    worst: tuple[bool, float, int, str] | None = None
    compared: int = 0
    equal: int = 0
    tensors: int = 0
    numbers: int = 0
    cut: bool = False
    gone: int = 0


def read_grid(
    found: Sequence[Pair], registry: Registry, *, budget: int = BUDGET, progress: Progress = SILENT
) -> tuple[Grid | None, tuple[Pair, str] | None]:
    """Return how far the tensors of two runs' models are apart, and where the worst is that is worth a histogram.

    Which differ is known from metadata alone; only those are read, from the first checkpoint that differs on and then
    evenly spread, until the budget is used up. None if there are no two checkpoints to compare.
    """
    if not any(pair.left is not None and pair.right is not None for pair in found):
        return None, None
    first = next((i for i, pair in enumerate(found) if pair.state == "differs"), None)
    shown = thinned(len(found), _MOST_COLUMNS, keep=[] if first is None else [max(first - 1, 0), first])
    reading = _Reading(registry, budget)
    for number in shown:
        _look(number, found[number], reading)
    order = [number for number in [first, *_spread(shown)] if number in reading.opened]
    with progress.task("Comparing tensors", len(order), unit="checkpoints") as advance:
        for number in dict.fromkeys(order):
            _measure(number, reading)
            advance()
    rows = group(list(reading.names), _MOST_ROWS - 1)
    cells = [[_whole(found[number]) for number in shown]]
    cells += [
        [merged(reading.cells.get((n, name), Cell("absent")) for name in names) for n in shown]
        for names in rows.values()
    ]
    grid = Grid(
        rows=["whole checkpoint", *(_label(label, names) for label, names in rows.items())],
        columns=[printable(found[number].place.tick, 12) for number in shown],
        cells=cells,
        tensors=reading.tensors,
        numbers=reading.numbers,
        digests=(reading.equal, reading.compared),
        contradictions=[str(found[n].place) for n in shown if _contradicts(found[n], n, reading)],
        notes=_notes(found, shown, rows, reading, budget),
    )
    worst = reading.worst
    return grid, None if worst is None else (found[worst[2]], worst[3])


def _label(label: str, names: Sequence[str]) -> str:
    return label if len(names) == 1 else f"{label} ({len(names):,} tensors)"


def _spread(numbers: Sequence[int]) -> list[int]:
    """Return the last, then the others in an order that is spread evenly wherever it ends: by their bits, reversed."""
    order = sorted(range(len(numbers)), key=lambda place: int(f"{place:010b}"[::-1], 2))
    return [numbers[-1], *(numbers[place] for place in order)]


def _open(entry: CheckpointEntry | None, registry: Registry) -> Checkpoint | None:
    if entry is None or entry.dropped:
        return None
    try:
        return open_checkpoint(entry, registry)
    except NotFoundError:
        return None


def _model(checkpoint: Checkpoint | None) -> dict[tuple[str, str], StoredTensor]:
    stored = checkpoint.all_stored() if checkpoint is not None else {}
    return {key: tensor for key, tensor in stored.items() if key[0] == "model"}


def _look(number: int, pair: Pair, reading: _Reading) -> None:
    """Compare the digests of a pair's tensors."""
    left, right = _open(pair.left, reading.registry), _open(pair.right, reading.registry)
    ours, theirs = _model(left), _model(right)
    reading.names |= dict.fromkeys(name for _, name in [*ours, *theirs])
    if len(ours) > reading.tensors:
        reading.tensors, reading.numbers = len(ours), sum(math.prod(t.shape) for t in ours.values())
    known = left is not None and right is not None
    for found in pair_tensors(ours, theirs):
        kind: Kind = "equal" if found.how == "equal" else "unmeasured" if found.how == "differs" else "unlike"
        if not known and pair.state != "missing":  # one of them was deleted, and is not unlike
            kind = "equal" if pair.state == "equal" else "unmeasured"
        if known:
            reading.compared += 1
            reading.equal += kind == "equal"
        for name in {stored.name for stored in (found.one, found.other) if stored is not None}:
            reading.cells[number, name] = Cell(kind)
    if left is not None and right is not None:
        reading.opened[number] = left, right


def _whole(pair: Pair) -> Cell:
    return Cell({"equal": "equal", "differs": "unmeasured", "missing": "unlike"}[pair.state])  # type: ignore[arg-type]


def _contradicts(pair: Pair, number: int, reading: _Reading) -> bool:
    kinds = {cell.kind for (n, _), cell in reading.cells.items() if n == number} if number in reading.opened else set()
    return pair.state == "equal" and not kinds <= {"equal"}


def _measure(number: int, reading: _Reading) -> None:
    """Read the tensors that differ at a checkpoint, a file at a time."""
    left, right = reading.opened[number]
    files: dict[str, list[str]] = {}
    for (_, name), stored in _model(left).items():
        if reading.cells[number, name].kind == "unmeasured":
            files.setdefault(stored.key, []).append(name)
    for names in files.values():
        cost = 2 * sum(left.stored(name).nbytes for name in names)
        if cost > reading.left:
            reading.cut = True
            continue
        try:
            ours, theirs = left.arrays("model", names), right.arrays("model", names)
        except NotFoundError:  # erased, or not copied to this registry
            reading.gone += 1
            continue
        reading.left -= cost
        for name in names:
            size = _apart(ours[name], theirs[name])
            reading.cells[number, name] = Cell("apart", size)
            drawn = math.prod(ours[name].shape) >= _ENOUGH
            candidate = (drawn, size, number, name)
            if math.isfinite(size) and (reading.worst is None or candidate[:3] > reading.worst[:3]):
                reading.worst = candidate


def _apart(left: StoredArray, right: StoredArray) -> float:
    """Return the largest |Δ| in parts of the largest |value| of the left; infinite if one of them is not finite."""
    found = distance(left, right)
    if found is None or found.nan_one or found.infinite or not math.isfinite(found.max_abs):
        return math.inf
    if left.dtype.startswith("F8"):  # as_array gives the bytes of these
        return found.relative if found.relative is not None else math.inf
    scale = _largest(as_array(left)) or _largest(as_array(right))
    return float(found.max_abs) / scale if scale else 0.0


@np.errstate(all="ignore")
def _largest(array: npt.NDArray[np.generic]) -> float:
    if array.dtype.kind == "c":
        array = array.view(array.real.dtype)
    wide = array.astype(np.float64) if array.dtype.kind in "biu" else array
    low, high = np.fmin.reduce(wide, axis=None, initial=np.inf), np.fmax.reduce(wide, axis=None, initial=-np.inf)
    largest = max(abs(float(low)), abs(float(high)))
    if math.isfinite(largest):
        return largest
    finite = wide[np.isfinite(wide)]
    return float(np.abs(finite).max()) if finite.size else 0.0


def _notes(
    found: Sequence[Pair], shown: Sequence[int], rows: dict[str, list[str]], reading: _Reading, budget: int
) -> list[str]:
    notes = []
    if len(shown) < len(found):
        notes.append(f"{len(shown)} of {len(found):,} checkpoints are drawn, evenly spread.")
    if len(rows) < len(reading.names):
        notes.append(f"{len(reading.names):,} tensors in {len(rows)} rows: a row shows the worst of its own.")
    if reading.cut:
        notes.append(f"At most {budget / 1e6:,.0f} MB were read; what is marked “differs” alone was not measured.")
    if reading.gone:
        notes.append(f"{reading.gone:,} files of checkpoints are not in this registry any more, and were not measured.")
    return notes


# ------------------------------------------------------------------------------------------------- histogram


@dataclass(frozen=True, slots=True, kw_only=True)
class Histogram:
    """How the numbers of a tensor are distributed in both runs, and their difference.

    Attributes:
        edges: Of the bins of `one` and `other`; `apart_edges` of those of `apart`.
        elements, equal: How many there are, and how many of them are equal.
        drawn: How many of them were counted: finite, and of a large tensor a part, evenly spread.
    """

    name: str
    place: str
    shape: tuple[int, ...]
    edges: list[float]
    one: list[int]
    other: list[int]
    apart_edges: list[float]
    apart: list[int]
    elements: int
    equal: int
    drawn: int


@np.errstate(all="ignore")
def read_histogram(pair: Pair, name: str, registry: Registry) -> Histogram | None:
    """Return the distribution of a tensor in both runs; None if no two of its numbers are finite."""
    left, right = _open(pair.left, registry), _open(pair.right, registry)
    if left is None or right is None:
        return None
    one, other = left.arrays("model", [name])[name], right.arrays("model", [name])[name]
    a, b = (_numbers(side) for side in (one, other))
    equal = int(np.count_nonzero(a == b))
    every = -(-a.size // _MOST_DRAWN) or 1
    a, b = a[::every].astype(np.float64), b[::every].astype(np.float64)
    finite = (np.abs(a) <= _LARGEST) & (np.abs(b) <= _LARGEST)
    a, b = a[finite], b[finite]
    if not a.size:
        return None
    bins = min(max(int(2 * math.sqrt(a.size)), 8), 60)
    edges = _edges(min(a.min(), b.min()), max(a.max(), b.max()), bins)
    apart = b - a
    apart_edges = _edges(apart.min(), apart.max(), bins)
    return Histogram(
        name=name,
        place=str(pair.place),
        shape=one.shape,
        edges=edges.tolist(),
        one=np.histogram(a, edges)[0].tolist(),
        other=np.histogram(b, edges)[0].tolist(),
        apart_edges=apart_edges.tolist(),
        apart=np.histogram(apart, apart_edges)[0].tolist(),
        elements=math.prod(one.shape),
        equal=equal,
        drawn=int(a.size),
    )


def _numbers(stored: StoredArray) -> npt.NDArray[np.generic]:
    array = as_array(stored).reshape(-1)
    return array.view(array.real.dtype) if array.dtype.kind == "c" else array


def _edges(low: float, high: float, bins: int) -> npt.NDArray[np.float64]:
    low, high = float(low), float(high)
    if not high - low > 1e-12 * max(abs(low), abs(high)):  # also where nothing lies between two of them
        room = max(abs(low), abs(high)) * 0.5 or 0.5
        low, high = low - room, high + room
    return np.linspace(low, high, bins + 1)
