"""The entry point. Commands load when they are called, so that `reprokit --version` imports next to nothing."""

from __future__ import annotations

import gc
import importlib
import io
import sys
from difflib import get_close_matches

import click

from reprokit._version import __version__
from reprokit.core.terminal_text import continued
from reprokit.errors import Error

__all__ = ["cli", "main"]

_SECTIONS: dict[str, dict[str, tuple[str, str, str]]] = {
    "Begin": {
        "init": ("recipe", "init", "Draft a recipe for a script."),
        "import": ("recipe", "import_", "Take over a project of another tool."),
        "lock": ("recipe", "lock", "Pin a recipe's environment and data, and say what moved."),
        "schema": ("recipe", "schema", "Print the JSON Schema of recipes."),
    },
    "Run": {
        "run": ("run", "run", "Run a recipe and record it."),
        "resume": ("run", "resume", "Go on with a run that was stopped."),
        "doctor": ("doctor", "doctor", "See whether a recipe's training resumes bit for bit."),
        "status": ("watch", "status", "Show what is running where, and what is still to be stored."),
        "watch": ("watch", "watch", "Watch a run in the terminal: curves and the end of its log."),
        "logs": ("watch", "logs", "Print what a run's script wrote, and writes."),
        "stop": ("watch", "stop", "Have a run stop, on whatever machine it is."),
    },
    "Compare and reproduce": {
        "ls": ("ls", "ls", "List runs and packages, or what is in one."),
        "show": ("ls", "show", "Show a run or a package version."),
        "diff": ("diff", "diff", "Compare two runs or two package versions, without running."),
        "reproduce": ("reproduce", "reproduce", "Repeat a run from its ID and give a verdict."),
        "lineage": ("ls", "lineage", "Show what a run or a version was made from, or what was made from it."),
        "note": ("watch", "note", "Say something of a run."),
        "ui": ("ui", "ui", "Show runs and packages in a browser."),
        "export": ("export", "export", "Write a run, or its environment, for other tools."),
    },
    "Packages and checkpoints": {
        "package": ("build", "package", "Build packages."),
        "log": ("package", "log", "Show the history of a package."),
        "tag": ("package", "tag", "Point a tag at a package version, for good or until it moves."),
        "install": ("package", "install", "Write a package version into a folder, verified."),
        "checkpoint": ("checkpoint", "checkpoint", "Fetch checkpoints."),
        "mount": ("mount", "mount", "Serve a package version as a read-only file system."),
        "unmount": ("mount", "unmount", "End a mount, also one whose process was killed."),
    },
    "Registries": {
        "registry": ("transfer", "registry", "Look at registries, and copy one into another."),
        "push": ("transfer", "push", "Copy versions or runs into another registry, or for quilt3."),
        "pull": ("transfer", "pull", "Copy versions or runs from another registry, or one of quilt3's."),
        "verify": ("package", "verify", "Check every byte of a version, or of the whole registry."),
        "rollback": ("upkeep", "rollback", "Make an older version of a package the latest again."),
        "rm": ("upkeep", "rm", "Delete a package version or a run."),
        "gc": ("upkeep", "gc", "Remove what no version uses."),
        "purge": ("upkeep", "purge", "Erase objects for good and leave a tombstone."),
    },
    "Environments": {
        "env": ("env", "env", "Pin environments, and make them from locks."),
    },
    "Help": {
        "help": ("..helping", "help_", "Explain a command."),
        "completion": (
            "..helping",
            "completion",
            "Print what makes a shell complete commands, runs, packages and tags.",
        ),
        "version": ("..helping", "version", "Print the version."),
    },
}
_COMMANDS = {name: facts for section in _SECTIONS.values() for name, facts in section.items()}


_FLAGS = frozenset({"--offline", "--json", "-q", "--quiet", "-v", "--verbose"})
_VALUED = frozenset({"--registry", "-C"})


class _Lazy(click.Group):
    """A group whose commands are imported on first use; its help needs none of them."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        return super().parse_args(ctx, self._options_last(ctx, args))

    def _options_last(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put the options that every command has behind the command, where they stand before it."""
        before, rest = list[str](), [*args]
        while rest and (rest[0] in _FLAGS | _VALUED or rest[0].startswith("--registry=")):
            before += [rest.pop(0) for _ in range(1 + (rest[0] in _VALUED)) if rest]
        if not before or not rest:
            return args
        at, command = 1, self.get_command(ctx, rest[0])
        while isinstance(command, click.Group) and rest[at:]:
            command, at = command.get_command(ctx, rest[at]), at + 1
        return [*rest[:at], *before, *rest[at:]]

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:  # noqa: ARG002
        if name not in _COMMANDS:
            return None
        module, attribute, _ = _COMMANDS[name]
        command: click.Command = getattr(
            importlib.import_module(module if module.startswith(".") else f".{module}", "reprokit.cli.commands"),
            attribute,
        )
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        wide = max(map(len, _COMMANDS))
        for title, commands in _SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl([(name.ljust(wide), text) for name, (_, _, text) in commands.items()])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in _COMMANDS and not args[0].startswith("-"):
            close = get_close_matches(args[0], _COMMANDS, n=1, cutoff=0.7)
            close += [name for name in _COMMANDS if sorted(name) == sorted(args[0])]  # letters that changed places
            elsewhere = importlib.import_module("reprokit.cli.elsewhere").ELSEWHERE  # loaded after a slip alone
            guess = elsewhere.get(args[0]) or (f"Did you mean '{close[0]}'?" if close else "")
            raise click.UsageError(f"No such command '{args[0]}'. {guess}".rstrip(), ctx)
        return super().resolve_command(ctx, args)


@click.group(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="reprokit", message="%(prog)s %(version)s")
def cli() -> None:
    """Reproducible builds for machine learning.

    Exit codes: 0 ok or reproduced · 1 internal · 2 usage · 3 refused · 4 data mismatch · 5 environment ·
    6 the script failed · 7 diverged · 8 inconclusive · 10 not found · 11 registry or I/O · 130 interrupted.
    """


def main() -> None:
    """Run the command line; a user's mistake ends in its exit code and no traceback."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # that an encoding lacks an arrow is no reason to say nothing
    gc.set_threshold(100_000, 20, 100)  # tens of thousands of entries are no reason to look for cycles all the time
    try:
        cli.main(standalone_mode=False)
    except Error as error:
        _fail(error.message, error.hint, error.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        _fail("Interrupted.", None, 130)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(141)
    except OSError as error:
        _fail(f"The operating system refused: {error}.", None, 11)


def _fail(message: str, hint: str | None, code: int) -> None:
    click.secho("error: ", fg="red", bold=True, nl=False, err=True)
    click.echo(continued(message), err=True)
    if hint:
        click.echo(continued(hint), err=True)
    sys.exit(code)


if __name__ == "__main__":
    main()
