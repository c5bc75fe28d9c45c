"""Two versions of packages as people compare them."""

from __future__ import annotations

import json

from reprokit.cli.face import size
from reprokit.comparison.package_diff import PackageDiff
from reprokit.core.terminal_text import one_line

__all__ = ["package_diff_text"]


def package_diff_text(found: PackageDiff) -> str:
    """Return each entry that differs, and below it what changed inside."""
    lines = [f"{found.left} → {found.right}"]
    lines += [f"  + {key}  {size(found.right.manifest[key].size)}" for key in found.added]
    lines += [f"  - {key}  {size(found.left.manifest[key].size)}" for key in found.removed]
    for key in found.changed:
        before, after = found.entries(key)
        lines.append(f"  ~ {key}  {size(before.size)} → {size(after.size)}")
        if before.meta != after.meta:
            lines.append(f"      metadata  {json.dumps(dict(before.meta))} → {json.dumps(dict(after.meta))}")
        inside = (found.content or {}).get(key)
        lines += [f"      {line}" for line in inside.lines] if inside is not None else []
    if found.meta_changed:
        lines.append("  ~ metadata of the version")
    return "\n".join(map(one_line, lines if len(lines) > 1 else [*lines, "  equal"]))
