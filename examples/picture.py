"""Draw what a run came to, and beneath it what `reprokit reproduce` said of it.

    reprokit reproduce RUN -q | python examples/picture.py result.svg RUN --metric val_loss --metric accuracy

Several runs are drawn over each other, with less of what was said of each. `--metric "accuracy=val_accuracy,accuracy"`
gives a panel a title, and takes of each run the first of these metrics that it has. `--table PATH` draws an output of
the first run, a CSV with columns `panel`, `line`, `x` and `y`, beside the metrics. It takes matplotlib.
"""

import argparse
import csv
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")
from matplotlib import pyplot
from matplotlib.axes import Axes

Line = tuple[str, list[float], list[float]]  # label, x, y

width = 9.6  # inches
left = 0.53  # inches from the left edge to the first panel, and to what was said
column = (0.0, 1.75, 2.65)  # inches from there to what was said: of what, equal or not, in detail
in_short = ("reproduce", "checkpoints", "verdict")
colours = ("#2f6fb0", "#d1702a", "#3f8f5f", "#8a5fb0")
greens = re.compile(r"\b(match|BITWISE)\b")
reds = re.compile(r"\b(DIFFERS|DIVERGED|differs?)\b")


def main() -> None:
    parser = argparse.ArgumentParser(description="Draw the metrics of runs, and what `reproduce` said, from stdin.")
    add = parser.add_argument
    add("file", type=Path, help="the picture to write, .svg or .png")
    add("runs", nargs="+", metavar="RUN", help="runs to draw, by ID or name")
    add("--metric", action="append", default=[], dest="metrics", metavar="[TITLE=]NAME,…", help="a panel")
    add("--table", metavar="PATH", help="an output of the first run, to draw as panels")
    add("--x", default="epoch", help="what the metrics are drawn over (%(default)s)")
    arguments = parser.parse_args()

    told = [verdict_of(text) for text in re.split(r"(?m)^(?=\s+reproduce\s)", sys.stdin.read())]
    told = [rows for rows in told if rows]
    if len(told) > 1:
        told = [[row for row in rows if row[0] in in_short] for rows in told]
    if not told:
        parser.error("nothing to say: expected the text of `reprokit reproduce RUN -q` on stdin")
    records = [json.loads(said("show", run, "--json")) for run in arguments.runs]
    panels: dict[str, list[Line]] = {}
    for metric in arguments.metrics:
        title, _, names = metric.rpartition("=")
        panels[title or names] = list(metric_lines(records, names.split(",")))
    over = dict.fromkeys(panels, arguments.x)
    if arguments.table:
        panels |= table_panels(f"runs/{records[0]['run_id']}", arguments.table)
    draw(arguments.file, panels, told, over=over)


def said(*words: str) -> str:
    command = [sys.executable, "-m", "reprokit", *words]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout


def verdict_of(text: str) -> list[list[str]]:
    """Return the rows that begin with `reproduce` and end with `verdict`, each as what, equal or not, and detail."""
    found = re.search(r"(?ms)^\s+reproduce\s.*^\s+verdict\s[^\n]*", text)
    rows = [re.split(r"\s{2,}", line.strip(), maxsplit=2) for line in found[0].splitlines()] if found else []
    return [[row[0], "", row[1]] if len(row) == 2 else row for row in rows]


def metric_lines(records: list[dict[str, Any]], names: list[str]) -> Iterator[Line]:
    """Yield the course of the first metric that a run has of these, run by run: after epoch or round 1, 2, …"""
    for record in records:
        for name in names:
            points = [
                (one["epoch"] + 1, one["metrics"][name]) for one in record["checkpoints"] if name in one["metrics"]
            ]
            if points:
                yield record["name"], [float(epoch) for epoch, _ in points], [float(value) for _, value in points]
                break


def table_panels(package: str, path: str) -> dict[str, list[Line]]:
    """Return the panels of a table among the outputs of a run's record, in the order in which they stand there."""
    with tempfile.TemporaryDirectory() as folder:
        said("install", package, folder)
        rows = list(csv.DictReader((Path(folder) / "outputs" / path).read_text("utf-8").splitlines()))
    panels: dict[str, list[Line]] = {}
    for panel, name in dict.fromkeys((row["panel"], row["line"]) for row in rows):
        its = [row for row in rows if (row["panel"], row["line"]) == (panel, name)]
        line = (name, [float(row["x"]) for row in its], [float(row["y"]) for row in its])
        panels.setdefault(panel, []).append(line)
    return panels


def draw(file: Path, panels: dict[str, list[Line]], told: list[list[list[str]]], *, over: dict[str, str]) -> None:
    """Write the picture: the panels in a row, below them what was said of each run.

    Args:
        over: What the panels of metrics are drawn over, by their names; others are drawn with a diagonal.
    """
    pyplot.rcParams.update(
        {
            "font.size": 9,
            "font.sans-serif": ["DejaVu Sans", "Verdana", "sans-serif"],
            "font.monospace": ["DejaVu Sans Mono", "Menlo", "Consolas", "monospace"],
            "svg.fonttype": "none",  # text stays text
            "svg.hashsalt": "reprokit",
        }
    )
    high, row_high, gap = 2.9, 0.19, 0.12  # inches
    low = sum(len(rows) * row_high + gap for rows in told) + 0.15
    figure, axes = pyplot.subplots(1, len(panels), figsize=(width, high + low), squeeze=False)
    figure.subplots_adjust(
        left=left / width, right=0.985, top=1 - 0.32 / (high + low), bottom=(low + 0.55) / (high + low), wspace=0.24
    )
    for axis, (title, lines) in zip(axes[0], panels.items(), strict=True):
        draw_panel(axis, title, lines, over.get(title))

    top = low - 0.1
    for rows in told:
        for row in rows:
            for place, text in zip(column, row, strict=True):
                figure.text(
                    (left + place) / width, top / (high + low), text, family="monospace", fontsize=8, va="top",
                    color=colour(text), weight="bold" if row[0] == "verdict" and place else "normal",
                )  # fmt: skip
            top -= row_high
        top -= gap
    figure.savefig(file, metadata={"Date": None} if file.suffix == ".svg" else None, dpi=110)


def draw_panel(axis: Axes, title: str, lines: list[Line], over: str | None) -> None:
    """Draw lines over each other; those of a table, whose axes are of one kind, with the diagonal."""
    for colour_of_line, (name, x, y) in zip(colours, lines, strict=False):
        axis.plot(x, y, color=colour_of_line, marker="o" if len(x) <= 20 else "", markersize=3.2, label=name)
    if over is None:
        most = 1.0 if max(len(x) for _, x, _ in lines) > 20 else max(max(*x, *y) for _, x, y in lines)
        axis.plot([0, most], [0, most], color="#999999", linewidth=0.8, linestyle=":")
    axis.set_title(title, loc="left", fontsize=10, weight="bold")
    axis.set_xlabel(over or "")
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(color="#e6e6e6", linewidth=0.7)
    axis.set_axisbelow(True)
    if len(lines) > 1:
        axis.legend(frameon=False, fontsize=8)


def colour(text: str) -> str:
    if reds.search(text):
        return "#b3261e"
    return "#1a7f37" if greens.search(text) else "#333333"


if __name__ == "__main__":
    main()
