"""One run: what went into it, how it went, what came of it, and what came of repeating it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from reprokit.comparison.record_check import check_record
from reprokit.errors import Error, NotFoundError
from reprokit.export.report.sides import check_again, experiments, hashes_of, sides
from reprokit.runs.listing import ShownRun, show
from reprokit.runs.store import StoredRun
from reprokit.runs.watching import logs
from reprokit.schema.manifest import Entry
from reprokit.schema.record import CheckpointEntry, Record
from reprokit.web.series import as_chart, is_too_long, seconds_of
from reprokit.web.site import Site, site_of

__all__ = ["charts", "log", "now", "page"]

_MOST_LOG = 2_000_000  # bytes of a log that are sent at once
_MOST_CHARTS = 60
_MOST_CHECKPOINTS = 400
_COLOURS = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b[@-Z\\-_]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Saved:
    """A checkpoint on the timeline.

    Attributes:
        marks: What it is beside that: latest, best, dropped, resumed here.
    """

    entry: CheckpointEntry
    marks: list[str]


def page(request: Request) -> Response:
    """Show a run."""
    site = site_of(request)
    found = site.runs.load(request.path_params["run"])
    shown = cast("ShownRun", show(found.record.run_id, registry=site.registry))
    record = found.record
    lock, wrong = None, []
    try:
        lock = site.runs.find_lock(found)
        if lock is not None:
            check_record(found, lock, site.registry)
    except Error as error:
        wrong.append(error.message)
    best = lock.recipe.checkpoints.best if lock is not None else {}
    verdict = record.verdicts[-1] if record.verdicts else None
    return site.render(
        "run.html.j2", nav="runs", record=record, shown=shown, wrong=wrong, lock=lock, verdict=verdict,
        tables=sides(found, None, (lock, None)), saved=[*_saved(record, best)], hashes=hashes_of(found, None),
        outputs=_outputs(found), code=_code(found), top_hash=found.manifest.top_hash,
        causes=verdict.explanations if verdict is not None else [],
        experiments=experiments(verdict.explanations, record) if verdict is not None else [],
        commands_=_commands(record), **_now(site, record),
    )  # fmt: skip


def _commands(record: Record) -> list[tuple[str, str]]:
    found = check_again(record, None, None)
    if record.status in ("interrupted", "failed") and record.last is not None and not record.last.unresumable:
        found.append((f"reprokit resume {record.run_id}", "goes on from its last checkpoint"))
    if record.last is not None and record.checkpoints:
        found.append((f"reprokit checkpoint get {record.run_id}@latest model", "writes its newest checkpoint here"))
    if record.reproduces is not None:
        found.append((f"reprokit diff {record.reproduces} {record.run_id}", "compares it with what it repeats"))
    return found


def _saved(record: Record, best: dict[str, Any]) -> Iterator[Saved]:
    chosen: dict[int, list[str]] = {id(record.last): ["latest"]}
    if best and record.checkpoints:
        try:
            chosen.setdefault(id(record.select("best", best=best)), []).append("best")
        except Error:
            pass
    resumed = {attempt.resumed_from for attempt in record.attempts}
    entries = [*([record.initial] if record.initial is not None else []), *record.checkpoints]
    for entry in entries[-_MOST_CHECKPOINTS:]:
        marks = [*chosen.get(id(entry), ())]
        marks += ["dropped"] if entry.dropped else []
        marks += ["resumed from here"] if entry.place.exact in resumed else []
        yield Saved(entry=entry, marks=marks)


def _outputs(run: StoredRun) -> list[tuple[str, Entry | None, str]]:
    """Return what the script wrote, each with its entry and what is to be said of it."""
    told = []
    for output in run.record.outputs:
        key = f"outputs/{output.path}"
        said = "was not written" if output.missing else output.unkept or f"compared: {output.compare}"
        told.append((output.path, run.manifest.by_key.get(key), said))
    artifacts = [(name, run.manifest.by_key.get(name), "logged") for name in run.record.artifacts]
    notebook = run.record.notebook
    executed = [(notebook, run.manifest[notebook], "executed")] if notebook and notebook in run.manifest else []
    return [*told, *artifacts, *executed]


def _code(run: StoredRun) -> Sequence[Entry]:
    return run.manifest.below("code")[:500]


def charts(request: Request) -> Response:
    """Return the metrics of a run, as they are drawn."""
    site = site_of(request)
    run = site.runs.load(request.path_params["run"])
    return JSONResponse(charts_of(site, [run]))


def charts_of(site: Site, runs: Sequence[StoredRun]) -> dict[str, Any]:
    """Return what is drawn of one run, or of several over each other."""
    found = [(run, site.series(run)) for run in runs]
    names = list(dict.fromkeys(name for _, series in found for name in series))
    drawn = []
    for name in names[:_MOST_CHARTS]:
        lines = [(run.record.run_id, f"{run.record.name} {run.record.run_id[-6:]}", series[name])
                 for run, series in found if name in series]  # fmt: skip
        drawn.append(as_chart(name, lines))
    began = {run.record.run_id: seconds_of(run.record.started) for run, _ in found}
    unread = [f"{run.record.run_id} logged more than is drawn here." for run, _ in found if is_too_long(run)]
    return {"charts": drawn, "more": max(len(names) - _MOST_CHARTS, 0), "began": began, "unread": unread}


def log(request: Request) -> Response:
    """Return what the script of a run wrote, from a byte on, as plain text that moves no cursor."""
    site, start = site_of(request), request.query_params.get("from", "0")
    first = int(start) if start.isascii() and start.isdecimal() and len(start) < 16 else 0
    try:
        _, data = logs(request.path_params["run"], registry=site.registry, journals=site.journals)
    except NotFoundError:
        data = b""
    part = data[first : first + _MOST_LOG]
    end = part.rfind(b"\n") + 1 if first + len(part) == len(data) and b"\n" in part else len(part)
    text = _COLOURS.sub("", part[:end].decode(errors="replace"))
    shown = "".join(one if one in "\n\t" or one.isprintable() else "�" for one in text)
    return PlainTextResponse(shown, headers={"x-next": str(first + end), "x-size": str(len(data))})


def now(request: Request) -> Response:
    """Return how far a run is: what the page asks for again and again while it goes on."""
    site = site_of(request)
    record = site.runs.load(request.path_params["run"]).record
    return site.render("now.html.j2", record=record, **_now(site, record))


def _now(site: Site, record: Record) -> dict[str, Any]:
    """Return what its runner said last of a run that goes on."""
    live = site.registry.live(record.run_id) if record.status == "running" else None
    said = live.now() if live is not None else None
    return {"said": said, "metrics": said.metrics if said is not None else record.metrics}
