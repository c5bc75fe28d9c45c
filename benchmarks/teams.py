"""Registries for teams: listings of thousands of runs, many small files and a few large ones to a bucket and back.

    python benchmarks/teams.py
    python benchmarks/teams.py --runs 500 --files 1000 --mb 50 --reps 3        a first look

The bucket is SeaweedFS on this machine, which shares its cores: compare runners of one table, not seconds. MLflow and
DVC are installed into environments of their own. `round trips` are requests that wait for one another, counted through
a proxy that adds 20 ms to each, on a machine that was never there.
"""

from __future__ import annotations

import argparse
import datetime
import os
import shutil
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import harness
from harness import REPOSITORY, Absent, Series, Work

sys.path.insert(0, str(REPOSITORY))

from tests import fault_proxy  # the servers and the proxy that the tests use
from tests.object_stores import Server, seaweed

TARGETS = {"ls": 0.2, "push": 0.1, "pull": 0.2, "push large": 1.3}  # to the unit of each
TRIPS = 25
_DELAY = 0.02  # seconds


class Bench:
    """What every measurement shares."""

    def __init__(self, work: Work, server: Server, options: argparse.Namespace) -> None:
        self.work = work
        self.options = options
        self.place = work.trial("teams")
        self.variables = {**harness.clean_environment(work.home), **server.variables}
        self.server = server
        self.series = Series()

    def environment(self, machine: str) -> dict[str, str]:
        """Return the environment of a machine that has a home and a cache of its own."""
        base = self.place / machine
        return {**self.variables, "REPROKIT_HOME": str(base / "home"), "REPROKIT_CACHE": str(base / "cache")}

    def timed(self, runner: str, operation: str, repeat: int, argv: list[Any], environment: dict[str, str]) -> None:
        harness.quiet_machine()
        sample = harness.measure(argv, cwd=self.place, environment=environment, log=self.place / "log")
        if repeat >= 0:
            self.series.add(runner, operation, repeat, seconds=sample.seconds, cpu_seconds=sample.cpu_seconds,
                            peak_mib=sample.peak_mib)  # fmt: skip

    def address(self) -> str:
        return f"s3://bucket/{uuid.uuid4()}"


def reprokit(*words: str) -> list[str]:
    return [sys.executable, "-m", "reprokit", *words]


# -------------------------------------------------------------------------------------------------------- listings


def make_runs(address: str, count: int) -> None:
    """Publish the records of runs, each when it began and when it ended."""
    import msgspec

    from reprokit.registry import open_registry
    from reprokit.schema.facts import meta_of
    from reprokit.schema.manifest import Entry, Manifest
    from reprokit.schema.record import Record

    store, began = open_registry(address), datetime.datetime(2026, 1, 1)
    for number in range(count):
        at = began + datetime.timedelta(minutes=number)
        started = Record(
            run_id=f"{at:%Y%m%d-%H%M%S}-{number:06x}", name=f"run{number % 7}", status="running", lock_hash=None,
            code=None, environment=None, params={"rate": number % 10, "seed": number},
            started=f"{at:%Y-%m-%dT%H:%M:%S}.000Z",
        )  # fmt: skip
        metrics = {"loss": 1 / (1 + number % 100), "accuracy": 0.9}
        for record in (
            started,
            msgspec.structs.replace(started, status="finished", metrics=metrics, ended=started.started),
        ):
            with store.staging() as sink:
                digest, size = sink.put_bytes(record.encode())
            made = Manifest.make(
                [Entry("record.json", size, digest)], message=record.status, user_meta=meta_of(record.summary())
            )
            store.publish(f"runs/{record.run_id}", made)
        if number % 300 == 0:
            store.tidy()


