"""All runs: searched, ordered, grouped, measured against one of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from reprokit.core.refs import is_run_id
from reprokit.core.terminal_text import printable
from reprokit.errors import Error
from reprokit.export.report.data import extremes
from reprokit.runs.query import RunRow
from reprokit.web.run_table import GROUPS, Listed, View
from reprokit.web.site import site_of

__all__ = ["page", "sparks"]

_MOST = 120  # runs whose curves are drawn in a table
_POINTS = 60  # of such a curve


@dataclass(frozen=True, slots=True, kw_only=True)
class Value:
    """What a run has in a column.

    Attributes:
        delta: How far it is from the baseline's, in words; "" where nothing is compared.
    """

    text: Any
    delta: str = ""


def page(request: Request) -> Response:
    """Show the runs that an address chooses; to htmx, the rows alone."""
    site, view = site_of(request), View.of(request.query_params)
    listed = site.table.listed(view)
    partly = request.headers.get("hx-request") == "true"
    stamp = f'"{site.table.now().stamp}-{hash((view, partly)) & 0xFFFFFFFFFFFF:x}"'
    if partly and request.headers.get("if-none-match") == stamp:
        return Response(status_code=304, headers={"etag": stamp, "vary": "HX-Request"})
    told: dict[str, Any] = {
        "view": view, "listed": listed, "groups": GROUPS, "nav": "runs", "values": _values(listed),
        "running": any(row.status == "running" for row, _ in listed.rows), "partly": partly,
    }  # fmt: skip
    response = site.render("rows.html.j2" if partly else "runs.html.j2", **told)
    response.headers.update({"etag": stamp, "vary": "HX-Request"})  # of one address a browser keeps both
    return response


def _values(listed: Listed) -> dict[str, list[Value]]:
    """Return the cells of each run, by its ID."""
    base = _fields(listed.baseline) if listed.baseline is not None else None
    return {row.run: [_value(_fields(row), base, column) for column in listed.columns] for row, _ in listed.rows}


def _fields(row: RunRow) -> dict[str, Mapping[str, Any]]:
    return {"metrics": row.metrics, "params": row.params or {}}


def _value(fields: Mapping[str, Mapping[str, Any]], base: Mapping[str, Mapping[str, Any]] | None, column: str) -> Value:
    section, _, name = column.partition(".")
    found = fields.get(section, {}).get(name)
    if base is None or found is None:
        return Value(text=found)
    other = base.get(section, {}).get(name)
    numbers = all(isinstance(one, int | float) and not isinstance(one, bool) for one in (found, other))
    if other is None or not numbers:
        return Value(text=found, delta="only here" if other is None else "=" if found == other else "differs")
    apart = found - other
    return Value(text=found, delta="=" if apart == 0 else f"{apart:+.3g}" if math.isfinite(apart) else "differs")


def sparks(request: Request) -> Response:
    """Return a metric's values at the checkpoints of some runs, thinned: run → values."""
    site, name = site_of(request), request.query_params.get("name", "")
    found: dict[str, list[float]] = {}
    for run_id in request.query_params.getlist("run")[:_MOST]:
        if not is_run_id(run_id):
            continue
        try:
            record = site.runs.load(run_id).record
        except Error:
            continue
        values = [entry.metrics[name] for entry in record.checkpoints if name in entry.metrics]
        finite = [float(value) for value in values if math.isfinite(value)]
        if len(finite) > 1:
            found[run_id] = [finite[at] for at in extremes(finite, _POINTS)]
    return JSONResponse({"name": printable(name, 80), "runs": found})
