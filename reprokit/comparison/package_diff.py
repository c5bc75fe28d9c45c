"""Two versions of packages side by side: entries, metadata, and what changed inside of files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from reprokit.comparison.files.text_diff import ContentDiff, compare_content
from reprokit.errors import NotFoundError
from reprokit.packages.package import Package
from reprokit.schema.manifest import Entry

__all__ = ["PackageDiff", "diff_packages"]


@dataclass(frozen=True, kw_only=True)
class PackageDiff:
    """How two versions differ.

    Attributes:
        added, removed, changed: Logical keys.
        content: By key, what changed inside; None where that was not asked for.
    """

    left: Package
    right: Package
    added: tuple[str, ...]
    removed: tuple[str, ...]
    changed: tuple[str, ...]
    content: Mapping[str, ContentDiff] | None = None

    @property
    def meta_changed(self) -> bool:
        """True if the metadata of the versions themselves differs."""
        return self.left.manifest.user_meta != self.right.manifest.user_meta

    def entries(self, key: str) -> tuple[Entry, Entry]:
        """Return a changed entry of each side."""
        return self.left.manifest[key], self.right.manifest[key]

    def plain(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        plain: dict[str, Any] = {
            "left": self.left.top_hash,
            "right": self.right.top_hash,
            "added": list(self.added),
            "removed": list(self.removed),
            "changed": list(self.changed),
            "message": [self.left.manifest.message, self.right.manifest.message],
            "meta_changed": self.meta_changed,
        }
        if self.content is not None:
            plain["content"] = {key: asdict(inside) for key, inside in self.content.items()}
        return plain


def diff_packages(left: Package, right: Package, keys: Sequence[str] = (), *, content: bool = False) -> PackageDiff:
    """Compare two versions.

    Args:
        keys: Files and folders to look at, and into; all, and not into them, by default.
        content: Look into every file that changed.
    Raises:
        NotFoundError: Neither version has one of the keys.
        DataMismatchError: An object that is looked into is corrupt.
    """
    found = left.manifest.diff(right.manifest)
    wanted = [key.rstrip("/") for key in keys]
    known = {*left.manifest.keys, *right.manifest.keys}
    for key in wanted:
        if not any(_within(name, key) for name in known):
            raise NotFoundError(f"Neither {left} nor {right} has {key!r}.")

    def chosen(names: Sequence[str]) -> tuple[str, ...]:
        return tuple(name for name in names if not wanted or any(_within(name, key) for key in wanted))

    changed = chosen(found.changed)
    inside: dict[str, ContentDiff] | None = None
    if content or wanted:
        moved = (key for key in changed if left.manifest[key].digest != right.manifest[key].digest)
        inside = {key: compare_content(key, left.entry(key).read(), right.entry(key).read()) for key in moved}
    return PackageDiff(
        left=left, right=right, added=chosen(found.added), removed=chosen(found.removed), changed=changed,
        content=inside,
    )  # fmt: skip


def _within(name: str, key: str) -> bool:
    return name == key or name.startswith(key + "/")
