"""Lineage as a tree."""

from __future__ import annotations

from reprokit.core.refs import RESERVED
from reprokit.core.terminal_text import one_line
from reprokit.runs.lineage import Lineage, RunNode, Use

__all__ = ["lineage_text"]


def lineage_text(found: Lineage) -> str:
    """Return the graph as a tree, a run's own inputs (or users) told the first time that the run is met."""
    runs = {node.run_id: node for node in found.runs}
    children: dict[str, list[tuple[str, str | None]]] = {}
    at_root: list[tuple[str, str | None]] = []
    for use in found.uses:
        if not found.forward:
            made = f" ← {_at(runs[use.maker], use.checkpoint)}" if use.maker else ""
            children.setdefault(use.user, []).append((f"{use.name}: {_what(use)}{made}", use.maker))
            continue
        line = (f"{_at(runs[use.user])}  ({use.name}: {_what(use)})", use.user)
        if (use.package, use.top_hash) == (found.package, found.top_hash):
            at_root.append(line)
        elif use.maker is not None:
            children.setdefault(use.maker, []).append(line)
    root = _at(runs[found.run_id]) if found.run_id else ""
    if found.package is not None:
        root = f"{found.package}@{str(found.top_hash)[:16]}" + (f" ← {root}" if root else "")
    if not found.forward or found.package is None:
        at_root = children.get(found.run_id or "", [])
        children[found.run_id or ""] = []
    lines = [root]
    pending = [("", line, at == len(at_root) - 1) for at, line in enumerate(at_root)][::-1]
    while pending:
        prefix, (text, run_id), last = pending.pop()
        below = children.get(run_id or "", [])
        told = run_id is not None and run_id in children and not below
        lines.append(f"{prefix}{'└─' if last else '├─'} {text}{', as above' if told else ''}")
        if run_id is not None and below:
            children[run_id] = []
        deeper = prefix + ("   " if last else "│  ")
        pending += [(deeper, line, at == len(below) - 1) for at, line in enumerate(below)][::-1]
    return "\n".join(map(one_line, lines))


def _at(node: RunNode, checkpoint: str | None = None) -> str:
    """Return a run, or one of its checkpoints, with what is known of the run."""
    where = node.run_id + (f"@{checkpoint}" if checkpoint else "")
    if node.status == "absent":
        return f"{where}  not in this registry"
    return f"{where}  {node.name}  {node.status}" + (f"  reproduces {node.reproduces}" if node.reproduces else "")


def _what(use: Use) -> str:
    """Return a version for people; of a run's output, its place in the run alone: the run is told beside it."""
    if use.within is not None and use.package == f"{RESERVED}/{use.maker}":
        return use.within
    return f"{use.package}@{use.top_hash[:8]}" + (f":{use.within}" if use.within else "")
