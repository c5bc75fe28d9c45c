"""Which of the things that differ between two runs makes their bits differ: found by running, one thing at a time.

The original is repeated with one of the other run's values after another, only as far as the first difference went, and
what comes out there is compared with both runs. First of all it is repeated unchanged: what does not even repeat cannot
be blamed on anything.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec

from reprokit.compare import checkpoint_pairs
from reprokit.concluding import compare_runs
from reprokit.config import Config
from reprokit.errors import RefusedError
from reprokit.overrides import Overrides
from reprokit.progress import SILENT, Progress
from reprokit.record import Record
from reprokit.registry import open_registry
from reprokit.reproduce import reproduce
from reprokit.runs import RunStore
from reprokit.verdict import Cause, Rung, Verdict

__all__ = ["Bisection", "Trial", "bisect"]

Equals = Literal["original", "other", "neither", "nothing"]


class Trial(msgspec.Struct, frozen=True, kw_only=True):
    """One repetition of the original.

    Attributes:
        factors: What it was given of the other run, as options of `--with`; none: it was repeated unchanged.
        equals: Whose bits came out where the two runs first differ; `nothing` if the repetition did not get there.
    """

    factors: list[str]
    run_id: str
    verdict: Rung
    equals: Equals


class Bisection(msgspec.Struct, frozen=True, kw_only=True):
    """What came of it.

    Attributes:
        where: The first difference between the two runs.
        untried: Causes that no option can give to a run: another machine, a file that was not declared.
        guilty: What makes the difference, as options of `--with`: alone, or several that have to come together.
        together: Each of the guilty alone gives other bits.
        conclusion: A sentence.
    """

    original: str
    other: str
    where: str
    trials: list[Trial]
    untried: list[str]
    guilty: list[str]
    together: bool = False
    conclusion: str

    def plain(self) -> dict[str, Any]:
        value: dict[str, Any] = msgspec.to_builtins(self)
        return value


@dataclass
class _Bench:
    """Repeats the original, and tells whose bits came out."""

    original: Record
    other: Record
    place: str
    until: int | None
    registry: str
    progress: Progress
    repeat: Callable[[Overrides], Verdict]
    trials: list[Trial] = field(default_factory=list)

    def try_with(self, factors: list[str]) -> Equals:
        until = f"epoch={self.until}" if self.until is not None else None
        verdict = self.repeat(Overrides.parse(tuple(factors), until=until))
        record = RunStore(open_registry(self.registry)).load(verdict.run_id).record
        seen = _seen_at(record, self.place)
        equals: Equals = "neither"
        if record.status != "finished":
            equals = "nothing"
        elif seen == _seen_at(self.original, self.place):
            equals = "original"
        elif seen == _seen_at(self.other, self.place):
            equals = "other"
        self.trials.append(Trial(factors=factors, run_id=verdict.run_id, verdict=verdict.verdict, equals=equals))
        self.progress.note(f"  {_names(factors) or 'unchanged'}: {_SAID[equals]}")
        return equals


_SAID = {
    "original": "the original's bits",
    "other": "the other run's bits",
    "neither": "bits of neither run",
    "nothing": "did not get there",
}


def bisect(
    left: str,
    right: str,
    *,
    registry: str | None = None,
    progress: Progress = SILENT,
    **listeners: Any,
) -> Bisection:
    """Find out which of the things that differ between two runs makes their bits differ.

    Args:
        left, right: The original and the other run: IDs, unique parts of them, `latest`.
        listeners: As for `reproduce`: `observer`, `echo`, `command`.
    Raises:
        RefusedError: The two do not differ, or in nothing that a run can be given.
    """
    address = Config.load(registry=registry).registry
    store = open_registry(address)
    runs = RunStore(store)
    original, other = runs.load(left), runs.load(right)
    verdict = compare_runs(original, other, registry=store, values=False)
    first = verdict.first_divergence
    ids = f"{original.record.run_id} and {other.record.run_id}"
    if first is None:
        raise RefusedError(f"No bit of the runs {ids} differs: there is nothing to look for.")
    place = str(first.what or "").partition(" is missing from")[0]
    factors = list(dict.fromkeys(cause.factor for cause in verdict.explanations if cause.factor is not None))
    untried = [cause.text for cause in verdict.explanations if cause.factor is None and cause.kind != "unexplained"]
    if not factors:
        why = f": {'; '.join(untried)}" if untried else ""
        raise RefusedError(
            f"The runs {ids} differ in nothing that a repetition could be given{why}.",
            hint="`reprokit diff A B --explain` says what is known.",
        )

    def repeat(overrides: Overrides) -> Verdict:
        return reproduce(original.record.run_id, registry=address, overrides=overrides, progress=progress, **listeners)

    bench = _Bench(original.record, other.record, place, first.epoch, address, progress, repeat)
    guilty, together, conclusion = _search(bench, factors, verdict.explanations)
    return Bisection(
        original=original.record.run_id, other=other.record.run_id, where=place, trials=bench.trials, untried=untried,
        guilty=guilty, together=together, conclusion=conclusion,
    )  # fmt: skip


def _search(bench: _Bench, factors: list[str], causes: list[Cause]) -> tuple[list[str], bool, str]:
    """Return what is guilty, whether several are of which each changes bits, and a sentence."""
    unchanged = bench.try_with([])
    if unchanged == "other":
        return [], False, (
            f"Nothing of it: repeated unchanged, the original gives the other run's bits at {bench.place} here. "
            "What differs is the original's machine, or what its record does not pin."
        )  # fmt: skip
    if unchanged != "original":
        return [], False, (
            f"The original does not repeat here even unchanged: at {bench.place} it gives {_SAID[unchanged]}. "
            "Nothing can be blamed before it does; `reprokit doctor` looks for what is left to chance."
        )  # fmt: skip
    suspects: list[str] = []
    for factor in factors:
        equals = bench.try_with([factor])
        if equals == "other":
            return [factor], False, f"{_told(factor, causes)} alone makes the difference at {bench.place}: bit for bit."
        if equals != "original":
            suspects.append(factor)
    if len(suspects) > 1 and bench.try_with(suspects) == "other":
        names = _names(suspects)
        return suspects, True, f"{names} make the difference at {bench.place} together; each of them changes bits."
    if len(factors) > 1 and len(suspects) < len(factors) and bench.try_with(factors) == "other":
        needed = _needed(bench, factors)
        return needed, bool(suspects), f"{_names(needed)} make the difference at {bench.place} only together."
    if suspects:
        rest = "what else differs cannot be given to a repetition"
        return suspects, len(suspects) > 1, (
            f"{_names(suspects)} changes bits at {bench.place}, but not into those of the other run: {rest}."
        )  # fmt: skip
    return [], False, (
        f"Nothing that could be tried makes the difference at {bench.place}: it is unexplained, or lies in the other "
        "machine, or in a file that was not declared."
    )  # fmt: skip


def _needed(bench: _Bench, factors: list[str]) -> list[str]:
    """Return those of the factors without which the other run's bits do not come out; each is left out once."""
    needed = list(factors)
    for factor in factors:
        without = [one for one in needed if one != factor]
        if len(needed) > 1 and bench.try_with(without) == "other":
            needed = without
    return needed


def _seen_at(record: Record, place: str) -> Any:
    """Return what a run had at the place of a first difference: the digest of a checkpoint or output, or a metric."""
    kind, _, name = place.partition(" ")
    if kind == "output":
        return next((output.digest for output in record.outputs if output.path == name), None)
    if kind == "metric":
        metric, _, where = name.partition(" of ")
        entry = _at(record, where) if where else None
        return (entry.metrics if entry is not None else record.metrics).get(metric)
    entry = _at(record, place)
    return None if entry is None else entry.state_digest


def _at(record: Record, place: str) -> Any:
    return next((one for name, one, _ in checkpoint_pairs(record, record) if name == place), None)


def _told(factor: str, causes: list[Cause]) -> str:
    texts = [cause.text for cause in causes if cause.factor == factor]
    return texts[0] if len(texts) == 1 else f"{factor} ({'; '.join(texts[:3])})"


def _names(factors: list[str]) -> str:
    return " and ".join(factors) if len(factors) < 3 else f"{', '.join(factors[:-1])} and {factors[-1]}"
