"""Which registry is in force, and what a project calls it."""

from pathlib import Path

import pytest

from reprokit.core.config import Config, named_registry
from reprokit.errors import RecipeError

NAMES = "registries must be a mapping of names (letters, digits, - and _) to paths or URLs."


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("REPROKIT_REGISTRY", raising=False)
    monkeypatch.setenv("REPROKIT_HOME", str(tmp_path / "home"))
    inner = tmp_path / "project" / "deep" / "er"
    inner.mkdir(parents=True)
    (tmp_path / "project" / ".reprokit").mkdir()
    monkeypatch.chdir(inner)
    return tmp_path / "project"


def say(project: Path, text: str) -> None:
    (project / ".reprokit" / "config.yaml").write_text(text)


def test_argument_before_variable_before_file_before_home(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert Config.load().registry == str(project.parent / "home" / "registry")
    say(project, "registry: s3://bucket/team\n")
    assert Config.load().registry == "s3://bucket/team"
    say(project, "registry: store\n")
    assert Config.load().registry == str(project / "store")
    monkeypatch.setenv("REPROKIT_REGISTRY", "there")
    assert Config.load().registry == str(project / "deep" / "er" / "there")
    assert Config.load(registry="file:///elsewhere").registry == "/elsewhere"


def test_a_git_repository_has_a_registry_of_its_own(project: Path, tmp_path: Path) -> None:
    (project / ".git").mkdir()
    assert Config.load().registry == str(project / ".reprokit" / "registry")
    (project / "deep" / ".git").write_text("gitdir: elsewhere")  # a submodule, or a second working tree
    assert Config.load().registry == str(project / "deep" / ".reprokit" / "registry")
    assert Config.load(folder=project).registry == str(project / ".reprokit" / "registry")
    assert Config.load(folder=tmp_path).registry == str(tmp_path / "home" / "registry")


def test_a_name_stands_for_a_registry_wherever_an_address_does(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    say(project, "registry: team\nregistries: {team: 's3://bucket/team', mine: ../mine}\n")
    assert Config.load().registry == "s3://bucket/team"
    assert Config.load(registry="mine").registry == str(project / ".." / "mine")
    monkeypatch.setenv("REPROKIT_REGISTRY", "mine")
    assert Config.load().registry == str(project / ".." / "mine")
    assert Config.load(registry="other").registry == str(project / "deep" / "er" / "other")
    assert named_registry("./mine") is None
    say(project, "registries: {team: 's3://bucket/team'}\n")
    monkeypatch.delenv("REPROKIT_REGISTRY")
    assert Config.load().registry == str(project.parent / "home" / "registry")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("registri: x\n", "unknown key 'registri'; known: 'registries', 'registry'."),
        ("registry: 1\n", "registry must be a path or URL, not 1."),
        ("registries: [x]\n", "registries must be a mapping of names (letters, digits, - and _) to paths or URLs."),
        (
            "registries: {a/b: x}\n",
            "registries must be a mapping of names (letters, digits, - and _) to paths or URLs.",
        ),
        ("- x\n", "unknown key '(not a mapping)'; known: 'registries', 'registry'."),
    ],
)
def test_a_file_that_is_not_understood_is_refused(project: Path, text: str, message: str) -> None:
    say(project, text)
    with pytest.raises(RecipeError) as caught:
        Config.load()
    assert caught.value.message == f"{project / '.reprokit' / 'config.yaml'}: {message}"
