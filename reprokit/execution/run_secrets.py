"""Secrets of a run: taken from the environment of whoever runs it, given to the script, masked in what is kept."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from urllib.parse import quote

from reprokit.errors import RefusedError
from reprokit.schema.lock import RunLock

__all__ = ["Mask", "secrets_of"]

_SHORTEST = 4
_STAR = b"***"


def secrets_of(lock: RunLock, environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the values of a run's secrets by name.

    Raises:
        RefusedError: One is not set, or too short to be masked.
    """
    names = lock.execution.secrets
    missing = [name for name in names if not environment.get(name)]
    if missing:
        raise RefusedError(
            f"The run needs secrets that are not set here: {', '.join(missing)}.",
            hint=f"Set them in your environment: `read -rs {missing[0]}; export {missing[0]}`. They are not recorded.",
        )
    short = [name for name in names if len(environment[name]) < _SHORTEST]
    if short:
        raise RefusedError(
            f"The secret {short[0]} has fewer than {_SHORTEST} characters: too few to be masked in the log.",
            hint="If it is none, set it under execution.variables.",
        )
    return {name: environment[name] for name in names}


class Mask:
    """Replaces secrets by `***`, also as JSON and URLs spell them, and each line of one that has several."""

    def __init__(self, secrets: Iterable[str]) -> None:
        lines = {line.strip() for secret in secrets for line in secret.splitlines()}
        told = {line for line in lines if len(line) >= _SHORTEST}
        spelled = {form for line in told for form in (line, json.dumps(line)[1:-1], quote(line, safe=""))}
        self._forms = sorted((form.encode("utf-8", "surrogateescape") for form in spelled), key=len, reverse=True)

    def __call__(self, data: bytes) -> bytes:
        for form in self._forms:
            data = data.replace(form, _STAR)
        return data
