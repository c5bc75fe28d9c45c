"""Do the records of two runs bear a verdict out?

Whoever may write to a registry can write a verdict: the digests, metrics and locks that both records name decide. No
object of a checkpoint, and no output, is read.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import msgspec

from reprokit.core.canonical_json import canonical
from reprokit.core.refs import is_run_id
from reprokit.core.terminal_text import printable
from reprokit.errors import DataMismatchError, NotFoundError
from reprokit.runs.history import amendments
from reprokit.runs.logged import logged_apart
from reprokit.runs.pairs import checkpoint_pairs
from reprokit.runs.provisos import provisos, resumptions
from reprokit.runs.store import RunStore, StoredRun
from reprokit.runs.verdict_store import VERDICT_KEY, VerdictStore
from reprokit.schema.facts import VerdictSummary, meta_of
from reprokit.schema.manifest import Manifest
from reprokit.schema.record import Record
from reprokit.schema.verdict import Verdict, VerdictRecord

__all__ = ["Reproduction", "Support", "contradicted"]

_WITHIN = ("TENSOR-TOLERANCE", "METRIC-TOLERANCE")
_NOTHING = ("DIVERGED", "INCONCLUSIVE")


class Reproduction(VerdictSummary, frozen=True, kw_only=True):
    """A verdict on a run.

    Attributes:
        unsupported: Why the two records do not bear it out; None if they do.
    """

    unsupported: str | None = None


class Support:
    """Holds verdicts against the records in a registry; each record is read once."""

    def __init__(self, runs: RunStore) -> None:
        self._runs = runs
        self._store = VerdictStore(runs.registry)
        self._known: dict[str, tuple[StoredRun | str, str | None]] = {}

    def reproductions(self, run_id: str, *, unchanged: bool = False) -> list[Reproduction]:
        """Return the verdicts on a run, oldest first.

        Args:
            unchanged: Leave out those of which something was relaxed.
        """
        found = (self._reproduction(run_id, top_hash) for top_hash in self._store.versions(run_id))
        return [one for one in found if not (unchanged and one.relaxed)]

    def _reproduction(self, run_id: str, top_hash: str) -> Reproduction:
        try:
            package = self._store.package(run_id, top_hash)
            kept = self._store.read(package)
        except (DataMismatchError, NotFoundError) as error:
            return Reproduction(verdict="?", original=run_id, reproduction="?", unsupported=error.message)
        told = msgspec.structs.asdict(kept.summary())
        return Reproduction(**told, unsupported=self.unsupported(kept, package.manifest))

    def unsupported(self, kept: VerdictRecord, manifest: Manifest) -> str | None:
        """Return why the two records do not bear a verdict out; None if they do.

        Args:
            manifest: Of the version that holds it, whose header tells listings of it.
        """
        verdict = kept.verdict
        if canonical(manifest.user_meta) != canonical(meta_of(kept.summary())):
            return f"the header of its version says something else than {VERDICT_KEY}"
        if (verdict.reproduces, verdict.run_id) != (kept.original.run_id, kept.reproduction.run_id):
            return "it names other runs than the verdict in it"
        for link in (kept.original, kept.reproduction):
            run, _ = self._run(link.run_id)
            if isinstance(run, StoredRun) and run.record.lock_hash != link.lock_hash:
                has = str(run.record.lock_hash)[:12]
                return f"run {link.run_id} has the lock {has}, not {str(link.lock_hash)[:12]}"
        if verdict.verdict == "TENSOR-TOLERANCE" and not _tolerates(kept):
            (left, _), (right, _) = self._run(verdict.reproduces), self._run(verdict.run_id)
            if isinstance(left, StoredRun) and isinstance(right, StoredRun):
                pairs = checkpoint_pairs(left.record, right.record, verdict.until)
                if (apart := next((pair.place for pair in pairs if pair.state != "equal"), None)) is not None:
                    return f"{verdict.verdict}, but no tolerance was applied, and the records differ in {apart}"
        return self._held(verdict)

    def own(self, record: Record) -> str | None:
        """Return why what a repetition's record says of itself is not borne out; None if it is, or it says nothing."""
        return next((why for verdict in record.verdicts if (why := self._held(verdict)) is not None), None)

    def _held(self, verdict: Verdict) -> str | None:
        (left, one), (right, other) = self._run(verdict.reproduces), self._run(verdict.run_id)
        if isinstance(left, str) or isinstance(right, str):
            return left if isinstance(left, str) else str(right)
        if (one or other) and verdict.verdict not in _NOTHING:
            return one or other
        said = right.record.verdicts
        if said and verdict not in said:
            return f"the record of run {right.record.run_id} says otherwise: {said[-1].verdict}"
        return contradicted(verdict, left.record, right.record, self._ignored(left))

    def _run(self, run_id: str) -> tuple[StoredRun | str, str | None]:
        """Return a run that a verdict names, or why it does not count; and how its record was replaced, if it was."""
        if run_id not in self._known:
            self._known[run_id] = self._read(run_id)
        return self._known[run_id]

    def _read(self, run_id: str) -> tuple[StoredRun | str, str | None]:
        registry = self._runs.registry
        try:
            if not is_run_id(run_id) or not self._runs.has(run_id):
                return f"run {printable(run_id, 100)} is not in {registry.url}", None
            run, changed = self._runs.load(run_id), amendments(run_id, registry)
        except (DataMismatchError, NotFoundError) as error:
            return error.message, None
        return run, f"the record of run {run_id} was replaced: {changed[0]}" if changed else None

    def _ignored(self, run: StoredRun) -> frozenset[str]:
        """Return the metrics that may be anything."""
        try:
            lock = self._runs.find_lock(run)
        except (DataMismatchError, NotFoundError):
            return frozenset()
        limits = {} if lock is None else lock.recipe.tolerance.limits
        return frozenset(name for name, limit in limits.items() if math.isinf(limit))


