"""Which variables of the shell a script read, as its record says it: names, and digests that this machine alone makes.

A value may be a secret that nobody declared, and a short one is found by trying, whatever salt stands beside its
digest. So the digest is an HMAC by a key that is no part of any record: 32 random bytes in `<home>/variables.key`. Runs
of one home can be compared, and whoever reads the registry has nothing to try against. With two keys it is not known
whether a value changed, and that is what is said.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from reprokit.core.atomic_files import os_errors
from reprokit.execution.asked import Asked
from reprokit.numerics.script_environ import is_platforms
from reprokit.schema.lock import RunLock
from reprokit.schema.record import VariableRead
from reprokit.schema.variables import looks_secret

__all__ = ["Given", "VariableKey", "variable_warnings", "variables_read"]

_FILE = "variables.key"
_MOST, _LONGEST = 1000, 200  # names, and characters of one: a script may ask for anything
_SHOWN = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """The environment of a script.

    Attributes:
        shell: The runner's, as far as the script may have it.
        variables: The script's.
    """

    shell: Mapping[str, str]
    variables: Mapping[str, str]

    def inherited(self, name: str) -> bool:
        """True if the script has it from the shell as it is there."""
        return name in self.variables and self.variables[name] == self.shell.get(name)


class VariableKey:
    """The key of digests; made at the first use."""

    def __init__(self, key: bytes) -> None:
        self._key = key
        self.id = hashlib.sha256(b"reprokit variables\0" + key).hexdigest()[:8]

    @classmethod
    def of(cls, home: Path) -> VariableKey:
        """Return the key of a home."""
        file = home / _FILE
        with os_errors(f"Making {file}"):
            home.mkdir(parents=True, exist_ok=True)
            made = file.with_name(f"{_FILE}.{secrets.token_hex(4)}")
            if not file.exists():
                made.touch(mode=0o600)
                made.write_bytes(secrets.token_bytes(32))
                with contextlib.suppress(FileExistsError):  # another run was first
                    file.hardlink_to(made)
                made.unlink()
            return cls(file.read_bytes())

    def digest(self, name: str, value: str) -> str:
        message = os.fsencode(name) + b"\0" + os.fsencode(value)
        return hmac.new(self._key, message, hashlib.sha256).hexdigest()[:16]


def variables_read(asked: Asked, lock: RunLock, given: Given, *, key: VariableKey | None) -> list[VariableRead]:
    """Return what the script read of the shell's variables that its recipe does not declare; no digests without a key.

    What the script set itself, or a process of it for another, is no input.
    """
    declared = {*lock.execution.variables, *lock.execution.secrets}
    token = bytes.fromhex(given.variables.get("REPROKIT_TOKEN", ""))
    found: dict[str, VariableRead] = {}
    for name, told in sorted(asked.variables.items()):
        if name in declared or name.startswith(("REPROKIT_", "_")) or len(name) > _LONGEST or len(found) >= _MOST:
            continue
        platform = is_platforms(name)
        if told is None:
            if name not in given.variables:
                hidden = name in given.shell and not platform
                found[name] = VariableRead(name=name, unset=True, hidden=hidden, platform=platform)
        elif given.inherited(name) and hmac.compare_digest(told, _by_token(given.variables[name], token)):
            found[name] = _there(name, given, key)
    if asked.taken or lock.recipe.code.command is not None:
        rest = [name for name in sorted(given.variables) if given.inherited(name) and not is_platforms(name)]
        rest = [name for name in rest if name not in declared][:_MOST]
        every = {*rest} <= found.keys()  # gone through, one by one
        for name in rest:
            if every or name not in found:
                found[name] = _there(name, given, key, taken=True)
    return [found[name] for name in sorted(found)]


def _there(name: str, given: Given, key: VariableKey | None, *, taken: bool = False) -> VariableRead:
    digest = None if key is None or looks_secret(name) else key.digest(name, given.variables[name])
    return VariableRead(name=name, digest=digest, taken=taken, platform=is_platforms(name))


def _by_token(value: str, token: bytes) -> str:
    return hashlib.blake2s(os.fsencode(value), key=token, digest_size=16).hexdigest()


def variable_warnings(read: list[VariableRead]) -> Iterator[str]:
    """Yield what is to be said of variables that nobody declared."""
    inputs = [one.name for one in read if one.is_input]
    if inputs:
        yield (
            f"Environment variables were read that are not declared: {_listed(inputs)}. Nothing pins them: declare "
            "them under `execution.variables` (recorded), `execution.secrets` (not recorded), or make them parameters."
        )
    hidden = [one.name for one in read if one.hidden]
    if hidden:
        yield (
            f"Environment variables were asked for that `inputs: deny` hides: {_listed(hidden)}. Declare them under "
            "`execution.variables` or `execution.secrets`."
        )


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN:,} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
