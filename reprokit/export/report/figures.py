"""The plots of a report: SVG that stands in a page, takes its fonts and follows its light or dark scheme.

Colours are those of the light scheme; `theme` gives the style rules that change them in the dark one. A colour means
one thing in all plots, none is told from another by its hue alone. Same data and matplotlib, same bytes.
"""

from __future__ import annotations

import io
import math
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from xml.etree import ElementTree

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch
from matplotlib.path import Path as Outline
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullFormatter

from reprokit.core.terminal_text import printable
from reprokit.export.report.data import Cell, Curve, Grid, Points
from reprokit.export.report.reading import Histogram

__all__ = ["draw_apart", "draw_curve", "draw_grid", "draw_weights", "legend", "theme"]

INK, SOFT, RULE = "#1c2128", "#5b6472", "#dde2e8"
ONE, OTHER = "#2b6cb0", "#c2500c"
EQUAL, DIFFERS, UNLIKE = "#dbe5ee", "#a3adb9", "#8b95a1"
RAMP = ("#fdeab8", "#fccb77", "#f8a04f", "#ec7345", "#d2465c", "#a42c73", "#6c1f7d", "#37135f")
_DARK = {
    INK: "#e6e9ee", SOFT: "#9ba5b3", RULE: "#353e4a", ONE: "#6fb1f4", OTHER: "#ff9f61",
    EQUAL: "#26323f", DIFFERS: "#667280", UNLIKE: "#7b8693",
    RAMP[0]: "#41306b", RAMP[1]: "#613383", RAMP[2]: "#8a3983", RAMP[3]: "#b5437a",
    RAMP[4]: "#db5965", RAMP[5]: "#f28055", RAMP[6]: "#fbae5a", RAMP[7]: "#fde391",
}  # fmt: skip

_STYLE: Any = {  # matplotlib types each key
    "svg.fonttype": "none",  # text stays text: it can be searched, copied and read aloud
    "svg.hashsalt": "reprokit",
    "text.parse_math": False,  # a metric may be called $x$
    "font.size": 11.5,
    "axes.edgecolor": RULE,
    "axes.labelcolor": SOFT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 1.0,
    "axes.unicode_minus": True,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": RULE,
    "grid.linewidth": 0.7,
    "text.color": INK,
    "xtick.color": RULE,
    "ytick.color": RULE,
    "xtick.labelcolor": SOFT,
    "ytick.labelcolor": SOFT,
    "xtick.labelsize": 11,
    "ytick.labelsize": 11,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "xtick.minor.size": 0,
    "ytick.minor.size": 0,
    "axes.xmargin": 0.02,
    "path.simplify": False,
}
_WIDTH, _HEIGHT = 440, 210
_NUMBER = re.compile(r"-?\d+\.\d+")
_SVG = "{http://www.w3.org/2000/svg}"
_XLINK = "{http://www.w3.org/1999/xlink}"


def theme() -> str:
    """Return the style rules that draw the plots for a dark page."""
    rules = [
        f'.plot [fill="{light}"]{{fill:{dark}}}.plot [stroke="{light}"]{{stroke:{dark}}}'
        for light, dark in _DARK.items()
    ]
    return "".join(rules)


# --------------------------------------------------------------------------------------------------- curves


def draw_curve(curve: Curve, label: str, *, own: str) -> str:
    """Draw a metric of one run or, over each other, of two: a broad line, and a dashed one on it.

    Args:
        label: What is seen, in words.
        own: What names inside the plot begin with: those of another plot on the page must not be the same.
    """
    with _figure(_WIDTH, _HEIGHT, own) as (figure, done):
        axes = _axes(figure, left=58, bottom=38, top=8, right=10)
        logarithmic = _logarithmic([*curve.one, *(curve.other or [])])
        if logarithmic:
            axes.set_yscale("log")
        _line(
            axes,
            curve.one,
            color=ONE,
            width=5 if curve.other is not None else 2,
            alpha=0.45 if curve.other is not None else 1,
        )
        if curve.other is not None:
            _line(axes, curve.other, color=OTHER, width=1.8, dashes=(4, 2))
        if curve.apart is not None and math.isfinite(curve.apart):
            axes.axvline(curve.apart, color=SOFT, linewidth=1, linestyle=(0, (1, 2)))
        if not curve.one and not curve.other:
            axes.set_axis_off()
            axes.text(0.5, 0.5, "no finite value", transform=axes.transAxes, ha="center", color=SOFT)
            return done(label)
        axes.set_xlabel(curve.axis)
        _numbers(axes, logarithmic=logarithmic)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        return done(label)


