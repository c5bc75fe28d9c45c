"""Every error reprokit raises on purpose, and the exit code each one ends the command line with.

An error says what happened, where, what was expected and found; `hint` says what to do next.
"""

from __future__ import annotations

__all__ = [
    "DataMismatchError",
    "EnvironmentMismatchError",
    "Error",
    "InterruptedRunError",
    "NotFoundError",
    "PurgedError",
    "RecipeError",
    "RefusedError",
    "RegistryError",
    "UsageError",
    "UserCodeError",
]


class Error(Exception):
    """Root of all errors that are not bugs of ours.

    Args:
        message: What happened, where, expected and found. One or more whole sentences.
        hint: What to do next, as a sentence.
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return self.message if self.hint is None else f"{self.message}\n{self.hint}"


class UsageError(Error):
    """The command or call was put wrongly."""

    exit_code = 2


class RecipeError(UsageError):
    """A recipe, or a value meant for one, does not have the form it must have."""


class RefusedError(Error):
    """The request is understood and not carried out: a dirty tree, an undeclared input, a name of ours."""

    exit_code = 3


class DataMismatchError(Error):
    """Bytes are not what their digest says, or not of the form that they must have."""

    exit_code = 4

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message, hint=hint or "Nothing of it was used. Restore it from another copy.")


class EnvironmentMismatchError(Error):
    """The environment here is not the locked one and cannot be made so."""

    exit_code = 5


class UserCodeError(Error):
    """The user's script failed."""

    exit_code = 6


class NotFoundError(Error):
    """A package, version, run, checkpoint or file does not exist where it was looked for."""

    exit_code = 10


class PurgedError(NotFoundError):
    """The bytes were erased for good, and a tombstone says why."""


class RegistryError(Error):
    """A registry or the file system under it cannot be read or written."""

    exit_code = 11


class InterruptedRunError(Error):
    """A run was stopped from outside: Ctrl-C, SIGTERM, SIGKILL."""

    exit_code = 130
