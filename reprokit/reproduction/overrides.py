"""What a repetition changes about the run that it repeats: parsed from `--with`, and applied to its lock."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec

from reprokit.comparison.record_check import check_record
from reprokit.core.refs import is_package_ref, parse_run
from reprokit.core.safe_yaml import load_yaml
from reprokit.core.secret_scan import in_value
from reprokit.environment.capture import capture_environment
from reprokit.environment.vault import kept_entries, open_vault
from reprokit.errors import UsageError
from reprokit.locking.code_entries import code_entries
from reprokit.locking.git_tree import Repository
from reprokit.locking.inputs import output_name, pin_input
from reprokit.locking.prepared import Prepared
from reprokit.locking.recipe_lock import ready_for
from reprokit.locking.secret_check import SecretCheck, refuse_secrets
from reprokit.registry import Registry
from reprokit.registry.context import Context
from reprokit.runs.store import RunStore, StoredRun
from reprokit.schema.factor import SETTINGS, Factor, FactorKind
from reprokit.schema.lock import DataPin, RunLock
from reprokit.schema.manifest import Entry
from reprokit.schema.recipe import DataInput, Tolerance, from_plain, to_plain
from reprokit.schema.record import CodeFacts

__all__ = ["Overrides", "parse_factor", "prepare_with"]


_PREFIXES: dict[str, FactorKind] = {"data": "data", "param": "param", "variable": "variable"}
_HELP = (
    "Known: code=DIR or RUN, data.NAME=REF, param.NAME=VALUE, threads=N, seed=N, determinism=…, inputs=…, layout=…, "
    "variable.NAME=VALUE (nothing to unset it), env=current or RUN."
)


def parse_factor(option: str) -> Factor:
    """Parse what stands after `--with`; values of parameters and settings are YAML.

    Raises:
        UsageError: It is of no known form.
    """
    key, equals, text = option.partition("=")
    prefix, _, name = key.partition(".")
    kind = _PREFIXES.get(prefix)
    if kind == "variable" and name and equals:
        return Factor(kind=kind, name=name, value=text or None)
    if not equals or not text:
        raise UsageError(f"--with {option}: write NAME=VALUE.", hint=_HELP)
    if key in ("code", "env"):
        return Factor(kind="code" if key == "code" else "environment", value=text)
    if kind == "data" and name:
        return Factor(kind=kind, name=name, value=text)
    if kind == "param" and name:
        return Factor(kind=kind, name=name, value=load_yaml(text.encode(), what=f"--with {option}"))
    if key in SETTINGS:
        return Factor(kind="execution", name=key, value=load_yaml(text.encode(), what=f"--with {option}"))
    raise UsageError(f"--with {option}: {key!r} cannot be overridden.", hint=_HELP)


@dataclass(frozen=True, kw_only=True)
class Overrides:
    """What `--with` and its like change about a lock; `relaxed` names each in the words it was given.

    Attributes:
        code: A folder of a git repository, or the run whose code is taken.
        environment: `current`, or the run whose environment is taken.
        variables: None unsets one.
    """

    code: str | None = None
    environment: str | None = None
    data: tuple[tuple[str, str], ...] = ()
    params: tuple[tuple[str, Any], ...] = ()
    execution: tuple[tuple[str, Any], ...] = ()
    variables: tuple[tuple[str, str | None], ...] = ()
    until: int | None = None
    tolerance: Tolerance | None = None
    relaxed: tuple[str, ...] = ()

    @classmethod
    def parse(cls, items: tuple[str, ...], *, until: str | None = None, tolerance: Path | None = None) -> Overrides:
        """Parse `code=.`, `data.NAME=REF`, `param.NAME=V`, `threads=4`, `seed=1`, `env=current`; `epoch=2` for until.

        Raises:
            UsageError: None of these.
        """
        result = cls.of([parse_factor(item) for item in items])
        result = replace(result, relaxed=tuple(items))
        if until is not None:
            name, _, number = until.partition("=")
            if name != "epoch" or not number.isdigit():
                raise UsageError(f"--until {until}: write epoch=N, counted from 0.")
            result = replace(result, until=int(number), relaxed=(*result.relaxed, f"until {until}"))
        if tolerance is not None:
            value = load_yaml(tolerance.read_bytes(), what=str(tolerance))
            probe = from_plain({"name": "t", "code": {"entrypoint": "t"}, "tolerance": value}, what=str(tolerance))
            result = replace(
                result, tolerance=probe.tolerance, relaxed=(*result.relaxed, f"tolerance {tolerance.name}")
            )
        return result

    @classmethod
    def of(cls, factors: Iterable[Factor], *, until: int | None = None) -> Overrides:
        """Return what gives a repetition these.

        Args:
            until: The last epoch that is executed, from 0.
        """
        chosen = list(factors)

        def named(kind: FactorKind) -> tuple[tuple[str, Any], ...]:
            return tuple((factor.name, factor.value) for factor in chosen if factor.kind == kind)

        return cls(
            code=next((value for _, value in reversed(named("code"))), None),
            environment=next((value for _, value in reversed(named("environment"))), None),
            data=named("data"),
            params=named("param"),
            execution=named("execution"),
            variables=named("variable"),
            until=until,
            relaxed=(*(factor.option for factor in chosen), *([] if until is None else [f"until epoch={until}"])),
        )


def prepare_with(original: StoredRun, lock: RunLock, chosen: Overrides, *, context: Context) -> Prepared:
    """Apply overrides to a lock, and have its environment made; without any, the lock stays what it was, hash and all.

    Raises:
        UsageError: The run has no such parameter or input, or there is no such run or folder.
        EnvironmentMismatchError: The environment is not the one here, and cannot be made; both are named.
    """
    registry = context.registry
    runs = RunStore(registry)
    entries = [*original.manifest.below("code")]
    code = msgspec.structs.replace(original.record.code or CodeFacts(tree=lock.code.tree), imported=[], opened=None)
    if chosen.code is not None:
        lock, entries, code = _other_code(lock, chosen.code, registry)
    plain = to_plain(lock.recipe)
    if chosen.params:
        unknown = [name for name, _ in chosen.params if name not in lock.params]
        if unknown:
            raise UsageError(
                f"--with param.{unknown[0]}: the run has no such parameter.",
                hint=f"Known: {', '.join(lock.params) or 'none'}.",
            )
        plain["params"] = {**lock.params, **dict(chosen.params)}
        lock = msgspec.structs.replace(lock, params=plain["params"])
    if chosen.execution or chosen.variables:
        execution = {**msgspec.to_builtins(lock.execution), **dict(chosen.execution)}
        given = {**lock.execution.variables, **dict(chosen.variables)}
        execution["variables"] = {name: value for name, value in given.items() if value is not None}
        plain["execution"] = execution
    recipe = from_plain(plain, what="The lock with --with")
    given_now = {"params": dict(chosen.params), "execution": {"variables": dict(chosen.variables)}}
    refuse_secrets(in_value(given_now, ""), allowed=recipe.not_secret)
    if chosen.execution or chosen.variables:
        lock = msgspec.structs.replace(lock, execution=recipe.execution)
    lock = msgspec.structs.replace(lock, recipe=recipe, data=_repin(lock.data, chosen.data, registry, runs))
    if "recipe.yaml" in original.manifest:
        entries.append(original.manifest["recipe.yaml"])
    if chosen.environment == "current":
        lock = msgspec.structs.replace(lock, environment=capture_environment(context.cache))
        return Prepared(lock=lock, entries=entries, code=code, name=original.record.name)
    source = original
    if chosen.environment is not None:
        source = runs.load(chosen.environment)
        theirs = runs.lock(source)
        check_record(source, theirs, registry)
        environment = {"environment": to_plain(theirs.recipe)["environment"]} if theirs.recipe.image else {}
        recipe = from_plain({**to_plain(lock.recipe), **environment}, what="The lock with --with")
        lock = msgspec.structs.replace(lock, environment=theirs.environment, recipe=recipe)
    vault = open_vault(source.manifest, registry)
    what = f"run {source.record.run_id}"
    ready = ready_for(lock.environment, context=context, what=what, vault=vault, image=lock.recipe.image)
    entries += kept_entries(source.manifest)
    return Prepared(
        lock=lock, entries=entries, code=code, name=original.record.name, python=ready.python, container=ready.container
    )


def _other_code(lock: RunLock, text: str, registry: Registry) -> tuple[RunLock, list[Entry], CodeFacts]:
    """Return a lock with the code of a folder or of another run."""
    if not Path(text).is_dir():
        runs = RunStore(registry)
        try:
            parse_run(text)
        except UsageError:
            raise UsageError(f"--with code={text}: there is no such folder, and it names no run.") from None
        other = runs.load(text)
        theirs = runs.lock(other)
        check_record(other, theirs, registry)
        code = msgspec.structs.replace(other.record.code or CodeFacts(tree=theirs.code.tree), imported=[], opened=None)
        return msgspec.structs.replace(lock, code=theirs.code), [*other.manifest.below("code")], code
    repository = Repository(Path(text))
    with (
        repository.capture(allow_dirty=True, notebook=lock.recipe.code.notebook) as capture,
        registry.staging() as sink,
    ):
        entries, _ = code_entries(repository, capture, sink, check=SecretCheck(lock.recipe))
        identity = msgspec.structs.replace(capture.identity, python_path=lock.code.python_path)
        return msgspec.structs.replace(lock, code=identity), entries, capture.facts


def _repin(
    pins: list[DataPin], changes: tuple[tuple[str, str], ...], registry: Registry, runs: RunStore
) -> list[DataPin]:
    known = {pin.name: pin for pin in pins}
    for name, text in changes:
        if name not in known:
            raise UsageError(
                f"--with data.{name}: the run has no such input.", hint=f"It has: {', '.join(known) or 'none'}."
            )
        known[name] = pin_input(name, _input_like(known[name], text), registry=registry, runs=runs)
    return list(known.values())


def _input_like(pin: DataPin, text: str) -> DataInput:
    """Return the input that a reference names: of a run without a checkpoint, the output that `pin` has of another."""
    if is_package_ref(text):
        return DataInput(path=pin.path, package=text, entry=pin.within if pin.run is None else None)
    within = pin.within if pin.within is not None and parse_run(text).selector is None else None
    return DataInput(path=pin.path, run=text, output=within and output_name(within))
