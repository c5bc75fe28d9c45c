"""Private parts of other libraries: each stands in a table, and is there in the release that is installed."""

from __future__ import annotations

import ast
import dis
import importlib
import importlib.metadata
import inspect
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

import pytest
from packaging.requirements import Requirement

from tests.conftest import ROOT

Table = tuple[tuple[str, str], ...]

CALLBACKS = ROOT / "reprokit" / "callbacks"
FILES = {path.parent.name: path for path in sorted(CALLBACKS.glob("*/private.py"))}
LIBRARIES = {
    "keras": ["keras"],
    "lightgbm": ["lightgbm"],
    "lightning": ["lightning", "torchmetrics"],
    "pytorch": ["torch"],
    "tensorflow": ["tensorflow", "keras"],
    "transformers": ["transformers", "accelerate"],
    "xgboost": ["xgboost-cpu"],
}

# what `reprokit.client` looks at in the script's process, where a library is loaded
CLIENT: dict[str, Table] = {
    "Python": (
        ("random._inst", "the global generator, not to be taken for one of the user's"),
        ("subprocess._fork_exec", "replaced: gives each child its number"),
        ("_posixsubprocess.fork_exec", "replaced: gives each child its number"),
    ),
    "numpy": (
        ("numpy.random.mtrand._rand", "the global generator, not to be taken for one of the user's"),
        ("numpy.lib._datasource._file_openers", "replaced: what np.loadtxt opens files with"),
        ("numpy._core._multiarray_umath.__cpu_features__", "the vector instructions in use"),
        ("numpy._core._multiarray_umath.__cpu_dispatch__", "the vector instructions in use"),
    ),
    "torch": (
        ("torch.nn.modules.module.Module._modules", "the parts of a model"),
        ("torch.nn.modules.module.Module._non_persistent_buffers_set", "buffers that `state_dict` leaves out"),
        ("torch._dynamo.eval_frame.OptimizedModule._orig_mod", "the model inside torch.compile's"),
        ("torch.optim.lr_scheduler.SequentialLR._schedulers", "schedulers inside a scheduler"),
        ("torch.optim.lr_scheduler.ChainedScheduler._schedulers", "schedulers inside a scheduler"),
        ("torch._C._set_mkldnn_enabled", "switches oneDNN off, as the run had it"),
    ),
    "tensorflow": (
        ("tensorflow.python.eager.context.context_safe", "the eager context, if there is one"),
        ("tensorflow.python.eager.context._context", "whether anything was computed"),
        ("tensorflow.python.eager.context.Context._initialized", "whether anything was computed"),
        ("tensorflow.python.eager.context.Context._rng", "where eager random operations get their seeds from"),
        ("tensorflow.python.ops.stateful_random_ops.global_generator", "the global generator, if there is one"),
        ("tensorflow.python.util._pywrap_util_port.IsMklEnabled", "whether oneDNN is used"),
        ("tensorflow.python.framework.config.is_op_determinism_enabled", "whether operations are deterministic"),
    ),
    "lightgbm": (("lightgbm.basic.Booster._handle", "whether a booster holds a model"),),
    "keras": (
        ("keras.src.backend.common.global_state.get_global_attribute", "the global seed generator, if there is one"),
        ("keras.src.backend.common.global_state.set_global_attribute", "seeds it, and loads no TensorFlow for that"),
        ("keras.src.utils.rng_utils.GLOBAL_RANDOM_SEED", "where the seed is kept"),
        ("keras.src.backend.common.variables.Variable._value", "the backend's own variable"),
        ("keras.src.layers.layer.Layer._flatten_layers", "every layer inside a model"),
        (
            "keras.src.trainers.data_adapters.array_data_adapter.ArrayDataAdapter._shuffle",
            "whether arrays are shuffled",
        ),
    ),
}


