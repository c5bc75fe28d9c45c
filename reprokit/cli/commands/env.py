"""env lock, env build, env check."""

from __future__ import annotations

import sys
from pathlib import Path

import click
import msgspec

from reprokit.cli.face import Face, common
from reprokit.cli.text.env_check import check_text
from reprokit.core.logical_keys import durable_write, os_errors
from reprokit.environment.capture import capture
from reprokit.environment.pip.index import with_archives
from reprokit.environment.pip.wheelhouse import Vault
from reprokit.environment.realise import realise
from reprokit.environment.solve import solve
from reprokit.environment.vault import open_vault
from reprokit.errors import UsageError
from reprokit.numerics.check import check_lock, check_run
from reprokit.numerics.query_environment import MOST_THREADS
from reprokit.reproduction.overrides import Overrides
from reprokit.runs.store import RunStore
from reprokit.schema.lock import EnvironmentLock, LockedEnvironment
from reprokit.schema.recipe import Environment, check_environment

__all__ = ["env", "locked_environment"]


@click.group()
def env() -> None:
    """Pin environments, make them from locks, and see whether a run would be the same in them."""


@env.command("lock")
@click.option("--conda", metavar="FILE", help="Solve an environment.yml.")
@click.option("--pip", metavar="FILE", help="Solve a requirements file, or a pyproject.toml.")
@click.option("--lock", metavar="FILE", help="Take a pylock.toml.")
@click.option("--extra", "extras", multiple=True, help="An extra of the pyproject.toml or pylock.toml; repeatable.")
@click.option("--archives", is_flag=True, help="Ask the indexes where installed wheels are, with their hashes.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Write a file, and not to stdout.")
@common
def lock(
    face: Face,
    conda: str | None,
    pip: str | None,
    lock: str | None,
    extras: tuple[str, ...],
    archives: bool,
    output: Path | None,
) -> None:
    """Pin an environment by itself: the one here, or what a file declares.

    What it writes is a LOCK for `env build`, `env check` and `export`, on this machine or another.
    """
    given = {"conda": conda, "pip": pip, "lock": lock}
    section = {key: value for key, value in given.items() if value is not None}
    if len(section) > 1:
        raise UsageError(f"Give one of {', '.join('--' + key for key in section)}.")
    if section:
        (key, name), cache = next(iter(section.items())), face.config.cache
        asked = Environment(**{key: Path(name).name}, extras=list(extras))  # type: ignore[arg-type]
        check_environment(asked)
        made = LockedEnvironment(
            **solve(asked, root=Path(name).absolute().parent, cache=cache, progress=face)._asdict()
        )
    else:
        here = capture(face.config.cache)
        for package, files in here.changed.items():
            face.note(f"{package} was changed since it was installed: {', '.join(files[:3])}")
        cache = face.config.cache
        known = with_archives(here.lock, here.archives, cache=cache, progress=face) if archives else here.archives
        made = LockedEnvironment(environment=here.lock, archives=known)
    text = made.encode()
    if output is not None:
        with os_errors(f"Writing {output}"):
            durable_write(output, text)
    told = f"wrote {output}  {made.environment.hash[:8]}  {made.environment.size} packages"
    face.result(msgspec.to_builtins(made), told if output is not None else text.decode().rstrip())


@env.command("build")
@click.argument("ref", metavar="RUN|LOCK")
@common
def build(face: Face, ref: str) -> None:
    """Make the environment of a run, or of a recipe's lock file, and print its interpreter.

    It lies in the cache, under its hash, and is made only once. Packages come from the run's vault, from the cache, or
    from where pip looks; each is checked against the lock before it is installed. Exit code 5 if it cannot be made.
    """
    locked, vault, _ = locked_environment(face, ref)
    python = realise(locked, cache=face.config.cache, vault=vault, progress=face)
    face.result({"python": str(python), "hash": locked.hash, "packages": locked.size}, str(python))


@env.command("check")
@click.argument("ref", metavar="RUN|LOCK")
@click.option(
    "--env",
    "which",
    type=click.Choice(["current", "exact"]),
    default="current",
    help="Compare with the environment here (current), or with the run's own, made if need be (exact).",
)
@click.option("--with", "changes", multiple=True, metavar="threads=N", help="As reproduce would be told.")
@common
def check(face: Face, ref: str, which: str, changes: tuple[str, ...]) -> None:
    """Compare a run's environment with this one, package by package, and predict whether its bits can be had here.

    A small workload is executed in the environment, as the run's script would be started, and compared kernel by kernel
    with what the run recorded. Nothing of the run is executed, and no code of it.

    Exit codes: 0 EQUAL (of a lock file: no package differs) · 5 the environment cannot be made · 7 DIFFERENT (of a lock
    file: packages differ) · 8 MAY-DIFFER or UNKNOWN.
    """
    threads, current = _changes(changes)
    exact, cache = which == "exact" and not current, face.config.cache
    if Path(ref).is_file():
        locked, vault, _ = locked_environment(face, ref)
        found = check_lock(locked, exact=exact, cache=cache, vault=vault, progress=face)
    else:
        store = face.registry()
        run = RunStore(store).load(ref)
        found = check_run(
            run.record, RunStore(store).lock(run), registry=store, exact=exact, cache=cache, threads=threads,
            vault=open_vault(run.manifest, store), progress=face,
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


def locked_environment(face: Face, ref: str) -> tuple[EnvironmentLock, Vault, str]:
    """Return an environment, where its archives are, and the name of what it was locked for."""
    if Path(ref).is_file():
        with os_errors(f"Reading {ref}"):
            lock = LockedEnvironment.decode(Path(ref).read_bytes(), what=ref)
        return lock.environment, Vault(archives=lock.archives), Path(ref).name.partition(".")[0]
    store = face.registry()
    run = RunStore(store).load(ref)
    return RunStore(store).lock(run).environment, open_vault(run.manifest, store), run.record.name
