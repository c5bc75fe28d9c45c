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
from reprokit.core.canonical_json import canonical
from reprokit.core.config import Config
from reprokit.core.progress import SILENT, Progress
from reprokit.errors import EnvironmentMismatchError, RefusedError, UsageError
from reprokit.recording.listener import DEAF, Listener
from reprokit.registry import open_registry
from reprokit.reproduction.overrides import Overrides
from reprokit.reproduction.reproduce import reproduce
from reprokit.runs.pairs import checkpoint_pairs
from reprokit.runs.store import RunStore
from reprokit.schema.factor import Factor
from reprokit.schema.place import INITIAL, Spot
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
    places: list[Spot]
    until: int | None
    registry: str
    progress: Progress
    repeat: Callable[[Overrides], Verdict]
    trials: list[Trial] = field(default_factory=list)
    known: dict[str, Record | None] = field(default_factory=dict)

    def try_with(self, factors: list[Factor], place: Spot) -> Equals:
        """Say whose bits the original gives at a place when it is given these; what was tried is not run again."""
        key = _key(factors)
        ran = key not in self.known
        if ran:
            self.known[key] = self._repeated(Overrides.of(factors, until=self.until))
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
            self.trials.append(
                Trial(factors=[one.option for one in factors], run_id=run_id, at=str(place), equals=equals)
            )
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

    def idle(self, factors: list[Factor]) -> list[Factor]:
        """Return the parameters that gave the original's own bits, at all places, when they alone were changed."""

        def same(record: Record | None) -> bool:
            ended = record is not None and record.status == "finished"
            return ended and all(_seen_at(record, at) == _seen_at(self.original, at) for at in self.places)

        return [one for one in factors if one.kind == "param" and same(self.known.get(_key([one])))]

    def next_place(self, factors: list[Factor]) -> Spot | None:
        """Return where a repetition that was tried first differs from the other run; None if nowhere."""
        record = self.known[_key(factors)]
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
    command: list[str] | None = None,
    hermetic: bool = False,
    progress: Progress = SILENT,
    listener: Listener = DEAF,
) -> Bisection:
    """Find out which of the things that differ between two runs makes their bits differ.

    Args:
        left, right: The original and the other run: IDs, unique parts of them, `latest`.
        command, hermetic: As for `reproduce`.
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
        names = [row.what for row in verdict.comparisons if row.what.startswith("params.")]
        also = f" {_and(names)} changed, and changed nothing." if names else ""
        raise RefusedError(f"No bit of the runs {ids} differs: there is nothing to look for.{also}")
    spot = first.spot
    factors: list[Factor] = []
    for cause in verdict.explanations:
        if cause.factor is not None and cause.factor not in factors:
            factors.append(cause.factor)
    lost = [cause for cause in verdict.explanations if cause.factor is None and cause.weight != "unlikely"]
    untried = [cause.text for cause in lost if cause.kind != "unexplained"]
    if not factors:
        why = f": {'; '.join(untried)}" if untried else ""
        raise RefusedError(
            f"The runs {ids} differ in nothing that a repetition could be given{why}.",
            hint="`reprokit diff A B --explain` says what is known.",
        )

    def repeat(overrides: Overrides) -> Verdict:
        return reproduce(
            original.record.run_id, registry=address, overrides=overrides, command=command, hermetic=hermetic,
            sent=False, progress=progress, listener=listener,
        )  # fmt: skip

    until = 0 if spot == Spot(place=INITIAL) else first.epoch
    places = [Spot(place=pair.place) for pair in checkpoint_pairs(original.record, other.record, until)]
    places = places if spot in places else [spot]
    bench = _Bench(original.record, other.record, places, until, address, progress, repeat)
    guilty, together, conclusion = _search(bench, factors, verdict.explanations)
    idle = bench.idle(factors)
    conclusion += f" {_names(idle)} {'changes' if len(idle) == 1 else 'change'} nothing." if idle else ""
    return Bisection(
        original=original.record.run_id, other=other.record.run_id, where=str(spot), trials=bench.trials,
        untried=untried,
        guilty=[factor.option for factor in guilty], together=together, conclusion=conclusion,
    )  # fmt: skip


def _search(bench: _Bench, factors: list[Factor], causes: list[Cause]) -> tuple[list[Factor], bool, str]:
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
    guilty: list[Factor] = []
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


def _first(bench: _Bench) -> Spot:
    """Return the first place at which the two runs differ."""
    return next(at for at in bench.places if _seen_at(bench.original, at) != _seen_at(bench.other, at))


def _guilty_at(
    bench: _Bench, place: Spot, base: list[Factor], factors: list[Factor], causes: list[Cause]
) -> tuple[list[Factor], str]:
    """Return which of the factors, beside those known to be guilty, give the other run's bits at a place."""
    also = f", beside {_names(base)}," if base else ""
    suspects: list[Factor] = []
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


def _moves(bench: _Bench, base: list[Factor], factor: Factor, place: Spot) -> bool:
    """True if a factor changed the bits at a place, into whosever."""
    one, other = (bench.known[_key(factors)] for factors in (base, [*base, factor]))
    return bool(_seen_at(one, place) != _seen_at(other, place))


def _needed(bench: _Bench, base: list[Factor], factors: list[Factor], place: Spot) -> list[Factor]:
    """Return those of the factors without which the other run's bits do not come out; each is left out once."""
    needed = list(factors)
    for factor in factors:
        without = [one for one in needed if one != factor]
        if len(needed) > 1 and bench.try_with([*base, *without], place) == "other":
            needed = without
    return needed


def _seen_at(record: Record | None, spot: Spot) -> Any:
    """Return what a run had at the place of a first difference: the digest of a checkpoint or output, or a metric."""
    if record is None:
        return None
    if spot.output is not None:
        return next((output.digest for output in record.outputs if output.path == spot.output), None)
    entry = None
    if spot.place is not None:
        entry = next((pair.left for pair in checkpoint_pairs(record, record) if pair.place == spot.place), None)
    if spot.metric is not None:
        if spot.place is None:
            return record.metrics.get(spot.metric), (record.logged or {}).get(spot.metric)
        return None if entry is None else entry.metrics.get(spot.metric)
    return None if entry is None else entry.state_digest


def _told(factor: Factor, causes: list[Cause]) -> str:
    texts = [cause.text for cause in causes if cause.factor == factor]
    return texts[0] if len(texts) == 1 else f"{factor.option} ({'; '.join(texts[:3])})"


def _names(factors: list[Factor]) -> str:
    return _and([factor.option for factor in factors])


def _and(names: list[str]) -> str:
    return " and ".join(names) if len(names) < 3 else f"{', '.join(names[:-1])} and {names[-1]}"


def _key(factors: list[Factor]) -> str:
    """Return what tells two choices of factors apart, whatever their order; a value may be a list or a mapping."""
    return canonical(sorted(canonical(msgspec.to_builtins(factor)).decode() for factor in factors)).decode()