def _line(
    axes: Axes, points: Points, *, color: str, width: float, alpha: float = 1, dashes: tuple[float, float] | None = None
) -> None:
    xs, ys = [x for x, _ in points], [y for _, y in points]
    style = (0, dashes) if dashes else "-"
    marker = "o" if len(points) <= 2 else None
    axes.plot(xs, ys, color=color, linewidth=width, alpha=alpha, linestyle=style, marker=marker, markersize=width + 3,
              solid_capstyle="round", solid_joinstyle="round")  # fmt: skip


def _logarithmic(points: Points) -> bool:
    values = [y for _, y in points]
    return bool(values) and min(values) > 0 and max(values) / min(values) > 1000


def _numbers(axes: Axes, *, logarithmic: bool) -> None:
    if not logarithmic:
        axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.yaxis.set_minor_formatter(NullFormatter())
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda value, _: _short(value)))


def _short(value: float) -> str:
    text = f"{value:.4g}"
    return (re.sub(r"e([+-])0*(\d)", r"e\1\2", text).replace("e+", "e")).replace("-", "−")


# ------------------------------------------------------------------------------------------------- heatmap


def bins(sizes: Sequence[float]) -> list[float]:
    """Return the upper ends of what the colours of RAMP stand for, the last one infinite.

    A colour means the same in all reports, from 1e-7, the rounding of a float32, to 10 % and more; only where smaller
    sizes are seen, as of float64, it stands for more than one decade.
    """
    smallest = min((size for size in sizes if size > 0), default=1.0)
    decades = min(max(-math.floor(math.log10(min(smallest, 1.0))) - 1, 7), 300)
    step = math.ceil(decades / (len(RAMP) - 1))
    return [*(float(f"1e{-step * i}") for i in range(len(RAMP) - 1, 0, -1)), math.inf]


def _bin(size: float, ends: Sequence[float]) -> int:
    return next((i for i, end in enumerate(ends) if size <= end), len(ends) - 1)


def legend(grid: Grid) -> list[tuple[str, str]]:
    """Return what the colours of a grid mean: (SVG of a swatch, words), of those that it has."""
    kinds = {cell.kind for row in grid.cells for cell in row}
    found = [(_swatch(EQUAL), "equal in every bit")] if "equal" in kinds else []
    if "apart" in kinds:
        ends = bins(grid.sizes)
        seen = [_bin(size, ends) for size in grid.sizes]
        for number in range(min(seen), max(seen) + 1):
            to = "up to" if number == min(seen) else "to"
            words = f"{to} {_parts(ends[number])}" if math.isfinite(ends[number]) else f"above {_parts(ends[-2])}"
            found.append((_swatch(RAMP[number]), words))
    if "unmeasured" in kinds:
        found.append((_swatch(DIFFERS), "differs"))
    if "unlike" in kinds:
        hatch = f'<path d="M0 7L7 0M0 14L14 0M7 14L14 7" stroke="{UNLIKE}" stroke-width="1.5" fill="none"/>'
        found.append((_swatch("none", hatch), "in one run only, or of another shape"))
    return found


def _parts(size: float) -> str:
    return f"{100 * size:g} %" if 1e-3 <= size < 1e3 else f"1e{round(math.log10(size))}".replace("-", "−")


def _swatch(color: str, inside: str = "") -> str:
    square = f'<rect x="0.5" y="0.5" width="13" height="13" rx="2" fill="{color}" stroke="{RULE}"/>'
    return f'<svg class="plot" viewBox="0 0 14 14" width="14" height="14" aria-hidden="true">{square}{inside}</svg>'


