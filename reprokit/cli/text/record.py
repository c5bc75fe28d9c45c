"""Records and verdicts as people read them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

from reprokit.cli.face import size
from reprokit.cli.text.sparks import curve_lines
from reprokit.schema.record import CheckpointEntry, Record
from reprokit.schema.verdict import Comparison, Verdict, VerdictRecord

__all__ = ["checkpoint_line", "kept_verdict_text", "metrics_text", "run_text", "verdict_text"]


def metrics_text(metrics: dict[str, float]) -> str:
    return "  ".join(f"{name}={value:.6g}" for name, value in metrics.items())


def checkpoint_line(
    entry: CheckpointEntry, kind: str = "checkpoint", *, among: Sequence[CheckpointEntry] = (), total: int | None = None
) -> str:
    """Return a checkpoint in a line.

    Args:
        among: The others of its run; where several are of one epoch, each says its step.
        total: Bytes of its files, if that is to be said.
    """
    several = sum(other.epoch == entry.epoch for other in among) > 1
    if kind == "initial":
        where = "initial"
    elif entry.epoch is None:
        where = f"step {entry.step}"
    elif entry.step is not None and (several or entry.batch is not None or entry.reason):
        where = f"epoch {entry.epoch} step {entry.step}"
    else:
        where = f"epoch {entry.epoch}"
    parts = [f"{where:<9} {entry.package}@{entry.top_hash[:8]}"]
    parts += [f"{size(total):>8}"] if total is not None else []
    parts += ["dropped"] if entry.dropped else []
    parts += [f"on {entry.reason}"] if entry.reason else []
    return "  ".join([*parts, metrics_text(entry.metrics)]).rstrip()


def run_text(record: Record) -> str:
    """Return what `show RUN` and the end of `run` print."""
    rows: list[tuple[str, str]] = [("run", f"{record.run_id}  {record.name}"), ("status", record.status)]
    if record.failure:
        rows.append(("failure", record.failure.replace("\n", "\n" + " " * 15)))
    if record.code is not None:
        commit = (record.code.commit or "")[:8]
        dirty = " with uncommitted changes" if record.code.dirty else ""
        rows.append(("code", f"{commit}{dirty} (tree {record.code.tree[:8]})"))
    if record.environment is not None:
        rows.append(
            (
                "environment",
                f"{record.environment.hash[:8]}, {record.environment.packages} packages, "
                f"Python {record.environment.python}",
            )
        )
    rows += [
        (f"data.{d.name}", f"{d}, {d.entries:,} files, {size(d.size)}" + (f"; {d.run}" if d.run else ""))
        for d in record.data
    ]
    if record.params:
        rows.append(("params", "  ".join(f"{key}={value}" for key, value in record.params.items())))
    if record.initial is not None:
        rows.append(("checkpoint", checkpoint_line(record.initial, "initial")))
    rows += [("checkpoint", checkpoint_line(entry, among=record.checkpoints)) for entry in record.checkpoints]
    rows += [("curve", line) for line in curve_lines(record, indent=15)]
    if record.metrics:
        rows.append(("metrics", metrics_text(record.metrics)))
    for output in record.outputs:
        rows.append(("output", f"{output.path}  {'missing' if output.missing else size(output.size)}"))
    rows += [("notebook", f"{record.notebook}, executed")] if record.notebook else []
    rows += [("artifact", name) for name in record.artifacts]
    if record.reproduces:
        rows.append(("reproduces", record.reproduces))
    rows += [("verdict", verdict.verdict) for verdict in record.verdicts]
    rows += [("warning", text) for text in record.warnings]
    if record.lock_hash:
        rows.append(("lock", record.lock_hash[:16]))
    return "\n".join(f"  {name:<12} {value}" for name, value in rows)


_VERDICTS = {
    "BITWISE": "BITWISE: every state digest and declared output is equal in every bit",
    "TENSOR-TOLERANCE": "TENSOR-TOLERANCE: every tensor is within the declared tolerance; not bitwise",
    "METRIC-TOLERANCE": "METRIC-TOLERANCE: the declared metrics are within tolerance; the tensors are not",
    "DIVERGED": "DIVERGED: beyond every declared tolerance",
    "INCONCLUSIVE": "INCONCLUSIVE: nothing comparable, or the rerun did not finish",
}


def verdict_text(verdict: Verdict, *, title: str) -> str:
    """Return what `reproduce` prints; the last line is the verdict."""
    rows: list[tuple[str, str]] = [(title, f"{verdict.reproduces} → {verdict.run_id}")]
    for comparison in _gathered(verdict.comparisons):
        word = comparison.result.upper() if comparison.result in ("differs", "missing") else comparison.result
        rows.append((comparison.what, f"{word:<9} {comparison.detail}".rstrip()))
    if verdict.first_divergence is not None:
        rows.append(("first", _divergence(verdict)))
    rows += [("cause", f"{cause.weight:<9} {cause.text}") for cause in verdict.explanations]
    rows += [("", f"{'':<9} {cause.why}") for cause in verdict.explanations if cause.kind == "unexplained"]
    rows += [("relaxed", item) for item in verdict.relaxed]
    rows.append(("verdict", _VERDICTS[verdict.verdict]))
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"  {name:<{width}}  {value}" for name, value in rows)


def _gathered(comparisons: list[Comparison]) -> Iterator[Comparison]:
    """Yield comparisons, those that follow each other with one result and nothing to say as one."""
    for (result, detail), found in groupby(comparisons, key=lambda one: (one.result, one.detail)):
        alike = list(found)
        if detail or len(alike) < 3:
            yield from alike
        else:
            yield Comparison(
                what=f"{alike[0].what} … {alike[-1].what}", result=result, detail=f"{len(alike):,} of them"
            )


def kept_verdict_text(kept: VerdictRecord) -> str:
    """Return a verdict as it was kept: who gave it, when and on what, and then what it says."""
    rows = [("given by", f"{kept.by}, {kept.at}, reprokit {kept.reprokit}")]
    rows += [("command", " ".join(kept.command))] if kept.command else []
    rows += [("machine", "  ".join(f"{name}={value}" for name, value in kept.machine.items()))] if kept.machine else []
    rows += [("compared", "  ".join(f"{name}={count}" for name, count in kept.compared.items()))]
    for name, link in (("original", kept.original), ("reproduction", kept.reproduction)):
        rows.append((name, f"{link.run_id}  record {link.top_hash[:16]}  lock {str(link.lock_hash)[:16]}"))
    weights, metrics = kept.tolerance.get("weights"), kept.tolerance.get("metrics")
    rows.append(("tolerance", f"weights {weights}  metrics {metrics}"))
    width = max(len(name) for name, _ in rows)
    lines = [f"  {name:<{width}}  {value}" for name, value in rows]
    return "\n".join([*lines, verdict_text(kept.verdict, title="reproduce")])


def _divergence(verdict: Verdict) -> str:
    first: Any = verdict.first_divergence
    parts = [str(first.what or ""), first.tensor_text()]
    return ", ".join(part for part in parts if part)
