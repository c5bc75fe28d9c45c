"""Commands load what they use: start-up imports nothing for the sake of other commands."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

# what no listing reads, and what weighs most
_RECORDS = {"reprokit.schema.record", "reprokit.schema.lock", "reprokit.runs.support", "reprokit.packages.package"}
_HEAVY = {"numpy", "pandas", "torch", "matplotlib", "obstore", "rattler", "asyncio", "concurrent.futures"}
_TRACED = """
import sys
from reprokit.cli.main import cli
cli.main(sys.argv[1:], standalone_mode=False)
print(*sys.modules, sep="\\n", file=sys.stderr)
"""


@pytest.mark.parametrize(
    ("command", "not_loaded"),
    [
        (["ls"], _HEAVY | _RECORDS | {"reprokit.registry.quilt.registry", "reprokit.cli.text.record"}),
        (["run", "--help"], _HEAVY - {"asyncio", "concurrent.futures"} | {"packaging.pylock", "reprokit.comparison"}),
        (["resume", "--help"], {"numpy", "torch", "reprokit.comparison"}),
        (["log", "--help"], _HEAVY),
    ],
)
def test_a_command_loads_nothing_that_it_does_not_use(command: list[str], not_loaded: set[str], tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _TRACED, *command], cwd=tmp_path, text=True, capture_output=True, check=True
    )
    loaded = set(done.stderr.splitlines())
    assert "click" in loaded
    assert loaded & not_loaded == set()
