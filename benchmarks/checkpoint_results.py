"""Tables, targets and figure of benchmarks/checkpoints.py. Measures nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import figures
import harness
from checkpoint_runners import OWN, RUNNERS
from harness import Series, Spread

__all__ = ["Results", "Target"]

_MIB = 2**20


@dataclass(frozen=True, slots=True)
class Target:
    """A bound that the project set itself; `value` is None when it was not measured."""

    what: str
    runner: str
    value: float | None
    bound: float
    unit: str

    @property
    def verdict(self) -> str:
        if self.value is None:
            return "not measured"
        return "met" if self.value <= self.bound else "missed"

    def row(self) -> dict[str, Any]:
        return asdict(self) | {"verdict": self.verdict}


@dataclass(frozen=True, kw_only=True)
class Results:
    """Everything that was measured; see checkpoints.py for the series' operations.

    Attributes:
        names: Who was asked to take part, by workload.
        facts: Sizes in bytes, and the verdict of the reproduction.
        loaders: What to print for a loader: name and note.
    """

    series: Mapping[str, Series]
    names: Mapping[str, Sequence[str]]
    threads: int
    saves: int
    facts: Mapping[str, Any]
    loaders: Mapping[str, tuple[str, str]]

    def _spread(self, workload: str, runner: str, operation: str, quantity: str) -> Spread | None:
        series = self.series.get(workload)
        return series.spread(runner, operation, quantity) if series else None

    def _train(self, runner: str, quantity: str, threads: int | None = None) -> Spread | None:
        return self._spread("stall", runner, f"train on {threads or self.threads}", quantity)

    def _extra(self, runner: str) -> float | None:
        """Return the bytes of memory at the peak above those of training without saves."""
        own, none = (self._spread("stall", name, "memory", "peak_mib") for name in (runner, "none"))
        return (own.median - none.median) * _MIB if own and none else None

    def _present(self, workload: str) -> list[str]:
        series = self.series.get(workload)
        return [name for name in self.names.get(workload, ()) if name not in series.absent] if series else []

    # ----------------------------------------------------------------------------------------------- targets

    def targets(self) -> list[Target]:
        """Return the targets of the workloads that ran."""
        found: list[Target] = []
        if "stall" in self.series:
            own = [name for name in OWN if name in self._present("stall")]
            for name in [name for name in own if name != "reprokit-sync"]:
                stall = self._train(name, "later")
                for unit, bound in (("memcpy", 1.5), ("torch", 0.05)):
                    value = _ratio(stall, self._train(unit, "later"))
                    found.append(Target("stall of later saves", name, value, bound, f"× {RUNNERS[unit].shown}"))
            for threads in self._thread_counts():
                for name in [name for name in own if name != "reprokit-sync"]:
                    value = _ratio(self._train(name, "wall", threads), self._train("reprokit-sync", "wall", threads))
                    what = f"whole training on {threads} thread{'s' * (threads > 1)}"
                    found.append(Target(what, name, value, 1.03, "× reprokit sync"))
            state = self.facts.get("state_bytes", 0)
            for name in own:
                extra = self._extra(name)
                value = extra / 1e6 if extra is not None else None
                bound = round(2 * state / 1e6 + 200)
                found.append(Target("memory above no saves", name, value, bound, "MB (state × 2 + 200)"))
        if "load" in self.series:
            for phase, unit, bound in (("first", "hash", 1.3), ("again", "safetensors", 1.5)):
                value = _ratio(*(self._spread("load", name, "load", phase) for name in ("reprokit", unit)))
                found.append(Target(f"load, {_PHASES[phase]}", "reprokit", value, bound, f"× {self.loaders[unit][0]}"))
        if "disk" in self.series:
            for operation, bound, unit in (
                ("fine-tune", 1.2, "× backbone once and all heads"),
                ("reproduction", 0.01, "× the original's bytes"),
            ):
                spread = self._spread("disk", "reprokit", operation, "ratio")
                found.append(Target(f"disk, {operation}", "reprokit", spread and spread.median, bound, unit))
        return found

    def _thread_counts(self) -> list[int]:
        every = {row["operation"] for row in self.series["stall"].rows}
        return [count for count in (self.threads, self.threads - 1) if f"train on {count}" in every]

    # ----------------------------------------------------------------------------------------------- tables

    def print_tables(self) -> None:
        screen = harness.console()
        tables = {"stall": self._stall_tables, "load": self._load_tables, "disk": self._disk_tables}
        for workload in self.series:
            for table in tables[workload]():
                screen.print()
                screen.print(table)
            told = workload == "disk" and "stall" in self.series
            for name in self.names[workload] if not told else ():
                shown, note = self.loaders[name] if workload == "load" else (RUNNERS[name].shown, RUNNERS[name].note)
                if text := self.series[workload].absent.get(name) or note:
                    screen.print(f"  {shown:20} {text}", highlight=False, markup=False, soft_wrap=True)
        screen.print()
        screen.print(self._target_table())

    def _rows(self, workload: str, table: Any, cells: Any, columns: int) -> Any:
        """Add a row for each runner: its cells, or dashes if it is absent."""
        from rich.text import Text

        for name in self.names[workload]:
            shown = self.loaders[name][0] if workload == "load" else RUNNERS[name].shown
            if name in self.series[workload].absent:
                table.add_row(Text(shown), *["–"] * columns, style="dim")
            else:
                table.add_row(Text(shown), *cells(name), style="bold cyan" if name in OWN else "")
        return table

    def _stall_tables(self) -> list[Any]:
        megabytes = self.facts.get("state_bytes", 0) / 1e6
        table = harness.table(
            f"Saving {self.saves} times in a training loop: {megabytes:,.0f} MB of model and AdamW, "
            f"{self.threads} threads"
        )
        table.add_column("", no_wrap=True)
        for heading in (
            "stall of later saves\n1× = memcpy", "to\ntorch.save", "the longest\nof them", "first save\n1× = memcpy",
            "memory above\nno saves", "disk\n1× = all states",
        ):  # fmt: skip
            table.add_column(heading, justify="right", no_wrap=True)

        def cells(name: str) -> list[Any]:
            if name == "none":
                return ["–"] * 6
            later, unit = self._train(name, "later"), self._train("memcpy", "later")
            ratio = _ratio(later, self._train("torch", "later"))
            worst, extra = self._train(name, "worst"), self._extra(name)
            kept = self._spread("stall", name, "store", "ratio")
            return [
                harness.ratio_cell(later, unit),
                "–" if ratio is None else f"{ratio:.3f}×" if ratio < 0.1 else harness.ratio_text(ratio),
                harness.seconds_text(worst.high) if worst else "–",
                harness.ratio_cell(self._train(name, "first"), self._train("memcpy", "first")),
                f"{extra / 1e6:+,.0f} MB" if extra is not None else "–",
                f"{kept.median:.2f}×" if kept and RUNNERS[name].stores else "–",
            ]

        return [self._rows("stall", table, cells, 6), self._training_table()]

    def _training_table(self) -> Any:
        table = harness.table("The whole training, from before the first epoch until all processes have ended")
        table.add_column("", no_wrap=True)
        counts = self._thread_counts()
        for count in counts:
            on = f"on {count} thread{'s' * (count > 1)}"
            table.add_column(f"{on}\n1× = no saves", justify="right", no_wrap=True)
            table.add_column("\n1× = sync", justify="right", no_wrap=True)
            table.add_column("after the\nlast save", justify="right", no_wrap=True)
        for heading in ("\nhashes", "waits\nfor disk"):
            table.add_column(heading, justify="center", no_wrap=True)

        def cells(name: str) -> list[Any]:
            found: list[Any] = []
            for count in counts:
                own = self._train(name, "wall", count)
                found += [
                    harness.ratio_cell(own, self._train(unit, "wall", count)) for unit in ("none", "reprokit-sync")
                ]
                drain = self._train(name, "drain", count)
                found.append(harness.seconds_text(drain.median) if drain else "–")
            runner = RUNNERS[name]
            return [*found, "yes" if runner.hashes else "–", "yes" if runner.syncs else "–"]

        return self._rows("stall", table, cells, 3 * len(counts) + 2)

    def _load_tables(self) -> list[Any]:
        table = harness.table(f"Loading a checkpoint of {self.facts.get('load_bytes', 0) / 1e6:,.0f} MB")
        table.add_column("", no_wrap=True)
        for heading in ("the first time\n1× = hashing", "again, and all of it read\n1× = safetensors"):
            table.add_column(heading, justify="right", no_wrap=True)

        def cells(name: str) -> list[Any]:
            first, again = (self._spread("load", name, "load", phase) for phase in ("first", "again"))
            return [
                harness.ratio_cell(first, self._spread("load", "hash", "load", "first")),
                harness.ratio_cell(again, self._spread("load", "safetensors", "load", "again")),
            ]

        return [self._rows("load", table, cells, 2)]

    def _disk_tables(self) -> list[Any]:
        frozen, head = (self.facts.get(key, 0) / 1e6 for key in ("frozen_bytes", "head_bytes"))
        table = harness.table(
            f"{self.saves} saves of a fine-tune: backbone of {frozen:,.0f} MB, head with AdamW of {head:,.1f} MB"
        )
        table.add_column("", no_wrap=True)
        table.add_column("disk\n1× = backbone once, all heads", justify="right", no_wrap=True)
        table.add_column("a reproduction adds\n1× = the original", justify="right", no_wrap=True)

        def cells(name: str) -> list[Any]:
            kept = self._spread("disk", name, "fine-tune", "ratio")
            size = self._spread("disk", name, "fine-tune", "bytes")
            added = self._spread("disk", name, "reproduction", "ratio")
            verdict = self.facts.get("verdict", "")
            return [
                f"{harness.ratio_text(kept.median)}  {size.median / 1e6:6,.0f} MB" if kept and size else "–",
                f"{added.median:.2%} ({verdict})" if added else "–",
            ]

        return [self._rows("disk", table, cells, 2)]

    def _target_table(self) -> Any:
        table = harness.table("Targets")
        for heading, justify in (
            ("", "left"),
            ("", "left"),
            ("measured", "right"),
            ("at most", "right"),
            ("", "left"),
            ("", "left"),
        ):
            table.add_column(heading, justify=justify, no_wrap=True)
        for target in self.targets():
            value = "–" if target.value is None else _digits(target.value)
            style = {"met": "green", "missed": "red"}.get(target.verdict, "dim")
            verdict = f"[{style}]{target.verdict}[/]"
            table.add_row(target.what, RUNNERS[target.runner].shown, value, _digits(target.bound), target.unit, verdict)
        return table

    # ----------------------------------------------------------------------------------------------- figure

    def draw(self, file: Path, subtitle: str) -> list[Path]:
        panels: list[figures.Panel] = []
        if "stall" in self.series:
            saving = [name for name in self._present("stall") if name != "none"]
            unit = self._train("memcpy", "later")
            bars = [_bar(RUNNERS[name].shown, self._train(name, "later"), unit) for name in saving]
            panels.append(_panel("stall of later saves", "1 = memcpy into buffers made before", bars, 1.5))
            bars = [
                _bar(RUNNERS[name].shown, self._train(name, "first"), self._train("memcpy", "first")) for name in saving
            ]
            panels.append(_panel("first save", "1 = memcpy into buffers made before", bars))
            bars = [
                _bar(RUNNERS[name].shown, self._train(name, "wall"), self._train("none", "wall")) for name in saving
            ]
            panels.append(_panel("whole training", "1 = without saves, on all cores", bars))
            panels.append(self._memory_panel(saving))
        if "load" in self.series:
            for phase, unit_name, bound in (("first", "hash", 1.3), ("again", "safetensors", 1.5)):
                unit = self._spread("load", unit_name, "load", phase)
                bars = [
                    _bar(self.loaders[name][0], self._spread("load", name, "load", phase), unit)
                    for name in self._present("load")
                ]
                of = "hashing on two threads" if unit_name == "hash" else "safetensors"
                panels.append(_panel(f"load, {_PHASES[phase]}", f"1 = {of}", bars, bound))
        if "disk" in self.series:
            bars = []
            for name in self._present("disk"):
                ratio = self._spread("disk", name, "fine-tune", "ratio")
                size = self._spread("disk", name, "fine-tune", "bytes")
                if ratio and size:
                    text = harness.ratio_text(ratio.median)
                    bars.append(figures.Bar(RUNNERS[name].shown, *_three(ratio), text, f"{size.median / 1e6:,.0f} MB"))
            panels.append(_panel(f"disk, {self.saves} saves of a fine-tune", "1 = backbone once, all heads", bars, 1.2))
        notes = []
        for workload, series in self.series.items():
            for name, reason in series.absent.items():
                shown = self.loaders[name][0] if workload == "load" else RUNNERS[name].shown
                notes.append(f"{shown}: {reason}")
        return figures.bars(file, "Checkpoints", subtitle, panels, list(dict.fromkeys(notes)))

    def _memory_panel(self, names: Sequence[str]) -> figures.Panel:
        none, bars = self._spread("stall", "none", "memory", "peak_mib"), []
        bound = None
        if none:
            state = self.facts.get("state_bytes", 0)
            bound = 1 + (2 * state + 200e6) / _MIB / none.median
            for name in names:
                if spread := self._spread("stall", name, "memory", "peak_mib"):
                    ratio = spread.over(none.median)
                    text = harness.ratio_text(ratio.median)
                    bars.append(figures.Bar(RUNNERS[name].shown, *_three(ratio), text, f"{spread.median:,.0f} MiB"))
        return _panel("peak memory of all processes", "1 = without saves", bars, bound)


_PHASES = {"first": "the first time", "again": "again and read"}


def _ratio(own: Spread | None, unit: Spread | None) -> float | None:
    return own.median / unit.median if own and unit else None


def _three(spread: Spread) -> tuple[float, float, float]:
    return spread.median, spread.low, spread.high


def _bar(shown: str, own: Spread | None, unit: Spread | None) -> figures.Bar | None:
    if own is None or unit is None:
        return None
    ratio = own.over(unit.median)
    return figures.Bar(shown, *_three(ratio), harness.ratio_text(ratio.median), harness.seconds_text(own.median))


def _panel(title: str, unit: str, bars: Sequence[figures.Bar | None], target: float | None = None) -> figures.Panel:
    return figures.Panel(title, unit, [bar for bar in bars if bar is not None], target)


def _digits(value: float) -> str:
    return f"{value:,.0f}" if value >= 20 else f"{value:.2f}" if value >= 0.1 else f"{value:.4f}"
