"""What a shell offers for a reference: runs, packages, tags, checkpoints. Nothing is asked of a network."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import click

from reprokit.core.config import Config
from reprokit.core.refs import RESERVED, VERDICTS, is_run_id
from reprokit.errors import Error
from reprokit.registry import Registry, open_registry
from reprokit.schema.facts import RunSummary, unpacked

__all__ = ["complete"]

_MOST = 200
_SELECTORS = ("best", "last", "initial")


def complete(context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    """Return the references that begin with what was typed; whatever goes wrong, nothing is offered."""
    try:
        config = Config.load(registry=context.params.get("registry"))
        registry = open_registry(config.registry, offline=True)
        return [found for found, _ in zip(_offered(registry, incomplete), range(_MOST), strict=False)]
    except (Error, OSError, ValueError):
        return []


def _offered(registry: Registry, typed: str) -> Iterator[str]:
    name, at, selector = typed.partition("@")
    if at and is_run_id(name):
        yield from (f"{name}@{one}" for one in _SELECTORS if one.startswith(selector))
        return
    name, colon, tag = typed.partition(":")
    if colon:
        head = registry.head(name)
        yield from (f"{name}:{one}" for one in sorted(head.tags if head is not None else ()) if one.startswith(tag))
        return
    yield from _runs(registry, typed)
    for namespace in registry.namespaces():
        if namespace not in (RESERVED, VERDICTS) and (namespace.startswith(typed) or typed.startswith(f"{namespace}/")):
            yield from (one for one in registry.packages(namespace) if one.startswith(typed))


def _runs(registry: Registry, typed: str) -> Iterable[str]:
    if "latest".startswith(typed):
        yield "latest"
    heads = [head for head in registry.heads(RESERVED) if head.latest is not None]
    ids = [head.name.partition("/")[2] for head in heads]
    yield from (one for one in reversed(ids) if one.startswith(typed))  # the newest first
    named = (unpacked(head.facts, RunSummary) for head in heads)
    yield from sorted({one.name for one in named if one is not None and typed and one.name.startswith(typed)})