def listings(bench: Bench) -> None:
    """`ls` of all runs, warm and for the first time, in a folder and in a bucket; and MLflow's search of as many."""
    count, reps = bench.options.runs, bench.options.reps
    folder, bucket = str(bench.place / "registry"), bench.address()
    for address in (folder, bucket):
        harness.note(f"making {count:,} runs in {address}")
        harness.measure([sys.executable, __file__, "--make", address, str(count)], cwd=bench.place,
                        environment=bench.environment("maker"), log=bench.place / "log", timeout=7200)  # fmt: skip
    searching: list[Any] | None = None
    try:
        python = str(Path(harness.venv_tool(bench.work, "mlflow", "mlflow==3.17.2", "mlflow")).parent / "python")
        script, uri = REPOSITORY / "benchmarks" / "peers" / "mlflow_runs.py", f"sqlite:///{bench.place}/mlflow.db"
        harness.note(f"making {count:,} runs in MLflow")
        harness.measure([python, script, "make", uri, str(count)], cwd=bench.place,
                        environment=bench.variables, log=bench.place / "log", timeout=7200)  # fmt: skip
        searching = [python, script, "list", uri]
    except (Absent, harness.Failed) as error:
        bench.series.absent["MLflow"] = str(error)
    for repeat in range(-1, reps):
        for name, address in (("folder", folder), ("bucket", bucket)):
            words = reprokit("ls", "--registry", address)
            bench.timed(f"reprokit, {name}", "ls", repeat, words, bench.environment(f"{name}-reader"))
            where = reprokit("ls", "--where", "params.rate == 3 and metrics.loss < 0.5", "--registry", address)
            bench.timed(f"reprokit, {name}", "ls --where", repeat, where, bench.environment(f"{name}-reader"))
            bench.timed(f"reprokit, {name}", "first ls", repeat, words, bench.environment(f"{name}-{repeat}"))
        if searching is not None:
            for operation in ("ls", "first ls", "ls --where"):
                bench.timed("MLflow", operation, repeat, searching, bench.variables)


# ----------------------------------------------------------------------------------------------- files to a bucket


def many_files(bench: Bench) -> None:
    """Many small files to a bucket, and to another machine: from nothing, and when nothing changed."""
    data = bench.place / "small"
    data.mkdir()
    for number in range(bench.options.files):
        (data / f"{number % 10}").mkdir(exist_ok=True)
        (data / f"{number % 10}" / f"{number}.bin").write_bytes(os.urandom(3000))
    try:
        dvc: str | None = harness.venv_tool(bench.work, "dvc-s3", "dvc[s3]==3.67.1", "dvc")
    except Absent as error:
        dvc, bench.series.absent["DVC"] = None, str(error)
    for repeat in range(-1, bench.options.reps):
        address, machine = bench.address(), f"sender-{repeat}"
        sending, getting = bench.environment(machine), bench.environment(f"getter-{repeat}")
        build = reprokit("package", "build", str(data), "a/b", "--registry", address, "-q")
        bench.timed("reprokit", "push", repeat, build, sending)
        bench.timed("reprokit", "push, nothing new", repeat, build, sending)
        out = bench.place / f"out-{repeat}"
        bench.timed(
            "reprokit", "pull", repeat, reprokit("install", "a/b", str(out), "--registry", address, "-q"), getting
        )
        _check_same(data, out)
        if dvc is not None:
            _with_dvc(bench, dvc, data, repeat)


def _with_dvc(bench: Bench, dvc: str, data: Path, repeat: int) -> None:
    """`dvc add` and `dvc push` together store what `package build` stores; `dvc pull` is `install`."""
    import subprocess

    project, variables = bench.place / f"dvc-{repeat}", bench.variables
    shutil.copytree(data, project / "data")
    setup = [
        ["git", "init", "-q"], [dvc, "init", "-q"],
        [dvc, "remote", "add", "-q", "-d", "store", f"s3://bucket/dvc-{uuid.uuid4()}"],
        [dvc, "remote", "modify", "store", "endpointurl", variables["AWS_ENDPOINT_URL"]],
    ]  # fmt: skip
    for argv in setup:
        subprocess.run(argv, cwd=project, env=variables, check=True, capture_output=True)
    script = bench.place / "dvc-push.sh"
    script.write_text(f"cd {project} && {dvc} add -q data && {dvc} push -q")
    bench.timed("DVC", "push", repeat, ["sh", script], variables)
    bench.timed("DVC", "push, nothing new", repeat, ["sh", script], variables)
    shutil.rmtree(project / "data")
    shutil.rmtree(project / ".dvc" / "cache")
    script.write_text(f"cd {project} && {dvc} pull -q")
    bench.timed("DVC", "pull", repeat, ["sh", script], variables)
    _check_same(data, project / "data")


