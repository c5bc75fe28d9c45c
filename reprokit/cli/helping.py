"""help, completion, version."""

from __future__ import annotations

import click
from click.shell_completion import BashComplete, FishComplete, ZshComplete

from reprokit._version import __version__

__all__ = ["completion", "help_", "version"]

_VARIABLE = "_REPROKIT_COMPLETE"
_SHELLS = {"bash": BashComplete, "zsh": ZshComplete, "fish": FishComplete}


@click.command(name="help")
@click.argument("command", nargs=-1)
@click.pass_context
def help_(context: click.Context, command: tuple[str, ...]) -> None:
    """Explain COMMAND, or list all commands."""
    at = context.parent or context
    for word in command:
        group = at.command
        if not isinstance(group, click.Group):
            raise click.UsageError(f"'{at.info_name}' has no commands of its own.", at)
        name, found, _ = group.resolve_command(at, [word])
        if found is not None:  # else it was an error
            at = click.Context(found, info_name=name, parent=at)
    click.echo(at.get_help())


@click.command()
@click.argument("shell", type=click.Choice([*_SHELLS]))
def completion(shell: str) -> None:
    """Print what makes SHELL complete commands, options, runs, packages and tags.

    For bash put `eval "$(reprokit completion bash)"` into ~/.bashrc, for zsh the same with zsh into ~/.zshrc; for fish
    `reprokit completion fish > ~/.config/fish/completions/reprokit.fish`.

    In bash, which takes `@` and `:` for the end of a word, nothing is offered behind them.
    """
    root = click.get_current_context().find_root()
    click.echo(_SHELLS[shell](root.command, {}, "reprokit", _VARIABLE).source())


@click.command()
def version() -> None:
    """Print the version."""
    click.echo(f"reprokit {__version__}")
