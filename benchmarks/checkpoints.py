"""Checkpoints: what saving costs a training, what loading and storing them costs, as ratios of one run.

    python benchmarks/checkpoints.py                  all three of
    python benchmarks/checkpoints.py stall            saves in a training loop: stall, whole time, memory, disk
    python benchmarks/checkpoints.py load             one checkpoint loaded, once and again
    python benchmarks/checkpoints.py disk             saves of a fine-tune with a frozen backbone; a reproduction

The model has 12 layers of --dim × --dim with AdamW: 300 MB of state at 1440. A first look takes a minute:

    python benchmarks/checkpoints.py --dim 256 --saves 2 --steps 2 --reps 1
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import checkpoint_results as results
import checkpoint_runners as runners
import harness
from checkpoint_runners import OWN, RUNNERS, Training
from harness import REPOSITORY, Absent, Failed, Series, SpareMemory, Work

WORKLOADS = ("stall", "load", "disk")
_PROCESS = 1 << 30  # bytes of memory that a training may want besides copies of its state
_WATCHED = 4  # saves of the training whose memory is watched: buffers are all in use by then
_AGAIN = 5  # loads after the first
_OTHERS = 0.3  # cores that others may keep busy; the kernel takes some of that to write back what was stored

# The fine-tune is stored once by each format: how a save waits makes no difference to it.
FORMATS = [
    name for name, runner in RUNNERS.items()
    if runner.stores and name not in ("torch-fsync", "reprokit-process", "reprokit-sync")
]  # fmt: skip


@dataclass
class Bench:
    """One call of this program: what was asked for, who can take part, and what was measured so far."""

    work: Work
    options: argparse.Namespace
    spare: SpareMemory
    threads: int
    series: dict[str, Series]
    facts: dict[str, Any]
    pythons: dict[str, str]

    def training(self, **changes: Any) -> Training:
        options = self.options
        plain = Training(kind="full", dim=options.dim, epochs=options.saves, steps=options.steps, threads=self.threads)
        return replace(plain, **changes)

    def python(self, name: str, series: Series, find: Callable[[Work], str]) -> str | None:
        """Return the Python of a runner; None and a word in `series.absent` if it cannot take part."""
        if name not in self.pythons:
            try:
                self.pythons[name] = find(self.work)
            except Absent as reason:
                series.drop(name, str(reason))
                return None
        return self.pythons[name]


# --------------------------------------------------------------------------------------------------- saving


def race_saves(bench: Bench, names: Sequence[str]) -> None:
    """Every runner trains in turns, reprokit and the limit on one thread less too; then each once, watched."""
    series, options = bench.series["stall"], bench.options
    names = [name for name in names if bench.python(name, series, RUNNERS[name].find)]
    state = 12 * 3 * 4 * (options.dim + 1) * options.dim
    tiny = bench.training(dim=64, epochs=1, steps=1)
    bench.work.settle()
    for repeat in range(-1, options.reps):
        turns = [(name, bench.threads) for name in names]
        if repeat >= 0 and bench.threads > 1:
            turns += [(name, bench.threads - 1) for name in names if name in ("none", *OWN)]
        keys = [f"{name}/{threads}" for name, threads in turns]
        for key in harness.rotated(keys, max(repeat, 0) * 5):  # 5: neighbours change too
            name, threads = turns[keys.index(key)]
            if name in series.absent:
                continue
            try:
                if repeat < 0:
                    bench.work.delete(runners.train(bench.work, name, bench.pythons[name], tiny).root)
                    continue
                harness.quiet_machine(spare=bench.spare, needed=state * (options.saves + 4) + _PROCESS)
                trial = runners.train(bench.work, name, bench.pythons[name], bench.training(threads=threads))
            except Failed as failure:
                series.drop(name, f"failed: {failure}")
                continue
            clocks = trial.clocks
            first, *later = clocks["stalls"]
            values = {
                "wall": trial.wall, "loop": clocks["ended"] - clocks["began"], "drain": trial.drain, "first": first,
                "later": statistics.median(later or [first]), "worst": max(later or [first]),
                "cpu_seconds": trial.cpu_seconds, "stalls": clocks["stalls"],
                "others": trial.others,
            }  # fmt: skip
            series.add(name, f"train on {threads}", repeat, **values)
            if threads == bench.threads:
                size = trial.allocated()
                bench.facts["state_bytes"] = clocks["state_bytes"]
                series.add(name, "store", repeat, bytes=size, ratio=size / clocks["state_bytes"] / options.saves)
            bench.work.delete(trial.root)
            harness.note(
                f"{repeat + 1}/{options.reps} {name:16} on {threads}: first {first:.3f}  later {values['later']:.3f}  "
                f"worst {values['worst']:.3f}  drain {trial.drain:.2f}  wall {trial.wall:.2f}  "
                f"others {trial.others:.1f}"
            )
    watched = bench.training(epochs=min(options.saves, _WATCHED))
    for name in [name for name in names if name not in series.absent]:
        try:
            trial = runners.train(bench.work, name, bench.pythons[name], watched, watch=True)
        except Failed as failure:
            series.drop(name, f"failed while its memory was watched: {failure}")
            continue
        series.add(name, "memory", 0, peak_mib=trial.peak_mib)
        bench.work.delete(trial.root)
        harness.note(f"memory {name:16} {trial.peak_mib:,.0f} MiB")


# --------------------------------------------------------------------------------------------------- loading

LOADERS: dict[str, tuple[str, Callable[[Work], str], str]] = {
    "hash": (
        "limit: hashing",
        RUNNERS["none"].find,
        "the safetensors file read and hashed with SHA-256 in chunks of 8 MiB on two threads; nothing is loaded",
    ),
    "reprokit": ("reprokit", RUNNERS["reprokit"].find, "load_checkpoint(RUN@last).tensors() of model and optimizer"),
    "safetensors": ("safetensors", RUNNERS["safetensors"].find, "load_file; nothing is verified"),
    "torch": ("torch.load", RUNNERS["torch"].find, "nothing is verified"),
    "torch-sha256": ("SHA-256, torch.load", RUNNERS["torch"].find, "the file hashed before it is loaded"),
    "mlflow": ("mlflow", RUNNERS["mlflow"].find, "download_artifacts from a folder, torch.load; nothing is verified"),
}


def race_loads(bench: Bench, names: Sequence[str]) -> None:
    """Every loader in turns, each in a process of its own, reprokit with an empty cache."""
    series, options, work = bench.series["load"], bench.options, bench.work
    names = [name for name in names if bench.python(name, series, LOADERS[name][1])]
    root = work.trial("load")
    variables = runners.environment(work, root)
    reference = root / "reference.pt"
    training = bench.training(epochs=1, steps=1)
    folder = runners.reprokit_repository(root, variables, training, writer=None, reference=reference)
    harness.note("making the checkpoint to load")
    harness.measure(
        [sys.executable, "-m", "reprokit", "run", "recipe.yaml", "-q"],
        cwd=folder,
        environment=variables,
        log=root / "log",
    )
    shared: dict[str, Any] = {
        "torch": str(reference), "safetensors": str(root / "reference.safetensors"), "reprokit": "latest@last",
        "folder": str(root), "packages": sysconfig.get_path("purelib"), "threads": bench.threads, "again": _AGAIN,
    }  # fmt: skip

    def call(name: str, own: Path, *, prepare: bool) -> dict[str, Any]:
        own.mkdir()
        job = own / "job.json"
        job.write_text(json.dumps(shared | {"runner": name, "prepare": prepare}))
        harness.measure(
            [bench.pythons[name], runners.PEERS / "loading.py", job],
            cwd=own,
            environment=variables | {"REPROKIT_CACHE": str(own / "cache")},
            log=own / "log",
        )
        return json.loads((own / "log").read_text().splitlines()[-1])

    for name in ("safetensors", "mlflow"):
        if name in names:
            try:
                shared |= call(name, root / f"prepare-{name}", prepare=True)
            except Failed as failure:
                series.drop(name, f"failed: {failure}")
    store = [path for path in (root / "store").rglob("*") if path.is_file()]
    warm = [*root.glob("reference.*"), *root.glob("artifacts/**/*.pt"), *store]
    size = reference.stat().st_size
    bench.facts["load_bytes"] = size
    for repeat in range(options.reps):
        for name in harness.rotated(names, repeat * 5):
            if name in series.absent:
                continue
            harness.quiet_machine(spare=bench.spare, needed=3 * size + _PROCESS, warm=warm)
            try:
                result = call(name, root / f"{name}-{repeat}", prepare=False)
            except Failed as failure:
                series.drop(name, f"failed: {failure}")
                continue
            if result["contents"] is not None and result["contents"] != shared["contents"]:
                series.drop(name, "failed: other bytes than were saved")
                continue
            again = statistics.median(result["again_and_read"])
            every = {key: result[key] for key in ("again", "again_and_read")}
            series.add(name, "load", repeat, first=result["first"], again=again, every=every)
            harness.note(f"{repeat + 1}/{options.reps} {name:16} first {result['first']:.3f}  again {again:.3f}")


# --------------------------------------------------------------------------------------------------- disk


def compare_disk(bench: Bench, names: Sequence[str]) -> None:
    """Store a fine-tune once by every format, and reproduce reprokit's."""
    series, options = bench.series["disk"], bench.options
    training = bench.training(kind="finetune", steps=1)
    for name in [name for name in names if bench.python(name, series, RUNNERS[name].find)]:
        try:
            trial = runners.train(bench.work, name, bench.pythons[name], training)
            kept = trial.allocated()
            frozen, state = trial.clocks["frozen_bytes"], trial.clocks["state_bytes"]
            least = frozen + options.saves * (state - frozen)
            bench.facts |= {"frozen_bytes": frozen, "head_bytes": state - frozen}
            series.add(name, "fine-tune", 0, bytes=kept, ratio=kept / least)
            harness.note(f"disk   {name:16} {kept / 1e6:,.0f} MB, {kept / least:.2f} × the least")
            if trial.run:
                bench.facts["verdict"] = reproduce(bench, trial)
                added = trial.allocated() - kept
                series.add(name, "reproduction", 0, bytes=added, ratio=added / kept)
                harness.note(f"disk   its reproduction, {bench.facts['verdict']}, added {added / kept:.2%}")
        except Failed as failure:
            series.drop(name, f"failed: {failure}")
            continue
        bench.work.delete(trial.root)