def _check_same(data: Path, out: Path) -> None:
    for file in data.rglob("*"):
        if file.is_file() and (out / file.relative_to(data)).read_bytes() != file.read_bytes():
            raise SystemExit(f"Wrong: {file} came back as something else.")


def large_files(bench: Bench) -> None:
    """Ten large files, and the bare client sending the same bytes side by side."""
    data = bench.place / "large"
    data.mkdir()
    for number in range(10):
        (data / str(number)).write_bytes(os.urandom(bench.options.mb * 100_000))
    bare = bench.place / "bare.py"
    bare.write_text(BARE)
    for repeat in range(-1, bench.options.reps):
        build = reprokit("package", "build", str(data), "a/b", "--registry", bench.address(), "-q")
        bench.timed("reprokit", "push large", repeat, build, bench.environment(f"large-{repeat}"))
        argv = [sys.executable, bare, data, bench.address()]
        bench.timed("obstore, bare", "push large", repeat, argv, bench.variables)


BARE = """
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
import obstore
from obstore.store import from_url
store = from_url(sys.argv[2], client_options={"allow_http": True})
with ThreadPoolExecutor(8) as pool:
    list(pool.map(lambda path: obstore.put(store, path.name, path.read_bytes()), Path(sys.argv[1]).iterdir()))
"""

# ----------------------------------------------------------------------------------------------------- round trips


@contextmanager
def counted(server: Server) -> Iterator[tuple[int, list[tuple[float, float]]]]:
    """Run a proxy that delays; yield its port, and when each request came and was answered."""
    seen: list[tuple[float, float]] = []
    ask = fault_proxy._Connection._ask

    def asked(self: Any, head: bytes, body: bytes, method: str) -> bytes:
        came = time.time()
        answer: bytes = ask(self, head, body, method)
        seen.append((came, time.time()))
        return answer

    fault_proxy._Connection._ask = asked  # type: ignore[method-assign]
    try:
        with fault_proxy.fault_proxy(server.port, delay=_DELAY) as proxy:
            yield proxy.port, seen
    finally:
        fault_proxy._Connection._ask = ask  # type: ignore[method-assign]


def waiting(requests: list[tuple[float, float]], until: float) -> int:
    """Return how many requests waited for another one's answer."""
    count, end = 0, 0.0
    for came, answered in sorted(requests):
        if came >= until:
            break
        if came >= end:
            count, end = count + 1, answered + _DELAY
    return count


def round_trips(bench: Bench) -> dict[str, int]:
    """Count those of `reproduce` before the script starts, and of an `ls` after the first."""
    import json
    import subprocess

    repo = bench.place / "repo"
    repo.mkdir()
    (repo / "train.py").write_text(
        "import time, pathlib, numpy as np, reprokit\n"
        "open(" + repr(str(bench.place / "began")) + ", 'a').write(f'{time.time()}\\n')\n"
        "w = np.loadtxt('data/in/a.txt')\n"
        "for epoch in range(3): reprokit.save_checkpoint({'w': w * epoch}, epoch=epoch)\n"
    )
    (repo / "recipe.yaml").write_text(
        "name: t\ncode: {entrypoint: train.py}\nenvironment: current\n"
        "data: {in: {package: t/in, path: data/in}}\ncheckpoints: {package: t/m}\n"
    )
    (repo / "in").mkdir()
    (repo / "in" / "a.txt").write_text("1\n2\n")
    for argv in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "x"]):
        subprocess.run(["git", *argv], cwd=repo, env=bench.variables, check=True)
    registry = {"REPROKIT_REGISTRY": bench.address()}

    def run(machine: str, *words: str, port: int | None = None) -> str:
        variables = {**bench.environment(machine), **registry}
        if port is not None:
            variables["AWS_ENDPOINT_URL"] = f"http://127.0.0.1:{port}"
        done = subprocess.run(reprokit(*words), cwd=repo, env=variables, capture_output=True, text=True, check=True)
        return done.stdout

    run("one", "package", "build", "in", "t/in")
    made = json.loads(run("one", "run", "recipe.yaml", "--json"))["run_id"]
    (bench.place / "began").unlink()
    with counted(bench.server) as (port, seen):
        run("two", "reproduce", made, "-y", port=port)
        before = waiting(seen, float((bench.place / "began").read_text()))
        run("two", "ls", port=port)
        seen.clear()
        run("two", "ls", port=port)
        return {"reproduce, before the script starts": before, "ls, after the first": waiting(seen, float("inf"))}


