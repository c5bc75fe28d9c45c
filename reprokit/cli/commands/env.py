"""env lock, env build, env check."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import click
import msgspec

from reprokit.cli.consent import ask_before, confirmed
from reprokit.cli.face import Face, common, reference
from reprokit.cli.text.env_check import check_text
from reprokit.client.frameworks import MOST_THREADS
from reprokit.comparison.record_check import check_record
from reprokit.core.atomic_files import durable_write, os_errors
from reprokit.environment.locked import lock_environment
from reprokit.environment.realise import realise
from reprokit.environment.vault import open_vault
from reprokit.errors import UsageError
from reprokit.numerics.check import check_lock, check_run
from reprokit.reproduction.overrides import Overrides
from reprokit.runs.environment import environment_of
from reprokit.runs.store import RunStore
from reprokit.schema.recipe import ENVIRONMENT_FILES, Environment

__all__ = ["env"]

_PACKAGES = "code of its packages, which it may have brought along"


@click.group()
def env() -> None:
    """Pin environments, make them from locks, and see whether a run would be the same in them."""


def _files(command: Callable[..., None]) -> Callable[..., None]:
    for kind, what in reversed(ENVIRONMENT_FILES.items()):
        command = click.option(f"--{kind}", metavar="FILE", help=f"Pin what {what} asks for.")(command)
    return command


@env.command("lock")
@_files
@click.option("--extra", "extras", multiple=True, help="An extra of the pyproject.toml or pylock.toml; repeatable.")
@click.option("--archives", is_flag=True, help="Ask the indexes where installed wheels are, with their hashes.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Write a file, and not to stdout.")
@common
def lock(face: Face, extras: tuple[str, ...], archives: bool, output: Path | None, **declared: str | None) -> None:
    """Pin an environment by itself: the one here, or what a file declares.

    What it writes is a LOCK for `env build`, `env check` and `export`, on this machine or another.
    """
    section = {key: value for key, value in declared.items() if value is not None}
    if len(section) > 1:
        raise UsageError(f"Give one of {', '.join('--' + key for key in section)}.")
    asked, root = None, Path.cwd()
    if section:
        (key, name), *_ = section.items()
        asked = Environment(**{key: Path(name).name}, extras=list(extras))  # type: ignore[arg-type]
        root = Path(name).absolute().parent
    made, changed = lock_environment(asked, root=root, archives=archives, cache=face.config.cache, progress=face)
    for package, files in changed.items():
        face.note(f"{package} was changed since it was installed: {', '.join(files[:3])}")
    text = made.encode()
    if output is not None:
        with os_errors(f"Writing {output}"):
            durable_write(output, text)
    told = f"wrote {output}  {made.environment.hash[:8]}  {made.environment.size} packages"
    face.result(msgspec.to_builtins(made), told if output is not None else text.decode().rstrip())


@env.command("build")
@reference("ref", metavar="RUN|LOCK")
@confirmed
@common
def build(face: Face, ref: str, yes: bool) -> None:
    """Make the environment of a run, or of a recipe's lock file, and print its interpreter.

    It lies in the cache, under its hash, and is made only once. Packages come from the run's vault, from the cache, or
    from where pip looks; each is checked against the lock before it is installed. Exit code 5 if it cannot be made.
    """
    if not Path(ref).is_file():
        ask_before(face, [ref], yes=yes, what=_PACKAGES)
        runs = RunStore(face.registry())
        run = runs.load(ref)
        if (lock := runs.find_lock(run)) is not None:
            check_record(run, lock, runs.registry)
    locked, vault, _ = environment_of(ref, registry=face.registry())
    python = realise(locked, cache=face.config.cache, vault=vault, progress=face)
    face.result({"python": str(python), "hash": locked.hash, "packages": locked.size}, str(python))


@env.command("check")
@reference("ref", metavar="RUN|LOCK")
@click.option(
    "--env",
    "which",
    type=click.Choice(["current", "exact"]),
    default="current",
    help="Compare with the environment here (current), or with the run's own, made if need be (exact).",
)
@click.option("--with", "changes", multiple=True, metavar="threads=N", help="As reproduce would be told.")
@confirmed
@common
def check(face: Face, ref: str, which: str, changes: tuple[str, ...], yes: bool) -> None:
    """Compare a run's environment with this one, package by package, and predict whether its bits can be had here.

    A small workload is executed in the environment, as the run's script would be started, and compared kernel by kernel
    with what the run recorded. Nothing of the run is executed, and no code of it; with --env exact the packages that
    it was recorded with are, so that is asked where somebody else wrote it.

    Exit codes: 0 EQUAL (of a lock file: no package differs) · 5 the environment cannot be made · 7 DIFFERENT (of a lock
    file: packages differ) · 8 MAY-DIFFER or UNKNOWN.
    """
    threads, current = _changes(changes)
    exact, context = which == "exact" and not current, face.context()
    if Path(ref).is_file():
        locked, vault, _ = environment_of(ref, registry=face.registry())
        found = check_lock(locked, context=context, exact=exact, vault=vault)
    else:
        if exact:
            ask_before(face, [ref], yes=yes, what=_PACKAGES)
        runs = RunStore(context.registry)
        run = runs.load(ref)
        lock = runs.lock(run)
        if exact:
            check_record(run, lock, context.registry)
        found = check_run(
            run.record, lock, context=context, exact=exact, threads=threads,
            vault=open_vault(run.manifest, context.registry),
        )  # fmt: skip
    face.result(msgspec.to_builtins(found), lambda: check_text(found))
    sys.exit(found.exit_code)


def _changes(items: tuple[str, ...]) -> tuple[int | None, bool]:
    """Return the threads that `--with` names, if any, and whether it names the environment here."""
    overrides = Overrides.parse(items)
    execution = dict(overrides.execution)
    threads = execution.pop("threads", None)
    elsewhere = overrides.environment not in (None, "current")
    if execution or overrides.data or overrides.params or overrides.variables or overrides.code or elsewhere:
        raise UsageError("--with: only threads=N and env=current decide how numbers are computed.")
    if threads is not None and (type(threads) is not int or not 1 <= threads <= MOST_THREADS):
        raise UsageError(f"--with threads={threads}: a whole number from 1 to {MOST_THREADS} is expected.")
    return threads, overrides.environment is not None
