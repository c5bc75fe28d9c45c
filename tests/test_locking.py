"""A lock beside a recipe, and the world that has moved on since."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import Project


@pytest.fixture
def project(tmp_path: Path) -> Project:
    made = Project(tmp_path)
    made.build()
    return made


def test_a_requirements_file_that_asks_for_more_than_was_locked_is_refused(project: Project) -> None:
    recipe = (project.root / "recipe.yaml").read_text()
    project.write("recipe.yaml", f"{recipe}environment: {{pip: requirements.txt}}\n")
    project.write("requirements.txt", "numpy\n")
    project.reprokit("lock", "recipe.yaml")
    project.commit()
    project.reprokit("run", "recipe.yaml", "-q")
    project.write("requirements.txt", "numpy\nno-such-package-at-all>=2\n")
    project.commit()
    refused = project.reprokit("run", "recipe.yaml", expect=5)
    assert "no-such-package-at-all>=2 (found: not installed)" in refused.stderr
