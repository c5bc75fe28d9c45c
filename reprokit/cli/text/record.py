"""Records and verdicts as people read them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from itertools import groupby
from typing import Any

import msgspec

from reprokit.cli.face import size
from reprokit.cli.text.sparks import curve_lines
from reprokit.cli.text.table import lines_of, metrics_text, table
from reprokit.core.terminal_text import printable
from reprokit.runs.history import RunNote
from reprokit.schema.record import CheckpointEntry, Record
from reprokit.schema.verdict import Comparison, Rung, Verdict, VerdictRecord

__all__ = ["checkpoint_line", "kept_verdict_text", "note_line", "run_text", "verdict_text"]

_FIRST, _LAST = 2, 5  # checkpoints of a long run that are shown


def note_line(note: RunNote) -> str:
    """Return what somebody said of a run in a line."""
    at = datetime.fromtimestamp(note.at / 1e9, UTC).strftime("%Y-%m-%d %H:%M")
    return printable(f"  {'note':<12} {note.text}  ({note.by}, {at})", 2000)


def checkpoint_line(entry: CheckpointEntry, *, among: Sequence[CheckpointEntry] = (), total: int | None = None) -> str:
    """Return a checkpoint in a line.

    Args:
        among: The others of its run; where several are of one epoch, each says its step.
        total: Bytes of its files, if that is to be said.
    """
    place = entry.place
    alike = [other for other in among if other.place.comparable == place.comparable]
    if not place.is_counted and entry in alike:
        place = msgspec.structs.replace(place, save=1 + alike.index(entry))
    several = place.epoch is not None and sum(other.epoch == entry.epoch for other in among) > 1
    where = place.exact if several or place.batch is not None or place.is_by_chance else str(place)
    parts = [f"{where:<13} {entry.package}@{entry.top_hash[:8]}"]
    parts += [f"{size(total):>8}"] if total is not None else []
    parts += ["dropped"] if entry.dropped else []
    parts += [f"on {entry.kind}"] if place.is_by_chance else []
    return "  ".join([*parts, metrics_text(entry.metrics)]).rstrip()


def run_text(record: Record, *, failure: str | None = None) -> str:
    """Return what `show RUN` and the end of `run` print.

    Args:
        failure: Why it failed, instead of all that the record has of it: the script's own words stand above.
    """
    rows: list[tuple[str, str]] = [("run", f"{record.run_id}  {record.name}"), ("status", record.status)]
    rows += [("by", record.by)] if record.by else []
    rows += [("resumed", str(attempt).removeprefix("resumed ")) for attempt in record.attempts]
    if record.failure:
        rows += lines_of("failure", failure or record.failure)
    if record.code is not None:
        commit = (record.code.commit or "")[:8]
        dirty = " with uncommitted changes" if record.code.dirty else ""
        in_place = ", in the working tree" if record.execution is not None and record.execution.in_place else ""
        rows.append(("code", f"{commit}{dirty} (tree {record.code.tree[:8]}){in_place}"))
    if record.environment is not None:
        rows.append(
            (
                "environment",
                f"{record.environment.hash[:8]}, {record.environment.packages} packages, "
                f"Python {record.environment.python}",
            )
        )
    rows += [
        (
            f"data.{d.name}",
            f"{d}, {d.entries:,} file{'s'[: d.entries != 1]}, {size(d.size)}" + (f"; {d.run}" if d.run else ""),
        )
        for d in record.data
    ]
    rows += [(f"data.{name}", f"CHANGED while the run went on: {file}") for name, file in record.changed_inputs.items()]
    if record.params:
        told = ((f"{key}={value}", key in record.unused) for key, value in record.params.items())
        rows.append(("params", "  ".join(f"{text} (unused)" if unused else text for text, unused in told)))
    read = [one.name for one in record.variables if one.is_input]
    if read:
        rows.append(("variables", f"read and not declared: {', '.join(read)}"))
    if record.initial is not None:
        rows.append(("checkpoint", checkpoint_line(record.initial)))
    rows += [("checkpoint", line) for line in _checkpoints(record)]
    rows += [("no resume", text) for text in _unresumable(record)]
    rows += [("curve", line) for line in curve_lines(record, indent=15)]
    if record.metrics:
        rows.append(("metrics", metrics_text(record.metrics)))
    for output in record.outputs:
        kept = "missing" if output.missing else size(output.size)
        rows.append(("output", f"{output.path}  {f'not kept: {output.unkept}' if output.unkept else kept}"))
    rows += [("notebook", f"{record.notebook}, executed")] if record.notebook else []
    rows += [("artifact", name) for name in record.artifacts]
    if record.programs:
        rows.append(("programs", ", ".join(dict.fromkeys(one.path.rpartition("/")[2] for one in record.programs))))
    if record.reproduces:
        rows.append(("reproduces", record.reproduces))
    for verdict in record.verdicts:
        rows += [("verdict", verdict.word), *(("proviso", text) for text in verdict.provisos)]
    rows += [("warning", text) for text in record.warnings]
    rows += [("left out", f"{one.count:,} more of {one.what} (sha256 {one.digest[:12]}…)") for one in record.left_out]
    if record.lock_hash:
        rows.append(("lock", record.lock_hash[:16]))
    return table(rows, width=11)


def _checkpoints(record: Record) -> Iterator[str]:
    """Yield a line for each checkpoint; of many, of the first and the last ones."""
    saved = record.checkpoints
    hidden = range(_FIRST, len(saved) - _LAST) if len(saved) > _FIRST + _LAST + 3 else range(0)
    for number, entry in enumerate(saved):
        if number == hidden.start and hidden:
            yield f"… {len(hidden):,} more: `reprokit ls {record.run_id}` lists all"
        if number not in hidden:
            yield checkpoint_line(entry, among=saved)


def _unresumable(record: Record) -> Iterator[str]:
    """Yield why a run cannot be resumed, and from which of its checkpoints."""
    saved = [*([record.initial] if record.initial is not None else []), *record.checkpoints]
    for why in dict.fromkeys(why for entry in saved for why in entry.unresumable):
        places = [str(entry.place) for entry in saved if why in entry.unresumable]
        several = f" … {places[-1]} ({len(places)} checkpoints)" if len(places) > 1 else ""
        yield f"from {places[0]}{several}: {why}"


_MEANS: dict[Rung, str] = {
    "BITWISE": "every state digest and declared output is equal in every bit",
    "EQUAL-RELAXED": "all that was compared is equal in every bit, under changed conditions",
    "TENSOR-TOLERANCE": "what differs is within the declared tolerance; not bitwise",
    "METRIC-TOLERANCE": "the declared metrics are within tolerance; the checkpoints are not",
    "DIVERGED": "something differs that the recipe does not tolerate",
    "INCONCLUSIVE": "nothing comparable, or the rerun did not finish",
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
    rows += [("resumed", text) for text in verdict.resumed]
    rows += [("proviso", text) for text in verdict.provisos]
    word = verdict.word.replace("EQUAL-RELAXED", "EQUAL, RELAXED")
    rows.append(("verdict", f"{word}: {_meaning(verdict)}"))
    return table(rows)


def _meaning(verdict: Verdict) -> str:
    if verdict.verdict == "BITWISE" and not any(one.what == "checkpoints" for one in verdict.comparisons):
        return "every declared output is equal in every bit; there was no checkpoint to compare"
    return _MEANS[verdict.verdict]


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
    return "\n".join([table(rows), verdict_text(kept.verdict, title="reproduce")])


def _divergence(verdict: Verdict) -> str:
    first: Any = verdict.first_divergence
    parts = [str(first.what or ""), first.tensor_text()]
    return ", ".join(part for part in parts if part)
