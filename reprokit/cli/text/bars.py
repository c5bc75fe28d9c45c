"""Progress bars on stderr, and what a script writes while one is drawn. The only module that loads rich."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from typing import Any

from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, Task, TextColumn
from rich.text import Text

from reprokit.cli.face import size

__all__ = ["Bars", "TrainingBar", "make_bars"]

_LONGEST = 4096  # characters of a line that has not ended


class _Facts(ProgressColumn):
    """How much is done, how quickly, and how long it will take; how long it has taken where nobody knows."""

    def render(self, task: Task) -> Text:
        in_bytes, done = task.fields.get("unit") == "bytes", task.completed
        shown = size(done) if in_bytes else f"{task.fields.get('done', int(done)):,}"
        told = []
        if task.total is not None:
            of = task.fields.get("of", int(task.total))
            told.append(f"{shown} of {size(task.total)}" if in_bytes else f"{shown}/{of:,}")
        elif done:
            told.append(shown)
        if task.speed:
            told.append(_rate(task.speed, in_bytes=in_bytes))
        if task.time_remaining is not None:
            told.append(f"{_clock(task.time_remaining)} left")
        elif task.elapsed is not None:
            told.append(_clock(task.elapsed))
        return Text("  ".join(told), no_wrap=True)


def _rate(speed: float, *, in_bytes: bool) -> str:
    if in_bytes:
        return f"{size(speed)}/s"
    return f"{speed:,.1f}/s" if speed >= 1 else f"{1 / speed:,.1f} s each"


def _clock(seconds: float) -> str:
    minutes, left = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{left:02}" if hours else f"{minutes}:{left:02}"


class Bars(Progress):
    """Bars, and below them the lines that a script has begun and not ended."""

    def __init__(self, *columns: ProgressColumn, console: Console) -> None:
        self._decoders: dict[str, codecs.IncrementalDecoder] = {}
        self._open: dict[str, str] = {}
        super().__init__(*columns, console=console, transient=True)

    def write(self, stream: str, data: bytes) -> None:
        """Print the lines that are whole above the bars, and hold back the one that is not.

        A carriage return begins a line anew, as other bars do: what stood there is gone.
        """
        if stream not in self._decoders:
            self._decoders[stream] = codecs.getincrementaldecoder("utf-8")("replace")
        text = self._open.get(stream, "") + self._decoders[stream].decode(data)
        *lines, last = text.replace("\r\n", "\n").split("\n")
        for line in lines:
            self._print(_as_seen(line))
        last = _as_seen(last)
        if len(last) > _LONGEST:  # a row of dots: it is drawn anew with every dot, and has to end somewhere
            self._print(last)
            last = ""
        self._open[stream] = last

    def flush(self) -> None:
        """Print what was held back: nothing follows."""
        held = [text for text in self._open.values() if text]
        self._open = {}
        for text in held:
            self._print(text)

    def get_renderables(self) -> Iterator[RenderableType]:
        yield from super().get_renderables()
        for text in [*self._open.values()]:
            if text:
                line = Text.from_ansi(text)
                line.no_wrap, line.overflow = True, "ellipsis"
                yield line

    def _print(self, line: str) -> None:
        shown = Text.from_ansi(line.rstrip("\r"))  # colours stay, what moves a cursor does not
        self.console.print(shown, soft_wrap=True)


def _as_seen(line: str) -> str:
    return line[line.rstrip("\r").rfind("\r") + 1 :]


class TrainingBar:
    """A bar over a training: by batches where the script says where it is, else by epochs."""

    def __init__(self, bars: Bars) -> None:
        self._bars = bars
        self._task = bars.add_task("training", total=None)
        self._epochs: int | None = None
        self._batches: int | None = None
        self._begun = False

    def epochs(self, total: int) -> None:
        """Note how many epochs there will be."""
        self._epochs = total
        if self._batches is None:
            self._bars.update(self._task, total=total)

    def epoch(self, epoch: int) -> None:
        """Note that an epoch, from 0, is done."""
        if self._batches is not None:
            return
        self._move(epoch + 1, self._epochs)

    def batch(self, epoch: int | None, batch: int, total: int | None) -> None:
        """Note how many batches of an epoch are done."""
        number = epoch or 0
        if self._epochs is not None:
            title = f"epoch {number + 1} of {self._epochs}"
        else:
            title = "training" if epoch is None else f"epoch {number + 1}"
        if total is None:
            self._bars.update(self._task, description=f"{title}, batch {batch:,}")
            return
        if total != self._batches:
            self._batches, self._begun = total, False
        whole = self._epochs * total if self._epochs is not None else total
        passed = number * total + batch if self._epochs is not None else batch
        self._move(passed, whole, description=title, done=batch, of=total)

    def close(self) -> None:
        self._bars.remove_task(self._task)

    def _move(self, completed: int, total: int | None, **fields: Any) -> None:
        if self._begun:
            self._bars.update(self._task, completed=completed, total=total, **fields)
        else:  # a resumed run has not done in an instant what was done before it
            self._bars.reset(self._task, completed=completed, total=total, **fields)
            self._begun = True


def make_bars() -> Bars:
    """Return bars that vanish when their work is done."""
    columns = SpinnerColumn(), TextColumn("{task.description}", markup=False), BarColumn(bar_width=20), _Facts()
    return Bars(*columns, console=Console(stderr=True))