def draw_grid(grid: Grid, label: str) -> str:
    """Draw tensors by checkpoints: a tile each, coloured by how far the two are apart."""
    names = [printable(row, 36) for row in grid.rows]
    left = 14 + 6.4 * max(map(len, names))
    height = 19 if len(names) > 12 else 24
    width, total = 900, 26 + height * len(names) + 44
    with _figure(width, total, "map-") as (figure, done):
        axes = _axes(figure, left=left, bottom=44, top=26, right=6)
        axes.grid(False)
        axes.set_xlim(-0.5, len(grid.columns) - 0.5)
        axes.set_ylim(len(names) - 0.5, -0.5)
        for spine in axes.spines.values():
            spine.set_visible(False)
        columns = min(len(grid.columns), 60)
        tile = _tile(min((width - left) / columns, 60) / ((width - left) / columns))
        ends = bins(grid.sizes)
        places: dict[str, list[tuple[int, int]]] = {}
        for y, row in enumerate(grid.cells):
            for x, cell in enumerate(row):
                places.setdefault(_color(cell, ends), []).append((x, y))
        for color, found in sorted(places.items()):
            if color == "unlike":
                _fill(axes, found, tile, facecolor="none", edgecolor=UNLIKE, hatch="////", linewidth=0.8)
            elif color:
                _fill(axes, found, tile, facecolor=color, edgecolor="none", linewidth=0)
        axes.axhline(0.5, color=RULE, linewidth=1)
        first = next((x for x, cell in enumerate(grid.cells[0]) if cell.kind != "equal"), None)
        if first is not None:
            side = "left" if first < len(grid.columns) * 0.7 else "right"
            text = "▼ first difference" if side == "left" else "first difference ▼"
            shift = -0.5 * tile if side == "left" else 0.5 * tile
            axes.text(first + shift, -0.62, text, ha=side, va="bottom", fontsize=11.5, color=INK, fontweight="bold")
        axes.yaxis.set_major_locator(FixedLocator(range(len(names))))
        axes.set_yticklabels(names, color=INK)
        every = -(-len(grid.columns) // 20)
        ticks = range(0, len(grid.columns), every)
        axes.xaxis.set_major_locator(FixedLocator(ticks))
        axes.set_xticklabels([grid.columns[x] for x in ticks])
        axes.set_xlabel("checkpoint, by epoch; the start is the state before training")
        return done(label)


def _tile(share: float) -> float:
    return 0.92 * min(share, 1)


def _color(cell: Cell, ends: Sequence[float]) -> str:
    if cell.kind == "apart":
        return RAMP[_bin(cell.size, ends)]
    return {"equal": EQUAL, "unmeasured": DIFFERS, "unlike": "unlike", "absent": ""}[cell.kind]


def _fill(axes: Axes, places: list[tuple[int, int]], width: float, **style: Any) -> None:
    """Draw all tiles of a colour as one path: a file of some KB, where one for each has MB."""
    corners = [(-width / 2, -0.44), (width / 2, -0.44), (width / 2, 0.44), (-width / 2, 0.44), (-width / 2, -0.44)]
    points = [(x + dx, y + dy) for x, y in places for dx, dy in corners]
    codes = [Outline.MOVETO, Outline.LINETO, Outline.LINETO, Outline.LINETO, Outline.CLOSEPOLY] * len(places)
    axes.add_patch(PathPatch(Outline(points, codes), **style))


# ---------------------------------------------------------------------------------------------- histograms


def draw_weights(found: Histogram, label: str) -> str:
    """Draw how a tensor's numbers are distributed: of the original filled, of the other as an outline."""
    with _figure(_WIDTH, _HEIGHT, "weights-") as (figure, done):
        axes = _axes(figure, left=58, bottom=38, top=8, right=10)
        axes.stairs(found.one, found.edges, fill=True, color=ONE, alpha=0.45, linewidth=0)
        axes.stairs(found.other, found.edges, color=OTHER, linewidth=1.6)
        axes.set_xlabel("value of a weight")
        _counts(axes)
        return done(label)


def draw_apart(found: Histogram, label: str) -> str:
    """Draw how the differences of a tensor's numbers are distributed."""
    with _figure(_WIDTH, _HEIGHT, "apart-") as (figure, done):
        axes = _axes(figure, left=58, bottom=38, top=8, right=10)
        axes.stairs(found.apart, found.apart_edges, fill=True, color=SOFT, alpha=0.6, linewidth=0)
        axes.axvline(0, color=INK, linewidth=1)
        axes.set_xlabel("difference: the repetition's weight − the original's")
        _counts(axes)
        return done(label)


def _counts(axes: Axes) -> None:
    axes.set_ylim(bottom=0)
    axes.grid(False, axis="x")
    axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.xaxis.set_major_locator(MaxNLocator(5))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda value, _: _short(value)))


# ------------------------------------------------------------------------------------------------------ SVG