def _tolerates(kept: VerdictRecord) -> bool:
    weights = kept.tolerance.get("weights")
    return isinstance(weights, dict) and any(isinstance(v, int | float) and v > 0 for v in weights.values())


def contradicted(verdict: Verdict, left: Record, right: Record, ignored: frozenset[str]) -> str | None:
    """Return what in two records cannot be if a verdict on them is true; None if nothing is in its way.

    Args:
        ignored: Metrics that may be anything.
    """
    rung = verdict.verdict
    if right.reproduces != left.run_id:
        return f"run {right.run_id} does not say that it repeats run {left.run_id}"
    if right.relaxed != verdict.relaxed:
        return f"run {right.run_id} was executed with something else relaxed than it says"
    if rung in _NOTHING:
        return None
    if right.status != "finished" or left.status == "running":
        return f"{rung} of a run that did not finish"
    if verdict.resumed != resumptions(left, right):
        return "the records say otherwise how the runs were stopped and resumed"
    if verdict.provisos != (told := provisos(left, right)):
        return f"the two records give {_counted(told)}, and it names {_counted(verdict.provisos)}"
    if rung in _WITHIN:
        return None
    if rung == "BITWISE" and (verdict.relaxed or left.lock_hash != right.lock_hash):
        return f"{rung} of two runs that do not have one lock"
    if rung == "EQUAL-RELAXED" and not verdict.relaxed:
        return f"{rung} of a run of which nothing was relaxed"
    apart = next(_apart(verdict, left, right, ignored), None)
    return None if apart is None else f"{rung}, but the records differ in {apart}"


def _counted(told: list[str]) -> str:
    return f"{len(told)} provisos ({printable(told[0], 300)}…)" if told else "no proviso"


def _apart(verdict: Verdict, left: Record, right: Record, ignored: frozenset[str]) -> Iterator[str]:
    """Yield what is not equal in every bit, as far as the digests of two records say."""
    pairs = checkpoint_pairs(left, right, verdict.until)
    compared = len(pairs)
    for place, entry, again in pairs:
        if entry is None or again is None or entry.state_digest != again.state_digest:
            yield str(place)
        elif not _same(entry.metrics, again.metrics, ignored):
            yield f"the metrics of {place}"
    if verdict.until is None:
        ours, theirs = ({o.path: o for o in side.outputs if o.compare != "ignore"} for side in (left, right))
        for path in dict.fromkeys([*ours, *theirs]):
            one, other = ours.get(path), theirs.get(path)
            if any(side is not None and side.unkept is not None for side in (one, other)):
                continue
            absent = one is None or one.missing
            if absent and (other is None or other.missing):
                continue
            compared += 1
            if absent and left.status != "finished":
                continue
            if one is None or other is None or one.digest != other.digest:
                yield f"the output {path}"
        if left.status == "finished" and not _same(left.metrics, right.metrics, ignored):
            yield "a metric"
        yield from (f"what was logged of {name}" for name in logged_apart(left, right) or () if name not in ignored)
    if not compared:
        yield "all, for there is nothing in them that could be compared"


def _same(one: Mapping[str, float], other: Mapping[str, float], ignored: frozenset[str]) -> bool:
    sides = [sorted((name, value) for name, value in some.items() if name not in ignored) for some in (one, other)]
    return repr(sides[0]) == repr(sides[1])  # NaN is NaN, 0 is -0
