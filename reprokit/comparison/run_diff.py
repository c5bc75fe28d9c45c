"""Two runs, or two checkpoints, side by side as they are stored; nothing is executed.

From metadata alone unless values are asked for: of two runs no object of a checkpoint is read, of two checkpoints only
`state.json` and the indices of shards, and those only if they differ.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping
from itertools import islice
from typing import Any, Literal

import msgspec

from reprokit.checkpoint.reader import Checkpoint
from reprokit.comparison.checkpoint_diff import TensorDiff, compare_tensors
from reprokit.comparison.compare_runs import compare_runs, open_checkpoint
from reprokit.comparison.files.beside_tensors import STATE_KEY, changed_aliases
from reprokit.comparison.files.text_diff import compare_content
from reprokit.comparison.json_paths import differing_paths
from reprokit.comparison.record_check import check_alike
from reprokit.core.canonical_json import spelled
from reprokit.errors import NotFoundError
from reprokit.locking.inputs import part_of
from reprokit.registry import Registry
from reprokit.runs.pairs import checkpoint_pairs
from reprokit.runs.store import RunStore, StoredRun
from reprokit.schema.facts import CheckpointFacts
from reprokit.schema.lock import DataPin, RunLock
from reprokit.schema.manifest import Manifest, ManifestDiff
from reprokit.schema.record import CheckpointEntry, OutputFacts
from reprokit.schema.verdict import Verdict

__all__ = [
    "CheckpointDiff",
    "CheckpointSide",
    "CheckpointsDiff",
    "CodeDiff",
    "DataDiff",
    "EnvironmentDiff",
    "OutputDiff",
    "PackageRow",
    "Pair",
    "RunDiff",
    "diff_checkpoints",
    "diff_runs",
]

_CODE = "code/"
_MAX_PATHS = 20


class _Part(msgspec.Struct, frozen=True, kw_only=True):
    pass


class Pair(_Part, frozen=True, kw_only=True):
    """Two values of one name; a side that does not have it has none."""

    left: Any = msgspec.UNSET
    right: Any = msgspec.UNSET

    @property
    def equal(self) -> bool:
        if isinstance(self.left, float) and isinstance(self.right, float) and math.isnan(self.left):
            return math.isnan(self.right)
        return type(self.left) is type(self.right) and bool(self.left == self.right)


class CodeDiff(_Part, frozen=True, kw_only=True):
    """Two git trees.

    Attributes:
        content: Of each file that changed, a unified diff or what stands for it; empty unless asked for.
    """

    left: str | None
    right: str | None
    added: list[str] = []
    removed: list[str] = []
    changed: list[str] = []
    content: dict[str, list[str]] = {}


class PackageRow(_Part, frozen=True, kw_only=True):
    """A package of the environment that differs; None where it is absent. Equal versions: its files differ."""

    name: str
    kind: str
    left: str | None
    right: str | None


class EnvironmentDiff(_Part, frozen=True, kw_only=True):
    """Two environments, by the hashes of their locks."""

    left: str | None
    right: str | None
    changes: list[PackageRow] = []


class DataDiff(_Part, frozen=True, kw_only=True):
    """One input of both; the entries are listed where both versions are in the registry."""

    name: str
    left: str | None
    right: str | None
    equal: bool
    added: list[str] = []
    removed: list[str] = []
    changed: list[str] = []


class OutputDiff(_Part, frozen=True, kw_only=True):
    """One declared output, by its digests; how two that differ compare in their mode is among the comparisons."""

    path: str
    how: Literal["equal", "differs", "only left", "only right", "missing", "not kept"]


class CheckpointsDiff(_Part, frozen=True, kw_only=True):
    """The checkpoints of two runs, paired by epoch or step.

    Attributes:
        equal: How many of the `compared` have equal state digests.
        only_left, only_right: Names of those that one run alone has.
        first: Name of the first pair that is not equal: `epoch 3`.
        left, right: Its two versions, as `ns/name@hash`.
    """

    compared: int
    equal: int
    only_left: list[str]
    only_right: list[str]
    first: str | None
    left: str | None = None
    right: str | None = None


class RunDiff(_Part, frozen=True, kw_only=True):
    """Two runs side by side.

    Attributes:
        params, execution: What differs. metrics: All final ones.
        unused: Of the parameters that differ, those that never reached the script of either run.
        tensors: Of the first checkpoint that differs; None if none does, or one side's was dropped.
        values: Values of tensors were read.
        resumed: How each was stopped and resumed.
    """

    verdict: Verdict
    resumed: Pair
    code: CodeDiff
    environment: EnvironmentDiff
    data: list[DataDiff]
    params: dict[str, Pair]
    unused: list[str]
    execution: dict[str, Pair]
    metrics: dict[str, Pair]
    outputs: list[OutputDiff]
    checkpoints: CheckpointsDiff
    tensors: TensorDiff | None
    values: bool

    def plain(self) -> dict[str, Any]:
        """Return the verdict, and the rest beside its fields."""
        plain: dict[str, Any] = msgspec.to_builtins(self)
        return {**plain, **self.verdict.plain()}


class CheckpointSide(_Part, frozen=True, kw_only=True):
    """One of two checkpoints, as the header of its version describes it."""

    name: str
    top_hash: str
    facts: CheckpointFacts


class CheckpointDiff(_Part, frozen=True, kw_only=True):
    """Two checkpoints side by side.

    Attributes:
        equal: Nothing that the state digest covers differs.
        state: Paths of `state.json` that differ, at most twenty.
        aliases: By section, the other names of tied weights that are not the same on both sides.
            Of either None if they differ and are not there to be read.
        values: Values of tensors were read.
    """

    left: CheckpointSide
    right: CheckpointSide
    equal: bool
    metrics: dict[str, Pair]
    tensors: TensorDiff
    state: list[str] | None
    aliases: dict[str, dict[str, Pair]] | None
    values: bool

    def plain(self) -> dict[str, Any]:
        plain: dict[str, Any] = spelled(msgspec.to_builtins(self))
        return plain


def diff_runs(
    left: StoredRun, right: StoredRun, *, registry: Registry, values: bool = False, content: bool = False
) -> RunDiff:
    """Compare two runs without running anything.

    Args:
        values: Read the tensors of the first checkpoint that differs. Where the left run's recipe declares a tolerance
            of weights, the verdict reads tensors in any case.
        content: Read the files of the code that changed.
    """
    runs = RunStore(registry)
    ours, theirs = map(runs.find_lock, (left, right))
    verdict = compare_runs(left, right, registry=registry, values=values)
    checkpoints, first = _checkpoints(left, right)
    tensors = None
    if first is not None:
        with contextlib.suppress(NotFoundError):  # deleted by hand: what the records say of it is all there is
            one, other = (open_checkpoint(entry, registry) for entry in first)
            tensors = compare_tensors(one, other, values=values)
    told = verdict.first_divergence
    params = _unequal(left.record.params, right.record.params)
    return RunDiff(
        verdict=verdict,
        resumed=Pair(left=left.record.attempts, right=right.record.attempts),
        code=_code(left, right, registry, content=content),
        environment=_environment(left, right, ours, theirs),
        data=_data(ours, theirs, registry),
        params=params,
        unused=[name for name in params if name in left.record.unused and name in right.record.unused],
        execution=_unequal(_execution(left, ours), _execution(right, theirs)),
        metrics=_pairs(left.record.metrics, right.record.metrics),
        outputs=_outputs(left.record.outputs, right.record.outputs),
        checkpoints=checkpoints,
        tensors=tensors,
        values=values or (told is not None and told.differing is not None),
    )


def diff_checkpoints(left: Checkpoint, right: Checkpoint, *, values: bool = False) -> CheckpointDiff:
    """Compare two checkpoints, of one run or of two.

    Args:
        values: Read the tensors that differ, and say by how much.
    Raises:
        DataMismatchError: One is corrupt, contradicts itself, or has other tensors than it says.
    """
    check_alike(left, right)
    tensors = compare_tensors(left, right, values=values)
    state, aliases = _state(left, right, tensors), _aliases(left, right)
    sides = [
        CheckpointSide(name=side.package.name, top_hash=side.package.top_hash, facts=side.facts)
        for side in (left, right)
    ]
    metrics = [side.facts.metrics for side in (left, right)]
    return CheckpointDiff(
        left=sides[0],
        right=sides[1],
        equal=tensors.equal and aliases == {},
        metrics=_pairs(*metrics),
        tensors=tensors,
        state=state,
        aliases=aliases,
        values=values,
    )


def _checkpoints(
    left: StoredRun, right: StoredRun
) -> tuple[CheckpointsDiff, tuple[CheckpointEntry, CheckpointEntry] | None]:
    """Compare the two lists; return also the first pair of which both are there and that is not equal."""
    compared = equal = 0
    only: tuple[list[str], list[str]] = ([], [])
    first: tuple[str, CheckpointEntry, CheckpointEntry] | None = None
    for place, one, other in checkpoint_pairs(left.record, right.record):
        name = str(place)
        if one is None or other is None:
            only[one is None].append(name)
            continue
        compared += 1
        if one.state_digest == other.state_digest:
            equal += 1
        elif first is None:
            first = name, one, other
    told = [f"{entry.package}@{entry.top_hash}" for entry in first[1:]] if first is not None else [None, None]
    return (
        CheckpointsDiff(
            compared=compared,
            equal=equal,
            only_left=only[0],
            only_right=only[1],
            first=None if first is None else first[0],
            left=told[0],
            right=told[1],
        ),
        None if first is None else first[1:],
    )


def _state(left: Checkpoint, right: Checkpoint, found: TensorDiff) -> list[str] | None:
    if not any(row.key == STATE_KEY and row.how == "differs" for row in found.files):
        return []
    try:
        return list(islice(differing_paths(left.raw_state, right.raw_state), _MAX_PATHS))
    except NotFoundError:  # pulled or kept without its objects
        return None


def _aliases(left: Checkpoint, right: Checkpoint) -> dict[str, dict[str, Pair]] | None:
    try:
        return {section: _unequal(*names) for section, names in changed_aliases(left, right).items()}
    except NotFoundError:
        return None


def _code(left: StoredRun, right: StoredRun, registry: Registry, *, content: bool) -> CodeDiff:
    trees = [run.record.code.tree if run.record.code is not None else None for run in (left, right)]
    if trees[0] == trees[1]:
        return CodeDiff(left=trees[0], right=trees[1])
    found = Manifest.make(left.manifest.below(_CODE)).diff(Manifest.make(right.manifest.below(_CODE)))
    inside: dict[str, list[str]] = {}
    for key in found.changed if content else ():
        before, after = left.manifest[key], right.manifest[key]
        if before.digest == after.digest:
            inside[key.removeprefix(_CODE)] = ["nothing but its mode"]
            continue
        texts = [
            registry.read_object(entry, what=f"{key} of run {run.record.run_id}")
            for entry, run in ((before, left), (after, right))
        ]
        inside[key.removeprefix(_CODE)] = list(compare_content(key, *texts).lines)
    return CodeDiff(left=trees[0], right=trees[1], content=inside, **_keys(found, _CODE))


def _keys(found: ManifestDiff, prefix: str = "") -> dict[str, list[str]]:
    return {
        name: [key.removeprefix(prefix) for key in getattr(found, name)] for name in ("added", "removed", "changed")
    }


def _environment(left: StoredRun, right: StoredRun, ours: RunLock | None, theirs: RunLock | None) -> EnvironmentDiff:
    hashes = [
        lock.environment.hash if lock is not None else run.record.environment.hash if run.record.environment else None
        for lock, run in ((ours, left), (theirs, right))
    ]
    changes = ours.environment.changes_to(theirs.environment) if ours is not None and theirs is not None else []
    return EnvironmentDiff(
        left=hashes[0],
        right=hashes[1],
        changes=[PackageRow(name=c.name, kind=c.kind, left=c.locked, right=c.found) for c in changes],
    )


def _execution(run: StoredRun, lock: RunLock | None) -> Mapping[str, Any]:
    """Return how a run was executed."""
    execution = lock.execution if lock is not None else run.record.execution
    return {} if execution is None else msgspec.structs.asdict(execution)


def _data(ours: RunLock | None, theirs: RunLock | None, registry: Registry) -> list[DataDiff]:
    pins = [{pin.name: pin for pin in lock.data} if lock is not None else {} for lock in (ours, theirs)]
    found = []
    for name in dict.fromkeys([*pins[0], *pins[1]]):
        one, other = pins[0].get(name), pins[1].get(name)
        told = [str(pin) if pin is not None else None for pin in (one, other)]
        same = one is not None and other is not None and one.identity == other.identity
        keys = _entries(one, other, registry) if one is not None and other is not None and not same else {}
        found.append(DataDiff(name=name, left=told[0], right=told[1], equal=same, **keys))
    return found


def _entries(one: DataPin, other: DataPin, registry: Registry) -> dict[str, list[str]]:
    try:
        before, after = (part_of(pin, registry.read_manifest(pin.top_hash)) for pin in (one, other))
    except NotFoundError:  # pulled without its data
        return {}
    return _keys(before.manifest.diff(after.manifest))


def _outputs(left: list[OutputFacts], right: list[OutputFacts]) -> list[OutputDiff]:
    ours, theirs = ({o.path: o for o in side} for side in (left, right))
    found = []
    for path in dict.fromkeys([*ours, *theirs]):
        one, other = (None if (o := side.get(path)) is None or o.missing else o for side in (ours, theirs))
        how: Literal["equal", "differs", "only left", "only right", "missing", "not kept"]
        if any(side is not None and side.unkept is not None for side in (one, other)):
            how = "not kept"
        elif one is None or other is None:
            how = "missing" if one is other else "only right" if one is None else "only left"
        else:
            how = "equal" if one.digest is not None and one.digest == other.digest else "differs"
        found.append(OutputDiff(path=path, how=how))
    return found


def _pairs(left: Mapping[str, Any], right: Mapping[str, Any]) -> dict[str, Pair]:
    return {
        key: Pair(left=left.get(key, msgspec.UNSET), right=right.get(key, msgspec.UNSET))
        for key in dict.fromkeys([*left, *right])
    }


def _unequal(left: Mapping[str, Any], right: Mapping[str, Any]) -> dict[str, Pair]:
    return {key: pair for key, pair in _pairs(left, right).items() if not pair.equal}
