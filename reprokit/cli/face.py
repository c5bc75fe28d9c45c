"""What every command shares: the common options, results on stdout, progress and notes on stderr."""

from __future__ import annotations

import functools
import importlib
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import click

from reprokit.core.canonical_json import spelled
from reprokit.core.config import Config, named_registry
from reprokit.core.progress import Advance
from reprokit.core.terminal_text import continued, one_line, tame, tame_json
from reprokit.recording.journal import any_journal
from reprokit.registry import Registry, open_registry
from reprokit.registry.context import Context

__all__ = ["Face", "absolute_address", "common", "size"]

_OFFLINE = "REPROKIT_OFFLINE"


class Face:
    """The options that every command has, and how it speaks."""

    def __init__(self, *, registry: str | None, as_json: bool, quiet: bool, verbose: bool) -> None:
        self.registry_option = registry
        self.as_json = as_json
        self.quiet = quiet
        self.verbose = verbose
        self._registry: Registry | None = None
        self._bars: Any = None
        self._training: Any = None

    @property
    def config(self) -> Config:
        return Config.load(registry=self.registry_option)

    def registry(self) -> Registry:
        """Return the registry, which is opened once."""
        if self._registry is None:
            self._registry = open_registry(self.config.registry)
        return self._registry

    def context(self) -> Context:
        """Return what the library works with, this face for its progress."""
        return Context.open(self.registry(), progress=self)

    def recover(self) -> None:
        """Complete the records of runs that were killed here, and send what was published offline, if there is any."""
        home = self.config.home
        if any_journal(home):
            importlib.import_module("reprokit.recording.recorder").recover(home, note=self.note)
        if (home / "offline").is_dir() and not Config.is_offline():
            outbox = importlib.import_module("reprokit.recording.outbox")
            outbox.send_unsent(home, self.config.cache, note=self.note, progress=self)

    def result(self, plain: Any, text: str | Sequence[str] | Callable[[], str]) -> None:
        """Print a result: `plain`, or what it returns, as JSON with --json; else the text, or lines, each one line."""
        if self.as_json:
            plain = plain() if callable(plain) else plain
            unicode = "utf" in (getattr(sys.stdout, "encoding", None) or "").lower()
            click.echo(tame_json(json.dumps(spelled(plain), indent=1, ensure_ascii=not unicode)))
        elif isinstance(text, str) or callable(text):
            click.echo(tame(text if isinstance(text, str) else text()))
        else:
            click.echo("\n".join(map(one_line, text)))

    def table(self, plain: Callable[[], Any], lines: Sequence[tuple[str, str | None]]) -> None:
        """Print a result: what `plain` returns as JSON with --json; else lines, each with its colour, or `bold`."""
        if self.as_json:
            self.result(plain, "")
            return
        for text, style in lines:
            bold = style == "bold"
            click.secho(one_line(text), bold=bold or None, fg=None if bold else style)

    # reprokit.core.progress.Progress

    def note(self, text: str) -> None:
        if self.quiet:
            return
        if self._bars is not None:
            self._bars.console.print(continued(text), markup=False, highlight=False, soft_wrap=True)
        else:
            click.echo(continued(text), err=True)

    @contextmanager
    def task(self, title: str, total: int | None, *, unit: str = "") -> Iterator[Advance]:
        if not self._shows_bars:
            yield lambda _amount=1, /: None
            return
        with self.bars() as bars:
            named = f" ({unit})" if unit and unit != "bytes" else ""
            number = bars.add_task(one_line(title + named), total=total, unit=unit)
            try:
                yield lambda amount=1, /: bars.advance(number, amount)
            finally:
                bars.remove_task(number)

    @contextmanager
    def bars(self) -> Iterator[Any]:
        """Show rich's bars for as long as the outermost task is open."""
        if self._bars is not None:
            yield self._bars
            return
        make = importlib.import_module("reprokit.cli.text.bars").make_bars  # rich is loaded only where bars are shown
        with make() as bars:
            self._bars = bars
            try:
                yield bars
            finally:
                bars.flush()
                self._bars = None

    @contextmanager
    def epochs(self) -> Iterator[None]:
        """Show a bar over a training, which moves as its script says where it is."""
        if not self._shows_bars:
            yield
            return
        with self.bars() as bars:
            self._training = importlib.import_module("reprokit.cli.text.bars").TrainingBar(bars)
            try:
                yield
            finally:
                self._training.close()
                self._training = None

    def total_epochs(self, total: int) -> None:
        if self._training is not None:
            self._training.epochs(total)

    def epoch_done(self, epoch: int) -> None:
        if self._training is not None:
            self._training.epoch(epoch)

    def batch_done(self, epoch: int | None, batch: int, total: int | None) -> None:
        if self._training is not None:
            self._training.batch(epoch, batch, total)

    @property
    def _shows_bars(self) -> bool:
        return not self.quiet and sys.stderr.isatty() and not os.environ.get("CI")

    def write(self, stream: str, data: bytes) -> None:
        """Pass on what a script wrote; with --json nothing of it goes to stdout."""
        if self.quiet:
            return
        if self._bars is not None and (stream == "stderr" or self.as_json or sys.stdout.isatty()):
            self._bars.write(stream, data)
            return
        target = sys.stderr if stream == "stderr" or self.as_json else sys.stdout
        if not hasattr(target, "buffer"):  # a notebook's
            target.write(data.decode(errors="replace"))
            return
        target.flush()
        target.buffer.write(data)
        target.buffer.flush()


