"""Which registry is in force, and what a project calls it."""

from pathlib import Path

import pytest

from reprokit.core.config import Config, mlflow_store, named_registry
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
        ("registri: x\n", "unknown key 'registri'; known: 'mlflow', 'registries', 'registry'."),
        ("registry: 1\n", "registry must be a path or URL, not 1."),
        ("registries: [x]\n", "registries must be a mapping of names (letters, digits, - and _) to paths or URLs."),
        (
            "registries: {a/b: x}\n",
            "registries must be a mapping of names (letters, digits, - and _) to paths or URLs.",
        ),
        ("- x\n", "unknown key '(not a mapping)'; known: 'mlflow', 'registries', 'registry'."),
    ],
)
def test_a_file_that_is_not_understood_is_refused(project: Path, text: str, message: str) -> None:
    say(project, text)
    with pytest.raises(RecipeError) as caught:
        Config.load()
    assert caught.value.message == f"{project / '.reprokit' / 'config.yaml'}: {message}"


def test_a_store_of_mlflows_is_the_variables_or_the_files(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REPROKIT_MLFLOW", raising=False)
    assert mlflow_store() is None
    for told, meant in (
        ("mlruns", f"{project}/mlruns"), ("sqlite:///a.db", f"sqlite:///{project}/a.db"),
        ("sqlite:////x/a.db", "sqlite:////x/a.db"), ("https://host/x", "https://host/x"),
    ):  # fmt: skip
        say(project, f"mlflow: {told}\n")
        assert mlflow_store() == meant
    assert Config.load().registry == str(project.parent / "home" / "registry")
    monkeypatch.setenv("REPROKIT_MLFLOW", "there")
    assert mlflow_store(folder=project) == str(project / "deep" / "er" / "there")
    monkeypatch.setenv("REPROKIT_MLFLOW", "")
    assert mlflow_store() is None
    monkeypatch.delenv("REPROKIT_MLFLOW")
    say(project, "mlflow: [1]\n")
    with pytest.raises(RecipeError, match=r"mlflow must be a path or URL, not \[1\]\."):
        mlflow_store()
