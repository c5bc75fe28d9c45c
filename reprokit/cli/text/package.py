"""A version of a package as people read it."""

from __future__ import annotations

import json
from collections.abc import Sequence

from reprokit.cli.face import size
from reprokit.cli.text.table import lines_of, metrics_text, table
from reprokit.core.canonical_json import spelled
from reprokit.packages.package import Package
from reprokit.schema.facts import CheckpointFacts, facts_in

__all__ = ["package_text"]


def package_text(package: Package, tags: Sequence[str]) -> str:
    """Return what `show` prints of a package version: a checkpoint as such, else what was said of it when it was built.

    Args:
        tags: That point at it.
    """
    manifest = package.manifest
    rows = [("package", package.name), ("version", package.top_hash)]
    rows += [("tags", ", ".join(tags))] if tags else []
    rows += lines_of("message", str(manifest.message)) if manifest.message else []
    facts = facts_in(manifest.user_meta, CheckpointFacts, what=str(package))
    if facts is not None:
        rows += [("checkpoint", f"{facts.place} of run {facts.run}, by {facts.framework}")]
        rows += [("metrics", metrics_text(facts.metrics))] if facts.metrics else []
        rows += [("parent", f"{facts.parent.package}@{facts.parent.top_hash[:16]}")] if facts.parent is not None else []
        rows += [("state", facts.state_digest)]
    for key, value in manifest.user_meta.items():
        if key != "reprokit":
            rows.append((key, value if isinstance(value, str) else json.dumps(spelled(value), ensure_ascii=False)))
    rows.append(("files", f"{len(manifest.entries):,}, {size(manifest.size)}"))
    return table(rows, width=11)
