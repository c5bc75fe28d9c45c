"""Every difference between two runs that could explain a divergence, and how well each would. Reads no files.

What differs is found from the locks, the machines and what was read without being declared. How well it would explain
the first difference goes by where that is and how large: rounding in the first epoch speaks of numbers computed
otherwise, a late epoch of code that acts late, an output alone of what happens after the training.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec

from reprokit.client.frameworks import find
from reprokit.numerics.numeric_class import Difference, differences
from reprokit.schema.factor import SETTINGS, Factor
from reprokit.schema.lock import DataPin, PackageChange, RunLock
from reprokit.schema.machine import Machine
from reprokit.schema.manifest import ManifestDiff
from reprokit.schema.recipe import to_plain
from reprokit.schema.record import Program, UndeclaredFile
from reprokit.schema.verdict import Cause, Divergence

__all__ = ["Between", "Evidence", "Where", "causes_between", "weigh"]

Where = Literal["initial", "first", "later", "missing", "outputs", "metrics"]

_CONSEQUENCES = {"PYTHONHASHSEED"}  # of the seed; thread variables are told by their names
_SWITCHING = (*("execution." + name for name in ("threads", "variables", "determinism")), "environment.")
_SCRIPTED = ("code", "params.", "recipe.code.")  # by which a script may set a library's switches
_EQUAL = "every checkpoint is equal in every bit"
_MAX_NAMED = 5
_MAX_LINES = 200
_SHIFTS = 1e-5  # |Δ| / |original| below which a difference is one of rounding
_NUMERIC = ("execution.threads", "execution.variables")
_DRAWN = ("execution.seed", "execution.determinism")
_ELSEWHERE = ("data", "environment", "params", "execution")  # of a recipe: what the lock pins, and is told from there
_MODULE = "inputs.module."
_IDLE = ("name", "tolerance", "outputs")


@dataclass(frozen=True, kw_only=True)
class Between:
    """What lies between two runs beside their locks.

    Attributes:
        machines: What the two records say about their machines.
        code: Files that differ between the two trees; None if the trees are equal.
        cells: By name of a file of the code, what changed in it, cell by cell: of the notebook that is executed.
        lines: By name of a file of the code, how its text differs.
        same: Files of the code that differ in comments and layout alone.
        imported_files: Files of the code that either run imported; None if one of them did not tell.
        opened_files: Other files of the code that either read; None if that was not watched.
        data: By input name, the entries that differ.
        unused: Parameters that never reached the script of either run.
        imported: Packages that either run imported; empty if they did not tell.
        undeclared: What each read without declaring it.
        unpinned: What else of the two differs that no lock pins: variables that they read, files of a working tree.
        programs: What else each started.
        params: Of the two records; of runs without a lock they are all that is known of them.
        other: ID of the second run, which `--with code=` and `env=` can name.
    """

    machines: tuple[Machine, Machine] = (Machine(), Machine())
    code: ManifestDiff | None = None
    cells: Mapping[str, list[str]] = field(default_factory=dict)
    lines: Mapping[str, list[str]] = field(default_factory=dict)
    same: frozenset[str] = frozenset()
    imported_files: frozenset[str] | None = None
    opened_files: frozenset[str] | None = None
    data: Mapping[str, ManifestDiff] = field(default_factory=dict)
    unused: frozenset[str] = frozenset()
    imported: frozenset[str] = frozenset()
    undeclared: tuple[list[UndeclaredFile], list[UndeclaredFile]] = field(default_factory=lambda: ([], []))
    unpinned: tuple[Cause, ...] = ()
    programs: tuple[list[Program], list[Program]] = field(default_factory=lambda: ([], []))
    params: tuple[Mapping[str, Any], Mapping[str, Any]] = field(default_factory=lambda: ({}, {}))
    other: str = ""


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What a comparison saw that speaks for one cause or against it.

    Attributes:
        where: In what the first difference is: the initial state, the first checkpoint, a later one, one that only one
            side has, the outputs alone, the metrics alone.
        checkpoints: There are some that were compared.
    """

    where: Where
    first: Divergence | None
    checkpoints: bool

    @property
    def is_rounding(self) -> bool:
        first = self.first
        return first is not None and (
            (first.relative is not None and first.relative < _SHIFTS) or (first.ulp is not None and first.ulp <= 16)
        )

    @property
    def name(self) -> str:
        return "" if self.first is None else self.first.what


