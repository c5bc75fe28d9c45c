"""help, completion, version."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from reprokit._version import __version__

__all__ = ["completion", "help_", "version"]

_VARIABLE = "_REPROKIT_COMPLETE"
_SHELLS = ("bash", "zsh", "fish")


@click.command(name="help")
@click.argument("command", nargs=-1)
@click.pass_context
def help_(context: click.Context, command: tuple[str, ...]) -> None:
    """Explain COMMAND, or list all commands."""
    at = context.parent
    assert at is not None  # noqa: S101 - it is a command of a group
    for word in command:
        group = at.command
        if not isinstance(group, click.Group):
            raise click.UsageError(f"'{at.info_name}' has no commands of its own.", at)
        name, found, _ = group.resolve_command(at, [word])
        assert found is not None  # noqa: S101 - else it was an error
        at = click.Context(found, info_name=name, parent=at)
    click.echo(at.get_help())


@click.command()
@click.argument("shell", type=click.Choice(_SHELLS))
def completion(shell: str) -> None:
    """Print what makes SHELL complete commands, options, runs, packages and tags.

    For bash put `eval "$(reprokit completion bash)"` into ~/.bashrc, for zsh the same with zsh into ~/.zshrc; for fish
    `reprokit completion fish > ~/.config/fish/completions/reprokit.fish`.
    """
    made = get_completion_class(shell)
    assert made is not None  # noqa: S101 - click has these three
    root = click.get_current_context().find_root()
    click.echo(made(root.command, {}, "reprokit", _VARIABLE).source())


@click.command()
def version() -> None:
    """Print the version."""
    click.echo(f"reprokit {__version__}")
