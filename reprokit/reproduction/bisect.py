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

from reprokit.comparison.compare_runs import compare_runs
from reprokit.core.config import Config
from reprokit.core.progress import SILENT, Progress
from reprokit.errors import EnvironmentMismatchError, RefusedError, UsageError
from reprokit.registry import open_registry
from reprokit.reproduction.overrides import Overrides
from reprokit.reproduction.reproduce import reproduce
from reprokit.runs.pairs import checkpoint_pairs
from reprokit.runs.store import RunStore
from reprokit.schema.record import Record
from reprokit.schema.verdict import Cause, Verdict

__all__ = ["Bisection", "Trial", "bisect"]

Equals = Literal["original", "other", "neither", "nothing"]


class Trial(msgspec.Struct, frozen=True, kw_only=True):
    """One repetition of the original.

    Attributes:
        factors: What it was given of the other run, as options of `--with`; none: it was repeated unchanged.
        run_id: Its own; empty if it could not be started.
        at: Where it was first looked at.
        equals: Whose bits came out there; `nothing` if the repetition did not get there.
    """

    factors: list[str]
    run_id: str
    at: str
    equals: Equals


class Bisection(msgspec.Struct, frozen=True, kw_only=True):
    """What came of it.

    Attributes:
        where: The first difference between the two runs.
        untried: Causes that no option can give to a run: another machine, a file that was not declared.
        guilty: What makes the difference, as options of `--with`.
        together: There are several.
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
    """Repeats the original as far as the first difference, and tells whose bits came out.

    Attributes:
        places: What is looked at: of checkpoints all up to the first difference, or an output or metric alone.
    """

    original: Record
    other: Record
    places: list[str]
    until: int | None
    registry: str
    progress: Progress
    repeat: Callable[[Overrides], Verdict]
    trials: list[Trial] = field(default_factory=list)
    known: dict[tuple[str, ...], Record | None] = field(default_factory=dict)

    def try_with(self, factors: list[str], place: str) -> Equals:
        """Say whose bits the original gives at a place when it is given these; what was tried is not run again."""
        key = tuple(sorted(factors))
        ran = key not in self.known
        if ran:
            until = f"epoch={self.until}" if self.until is not None else None
            self.known[key] = self._repeated(Overrides.parse(tuple(factors), until=until))
        record = self.known[key]
        seen = _seen_at(record, place)
        equals: Equals = "neither"
        if record is None or record.status != "finished":
            equals = "nothing"
        elif seen == _seen_at(self.original, place):
            equals = "original"
        elif seen == _seen_at(self.other, place):
            equals = "other"
        if ran:
            run_id = record.run_id if record is not None else ""
            self.trials.append(Trial(factors=factors, run_id=run_id, at=place, equals=equals))
            self.progress.note(f"  {_names(factors) or 'unchanged'}: {_SAID[equals]} at {place}")
        return equals

    def _repeated(self, overrides: Overrides) -> Record | None:
        """Repeat the original; None if it could not even be started, as where an environment cannot be made."""
        try:
            verdict = self.repeat(overrides)
        except (EnvironmentMismatchError, UsageError) as error:
            self.progress.note(f"  {error.message}")
            return None
        return RunStore(open_registry(self.registry)).load(verdict.run_id).record

    def next_place(self, factors: list[str]) -> str | None:
        """Return where a repetition that was tried first differs from the other run; None if nowhere."""
        record = self.known[tuple(sorted(factors))]
        return next((at for at in self.places if _seen_at(record, at) != _seen_at(self.other, at)), None)


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
    verdict = compare_runs(original, other, registry=store)
    first = verdict.first_divergence
    ids = f"{original.record.run_id} and {other.record.run_id}"
    if first is None:
        raise RefusedError(f"No bit of the runs {ids} differs: there is nothing to look for.")
    place = str(first.what or "").partition(" is missing from")[0]
    factors = list(dict.fromkeys(cause.factor for cause in verdict.explanations if cause.factor is not None))
    lost = [cause for cause in verdict.explanations if cause.factor is None and cause.weight != "unlikely"]
    untried = [cause.text for cause in lost if cause.kind != "unexplained"]
    if not factors:
        why = f": {'; '.join(untried)}" if untried else ""
        raise RefusedError(
            f"The runs {ids} differ in nothing that a repetition could be given{why}.",
            hint="`reprokit diff A B --explain` says what is known.",
        )

    def repeat(overrides: Overrides) -> Verdict:
        return reproduce(original.record.run_id, registry=address, overrides=overrides, progress=progress, **listeners)

    until = 0 if place == "initial state" else first.epoch
    pairs = checkpoint_pairs(original.record, other.record, until)
    places = [name for name, _, _ in pairs] if any(name == place for name, _, _ in pairs) else [place]
    bench = _Bench(original.record, other.record, places, until, address, progress, repeat)
    guilty, together, conclusion = _search(bench, factors, verdict.explanations)
    return Bisection(
        original=original.record.run_id, other=other.record.run_id, where=place, trials=bench.trials, untried=untried,
        guilty=guilty, together=together, conclusion=conclusion,
    )  # fmt: skip


def _search(bench: _Bench, factors: list[str], causes: list[Cause]) -> tuple[list[str], bool, str]:
    """Return what is guilty, whether it takes several, and a sentence."""
    place = bench.places[-1] if len(bench.places) == 1 else _first(bench)
    unchanged = bench.try_with([], place)
    if unchanged == "other":
        return [], False, (
            f"Nothing of it: repeated unchanged, the original gives the other run's bits at {place} here. "
            "What differs is the original's machine, or what its record does not pin."
        )  # fmt: skip
    if unchanged != "original":
        return [], False, (
            f"The original does not repeat here even unchanged: at {place} it gives {_SAID[unchanged]}. "
            "Nothing can be blamed before it does; `reprokit doctor` looks for what is left to chance."
        )  # fmt: skip
    guilty: list[str] = []
    said: list[str] = []
    while True:
        found, sentence = _guilty_at(bench, place, guilty, [one for one in factors if one not in guilty], causes)
        said.append(sentence)
        if not found:
            return guilty, len(guilty) > 1, " ".join(said)
        guilty += found
        after = bench.next_place(guilty)
        if after is None or after == place:
            return guilty, len(guilty) > 1, " ".join(said)
        place = after


def _first(bench: _Bench) -> str:
    """Return the first place at which the two runs differ."""
    return next(at for at in bench.places if _seen_at(bench.original, at) != _seen_at(bench.other, at))


def _guilty_at(
    bench: _Bench, place: str, base: list[str], factors: list[str], causes: list[Cause]
) -> tuple[list[str], str]:
    """Return which of the factors, beside those known to be guilty, give the other run's bits at a place."""
    also = f", beside {_names(base)}," if base else ""
    suspects: list[str] = []
    bench.try_with(base, place)
    for factor in factors:
        equals = bench.try_with([*base, factor], place)
        if equals == "other":
            return [factor], f"{_told(factor, causes)} alone{also} makes the difference at {place}: bit for bit."
        if equals != "nothing" and _moves(bench, base, factor, place):
            suspects.append(factor)
    if len(suspects) > 1 and bench.try_with([*base, *suspects], place) == "other":
        return suspects, f"{_names(suspects)}{also} make the difference at {place} together; each of them changes bits."
    if len(factors) > 1 and bench.try_with([*base, *factors], place) == "other":
        needed = _needed(bench, base, factors, place)
        return needed, f"{_names(needed)}{also} make the difference at {place} only together."
    if suspects:
        rest = "what else differs cannot be given to a repetition"
        return [], f"{_names(suspects)} changes bits at {place}, but not into those of the other run: {rest}."
    return [], (
        f"Nothing that could be tried{also} makes the difference at {place}: it is unexplained, or lies in the other "
        "machine, or in a file that was not declared."
    )  # fmt: skip


def _moves(bench: _Bench, base: list[str], factor: str, place: str) -> bool:
    """True if a factor changed the bits at a place, into whosever."""
    one, other = (bench.known[tuple(sorted(factors))] for factors in (base, [*base, factor]))
    return bool(_seen_at(one, place) != _seen_at(other, place))


def _needed(bench: _Bench, base: list[str], factors: list[str], place: str) -> list[str]:
    """Return those of the factors without which the other run's bits do not come out; each is left out once."""
    needed = list(factors)
    for factor in factors:
        without = [one for one in needed if one != factor]
        if len(needed) > 1 and bench.try_with([*base, *without], place) == "other":
            needed = without
    return needed


def _seen_at(record: Record | None, place: str) -> Any:
    """Return what a run had at the place of a first difference: the digest of a checkpoint or output, or a metric."""
    if record is None:
        return None
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
