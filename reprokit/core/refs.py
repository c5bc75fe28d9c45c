"""What users type to name things: `ns/name:tag`, `ns/name@hash`, `RUN`, `RUN@epoch=7`."""

from __future__ import annotations

import re
from dataclasses import dataclass

from reprokit.errors import (
    UsageError,
)

__all__ = [
    "RESERVED",
    "VERDICTS",
    "PackageRef",
    "RunRef",
    "check_package_name",
    "check_tag",
    "is_package_ref",
    "is_run_id",
    "parse_run",
]

RESERVED = "runs"  # the namespace of run records
VERDICTS = "verdicts"  # and that of verdicts on them

_NAME = re.compile(r"[\w-]+/[\w-]+", re.ASCII)
_TAG = re.compile(r"[A-Za-z0-9][\w.-]{0,127}", re.ASCII)
_HASH = re.compile(r"[0-9a-f]{4,64}")
_RUN_ID = re.compile(r"[0-9]{8}-[0-9]{6}-[0-9a-f]{6}")
_RUN_NAME = re.compile(r"[\w-]{1,100}", re.ASCII)  # a part of an ID is spelled so too
_SELECTOR = re.compile(r"last|initial|exception|epoch=\d{1,12}|step=\d{1,18}|best(:[\w.\-/]{1,128})?", re.ASCII)


def check_package_name(name: str) -> str:
    """Return `name` if it is `namespace/name` in ASCII letters, digits, `_` and `-`."""
    if not _NAME.fullmatch(name) or len(name) > 200:
        raise UsageError(
            f"Not a package name: {name[:200]!r}.",
            hint="A package is named namespace/name, in ASCII letters, digits, '_' and '-', such as vision/cifar10.",
        )
    return name


def check_tag(tag: str) -> str:
    """Return `tag` if it may name a version; 64 hex digits may not, they are a hash."""
    if not _TAG.fullmatch(tag) or re.fullmatch(r"[0-9a-f]{64}", tag):
        raise UsageError(
            f"Not a tag: {tag[:200]!r}.",
            hint="A tag starts with a letter or digit, then letters, digits, '.', '_' or '-'; at most 128.",
        )
    return tag


@dataclass(frozen=True, slots=True)
class PackageRef:
    """A package, and which version: by `tag`, by `hash` prefix, or the latest if both are None."""

    name: str
    tag: str | None = None
    hash: str | None = None

    @classmethod
    def parse(cls, text: str) -> PackageRef:
        """Parse `ns/name`, `ns/name:tag` or `ns/name@hashprefix` (4 to 64 hex digits).

        Raises:
            UsageError: It is none of these.
        """
        name, at, prefix = text.partition("@")
        if at:
            if not _HASH.fullmatch(prefix.lower()):
                tag = f" A tag stands behind a colon: {name}:{prefix}." if _TAG.fullmatch(prefix) else ""
                raise UsageError(
                    f"Not a hash: {prefix[:80]!r} in {text[:200]!r}.",
                    hint=f"Give 4 to 64 hexadecimal digits after '@'.{tag}",
                )
            return cls(check_package_name(name), hash=prefix.lower())
        name, colon, tag = text.partition(":")
        return cls(check_package_name(name), tag=check_tag(tag) if colon else None)

    def __str__(self) -> str:
        return self.name + (f":{self.tag}" if self.tag else "") + (f"@{self.hash}" if self.hash else "")


@dataclass(frozen=True, slots=True)
class RunRef:
    """A run by ID, unique prefix or suffix, name, `latest` or `@{-n}`; `selector` picks one of its checkpoints."""

    run: str
    selector: str | None = None

    def __str__(self) -> str:
        return self.run + (f"@{self.selector}" if self.selector else "")


def is_package_ref(text: str) -> bool:
    return "/" in text.partition("@")[0]


def is_run_id(text: str) -> bool:
    """True for a whole run ID, not for a part of one."""
    return _RUN_ID.fullmatch(text) is not None


def parse_run(text: str) -> RunRef:
    """Parse `RUN` or `RUN@epoch=7`, `@step=N`, `@last`, `@initial`, `@best`, `@best:metric`.

    Raises:
        UsageError: It is none of these.
    """
    recent = re.fullmatch(r"(@\{-[0-9]{1,6}\})(?:@(.+))?", text)
    if recent:
        run, selector = recent[1], recent[2]
    else:
        run, at, rest = text.partition("@")
        selector = rest if at else None
        if not _RUN_NAME.fullmatch(run):
            raise UsageError(
                f"Not a run: {text[:200]!r}.",
                hint="Name a run by its ID (20261123-101500-7c1e9f), four or more digits of either end, its name, "
                "'latest', or '@{-1}'. `reprokit ls` lists them.",
            )
    if selector is not None and not _SELECTOR.fullmatch(selector):
        raise UsageError(
            f"Not a checkpoint of a run: '@{selector[:80]}' in {text[:200]!r}.",
            hint="Write RUN@epoch=7, RUN@step=1200, RUN@last, RUN@initial, RUN@best or RUN@best:val_loss.",
        )
    return RunRef(run, selector)
