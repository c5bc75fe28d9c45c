"""Which runs an expression such as `metrics.accuracy > 0.9 and not reproduced` chooses. Python parses it, and no more.

The expression is parsed, and what is not on the list below is refused: names of fields, `metrics.NAME`, `params.NAME`,
constants, comparisons, `in` with constants, `and`, `or`, `not`. What a run lacks is compared with nothing: such a
comparison is neither true nor false, and so is its negation. A parameter that never reached the script is lacking. By
itself a name is true if it is there and not 0, "" or false; `is None` is true of what is not there.
"""

from __future__ import annotations

import ast
import operator
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from typing import TYPE_CHECKING, Any, NoReturn

import msgspec

from reprokit.core.canonical_json import spelled
from reprokit.core.refs import RESERVED, VERDICTS, is_run_id
from reprokit.core.terminal_text import printable
from reprokit.errors import DataMismatchError, NotFoundError, UsageError
from reprokit.registry.base import Head, both, side_by_side
from reprokit.runs.remembered import Remembered
from reprokit.runs.store import RunStore
from reprokit.schema.facts import RunSummary
from reprokit.schema.verdict import rung_of

if TYPE_CHECKING:
    from reprokit.runs.support import Support

__all__ = ["FIELDS", "UNSUPPORTED", "RunRow", "Where", "choose", "fields_of", "ordered", "overview", "value_of"]

FIELDS = {
    "run": "text", "name": "text", "status": "text", "started": "text", "ended": "text", "lock_hash": "text",
    "checkpoints": "number", "reproduces": "text", "verdict": "text", "reproduced": "truth", "reproductions": "number",
}  # fmt: skip
"""What there is to ask of every run, beside `metrics.NAME` and `params.NAME`, and of which kind it is."""

UNSUPPORTED = "UNSUPPORTED"
_MAX_TEXT, _MAX_DEPTH = 2000, 40
_KINDS = {str: "text", int: "number", float: "number", bool: "truth", type(None): "none"}
_COMPARE: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq, ast.NotEq: operator.ne, ast.Lt: operator.lt, ast.LtE: operator.le, ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}  # fmt: skip
_HELP = "Such as: metrics.accuracy > 0.9 · not reproduced · status == 'failed' and params.rate in (0.1, 0.2)"

_Fields = Mapping[str, Any]
_Value = Callable[[_Fields], Any]  # None: the run does not have it
_Truth = Callable[[_Fields], bool | None]  # None: neither


@dataclass(frozen=True)
class Where:
    """A parsed expression.

    Attributes:
        names: The `metrics` and `params` that it names: (section, name).
    """

    test: _Truth
    names: frozenset[tuple[str, str]]

    @classmethod
    def parse(cls, text: str) -> Where:
        """Parse an expression; nothing of it is evaluated by Python.

        Raises:
            UsageError: It has another form, names a field that no run has, or compares a text with a number.
        """
        if len(text) > _MAX_TEXT:
            raise UsageError(f"--where takes at most {_MAX_TEXT:,} characters, not {len(text):,}.")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of Python's, on the style of what was typed
                tree = ast.parse(text.strip(), mode="eval")
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            why = error.msg if isinstance(error, SyntaxError) else "it nests too deeply, or has characters of no text"
            raise UsageError(f"--where {printable(text)}: {why}.", hint=_HELP) from None
        parser = _Parser(text)
        return cls(parser.truth(tree.body, 0), frozenset(parser.names))

    def matches(self, fields: _Fields) -> bool:
        """True if the expression is true of a run; `fields` holds those of FIELDS that it has, `metrics`, `params`."""
        return self.test(fields) is True


def choose(text: str, runs: RunStore) -> list[RunRow]:
    """Return the summaries of the runs that an expression is true of, oldest first.

    Records are read only where it names parameters that are too long for a header.

    Raises:
        UsageError: As `Where.parse`; or it names a metric or parameter that no run has.
    """
    where = Where.parse(text)
    summaries = overview(runs)
    fields = fields_of(summaries, where.names, runs)
    return [summary for summary, those in zip(summaries, fields, strict=True) if where.matches(those)]


