"""Delete a version or a run, unless a run needs it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from reprokit.core.refs import RESERVED, VERDICTS, PackageRef, is_package_ref
from reprokit.errors import RefusedError, UsageError
from reprokit.registry import Registry
from reprokit.runs.store import RunStore

__all__ = ["Removal", "rm"]


@dataclass(frozen=True, kw_only=True)
class Removal:
    """What was deleted of a package, and the runs that used it."""

    name: str
    deleted: list[str]
    used_by: list[str]

    def plain(self) -> dict[str, Any]:
        return asdict(self)


def rm(ref: str, *, registry: Registry, message: str | None = None, force: bool = False) -> Removal:
    """Delete a version (`ns/name@hash`, `ns/name:tag`) or a run. Its bytes go when `gc` finds them unused.

    Args:
        message: Why; kept in the package's log.
        force: Even if runs have it as an input or made it.
    Raises:
        NotFoundError: No such version or run.
        RefusedError: The run goes on; it is a verdict; or it is used, and `force` was not given.
        UsageError: The reference names all versions.
    """
    runs = RunStore(registry)
    if not is_package_ref(ref):
        run = runs.load(ref)
        if run.record.status == "running":
            raise RefusedError(f"Run {run.record.run_id} is running.", hint="Stop it first.")
        name = f"{RESERVED}/{run.record.run_id}"
        hashes, users = registry.top_hashes(name), runs.needing(run.record.run_id)
    else:
        parsed = PackageRef.parse(ref)
        if parsed.tag is None and parsed.hash is None:
            raise UsageError(
                f"{ref} names all versions of a package.", hint=f"Name one: {ref}@HASH, as `reprokit log {ref}` lists."
            )
        if parsed.name.partition("/")[0] == VERDICTS:
            raise RefusedError(f"{ref} is a verdict: they are only ever added to.")
        name, hashes = parsed.name, [registry.resolve(parsed)]
        users = runs.users(name, hashes[0])
    if users and not force:
        shown = ", ".join(users[:4]) + (f" and {len(users) - 4} more" if len(users) > 4 else "")
        raise RefusedError(
            f"{ref} is used by {shown}, which could not be reproduced without it.",
            hint="Give --force to delete it all the same.",
        )
    for top_hash in hashes:
        registry.delete(name, top_hash, note=message)
    return Removal(name=name, deleted=hashes, used_by=users)
