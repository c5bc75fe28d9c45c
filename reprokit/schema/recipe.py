"""The recipe: what a user declares about a training run. Parsed strictly; no I/O here."""

from __future__ import annotations

import math
import re
import types
import typing
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any, Literal, Union

import msgspec

from reprokit.core.canonical_json import canonical
from reprokit.core.logical_keys import check_relative
from reprokit.core.refs import PackageRef, check_package_name, parse_run
from reprokit.errors import RecipeError, UsageError
from reprokit.schema.flags import Flags, check_flags
from reprokit.schema.variables import why_refused

__all__ = [
    "ENVIRONMENT_FILES",
    "Checkpoints",
    "Code",
    "DataInput",
    "Environment",
    "Execution",
    "Output",
    "OutputMode",
    "Recipe",
    "Tolerance",
    "WeightTolerance",
    "check_environment",
    "check_execution",
    "check_params",
    "check_places",
    "from_plain",
    "json_schema",
    "to_plain",
]


class _Strict(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    pass


class Code(_Strict, frozen=True, kw_only=True):
    """What is executed: exactly one of `entrypoint`, `command` and `notebook`.

    Paths are relative to the repository root.
    """

    entrypoint: str | None = None
    command: list[str] | None = None
    notebook: str | None = None
    workdir: str = "."


ENVIRONMENT_FILES = {
    "conda": "an environment.yml",
    "pip": "a requirements file or a pyproject.toml",
    "lock": "a pylock.toml",
}
"""Fields of `Environment` that name a file to solve, and what it is; `solve` has the solver of each."""


class Environment(_Strict, frozen=True, kw_only=True):
    """What the run is executed in, instead of the word `current`: at most one of conda, pip, lock and container.

    `conda` is an `environment.yml`, `pip` a requirements file or a `pyproject.toml` (with `extras`), `lock` a
    `pylock.toml` (with `extras`).
    `vault` says which packages are stored beside the record, so that it can be rebuilt without an index: those that no
    index serves, all, or none.
    """

    conda: str | None = None
    pip: str | None = None
    lock: str | None = None
    container: str | None = None
    extras: list[str] = []
    vault: Literal["unserved", "all", "none"] = "unserved"

    @property
    def declared(self) -> tuple[str, str] | None:
        """What to solve, of which kind and in which file; None if it only says what to keep."""
        found = ((kind, getattr(self, kind)) for kind in ENVIRONMENT_FILES)
        return next(((kind, file) for kind, file in found if file), None)


class DataInput(_Strict, frozen=True, kw_only=True):
    """What is laid out at `path` in the workspace: a package version, or another run's checkpoint or output.

    With `entry`, the one file or folder of the package that has that logical key. `run: RUN@best` is a checkpoint, and
    `run: RUN` the last one; with `output`, the file or folder of that name below what the run declared as its outputs.
    """

    path: str
    package: str | None = None
    entry: str | None = None
    run: str | None = None
    output: str | None = None


class Execution(_Strict, frozen=True, kw_only=True):
    """How the script is executed.

    `threads` unset is pinned by the lock to the cores that this process may use. `params: flags` also passes each
    parameter on the command line, `variables` as REPROKIT_PARAM_NAME. `flags` says how it stands there: `space`
    (`--lr 0.5`), `equals` (`--lr=0.5`), `hydra` (`lr=0.5`), `python` (`--on=True`), `switch` (`--on` or nothing), `no`
    (`--on` or `--no-on`), `words` (`--n 1 2`), `repeat` (`--n 1 --n 2`), `commas` (`--n=1,2`), `bare` (the value
    alone); one word for all parameters, or one by the name of each. `variables` are set for the script, and hashed.
    `benign` are files that may be read without being declared, for they decide nothing: whole paths, in which `*`
    stands for anything, slashes too (`/opt/fonts/*`, `*/.cache/hub/*.lock`).
    `secrets` are names of variables that the script gets from the environment of whoever runs it; their values are
    recorded nowhere.
    """

    seed: int = 0
    threads: int | None = None
    determinism: Literal["strict", "seeded", "off"] = "strict"
    inputs: Literal["deny", "warn", "off"] = "warn"
    benign: list[str] = []
    layout: Literal["bind", "symlink", "copy"] = "bind"
    params: Literal["api", "flags", "variables"] = "api"
    flags: Flags = "space"
    variables: dict[str, str] = {}
    secrets: list[str] = []

    def executed(self, *, hermetic: bool) -> Execution:
        """Return what holds in a run: a hermetic one reads nothing undeclared, unless its recipe has `inputs: off`."""
        if not hermetic or self.inputs != "warn":
            return self
        return msgspec.structs.replace(self, inputs="deny")


class Checkpoints(_Strict, frozen=True, kw_only=True):
    """Where checkpoints go, how often, and which of them stay.

    `every` is `n epochs`, `n steps` or `n minutes`; steps and minutes need a loop that reprokit sees the batches of.
    `keep` drops all but the last ones and the best of each metric. `on` saves when the run is told to stop, or fails.
    `writer` is `process` (storing goes on beside the training) or `sync`; `auto` chooses.
    """

    package: str | None = None
    every: str = "1 epoch"
    best: dict[str, Literal["min", "max"]] = {}
    keep: int | None = None
    on: list[Literal["signal", "exception"]] = msgspec.field(default_factory=lambda: ["signal"])
    writer: Literal["auto", "process", "sync"] = "auto"


OutputMode = Literal["bytes", "values", "pixels", "lines", "ignore"]


class Output(_Strict, frozen=True, kw_only=True):
    """A file or folder that the script writes, and how a reproduction's is compared with it.

    By `bytes`, by `values` (JSON, tables, NumPy arrays; within the metrics' tolerances), by `pixels`, by `lines` of
    text, or not at all: `ignore`. Of a folder each file is compared so.
    """

    path: str
    compare: OutputMode = "bytes"


class WeightTolerance(_Strict, frozen=True, kw_only=True):
    """|a − b| ≤ atol + rtol·|b|, element by element, b being the original's; zero asks for equality."""

    atol: float = 0.0
    rtol: float = 0.0


class Tolerance(_Strict, frozen=True, kw_only=True):
    """What a reproduction may differ by and still count as one, declared before the run.

    A metric that is to be `ignore`d, such as one that measures time, may be anything.
    """

    weights: WeightTolerance = WeightTolerance()
    metrics: dict[str, float | Literal["ignore"]] = {}

    @property
    def limits(self) -> dict[str, float]:
        """By name, the |Δ| that a metric may have: infinite where it is ignored."""
        return {name: math.inf if value == "ignore" else value for name, value in self.metrics.items()}


class Recipe(_Strict, frozen=True, kw_only=True):
    """A declared training run.

    `not_secret` names places that look as if they held a secret and hold none, as the refusal names them:
    `params.token`, `code/config.ini`.
    """

    name: str
    code: Code
    environment: Literal["current"] | Environment = "current"
    data: dict[str, DataInput] = {}
    params: dict[str, Any] = {}
    execution: Execution = Execution()
    checkpoints: Checkpoints = Checkpoints()
    outputs: list[str | Output] = []
    tolerance: Tolerance = Tolerance()
    not_secret: list[str] = []

    @property
    def checkpoint_package(self) -> str:
        return self.checkpoints.package or f"checkpoints/{self.name}"

    @property
    def image(self) -> str | None:
        """The image that it is executed in, as `name@sha256:…`."""
        return self.environment.container if isinstance(self.environment, Environment) else None

    @property
    def declared_outputs(self) -> list[Output]:
        return [Output(path=item) if isinstance(item, str) else item for item in self.outputs]

    @property
    def every(self) -> tuple[int, str]:
        """How often a checkpoint is saved: a number, and `epoch`, `step` or `minute`."""
        match = _EVERY.fullmatch(self.checkpoints.every)
        return (int(match[1]), match[2]) if match else (1, "epoch")


_EVERY = re.compile(r"([1-9]\d{0,8}) (epoch|step|minute)s?", re.ASCII)
_IMAGE = re.compile(r"[a-z0-9][A-Za-z0-9._:/-]{0,254}@sha256:[0-9a-f]{64}", re.ASCII)
_WORD = re.compile(r"[\w-]{1,100}", re.ASCII)
_PARAM = re.compile(r"[A-Za-z_][\w.-]{0,99}", re.ASCII)


def from_plain(value: dict[str, Any], *, what: str = "recipe") -> Recipe:
    """Return the recipe of parsed YAML or JSON.

    Raises:
        RecipeError: With the path of the offending field (`data.images.pakage`) and, where one is close, what
            was probably meant.
    """
    _check_keys(value, Recipe, "", what)
    try:
        recipe = msgspec.convert(value, Recipe, strict=True)
    except msgspec.ValidationError as error:
        raise RecipeError(f"{what}: {_readable(str(error))}") from None
    try:
        _check(recipe)
    except UsageError as error:
        raise RecipeError(f"{what}: {error.message}", hint=error.hint) from None
    return recipe


def to_plain(recipe: Recipe) -> dict[str, Any]:
    """Return the recipe as JSON values without defaults: `from_plain(to_plain(r)) == r`."""
    plain: dict[str, Any] = msgspec.to_builtins(recipe)
    return plain


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of recipes, for editors."""
    schema = msgspec.json.schema(Recipe)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "reprokit recipe", **schema}


def _check(recipe: Recipe) -> None:
    if not _WORD.fullmatch(recipe.name):
        raise RecipeError(f"name: {recipe.name!r} must be ASCII letters, digits, '_' and '-'.")
    _check_code(recipe.code)
    if isinstance(recipe.environment, Environment):
        check_environment(recipe.environment)
    for name, item in recipe.data.items():
        if (item.package is None) == (item.run is None):
            raise RecipeError(f"data.{name}: give exactly one of package and run.")
        if item.package is not None:
            PackageRef.parse(item.package)
        if item.run is not None:
            parse_run(item.run)
        if item.output is not None:
            _check_output_input(name, item)
        if item.entry is not None:
            if item.package is None:
                raise RecipeError(
                    f"data.{name}.entry: only a package has entries, and {item.run} is a run.",
                    hint="Write `output:` for a file or folder that the run made.",
                )
            check_relative(item.entry, what=f"data.{name}.entry")
    check_places((name, item.path) for name, item in recipe.data.items())
    check_params(recipe.params)
    check_execution(recipe.execution)
    used = recipe.execution.params == "flags"
    check_flags(recipe.params, recipe.execution.flags, used=used, command=recipe.code.command or [])
    if recipe.code.notebook is not None and recipe.image is not None:
        raise RecipeError(
            "code.notebook is not executed in a container by this release.",
            hint="Declare the environment with conda, pip or lock, or run reprokit inside the container.",
        )
    if recipe.code.notebook is not None and recipe.execution.params == "flags":
        raise RecipeError(
            "execution.params: a notebook has no command line that flags could be on.",
            hint="It has `reprokit.params()`, `params: variables`, and a cell tagged `parameters`.",
        )
    _check_tolerance(recipe.tolerance)
    if recipe.checkpoints.package is not None:
        check_package_name(recipe.checkpoints.package)
        if recipe.checkpoints.package.startswith("runs/"):
            raise RecipeError("checkpoints.package: the namespace 'runs' is reprokit's own.")
    if not _EVERY.fullmatch(recipe.checkpoints.every):
        raise RecipeError(
            f"checkpoints.every: {recipe.checkpoints.every!r} is not '<n> epochs', '<n> steps' or '<n> minutes'.",
            hint="Such as '1 epoch', '500 steps' or '10 minutes'.",
        )
    if recipe.checkpoints.keep is not None and recipe.checkpoints.keep < 1:
        raise RecipeError(f"checkpoints.keep: {recipe.checkpoints.keep} is not at least 1.")
    for output in recipe.declared_outputs:
        check_relative(output.path, what="outputs")


def check_places(inputs: Iterable[tuple[str, str]]) -> None:
    """Raise for an input whose name or path is none, or that would lie in another; they come as name and path."""
    places: dict[str, str] = {}
    for name, path in inputs:
        if not _WORD.fullmatch(name):
            raise RecipeError(f"data: {name!r} must be ASCII letters, digits, '_' and '-'.")
        if name in places:
            raise RecipeError(f"data: there are two inputs {name!r}.")
        place = check_relative(path, what=f"data.{name}.path")
        for other, taken in places.items():
            one, two = place.casefold(), taken.casefold()
            if one == two or one.startswith(two + "/") or two.startswith(one + "/") or "." in (one, two):
                raise RecipeError(f"data.{name}.path: {place!r} overlaps with data.{other}.path: {taken!r}.")
        places[name] = place


def check_params(params: dict[str, Any]) -> None:
    """Raise for a parameter that no script could be given, or whose value is not JSON."""
    for key in params:
        if not _PARAM.fullmatch(key):
            raise RecipeError(f"params: {key!r} must be letters, digits, '_', '-' and '.', starting with a letter.")
    _check_param_keys(params, "params")
    try:
        canonical(params)
    except (ValueError, TypeError):
        raise RecipeError("params: a value is NaN, infinite or not JSON; write it as a string.") from None


def _check_output_input(name: str, item: DataInput) -> None:
    check_relative(str(item.output), what=f"data.{name}.output")
    if item.run is None:
        raise RecipeError(
            f"data.{name}.output: only a run has outputs, and {item.package} is a package.",
            hint="Write `run: RUN` instead of `package:`.",
        )
    if parse_run(item.run).selector is not None:
        raise RecipeError(
            f"data.{name}: {item.run!r} names a checkpoint, and a checkpoint has no outputs.",
            hint="Take the '@…' away for the run's output, or `output:` for the checkpoint.",
        )


def _check_param_keys(value: Any, where: str) -> None:
    for key, item in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        if isinstance(value, dict) and not isinstance(key, str):
            raise RecipeError(f"{where}: the key {key!r} is not text; write it in quotes.")
        _check_param_keys(item, f"{where}.{key}" if isinstance(value, dict) else f"{where}[{key}]")


def _check_tolerance(tolerance: Tolerance) -> None:
    values = {"weights.atol": tolerance.weights.atol, "weights.rtol": tolerance.weights.rtol}
    values |= {f"metrics.{name}": value for name, value in tolerance.metrics.items() if value != "ignore"}
    for where, value in values.items():
        if not (math.isfinite(value) and value >= 0):
            raise RecipeError(f"tolerance.{where}: {value} is not a finite number of at least 0.")


def _check_code(code: Code) -> None:
    if sum(given is not None for given in (code.entrypoint, code.command, code.notebook)) != 1:
        raise RecipeError("code: give exactly one of entrypoint, command and notebook.")
    if code.entrypoint is not None:
        check_relative(code.entrypoint, what="code.entrypoint")
    if code.notebook is not None:
        check_relative(code.notebook, what="code.notebook")
    if code.command is not None and (not code.command or not code.command[0]):
        raise RecipeError("code.command: must be a list of at least one word, such as [python, train.py].")
    check_relative(code.workdir, what="code.workdir")


def check_environment(environment: Environment) -> None:
    """Raise RecipeError for a section that contradicts itself, or names a file outside the repository."""
    kinds = [*ENVIRONMENT_FILES, "container"]
    given = [key for key in kinds if getattr(environment, key) is not None]
    if len(given) > 1:
        words = f"{', '.join(kinds[:-1])} and {kinds[-1]}"
        raise RecipeError(f"environment: write 'current', or at most one of {words}.")
    if environment.container is not None:
        if not _IMAGE.fullmatch(environment.container):
            raise RecipeError(
                f"environment.container: {environment.container!r} names no image by its digest; a tag may move.",
                hint="Write name@sha256:…, as `podman image inspect --format '{{index .RepoDigests 0}}' IMAGE` says.",
            )
        return
    for key in given:
        check_relative(getattr(environment, key), what=f"environment.{key}")
    if environment.extras and not (environment.lock or str(environment.pip).endswith(".toml")):
        raise RecipeError("environment.extras: only a pyproject.toml or a pylock.toml has extras.")


def check_execution(execution: Execution) -> None:
    """Raise for numbers out of range, and variables that a recipe may not set."""
    if not 0 <= execution.seed < 2**32:
        raise RecipeError(f"execution.seed: {execution.seed} is not in 0 … 4294967295.")
    if execution.threads is not None and not 1 <= execution.threads <= 4096:
        raise RecipeError(f"execution.threads: {execution.threads} is not in 1 … 4096.")
    for pattern in execution.benign:
        if (
            not pattern.startswith(("/", "*/"))
            or ".." in pattern.split("/")
            or not pattern.strip("/*?.")
            or ":" in pattern
        ):
            raise RecipeError(
                f"execution.benign: {pattern!r} names no files by their whole path.",
                hint="Begin with '/' or '*/', say a part of a name, and write '?' for a colon: '*/.cache/hub/*.lock'.",
            )
    for name, value in execution.variables.items():
        reason = why_refused(name, value)
        if reason is not None:
            raise RecipeError(f"execution.variables: {name!r} {reason}.")
    for name in execution.secrets:
        if (reason := why_refused(name, "")) is not None:
            raise RecipeError(f"execution.secrets: {name!r} {reason}, and it cannot be given as a secret.")
        if name in execution.variables:
            raise RecipeError(f"execution.secrets: {name} has its value in execution.variables, where it is recorded.")


def _check_keys(value: Any, type_: Any, path: str, what: str) -> None:
    """Raise for the first unknown key below `value`, which should become `type_`."""
    origin, arguments = typing.get_origin(type_), typing.get_args(type_)
    if origin is Literal and isinstance(value, str) and value not in arguments:
        close = get_close_matches(value, arguments, n=1, cutoff=0.5)
        guess = f"Did you mean {close[0]!r}? " if close else ""
        raise RecipeError(
            f"{what}: {path}: {value!r} is not known.", hint=f"{guess}Known here: {', '.join(arguments)}."
        )
    if origin in (Union, types.UnionType):
        for option in arguments:
            _check_keys(value, option, path, what)
    elif origin is dict and isinstance(value, dict):
        for key, item in value.items():
            _check_keys(item, arguments[1], f"{path}.{key}" if path else str(key), what)
    elif origin is list and isinstance(value, list):
        for index, item in enumerate(value):
            _check_keys(item, arguments[0], f"{path}[{index}]", what)
    elif isinstance(type_, type) and issubclass(type_, msgspec.Struct) and isinstance(value, dict):
        hints = typing.get_type_hints(type_)
        for key, item in value.items():
            where = f"{path}.{key}" if path else str(key)
            if key not in hints:
                close = get_close_matches(str(key), hints, n=1, cutoff=0.5)
                guess = f"Did you mean {close[0]!r}? " if close else ""
                raise RecipeError(f"{what}: unknown key {where}.", hint=f"{guess}Known here: {', '.join(hints)}.")
            _check_keys(item, hints[key], where, what)


def _readable(message: str) -> str:
    """Turn msgspec's ``Expected `int`, got `str` - at `$.execution.seed` `` into ours."""
    text, _, where = message.partition(" - at ")
    text = text.replace("`", "").replace("Object missing required field", "missing the key")
    where = where.strip("`").removeprefix("key in `").removeprefix("$").removeprefix(".")
    return f"{where}: {text[0].lower()}{text[1:]}." if where else f"{text[0].lower()}{text[1:]}."
