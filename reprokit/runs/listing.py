"""What there is in a registry: ls, show, log. Records are read where one is shown, headers where many are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from reprokit.core.canonical_json import spelled
from reprokit.core.refs import RESERVED, VERDICTS, PackageRef, check_package_name, is_package_ref, parse_run
from reprokit.errors import NotFoundError, UsageError
from reprokit.registry import Registry
from reprokit.registry.base import both, side_by_side
from reprokit.runs.query import RunRow, choose, ordered, overview
from reprokit.runs.store import RunStore

if TYPE_CHECKING:
    from reprokit.packages.package import Package
    from reprokit.runs.history import Amendment, RunNote
    from reprokit.runs.support import Reproduction
    from reprokit.schema.record import Attempt, CheckpointEntry, Record
    from reprokit.schema.verdict import VerdictRecord

__all__ = ["Checkpoints", "Contents", "Files", "LogRow", "ShownRun", "ShownVerdict", "log", "ls", "show"]


class Contents(msgspec.Struct, frozen=True, kw_only=True):
    """The runs and packages of a registry."""

    runs: list[RunRow]
    packages: list[str]

    def plain(self) -> dict[str, Any]:
        return {"runs": [run.plain() for run in self.runs], "packages": self.packages}


class Checkpoints(msgspec.Struct, frozen=True, kw_only=True):
    """The checkpoints of a run, each with the bytes of its files; None where its version is gone."""

    initial: tuple[CheckpointEntry, int | None] | None
    saved: list[tuple[CheckpointEntry, int | None]]
    attempts: list[Attempt]

    def plain(self) -> dict[str, Any]:
        def row(entry: CheckpointEntry, size: int | None) -> dict[str, Any]:
            value: dict[str, Any] = spelled(msgspec.to_builtins(entry))
            return {**value, "size": size}

        first = row(*self.initial) if self.initial is not None else None
        told = msgspec.to_builtins(self.attempts)
        return {"initial": first, "checkpoints": [row(*one) for one in self.saved], "attempts": told}


class Files(msgspec.Struct, frozen=True, kw_only=True):
    """The files of a version."""

    package: Package

    def plain(self) -> list[dict[str, Any]]:
        entries = self.package.manifest.entries
        return [{"logical_key": e.logical_key, "size": e.size, "hash": e.digest.value} for e in entries]


def ls(
    ref: str | None = None,
    where: str | None = None,
    *,
    sort: str | None = None,
    limit: int | None = None,
    registry: Registry,
) -> Contents | Checkpoints | Files:
    """List the runs and packages of a registry; or the checkpoints of a run, or the files of a version.

    Args:
        ref: What is looked into.
        where: Only runs of which this is true; see `reprokit.runs.query`.
        sort: By what runs are ordered, see `reprokit.runs.query.ordered`; by default the oldest comes first.
        limit: So many runs at most: the newest, or with `sort` the first.
    Raises:
        NotFoundError: There is nothing of that name.
        UsageError: Both arguments; or the expression is none.
    """
    for name, given in (("where chooses", where), ("sort orders", sort), ("limit counts", limit)):
        if ref is not None and given is not None:
            among = "among runs" if name.startswith("where") else "runs"
            raise UsageError(f"--{name} {among}; what is in one is listed whole.")
    if limit is not None and limit < 1:
        raise UsageError(f"--limit is a number of runs, 1 or more, not {limit}.")
    runs = RunStore(registry)
    if ref is None:
        if where is not None:
            return Contents(runs=_some(choose(where, runs), sort, limit, runs), packages=[])
        rows, packages = both(lambda: overview(runs), lambda: _packages(registry), registry)
        return Contents(runs=_some(rows, sort, limit, runs), packages=packages)
    if is_package_ref(ref):
        from reprokit.packages.package import Package

        return Files(package=Package.open(ref, registry=registry))
    record = runs.load(parse_run(ref).run).record
    return Checkpoints(
        initial=_sized(record.initial, registry) if record.initial is not None else None,
        saved=[_sized(entry, registry) for entry in record.checkpoints],
        attempts=record.attempts,
    )


def _some(rows: list[RunRow], sort: str | None, limit: int | None, runs: RunStore) -> list[RunRow]:
    if sort is not None:
        return ordered(rows, sort, runs)[:limit]
    return rows if limit is None else rows[-limit:]


def _packages(registry: Registry) -> list[str]:
    spaces = [space for space in registry.namespaces() if space not in (RESERVED, VERDICTS)]
    listed = side_by_side(lambda space: list(registry.packages(space)), spaces, registry)
    names = [name for found in listed for name in found]
    heads = side_by_side(registry.head, names, registry)
    there = zip(names, heads, strict=True)
    return [name for name, head in there if head is not None and (head.tags or head.action != "delete")]


def _sized(entry: CheckpointEntry, registry: Registry) -> tuple[CheckpointEntry, int | None]:
    if entry.dropped:
        return entry, None
    try:
        return entry, registry.read_manifest(entry.top_hash).size
    except NotFoundError:
        return entry, None


class ShownRun(msgspec.Struct, frozen=True, kw_only=True):
    """A run with what came of repeating it.

    Attributes:
        notes: What people said of it.
        tags: That point at it.
        amendments: Where its record does not go on from the one before, which is kept beside it.
        unsupported: Why what it says of itself as a repetition is not borne out; None if it is, or it says nothing.
    """

    record: Record
    reproductions: list[Reproduction]
    amendments: list[Amendment] = []
    unsupported: str | None = None
    notes: list[RunNote] = []
    tags: list[str] = []

    def plain(self) -> dict[str, Any]:
        value: dict[str, Any] = self.record.plain()
        for name in ("reproductions", "amendments", "unsupported", "notes", "tags"):
            if told := getattr(self, name):
                value[name] = msgspec.to_builtins(told)
        return value


class ShownVerdict(msgspec.Struct, frozen=True, kw_only=True):
    """A verdict, and why the records of the two runs do not bear it out; None if they do."""

    kept: VerdictRecord
    unsupported: str | None = None

    def plain(self) -> dict[str, Any]:
        told = {"unsupported": self.unsupported} if self.unsupported is not None else {}
        return {**self.kept.plain(), **told}


def show(ref: str, *, registry: Registry) -> ShownRun | ShownVerdict | Package:
    """Return a run, a verdict (`verdicts/RUN`), or the version that a reference or a checkpoint (`RUN@best`) names.

    Raises:
        NotFoundError: There is nothing of that name.
        DataMismatchError: It is corrupt.
    """
    from reprokit.packages.package import Package  # these look into records and versions: a listing does not pay
    from reprokit.runs.history import amendments, notes
    from reprokit.runs.support import Support
    from reprokit.runs.verdict_store import VerdictStore

    runs = RunStore(registry)
    if is_package_ref(ref):
        package = Package.open(ref, registry=registry)
    else:
        parsed = parse_run(ref)
        if parsed.selector is None:
            record = runs.load(parsed.run).record
            support = Support(runs)
            head = registry.head(f"{RESERVED}/{record.run_id}")
            return ShownRun(
                record=record,
                reproductions=support.reproductions(record.run_id),
                amendments=amendments(record.run_id, registry),
                unsupported=support.own(record),
                notes=notes(record.run_id, registry=registry),
                tags=[] if head is None else sorted(head.tags.keys() - {"latest"}),
            )
        chosen = runs.checkpoint(parsed)
        package = Package.open(PackageRef(chosen.package, hash=chosen.top_hash), registry=registry)
    if package.name.partition("/")[0] == VERDICTS:
        kept = VerdictStore(registry).read(package)
        return ShownVerdict(kept=kept, unsupported=Support(runs).unsupported(kept, package.manifest))
    return package


class LogRow(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of a package's log.

    Attributes:
        time: Nanoseconds since 1970 UTC.
        message: Of the version; None where its manifest is gone.
        tags, permanent: Those that point at the version now.
    """

    seq: int
    action: str
    top_hash: str
    time: int
    writer: str
    message: object
    note: str | None
    tags: list[str]
    permanent: list[str]

    def plain(self) -> dict[str, Any]:
        return msgspec.structs.asdict(self)


def log(name: str, *, registry: Registry) -> list[LogRow]:
    """Return the history of a package, newest first, its chain of hashes verified.

    Raises:
        NotFoundError: No such package.
        DataMismatchError: The chain is broken.
    """
    entries = registry.log(check_package_name(name))
    if not entries:
        raise NotFoundError(f"No package {name} in {registry.url}.", hint="`reprokit ls` lists the packages.")
    head, rows = entries[-1], []
    for entry in reversed(entries):
        pointing = sorted(tag for tag, top_hash in head.tags.items() if top_hash == entry.top_hash)
        rows.append(
            LogRow(
                seq=entry.seq, action=entry.action, top_hash=entry.top_hash, time=entry.time, writer=entry.writer,
                message=_message(registry, entry.top_hash), note=entry.note, tags=pointing,
                permanent=[tag for tag in head.permanent if tag in pointing],
            )
        )  # fmt: skip
    return rows


def _message(registry: Registry, top_hash: str) -> object:
    try:
        return registry.read_header(top_hash).get("message")
    except NotFoundError:  # deleted, and swept by gc
        return None