@contextmanager
def _figure(width: float, height: float, own: str) -> Iterator[tuple[Figure, Callable[[str], str]]]:
    """Give a figure of so many pixels, and what makes SVG of it and a label. No state of pyplot is used."""
    with warnings.catch_warnings(), matplotlib.rc_context():
        warnings.simplefilter("ignore")  # of letters that its fonts lack: the browser's have them
        matplotlib.rcParams.update(_DEFAULTS)  # whatever a matplotlibrc says
        matplotlib.rcParams.update(_STYLE)
        figure = Figure(figsize=(width / 72, height / 72))

        def done(label: str) -> str:
            sink = io.BytesIO()
            empty = {"Date": None, "Creator": None, "Format": None, "Type": None}
            figure.savefig(sink, format="svg", transparent=True, metadata=empty)
            return _embedded(sink.getvalue(), label, own)

        yield figure, done


_DEFAULTS = {
    key: value for key, value in matplotlib.rcParamsDefault.items() if key not in ("backend", "backend_fallback")
}


def _axes(figure: Figure, *, left: float, bottom: float, top: float, right: float) -> Axes:
    width, height = figure.get_size_inches() * 72
    return figure.add_axes((left / width, bottom / height, 1 - (left + right) / width, 1 - (top + bottom) / height))


def _embedded(svg: bytes, label: str, own: str) -> str:
    """Return matplotlib's SVG as part of a page: attributes for styles, short numbers, `own` before its names."""
    root = ElementTree.fromstring(svg)  # noqa: S314 - matplotlib's own, and has no entities
    parents = {child: parent for parent in root.iter() for child in parent}
    used = {name for element in root.iter() for name in map(_target, element.attrib.values()) if name}
    for element in list(root.iter()):
        element.tail = None
        if element.tag in (f"{_SVG}style", f"{_SVG}metadata") or element.tag not in _KNOWN:
            parents[element].remove(element)
            continue
        _plain(element)
        identity = element.attrib.pop("id", None)
        if identity in used:
            element.set("id", own + identity)
        for name, value in element.attrib.items():
            if _target(value) in used:
                element.set(name, value.replace("#", f"#{own}"))
        if element.tag != f"{_SVG}text":
            element.text = None
    _unfold(root)
    width, height = (float(value) for value in root.attrib["viewBox"].split()[2:])
    root.attrib.clear()
    root.attrib |= {"viewBox": f"0 0 {width:g} {height:g}", "class": "plot", "role": "img", "aria-label": label}
    ElementTree.register_namespace("", _SVG.strip("{}"))
    ElementTree.register_namespace("xlink", _XLINK.strip("{}"))
    return ElementTree.tostring(root, encoding="unicode")


def _target(value: str) -> str:
    """Return the name of the element that an attribute refers to, of matplotlib's making: a letter and ten digits."""
    found = _REFERENCE.fullmatch(value)
    return found[1] if found else ""


_REFERENCE = re.compile(r"(?:url\()?#([a-z][0-9a-f]{10})\)?")
_KNOWN = {
    f"{_SVG}{name}" for name in ("svg", "g", "path", "text", "tspan", "use", "defs", "clipPath", "rect", "pattern")
}


def _plain(element: ElementTree.Element) -> None:
    """Turn the style of an element into attributes: a page may forbid styles, and rules can find colours there."""
    for part in element.attrib.pop("style", "").split(";"):
        name, _, value = (text.strip() for text in part.partition(":"))
        if name == "font":  # as matplotlib before 3.10 spells it
            size, bold = re.search(r"(\d+(?:\.\d+)?)px", value), "bold" in value or "700" in value
            element.attrib |= {"font-size": size[1] if size else "11"} | ({"font-weight": "bold"} if bold else {})
        elif name == "font-size":
            element.set(name, value.removesuffix("px"))
        elif name and name != "font-family":
            element.set(name, value)
    for name in ("d", "x", "y", "transform", "width", "height"):
        if name in element.attrib:
            element.set(
                name,
                " ".join(
                    _NUMBER.sub(
                        lambda found: f"{float(found[0]):.2f}".rstrip("0").rstrip("."), element.attrib[name]
                    ).split()
                ),
            )
    if element.attrib.get("transform", "").startswith("rotate(-0 "):
        del element.attrib["transform"]


def _unfold(root: ElementTree.Element) -> None:
    """Take out groups that say nothing."""
    for element in list(root.iter()):
        kept: list[ElementTree.Element] = []
        for child in list(element):
            kept += _flat(child)
            element.remove(child)
        element.extend(kept)


def _flat(element: ElementTree.Element) -> list[ElementTree.Element]:
    if element.tag == f"{_SVG}g" and not element.attrib:
        return [inner for child in element for inner in _flat(child)]
    empty = element.tag == f"{_SVG}defs" and not len(element)
    return [] if empty else [element]
