"""What a script writes and the bar over its training do not mix, on a real terminal of 80 columns."""

from __future__ import annotations

import os
import select
import sys
import time
from io import StringIO

import pyte
import pytest
from rich.console import Console
from rich.progress import TextColumn

from reprokit.cli.text.bars import Bars, TrainingBar, _Facts, make_bars
from tests import terminals
from tests.conftest import Project

_ROWS, _COLUMNS = 40, 80


def bars() -> tuple[Bars, StringIO]:
    said = StringIO()
    console = Console(file=said, force_terminal=False, width=_COLUMNS)
    return Bars(TextColumn("{task.description}", markup=False), _Facts(), console=console), said


def facts(shown: Bars) -> str:
    (task,) = shown.tasks
    return str(_Facts()(task))


def test_lines_are_printed_when_they_are_whole_and_each_stream_has_its_own() -> None:
    shown, said = bars()
    shown.write("stdout", b"Epoch 0: ")
    shown.write("stderr", b"a warning\n")
    shown.write("stdout", b"loss 0.5\nEpoch")
    assert said.getvalue() == "a warning\nEpoch 0: loss 0.5\n"
    assert [str(one) for one in [*shown.get_renderables()][1:]] == ["Epoch"]
    shown.flush()
    assert said.getvalue() == "a warning\nEpoch 0: loss 0.5\nEpoch\n"
    assert len([*shown.get_renderables()]) == 1


def test_of_a_line_that_is_written_over_the_last_state_is_left() -> None:
    shown, said = bars()
    for percent in (b"\r 10%", b"\r 50%", b"\r100%"):
        shown.write("stderr", percent)
        assert str([*shown.get_renderables()][1]) == percent.decode()[1:]
    shown.write("stderr", b"\n")
    shown.write("stdout", b"from Windows\r\n")
    shown.write("stdout", b"half\r")
    shown.write("stdout", b"\nwhole\r\r\n")
    assert said.getvalue() == "100%\nfrom Windows\nhalf\nwhole\n"


def test_a_line_that_never_ends_is_printed_in_pieces() -> None:
    shown, said = bars()
    for _ in range(10_000):
        shown.write("stdout", b".")
    assert said.getvalue() == f"{'.' * 4097}\n" * 2
    shown.flush()
    assert said.getvalue().replace("\n", "") == "." * 10_000


def test_a_character_may_come_in_two_pieces_and_bytes_that_are_none_are_shown_as_such() -> None:
    shown, said = bars()
    for piece in ("é".encode()[:1], "é".encode()[1:], b"\xff\n"):
        shown.write("stdout", piece)
    assert said.getvalue() == "é�\n"


def test_colours_stay_and_what_moves_a_cursor_does_not() -> None:
    said = StringIO()
    shown = Bars(console=Console(file=said, force_terminal=True, width=_COLUMNS, color_system="standard"))
    shown.write("stdout", b"\x1b[2A\x1b[32mgreen\x1b[0m\x1b[K [bold]no markup[/bold]\n")
    assert said.getvalue() == "\x1b[32mgreen\x1b[0m [bold]no markup[/bold]\n"


def test_a_training_is_counted_by_batches_where_their_number_is_known() -> None:
    shown, _ = bars()
    training = TrainingBar(shown)
    training.epochs(10)
    training.epoch(0)
    assert facts(shown).startswith("1/10")
    training.batch(1, 20, 100)
    (task,) = shown.tasks
    assert (task.description, task.completed, task.total) == ("epoch 2 of 10", 120, 1000)
    assert facts(shown).startswith("20/100  0:00")
    assert task.speed is None  # 120 batches were not done in an instant
    training.epoch(1)  # the batches count
    assert shown.tasks[0].completed == 120
    training.batch(2, 1, 50)
    assert (shown.tasks[0].completed, shown.tasks[0].total) == (101, 500)
    training.close()
    assert shown.tasks == []