def ordered(rows: Sequence[RunRow], by: str, runs: RunStore) -> list[RunRow]:
    """Return runs by what they have: numbers before texts, those without it last.

    Args:
        by: A field of FIELDS, `metrics.NAME` or `params.NAME`; with a `-` before it the largest come first.
    Raises:
        UsageError: No run has it.
    """
    value, names = value_of(by.removeprefix("-"))
    found = [
        (value(those), row) for row, those in zip(rows, fields_of(rows, names, runs, option="--sort"), strict=True)
    ]
    having = [(one, row) for one, row in found if one is not None]
    having.sort(key=lambda pair: _rank(pair[0]), reverse=by.startswith("-"))
    return [row for _, row in having] + [row for one, row in found if one is None]


def value_of(text: str, *, option: str = "--sort") -> tuple[_Value, frozenset[tuple[str, str]]]:
    """Return what gives a value of a run's fields, and which `metrics` and `params` it names.

    Raises:
        UsageError: It is no field, `metrics.NAME` or `params.NAME`.
    """
    parser = _Parser(text)
    try:
        node = ast.parse(text.strip(), mode="eval").body
        if not isinstance(node, ast.Name | ast.Attribute | ast.Subscript):
            raise ValueError
        value, _ = parser.value(node, 0)
    except (SyntaxError, ValueError, RecursionError, MemoryError, UsageError):
        raise UsageError(
            f"{option}: {printable(text)} is nothing that a run has.",
            hint=f"Known: {', '.join(FIELDS)}, metrics.NAME, params.NAME, metrics['a/b'].",
        ) from None
    return value, frozenset(parser.names)


def fields_of(
    rows: Sequence[RunRow], names: Iterable[tuple[str, str]], runs: RunStore, *, option: str = "--where"
) -> list[dict[str, Any]]:
    """Return of each run the fields that it has, with its `metrics` and `params`.

    Args:
        names: The metrics and parameters that are asked for: (section, name).
    Raises:
        UsageError: No run has one of them.
    """
    sections = {section for section, _ in names}
    known = {section: set[str]() for section in sections}
    found = []
    for row in rows:
        known_fields = ((name, getattr(row, name)) for name in FIELDS)
        fields: dict[str, Any] = {name: value for name, value in known_fields if value is not None}
        fields["metrics"] = row.metrics
        params, unused = row.params, row.unused
        if params is None and "params" in sections:
            record = runs.load(row.run).record
            params, unused = record.used_params, record.unused
        fields["params"] = params or {}
        for section in sections:
            known[section].update(fields[section], unused if section == "params" else ())
        found.append(fields)
    for section, name in sorted(names):
        if rows and name not in known[section]:
            _unknown(f"{section}.{name}", [f"{section}.{other}" for other in sorted(known[section])], option=option)
    return found


def _rank(value: Any) -> tuple[int, Any]:
    """Return by what values of several kinds are ordered."""
    if isinstance(value, int | float):  # a truth value too
        return (0, value) if value == value else (1, 0)
    return 2, str(value)


