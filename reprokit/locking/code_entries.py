"""Captured code, kept as entries of a run's record."""

from __future__ import annotations

from reprokit.core.canonical_json import canonical
from reprokit.errors import RefusedError
from reprokit.locking.git_remarks import shown
from reprokit.locking.git_tree import CodeCapture, Repository
from reprokit.locking.secret_check import SecretCheck
from reprokit.registry.base import Sink
from reprokit.runs.store import CODE_PREFIX
from reprokit.schema.manifest import Entry

__all__ = ["SUBMODULES", "code_entries"]

SUBMODULES = "code.submodules"
"""The entry that says which commits of submodules are in the code: path → commit."""

_LARGE_BLOB = 20 * 1024 * 1024
_LFS = b"version https://git-lfs.github.com/spec/v1"


def code_entries(
    repository: Repository, capture: CodeCapture, sink: Sink, *, check: SecretCheck
) -> tuple[list[Entry], list[str]]:
    """Store a capture's files; return them as entries `code/…`, each with its mode, and warnings.

    Of a file that Git LFS keeps, the content is stored. Which commits of submodules are in it is an entry of its own.

    Raises:
        RefusedError: Something looks like a secret and is not allowed, or is not here; nothing stays stored.
    """
    entries, warnings = [], list(capture.warnings)
    check.text(capture.facts.remote, "git remote")
    check.patch(capture.patch)
    pointers = []
    for blob, data in repository.contents(capture):
        facts: dict[str, object] = {"mode": blob.mode}
        if data.startswith(_LFS) and blob.mode != "120000":
            content = repository.lfs_content(capture, blob.path, data)
            if content is None:
                pointers.append(shown(blob.path))
                continue
            data, facts = content, {**facts, "lfs": True}
        check.file(blob.path, data, where=CODE_PREFIX + blob.path)
        if len(data) > _LARGE_BLOB:
            warnings.append(
                f"{shown(blob.path)} is {len(data):,} bytes in git. `reprokit package build` stores data once and "
                "verifies it."
            )
        digest, size = sink.put_bytes(data)
        entries.append(Entry(CODE_PREFIX + blob.path, size, digest, {"reprokit": facts}))
    for blob in capture.blobs:
        if blob.mode == "160000":
            digest, size = sink.put_bytes(b"")
            meta = {"reprokit": {"mode": blob.mode, "commit": blob.oid}}
            entries.append(Entry(CODE_PREFIX + blob.path, size, digest, meta))
    if capture.submodules:
        digest, size = sink.put_bytes(canonical(capture.submodules) + b"\n")
        entries.append(Entry(SUBMODULES, size, digest))
    check.refuse()
    if pointers:
        more = f" and {len(pointers) - 20} more" if len(pointers) > 20 else ""
        raise RefusedError(
            f"{len(pointers)} file(s) of the code are pointers of Git LFS, and what they stand for is not here: "
            f"{', '.join(pointers[:20])}{more}.",
            hint="`git lfs pull` has it here. What is data is better a package: `reprokit package build DIR NAME`, "
            "named under `data:`, and not in git.",
        )
    return entries, warnings
