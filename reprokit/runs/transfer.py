"""Copy versions between registries, verified on the way; what is there already is not copied again.

Objects become durable in portions, then the version is published: an interrupted copy leaves objects that nothing
names, which the next one uses and gc removes.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

from reprokit.core.progress import SILENT, Progress
from reprokit.core.refs import RESERVED, VERDICTS, PackageRef, check_tag, is_package_ref, is_run_id, parse_run
from reprokit.errors import NotFoundError, RefusedError, UsageError
from reprokit.packages.copy import copy_objects
from reprokit.packages.package import Package
from reprokit.registry import Registry
from reprokit.registry.quilt.writer import QuiltTarget
from reprokit.runs.history import RecordVersion, replaced
from reprokit.runs.query import choose
from reprokit.runs.store import RECORD_KEY, RunStore
from reprokit.runs.verdict_store import VerdictStore
from reprokit.schema.record import Record

__all__ = ["Transfer", "copy", "pull", "push"]

_LATEST = "latest"


@dataclass(frozen=True, slots=True, kw_only=True)
class Transfer:
    """One version that is in the target now.

    Attributes:
        entries, size: Of the version, whether they were copied or not; bytes.
        new_objects, new_bytes: What the target did not have.
        published: False if it had the version already.
        tags: Those that point at it there now.
    """

    name: str
    top_hash: str
    target: str
    entries: int
    size: int
    new_objects: int
    new_bytes: int
    published: bool
    tags: tuple[str, ...]


def push(
    what: Package | PackageRef | str,
    *,
    source: Registry,
    target: Registry | QuiltTarget,
    tags: tuple[str, ...] = (),
    everything: bool = False,
    progress: Progress = SILENT,
) -> list[Transfer]:
    """Copy a version, and say what was copied; the version itself comes last.

    `latest` moves in the target to what is the latest in the source, or comes later in its history than the target's;
    it never goes back to a version that the target has already. A tag in the reference goes along.

    Args:
        what: A version; or a run, by its ID or a part of it, or one of its checkpoints (`RUN@best`).
        tags: Point at it in the target, beside the tag that `what` names.
        everything: Of a run, the inputs and checkpoints that its record names, and the verdicts on it with the records
            of the other runs that they name, go first.
    Raises:
        NotFoundError: No such version, or an object of it is missing.
        DataMismatchError: Something in the source is corrupt. The target has nothing of that version.
        RefusedError: The run is still running; the target is only read, or knows no tags; or it has another record of
            the run, which has ended.
        UsageError: Source and target are the same; `everything` of what is no run.
    """
    ref = PackageRef(what.name, hash=what.top_hash) if isinstance(what, Package) else what
    ref = _named(ref, source) if isinstance(ref, str) else ref
    if ref.tag is not None and ref.tag != _LATEST and not isinstance(target, QuiltTarget):
        tags = (*tags, ref.tag)
    for tag in tags:
        check_tag(tag)
    if isinstance(target, QuiltTarget) and (other := [tag for tag in tags if tag != _LATEST]):
        raise RefusedError(
            f"The tag {other[0]!r} cannot be put on {ref.name} in {target.url}: Quilt has no tags but 'latest'."
        )
    if _same(source, target):
        raise UsageError(f"{source.url} is source and target at once.")
    wanted = PackageRef(ref.name, hash=source.resolve(ref))
    others = _named_by(wanted, source, everything, progress)
    done = [_copy(other, (), source, target, progress) for other in others]
    return [*done, _copy(wanted, tags, source, target, progress)]


def pull(
    what: PackageRef | str,
    *,
    source: Registry,
    target: Registry,
    tags: tuple[str, ...] = (),
    everything: bool = False,
    progress: Progress = SILENT,
) -> list[Transfer]:
    """Copy a version from another registry into the one that is worked in; all else as for `push`."""
    return push(what, source=source, target=target, tags=tags, everything=everything, progress=progress)


def copy(
    *, source: Registry, target: Registry, where: str | None = None, progress: Progress = SILENT
) -> list[Transfer]:
    """Copy a registry into another, or of it the runs that an expression chooses, each with all that it names.

    Packages come with every version that is in their history, and with their tags; a run with its record as it is now.
    Runs that go on, and the verdicts that name them, are left out and noted.

    Args:
        where: As of `reprokit.runs.query`.
    Raises:
        UsageError: Source and target are the same; or the expression is none.
        DataMismatchError, RefusedError: As `push`; what was copied before that stays.
    """
    runs = RunStore(source)
    if where is not None:
        wanted: list[str | PackageRef] = [row.run for row in choose(where, runs)]
    else:
        spaces = [space for space in source.namespaces() if space not in (RESERVED, VERDICTS)]
        wanted = [
            PackageRef(name, hash=top_hash)
            for space in spaces
            for name in source.packages(space)
            for top_hash in source.top_hashes(name)
        ]
        wanted += [PackageRef(head.name, hash=head.latest) for head in runs.heads() if head.latest is not None]
        wanted += [
            PackageRef(name, hash=top_hash)
            for name in source.packages(VERDICTS)
            for top_hash in source.top_hashes(name)
        ]
    done: list[Transfer] = []
    with progress.task(f"Copying {source.url}", len(wanted), unit="versions") as advance:
        for one in wanted:
            run_id = one if isinstance(one, str) else one.name.removeprefix(f"{RESERVED}/")
            if is_run_id(run_id) and source.is_claimed(run_id):
                progress.note(f"Run {run_id} goes on: left out.")
            elif isinstance(one, str):
                done += push(one, source=source, target=target, everything=True, progress=progress)
            else:
                done += _copied(one, source, target, progress)
            advance()
    return done


def _copied(ref: PackageRef, source: Registry, target: Registry, progress: Progress) -> list[Transfer]:
    """Copy a version with the tags that point at it, but for the one that follows its history."""
    head = source.head(ref.name)
    tags = {tag for tag, top_hash in (head.tags if head else {}).items() if top_hash == ref.hash and tag != _LATEST}
    done = push(ref, source=source, target=target, tags=tuple(sorted(tags)), progress=progress)
    permanent = tags.intersection(head.permanent if head else ())
    there = target.head(ref.name)
    if permanent and ref.hash is not None and not permanent.issubset(there.permanent if there else ()):
        target.tag(ref.name, ref.hash, tuple(sorted(permanent)), permanent=True)
    return done


def _named(ref: str, source: Registry) -> PackageRef:
    """Return the version that a reference, a run or a checkpoint names."""
    if is_package_ref(ref):
        return PackageRef.parse(ref)
    parsed = parse_run(ref)
    if parsed.selector is not None:
        chosen = RunStore(source).checkpoint(parsed)
        return PackageRef(chosen.package, hash=chosen.top_hash)
    return PackageRef(f"{RESERVED}/{RunStore(source).find(parsed.run)}")


def _same(source: Registry, target: Registry | QuiltTarget) -> bool:
    mine, theirs = (getattr(registry, "root", None) for registry in (source, target))
    if mine is None or theirs is None:
        return source.url == target.url
    return bool(os.path.realpath(mine) == os.path.realpath(theirs))


def _named_by(ref: PackageRef, source: Registry, everything: bool, progress: Progress) -> list[PackageRef]:
    """Check that a run has ended; return what its record names, inputs first, if that is wanted."""
    space, _, run_id = ref.name.partition("/")
    if space != RESERVED:
        if everything:
            raise UsageError(f"{ref.name} is no run: it names no inputs or checkpoints that could go with it.")
        return []
    if source.is_claimed(run_id):
        raise RefusedError(f"Run {run_id} is still running.", hint="Wait for its end: `reprokit show` says so.")
    if not everything:
        return []
    runs = RunStore(source)
    record = runs.load(run_id).record
    if source.resolve(PackageRef(ref.name)) != ref.hash:
        package = Package.open(ref, registry=source)
        what = f"{RECORD_KEY} of run {run_id}"
        record = Record.decode(source.read_object(package.manifest[RECORD_KEY], what=what), what=what)
    inputs = [PackageRef(pin.package, hash=pin.top_hash) for pin in record.data]
    for pin in inputs:
        source.resolve(pin)
    made = [record.initial, *record.checkpoints] if record.initial else record.checkpoints
    checkpoints = []
    for checkpoint in made:
        pin = PackageRef(checkpoint.package, hash=checkpoint.top_hash)
        try:
            source.resolve(pin)
        except NotFoundError:
            progress.note(f"{pin.name}@{checkpoint.top_hash[:8]} is not in {source.url} any more: left out.")
        else:
            checkpoints.append(pin)
    store = VerdictStore(source)
    verdicts = store.naming(run_id, record.reproduces)
    others = [
        PackageRef(f"{RESERVED}/{other}", hash=top_hash)  # the other record that a verdict rests on
        for verdict in verdicts
        for other in store.about(verdict)
        if other != run_id and (top_hash := runs.latest(other)) is not None
    ]
    return list(dict.fromkeys([*inputs, *checkpoints, *others, *verdicts]))


def _check_replaces(ref: PackageRef, source: Registry, target: Registry) -> None:
    """Raise RefusedError if a run's record that has ended would be replaced by one that does not go on from it."""
    space, _, run_id = ref.name.partition("/")
    mine, theirs = ref.hash, RunStore(target).latest(run_id) if space == RESERVED else None
    if mine is None or theirs in (None, mine) or mine in target.top_hashes(ref.name):
        return
    how = replaced(RecordVersion.read(str(theirs), target), RecordVersion.read(mine, source))
    if how is not None:
        raise RefusedError(
            f"{target.url} has another record of run {run_id}: {mine[:12]} of {source.url} would replace "
            f"{str(theirs)[:12]}, and has {how}.",
            hint="Look at both: `reprokit show RUN`, with --registry for each. Nothing was copied of that record.",
        )


