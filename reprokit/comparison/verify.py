"""Read every byte and compare it with its hash; hold what is said of it against it. No compute.

Of a run its checkpoints are read too, and what its record, its lock, their headers and the verdicts on it say is held
against each other.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib import import_module
from typing import Any

import msgspec

from reprokit.checkpoint.claims import claims_of
from reprokit.checkpoint.reader import Checkpoint
from reprokit.comparison.record_check import contradictions
from reprokit.core.digest import Digest
from reprokit.core.progress import Progress
from reprokit.core.refs import RESERVED, VERDICTS, is_package_ref, is_run_id
from reprokit.errors import DataMismatchError, NotFoundError, PurgedError, RegistryError, UsageError
from reprokit.packages.package import Package, Problem, verify_registry
from reprokit.registry import Registry
from reprokit.registry.context import Context
from reprokit.registry.local import LocalRegistry
from reprokit.registry.repair import SetAside, set_aside_damaged
from reprokit.registry.stored import StoredRegistry
from reprokit.runs.store import RECORD_KEY, RunStore
from reprokit.runs.support import Support
from reprokit.runs.verdict_store import VERDICT_KEY, VerdictStore
from reprokit.schema.facts import CheckpointFacts, facts_in

__all__ = ["Verification", "verify"]


@dataclass(frozen=True, kw_only=True)
class Verification:
    """What was verified, and what is wrong.

    Attributes:
        versions: How many.
        set_aside: Damaged files that were moved away; None where that was not asked for.
    """

    versions: int
    problems: list[Problem] = field(default_factory=list)
    set_aside: list[SetAside] | None = None

    @property
    def wrong(self) -> list[Problem]:
        """The problems without what was erased on purpose."""
        return [problem for problem in self.problems if not problem.purged]

    def plain(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        plain: dict[str, Any] = {"versions": self.versions, "problems": [asdict(problem) for problem in self.problems]}
        return plain if self.set_aside is None else {**plain, "set_aside": [asdict(one) for one in self.set_aside]}


def verify(
    refs: Sequence[str] = (), *, context: Context, everything: bool = False, repair: bool = False
) -> Verification:
    """Read every byte of package versions and runs, and compare it with its hash.

    Tensors and states of checkpoints are digested again. The record of a run is also held against its lock, the
    checkpoints, outputs and metrics that it names, and what was published of it before; a verdict against two records.

    Args:
        refs: Versions, or runs by their IDs or parts of them: with the checkpoints of a run, and the verdicts on it.
        everything: Every version of every package instead, and all that objects are stored in.
        repair: With `everything`: damaged files are set aside, so that building or pulling restores what they held.
    Raises:
        UsageError: Neither or both of `refs` and `everything`; or `repair` of what it does not go with.
        NotFoundError: No such version or run.
    """
    registry, progress = context.registry, context.progress
    if bool(refs) == everything:
        raise UsageError("Name what to verify, or give --all.")
    if repair and not (everything and isinstance(registry, StoredRegistry)):
        raise UsageError("--repair goes with --all, and with a registry of reprokit's.")
    look = _Look(context)
    if not everything:
        for ref in refs:
            look.at(ref)
        return Verification(versions=look.versions, problems=look.problems)
    aside = _set_aside(registry, progress) if repair else None
    versions, found = verify_registry(registry, progress=progress, claims=look.claims)
    look.everything()
    return Verification(versions=versions, problems=[*found, *look.problems], set_aside=aside)


def _set_aside(registry: Registry, progress: Progress) -> list[SetAside]:
    if isinstance(registry, LocalRegistry):
        return set_aside_damaged(registry, progress=progress)
    far = import_module(
        "reprokit.registry.remote.repair"
    )  # with an object store's client, which a folder does not need
    done: list[SetAside] = far.set_aside_damaged_far(registry, progress=progress)
    return done


class _Look:
    """One look at a registry: what was found sound once is not read again."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._registry = context.registry
        self._runs = RunStore(context.registry)
        self._support = Support(self._runs)
        self._sound: set[Digest] = set()
        self._held: set[tuple[Digest, bytes]] = set()  # files that hold the tensors which this metadata names
        self._checkpoints: list[tuple[Package, CheckpointFacts]] = []
        self.versions = 0
        self.problems: list[Problem] = []

    def at(self, ref: str) -> None:
        """Look at a version, or a run with its checkpoints and the verdicts on it."""
        if is_package_ref(ref):
            package = Package.open(ref, registry=self._registry)
            self._bytes(package)
            space, _, name = package.name.partition("/")
            if space == RESERVED and is_run_id(name) and self._runs.latest(name) == package.top_hash:
                self._run(name)
            elif space == VERDICTS:
                self._verdict(package)
            self._unlisted()
            return
        run_id = self._runs.find(ref)
        run = self._runs.load(run_id)
        self._bytes(Package(f"{RESERVED}/{run_id}", run.manifest, self._registry))
        initial = [run.record.initial] if run.record.initial is not None else []
        named = dict.fromkeys((entry.package, entry.top_hash) for entry in [*initial, *run.record.checkpoints])
        there = functools.cache(lambda name: frozenset(self._registry.top_hashes(name)))
        for name, top_hash in named:
            try:
                if top_hash in there(name):  # else it was dropped, deleted, or not pulled with the run
                    self._bytes(Package(name, self._registry.read_manifest(top_hash), self._registry))
            except _WRONG as error:
                self._note(name, top_hash, None, error.message)
        self._run(run_id)
        self._verdicts(run_id)

    def everything(self) -> None:
        """Look at what all runs and verdicts say; their bytes were read already."""
        for name in self._registry.packages(RESERVED):
            run_id = name.partition("/")[2]
            with contextlib.suppress(*_WRONG):  # of its log, which was looked at with its bytes
                if self._runs.has(run_id):
                    self._run(run_id)
        for original in VerdictStore(self._registry).originals():
            with contextlib.suppress(*_WRONG):  # as above
                self._verdicts(original)
        self._unlisted()

    def claims(self, package: Package) -> Mapping[str, Callable[[memoryview], None]]:
        """Return what the bytes of a version are held against, if it is a checkpoint."""
        facts = facts_in(package.manifest.user_meta, CheckpointFacts, what=str(package))
        if facts is None:
            return {}
        self._checkpoints.append((package, facts))
        found: dict[str, Callable[[memoryview], None]] = {}
        for key, check in claims_of(Checkpoint(package)).items():
            entry = package.manifest[key]
            mark = entry.digest, _spelled(entry.meta)
            if key == "state.json":
                found[key] = check
            elif mark not in self._held:
                found[key] = functools.partial(self._hold, check, mark)
        return found

    def _hold(self, check: Callable[[memoryview], None], mark: tuple[Digest, bytes], view: memoryview) -> None:
        check(view)
        self._held.add(mark)

    def _bytes(self, package: Package) -> None:
        self.versions += 1
        self.problems += package.verify(progress=self._context.progress, sound=self._sound, claims=self.claims)

    def _run(self, run_id: str) -> None:
        """Hold a run's record against what it names."""
        name, top_hash = f"{RESERVED}/{run_id}", self._runs.latest(run_id) or ""
        try:
            run = self._runs.load(run_id)
            found = contradictions(run, self._runs.find_lock(run), self._registry)
            whole = all(is_run_id(v.reproduces) and self._runs.has(v.reproduces) for v in run.record.verdicts)
            if whole and (why := self._support.own(run.record)) is not None:
                found.append(("verdict", why))
        except _WRONG as error:
            self._note(name, top_hash, RECORD_KEY, error.message, purged=isinstance(error, PurgedError))
            return
        for what, how in found:
            self._note(name, top_hash, RECORD_KEY, f"{RECORD_KEY}: {what}: {how}")

    def _verdicts(self, run_id: str) -> None:
        store = VerdictStore(self._registry)
        for top_hash in store.versions(run_id):
            with contextlib.suppress(*_WRONG):  # of its manifest, which was looked at with its bytes
                self._verdict(store.package(run_id, top_hash))

    def _verdict(self, package: Package) -> None:
        try:
            kept = VerdictStore(self._registry).read(package)
            links = (kept.original.run_id, kept.reproduction.run_id)
            deleted = any(map(self._was_deleted, links))  # then nothing is wrong with what is said of it
            why = None if deleted else self._support.unsupported(kept, package.manifest)
        except _WRONG as error:
            why = error.message
        if why is not None:
            self._note(package.name, package.top_hash, VERDICT_KEY, f"{VERDICT_KEY}: {why}")

    def _was_deleted(self, run_id: str) -> bool:
        """True of a run that was here once."""
        known = is_run_id(run_id) and self._registry.head(f"{RESERVED}/{run_id}") is not None
        return known and not self._runs.has(run_id)

    def _unlisted(self) -> None:
        """Note checkpoints that say they are of a run whose record, which is here, does not name them."""
        named: dict[str, set[str] | None] = {}
        for package, facts in self._checkpoints:
            if facts.run not in named:
                named[facts.run] = self._named_by(facts.run)
            known = named[facts.run]
            if known is not None and package.top_hash not in known:
                how = f"it says that it is of run {facts.run}, whose record does not name it"
                self._note(package.name, package.top_hash, None, how)

    def _named_by(self, run_id: str) -> set[str] | None:
        """Return the checkpoints of a run; None where it may have made others: it goes on, stopped, or is not here."""
        try:
            record = self._runs.load(run_id).record if is_run_id(run_id) and self._runs.has(run_id) else None
        except _WRONG:
            return None
        if record is None or record.status != "finished" or record.attempts:
            return None
        return {entry.top_hash for entry in [record.initial, *record.checkpoints] if entry is not None}

    def _note(self, name: str, top_hash: str, key: str | None, message: str, *, purged: bool = False) -> None:
        found = Problem(package=name, top_hash=top_hash, logical_key=key, message=message, purged=purged)
        if found not in self.problems:
            self.problems.append(found)


def _spelled(meta: Mapping[str, Any]) -> bytes:
    """Return 32 bytes that are the same for the same metadata."""
    return hashlib.sha256(msgspec.json.encode(meta, order="sorted")).digest()


_WRONG = (DataMismatchError, NotFoundError, RegistryError, UsageError)  # a record may name what is no package