def reference(name: str, **options: Any) -> Callable[..., Any]:
    """Give a command an argument that names runs, packages or tags, which a shell completes."""
    return click.argument(name, shell_complete=_completed, **options)


def _completed(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    complete = importlib.import_module("reprokit.cli.completing").complete  # loaded where a shell asks
    found: list[str] = complete(context, parameter, incomplete)
    return found


def common(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command --registry, -C, --offline, --json, -q and -v, and a `face` that knows them."""

    @click.option(
        "--registry",
        metavar="URL",
        help="The registry: a folder, URL (s3, gs, az) or name. Default: REPROKIT_REGISTRY, project, home.",
    )
    @click.option("-C", "change_to", metavar="DIR", type=click.Path(exists=True, file_okay=False), help="Work in DIR.")
    @click.option("--offline", is_flag=True, help="Ask nothing of the network; what is published is sent later.")
    @click.option("--json", "as_json", is_flag=True, help="Print the record as JSON, and nothing else, on stdout.")
    @click.option("-q", "--quiet", is_flag=True, help="No progress, no notes.")
    @click.option("-v", "--verbose", is_flag=True, help="More detail.")
    @functools.wraps(command)
    def wrapped(
        *,
        registry: str | None,
        change_to: str | None,
        offline: bool,
        as_json: bool,
        quiet: bool,
        verbose: bool,
        **arguments: Any,
    ) -> Any:
        if registry is not None:
            registry = absolute_address(registry)  # before -C changes the folder
        if change_to is not None:
            os.chdir(change_to)
        with _offline() if offline else nullcontext():
            return command(face=Face(registry=registry, as_json=as_json, quiet=quiet, verbose=verbose), **arguments)

    return wrapped


@contextmanager
def _offline() -> Iterator[None]:
    """Ask nothing of the network for as long as a command goes on; its process may be a notebook's."""
    before = os.environ.get(_OFFLINE)
    os.environ[_OFFLINE] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[_OFFLINE]
        else:
            os.environ[_OFFLINE] = before


def absolute_address(address: str) -> str:
    """Return a registry's address: a path made absolute, a URL as it is, of a name what it stands for."""
    named = named_registry(address)
    if named is not None:
        return named
    return address if "://" in address else os.path.abspath(Path(address).expanduser())  # noqa: PTH100 - without ..


def size(count: float) -> str:
    """Return bytes for people: 512 B, 3.1 KB, 54.9 MB (powers of 1000)."""
    for unit in ("B", "KB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
