"""The page of a report: what is said and drawn of one run or two, put into the template. Needs the extra `report`."""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from reprokit._version import __version__
from reprokit.core.progress import SILENT, Progress
from reprokit.export.report import figures as figures
from reprokit.export.report.data import Curve, Grid, curves
from reprokit.export.report.reading import Histogram, read_grid, read_histogram, read_steps
from reprokit.export.report.sides import check_again, experiments, hashes_of, moment, sides, text
from reprokit.export.report.words import GLOSSARY, headline, how_far, how_it_grows, tolerance_text, where_first
from reprokit.runs.pairs import Pair, checkpoint_pairs
from reprokit.runs.store import RunStore, StoredRun
from reprokit.schema.lock import RunLock
from reprokit.schema.record import Record
from reprokit.schema.verdict import Comparison, Verdict, VerdictRecord

__all__ = ["Subject", "environment", "render", "told"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What a report is about. `right` is None of a run that nothing is compared with; `said` is its stored verdict."""

    left: StoredRun
    right: StoredRun | None = None
    verdict: Verdict | None = None
    said: VerdictRecord | None = None
    notices: tuple[str, ...] = ()

    @property
    def repeats(self) -> bool:
        if self.right is None:
            return self.left.record.reproduces is not None
        return self.right.record.reproduces == self.left.record.run_id


def render(subject: Subject, runs: RunStore, *, budget: int, progress: Progress) -> str:
    """Return the page on one run or two.

    Args:
        budget: Bytes of tensors that are read at most.
    """
    style = _style()
    return environment().get_template("report.html.j2").render(
        style=Markup(style),  # noqa: S704 - a file of ours and colours
        style_hash=base64.b64encode(hashlib.sha256(style.encode()).digest()).decode(),
        **told(subject, runs, budget=budget, progress=progress),
    )  # fmt: skip


def told(
    subject: Subject, runs: RunStore, *, budget: int, metrics: bool = True, progress: Progress = SILENT
) -> dict[str, Any]:
    """Return what `body.html.j2` shows of one run or two.

    Args:
        budget: Bytes of tensors that are read at most.
        metrics: Draw their curves too.
    """
    left, right, verdict, registry = subject.left, subject.right, subject.verdict, runs.registry
    ours, theirs = left.record, right.record if right is not None else None
    locks = _lock(left, runs), _lock(right, runs)
    until = verdict.until if verdict is not None else None
    found = checkpoint_pairs(ours, theirs, until) if theirs is not None else []
    grid, worst = read_grid(found, registry, budget=budget, progress=progress)
    histogram = read_histogram(*worst, registry) if worst is not None else None
    steps, unread = read_steps(left, registry)
    their_steps, also = read_steps(right, registry) if right is not None else ({}, [])
    best = locks[0].recipe.checkpoints.best if locks[0] is not None else {}
    drawn, hidden = curves(ours, theirs, (steps, their_steps), first=best)
    explained = verdict.explanations if verdict is not None else []
    first = verdict.first_divergence if verdict is not None else None
    last_epoch = max((entry.epoch for entry in ours.checkpoints if entry.epoch is not None), default=None)
    names = ("original", "repetition") if subject.repeats and right is not None else ("first run", "second run")
    return dict(
        version=__version__,
        subject=subject, ours=ours, theirs=theirs, names=names, verdict=verdict,
        tolerance=tolerance_text(subject.said.tolerance) if subject.said is not None else "",
        headline=headline(verdict, theirs or ours, found, repeats=subject.repeats),
        notices=[*subject.notices, *_contradictions(verdict, found, grid)],
        facts=_facts(ours, theirs, found, grid, verdict, drawn),
        first=where_first(first, found, last_epoch) if first is not None else [],
        divergence=first, grows=how_it_grows(grid) if grid is not None else [],
        comparisons=_condensed(verdict),
        causes=explained,
        experiments=experiments(explained, ours),
        plots=[(curve, _svg(figures.draw_curve(curve, _told(curve, names), own=f"curve{number}-")))
               for number, curve in enumerate(drawn if metrics else [])],
        plot_notes=[*([f"{hidden:,} more metrics are not drawn."] if hidden else []), *unread, *also],
        finals=_finals(ours, theirs) if metrics else [],
        grid=grid, grid_plot=_svg(figures.draw_grid(grid, _grid_told(grid))) if grid is not None else None,
        legend=[(_svg(swatch), words) for swatch, words in figures.legend(grid)] if grid is not None else [],
        histogram=histogram, **_histograms(histogram),
        pairs=found, tables=sides(left, right, locks), hashes=hashes_of(left, right),
        commands_=check_again(ours, theirs, _last(ours)), glossary=GLOSSARY,
    )  # fmt: skip


def _lock(run: StoredRun | None, runs: RunStore) -> RunLock | None:
    return runs.find_lock(run) if run is not None else None


def _last(record: Record) -> str | None:
    entry = next((entry for entry in reversed(record.checkpoints) if not entry.dropped), None)
    return None if entry is None else f"{entry.package}@{entry.top_hash}"


def _contradictions(verdict: Verdict | None, found: Sequence[Pair], grid: Grid | None) -> list[str]:
    """Return in what the stored verdict, or a record, contradicts what is found in the registry now."""
    said = []
    unlike = [str(pair.place) for pair in found if pair.state != "equal"]
    if verdict is not None and verdict.verdict in ("BITWISE", "EQUAL-RELAXED") and unlike:
        said.append(
            f"The verdict on record says {verdict.verdict}, but {len(unlike):,} of {len(found):,} checkpoints differ, "
            f"first {text(unlike[0], 80)}. Do not rely on it, and compare again: the commands are below."
        )
    if grid is not None and grid.contradictions:
        said.append(
            f"The records say that {text(', '.join(grid.contradictions[:4]), 200)} are equal, but their tensors are "
            "not. One of the records was not written by its run."
        )
    return said


def _condensed(verdict: Verdict | None) -> list[Comparison]:
    """Return the lines of a comparison; of one result and nothing to be seen, one for all that follow each other."""
    found: list[Comparison] = []
    groups = groupby(verdict.comparisons if verdict is not None else [], key=lambda c: (c.result, c.detail))
    for (result, detail), group in groups:
        alike = list(group)
        if len(alike) > 2 and not detail:
            found.append(
                Comparison(
                    what=f"{alike[0].what} … {alike[-1].what}", result=result, detail=f"each of these {len(alike):,}"
                )
            )
        else:
            found += alike
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class _Fact:
    """A number in large, and what it counts."""

    value: str
    what: str
    tone: str = ""


def _facts(
    ours: Record,
    theirs: Record | None,
    found: Sequence[Pair],
    grid: Grid | None,
    verdict: Verdict | None,
    drawn: Sequence[Curve],
) -> list[_Fact]:
    if theirs is None:
        kept = sum(not entry.dropped for entry in ours.checkpoints)
        facts = [_Fact(value=f"{kept:,}", what="checkpoints, each with its digest")]
        facts.append(_Fact(value=f"{sum(out.is_kept for out in ours.outputs):,}", what="declared outputs"))
        facts += [
            _Fact(value=f"{value:.4g}", what=f"{text(name, 30)}, at the end")
            for name, value in [*ours.metrics.items()][:2]
        ]
        return facts
    facts = []
    if found:
        equal = sum(pair.state == "equal" for pair in found)
        facts.append(_share(equal, len(found), "checkpoints equal in every bit"))
    if grid is not None and grid.digests[1]:
        equal, every = grid.digests
        facts.append(_share(equal, every, f"tensors’ digests equal ({grid.tensors:,} tensors at each checkpoint)"))
    outputs = {out.path for side in (ours, theirs) for out in side.outputs}
    told = (
        [c for c in verdict.comparisons if c.what in outputs and c.result != "ignored"] if verdict is not None else []
    )
    if told:
        facts.append(_share(sum(c.result == "match" for c in told), len(told), "declared outputs equal in every byte"))
    if drawn:
        facts.append(_share(sum(bool(curve.same) for curve in drawn), len(drawn), "metrics identical at every point"))
    return facts


def _share(part: int, whole: int, what: str) -> _Fact:
    return _Fact(value=f"{part:,} of {whole:,}", what=what, tone="good" if part == whole else "bad")


def _finals(ours: Record, theirs: Record | None) -> list[tuple[str, str, str, str]]:
    """Return the metrics at the end: name, both values, and their difference."""
    other = theirs.metrics if theirs is not None else {}
    names = list(dict.fromkeys([*ours.metrics, *other]))[:40]
    values = [(name, ours.metrics.get(name), other.get(name)) for name in names]
    return [(text(name, 60), text(a), text(b), _apart(a, b)) for name, a, b in values]


def _apart(a: float | None, b: float | None) -> str:
    if a is None or b is None:
        return "in one run only"
    return "none" if a == b or (math.isnan(a) and math.isnan(b)) else f"{b - a:+.3g}"


# -------------------------------------------------------------------------------------------------- plots


def _svg(source: str) -> Markup:
    return Markup(source)  # noqa: S704 - an XML library wrote it, and escaped what it says


def _told(curve: Curve, names: tuple[str, str]) -> str:
    """Return what is seen, for somebody who does not see it."""
    said = f"Line plot of {curve.name} by {curve.axis}. "
    for name, points in zip(names, (curve.one, curve.other), strict=True):
        if points:
            said += f"{name.capitalize()}: from {points[0][1]:.4g} to {points[-1][1]:.4g}. "
    return said + (f"The two lines: {curve.status}." if curve.other is not None else "")


def _grid_told(grid: Grid) -> str:
    said = f"Map of {len(grid.rows) - 1} rows of tensors by {len(grid.columns)} checkpoints. "
    if grid.equal:
        return said + "Every cell is equal in every bit."
    first = next((x for x, cell in enumerate(grid.cells[0]) if cell.kind != "equal"), None)
    if first is not None:
        said += f"Equal before column {first + 1} ({grid.columns[first]}), different from there on. "
    return said + (f"Largest difference: {how_far(max(grid.sizes))}." if grid.sizes else "")


def _histograms(found: Histogram | None) -> dict[str, Any]:
    if found is None:
        return {"weights_plot": None, "apart_plot": None}
    name, reach = text(found.name, 80), f"from {found.apart_edges[0]:.3g} to {found.apart_edges[-1]:.3g}"
    return {
        "weights_plot": _svg(figures.draw_weights(found, f"Histogram of the values of {name} in both runs.")),
        "apart_plot": _svg(figures.draw_apart(found, f"Histogram of the differences of {name}: {reach}.")),
    }


# ------------------------------------------------------------------------------------------------ template


def _style() -> str:
    style = Path(__file__).with_name("report.css").read_text(encoding="utf-8")
    return f"{style}@media screen and (prefers-color-scheme:dark){{{figures.theme()}}}"


def environment(*folders: Path) -> jinja2.Environment:
    """Return what makes pages of templates: everything is escaped, and what is not there is an error.

    Args:
        folders: With templates, beside those of the report.
    """
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader([*folders, Path(__file__).parent]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {"text": text, "moment": moment}
    return made
