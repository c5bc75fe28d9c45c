"""What reprokit costs before any training: start-up, listing 100 runs, what `run` adds to a script of its own.

    python benchmarks/start_up.py [--reps 7] [--peers]

Whole processes, interleaved, medians; ratios are to `python -c pass` and, with --peers (installs DVC into an
environment of its own below the benchmark's folder), to `dvc status`. Prints JSON lines.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RECIPE = "name: nothing\ncode: {entrypoint: nothing.py}\nexecution: {threads: 1}\n"


def timed(command: list[str], folder: Path, environment: dict[str, str]) -> float:
    """Return the wall time of a process in seconds."""
    start = time.perf_counter()
    subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True)
    return time.perf_counter() - start


def peers(base: Path) -> str:
    """Install DVC beside the benchmark and return its executable."""
    venv = base / "dvc-venv"
    if not (venv / "bin" / "dvc").exists():
        subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
        subprocess.run([str(venv / "bin" / "pip"), "install", "-q", "dvc"], check=True)
    return str(venv / "bin" / "dvc")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--reps", type=int, default=7)
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--peers", action="store_true")
    parser.add_argument("--dvc", help="an installed dvc to compare with")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        base = Path(name)
        folder = base / "repo"
        folder.mkdir()
        (folder / "nothing.py").write_text("pass\n")
        (folder / "recipe.yaml").write_text(RECIPE)
        environment = {key: value for key, value in os.environ.items() if not key.startswith("REPROKIT_")}
        environment |= {"REPROKIT_HOME": str(base / "home"), "REPROKIT_CACHE": str(base / "cache"), "CI": "1"}
        environment |= {"PYTHONPATH": str(ROOT), "DVC_NO_ANALYTICS": "1"}
        identity = ["-c", "user.name=b", "-c", "user.email=b@example.org"]
        for arguments in (["init", "-q"], ["add", "-A"], [*identity, "commit", "-qm", "x"]):
            subprocess.run(["git", *arguments], cwd=folder, check=True)
        reprokit = [sys.executable, "-m", "reprokit"]
        print(f"making {options.runs} runs", file=sys.stderr)
        for _ in range(options.runs):
            subprocess.run([*reprokit, "run", "recipe.yaml", "-q"], cwd=folder, env=environment, check=True,
                           stdout=subprocess.DEVNULL)  # fmt: skip
        commands = {
            "python -c pass": [sys.executable, "-c", "pass"],
            "python nothing.py": [sys.executable, "nothing.py"],
            "reprokit --version": [*reprokit, "--version"],
            f"reprokit ls ({options.runs} runs)": [*reprokit, "ls"],
            "reprokit run (a script that does nothing)": [*reprokit, "run", "recipe.yaml", "-q"],
        }
        if options.dvc or options.peers:
            dvc = options.dvc or peers(Path.home() / ".cache" / "reprokit-benchmarks")
            subprocess.run([dvc, "init", "-q"], cwd=folder, env=environment, check=True)
            for arguments in (["add", "-A"], [*identity, "commit", "-qm", "dvc"]):
                subprocess.run(["git", *arguments], cwd=folder, check=True)
            commands["dvc status"] = [dvc, "status", "-q"]
        times: dict[str, list[float]] = {key: [] for key in commands}
        for round_ in range(options.reps + 1):
            for key, command in commands.items():
                seconds = timed(command, folder, environment)
                if round_:
                    times[key].append(seconds)
        medians = {key: statistics.median(values) for key, values in times.items()}
        for key, seconds in medians.items():
            row = {
                "what": key,
                "ms": round(seconds * 1000, 1),
                "x_python": round(seconds / medians["python -c pass"], 1),
            }
            if "dvc status" in medians:
                row["x_dvc_status"] = round(seconds / medians["dvc status"], 2)
            print(json.dumps(row))
        added = medians["reprokit run (a script that does nothing)"] - medians["python nothing.py"]
        print(json.dumps({"what": "run adds to a script of its own accord", "ms": round(added * 1000, 1)}))


if __name__ == "__main__":
    main()
