"""Causes and bisections as people read them."""

from __future__ import annotations

from reprokit.bisecting import Bisection
from reprokit.verdict import Cause, Verdict

__all__ = ["bisection_text", "explanation_text"]

_EQUALS = {
    "original": "bits of the original",
    "other": "bits of the other run",
    "neither": "bits of neither",
    "nothing": "did not get there",
}


def explanation_text(verdict: Verdict) -> str:
    """Return each cause with its weight, why, what it consists of, and the experiment that would settle it."""
    blocks = [_block(cause, verdict.reproduces) for cause in verdict.explanations]
    return "\n".join(blocks)


def _block(cause: Cause, original: str) -> str:
    lines = [f"  {cause.weight:<9} {cause.text}"]
    lines += [f"            why: {cause.why}"] if cause.why else []
    lines += [f"              {line}" for line in cause.lines]
    if cause.factor is not None:
        lines.append(f"            try: reprokit reproduce {original} --with {_quoted(cause.factor)}")
    elif cause.kind == "machine":
        lines.append(
            "            no option gives another machine's numbers to a run; `reprokit env check` compares them"
        )
    elif cause.kind == "inputs":
        lines.append("            declare it under `data:` in the recipe: then it is pinned")
    elif cause.kind == "unexplained":
        lines.append("            try: reprokit doctor RECIPE looks for what is left to chance")
    return "\n".join(lines)


def _quoted(factor: str) -> str:
    return f"'{factor}'" if set(factor) & set(' "[]{}*?$&|;<>()`\\!#') else factor


def bisection_text(found: Bisection) -> str:
    """Return what was tried, a line each, and what came of it."""
    rows = [(", ".join(trial.factors) or "unchanged", _EQUALS[trial.equals], trial.run_id) for trial in found.trials]
    width = min(max(len(row[0]) for row in rows), 60)
    lines = [f"  at {found.where}:"]
    lines += [f"    {factors:<{width}}  {equals:<21}  {run}" for factors, equals, run in rows]
    lines += [f"    {'(not tried)':<{width}}  {text}" for text in found.untried]
    return "\n".join([*lines, f"  bisect: {found.conclusion}"])
