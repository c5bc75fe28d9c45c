"""Causes as people read them."""

from __future__ import annotations

import shlex

from reprokit.core.terminal_text import one_line
from reprokit.schema.verdict import Cause, Verdict

__all__ = ["explanation_text"]


def explanation_text(verdict: Verdict) -> str:
    """Return each cause with its weight, why, what it consists of, and the experiment that would settle it."""
    blocks = [_block(cause, verdict.reproduces) for cause in verdict.explanations]
    return "\n".join(blocks)


def _block(cause: Cause, original: str) -> str:
    lines = [f"  {cause.weight:<9} {cause.text}"]
    lines += [f"            why: {cause.why}"] if cause.why else []
    lines += [f"              {line}" for line in cause.lines]
    if cause.factor is not None:
        lines.append(f"            try: reprokit reproduce {original} --with {shlex.quote(cause.factor.option)}")
    elif cause.kind == "machine":
        lines.append(
            "            no option gives another machine's numbers to a run; `reprokit env check` compares them"
        )
    elif cause.kind == "inputs":
        lines.append("            declare it under `data:` in the recipe: then it is pinned")
    elif cause.kind == "unexplained":
        lines.append("            try: reprokit doctor RECIPE looks for what is left to chance")
    return "\n".join(map(one_line, lines))
