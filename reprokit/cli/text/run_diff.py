"""What `diff` prints of two runs and of two checkpoints. Names come from records and versions, which are anybody's."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

import msgspec

from reprokit.cli.text.table import table
from reprokit.comparison.checkpoint_diff import TensorDiff, TensorRow
from reprokit.comparison.run_diff import (
    CheckpointDiff,
    CheckpointSide,
    CodeDiff,
    DataDiff,
    EnvironmentDiff,
    Pair,
    RunDiff,
)
from reprokit.core.terminal_text import printable

__all__ = ["checkpoint_diff_text", "run_diff_text"]

_MOST = 20  # rows of a kind; --json has all
_FEW = 5  # names in a line
_NAME = 200  # characters

_Rows = list[tuple[str, str]]


def run_diff_text(found: RunDiff) -> str:
    """Return two runs side by side; the last line is the verdict."""
    verdict = found.verdict
    rows: _Rows = [("diff", f"{verdict.reproduces} → {verdict.run_id}")]
    for side, attempts in (("left", found.resumed.left), ("right", found.resumed.right)):
        rows += _few(f"resumed {side}", (str(attempt).removeprefix("resumed ") for attempt in attempts), _FEW)
    rows += _code_rows(found.code)
    rows += _environment_rows(found.environment)
    rows += [(printable(f"data.{data.name}"), _data_text(data)) for data in found.data]
    idle = {row.what for row in verdict.comparisons}
    notes = {name: "  changes nothing" for name in found.params if f"params.{name}" in idle}
    notes |= dict.fromkeys(found.unused, "  unused: it never reached the script")
    rows += _pair_rows("params", found.params, notes)
    rows += _pair_rows("execution", found.execution)
    rows += _metric_rows(found.metrics)
    details = {comparison.what: comparison for comparison in verdict.comparisons}
    for output in found.outputs:
        said = details.get(output.path)
        told = f"{said.result:<9} {said.detail}".rstrip() if said is not None else output.how
        rows.append(("output", printable(f"{output.path}  {told}", 400)))
    rows += _checkpoint_rows(found)
    if found.tensors is not None:
        where = f" in {found.checkpoints.first}"
        if found.tensors.tensors:
            rows += _tensor_rows(found.tensors, where=where, most=_MOST if found.values else _FEW)
        if not found.tensors.differing:
            beside = (file for file in found.tensors.files if file.how != "equal")
            rows += _few("file", (f"{file.key}  {file.how}{where}" for file in beside), _FEW)
    rows += _few("cause", (f"{cause.weight:<9} {cause.text}" for cause in verdict.explanations), _FEW)
    note = "" if found.values or found.tensors is None else "; from metadata alone, --tensors says by how much"
    rows += [("proviso", printable(text, 1000)) for text in verdict.provisos]
    rows.append(("verdict", verdict.word + note))
    return table(rows)


def checkpoint_diff_text(found: CheckpointDiff) -> str:
    """Return two checkpoints side by side."""
    rows: _Rows = [("diff", f"{_side(found.left)} → {_side(found.right)}")]
    rows += _metric_rows(found.metrics)
    rows += _tensor_rows(found.tensors)
    if found.aliases is None:
        rows.append(("aliases", "the lists of tensors differ; they are not in this registry"))
    for section, names in (found.aliases or {}).items():
        rows += _pair_rows(printable(f"aliases of {section}"), names)
    for file in found.tensors.files:
        if file.key == "state.json":
            text = "equal" if file.how == "equal" else _state_text(found, file.how)
        else:
            text = file.how
        rows.append((printable(file.key, _NAME), text))
    rows.append(("result", "equal in everything that a state digest covers" if found.equal else "differs"))
    return table(rows)


def _few(name: str, texts: Iterable[str], most: int) -> _Rows:
    """Return a row for each of the first texts, and one that counts the rest."""
    all_ = list(texts)
    rows = [(name, printable(text, 400)) for text in all_[:most]]
    return rows + [(name, f"… and {len(all_) - most:,} more (--json has all)")] * (len(all_) > most)


def _named(names: list[str]) -> str:
    more = f" and {len(names) - _FEW:,} more" if len(names) > _FEW else ""
    return ", ".join(printable(name, _NAME) for name in names[:_FEW]) + more


def _changes(found: CodeDiff | DataDiff) -> str:
    parts = [(found.changed, "changed"), (found.added, "added"), (found.removed, "removed")]
    return "; ".join(f"{_named(names)} {how}" for names, how in parts if names)


def _code_rows(code: CodeDiff) -> _Rows:
    if code.left == code.right:
        return [("code", f"match     tree {code.left[:8]}")] if code.left else []
    trees = " → ".join(tree[:8] if tree else "(none)" for tree in (code.left, code.right))
    rows = [("code", f"{_changes(code) or 'nothing but modes or metadata'} (tree {trees})")]
    for path, lines in code.content.items():
        rows.append(("", f"{printable(path, _NAME)}:"))
        rows += [("", "    " + printable(line, 400)) for line in lines]
    return rows


def _environment_rows(found: EnvironmentDiff) -> _Rows:
    if found.left == found.right:
        return [("environment", f"match     {found.left[:8]}")] if found.left else []
    if not found.changes:
        hashes = " → ".join(hash_[:8] if hash_ else "(unknown)" for hash_ in (found.left, found.right))
        return [("environment", hashes)]
    told = (
        f"{c.name} {c.left}: same version, other files"
        if c.left == c.right
        else f"{c.name} {c.left or '(absent)'} → {c.right or '(absent)'}"
        for c in found.changes
    )
    return _few("environment", told, _MOST)


def _data_text(data: DataDiff) -> str:
    if data.equal:
        return f"match     {data.left}"
    entries = _changes(data)
    return f"{data.left or '(absent)'} → {data.right or '(absent)'}" + (f": {entries}" if entries else "")


def _pair_rows(name: str, pairs: dict[str, Pair], notes: Mapping[str, str] = MappingProxyType({})) -> _Rows:
    told = ((key, f"{_value(pair.left)} → {_value(pair.right)}{notes.get(key, '')}") for key, pair in pairs.items())
    return _few(name, (f"{key}  {text}" for key, text in told), _MOST)


def _value(value: Any) -> str:
    return "(absent)" if value is msgspec.UNSET else printable(repr(value), 100)


def _metric_rows(metrics: dict[str, Pair]) -> _Rows:
    """Return metrics with all their digits: rounded, two that differ would look equal."""
    equal = (f"{key}  {_value(pair.left)}  equal" for key, pair in metrics.items() if pair.equal)
    differing = {key: pair for key, pair in metrics.items() if not pair.equal}
    return [*_pair_rows("metrics", differing), *_few("metrics", equal, _FEW)]


def _checkpoint_rows(found: RunDiff) -> _Rows:
    listed = found.checkpoints
    if not (listed.compared or listed.only_left or listed.only_right):
        return [("checkpoints", "none to compare")]
    first = f", the first that differs: {listed.first}" if listed.first is not None else ""
    rows = [("checkpoints", f"{listed.equal:,} of {listed.compared:,} equal in every bit{first}")]
    for names, side in ((listed.only_left, "left"), (listed.only_right, "right")):
        rows += [("", f"only {side}: {_named(names)}")] if names else []
    return rows


def _tensor_rows(found: TensorDiff, *, where: str = "", most: int = _MOST) -> _Rows:
    """Say which tensors differ: the worst first where distances are known, else as they are stored."""
    sections = [f"{printable(s.section)} {s.differing:,} of {s.tensors:,}" for s in found.sections]
    parts = f" ({', '.join(sections)})" if len(sections) > 1 else ""
    rows = [("tensors", f"{found.differing:,} of {found.tensors:,} differ{where}{parts}")]
    values = [row for row in found.unequal if row.how == "differs"]
    others = [row for row in found.unequal if row.how != "differs"]
    values.sort(key=_nearness)
    return [*rows, *_few("", map(_tensor_text, values), most), *_few("", map(_tensor_text, others), _MOST)]


def _nearness(row: TensorRow) -> float:
    """Order by |Δ|, largest first; one that is infinite is not told as a number."""
    if row.distance is None:
        return 0.0
    return -math.inf if row.distance.max_abs is None else -row.distance.max_abs


def _tensor_text(row: TensorRow) -> str:
    if row.distance is not None:
        relative = row.distance.relative
        return row.distance.tensor_text() + (f", relative {relative:.3g}" if relative is not None else "")
    kind = f"{row.label}  {row.dtype} {row.shape}"
    if row.how in ("dtype", "shape"):
        return f"{kind} → {row.right_dtype} {row.right_shape}"
    if row.how == "renamed":
        return f"{kind}  renamed to {row.renamed}"
    return f"{kind}  only {row.side}, or renamed: --tensors reads it" if row.how == "unknown" else f"{kind}  {row.how}"


def _state_text(found: CheckpointDiff, how: str) -> str:
    if how != "differs":
        return how
    if found.state is None:
        return "differs; it is not in this registry, so it cannot be said where"
    return f"differs   {_named(found.state)}"


def _side(side: CheckpointSide) -> str:
    facts = side.facts
    return f"{side.name}@{side.top_hash[:8]} ({printable(facts.run)}, {facts.place.exact})"
