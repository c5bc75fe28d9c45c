"""One field that finds runs, packages and versions by ID, name, tag or hash."""

from __future__ import annotations

from collections.abc import Iterator

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from reprokit.core.refs import RESERVED, VERDICTS
from reprokit.core.terminal_text import printable
from reprokit.runs.query import RunRow
from reprokit.web.site import Site, site_of

__all__ = ["page"]

_MOST = 100


def page(request: Request) -> Response:
    """Show what fits; a run whose whole ID was given is opened."""
    site, wanted = site_of(request), request.query_params.get("q", "").strip()[:200]
    rows = site.table.now().rows
    exact = next((row for row in rows if row.run == wanted), None)
    if exact is not None:
        return RedirectResponse(f"/runs/{exact.run}", 302)
    runs = [(row, why) for row in rows if (why := _why(row, wanted.lower()))] if wanted else []
    packages = [*_packages(site, wanted.lower())] if wanted else []
    return site.render(
        "search.html.j2", nav="", wanted=printable(wanted, 200), runs=runs[:_MOST], more=max(len(runs) - _MOST, 0),
        packages=packages[:_MOST],
    )  # fmt: skip


def _why(row: RunRow, wanted: str) -> str:
    """Return in what a run fits, "" if it does not."""
    if wanted in row.run:
        return "ID"
    if wanted in row.name.lower():
        return "name"
    if any(wanted in tag.lower() for tag in row.tags):
        return "tag"
    if len(wanted) >= 4:
        if row.lock_hash is not None and row.lock_hash.startswith(wanted):
            return "hash of its lock"
        if any(top_hash.startswith(wanted) for _, top_hash in row.inputs):
            return "hash of an input"
    return ""


def _packages(site: Site, wanted: str) -> Iterator[tuple[str, str | None, str]]:
    """Yield the packages and versions that fit: name, version, and in what."""
    for space in site.registry.namespaces():
        for head in site.registry.heads(space):
            listed = space not in (RESERVED, VERDICTS)
            if listed and wanted in head.name.lower() and head.latest is not None:
                yield head.name, head.latest, "name"
            elif listed and any(wanted in tag.lower() for tag in head.tags):
                yield head.name, None, "tag"
            elif len(wanted) >= 4 and head.latest is not None and head.latest.startswith(wanted):
                yield head.name, head.latest, "hash"
            elif listed and len(wanted) >= 6 and all(one in "0123456789abcdef" for one in wanted):
                for top_hash in site.registry.top_hashes(head.name):
                    if top_hash.startswith(wanted):
                        yield head.name, top_hash, "hash"