class _Parser:
    """Makes functions of an expression's nodes; whatever it does not know, it refuses."""

    def __init__(self, text: str) -> None:
        self._text = text
        self.names: set[tuple[str, str]] = set()

    def truth(self, node: ast.expr, depth: int) -> _Truth:
        self._check_depth(depth)
        if isinstance(node, ast.BoolOp):
            parts = [self.truth(value, depth + 1) for value in node.values]
            decisive = isinstance(node.op, ast.Or)
            return lambda fields: _joined((part(fields) for part in parts), decisive=decisive)
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            inner = self.truth(node.operand, depth + 1)
            return lambda fields: None if (found := inner(fields)) is None else not found
        if isinstance(node, ast.Compare):
            return self._comparison(node, depth)
        if isinstance(node, ast.Name | ast.Attribute | ast.Subscript):
            value, _ = self.value(node, depth)
            return lambda fields: bool(value(fields))
        raise self._refused(node)

    def _comparison(self, node: ast.Compare, depth: int) -> _Truth:
        parts: list[_Truth] = []
        left = node.left
        for op, right in zip(node.ops, node.comparators, strict=True):
            parts.append(self._pair(left, op, right, depth + 1))
            left = right
        return lambda fields: _joined((part(fields) for part in parts), decisive=False)

    def _pair(self, left: ast.expr, op: ast.cmpop, right: ast.expr, depth: int) -> _Truth:
        one, kind = self.value(left, depth)
        if isinstance(op, ast.Is | ast.IsNot):
            if not (isinstance(right, ast.Constant) and right.value is None):
                raise UsageError(f"--where {printable(self._text)}: `is` asks for None alone; write ==.", hint=_HELP)
            wanted = isinstance(op, ast.Is)
            return lambda fields: (one(fields) is None) == wanted
        if isinstance(op, ast.In | ast.NotIn):
            if not isinstance(right, ast.Tuple | ast.List):
                raise UsageError(f"--where {printable(self._text)}: after `in` goes a list: ('a', 'b').", hint=_HELP)
            values = []
            for item in right.elts:
                if not isinstance(item, ast.Constant | ast.UnaryOp):
                    raise self._refused(item)
                value, of = self.value(item, depth + 1)
                self._check_kinds(left, kind, of)
                values.append(value({}))
            wanted = isinstance(op, ast.In)
            return lambda fields: (
                None if (found := one(fields)) is None else any(_equal(found, v) for v in values) == wanted
            )
        two, of = self.value(right, depth)
        self._check_kinds(left, kind, of)
        compare = _COMPARE[type(op)]
        return lambda fields: _compared(compare, one(fields), two(fields))

    def value(self, node: ast.expr, depth: int) -> tuple[_Value, str]:
        """Return what gives a value of a run, and its kind; "any" of parameters."""
        self._check_depth(depth)
        if isinstance(node, ast.Constant) and type(node.value) in _KINDS:
            constant = node.value
            return lambda _: constant, _KINDS[type(constant)]
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub) and isinstance(node.operand, ast.Constant):
            number = node.operand.value
            if isinstance(number, int | float) and not isinstance(number, bool):
                return lambda _: -number, "number"
        if isinstance(node, ast.Name) and node.id in FIELDS:
            field = node.id
            return lambda fields: fields.get(field), FIELDS[field]
        if isinstance(node, ast.Name):
            _unknown(node.id, [*FIELDS, "metrics.NAME", "params.NAME"])
        section, name = self._dotted(node)
        self.names.add((section, name))
        return lambda fields: fields[section].get(name), "number" if section == "metrics" else "any"

    def _dotted(self, node: ast.expr) -> tuple[str, str]:
        """Return section and name of `metrics.loss`, `metrics.val.loss` and `metrics['val/loss']`."""
        parts: list[str] = []
        inner = node
        while isinstance(inner, ast.Attribute):
            parts.insert(0, inner.attr)
            inner = inner.value
        if not parts and isinstance(inner, ast.Subscript) and isinstance(inner.slice, ast.Constant):
            key = inner.slice.value
            parts, inner = ([key] if isinstance(key, str) else []), inner.value
        if not parts or not isinstance(inner, ast.Name):
            raise self._refused(node)
        if inner.id not in ("metrics", "params"):
            _unknown(f"{inner.id}.{'.'.join(parts)}", [*FIELDS, "metrics.NAME", "params.NAME"])
        return inner.id, ".".join(parts)

    def _check_kinds(self, left: ast.expr, one: str, other: str) -> None:
        if "none" in (one, other):
            raise UsageError(f"--where {printable(self._text)}: nothing equals None; write `is None`.", hint=_HELP)
        if one != other and "any" not in (one, other):
            raise UsageError(
                f"--where {printable(self._text)}: {printable(ast.unparse(left))} is a {one}, and compared with a "
                f"{other}.",
                hint="Texts stand in quotes: started > '2026-11-01'. Numbers do not: metrics.loss < 0.5.",
            )

    def _check_depth(self, depth: int) -> None:
        if depth > _MAX_DEPTH:
            raise UsageError(f"--where takes at most {_MAX_DEPTH} levels of nesting.")

    def _refused(self, node: ast.AST) -> UsageError:
        return UsageError(
            f"--where {printable(self._text)}: {type(node).__name__} is not understood here.",
            hint=_HELP,
        )


def _unknown(name: str, known: Iterable[str], *, option: str = "--where") -> NoReturn:
    names = list(known)
    close = get_close_matches(name, names, n=1)
    guess = f" Did you mean {printable(close[0])}?" if close else ""
    raise UsageError(
        f"{option}: no run has {printable(name)}.{guess}",
        hint=f"Known: {', '.join(printable(n) for n in names[:40]) or 'nothing of the kind'}.",
    )


def _joined(parts: Iterable[bool | None], *, decisive: bool) -> bool | None:
    """Join by `or` if `decisive` is true, else by `and`: one such part decides, else one that is neither does."""
    unsure = False
    for part in parts:
        if part is decisive:
            return decisive
        unsure = unsure or part is None
    return None if unsure else not decisive