# ---------------------------------------------------------------------------------------------------------- report

UNITS = {"ls": "MLflow", "first ls": "MLflow", "ls --where": "MLflow", "push": "DVC", "push, nothing new": "DVC",
         "pull": "DVC", "push large": "obstore, bare"}  # fmt: skip


def report(bench: Bench, trips: dict[str, int]) -> list[dict[str, Any]]:
    """Print the figures, and return a row for each ratio."""
    from rich.table import Table

    rows: list[dict[str, Any]] = []
    table = Table(title="registries for teams", title_justify="left")
    for heading in ("operation", "runner", "seconds", "to the unit", "unit", "peak MiB"):
        table.add_column(heading, justify="left" if heading in ("operation", "runner", "unit") else "right")
    for operation, unit in UNITS.items():
        base = bench.series.spread(unit, operation)
        for runner in bench.series.runners():
            found, peak = bench.series.spread(runner, operation), bench.series.spread(runner, operation, "peak_mib")
            if found is None or peak is None:
                continue
            ratio = found.over(base.median) if base is not None else None
            told = f"{ratio.median:.2f} × ({ratio.low:.2f} – {ratio.high:.2f})" if ratio else "-"
            table.add_row(operation, runner, f"{found.median:.2f}", told, unit, f"{peak.high:.0f}")
            if ratio is not None:
                facts = {"operation": operation, "runner": runner, "unit": unit, "seconds": found.median}
                rows.append({**facts, "ratio": ratio.median, "low": ratio.low, "high": ratio.high})
    screen = harness.console()
    screen.print(table)
    for what, count in trips.items():
        screen.print(f"  round trips of {what}: {count}")
    for operation, target in TARGETS.items():
        for row in rows:
            if row["operation"] == operation and row["runner"] != row["unit"]:
                said = "met" if row["ratio"] <= target else "missed"
                screen.print(f"  target: {operation} of {row['runner']} within {target:g} × {row['unit']}: {said}")
    for name, reason in bench.series.absent.items():
        screen.print(f"  {name}: {reason}")
    return rows


def draw(out: Path, rows: list[dict[str, Any]], machine: str) -> None:
    import figures

    panels = []
    for operation, unit in UNITS.items():
        bars = [
            figures.Bar(
                row["runner"], row["ratio"], row["low"], row["high"], f"{row['ratio']:.2f} ×", f"{row['seconds']:.2f} s"
            )
            for row in rows
            if row["operation"] == operation
        ]
        panels.append(figures.Panel(operation, unit, bars, TARGETS.get(operation)))
    figures.bars(out / "teams", "Registries for teams", machine, panels)


def main() -> None:
    if sys.argv[1:2] == ["--make"]:
        make_runs(sys.argv[2], int(sys.argv[3]))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=10_000, help="of a registry (default: %(default)s)")
    parser.add_argument("--files", type=int, default=20_000, help="of 3 KB (default: %(default)s)")
    parser.add_argument("--mb", type=int, default=1000, help="of ten large files together (default: %(default)s)")
    harness.add_common_options(parser, reps=5)
    options = parser.parse_args()
    steps: dict[str, Callable[[Bench], None]] = {"listings": listings, "files": many_files, "large": large_files}
    wanted = harness.chosen(options.only, [*steps, "trips"])
    work = Work(options.work)
    facts = harness.machine(work)
    with seaweed(work.trial("seaweed"), volume_mb=1000) as server:
        server.make_bucket("bucket")
        bench = Bench(work, server, options)
        for name in wanted:
            if name in steps:
                harness.note(name)
                steps[name](bench)
        trips = round_trips(bench) if "trips" in wanted else {}
    rows = report(bench, trips)
    print(f"\n{harness.machine_line(facts)}", flush=True)
    options.out.mkdir(parents=True, exist_ok=True)
    harness.write_json(
        options.out / "teams.json", {"machine": facts, "rows": bench.series.rows, "ratios": rows, "trips": trips}
    )
    draw(options.out, rows, harness.machine_line(facts))
    work.clean()


if __name__ == "__main__":
    main()