def reproduce(bench: Bench, trial: runners.Trial) -> str:
    """Reproduce a run and return the verdict."""
    assert trial.run is not None
    done = subprocess.run(
        [sys.executable, "-m", "reprokit", "reproduce", trial.run, "-y", "--json"],
        cwd=trial.root / "repository",
        env=runners.environment(bench.work, trial.root),
        capture_output=True,
        text=True,
        check=False,
    )
    try:
        return json.loads(done.stdout)["verdict"]
    except ValueError:
        raise Failed(f"reproduce: {(done.stderr.strip().splitlines() or ['no output'])[-1][:200]}") from None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workload", nargs="*", metavar="WORKLOAD", help="of stall, load, disk (default: all)")
    parser.add_argument("--dim", type=int, default=1440, help="width of the layers (default: %(default)s)")
    parser.add_argument("--saves", type=int, default=10, metavar="K", help="checkpoints (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=12, help="training steps before each (default: %(default)s)")
    harness.add_common_options(parser, reps=3)
    options = parser.parse_args()
    if unknown := [name for name in options.workload if name not in WORKLOADS]:
        parser.error(f"no workload {unknown[0]!r}; there are {', '.join(WORKLOADS)}")
    chosen = [name for name in WORKLOADS if name in options.workload] or list(WORKLOADS)
    wanted = harness.chosen(options.only, list(dict.fromkeys([*RUNNERS, *LOADERS])))
    units = {"stall": ("none", "memcpy"), "load": ("hash", "safetensors"), "disk": ()}
    known = {"stall": list(RUNNERS), "load": list(LOADERS), "disk": FORMATS}
    names = {
        workload: [name for name in known[workload] if name in wanted or name in units[workload]] for workload in chosen
    }
    work = Work(options.work)
    state = 12 * 3 * 4 * (options.dim + 1) * options.dim
    work.need(size=state * (options.saves + 4) * 2, files=20_000)
    facts = harness.machine(work)
    harness.note("touching all free memory once")
    bench = Bench(
        work=work,
        options=options,
        spare=SpareMemory(work.root / "spare-memory"),
        threads=len(os.sched_getaffinity(0)),
        series={workload: Series() for workload in chosen},
        facts={},
        pythons={},
    )
    race = {"stall": race_saves, "load": race_loads, "disk": compare_disk}
    for workload in chosen:
        race[workload](bench, names[workload])
    bench.spare.close()
    facts["load_at_end"] = [round(value, 2) for value in os.getloadavg()]
    found = results.Results(
        series=bench.series, names=names, threads=bench.threads, saves=options.saves, facts=bench.facts,
        loaders={name: (shown, note) for name, (shown, _, note) in LOADERS.items()},
    )  # fmt: skip
    others = [row["others"] for workload in bench.series.values() for row in workload.rows if "others" in row]
    subtitle = f"{harness.machine_line(facts)}; medians of {options.reps} interleaved repeats, min – max"
    stem = options.out / "-".join(["checkpoints", *(chosen if len(chosen) < len(WORKLOADS) else ())])
    harness.write_json(
        stem.with_suffix(".json"),
        {
            "benchmark": "checkpoints",
            "dim": options.dim,
            "saves": options.saves,
            "steps": options.steps,
            "machine": facts,
            "commit": harness.commit(REPOSITORY),
            "facts": bench.facts,
            "targets": [target.row() for target in found.targets()],
            "absent": {workload: series.absent for workload, series in bench.series.items()},
            "samples": {workload: series.rows for workload, series in bench.series.items()},
        },
    )
    found.print_tables()
    print(f"\n{subtitle}", flush=True)
    if others and max(others) > _OTHERS:
        harness.note(f"others kept up to {max(others):.1f} cores busy: run again on a quiet machine")
    with harness.figures_after(options.out):
        found.draw(stem, subtitle)
    work.clean()


if __name__ == "__main__":
    main()
