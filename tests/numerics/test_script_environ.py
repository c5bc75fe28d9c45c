"""What a script's process gets of the user's own."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from reprokit.numerics.script_environ import child_variables
from tests.schema.test_lock import LOCK


@pytest.mark.parametrize(
    ("enabled", "python", "kept"),
    [(True, None, True), (True, sys.executable, True), (False, None, False), (True, "/made/bin/python", False)],
)
def test_the_users_own_packages_are_there_only_where_they_were_counted(
    enabled: bool, python: str | None, kept: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A capture of this process's environment has them if they are enabled; one that was made never has."""
    monkeypatch.setattr("site.ENABLE_USER_SITE", enabled)
    variables = child_variables(
        LOCK, inherited={"PYTHONNOUSERSITE": ""}, run_id="run", scratch=tmp_path, report=tmp_path, python_path=[],
        locked=[], own=[], python=None if python is None else Path(python),
    )  # fmt: skip
    assert ("PYTHONNOUSERSITE" not in variables) == kept
