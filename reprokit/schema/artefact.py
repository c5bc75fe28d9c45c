"""What all artefacts share that have a format of their own: how their bytes are read."""

from __future__ import annotations

from typing import TypeVar

import msgspec

from reprokit.core.safe_json import check_depth, load_json
from reprokit.errors import DataMismatchError, UsageError

__all__ = ["MAX_BYTES", "check_nesting", "check_size", "decode"]

MAX_BYTES = 64 * 1024 * 1024  # of a lock or a verdict: what is written can be read
_DEPTH = 64
_FORMAT = 1
_Artefact = TypeVar("_Artefact", bound=msgspec.Struct)


def decode(data: bytes, form: type[_Artefact], *, what: str) -> _Artefact:
    """Parse an untrusted artefact, strictly.

    Args:
        what: Names it in errors.
    Raises:
        DataMismatchError: It is of another format, or does not have the form.
    """
    value = load_json(data, what=what, max_bytes=MAX_BYTES, max_depth=_DEPTH)
    if isinstance(value, dict) and value.get("format") != _FORMAT:
        raise DataMismatchError(
            f"{what} has format {value.get('format')!r}; this reprokit reads format {_FORMAT}.", hint="Update reprokit."
        )
    try:
        return msgspec.convert(value, form, strict=True)
    except msgspec.ValidationError as error:
        raise DataMismatchError(f"{what} is malformed: {error}.") from None


def check_size(data: bytes, *, what: str, max_bytes: int = MAX_BYTES) -> bytes:
    """Return an artefact's bytes if they are not more than are read again.

    Raises:
        UsageError: They are.
    """
    if len(data) > max_bytes:
        raise UsageError(
            f"{what} would be {len(data):,} bytes long; at most {max_bytes:,} are read.",
            hint="Keep in files what is that long: long parameters as a data set, for instance.",
        )
    return data


def check_nesting(value: object, *, what: str) -> None:
    """Raise UsageError if a value nests deeper than is read again."""
    try:
        check_depth(value, what=what, max_depth=_DEPTH)
    except DataMismatchError as error:
        raise UsageError(error.message, hint="Parameters nest no deeper than that.") from None
