"""What the header of a version says that it is: `user_meta["reprokit"]` of a checkpoint, a run, a verdict.

A header is covered by the version's hash, and still anybody's who may write to the registry: it is decoded here and
nowhere else, strictly and with bounds. Of a checkpoint, which verdicts rest on, nothing unknown is taken; summaries are
for listings, which show what a newer release says as far as this one understands it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar, get_args

import msgspec

from reprokit.core.canonical_json import metric_values, spelled
from reprokit.errors import DataMismatchError
from reprokit.schema.place import Place, SaveKind

__all__ = [
    "CheckpointFacts",
    "InputLink",
    "Metrics",
    "RunSummary",
    "VerdictSummary",
    "VersionLink",
    "facts_in",
    "meta_of",
    "packed",
    "unpacked",
]

_META_KEY = "reprokit"

Name = Annotated[str, msgspec.Meta(max_length=1 << 16)]  # scripts name metrics, and what is written must be read
Hash = Annotated[str, msgspec.Meta(max_length=128)]
Carried = Annotated[dict[Name, Hash], msgspec.Meta(max_length=10_000)]
Metrics = Annotated[dict[Name, float], msgspec.Meta(max_length=1_000_000)]


class VersionLink(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A version of a package."""

    package: Name
    top_hash: Hash


class InputLink(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """An input that a checkpoint was made from, by its name in the recipe; `within`: the folder of the version."""

    name: Name
    package: Name
    top_hash: Hash
    within: Annotated[str, msgspec.Meta(max_length=4096)] | None = None


class CheckpointFacts(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What links a checkpoint.

    Attributes:
        kind, epoch, step, batch: Its place in the run, as of a `Place`.
        framework: Whose callback saved it.
        parent: The checkpoint of the same run before it.
        lock_hash: None where nothing was locked.
        carried: What variables of the script held beside it that had moved since the loop began: digests by name. It is
            no part of the state.
    """

    kind: SaveKind
    framework: Name = ""
    run: Name
    epoch: int | None = None
    step: int | None = None
    batch: int | None = None
    parent: VersionLink | None = None
    inputs: Annotated[list[InputLink], msgspec.Meta(max_length=100_000)] = []
    lock_hash: Hash | None = None
    state_digest: Hash
    metrics: Metrics = {}
    carried: Carried = {}

    @property
    def place(self) -> Place:
        return Place(kind=self.kind, epoch=self.epoch, step=self.step, batch=self.batch)


class RunSummary(msgspec.Struct, frozen=True, kw_only=True):
    """What listings need of a run, small enough for the header of its record's version.

    Attributes:
        checkpoints: How many.
        inputs: Package and top hash of each.
        params: Those that reached the script; None where they are too long for a header, and the record has them.
        unused: Names of those that never reached it.
        resumed: Where it went on, for each time that it was stopped and resumed: `epoch 2`.
    """

    kind: Literal["run"] = "run"
    run: Name
    name: Name
    status: Literal["running", "finished", "failed", "interrupted"]
    started: Name
    ended: Name | None = None
    lock_hash: Hash | None = None
    checkpoint_package: Name | None = None
    checkpoints: int = 0
    inputs: Annotated[list[tuple[Name, Hash]], msgspec.Meta(max_length=100_000)] = []
    metrics: Metrics = {}
    params: Annotated[dict[Name, Any], msgspec.Meta(max_length=10_000)] | None = {}
    unused: Annotated[list[Name], msgspec.Meta(max_length=10_000)] = []
    reproduces: Name | None = None
    resumed: Annotated[list[Name], msgspec.Meta(max_length=100_000)] = []
    verdict: Name | None = None


class VerdictSummary(msgspec.Struct, frozen=True, kw_only=True):
    """What listings need of a verdict; `verdict` is its word, which speaks of provisos."""

    kind: Literal["verdict"] = "verdict"
    verdict: Name
    original: Name
    reproduction: Name
    relaxed: Annotated[list[str], msgspec.Meta(max_length=10_000)] = []
    provisos: Annotated[list[str], msgspec.Meta(max_length=1_000)] = []
    by: Name = ""
    at: Name = ""


_KINDS: dict[type[Any], tuple[str, ...]] = {
    CheckpointFacts: get_args(SaveKind),
    RunSummary: ("run",),
    VerdictSummary: ("verdict",),
}

_Facts = TypeVar("_Facts", CheckpointFacts, RunSummary, VerdictSummary)


def meta_of(facts: CheckpointFacts | RunSummary | VerdictSummary) -> dict[str, Any]:
    """Return the metadata of a version that says so; a metric that is not finite is spelled."""
    return {_META_KEY: spelled(msgspec.to_builtins(facts))}


def facts_in(meta: Any, form: type[_Facts], *, what: str | None = None) -> _Facts | None:
    """Return what a version's metadata says that it is; None if it says something else, or nothing.

    Args:
        meta: The `user_meta` of a header.
        what: Names the version in an error; without, what is malformed counts as nothing.
    Raises:
        DataMismatchError: It says that it is one, and is malformed.
    """
    value = meta.get(_META_KEY) if isinstance(meta, Mapping) else None
    if not isinstance(value, dict) or value.get("kind") not in _KINDS[form]:
        return None
    if form is not VerdictSummary:
        value = {**value, "metrics": metric_values(value.get("metrics", {}))}
    try:
        return msgspec.convert(value, form, strict=True)
    except msgspec.ValidationError as error:
        if what is None:
            return None
        raise DataMismatchError(
            f"What the header of {what} says of it is malformed: {error}.",
            hint="It may be of a newer reprokit; update, or verify the registry.",
        ) from None


def packed(meta: Any) -> bytes:
    """Return what the metadata of a run or a verdict says that it is, in a form that is read quickly; b"" of others."""
    if (verdict := facts_in(meta, VerdictSummary)) is not None:
        return msgspec.msgpack.encode(verdict)
    run = facts_in(meta, RunSummary)
    if run is None:
        return b""
    try:
        return msgspec.msgpack.encode(run)
    except OverflowError:  # a parameter is an integer of more than 64 bits: its record is read
        return msgspec.msgpack.encode(msgspec.structs.replace(run, params=None))


def unpacked(data: bytes, form: type[_Facts]) -> _Facts | None:
    """Return what was `packed`; None if it is something else, or malformed."""
    try:
        return msgspec.msgpack.decode(data, type=form, strict=True)
    except msgspec.DecodeError:
        return None
