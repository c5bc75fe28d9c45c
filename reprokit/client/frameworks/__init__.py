"""What is known of each framework outside its callback: one object in one file each, looked up by name.

A file here is `<name>.py` with `FRAMEWORK`; that it lies here is all it takes to be found. It imports the standard
library alone: functions get the framework's module, or look for it in `sys.modules`, and what needs more is named as
`module:function`.
"""

from __future__ import annotations

import functools
import importlib
import os
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

__all__ = ["MOST_THREADS", "Format", "Framework", "Numbers", "Stored", "Variables", "at", "find", "frameworks", "valid"]

MOST_THREADS = 1024


class Numbers(NamedTuple):
    """What of a framework decides floating-point bits, and what tells it.

    Attributes:
        asked: The processes in which `env check` imports it to ask for its facts; two that cannot be imported one after
            the other are asked apart. Of several, its `backend` says which. Empty: it tells no facts, and is not asked.
        also: Modules that are imported with it there.
        facts: Called with its module, and True where what starts up more may be asked too; see `numeric_facts`.
        switches: Called with what the library said in a run, the run's kernels and threads: what its script set.
            The facts are a stranger's.
        set_switches: Called with its module and what `switches` returned.
        kernels: By the name of a library of kernels, what returns them, for those that are loaded; see `fingerprint`.
        computed: False where it computed nothing in this process, so that its kernels would start it up.
        below: By library of kernels, the facts of others that explain it.
        trained_by: The libraries whose kernels make a checkpoint's numbers. None: nobody knows; `backend` in its facts
            names the framework that does.
        lint: Called with what the script's process said (`reprokit.client.probe`), `determinism` and the recipe's
            variables; returns sentences on what decides bits and was left open.
    """

    asked: tuple[str, ...] = ()
    also: tuple[str, ...] = ()
    facts: Callable[[Any, bool], dict[str, Any]] = lambda _module, _whole: {}
    switches: Callable[[Mapping[str, Any], Mapping[str, Any], int | None], dict[str, Any]] = lambda *_: {}
    set_switches: Callable[[Any, Mapping[str, Any]], None] = lambda _module, _switches: None
    kernels: Mapping[str, Callable[[], dict[str, Callable[[], Any]]]] = {}
    computed: Callable[[], bool] = lambda: True
    below: Mapping[str, tuple[str, ...]] = {}
    trained_by: Collection[str] | None = None
    lint: Callable[[Mapping[str, Any], str, Mapping[str, str]], list[str]] = lambda *_: []


class Variables(NamedTuple):
    """The environment variables of a framework.

    Attributes:
        numeric: Those that decide numbers, by their whole names; they are recorded, so no secret may be called so.
        read: How the names begin that this framework reads: where it is not loaded, they do nothing.
        effects: By variable, the fact that shows what it did.
        threads: Set to the recipe's threads.
        strict: Set where `determinism` is `strict`.
        fixed: Set always.
        scratch: Set to a folder of this name that is the run's alone, instead of one in HOME.
    """

    numeric: tuple[str, ...] = ()
    read: tuple[str, ...] = ()
    effects: Mapping[str, str] = {}
    threads: tuple[str, ...] = ()
    strict: Mapping[str, str] = {}
    fixed: Mapping[str, str] = {}
    scratch: Mapping[str, str] = {}


class Format(NamedTuple):
    """A file format that checkpoints are written as.

    Attributes:
        writer: `module:function` of the tool, called with a checkpoint and a path.
        file: The file's name.
        takes_types: It is called with `types=` too: full names of what the file may hold.
    """

    writer: str
    file: str
    takes_types: bool = False


class Stored(NamedTuple):
    """What a framework's checkpoints hold beyond tensors, and how they are opened.

    Attributes:
        files: Whole files in a checkpoint that are the model.
        formats: By name, what they are converted to.
        model: `module:function` of the tool: called with a checkpoint, returns the framework's own object.
        opening: How a notebook's reader gets the model, in Markdown.
        has_tensors: False where the files alone say everything.
        made_by: `pt` if its tensors are PyTorch's, `np` for arrays, as safetensors files say.
        within_epochs: Its loop saves between batches where they come from `ckpt.batches`.
        generators: By what doctors call it, the key of a generator's state in `state.json`, under `rng`.
    """

    files: tuple[str, ...] = ()
    formats: Mapping[str, Format] = {}
    model: str = ""
    opening: str = ""
    has_tensors: bool = True
    made_by: str = "np"
    within_epochs: bool = False
    generators: Mapping[str, str] = {}


class Framework(NamedTuple):
    """One framework.

    Attributes:
        name: As its module is called, and as its checkpoints say.
        rank: The order in which frameworks are asked and told; those that can be imported in one process, in an order
            in which they can.
        extra: What of reprokit to install for it.
        probe: A module with `rng()`, `find(names, given, living)`, `generators(names, living)`, `facts(names, objects,
            held, living)` or some of them; see `reprokit.client.probe`.
    """

    name: str
    rank: int
    extra: str = ""
    numbers: Numbers = Numbers()
    variables: Variables = Variables()
    stored: Stored = Stored()
    probe: str = ""


@functools.cache
def frameworks() -> dict[str, Framework]:
    """Return every framework by name, in the order of their ranks."""
    files = os.listdir(__path__[0])  # pkgutil would load `inspect` into every script's process
    names = [file.removesuffix(".py") for file in files if file.endswith(".py") and file != "__init__.py"]
    found = [importlib.import_module(f"{__name__}.{name}").FRAMEWORK for name in names]
    return {one.name: one for one in sorted(found, key=lambda one: one.rank)}


def find(name: object) -> Framework | None:
    """Return the framework of that name; None if there is none."""
    return frameworks().get(name) if isinstance(name, str) else None


def at(place: str) -> Callable[..., Any]:
    """Return what calls `module:function`; the module is loaded at the first call."""

    def call(*arguments: Any) -> Any:
        module, _, function = place.partition(":")
        return getattr(importlib.import_module(module), function)(*arguments)

    return call


def valid(told: Mapping[str, Any], given: Mapping[str, int | None]) -> dict[str, Any]:
    """Return the thread counts that a script set itself.

    Args:
        told: What the library said, in a record of anybody's.
        given: By fact, what the runner had given.
    """
    found = {}
    for name, runner in given.items():
        value = told.get(name)
        if type(value) is int and 1 <= value <= MOST_THREADS and value != runner:
            found[name] = value
    return found