def causes_between(left: RunLock | None, right: RunLock | None, between: Between) -> list[Cause]:
    """Return every difference between two runs that could explain a divergence, locks first.

    Args:
        left, right: Their locks; None for a run that was not started from a recipe.
    """
    found: list[Cause] = []
    if left is not None and right is not None:
        found += _code(left, right, between)
        found += _data(left, right, between.data)
        found += _params(left.params, right.params, between.unused)
        found += _execution(left, right)
        found += _recipe(left, right)
        given = between.other and right.environment.container is None
        factor = Factor(kind="environment", value=between.other) if given else None
        found += [_package(change, between, factor) for change in left.environment.changes_to(right.environment)]
    else:  # a parameter that one of them does not name is unknown there; and neither can be repeated with another value
        known = between.params[0].keys() & between.params[1].keys()
        one, other = ({key: told[key] for key in told if key in known} for told in between.params)
        found += [msgspec.structs.replace(cause, factor=None) for cause in _params(one, other, between.unused)]
    found += [*_undeclared(*between.undeclared), *_programs(*between.programs), *between.unpinned]
    return [*found, *_machine(*between.machines, found)]


def _code(one: RunLock, other: RunLock, between: Between) -> Iterator[Cause]:
    factor = Factor(kind="code", value=between.other) if between.other else None
    if between.code is not None:
        changed = [*between.code.changed, *between.code.added, *between.code.removed]
        uses = {key: _use(key, between) for key in changed}
        idle = bool(changed) and set(uses.values()) <= {"comments", "unused"}
        why = "what differs are comments, layout, and files that neither run imported or opened" if idle else ""
        unseen = not idle and "used" not in uses.values()
        if unseen:
            why = "no file that differs was imported by either run; whether one was read is not known"
        lines: list[str] = []
        for key in sorted(changed, key=lambda key: (uses[key] != "used", key)):
            lines += between.lines.get(key, [])
        yield Cause(
            kind="code",
            what="code.files" if unseen else "code",
            text=f"code: {_named(between.code, between)} (tree {one.code.tree[:8]} → {other.code.tree[:8]})",
            weight="unlikely" if idle else "possible",
            why=why,
            lines=_capped(lines),
            factor=factor,
        )
    if one.code.python_path != other.code.python_path:
        text = f"code: module folders {one.code.python_path} → {other.code.python_path}"
        yield Cause(kind="code", what="code.python_path", text=text, factor=factor)


def _use(key: str, between: Between) -> Literal["used", "comments", "unused", "unknown"]:
    """Return what the runs had of a file of the code that differs."""
    name = key.removeprefix("code/")
    if key in between.same:
        return "comments"
    if between.imported_files is None:
        return "used"
    if name in between.imported_files or name in (between.opened_files or ()):
        return "used"
    return "unused" if name.endswith(".py") or between.opened_files is not None else "unknown"


def _data(one: RunLock, other: RunLock, data: Mapping[str, ManifestDiff]) -> Iterator[Cause]:
    ours, theirs = {pin.name: pin for pin in one.data}, {pin.name: pin for pin in other.data}
    for name in dict.fromkeys([*ours, *theirs]):
        a, b = ours.get(name), theirs.get(name)
        what = f"data.{name}"
        if a is None or b is None:
            yield Cause(kind="data", what=what, text=f"{what}: only one of the runs has it")
        elif a.identity != b.identity:
            diff = data.get(name)
            entries = f": {_named(diff)}" if diff is not None else ""
            lines = [] if diff is None else _listed(diff)
            yield Cause(kind="data", what=what, text=f"{what}: {a} → {b}{entries}", lines=lines, factor=_repinned(b))
        elif a.path != b.path:
            yield Cause(kind="data", what=what, text=f"{what}: laid out at {a.path} → {b.path}")


def _repinned(pin: DataPin) -> Factor | None:
    """Return what gives a run this input."""
    if pin.run is not None:
        return Factor(kind="data", name=pin.name, value=pin.run)
    if pin.within is not None:
        return None
    return Factor(kind="data", name=pin.name, value=f"{pin.package}@{pin.top_hash[:16]}")


