"""`reprokit diff` of two runs of many checkpoints, from metadata alone, as whole processes.

    python benchmarks/diffing.py
    python benchmarks/diffing.py --checkpoints 50 --tensors 20 --reps 3        a first look

The two runs have one lock but for a parameter and a file of the code; their checkpoints are equal for the first half,
and every tensor of the others differs. The objects of all checkpoints are deleted before anything is measured: nothing
of them can be read. `git diff --numstat` is given the same facts: a commit for each run, in it a file for each
checkpoint with a line for each tensor.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import harness
from harness import REPOSITORY, Series, Work

from reprokit.schema.lock import CodeIdentity, EnvironmentLock, PipPackage, RunLock
from reprokit.schema.recipe import from_plain

TARGET = 1.0  # seconds
RUNS = ("20260101-000000-aaaaaa", "20260102-000000-bbbbbb")
_PACKAGE = "benchmark/model"


def tensor(side: int, epoch: int, number: int, half: int) -> bytes:
    """Return a float32 [8]: of the first half of the epochs the same on both sides."""
    return hashlib.sha256(f"{side if epoch >= half else 0} {epoch} {number}".encode()).digest()


def name_of(number: int) -> str:
    return f"layer{number // 10}.{number % 10}.weight"


def _lock(side: int) -> RunLock:
    params = {"rate": 0.1 + side / 1e7}
    made = {"name": "made", "code": {"entrypoint": "module0.py"}, "checkpoints": {"package": _PACKAGE}}
    recipe = from_plain({**made, "params": params})
    pip = [PipPackage(name=f"package{n}", version="1.0", record=f"{n:064x}") for n in range(200)]
    return RunLock(
        recipe=recipe,
        code=CodeIdentity(tree=f"{side:040x}"),
        environment=EnvironmentLock(python="3.11.7", implementation="CPython", platform="linux-x86_64", pip=pip),
        data=[],
        params=params,
        execution=recipe.execution,
    )


def make(registry: Path, git: Path, checkpoints: int, tensors: int) -> None:
    """Store both runs and their checkpoints, and the same facts as two commits; without the checkpoints' objects."""
    import msgspec

    from reprokit.checkpoint.format import SnapshotMessage, encode
    from reprokit.registry.local import LocalRegistry
    from reprokit.schema.facts import meta_of
    from reprokit.schema.manifest import Entry, Manifest
    from reprokit.schema.record import CheckpointEntry, CodeFacts, Record

    store = LocalRegistry(registry)
    half = checkpoints // 2
    locks = [_lock(side) for side in range(2)]
    found: list[list[CheckpointEntry]] = []
    for side, run_id in enumerate(RUNS):
        made: list[tuple[dict[str, Any], list[Entry]]] = []
        folder = git / "checkpoints"
        folder.mkdir(parents=True, exist_ok=True)
        with store.staging() as sink:
            for epoch in range(checkpoints):
                values = [tensor(side, epoch, number, half) for number in range(tensors)]
                rows = [
                    {"section": "model", "name": name_of(number), "dtype": "F32", "shape": [8], "nbytes": 32}
                    | {"offset": 32 * number}
                    for number in range(tensors)
                ]
                state = {"epoch": epoch, "step": 10 * epoch}
                message = {"kind": "checkpoint", "framework": "numpy", "tensors": rows, "files": [], "state": state}
                pieces, digest = encode(msgspec.convert(message, SnapshotMessage), memoryview(b"".join(values)))
                entries = []
                for piece in pieces:
                    data = b"".join(piece.parts)
                    entries.append(Entry(piece.key, len(data), sink.put_bytes(data)[0], piece.meta))
                facts = {"kind": "checkpoint", "framework": "numpy", "run": run_id, "state_digest": digest, **state}
                facts |= {"lock_hash": locks[side].hash}
                made.append((facts | {"metrics": {"loss": 1 / (epoch + 1)}}, entries))
                lines = [
                    f"{name_of(number)} {hashlib.sha256(value).hexdigest()}\n" for number, value in enumerate(values)
                ]
                (folder / f"{epoch:04}.txt").write_text("".join(lines))
        listed = []
        for facts, entries in made:
            manifest = Manifest.make(entries, message=None, user_meta={"reprokit": facts})
            store.publish(_PACKAGE, manifest)
            kept = {key: facts[key] for key in ("state_digest", "epoch", "step", "metrics")}
            listed.append(CheckpointEntry(package=_PACKAGE, top_hash=manifest.top_hash, **kept))
        found.append(listed)
        subprocess.run(["git", "-C", git, "add", "-A"], check=True)
        subprocess.run(["git", "-C", git, "commit", "-qm", run_id], check=True)
        subprocess.run(["git", "-C", git, "tag", f"run{side}"], check=True)
    subprocess.run(["git", "-C", git, "gc", "-q"], check=True)
    for folder in ("objects", "packs"):
        shutil.rmtree(registry / folder, ignore_errors=True)
    for side, run_id in enumerate(RUNS):
        lock = locks[side]
        with store.staging() as sink:
            code = {f"code/module{n}.py": f"x = {n}\n" * 200 + f"side = {side if not n else 0}\n" for n in range(20)}
            entries = [Entry(key, len(text), sink.put_bytes(text.encode())[0]) for key, text in code.items()]
            record = Record(
                run_id=run_id, name="made", status="finished", lock_hash=lock.hash, code=CodeFacts(tree=lock.code.tree),
                environment=None, params=lock.params, started="2026-01-02T03:04:05.000Z", checkpoint_package=_PACKAGE,
                checkpoints=found[side], metrics={"loss": 1 / checkpoints},
            )  # fmt: skip
            for key, data in {"record.json": record.encode(), "lock.json": lock.encode()}.items():
                entries.append(Entry(key, len(data), sink.put_bytes(data)[0]))
        manifest = Manifest.make(entries, message="finished", user_meta=meta_of(record.summary()))
        store.publish(f"runs/{run_id}", manifest)


