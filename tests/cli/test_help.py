"""Every command has help, the common options and a line in the README."""

from __future__ import annotations

import click
import pytest

from reprokit.cli.main import cli


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
    names = {parameter.name for parameter in command.params}
    assert {"registry", "change_to", "as_json", "quiet", "verbose"} <= names
    assert all(option.help for option in command.params if isinstance(option, click.Option))
