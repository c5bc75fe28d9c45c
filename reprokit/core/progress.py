"""How long work tells a face about itself, without knowing any face."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

__all__ = ["SILENT", "Advance", "Progress"]


class Advance(Protocol):
    """Called with the amount done since the last call, in the task's unit."""

    def __call__(self, amount: int = 1, /) -> None: ...


class Progress(Protocol):
    """Something that can show tasks; the command line's bars are one."""

    def task(self, title: str, total: int | None, *, unit: str = "") -> AbstractContextManager[Advance]:
        """Show a task for as long as the context is open; `total` is None where it is not known."""

    def note(self, text: str) -> None:
        """Say one line, above the bars: a warning, a checkpoint saved."""


class _Silent:
    def task(self, title: str, total: int | None, *, unit: str = "") -> AbstractContextManager[Advance]:  # noqa: ARG002
        return nullcontext(_nothing)

    def note(self, text: str) -> None:
        pass


def _nothing(_amount: int = 1, /) -> None:
    pass


SILENT: Progress = _Silent()