@pytest.mark.parametrize("framework", FILES)
def test_private_parts_are_there_in_the_installed_release(framework: str) -> None:
    """A new release that moves some fails here, by a list of what moved."""
    assert not (gone := moved(table_of(FILES[framework]))), told(LIBRARIES[framework], gone)


@pytest.mark.parametrize("library", CLIENT)
def test_what_the_client_looks_at_is_there(library: str) -> None:
    assert not (gone := moved(CLIENT[library])), told([library] if library != "Python" else [], gone)


def test_what_has_moved_is_told_in_words() -> None:
    table = (
        ("json.decoder.JSONDecoder._gone", "the first"),
        ("json.decoder.JSONDecoder.memo", "the second"),
        ("json._nowhere.thing", "the third"),
        ("json.load:absent", "the fourth"),
        ("json.load:kw", "the fifth"),
    )
    assert told(["packaging"], moved(table)) == (
        f"What reprokit uses has moved in packaging {importlib.metadata.version('packaging')}:\n"
        "  json.decoder.JSONDecoder._gone: the first\n"
        "  json._nowhere.thing: the third\n"
        "  json.load:absent: the fourth\n"
        "See docs/private-parts.md: find each one's new place, change private.py, and say which versions are verified."
    )


@pytest.mark.parametrize("framework", FILES)
def test_the_table_has_every_private_name_of_its_file(framework: str) -> None:
    listed = {part for path, _ in table_of(FILES[framework]) for part in path.replace(":", ".").split(".")}
    used = {name for _, name in foreign_names(FILES[framework])}
    assert used <= listed, f"not in USED of {framework}/private.py: {sorted(used - listed)}"


def test_callbacks_use_private_parts_in_those_files_alone() -> None:
    others = [path for path in sorted(CALLBACKS.rglob("*.py")) if path.name != "private.py"]
    assert len(others) > 20
    found = [f"{path.relative_to(ROOT)}:{line}: {name}" for path in others for line, name in foreign_names(path)]
    assert found == [], "these belong into the framework's private.py"


def test_libraries_with_private_parts_have_an_upper_bound_that_lets_the_verified_ones_in() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    stated = [Requirement(one) for extra in extras.values() for one in extra]
    for library in {*(name for names in LIBRARIES.values() for name in names), "skops"}:
        found = [one for one in stated if one.name == library]
        assert found, f"no extra asks for {library}"
        for one in found:
            installed = version_of(library).partition("+")[0]
            assert any(part.operator == "<" for part in one.specifier), f"{one} has no upper bound"
            assert one.specifier.contains(installed), f"{one} leaves out {installed}, with which the tests run"


def test_the_documentation_lists_every_private_part() -> None:
    page = (ROOT / "docs" / "private-parts.md").read_text()
    tables = [*(table_of(path) for path in FILES.values()), *CLIENT.values()]
    names = {path.replace(":", ".").rpartition(".")[2] for table in tables for path, _ in table}
    assert sorted(name for name in names if f"`{name}`" not in page) == []
    for framework, path in FILES.items():
        assert f"`{path.relative_to(ROOT / 'reprokit')}`" in page
        for library in LIBRARIES[framework]:
            assert f"{library} {'.'.join(version_of(library).split('.')[:2])}" in page


def table_of(path: Path) -> Table:
    """Return `USED` of a file that may not be importable any more: from its text, and nothing else of it."""
    plain = (ast.Assign, ast.AnnAssign)
    parts = (ast.Constant, ast.Tuple, ast.JoinedStr, ast.FormattedValue, ast.Name, ast.Load)
    body: list[ast.stmt] = []
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, plain) and node.value and all(isinstance(one, parts) for one in ast.walk(node.value)):
            body.append(node)
    names: dict[str, Any] = {}
    exec(compile(ast.Module(body, []), str(path), "exec"), names)  # noqa: S102 - assignments of our own constants
    used: Table = names["USED"]
    assert used
    return used


