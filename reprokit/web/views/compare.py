"""Several runs beside each other: what differs first, then their curves, and of two of them where they part."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from reprokit.errors import Error, UsageError
from reprokit.export.report.page import told
from reprokit.export.report.report import subject_of, subject_of_two
from reprokit.export.report.sides import moment, text
from reprokit.runs.store import StoredRun
from reprokit.schema.lock import RunLock
from reprokit.web.previews import IMAGES
from reprokit.web.site import Site, site_of
from reprokit.web.views.run import charts_of

__all__ = ["page", "report"]

MOST = 10  # runs
_BUDGET = 200_000_000  # bytes of tensors that are read for a page
_MOST_ROWS = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One fact of all runs; `differs` if they do not agree on it."""

    name: str
    values: Sequence[str]
    differs: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Facts of one kind, those that differ first."""

    title: str
    lines: Sequence[Line]

    @property
    def differing(self) -> list[Line]:
        return [line for line in self.lines if line.differs]

    @property
    def equal(self) -> list[Line]:
        return [line for line in self.lines if not line.differs]


def page(request: Request) -> Response:
    """Compare runs."""
    site = site_of(request)
    wanted = list(dict.fromkeys(request.query_params.getlist("run")))
    if not 2 <= len(wanted) <= MOST:
        raise UsageError(f"Two to {MOST} runs are compared, not {len(wanted)}.", hint="Tick them in the list of runs.")
    runs = [site.runs.load(one) for one in wanted]
    if request.query_params.get("charts") is not None:
        return JSONResponse(charts_of(site, runs))
    return site.render(
        "compare.html.j2", nav="runs", runs=runs, parts=_parts(site, runs), wanted=wanted, images=_images(runs),
        outputs=_outputs(runs),
    )  # fmt: skip


def report(request: Request) -> Response:
    """Show what a report says of two runs, as a part of a page: verdict, causes, layers."""
    site = site_of(request)
    left = site.runs.load(request.query_params.get("one", ""))
    other = request.query_params.get("other")
    if other:
        right = site.runs.load(other)
        repeats = right.record.reproduces == left.record.run_id
        subject = subject_of(right, site.runs) if repeats else subject_of_two(left, right, site.registry)
    else:
        subject = subject_of(left, site.runs)
    return site.render("report_part.html.j2", **told(subject, site.runs, budget=_BUDGET, metrics=False))


def _parts(site: Site, runs: Sequence[StoredRun]) -> list[Part]:
    locks = [_lock(site, run) for run in runs]
    records = [run.record for run in runs]

    def of(make: Callable[[int], Mapping[str, Any]], title: str) -> Part:
        return _part(title, [make(number) for number in range(len(runs))])

    return [
        of(lambda at: records[at].params, "Parameters"),
        of(lambda at: records[at].metrics, "Metrics at the end"),
        of(lambda at: _code(runs[at]), "Code"),
        of(lambda at: {one.name: one.top_hash for one in records[at].data}, "Data"),
        of(lambda at: _packages(locks[at]), "Environment"),
        of(lambda at: _execution(runs[at], locks[at]), "Execution and machine"),
        of(lambda at: _how(runs[at]), "The run"),
    ]


def _lock(site: Site, run: StoredRun) -> RunLock | None:
    try:
        return site.runs.find_lock(run)
    except Error:
        return None


def _part(title: str, sides: Sequence[Mapping[str, Any]]) -> Part:
    names = list(dict.fromkeys(name for side in sides for name in side))
    lines = []
    for name in names:
        values = [side.get(name) for side in sides]
        first = values[0]
        same = all(type(one) is type(first) and (one == first or (one != one and first != first)) for one in values)
        lines.append(Line(name=text(name, 80), values=[text(one, 160) for one in values], differs=not same))
    lines.sort(key=lambda line: not line.differs)
    return Part(title=title, lines=lines[:_MOST_ROWS])


def _code(run: StoredRun) -> dict[str, Any]:
    code = run.record.code
    files = {entry.logical_key.removeprefix("code/"): entry.digest.hex[:12] for entry in run.manifest.below("code")}
    return {"commit": None if code is None else code.commit, "tree": None if code is None else code.tree, **files}


def _packages(lock: RunLock | None) -> dict[str, Any]:
    if lock is None:
        return {}
    environment = lock.environment
    found = {"Python": environment.python, "platform": environment.platform}
    found |= {one.name: one.version for one in environment.conda}
    return found | {one.name: one.version for one in environment.pip}


def _execution(run: StoredRun, lock: RunLock | None) -> dict[str, Any]:
    record = run.record
    found: dict[str, Any] = {
        "by": record.by,
        "machine": record.machine.numeric.machine,
        "cpu": record.machine.numeric.cpu,
    }
    if lock is not None:
        found |= {"seed": lock.execution.seed, "threads": lock.execution.threads}
    return found


def _how(run: StoredRun) -> dict[str, Any]:
    record = run.record
    return {
        "status": record.status, "started": moment(record.started), "checkpoints": len(record.checkpoints),
        "resumed": ", ".join(attempt.resumed_from or "" for attempt in record.attempts) or None,
        "recipe (lock)": record.lock_hash and record.lock_hash[:16],
    }  # fmt: skip


def _paths(run: StoredRun) -> Iterable[str]:
    return (out.path for out in run.record.outputs if out.is_kept)


def _outputs(runs: Sequence[StoredRun]) -> list[tuple[str, list[str | None]]]:
    """Return each output that some run wrote, with its digest in each."""
    names = list(dict.fromkeys(path for run in runs for path in _paths(run)))[:200]
    facts = [{out.path: out.digest for out in run.record.outputs} for run in runs]
    return [(name, [side.get(name) for side in facts]) for name in names]


def _images(runs: Sequence[StoredRun]) -> list[str]:
    """Return the images that all of them wrote."""
    shared = set.intersection(*(set(_paths(run)) for run in runs))
    return sorted(path for path in shared if path.lower().endswith(IMAGES))[:12]
