"""The hash of a git tree, recomputed from the bytes that it names. Neither git nor a repository is needed."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from typing import Literal

from reprokit.errors import DataMismatchError
from reprokit.runs.store import CODE_PREFIX
from reprokit.schema.lock import CodeIdentity
from reprokit.schema.manifest import Entry
from reprokit.schema.notebook import Notebook

__all__ = ["git_hash", "identity_of_entries", "lfs_pointer", "tree_of"]


def identity_of_entries(
    entries: tuple[Entry, ...],
    object_format: Literal["sha1", "sha256"],
    content: Callable[[Entry], bytes],
    *,
    notebook: str | None = None,
) -> CodeIdentity:
    """Recompute the git tree hash of `code/…` entries from their bytes.

    Of a file whose content Git LFS keeps, the tree has a pointer, which follows from the content.

    Args:
        content: Returns the bytes of one; of a link, its target.
        notebook: The one that is executed: it counts by its cells alone.
    Raises:
        DataMismatchError: An entry has no mode that git knows.
        RecipeError: The notebook is malformed.
    """
    files: list[tuple[bytes, bytes, bytes]] = []
    for entry in entries:
        path = entry.logical_key.removeprefix(CODE_PREFIX)
        facts = entry.meta.get("reprokit")
        mode = facts.get("mode") if isinstance(facts, dict) else None
        if mode not in ("100644", "100755", "120000", "160000"):
            raise DataMismatchError(f"{entry.logical_key} has the mode {mode!r}, which git does not know.")
        if mode == "160000":
            oid = bytes.fromhex(str(facts.get("commit")) if isinstance(facts, dict) else "")
        else:
            data = content(entry)
            if isinstance(facts, dict) and facts.get("lfs") is True:
                data = lfs_pointer(data)
            if path == notebook and mode != "120000":
                data = Notebook.parse(data, what=path).identity
            oid = git_hash(b"blob", data, object_format)
        files.append((os.fsencode(path), mode.encode(), oid))
    return CodeIdentity(tree=tree_of(files, object_format), object_format=object_format)


def lfs_pointer(data: bytes) -> bytes:
    """Return what git has in the place of a file that Git LFS keeps.

    Source: https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md
    """
    digest = hashlib.sha256(data).hexdigest()
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{digest}\nsize {len(data)}\n".encode()


def tree_of(files: list[tuple[bytes, bytes, bytes]], object_format: str) -> str:
    """Return the hash of the git tree of (path, mode, object ID)."""
    root: dict[bytes, object] = {}
    for path, mode, oid in files:
        node = root
        parts = path.split(b"/")
        for part in parts[:-1]:
            child = node.setdefault(part, {})
            if not isinstance(child, dict):
                raise DataMismatchError(f"{os.fsdecode(path)} is below a file.")
            node = child
        node[parts[-1]] = (mode, oid)
    return _tree_hash(root, object_format).hex()


def _tree_hash(node: Mapping[bytes, object], object_format: str) -> bytes:
    rows: list[tuple[bytes, bytes]] = []
    for name, child in node.items():
        if isinstance(child, dict):
            rows.append((name + b"/", b"40000 " + name + b"\0" + _tree_hash(child, object_format)))
        elif isinstance(child, tuple):
            mode, oid = child
            rows.append((name, mode + b" " + name + b"\0" + oid))
    return git_hash(b"tree", b"".join(row for _, row in sorted(rows)), object_format)


def git_hash(kind: bytes, data: bytes, object_format: str) -> bytes:
    return hashlib.new(object_format, kind + b" %d\0" % len(data) + data).digest()