def _params(left: Mapping[str, Any], right: Mapping[str, Any], unused: frozenset[str]) -> Iterator[Cause]:
    for key in dict.fromkeys([*left, *right]):
        if left.get(key) != right.get(key) or (key in left) != (key in right):
            both = key in left and key in right
            factor = Factor(kind="param", name=key, value=right[key]) if both else None
            text = f"params.{key} {_short(left.get(key))} → {_short(right.get(key))}"
            idle = key in unused
            yield Cause(
                kind="params",
                what=f"params.{key}",
                text=text,
                weight="unlikely" if idle else "possible",
                why="it never reached the script of either run" if idle else "",
                factor=factor,
            )


def _execution(one: RunLock, other: RunLock) -> Iterator[Cause]:
    for name in one.execution.__struct_fields__:
        a, b = getattr(one.execution, name), getattr(other.execution, name)
        if name == "variables":
            for key in sorted({*a, *b}):
                if a.get(key) != b.get(key):
                    what = f"execution.variables.{key}"
                    text = f"{what} {a.get(key, 'unset')} → {b.get(key, 'unset')} (numeric class differs)"
                    factor = Factor(kind="variable", name=key, value=b.get(key))
                    yield Cause(kind="execution", what=what, text=text, factor=factor)
        elif a != b:
            note = " (numeric class differs)" if name == "threads" else ""
            text = f"execution.{name} {_short(a)} → {_short(b)}{note}"
            given = Factor(kind="execution", name=name, value=b) if name in SETTINGS else None
            idle = name == "benign"
            yield Cause(
                kind="execution",
                what=f"execution.{name}",
                text=text,
                weight="unlikely" if idle else "possible",
                why="nothing is computed by it" if idle else "",
                factor=given,
            )


def _recipe(one: RunLock, other: RunLock) -> Iterator[Cause]:
    """Yield what else the recipes say otherwise: what is executed, when checkpoints are saved, what is declared."""
    left, right = (dict(_leaves(to_plain(lock.recipe))) for lock in (one, other))
    for path in dict.fromkeys([*left, *right]):
        if left.get(path) == right.get(path) or path.partition(".")[0] in _ELSEWHERE:
            continue
        idle = path.partition(".")[0] in _IDLE
        yield Cause(
            kind="code" if path.startswith("code.") else "execution",
            what=f"recipe.{path}",
            text=f"recipe.{path} {_short(left.get(path))} → {_short(right.get(path))}",
            weight="unlikely" if idle else "possible",
            why="nothing is computed by it" if idle else "",
        )


