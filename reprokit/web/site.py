"""What every page is made with: a registry, what is remembered of it, templates."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote, urlencode

from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import HTMLResponse

from reprokit._version import __version__
from reprokit.core.terminal_text import printable
from reprokit.export.report import figures
from reprokit.export.report.page import environment
from reprokit.export.report.words import tone_of
from reprokit.packages.package import Package
from reprokit.registry.context import Context
from reprokit.runs.store import RunStore, StoredRun
from reprokit.web.run_table import RunTable
from reprokit.web.series import Series, series_of

__all__ = ["Site", "site_of", "style"]

_HERE = Path(__file__).parent
_STATES = {"finished": "good", "failed": "bad", "interrupted": "fair", "running": "near"}


class Site:
    """A registry to be looked at. Safe for several threads."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.registry = context.registry
        self.runs = RunStore(context.registry)
        self.table = RunTable(context.registry)
        self.journals = context.home / "runs"
        self._templates = environment(_HERE / "templates")
        self._templates.filters |= {
            "bytes": _bytes, "number": _number, "tone": tone_of, "state": lambda status: _STATES.get(status, "open"),
            "part": lambda text: quote(str(text), safe=""), "data": _data, "query": _query,
            "title_of": _title,
        }  # fmt: skip
        self._templates.globals |= {"version": __version__, "registry": context.registry.url}
        self.package = lru_cache(maxsize=16)(self._package)

    def render(self, template: str, *, status: int = 200, **told: Any) -> HTMLResponse:
        """Return a page."""
        return HTMLResponse(self._templates.get_template(template).render(**told), status_code=status)

    def name_no_place(self) -> None:
        """Leave out on all pages where the registry lies: they go to others."""
        self._templates.globals["registry"] = ""

    def _package(self, name: str, top_hash: str) -> Package:
        return Package(name, self.registry.read_manifest(top_hash), self.registry)

    def series(self, run: StoredRun) -> dict[str, Series]:
        """Return the metrics of a run, as they are drawn."""
        return series_of(run, self.registry, self.journals)


def site_of(request: Request) -> Site:
    """Return what a request's page is made with."""
    return cast("Site", request.app.state.site)


def style() -> str:
    """Return the style of all pages: the report's, and what the page adds."""
    report = Path(figures.__file__).with_name("report.css").read_text(encoding="utf-8")
    own = (_HERE / "static" / "page.css").read_text(encoding="utf-8")
    return f"{report}@media screen and (prefers-color-scheme:dark){{{figures.theme()}}}\n{own}"


def _bytes(size: int | None) -> str:
    if size is None:
        return "—"
    value = float(size)
    for unit in ("B", "KB", "MB", "GB", "TB"):
        if value < 1000 or unit == "TB":
            return f"{size:,} B" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    raise AssertionError(unit)


def _title(column: str, columns: Sequence[str]) -> str:
    """Return how a column is headed: by its name alone, where that tells which is meant."""
    name = column.partition(".")[2]
    return column if sum(other.partition(".")[2] == name for other in columns) > 1 else name


def _number(value: Any) -> str:
    """Return a value of a run as a cell has it."""
    if value is None:
        return "—"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.6g}"
    return printable(value if isinstance(value, str) else json.dumps(value), 60)


def _data(value: Any) -> Markup:
    """Return a value as JSON that may stand between the tags of a data block."""
    told = json.dumps(value, allow_nan=False).replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")
    return Markup(told)  # noqa: S704 - nothing in it can end the block


def _query(values: Mapping[str, Any]) -> str:
    return urlencode({name: value for name, value in values.items() if value}, doseq=True)