def _copy(
    ref: PackageRef, tags: tuple[str, ...], source: Registry, target: Registry | QuiltTarget, progress: Progress
) -> Transfer:
    package = Package.open(ref, registry=source)
    reading = target.reader if isinstance(target, QuiltTarget) else target
    _check_replaces(ref, source, reading)

    def moves_latest() -> bool:
        return _LATEST in tags or _is_newer(package, source, reading)

    if isinstance(target, QuiltTarget):
        count, size, published = _into_quilt(package, target, moves_latest, progress)
    else:
        count, size, published = _into_registry(package, target, tags, moves_latest, progress)
    head = reading.head(package.name)
    return Transfer(
        name=package.name,
        top_hash=package.top_hash,
        target=target.url,
        entries=len(package),
        size=package.manifest.size,
        new_objects=count,
        new_bytes=size,
        published=published,
        tags=tuple(sorted(tag for tag, hash_ in (head.tags if head else {}).items() if hash_ == package.top_hash)),
    )


def _is_newer(package: Package, source: Registry, target: Registry) -> bool:
    """True if `latest` of the target becomes this version, or is it."""
    name, top_hash = package.name, package.top_hash
    head = target.head(name)
    theirs = head.tags.get(_LATEST) if head is not None else None
    if theirs is None or theirs == top_hash:
        return True
    if top_hash in target.top_hashes(name):
        return False
    mine = source.head(name)
    latest = mine.tags.get(_LATEST) if mine is not None else None
    if latest in (top_hash, theirs):
        return latest == top_hash
    history = source.top_hashes(name)
    return theirs in history and top_hash in history and history.index(top_hash) > history.index(theirs)


