"""Draw `verdict.svg`: what a terminal shows when a run is reproduced, and when one thing is changed.

    python docs/verdict_picture.py

Trains `recipes/digits-torch.yaml` in a fresh home and reproduces it twice; what is drawn is what was printed. It takes
PyTorch and rich.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.text import Text

HERE = Path(__file__).resolve().parent
COLUMNS = 122
COLOURS = {"match": "green", "BITWISE": "bold green", "DIFFERS": "red", "DIVERGED": "bold red", "likely": "yellow"}


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="reprokit-picture-") as base:
        shutil.copytree(HERE.parent / "recipes", f"{base}/project/recipes")
        for words in (
            ["init", "-q"],
            ["add", "-A"],
            ["-c", "user.name=a", "-c", "user.email=a@b.c", "commit", "-qm", "x"],
        ):
            subprocess.run(["git", *words], cwd=f"{base}/project", check=True)
        run = json.loads(said(base, "run", "recipes/digits-torch.yaml", "--json"))["run_id"]
        console = Console(record=True, width=COLUMNS, force_terminal=True, file=open(os.devnull, "w"))  # noqa: PTH123, SIM115
        for words in ([run], [run, "--with", "threads=1"]):
            console.print(Text(f"$ reprokit reproduce {' '.join(words)}", style="bold"))
            for line in said(base, "reproduce", *words, "-q").splitlines():
                console.print(coloured(line[:COLUMNS]))
            console.print()
    picture = console.export_svg(title="reprokit", unique_id="verdict")
    picture = re.sub(r"@font-face \{.*?\}", "", picture, flags=re.DOTALL)  # nothing is fetched to look at it
    (HERE / "verdict.svg").write_text(picture.replace("Fira Code", "ui-monospace, Menlo, Consolas, DejaVu Sans Mono"))


def said(base: str, *words: str) -> str:
    """Return what reprokit prints, in a home of its own; a verdict of another kind is no failure."""
    places = {
        "REPROKIT_HOME": f"{base}/home",
        "REPROKIT_CACHE": f"{base}/cache",
        "REPROKIT_REGISTRY": f"{base}/registry",
    }
    done = subprocess.run(
        [sys.executable, "-m", "reprokit", *words], env={**os.environ, **places}, stdout=subprocess.PIPE, text=True,
        check=False, cwd=f"{base}/project",
    )  # fmt: skip
    if done.returncode not in (0, 7):
        raise SystemExit(done.returncode)
    return done.stdout


def coloured(line: str) -> Text:
    text = Text(line)
    for word, style in COLOURS.items():
        text.highlight_regex(rf"\b{word}\b", style)
    return text


if __name__ == "__main__":
    main()
