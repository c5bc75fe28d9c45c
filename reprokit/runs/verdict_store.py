"""Verdicts in a registry: of each run that was reproduced a package `verdicts/<run id>`, a version for each verdict."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from reprokit.core.refs import VERDICTS, PackageRef, is_run_id
from reprokit.errors import DataMismatchError, NotFoundError
from reprokit.packages.package import Package
from reprokit.registry import Registry
from reprokit.runs.bounded import bounded_verdict
from reprokit.schema.facts import VerdictSummary, facts_in, meta_of
from reprokit.schema.manifest import Entry, Manifest
from reprokit.schema.verdict import VerdictRecord

__all__ = ["VERDICT_KEY", "VerdictStore"]

VERDICT_KEY = "verdict.json"


class VerdictStore:
    """The packages `verdicts/<run id>` of a registry; only ever added to."""

    def __init__(self, registry: Registry) -> None:
        self.registry = registry

    def add(self, verdict: VerdictRecord) -> str:
        """Publish a verdict as the next version of its original's package; return its top hash."""
        verdict = msgspec.structs.replace(verdict, verdict=bounded_verdict(verdict.verdict))
        with self.registry.staging() as sink:
            digest, size = sink.put_bytes(verdict.encode())
        manifest = Manifest.make(
            [Entry(VERDICT_KEY, size, digest)],
            message=f"{verdict.verdict.word}: {verdict.reproduction.run_id}",
            user_meta=meta_of(verdict.summary()),
        )
        self.registry.publish(f"{VERDICTS}/{verdict.original.run_id}", manifest)
        return manifest.top_hash

    def of(self, run_id: str) -> list[VerdictRecord]:
        """Return the verdicts on a run's reproductions, oldest first, each verified.

        Raises:
            DataMismatchError: One is corrupt, or speaks of another run.
        """
        return [self.read(self.package(run_id, top_hash)) for top_hash in self.versions(run_id)]

    def versions(self, run_id: str) -> list[str]:
        """Return the versions of the verdicts on a run, oldest first."""
        try:
            return self.registry.top_hashes(f"{VERDICTS}/{run_id}")
        except NotFoundError:
            return []

    def package(self, run_id: str, top_hash: str) -> Package:
        """Return the version of a verdict on a run.

        Raises:
            NotFoundError, DataMismatchError: Its manifest is gone, or corrupt.
        """
        return Package(f"{VERDICTS}/{run_id}", self.registry.read_manifest(top_hash), self.registry)

    def naming(self, run_id: str, original: str | None) -> list[PackageRef]:
        """Return the versions with verdicts that name a run: on its own reproductions, and on it as one."""
        found = [PackageRef(f"{VERDICTS}/{run_id}", hash=top_hash) for top_hash in self.versions(run_id)]
        for top_hash in self.versions(original) if original is not None else []:
            summary = self._summary(top_hash)
            if summary is not None and summary.reproduction == run_id:
                found.append(PackageRef(f"{VERDICTS}/{original}", hash=top_hash))
        return found

    def about(self, ref: PackageRef) -> list[str]:
        """Return the runs that the verdict of a version is about, as its header says (not verified)."""
        summary = self._summary(ref.hash) if ref.hash is not None else None
        runs = [] if summary is None else [summary.original, summary.reproduction]
        return [run_id for run_id in runs if is_run_id(run_id)]

    def originals(self) -> Iterator[str]:
        """Yield the IDs of the runs that there are verdicts on."""
        for name in self.registry.packages(VERDICTS):
            run_id = name.partition("/")[2]
            if is_run_id(run_id):
                yield run_id

    def _summary(self, top_hash: str) -> VerdictSummary | None:
        return facts_in(self.registry.read_header(top_hash).get("user_meta"), VerdictSummary)

    def read(self, package: Package) -> VerdictRecord:
        """Return the verdict that a version holds, verified.

        Raises:
            DataMismatchError: It is corrupt, or speaks of another run than its package is named for.
        """
        what = f"{VERDICT_KEY} of {package}"
        entry = package.manifest.by_key.get(VERDICT_KEY)
        if entry is None:
            raise DataMismatchError(f"{package} holds no {VERDICT_KEY}.")
        found = VerdictRecord.decode(self.registry.read_object(entry, what=what), what=what)
        if found.original.run_id != package.name.partition("/")[2]:
            raise DataMismatchError(f"{what} is a verdict on another run, {found.original.run_id}.")
        return found