def _into_quilt(
    package: Package, target: QuiltTarget, moves_latest: Callable[[], bool], progress: Progress
) -> tuple[int, int, bool]:
    manifest = package.manifest
    if target.points(package.name, package.top_hash, latest=moves_latest()) and target.holds(manifest):
        return 0, 0, False
    with progress.task(f"Copying {package}", len(package), unit="files") as advance:
        count, size = target.copy(manifest, source=package.registry, what=str(package), advance=advance)
    target.publish(package.name, manifest, moves_latest=moves_latest)
    return count, size, True


def _into_registry(
    package: Package, target: Registry, tags: tuple[str, ...], moves_latest: Callable[[], bool], progress: Progress
) -> tuple[int, int, bool]:
    name, top_hash, manifest = package.name, package.top_hash, package.manifest
    bare = manifest.placed([""] * len(package))  # where the source says that bytes lie means nothing in the target
    if top_hash in target.top_hashes(name) and target.holds(bare):
        head = target.head(name)
        wanted = tuple(tag for tag in tags if head is None or head.tags.get(tag) != top_hash)
        if wanted:
            target.tag(name, top_hash, wanted)
        return 0, 0, False
    count = size = 0
    for last in (False, True):
        missing = target.lacking(manifest.entries)
        with progress.task(f"Copying {package}", len(missing), unit="files") as advance:
            copied, places = copy_objects(package, missing, target, advance, progress=progress)
        size += copied
        count += len(missing)
        values = bare.columns()[1]
        try:
            target.publish(
                name, bare.placed([places.get(value, "") for value in values]), tags=tags, latest=moves_latest()
            )
            break
        except NotFoundError:  # gc of the target took an object that was found there: look again, once
            if last:
                raise
    return count, size, True
