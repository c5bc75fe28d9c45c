"""A run, or a reproduction and its original, as one page of HTML that somebody who did not train the model can read.

The page loads nothing, runs nothing, and is the same for the same runs. Needs the extra `report`.
"""

from __future__ import annotations

from dataclasses import dataclass

from reprokit.comparison.compare_runs import compare_runs
from reprokit.core.progress import SILENT, Progress
from reprokit.errors import NotFoundError, RefusedError
from reprokit.export.report.page import Subject, render
from reprokit.export.report.reading import BUDGET
from reprokit.export.report.sides import text
from reprokit.registry import Registry
from reprokit.runs.store import RunStore, StoredRun
from reprokit.runs.support import Support
from reprokit.runs.verdict_store import VerdictStore

__all__ = ["Report", "as_report", "subject_of", "subject_of_two"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """A page, and what it is about: one run, or two with a verdict."""

    html: str
    run_id: str
    other: str | None
    verdict: str | None


def as_report(
    ref: str, *, registry: Registry, against: str | None = None, budget: int = BUDGET, progress: Progress = SILENT
) -> Report:
    """Return the report on a run.

    Of a reproduction it shows the verdict, of an original its newest reproduction, and of a run that has none the run
    alone.

    Args:
        against: Compare with this run instead, as `diff` does.
        budget: Bytes of tensors that are read at most, to say how far they are apart.
    Raises:
        NotFoundError: No such run.
        RefusedError: It is still running.
        DataMismatchError: Something in the registry is corrupt.
    """
    runs = RunStore(registry)
    run = runs.load(ref)
    if run.record.status == "running":
        raise RefusedError(f"Run {run.record.run_id} is still running.", hint="Wait for its end.")
    subject = subject_of_two(run, runs.load(against), registry) if against is not None else subject_of(run, runs)
    html = render(subject, runs, budget=budget, progress=progress)
    other = subject.right.record.run_id if subject.right is not None else None
    verdict = subject.verdict.word if subject.verdict is not None else None
    return Report(html=html, run_id=subject.left.record.run_id, other=other, verdict=verdict)


# ------------------------------------------------------------------------------------------------- subject


def subject_of_two(run: StoredRun, other: StoredRun, registry: Registry) -> Subject:
    """Return what a report on two runs is about, as `diff` compares them."""
    return Subject(left=run, right=other, verdict=compare_runs(run, other, registry=registry))


def subject_of(run: StoredRun, runs: RunStore) -> Subject:
    """Return what a run's report is about, where nobody said what it is compared with."""
    record = run.record
    if record.reproduces is None:
        repeated = _newest_of(record.run_id, runs)
        return Subject(left=run) if repeated is None else _reproduction(run, repeated, runs)
    try:
        original = runs.load(record.reproduces)
    except NotFoundError:
        where = text(record.reproduces, 40)
        notice = (
            f"The original, run {where}, is not in this registry: the verdict is shown as it was recorded, unchecked."
        )
        return Subject(left=run, verdict=record.verdicts[-1] if record.verdicts else None, notices=(notice,))
    return _reproduction(original, run, runs)


def _newest_of(run_id: str, runs: RunStore) -> StoredRun | None:
    """Return the newest reproduction of a run; one with a verdict before one without."""
    found = [one for one in runs.summaries() if one.reproduces == run_id and one.status != "running"]
    found.sort(key=lambda one: (one.verdict is not None, one.run))
    return runs.load(found[-1].run) if found else None


def _reproduction(left: StoredRun, right: StoredRun, runs: RunStore) -> Subject:
    """Return a reproduction with the verdict that was given on it, or, where none was, one that is given now."""
    store, support = VerdictStore(runs.registry), Support(runs)
    packages = (store.package(left.record.run_id, top_hash) for top_hash in store.versions(left.record.run_id))
    read = ((store.read(package), package.manifest) for package in packages)
    kept = [found for found in read if found[0].reproduction.run_id == right.record.run_id]
    said = kept[-1][0] if kept else None
    verdict = said.verdict if said is not None else right.record.verdicts[-1] if right.record.verdicts else None
    notices: tuple[str, ...] = ()
    if verdict is None:
        verdict = compare_runs(left, right, registry=runs.registry)
        notices = ("No verdict on this repetition was recorded. What is shown was found when this page was written.",)
    elif (why := support.unsupported(*kept[-1]) if kept else support.own(right.record)) is not None:
        notices = (f"The records of the two runs do not bear this verdict out: {why}.",)
    return Subject(left=left, right=right, verdict=verdict, said=said, notices=notices)