def _compared(compare: Callable[[Any, Any], Any], left: Any, right: Any) -> bool | None:
    if left is None or right is None:
        return None
    if compare in (operator.eq, operator.ne):
        return _equal(left, right) == (compare is operator.eq)
    if _kind(left) != _kind(right) or _kind(left) not in ("text", "number"):
        return None
    return bool(compare(left, right))


def _equal(left: Any, right: Any) -> bool:
    return _kind(left) == _kind(right) and bool(left == right)  # 1 is 1.0, and not True


def _kind(value: Any) -> str:
    return _KINDS.get(type(value), "other")


_SUMMARY = RunSummary.__struct_fields__
_REPRODUCED = {"BITWISE", "EQUAL-RELAXED", "TENSOR-TOLERANCE", "METRIC-TOLERANCE"}


class RunRow(RunSummary, frozen=True, kw_only=True):
    """A run in a listing.

    Attributes:
        verdict: Of a repetition; UNSUPPORTED where the two records do not bear out what it says.
        reproductions: How many verdicts, borne out, there are on runs that repeated it with nothing relaxed.
        reproduced: One of them kept to a tolerance at least. What a bisection tried, or `--with` changed, is an
            experiment and no reproduction.
        tags: Of the run, and not of its checkpoints.
    """

    tags: tuple[str, ...] = ()
    reproductions: int = 0
    reproduced: bool = False

    def plain(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        told: dict[str, Any] = spelled(msgspec.to_builtins(self))
        return {"run_id" if key == "run" else key: value for key, value in told.items()}


def overview(runs: RunStore) -> list[RunRow]:
    """Return all runs, oldest first, and of each what came of repeating it; records are read of those with verdicts."""
    heads, every = both(runs.heads, lambda: runs.registry.heads(VERDICTS), runs.registry)
    summaries = list(runs.summaries(heads))
    verdicts = [head for head in every if is_run_id(head.name.partition("/")[2])]
    ends = {head.name: head for head in (*heads, *verdicts)}
    remembered = Remembered(runs.registry, ends, (one.run for one in summaries if one.ended is None))

    @cache
    def support() -> Support:
        from reprokit.runs.support import Support  # looks into records: a listing without verdicts does not pay

        return Support(runs)

    def told(original: str) -> tuple[list[str], Iterable[str] | None]:
        found = support().reproductions(original)
        words = [one.verdict for one in found if not one.relaxed and one.unsupported is None]
        borne = all(one.unsupported is None for one in found)  # else what is missing may come back
        return words, [original, *(one.reproduction for one in found)] if borne else None

    def about(head: Head) -> list[str]:
        return remembered.words(head.name, lambda: told(head.name.partition("/")[2]))

    def borne(summary: RunSummary) -> list[str]:
        return remembered.words(f"{RESERVED}/{summary.run}", lambda: _borne_out(summary, runs, support()))

    repetitions = [summary for summary in summaries if summary.verdict is not None]
    found_of = side_by_side(about, verdicts, runs.registry)
    words = dict(zip((head.name.partition("/")[2] for head in verdicts), found_of, strict=True))
    own = dict(zip((one.run for one in repetitions), side_by_side(borne, repetitions, runs.registry), strict=True))
    rows = []
    tags = {head.name.partition("/")[2]: head.tags for head in heads}
    for summary in summaries:
        facts = {name: getattr(summary, name) for name in _SUMMARY}
        if summary.run in own:
            facts["verdict"] = next(iter(own[summary.run]), UNSUPPORTED)
        found = words.get(summary.run, [])
        reproduced = any(rung_of(word) in _REPRODUCED for word in found)
        rows.append(RunRow(**facts, tags=tuple(tags[summary.run]), reproductions=len(found), reproduced=reproduced))
    remembered.keep()
    return rows


def _borne_out(summary: RunSummary, runs: RunStore, support: Support) -> tuple[list[str], list[str] | None]:
    """Return what a repetition's header says, if its record says it too and both records bear it out; and the runs."""
    try:
        record = runs.load(summary.run).record
    except (DataMismatchError, NotFoundError):
        return [], None
    said = record.summary().verdict
    if said is None or said != summary.verdict or support.own(record) is not None:
        return [], None
    return [said], [summary.run, *(run for one in record.verdicts for run in (one.reproduces, one.run_id))]
