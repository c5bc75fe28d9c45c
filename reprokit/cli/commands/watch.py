"""status, watch, logs, stop, note."""

from __future__ import annotations

import shutil
import sys
from datetime import UTC, datetime

import click

from reprokit.cli.face import Face, common, reference
from reprokit.cli.text.record import note_line
from reprokit.cli.text.table import metrics_text
from reprokit.cli.text.watched import watched_lines
from reprokit.core.terminal_text import printable, tame
from reprokit.errors import NotFoundError
from reprokit.recording.status import Going, Waiting
from reprokit.recording.status import status as current
from reprokit.runs.history import note as add_note
from reprokit.runs.watching import Seen, Watcher
from reprokit.runs.watching import follow as written_on
from reprokit.runs.watching import logs as written
from reprokit.runs.watching import stop as ask_to_stop

__all__ = ["logs", "note", "status", "stop", "watch"]

_PAUSE = 1.0  # seconds between two looks


@click.command()
@common
def status(face: Face) -> None:
    """Show which runs have not ended, on whatever machine they are, and what this machine has still to store.

    How far a run is, is what its runner told the registry some seconds ago.
    """
    face.recover()
    found = current(context=face.context())
    lines = [line for going in found.going for line in _going_lines(going)] or ["nothing is running"]
    lines += [_waiting_line(waiting) for waiting in found.waiting]
    face.result(found.plain(), lines)


@click.command()
@reference("run", required=False)
@common
def watch(face: Face, run: str | None) -> None:
    """Watch RUN, or the newest that goes on: how far it is, its curves, the end of its log.

    `q` leaves, and the training goes on. It ends with the run; without a terminal it shows how the run stands, once.
    """
    face.recover()
    context = face.context()
    if run is None:
        going = [one for one in current(context=context).going if one.status == "running"]
        if not going:
            raise NotFoundError("Nothing is running.", hint="`reprokit ls` lists what has run; `reprokit watch RUN`.")
        run = going[-1].run_id
    watcher = Watcher(run, registry=context.registry, journals=context.home / "runs")
    if face.as_json or not (sys.stdin.isatty() and sys.stdout.isatty()):
        seen = watcher.look()
        size = shutil.get_terminal_size()
        lines = watched_lines(seen, width=size.columns, height=size.lines, at=datetime.now(UTC))
        face.table(seen.record.plain, lines)
        return
    status_ = _watched(watcher)
    click.echo(f"{watcher.run_id}: {status_}")


def _watched(watcher: Watcher) -> str:
    """Show a run on the whole screen until it ends or `q` is pressed; return its status."""
    import select
    import termios
    import tty

    from rich.console import Group
    from rich.live import Live
    from rich.text import Text

    def drawn(seen: Seen) -> Group:
        size = shutil.get_terminal_size()
        lines = watched_lines(seen, width=size.columns, height=size.lines, at=datetime.now(UTC))
        return Group(*(Text(text, style=style or "", no_wrap=True, overflow="crop") for text, style in lines))

    before = termios.tcgetattr(sys.stdin)
    try:
        tty.setcbreak(sys.stdin)
        seen = watcher.look()
        with Live(drawn(seen), screen=True, auto_refresh=False) as live:
            while seen.record.status == "running":
                ready, _, _ = select.select([sys.stdin], [], [], _PAUSE)
                if ready and sys.stdin.read(1).lower() == "q":
                    break
                seen = watcher.look()
                live.update(drawn(seen), refresh=True)
    except KeyboardInterrupt:
        pass  # as `q` does
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)
    return seen.record.status


@click.command()
@reference("run")
@click.option("-f", "--follow", "following", is_flag=True, help="Go on printing until the run has ended.")
@common
def logs(face: Face, run: str, following: bool) -> None:
    """Print what RUN's script wrote, each line with its time; of a run that goes on elsewhere, what came so far."""
    registry = face.registry()
    face.recover()
    journals = face.config.home / "runs"
    if following and not face.as_json:
        for piece in written_on(run, registry=registry, journals=journals):
            _print(piece)
        return
    run_id, text = written(run, registry=registry, journals=journals)
    if face.as_json:
        face.result({"run_id": run_id, "log": text.decode(errors="replace")}, "")
    else:
        _print(text)


@click.command()
@reference("run")
@click.option("-m", "--message", help="Why; kept in the run's record.")
@click.option("--wait/--no-wait", default=True, show_default=True, help="Wait for its end.")
@common
def stop(face: Face, run: str, message: str | None, wait: bool) -> None:
    """Have RUN stop, on whatever machine it is: its script gets SIGTERM, on which callbacks save and leave.

    The runner looks every two seconds, and `reprokit resume RUN` goes on from what was saved.
    """
    registry = face.registry()
    face.recover()
    with face.task("Waiting for its end", None):
        record = ask_to_stop(run, registry=registry, why=message, wait=None if wait else 0, progress=face)
    last = record.checkpoints[-1].place if record.checkpoints else None
    saved = f", {len(record.checkpoints)} checkpoints, the last at {last}" if last is not None else ""
    told = f"{record.status}{saved}" if record.status != "running" else "it was asked to stop, and goes on until it can"
    face.result({"run_id": record.run_id, "status": record.status}, f"{record.run_id}: {told}")


@click.command()
@reference("run")
@click.argument("text")
@common
def note(face: Face, run: str, text: str) -> None:
    """Say TEXT of RUN: kept in the log of its package with your name and the time, and shown by `show`."""
    found = add_note(run, text, registry=face.registry())
    face.result({"run_id": found.run, "text": found.text, "by": found.by, "at": found.at}, [note_line(found)])


def _print(text: bytes) -> None:
    for line in text.decode(errors="replace").removesuffix("\n").split("\n") if text else ():
        click.echo(tame(line))


def _going_lines(going: Going) -> list[str]:
    """Return a run that has not ended in a few lines. What it told is from the registry, which is anybody's."""
    by = going.by or ("nobody any more" if going.status == "interrupted" else "somebody")
    lines = [f"{going.run_id}  {going.status:<11}  {printable(going.name):<20}  {printable(by, 200)}"]
    now = going.now
    if now is not None and going.status == "running":
        place = f", the last at {printable(now.checkpoint)}" if now.checkpoint else ""
        metrics = metrics_text({printable(name): value for name, value in list(now.metrics.items())[:3]})
        told = f"  {now.checkpoints} checkpoints{place}{f'  {metrics}' if metrics else ''}  (at {printable(now.at)})"
        lines.append(f"{'':21}{told}")
    if going.stop is not None and going.status == "running":
        lines.append(f"{'':23}asked to stop by {printable(str(going.stop), 300)}")
    return lines


def _waiting_line(waiting: Waiting) -> str:
    where = f" for {printable(waiting.registry)}" if waiting.registry else ""
    whose = f"{waiting.run_id}  " if waiting.run_id is not None else ""
    return f"{whose}to be stored{where}: {waiting.what} ({waiting.folder})"
