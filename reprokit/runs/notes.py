"""Notes on runs: what people say of them afterwards. A note is an entry in the log of the run's package, as its record
never changes; it is signed by whoever says so, and ordered and kept as what is published is."""

from __future__ import annotations

import msgspec

from reprokit.core.refs import RESERVED
from reprokit.core.secret_scan import in_text
from reprokit.errors import RefusedError, UsageError
from reprokit.registry import Registry
from reprokit.runs.store import RunStore

__all__ = ["RunNote", "note", "notes"]

_MAX = 64 * 1024  # bytes


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
    if not said or len(said.encode("utf-8", "surrogatepass")) > _MAX:
        raise UsageError(f"A note is a text of 1 to {_MAX:,} bytes.")
    secret = next(in_text(said, "the note"), None)
    if secret is not None:
        raise RefusedError(f"The note was not written: {secret}.", hint="Say it without the secret.")
    run_id = RunStore(registry).load(ref).record.run_id
    entry = registry.note(f"{RESERVED}/{run_id}", said)
    return RunNote(run=run_id, text=said, by=entry.writer, at=entry.time)


def notes(run_id: str, *, registry: Registry) -> list[RunNote]:
    """Return the notes on a run, oldest first."""
    return [
        RunNote(run=run_id, text=entry.note or "", by=entry.writer, at=entry.time)
        for entry in registry.log(f"{RESERVED}/{run_id}")
        if entry.action == "note"
    ]
