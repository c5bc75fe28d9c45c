"""Figures of the benchmarks, as PNG and SVG. Measures nothing; matplotlib is loaded when a figure is drawn."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["Bar", "Curve", "Panel", "bars", "curves"]

INK, MUTED, FAINT = "#1f2933", "#66737f", "#dfe4e8"
OWN, PEER, LIMIT = "#d9480f", "#a9b4bf", "#5f6f7d"


@dataclass(frozen=True, slots=True)
class Bar:
    """One runner: its ratio to the unit with least and greatest sample, what to write at it, and in small behind."""

    name: str
    value: float
    low: float
    high: float
    text: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Panel:
    """One operation: ratios to `unit`, on a log axis; a dashed line where `target` says that ours should end."""

    title: str
    unit: str
    bars: Sequence[Bar]
    target: float | None = None


@dataclass(frozen=True, slots=True)
class Curve:
    """One quantity over the number of entries, both axes logarithmic; `exponent` is that of the line fitted to it."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    exponent: float
    constant: float


def _start() -> Any:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    plt.rcParams.update(
        {
            "font.family": "sans-serif",
            "font.sans-serif": ["DejaVu Sans"],
            "font.size": 9,
            "text.color": INK,
            "axes.edgecolor": FAINT,
            "axes.labelcolor": MUTED,
            "axes.titlesize": 11,
            "axes.titleweight": "bold",
            "xtick.color": MUTED,
            "ytick.color": INK,
            "svg.fonttype": "none",
            "svg.hashsalt": "reprokit",
        }
    )
    return plt


def _finish(plt: Any, figure: Any, file: Path) -> list[Path]:
    paths = [file.with_suffix(".png"), file.with_suffix(".svg")]
    for path in paths:
        figure.savefig(path, dpi=160, facecolor="white")
    plt.close(figure)
    return paths


def _head(figure: Any, title: str, subtitle: str, height: float) -> None:
    figure.text(0.02, 1 - 0.28 / height, title, fontsize=15, fontweight="bold", va="center")
    figure.text(0.02, 1 - 0.56 / height, subtitle, fontsize=8.5, color=MUTED, va="center")


def _ratio_tick(value: float, _: object = None) -> str:
    return f"{value:g}×" if value < 1000 else f"{value:,.0f}×"


def _ticks(low: float, high: float) -> list[float]:
    """Return round ratios within the bars' range: powers of ten, or 1, 2 and 5 of each when those are few."""
    steps = (1,) if high / low > 200 else (1, 2, 5) if high / low < 30 else (1, 3)
    every = [step * 10.0**power for power in range(-6, 7) for step in steps]
    return [tick for tick in every if low <= tick <= high * 1.1]