def _leaves(value: Any, where: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _leaves(inner, f"{where}.{key}" if where else str(key))
    else:
        yield where, value


def _package(change: PackageChange, between: Between, factor: Factor | None) -> Cause:
    idle = change.kind in ("pip", "conda") and between.imported and change.name not in between.imported
    return Cause(
        kind="environment",
        what=f"environment.{change.name}",
        text=f"environment: {change}",
        weight="unlikely" if idle and change.kind == "pip" else "possible",
        why="not imported by either run" if idle else "imported" if change.name in between.imported else "",
        factor=factor,
    )


def _undeclared(left: list[UndeclaredFile], right: list[UndeclaredFile]) -> Iterator[Cause]:
    """Yield files that both read without declaring them and that changed, or that only one of them read."""
    ours, theirs = {file.path: file for file in left}, {file.path: file for file in right}
    for path in dict.fromkeys([*ours, *theirs]):
        a, b = ours.get(path), theirs.get(path)
        code = "module" in {file.kind for file in (a, b) if file is not None}
        name = f"the module {path}" if code else path
        if a is None or b is None:
            text = f"inputs: {name} was read by the {'second' if a is None else 'first'} run alone, and is not declared"
        elif a.digest != b.digest or a.size != b.size:
            text = f"inputs: {name} changed between the runs, and is not declared"
        else:
            continue
        what = f"{_MODULE}{path}" if code else f"inputs.{path}"
        yield Cause(kind="inputs", what=what, text=text, why="it was read, and nothing pins it")


def _programs(left: list[Program], right: list[Program]) -> Iterator[Cause]:
    """Yield programs that scripts started and that changed, or that only one of them started."""
    ours, theirs = {one.path: one for one in left}, {one.path: one for one in right}
    for path in dict.fromkeys([*ours, *theirs]):
        a, b = ours.get(path), theirs.get(path)
        if a is None or b is None:
            text = f"inputs: the program {path} was started by the {'second' if a is None else 'first'} run alone"
        elif a.digest != b.digest or a.size != b.size:
            text = f"inputs: the program {path} changed between the runs"
        else:
            continue
        yield Cause(kind="inputs", what=f"inputs.program.{path}", text=text, why="what it read is not known")


def _is_numeric(cause: Cause) -> bool:
    return cause.kind == "machine" or cause.what.startswith(_NUMERIC)


def _machine(left: Machine, right: Machine, found: list[Cause]) -> Iterator[Cause]:
    """Yield how the numeric classes differ; threads are told once, by execution.threads, and releases by packages.

    Kernels and facts are what libraries showed. Where something that sets them differs itself, that is the cause.

    Args:
        found: What else differs.
    """
    acting = [cause.what for cause in found if cause.weight != "unlikely"]
    switched = any(what.startswith(_SWITCHING) for what in acting)
    items = differences(left.numeric, right.numeric)
    scripted = [item for item in items if _is_scripted(item, left, right, acting)]
    for item in items:
        if "thread" in item.what or item.what in _CONSEQUENCES or item.what.endswith(".version"):
            continue
        if item in scripted or (item.kind == "kernels" and any(one.family == item.family for one in scripted)):
            continue
        because = item.because.partition(" ")[0]  # a variable that may have come from outside the lock
        elsewhere = because and f"execution.variables.{because}" not in acting
        if switched and item.kind in ("kernels", "fact") and not elsewhere:
            continue
        strict = item.kind == "variable" and "execution.determinism" in acting
        if strict or f"execution.variables.{item.what}" in acting:
            continue
        idle = item.kind == "harmless"
        yield Cause(
            kind="machine",
            what=f"machine.{item.what}",
            text=f"machine: {item}",
            weight="unlikely" if idle else "possible",
            why="no library that was loaded computes by it" if idle else "",
        )


def _is_scripted(item: Difference, left: Machine, right: Machine, acting: list[str]) -> bool:
    """True for a switch that scripts set, where the script differs, or what it was given."""
    framework = find(item.family)
    if item.kind != "fact" or framework is None or not any(what.startswith(_SCRIPTED) for what in acting):
        return False
    set_by_script = (
        framework.numbers.switches(side.numeric.told_by.get(item.family, {}), side.numeric.fingerprint, None)
        for side in (left, right)
    )
    return item.what.partition(".")[2].partition(".")[0] in {name for switches in set_by_script for name in switches}


def weigh(causes: list[Cause], evidence: Evidence, *, unseeded: bool = False, pinned: bool = True) -> list[Cause]:
    """Return the causes, most telling first, each with how well it would explain what was seen, and why.

    Where none would, a last one says so: `unexplained`.

    Args:
        unseeded: `execution.determinism` is off: nothing seeds the script's generators.
        pinned: Both runs have a lock; else whatever it would pin may differ unseen.
    """
    told = ("unlikely", "resumed")  # what was weighed where it was seen
    weighed = [cause if cause.weight in told or cause.kind in told else _weigh(cause, evidence) for cause in causes]
    open_ = [cause for cause in weighed if cause.weight != "unlikely"]
    if pinned and len(open_) == 1 and open_[0].weight != "likely":
        why = "; ".join(filter(None, (open_[0].why, "nothing else that differs would explain it")))
        only = msgspec.structs.replace(open_[0], weight="likely", why=why)
        weighed = [only if cause is open_[0] else cause for cause in weighed]
    if not open_:
        weighed.append(_unexplained(causes, evidence, unseeded, pinned))
    rank = ["likely", "possible", "unlikely"]
    order = [
        "record",
        "resumed",
        "code",
        "data",
        "params",
        "execution",
        "inputs",
        "environment",
        "machine",
        "unexplained",
    ]
    return sorted(
        weighed, key=lambda cause: (rank.index(cause.weight), cause.what == "code.files", order.index(cause.kind))
    )


def _weigh(cause: Cause, evidence: Evidence) -> Cause:
    weight, why = _judged(cause, evidence)
    return msgspec.structs.replace(cause, weight=weight, why="; ".join(filter(None, (cause.why, why))))


def _judged(cause: Cause, evidence: Evidence) -> tuple[Literal["likely", "possible", "unlikely"], str]:
    """Return how well a cause would explain what was seen first, and why."""
    numeric = _is_numeric(cause)
    drawn = cause.what in _DRAWN
    if cause.kind == "record":
        return "likely", ""
    if cause.what.startswith(_MODULE):
        return "likely", "it is code, which can act anywhere"
    if cause.what in ("code.files", "inputs.in_place"):
        return "possible", ""
    if evidence.where in ("outputs", "metrics") and not evidence.checkpoints:
        return "possible", ""
    if evidence.where == "initial":
        if numeric and not evidence.is_rounding:
            return "unlikely", "the initial state differs, which is drawn and hardly computed"
        return "likely" if drawn or cause.kind in ("code", "params") else "possible", "the initial state differs"
    if evidence.where == "missing":
        likely = cause.kind in ("code", "params")
        return "likely" if likely else "possible", f"{evidence.name}" if likely else ""
    if evidence.where == "outputs":
        likely = cause.kind in ("code", "inputs", "environment")
        return ("likely" if likely else "unlikely" if drawn else "possible"), _EQUAL
    if evidence.where == "metrics":
        return "likely" if cause.kind in ("code", "inputs") else "possible", _EQUAL
    if evidence.where == "later":
        why = f"everything before {evidence.name} is equal in every bit"
        if cause.kind == "code":
            return "likely", f"{why}: code can act late"
        return ("unlikely" if cause.kind == "data" or drawn else "possible"), why
    if evidence.is_rounding:
        close = numeric or cause.kind == "environment" or (cause.kind == "params")
        return "likely" if close else "possible", f"{evidence.name} differs as by rounding"
    likely = cause.kind in ("code", "data", "params", "inputs") or drawn
    return "likely" if likely else "possible", f"{evidence.name} differs by more than rounding" if likely else ""


def _unexplained(causes: list[Cause], evidence: Evidence, unseeded: bool, pinned: bool) -> Cause:
    same = "code, environment, data, params, execution and numeric class are the same"
    if not pinned:
        same = "not both runs have a lock, so code, environment and data may differ unseen"
    text = f"unexplained: {same}" if not causes or not pinned else "unexplained: nothing that differs would explain it"
    hints = []
    first = evidence.first
    if unseeded:
        hints.append("execution.determinism is off: nothing seeds the script's generators")
    if evidence.where == "initial":
        hints.append("the initial state differs already: a generator that nothing seeds, or a file that was not seen")
    elif evidence.where in ("outputs", "metrics") and evidence.checkpoints:
        hints.append(
            "the training's bits are equal: what differs depends on something that is no part of it, such as the time"
        )
    elif first is not None and any(path.startswith("rng") for path in first.state):
        hints.append("the random generators stand elsewhere: something drew more often, or less, than before")
    elif evidence.is_rounding:
        hints.append("it is as small as rounding: an operation without a fixed order, or a race between threads")
    else:
        hints.append("a generator that nothing seeds, the order of a set or of files in a folder, the time")
    return Cause(kind="unexplained", what="unexplained", text=text, why="; ".join(hints))


def _named(diff: ManifestDiff, between: Between | None = None) -> str:
    cells = between.cells if between else {}
    names = [(key, _cells_named(cells.get(key))) for key in diff.changed if cells.get(key) != []]
    names += [(key, "added") for key in diff.added] + [(key, "removed") for key in diff.removed]
    if between is not None:
        names.sort(key=lambda named: _use(named[0], between) != "used")
    shown = ", ".join(f"{key.removeprefix('code/' if between else '')} {how}" for key, how in names[:_MAX_NAMED])
    more = len(names) - _MAX_NAMED
    return shown + (f" and {more} more" if more > 0 else "") if names else "nothing but modes or metadata"


def _listed(diff: ManifestDiff) -> list[str]:
    marked = [("~", diff.changed), ("+", diff.added), ("-", diff.removed)]
    return _capped([f"{mark} {key}" for mark, keys in marked for key in keys[: _MAX_LINES + 1]])


def _capped(lines: list[str]) -> list[str]:
    more = len(lines) - _MAX_LINES
    return [*lines[:_MAX_LINES], f"… and {more:,} more"] if more > 0 else lines


def _cells_named(found: list[str] | None) -> str:
    if found is None:
        return "changed"
    more = f" and {len(found) - _MAX_NAMED} more" if len(found) > _MAX_NAMED else ""
    return f"({', '.join(found[:_MAX_NAMED])}{more})"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "…"
