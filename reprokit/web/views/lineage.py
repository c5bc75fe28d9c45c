"""What a run or a version was made from, and what was made from it, as a graph."""

from __future__ import annotations

from collections import defaultdict
from typing import Any
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import Response

from reprokit.core.terminal_text import printable
from reprokit.errors import UsageError
from reprokit.runs.lineage import Lineage, RunNode
from reprokit.runs.lineage import lineage as walked
from reprokit.web.site import site_of

__all__ = ["graph", "page"]

_FEW = 4  # runs of one name that used the same, and that nothing was made from, are drawn as one from this number on
_MOST = 400  # nodes that are drawn


def page(request: Request) -> Response:
    """Show where something comes from (`?ref=`), or with `forward` what became of it."""
    site, ref = site_of(request), request.query_params.get("ref", "")
    if not ref:
        raise UsageError("Lineage is of a run, a checkpoint or a version.", hint="Open it from one of these.")
    forward = request.query_params.get("forward") == "1"
    found = walked(ref, registry=site.registry, forward=forward)
    open_ = request.query_params.get("open") == "1"
    return site.render(
        "lineage.html.j2", nav="runs", ref=ref, forward=forward, found=found, graph=graph(found, whole=open_),
        open=open_,
    )  # fmt: skip


def graph(found: Lineage, *, whole: bool = False) -> dict[str, Any]:
    """Return nodes and edges to be drawn, data flowing from left to right; large groups are one node each.

    Args:
        whole: Draw each run of them.
    """
    used: defaultdict[str, list[str]] = defaultdict(list)
    made: set[str] = set()
    nodes: dict[str, dict[str, Any]] = {}
    edges: list[dict[str, str]] = []
    for use in found.uses:
        version = f"{use.package}@{use.top_hash[:12]}"
        used[use.user].append(version)
        if use.maker is not None:
            made.add(use.maker)
    merged = {} if whole else _merged(found, used, made)
    for run in found.runs:
        group = merged.get(run.run_id)
        if group is None:
            nodes[run.run_id] = _run(run, asked=run.run_id == found.run_id)
        elif group not in nodes:
            count = sum(other == group for other in merged.values())
            nodes[group] = {"kind": "group", "title": f"{count:,} runs", "label": printable(run.name or "", 40),
                            "href": "/runs?" + f"where={quote(f'name == {run.name!r}')}"}  # fmt: skip
    for use in found.uses:
        version = f"{use.package}@{use.top_hash[:12]}"
        if version not in nodes:
            nodes[version] = {"kind": "version", "title": printable(use.package, 40), "label": use.top_hash[:12],
                              "href": f"/packages/{quote(use.package)}?version={use.top_hash}"}  # fmt: skip
        edges.append({"from": version, "to": merged.get(use.user, use.user), "label": printable(use.name, 24)})
        if use.maker is not None:
            edges.append({"from": merged.get(use.maker, use.maker), "to": version,
                          "label": printable(use.checkpoint or "", 24)})  # fmt: skip
    shown = dict(list(nodes.items())[:_MOST])
    unique = {(edge["from"], edge["to"]): edge for edge in edges if edge["from"] in shown and edge["to"] in shown}
    listed = [{"id": name, **node} for name, node in shown.items()]
    return {
        "nodes": listed,
        "edges": list(unique.values()),
        "left_out": len(nodes) - len(shown),
        "merged": bool(merged),
    }


def _run(run: RunNode, *, asked: bool) -> dict[str, Any]:
    here = run.status != "absent"
    return {"kind": "asked" if asked else "run", "title": printable(run.name or "not in this registry", 40),
            "label": printable(run.run_id, 30), "status": run.status,
            "href": f"/runs/{quote(run.run_id)}" if here else ""}  # fmt: skip


def _merged(found: Lineage, used: dict[str, list[str]], made: set[str]) -> dict[str, str]:
    """Return the group that stands for a run, of those that are many of one kind."""
    alike: defaultdict[tuple[str, ...], list[str]] = defaultdict(list)
    for run in found.runs:
        if run.run_id not in made and run.run_id != found.run_id:
            alike[(run.name or "", *sorted(set(used[run.run_id])))].append(run.run_id)
    return {run: f"group {number}" for number, runs in enumerate(alike.values()) if len(runs) >= _FEW for run in runs}
