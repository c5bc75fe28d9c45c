"""Every command has help and the common options; words of other tools are answered; shells complete what there is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from reprokit.cli.elsewhere import ELSEWHERE
from reprokit.cli.main import _COMMANDS, cli
from reprokit.packages.build import build
from reprokit.registry.local import LocalRegistry
from tests.conftest import ROOT, put_run

_BARE = {"help", "completion", "version"}
RUN = "20261123-101500-7c1e9f"


def _walk(group: click.Group, path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], click.Command]]:
    found = []
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            found += _walk(command, (*path, name))
        else:
            found.append(((*path, name), command))
    return found


@pytest.mark.parametrize(
    ("path", "command"), _walk(cli), ids=lambda value: " ".join(value) if isinstance(value, tuple) else ""
)
def test_every_command_has_help_and_the_common_options(path: tuple[str, ...], command: click.Command) -> None:
    assert command.help, path
    if path[0] in _BARE:
        return
    names = {parameter.name for parameter in command.params}
    assert {"registry", "change_to", "offline", "as_json", "quiet", "verbose"} <= names
    assert all(option.help for option in command.params if isinstance(option, click.Option))


def test_help_lists_every_command_once_in_groups() -> None:
    lines = CliRunner().invoke(cli, ["--help"]).output.splitlines()
    listed = [line.split()[0] for line in lines if line.startswith("  ") and line[2:].split(" ")[0] in _COMMANDS]
    assert sorted(listed) == sorted(_COMMANDS)
    assert [line for line in lines if line.endswith(":") and not line.startswith(" ")] == [
        "Options:", "Begin:", "Run:", "Compare and reproduce:", "Packages and checkpoints:", "Registries:",
        "Environments:", "Help:",
    ]  # fmt: skip


@pytest.mark.parametrize("word", ELSEWHERE)
def test_what_other_tools_call_so_is_answered_by_what_it_is_here(word: str) -> None:
    assert word not in _COMMANDS
    done = CliRunner().invoke(cli, [word, "--anything"])
    assert done.exit_code == 2
    assert f"No such command '{word}'. {ELSEWHERE[word]}" in done.output
    for told in ELSEWHERE[word].split("`reprokit ")[1:]:
        assert told.split()[0].rstrip("`") in _COMMANDS


@pytest.mark.parametrize(
    ("word", "said"), [("shwo", " Did you mean 'show'?"), ("rnu", " Did you mean 'run'?"), ("loginn", ""), ("xyz", "")]
)
def test_a_slip_is_guessed_by_its_spelling_where_it_is_near(word: str, said: str) -> None:
    output = CliRunner().invoke(cli, [word]).output
    assert output.endswith(f"No such command '{word}'.{said}\n")


@pytest.mark.parametrize(
    "words",
    [
        ["--json", "--registry", "R", "ls"],
        ["--registry=R", "ls", "--json"],
        ["-q", "--json", "--registry", "R", "registry", "info"],
        ["-C", ".", "--json", "--registry", "R", "registry", "ls"],
    ],
)
def test_options_of_every_command_may_stand_before_it(words: list[str], tmp_path: Path) -> None:
    address = str(tmp_path / "registry")
    LocalRegistry(Path(address), cache=tmp_path / "cache")
    build({"a": b"1"}, "t/x", registry=LocalRegistry(Path(address), cache=tmp_path / "cache"))
    done = CliRunner().invoke(
        cli, [word.replace("R", address) if word in ("R", "--registry=R") else word for word in words]
    )
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout) is not None


@pytest.mark.parametrize("words", [["--json"], ["--registry"], ["-C"], ["--json", "nothing"], ["--jsn", "ls"]])
def test_options_before_nothing_are_no_command(words: list[str]) -> None:
    assert CliRunner().invoke(cli, words).exit_code == 2


@pytest.mark.parametrize("words", [["help", "run"], ["help", "registry", "copy"], ["help", "checkpoint"]])
def test_help_of_a_command_is_what_the_command_says_itself(words: list[str]) -> None:
    told, own = CliRunner().invoke(cli, words), CliRunner().invoke(cli, [*words[1:], "--help"])
    assert told.exit_code == own.exit_code == 0
    assert told.output == own.output


def test_help_of_nothing_lists_all_and_of_what_is_none_says_so() -> None:
    assert CliRunner().invoke(cli, ["help"]).output == CliRunner().invoke(cli, ["--help"]).output
    assert "No such command 'compare'" in CliRunner().invoke(cli, ["help", "compare"]).output
    assert "'run' has no commands of its own" in CliRunner().invoke(cli, ["help", "run", "more"]).output
    assert CliRunner().invoke(cli, ["version"]).output.startswith("reprokit ")


@pytest.fixture
def registry(tmp_path: Path) -> LocalRegistry:
    made = LocalRegistry(tmp_path / "registry", cache=tmp_path / "cache")
    build({"a": b"1"}, "team/data", registry=made, tags=("v1",))
    build({"a": b"1"}, "other/data", registry=made)
    put_run(made, RUN)
    return made


def completed(registry: LocalRegistry, *words: str, shell: str = "zsh") -> list[str]:
    """Return what a shell is offered for the last of these words."""
    variables = {
        "COMP_WORDS": " ".join(["reprokit", *words]), "COMP_CWORD": str(len(words)),
        "_REPROKIT_COMPLETE": f"{shell}_complete", "REPROKIT_REGISTRY": str(registry.root), "PYTHONPATH": str(ROOT),
        "REPROKIT_CACHE": str(registry.root.parent / "cache"), "REPROKIT_HOME": str(registry.root.parent / "home"),
    }  # fmt: skip
    code = "from reprokit.cli.main import cli; cli(prog_name='reprokit')"
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **variables}, capture_output=True, text=True, check=False
    )
    lines = done.stdout.splitlines()
    return lines[1::3] if shell == "zsh" else [line.partition(",")[2] for line in lines]


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["show", "2026"], [RUN]),
        (["show", f"{RUN}@b"], [f"{RUN}@best"]),
        (["show", "lat"], ["latest"]),
        (["show", "ma"], ["made"]),
        (["install", "team/"], ["team/data"]),
        (["install", "o"], ["other/data"]),
        (["diff", "latest", "team/data:v"], ["team/data:v1"]),
        (["show", "no/such:"], []),
        (["repr"], ["reproduce"]),
        (["help", "sh"], []),
        (["registry", "co"], ["copy"]),
    ],
)
def test_a_shell_completes_what_there_is(registry: LocalRegistry, words: list[str], offered: list[str]) -> None:
    assert completed(registry, *words) == offered


def test_a_registry_that_cannot_be_read_offers_nothing(registry: LocalRegistry) -> None:
    (registry.root / "reprokit-registry.json").write_text("{}")
    assert completed(registry, "show", "2026") == []


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_what_a_shell_is_given_is_a_script_for_it(shell: str) -> None:
    done = CliRunner().invoke(cli, ["completion", shell])
    assert done.exit_code == 0
    assert f"_REPROKIT_COMPLETE={shell}_complete" in done.output
    if shell == "bash":
        subprocess.run(["bash", "-n"], input=done.output, text=True, check=True)


def test_a_command_that_is_offline_leaves_its_process_as_it_was(
    registry: LocalRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A notebook gives many commands in one process."""
    for before in (None, "0"):
        monkeypatch.delenv("REPROKIT_OFFLINE", raising=False)
        if before is not None:
            monkeypatch.setenv("REPROKIT_OFFLINE", before)
        for words in (["ls"], ["show", "nothing"]):
            CliRunner().invoke(cli, [*words, "--offline", "--registry", str(registry.root)])
            assert os.environ.get("REPROKIT_OFFLINE") == before