def test_where_epochs_or_batches_are_not_known_what_is_known_is_said() -> None:
    shown, _ = bars()
    training = TrainingBar(shown)
    training.batch(None, 7, None)
    assert (shown.tasks[0].description, shown.tasks[0].total) == ("training, batch 7", None)
    training.batch(3, 1234, None)
    assert shown.tasks[0].description == "epoch 4, batch 1,234"
    training.batch(3, 5, 20)
    assert (shown.tasks[0].description, shown.tasks[0].completed, shown.tasks[0].total) == ("epoch 4", 5, 20)


@pytest.mark.parametrize(
    ("unit", "done", "total", "told"),
    [("bytes", 5_000_000, 20_000_000, "5.0 MB of 20.0 MB  1.0 MB/s  0:15 left"),
     ("files", 50, 20_000, "50/20,000  10.0/s  33:15 left"), ("files", 1, 3, "1/3  5.0 s each  0:10 left"),
     ("files", 2, None, "2  2.5 s each  0:05"), ("bytes", 0, None, "0:05")],
)  # fmt: skip
def test_amount_rate_and_time_left(unit: str, done: int, total: int | None, told: str) -> None:
    clock = [0.0]
    shown = Bars(console=Console(file=StringIO()))
    shown.get_time = lambda: clock[0]
    task = shown.add_task("some", total=total, unit=unit)
    clock[0] = 2.5
    shown.update(task, completed=done / 2)
    clock[0] = 5.0
    shown.update(task, completed=done)
    assert facts(shown) == told


def test_a_terminal_shows_bar_script_and_checkpoints_without_debris(project: Project) -> None:
    project.write(
        "train.py",
        """
import sys, time
import reprokit
from reprokit.callbacks.sklearn import PackageCheckpoint
from sklearn.linear_model import SGDRegressor

model = SGDRegressor()
ckpt = PackageCheckpoint(estimator=model)
for epoch in ckpt.epochs(3):
    print(f"Epoch {epoch}: ", end="", flush=True)
    for percent in range(0, 101, 20):
        print(f"\\rbar {percent:3}% " + "#" * (percent // 4), end="", file=sys.stderr, flush=True)
        time.sleep(0.05)
    print(file=sys.stderr)
    print("x" * 100 + " done", flush=True)
    model.partial_fit([[0.0], [1.0]], [0.0, 1.0])
    ckpt.save(loss=0.5)
print("the end", end="")
""",
    )
    project.commit()
    project.build()
    screen = on_a_terminal([sys.executable, "-m", "reprokit", "run", "recipe.yaml"], project)
    for epoch in range(3):
        assert f"Epoch {epoch}: {'x' * 71}\n{'x' * 29} done\n" in "\n".join(screen)
    assert [line for line in screen if line.startswith("bar ")] == ["bar 100% " + "#" * 25] * 3
    assert sum(line.startswith("  saved epoch ") for line in screen) == 3
    assert screen.index("the end") < next(place for place, line in enumerate(screen) if line.startswith("  run "))
    assert not [line for line in screen if "━" in line], "the bar is gone"


def on_a_terminal(command: list[str], project: Project) -> list[str]:
    """Run a command on a terminal; return its lines at the end."""
    screen = pyte.Screen(_COLUMNS, _ROWS)
    stream = pyte.ByteStream(screen)
    pid, terminal = terminals.on_a_terminal(command, project, rows=_ROWS, columns=_COLUMNS)
    until = time.monotonic() + 120
    while time.monotonic() < until:
        if select.select([terminal], [], [], 0.1)[0]:
            try:
                data = os.read(terminal, 65536)
            except OSError:  # Linux says so at the end
                break
            stream.feed(data)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0, "\n".join(screen.display)
    return [line.rstrip() for line in screen.display]


def test_bars_go_to_stderr() -> None:
    assert make_bars().console.stderr
