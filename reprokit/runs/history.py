"""What became of a run's record since it began, and what people said of it.

A record is concluded, completed or resumed; one that replaces an ended one in any other way is an amendment, and so is
one that names another lock than the run began with. A note is an entry in the log of the run's package: signed, ordered
and kept as what is published is.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from reprokit.core.refs import RESERVED
from reprokit.core.terminal_text import printable
from reprokit.errors import NotFoundError, RefusedError, UsageError
from reprokit.registry import Registry
from reprokit.runs.store import CODE_PREFIX, LOCK_KEY, RECORD_KEY, RunStore
from reprokit.schema.manifest import Manifest
from reprokit.schema.record import Record

__all__ = ["Amendment", "RecordVersion", "RunNote", "amendments", "check_said", "note", "notes", "replaced"]

_MAX_NAMED = 6
_MAX_NOTE = 64 * 1024  # bytes
_CODE = (CODE_PREFIX, LOCK_KEY)
_BEGUN = (
    "name",
    "lock_hash",
    "data",
    "params",
    "environment",
    "started",
    "reproduces",
    "relaxed",
)  # of a record, the same from its start on


class Amendment(msgspec.Struct, frozen=True, kw_only=True):
    """A version of a run's record that does not go on from the one before. Both are kept: `show runs/ID@HASH`.

    Attributes:
        before, after: Their top hashes; `after` is None where a version was deleted, and nothing is in its place.
        how: In what they differ.
    """

    before: str
    after: str | None
    how: str

    def __str__(self) -> str:
        return f"{self.before[:12]} → {self.after[:12] if self.after else '(deleted)'}: {self.how}"


class RecordVersion(msgspec.Struct, frozen=True):
    """One version of a run's record."""

    manifest: Manifest
    record: Record

    @classmethod
    def read(cls, top_hash: str, registry: Registry) -> RecordVersion:
        """Return a version, verified.

        Raises:
            NotFoundError: Its manifest or its record is gone.
            DataMismatchError: It is corrupt, or no record.
        """
        manifest = registry.read_manifest(top_hash)
        what = f"{RECORD_KEY} of version {top_hash[:12]}"
        return cls(manifest, Record.decode(registry.read_object(manifest[RECORD_KEY], what=what), what=what))


def amendments(run_id: str, registry: Registry) -> list[Amendment]:
    """Return the amendments of a run's record, oldest first; none of a run that was left alone.

    Raises:
        DataMismatchError: The log of its package, or a version in it, is corrupt.
    """
    name = f"{RESERVED}/{run_id}"
    found: list[Amendment] = []
    order: dict[str, RecordVersion | None] = {}
    live: set[str] = set()
    deleted: set[str] = set()  # while others stayed
    for entry in registry.log(name):
        if entry.action == "publish":
            if entry.top_hash not in order:
                order[entry.top_hash] = _readable(entry.top_hash, registry)
                found += _since(order, alone=not live)
            live.add(entry.top_hash)
            deleted.discard(entry.top_hash)
        elif entry.action == "delete":
            live.discard(entry.top_hash)
            deleted = {*deleted, entry.top_hash} if live else set()  # else the run was deleted whole
    found += [
        Amendment(before=top_hash, after=None, how="it was deleted, and the others were not")
        for top_hash in order
        if top_hash in deleted
    ]
    last, current = next(reversed(order), None), RunStore(registry).latest(run_id)
    if last is not None and current not in (None, last):
        found.append(Amendment(before=last, after=current, how="the run was set back to an older record"))
    return found


def replaced(before: RecordVersion, after: RecordVersion) -> str | None:
    """Say in what a record differs from the one before it, if it does not go on from that."""
    one, other = before.record, after.record
    parts = [name for name in _BEGUN if getattr(one, name) != getattr(other, name)]
    parts += _keys(before.manifest, after.manifest, within=True)
    if not parts and one.status != "running":
        if one.status != "finished" and len(other.attempts) > len(one.attempts):
            return None  # resumed
        given = [(verdict.run_id, verdict.reproduces) for verdict in other.verdicts]
        concluded = not one.verdicts and given == [(one.run_id, one.reproduces)]
        parts = _fields(one, msgspec.structs.replace(other, verdicts=[]) if concluded else other)
        parts += _keys(before.manifest, after.manifest, within=False)
    names = [printable(name) for name in dict.fromkeys(parts)]
    more = f" and {len(names) - _MAX_NAMED} more" if len(names) > _MAX_NAMED else ""
    return f"other {', '.join(names[:_MAX_NAMED])}{more} than the {one.status} record before it" if names else None


def _since(order: Mapping[str, RecordVersion | None], *, alone: bool) -> list[Amendment]:
    """Return what is wrong with the last of the versions so far.

    Args:
        alone: All before it were deleted when it was published.
    """
    if len(order) < 2:
        return []
    (before, earlier), (after, later) = [*order.items()][-2:]
    how = "the run was deleted, and this is another record" if alone else None
    if earlier is not None and later is not None:
        how = replaced(earlier, later)
    return [] if how is None else [Amendment(before=before, after=after, how=how)]


def _readable(top_hash: str, registry: Registry) -> RecordVersion | None:
    try:
        return RecordVersion.read(top_hash, registry)
    except NotFoundError:
        return None


def _keys(one: Manifest, other: Manifest, *, within: bool) -> list[str]:
    """Return the entries that differ: `within` what a run begins with, else those beside that and the record."""
    diff = one.diff(other)
    keys = [*diff.added, *diff.removed, *diff.changed]
    return [key for key in keys if key != RECORD_KEY and key.startswith(_CODE) == within]


def _fields(one: Record, other: Record) -> list[str]:
    ours, theirs = (msgspec.json.decode(record.encode()) for record in (one, other))
    return [name for name in {**ours, **theirs} if ours.get(name) != theirs.get(name)]


class RunNote(msgspec.Struct, frozen=True, kw_only=True):
    """What somebody said of a run.

    Attributes:
        by: user@host.
        at: Nanoseconds since 1970 UTC, by the writer's clock.
    """

    run: str
    text: str
    by: str
    at: int


def note(ref: str, text: str, *, registry: Registry) -> RunNote:
    """Write a note on a run.

    Raises:
        NotFoundError: No such run.
        UsageError: There is nothing in the text, or too much.
        RefusedError: It looks like a secret.
    """
    said = text.strip()
    if not said or len(said.encode("utf-8", "surrogatepass")) > _MAX_NOTE:
        raise UsageError(f"A note is a text of 1 to {_MAX_NOTE:,} bytes.")
    check_said(said)
    run_id = RunStore(registry).load(ref).record.run_id
    entry = registry.note(f"{RESERVED}/{run_id}", said)
    return RunNote(run=run_id, text=said, by=entry.writer, at=entry.time)


def check_said(text: str) -> None:
    """Raise RefusedError if what somebody says of a run, which is kept, looks like a secret."""
    from reprokit.core.secret_scan import in_text  # with its patterns, which a look does not pay for

    secret = next(in_text(text, "what you say"), None)
    if secret is not None:
        raise RefusedError(f"It is not kept: {secret}.", hint="Say it without the secret.")


def notes(run_id: str, *, registry: Registry) -> list[RunNote]:
    """Return the notes on a run, oldest first."""
    return [
        RunNote(run=run_id, text=entry.note or "", by=entry.writer, at=entry.time)
        for entry in registry.log(f"{RESERVED}/{run_id}")
        if entry.action == "note"
    ]