def main() -> None:
    if sys.argv[1:2] == ["--make"]:
        make(Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5]))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoints", type=int, default=1000, help="of each run (default: %(default)s)")
    parser.add_argument("--tensors", type=int, default=500, help="of each checkpoint (default: %(default)s)")
    harness.add_common_options(parser, reps=7)
    options = parser.parse_args()
    work = Work(options.work)
    work.need(size=2 * options.checkpoints * options.tensors * 1000, files=20 * options.checkpoints)
    facts = harness.machine(work)
    trial = work.trial("diffing")
    git, registry = trial / "git", trial / "registry"
    git.mkdir()
    environment = harness.clean_environment(work.home)
    environment |= {"REPROKIT_HOME": str(trial / "home"), "REPROKIT_CACHE": str(trial / "cache")}
    environment |= {"REPROKIT_REGISTRY": str(registry)}
    subprocess.run(["git", "init", "-q", git], check=True, env=environment)
    harness.note(f"making two runs of {options.checkpoints:,} checkpoints of {options.tensors:,} tensors")
    command = [sys.executable, __file__, "--make", registry, git, str(options.checkpoints), str(options.tensors)]
    subprocess.run(command, env=environment, check=True)
    reprokit = [sys.executable, "-m", "reprokit", "diff"]
    last = f"@epoch={options.checkpoints - 1}"
    runners: dict[str, list[Any]] = {
        "python -c pass": [sys.executable, "-c", "pass"],
        "reprokit --version": [sys.executable, "-m", "reprokit", "--version"],
        "reprokit diff of two runs": [*reprokit, *RUNS],
        "reprokit diff --json": [*reprokit, *RUNS, "--json"],
        "reprokit diff of two checkpoints": [*reprokit, RUNS[0] + last, RUNS[1] + last],
        "git diff --numstat": ["git", "-C", git, "diff", "--no-renames", "--numstat", "run0", "run1"],
    }
    names = harness.chosen(options.only, list(runners))
    series = Series()
    log = trial / "log"
    for repeat in range(-1, options.reps):  # the first is not counted
        for name in harness.rotated(names, repeat):
            sample = harness.measure(runners[name], cwd=trial, environment=environment, log=log)
            if repeat >= 0:
                series.add(name, "diff", repeat, seconds=sample.seconds, peak_mib=sample.peak_mib)
    check(runners["reprokit diff --json"], trial, environment, options.checkpoints, options.tensors)
    facts["load_at_end"] = harness.machine(work)["load"]
    title = f"Two runs of {options.checkpoints:,} checkpoints of {options.tensors:,} tensors"
    report(title, series, names)
    print(f"\n{harness.machine_line(facts)}; medians of {options.reps} interleaved repeats, min – max", flush=True)
    harness.write_json(
        (options.out / "diffing").with_suffix(".json"),
        {
            "benchmark": "diffing",
            "checkpoints": options.checkpoints,
            "tensors": options.tensors,
            "target": TARGET,
            "machine": facts,
            "commit": harness.commit(REPOSITORY),
            "samples": series.rows,
        },
    )
    work.clean()


def check(command: list[Any], folder: Path, environment: dict[str, str], checkpoints: int, tensors: int) -> None:
    """Raise SystemExit unless what is said of the two runs is right."""
    done = subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True)
    said = json.loads(done.stdout)
    half = checkpoints // 2
    found = (said["checkpoints"]["equal"], said["checkpoints"]["first"], said["tensors"]["differing"])
    if found != (half, f"epoch {half}", tensors):
        raise SystemExit(f"Wrong: {found} is said of the two runs.")


def report(title: str, series: Series, names: list[str]) -> None:
    table = harness.table(title)
    table.add_column("")
    table.add_column("to python -c pass", justify="right", no_wrap=True)
    table.add_column("peak memory", justify="right")
    unit = series.spread("python -c pass", "diff")
    for name in names:
        memory = series.spread(name, "diff", "peak_mib")
        table.add_row(
            name, harness.ratio_cell(series.spread(name, "diff"), unit), f"{memory.median:.0f} MiB" if memory else ""
        )
    screen = harness.console()
    screen.print()
    screen.print(table)
    whole = series.spread("reprokit diff of two runs", "diff")
    if whole:
        said = "met" if whole.median <= TARGET else "missed"
        screen.print(
            f"  target: two runs within {TARGET:g} s, no object of a checkpoint read: {whole.median:.2f} s, {said}"
        )


if __name__ == "__main__":
    main()