def bars(file: Path, title: str, subtitle: str, panels: Sequence[Panel], notes: Sequence[str] = ()) -> list[Path]:
    """Draw one panel of horizontal bars for each operation, the fastest on top, and return the files written."""
    plt = _start()
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    panels = [panel for panel in panels if panel.bars]
    if not panels:
        return []
    columns = min(len(panels), 3)
    rows = -(-len(panels) // columns)
    most = max(len(panel.bars) for panel in panels)
    legend = [line for text in notes for line in textwrap.wrap(text, 150, subsequent_indent="   ")]
    legend.insert(
        0, "Bars start at the unit, 1×: to the right is slower or larger. Thin lines: least and greatest sample."
    )
    foot = 0.25 + 0.17 * len(legend)
    panel_height = 0.95 + 0.31 * most
    height = 0.8 + panel_height * rows + foot
    names = 0.3 + 0.072 * max(len(bar.name) for panel in panels for bar in panel.bars)  # inches
    width = max((3.45 + names) * columns, 11)
    figure = plt.figure(figsize=(width, height))
    _head(figure, title, subtitle, height)
    grid = figure.add_gridspec(
        rows,
        columns,
        left=names / width,
        right=1 - 0.25 / width,
        top=1 - (0.8 + 0.42) / height,
        bottom=(foot + 0.38) / height,
        wspace=(names + 0.1) / (width / columns - names - 0.2),
        hspace=0.95 / (0.31 * most),
    )
    for number, panel in enumerate(panels):
        axes = figure.add_subplot(grid[number // columns, number % columns])
        ordered = sorted(panel.bars, key=lambda bar: bar.value)
        low = min(*(bar.low for bar in ordered), 1 / 1.2) / 1.1
        high = max(*(bar.high for bar in ordered), 1.5)
        if panel.target is not None:
            low, high = min(low, panel.target / 1.3), max(high, panel.target)
            axes.axvline(panel.target, color=OWN, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
            axes.annotate("target", (panel.target, -0.6), xytext=(0, 1), textcoords="offset points",
                          fontsize=7, color=OWN, va="bottom", ha="center")  # fmt: skip
        axes.set_xscale("log")
        axes.set_xlim(low, high * (high / low) ** 0.5)  # a third of the width is for the values behind the bars
        axes.set_ylim(most - 0.4, -0.6)
        for place, bar in enumerate(ordered):
            own, limit = bar.name.startswith("reprokit"), bar.name.startswith("limit")
            colour = OWN if own else LIMIT if limit else PEER
            axes.barh(place, bar.value - 1, left=1, height=0.62, color=colour, zorder=2)
            axes.plot([bar.low, bar.high], [place, place], color=INK, linewidth=0.9, alpha=0.55, zorder=3)
            axes.plot(bar.value, place, "o", color=colour, markersize=4.2, zorder=4)
            end = max(bar.high, bar.value, 1)
            axes.annotate(
                bar.text,
                (end, place),
                xytext=(6, 0),
                textcoords="offset points",
                va="center",
                fontsize=9,
                fontweight="bold" if own else "normal",
                color=OWN if own else INK,
                bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5},  # over the line of the target
            )
            if bar.detail:
                axes.annotate(
                    bar.detail,
                    (1, place),
                    xycoords=("axes fraction", "data"),
                    va="center",
                    ha="right",
                    fontsize=8,
                    color=OWN if own else MUTED,
                )
        axes.axvline(1, color=INK, linewidth=1, zorder=1)
        axes.set_yticks(range(len(ordered)), [bar.name for bar in ordered])
        for label in axes.get_yticklabels():
            if label.get_text().startswith("reprokit"):
                label.set(color=OWN, fontweight="bold")
        axes.tick_params(axis="y", length=0, pad=6)
        axes.tick_params(axis="x", which="both", length=0, labelsize=8)
        axes.xaxis.set_major_locator(FixedLocator(_ticks(low, high)))
        axes.xaxis.set_major_formatter(FuncFormatter(_ratio_tick))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.grid(axis="x", color=FAINT, linewidth=0.8, zorder=0)
        axes.set_axisbelow(True)
        axes.spines[["top", "right", "left", "bottom"]].set_visible(False)
        axes.set_title(panel.title, loc="left", pad=20)
        axes.annotate(panel.unit, (0, 1), xytext=(0, 8), xycoords="axes fraction", textcoords="offset points",
                      fontsize=8.5, color=MUTED)  # fmt: skip
    for line, text in enumerate(legend):
        figure.text(0.02, (foot - 0.12 - 0.17 * line) / height, text, fontsize=8, color=MUTED, va="center")
    return _finish(plt, figure, file)


def curves(file: Path, title: str, subtitle: str, panels: Sequence[tuple[str, str, Sequence[Curve]]]) -> list[Path]:
    """Draw quantities over a number of entries with the power law fitted to each; panels are (title, unit, curves)."""
    plt = _start()
    from matplotlib.ticker import FuncFormatter

    height = 4.9
    figure, grid = plt.subplots(1, len(panels), figsize=(5.6 * len(panels), height), squeeze=False)
    figure.subplots_adjust(
        left=0.7 / (5.6 * len(panels)),
        right=1 - 0.3 / (5.6 * len(panels)),
        top=1 - 1.25 / height,
        bottom=0.6 / height,
        wspace=0.18,
    )
    _head(figure, title, subtitle, height)
    colours = (OWN, "#1c7ed6", "#5f6f7d", "#2b8a3e")
    for axes, (heading, unit, lines) in zip(grid[0], panels, strict=True):
        for curve, colour in zip(lines, colours, strict=False):
            axes.loglog(curve.x, curve.y, "o", color=colour, markersize=5, zorder=3)
            fitted = [curve.constant * value**curve.exponent for value in curve.x]
            label = f"{curve.name}  $\\propto n^{{{curve.exponent:.2f}}}$"
            axes.loglog(curve.x, fitted, color=colour, linewidth=1.3, alpha=0.65, label=label)
        axes.set_title(heading, loc="left", pad=20)
        axes.annotate(unit, (0, 1), xytext=(0, 8), xycoords="axes fraction", textcoords="offset points",
                      fontsize=8.5, color=MUTED)  # fmt: skip
        axes.set_xlabel("entries")
        bottom, top = axes.get_ylim()
        axes.set_ylim(bottom, top * (top / bottom) ** 0.22)  # room for the legend
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
        axes.grid(color=FAINT, linewidth=0.8, zorder=0)
        axes.tick_params(which="both", length=0)
        axes.spines[["top", "right", "left", "bottom"]].set_visible(False)
        axes.legend(frameon=False, loc="upper left", fontsize=9)
    return _finish(plt, figure, file)