def version_of(library: str) -> str:
    """Return a library's version, under whichever of its names it is installed."""
    for name in (library, f"{library}-cpu"):
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    raise AssertionError(f"{library} is not installed")


def told(libraries: list[str], gone: list[tuple[str, str]]) -> str:
    """Return what has moved, in words."""
    releases = ", ".join(f"{name} {version_of(name)}" for name in libraries) or "this Python"
    lines = "".join(f"  {path}: {purpose}\n" for path, purpose in gone)
    return (
        f"What reprokit uses has moved in {releases}:\n{lines}See docs/private-parts.md: find each one's new place, "
        "change private.py, and say which versions are verified."
    )


def moved(table: Table) -> list[tuple[str, str]]:
    """Return the rows whose object is not there."""
    return [(path, purpose) for path, purpose in table if not is_there(path)]


def is_there(path: str) -> bool:
    """True if an attribute exists: of a module, a class, or what a class's methods or a function set.

    Args:
        path: Dotted; after a colon, a local variable of the function before it.
    """
    dotted, _, local = path.partition(":")
    names = dotted.split(".")
    thing: Any = None
    for count in range(len(names), 0, -1):
        try:
            thing = importlib.import_module(".".join(names[:count]))
        except ModuleNotFoundError:
            continue
        break
    if not isinstance(thing, ModuleType):
        return False
    for name in names[count:]:
        if (inspect.isclass(thing) or inspect.isfunction(thing)) and not hasattr(thing, name):
            return name == names[-1] and is_set(thing, name)
        if not hasattr(thing, name):
            return False
        thing = getattr(thing, name)
    return not local or local in inspect.unwrap(thing).__code__.co_varnames


def is_set(thing: Any, name: str) -> bool:
    """True if a class declares an attribute or one of its methods sets it, or if a function sets it."""
    bases = thing.__mro__ if inspect.isclass(thing) else ()
    if any(name in inspect.get_annotations(base) for base in bases):
        return True
    functions = [one for base in bases for one in vars(base).values() if inspect.isfunction(one)] or [thing]
    codes = [code for one in functions for code in inside(getattr(inspect.unwrap(one), "__code__", None))]
    return any(
        one.opname == "STORE_ATTR" and one.argval == name for code in codes for one in dis.get_instructions(code)
    )


def inside(code: object) -> Iterator[CodeType]:
    """Yield a code object and those of the functions in it, nothing for anything else."""
    if isinstance(code, CodeType):
        yield code
        for constant in code.co_consts:
            yield from inside(constant)


def foreign_names(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the private names that a file takes from objects and modules of others, with their lines."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute) and is_private(node.attr) and not is_own(node.value):
            yield node.lineno, node.attr
        elif isinstance(node, ast.Call):  # getattr(thing, "_name"), vars(thing).pop("_name")
            for one in node.args:
                if isinstance(one, ast.Constant) and isinstance(one.value, str) and is_private(one.value):
                    yield one.lineno, one.value
                elif isinstance(one, ast.Constant) and isinstance(one.value, str) and is_inner(one.value):
                    yield one.lineno, one.value.rpartition(".")[2]
        elif isinstance(node, ast.ImportFrom) and not (node.module or "").startswith("reprokit"):
            for alias in node.names:
                if is_private(alias.name) or is_inner(f"{node.module}."):
                    yield node.lineno, alias.name


def is_private(name: str) -> bool:
    known = ("_replace", "_asdict", "_getframe")  # documented
    return (
        name.isidentifier()
        and name.startswith("_")
        and not name.startswith("__")
        and len(name) > 1
        and name not in known
    )


def is_inner(name: str) -> bool:
    return ".src." in name or name.startswith("tensorflow.python.")


def is_own(node: ast.expr) -> bool:
    """True for `self`, `cls` and `super()`."""
    called = isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "super"
    return called or (isinstance(node, ast.Name) and node.id in ("self", "cls"))
