"""A lock comes from a registry: its words end up in commands, paths and files of other tools."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from reprokit.core.canonical_json import canonical
from reprokit.environment.capture import capture_environment
from reprokit.errors import DataMismatchError, RecipeError
from reprokit.schema.lock import (
    Archive,
    CodeIdentity,
    CondaPackage,
    DataPin,
    Declares,
    EditablePackage,
    EnvironmentLock,
    LockedEnvironment,
    LooseFile,
    PipPackage,
    RecipeLock,
    RunLock,
)
from reprokit.schema.recipe import from_plain

GOOD = EnvironmentLock(
    python="3.11.7",
    implementation="CPython",
    platform="linux-x86_64",
    conda=[CondaPackage(name="_libgcc_mutex", version="0.1", build="conda_forge", subdir="linux-64", sha256="a" * 64)],
    pip=[PipPackage(name="torch", version="2.13.0+cpu", tags=["cp311-cp311-linux_x86_64"], record="0" * 64)],
)


def decoded(environment: Any) -> EnvironmentLock:
    lock = {"format": 1, "declares": {"environment": None, "data": "0" * 64}, "environment": environment, "data": []}
    return RecipeLock.decode(canonical(lock), what="the lock").environment


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("url", "ftp://example.org/a.conda"),
        ("url", "https://example.org/a b.conda"),
        ("url", "https://example.org/a.conda\nhttps://192.0.2.1/b.conda"),
        ("file", "../a.conda"),
        ("file", "-r"),
        ("sha256", "A" * 64),
        ("name", "--index-url"),
    ],
)
def test_an_address_that_could_become_something_else_is_refused(key: str, value: str) -> None:
    archive = Archive(
        kind="conda", name="a", version="1", file="a.conda", url="https://example.org/a.conda", sha256="0" * 64
    )
    good = {"format": 1, "declares": {"environment": None, "data": "0" * 64}, "data": []}
    good |= {"environment": msgspec.to_builtins(GOOD), "archives": [msgspec.to_builtins(archive)]}
    assert RecipeLock.decode(canonical(good), what="the lock").archives == [archive]
    good["archives"][0][key] = value
    with pytest.raises(DataMismatchError, match=rf"archives\[0\]\.{key}|archives\[\.\.\.\]\.{key}"):
        RecipeLock.decode(canonical(good), what="the lock")


def test_what_is_captured_is_read_back() -> None:
    for environment in (GOOD, capture_environment()):
        assert decoded(msgspec.to_builtins(environment)) == environment


@pytest.mark.parametrize(
    ("where", "key", "value"),
    [
        ("pip", "name", "torch\n--index-url=http://192.0.2.1"),
        ("pip", "name", "--extra-index-url"),
        ("pip", "name", "../torch"),
        ("pip", "version", "1.0\n-r /etc/passwd"),
        ("pip", "version", "--help"),
        ("pip", "record", "../../../tmp"),
        ("pip", "record", "0" * 64 + "\n"),
        ("pip", "tags", ["py3-none-any/../x"]),
        ("conda", "name", "a b"),
        ("conda", "version", "1;2"),
        ("conda", "build", "../x"),
        ("conda", "sha256", "0"),
        (None, "python", "3.11/../../x"),
        (None, "python", "--offline"),
        (None, "implementation", "CPython\n--index-url=http://192.0.2.1"),
        (None, "platform", "linux'\n"),
        (None, "container", "python:3.11"),
        (None, "container", f"python@sha256:{'5' * 64}"),
        (None, "container", f"sha256:{'5' * 63}"),
    ],
)
def test_words_that_would_mean_something_else_are_refused(where: str | None, key: str, value: Any) -> None:
    environment = msgspec.to_builtins(GOOD)
    (environment if where is None else environment[where][0])[key] = value
    with pytest.raises(DataMismatchError, match="the lock is malformed"):
        decoded(environment)


RECIPE = from_plain(
    {
        "name": "digits",
        "code": {"entrypoint": "train.py"},
        "data": {"images": {"package": "vision/digits", "path": "data/in"}},
        "params": {"epochs": 3, "rate": 0.1},
        "execution": {"seed": 7, "threads": 2},
        "outputs": ["metrics.json"],
    }
)
PIN = DataPin(name="images", package="vision/digits", top_hash="1" * 64, path="data/in")
LOCK = RunLock(
    recipe=RECIPE,
    code=CodeIdentity(tree="c" * 40),
    environment=GOOD,
    data=[PIN],
    params={"epochs": 3, "rate": 0.1},
    execution=RECIPE.execution,
)
IMAGE = EnvironmentLock(
    python="3.11.7", implementation="CPython", platform="linux-x86_64", container=f"sha256:{'5' * 64}"
)


def with_(lock: RunLock, **changes: Any) -> RunLock:
    return msgspec.structs.replace(lock, **changes)


# A hash names a declared experiment in every record that there is; these are what they were when the format was fixed.
ENVIRONMENTS = {
    "of packages": (GOOD, "1b40fb9f544909acc265df90f0dd34e2a684aebd19e1c9d66b3393af96b56cdc"),
    "of no packages": (
        EnvironmentLock(python="3.11.7", implementation="CPython", platform="linux-x86_64"),
        "584b116fb18eadfd3bf802b2a7c77f8487c9488c74c3fdc6a0a7689a727f9bb0",
    ),
    "an image": (IMAGE, "5a10d5b72a654b4f749f71ff6041848ca5a58bf79b8a5bd64520cd6340facce5"),
    "a package was edited": (
        msgspec.structs.replace(GOOD, conda=[msgspec.structs.replace(GOOD.conda[0], edited="b" * 64)]),
        "ddf556f02095742e1713f95567d65df7e41001641644ac4ef40b1af7636adce9",
    ),
    "a package of another wheel": (
        msgspec.structs.replace(GOOD, pip=[msgspec.structs.replace(GOOD.pip[0], tags=["py3-none-any"])]),
        "2a2453e4ae26fe8e765c10f4feae6bd647146d86c70abd3df1cfe5fff2d1d892",
    ),
}
LOCKS = {
    "as it is": (LOCK, "5ceb02cbf47b9213f501184cf226d04bce321452630fab55b86528fdd9cfc27c"),
    "another environment": (
        with_(LOCK, environment=IMAGE),
        "f1d0e8ebe7f4386bcb4867f73f92fee5cbbf91db1e02072c902f533f80a05c5b",
    ),
    "other code": (
        with_(LOCK, code=CodeIdentity(tree="d" * 40)),
        "37e7af0a63a5c75a599d158f3a1d6c9dde1a769bed0c886642dfd00ee519ccb1",
    ),
    "code imported from elsewhere": (
        with_(LOCK, code=CodeIdentity(tree="c" * 40, python_path=["src"])),
        "e468e4cfb6f335fbc090fffc3db95b0da74f4e8cf9f54695a6825c0ee3cc3932",
    ),
    "code of another object format": (
        with_(LOCK, code=CodeIdentity(tree="c" * 64, object_format="sha256")),
        "2bb18e3d94b37ad762cec72505c2e1d598b6041a7104796068a528c720461e7e",
    ),
    "other data": (
        with_(LOCK, data=[msgspec.structs.replace(PIN, top_hash="2" * 64)]),
        "c2de667a7fee03bda8aa56f6144165b4e08824ccb97ad17eac7816b1730136bc",
    ),
    "data at another path": (
        with_(LOCK, data=[msgspec.structs.replace(PIN, path="data/other")]),
        "c600b73ccae626538b03ed61437e6c715ec7d3674930eda0a0e0c87351da25f8",
    ),
    "data by their content": (
        with_(LOCK, data=[msgspec.structs.replace(PIN, run="20260102-030405-abcdef@last", content="3" * 64)]),
        "1ed0068e2006259e911fbeaec16d6c55c6127cd11486aa48f55d566a559dacfe",
    ),
    "no data": (with_(LOCK, data=[]), "5000962fc148ba6db2a101f5df6b8b73039afe2abab612554642fb8f899e91a5"),
    "other params": (
        with_(LOCK, params={"epochs": 4, "rate": 0.1}),
        "9a2510418bda54d96eb41be8313ed1f7ae4713a8682c774b83a04d7f92d9a4fa",
    ),
    "another seed": (
        with_(LOCK, execution=msgspec.structs.replace(RECIPE.execution, seed=8)),
        "a19932a2d0e17038a73cc5f20b0a56210b3727ba7090f0cd8a5003d62f491c5f",
    ),
}


@pytest.mark.parametrize("what", ENVIRONMENTS)
def test_an_environment_has_the_hash_that_it_always_had(what: str) -> None:
    environment, expected = ENVIRONMENTS[what]
    assert environment.hash == expected
    assert decoded(msgspec.to_builtins(environment)).hash == expected


@pytest.mark.parametrize("what", LOCKS)
def test_an_experiment_has_the_hash_that_it_always_had(what: str) -> None:
    lock, expected = LOCKS[what]
    assert lock.hash == expected
    assert RunLock.decode(lock.encode(), what="the lock") == lock


def test_what_differs_has_another_hash() -> None:
    for table in (ENVIRONMENTS, LOCKS):
        assert len({expected for _, expected in table.values()}) == len(table)


def test_parameters_keep_the_recipes_order_which_is_no_part_of_an_experiment() -> None:
    """A repetition gives a script what it got at first, and the first metric of `best` is the same one."""
    plain = {"name": "x", "code": {"entrypoint": "t.py"}, "params": {"z": 1, "a": {"d": 1, "c": 2}}}
    recipe = from_plain({**plain, "checkpoints": {"best": {"loss": "min", "accuracy": "max"}}})
    lock = msgspec.structs.replace(LOCK, recipe=recipe, params=recipe.params)
    read = RunLock.decode(lock.encode(), what="the lock")
    assert (list(read.params), list(read.params["a"])) == (["z", "a"], ["d", "c"])
    assert list(read.recipe.checkpoints.best) == ["loss", "accuracy"]
    turned = msgspec.structs.replace(lock, params={"a": {"c": 2, "d": 1}, "z": 1})
    assert turned.hash == lock.hash == read.hash


def test_where_data_came_from_is_no_part_of_an_experiment() -> None:
    """Of what a run made, its bits are; which run that was, and under what name it lies, is a fact beside them."""
    one = msgspec.structs.replace(PIN, run="20260102-030405-abcdef@last", content="3" * 64)
    other = msgspec.structs.replace(PIN, package="runs/x", top_hash="9" * 64, content="3" * 64, within="outputs/data")
    assert with_(LOCK, data=[one]).hash == with_(LOCK, data=[other]).hash


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("code.entrypoint", "../outside.py", "code.entrypoint: '../outside.py' is not a path inside the repository."),
        ("execution.seed", 2**32, "execution.seed: 4294967296 is not in 0 … 4294967295."),
        ("name", "../x", "name: '../x' must be ASCII letters, digits, '_' and '-'."),
    ],
)
def test_the_recipe_inside_a_lock_is_checked_again(path: str, value: Any, message: str) -> None:
    """A lock is as hostile as a recipe: whoever writes one wrote no recipe file that was checked before."""
    plain = msgspec.to_builtins(LOCK)
    assert RunLock.decode(canonical(plain), what="the lock") == LOCK
    section, _, key = f"recipe.{path}".rpartition(".")
    target = plain
    for part in section.split("."):
        target = target[part]
    target[key] = value
    with pytest.raises(RecipeError) as caught:
        RunLock.decode(canonical(plain), what="the lock")
    assert caught.value.message == f"The recipe in the lock: {message}"


_NO_PATH = "is not a path inside the repository."


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("data.0.path", "../../outside", f"data.images.path: '../../outside' {_NO_PATH}"),
        ("data.0.path", "/srv/outside", f"data.images.path: '/srv/outside' {_NO_PATH}"),
        ("data.0.path", "C:/outside", f"data.images.path: 'C:/outside' {_NO_PATH}"),
        ("data.0.path", "a\0b", f"data.images.path: 'a\\x00b' {_NO_PATH}"),
        ("data.0.path", "", f"data.images.path: '' {_NO_PATH}"),
        ("data.0.path", ".git/hooks", "data.images.path: '.git/hooks' lies in .git, where no run has anything."),
        ("data.0.path", "x/.GIT", "data.images.path: 'x/.GIT' lies in .GIT, where no run has anything."),
        ("data.0.name", "../x", "data: '../x' must be ASCII letters, digits, '_' and '-'."),
        ("data.0.package", "../x", "Not a package name: '../x'."),
        ("data.0.run", "../x", "Not a run: '../x'."),
        ("data.0.run", "base@best", "Not the ID of a run: 'base@best'."),
        ("data.0.within", "outputs/../x", "Not a legal logical key: 'outputs/../x' (it has the part '..')."),
        ("code.python_path.0", "/srv/foreign", f"code.python_path: '/srv/foreign' {_NO_PATH}"),
        ("code.python_path.0", "../foreign", f"code.python_path: '../foreign' {_NO_PATH}"),
        ("execution.seed", -1, "execution.seed: -1 is not in 0 … 4294967295."),
        (
            "execution.variables",
            {"LD_PRELOAD": "/srv/x.so"},
            "execution.variables: 'LD_PRELOAD' may not be set by a recipe: programs load code by it.",
        ),
        ("params.--flag", 1, "params: '--flag' must be letters, digits, '_', '-' and '.', starting with a letter."),
    ],
)
def test_what_a_lock_has_beside_its_recipe_is_checked_as_a_recipe_s(path: str, value: Any, message: str) -> None:
    plain = msgspec.to_builtins(with_(LOCK, code=CodeIdentity(tree="c" * 40, python_path=["src"])))
    RunLock.decode(canonical(plain), what="the lock")
    target: Any = plain
    *sections, key = path.split(".")
    for part in sections:
        target = target[int(part) if part.isdigit() else part]
    target[int(key) if key.isdigit() else key] = value
    with pytest.raises(RecipeError) as caught:
        RunLock.decode(canonical(plain), what="the lock")
    assert caught.value.message == f"the lock: {message}"


@pytest.mark.parametrize("other", ["data/in", "data/in/deeper", "data", "DATA/in", "."])
def test_two_inputs_of_a_lock_do_not_lie_in_each_other(other: str) -> None:
    plain = msgspec.to_builtins(with_(LOCK, data=[PIN, msgspec.structs.replace(PIN, name="two", path=other)]))
    told = f"the lock: data.two.path: {other!r} overlaps with data.images.path: 'data/in'."
    recipe_lock = {
        "format": 1,
        "declares": {"environment": None, "data": "0" * 64},
        "environment": plain["environment"],
    }
    for form, value in ((RunLock, plain), (RecipeLock, {**recipe_lock, "data": plain["data"]})):
        with pytest.raises(RecipeError) as caught:
            form.decode(canonical(value), what="the lock")
        assert caught.value.message == told


@pytest.mark.parametrize(("path", "value"), [("top_hash", "../../x"), ("content", "x")])
def test_hashes_of_a_lock_are_hashes(path: str, value: str) -> None:
    plain = msgspec.to_builtins(LOCK)
    plain["data"][0][path] = value
    with pytest.raises(DataMismatchError, match="the lock is malformed"):
        RunLock.decode(canonical(plain), what="the lock")


@pytest.mark.parametrize("field", ["python", "implementation", "platform", "container"])
def test_every_change_of_an_environment_is_told(field: str) -> None:
    assert GOOD.changes_to(GOOD) == IMAGE.changes_to(IMAGE) == []
    value = f"sha256:{'6' * 64}" if field == "container" else "other"
    base = IMAGE if field == "container" else GOOD
    other = msgspec.structs.replace(base, **{field: value})
    (change,) = base.changes_to(other)
    assert (change.name, change.locked, change.found) == (field, getattr(base, field), value)
    assert change.kind == ("container" if field == "container" else "python")
    assert str(change) == f"{field} {getattr(base, field)} → {value}"


def test_packages_that_were_added_removed_edited_and_replaced_are_told() -> None:
    conda, pip = GOOD.conda[0], GOOD.pip[0]
    assert GOOD.size == len(GOOD.conda) + len(GOOD.pip) > 1
    for kind, package in (("conda", conda), ("pip", pip)):
        rest = [one for one in getattr(GOOD, kind) if one.name != package.name]
        without = msgspec.structs.replace(GOOD, **{kind: rest})
        (gone,) = GOOD.changes_to(without)
        (came,) = without.changes_to(GOOD)
        assert (gone.kind, gone.name, gone.found, came.locked) == (kind, package.name, None, None)
        assert gone.locked == came.found is not None
        assert str(gone).endswith(" → (absent)") and " (absent) → " in str(came)
        assert without.hash != GOOD.hash
    for kind, make in (("file", LooseFile), ("editable", EditablePackage)):
        field, name = ("loose", "path") if kind == "file" else ("editable", "name")
        one, two = (msgspec.structs.replace(GOOD, **{field: [make(**{name: "mine"}, sha256=of * 64)]}) for of in "ab")
        (change,) = one.changes_to(two)
        assert (change.kind, change.name, change.locked, change.found) == (kind, "mine", "a" * 64, "b" * 64)
        assert [gone.found for gone in one.changes_to(GOOD)] == [None]
    edited = msgspec.structs.replace(GOOD, conda=[msgspec.structs.replace(conda, edited="b" * 64), *GOOD.conda[1:]])
    (change,) = GOOD.changes_to(edited)
    assert change.name == conda.name


def test_what_a_recipe_declares_of_its_environment_is_hashed_where_it_declares_one() -> None:
    plain = {"name": "n", "code": {"entrypoint": "t.py"}}
    none = Declares.of(from_plain(plain), {})
    assert none.environment is None
    image = {"container": f"python@sha256:{'5' * 64}"}
    declared = [
        Declares.of(from_plain({**plain, "environment": image}), {}),
        Declares.of(from_plain({**plain, "environment": {"pip": "r.txt"}}), {"r.txt": "1" * 64}),
        Declares.of(from_plain({**plain, "environment": {"pip": "r.txt"}}), {"r.txt": "2" * 64}),
    ]
    assert len({one.environment for one in declared} | {None}) == 4
    data = {"in": {"package": "a/b", "path": "in"}}
    assert Declares.of(from_plain({**plain, "data": data}), {}).data != none.data


ARCHIVE = Archive(kind="pip", name="torch", version="2.13.0+cpu", url="https://example.org/torch.whl", sha256="1" * 64)


def test_an_environment_is_read_alone_or_out_of_a_recipe_s_lock() -> None:
    alone = LockedEnvironment(environment=GOOD, archives=[ARCHIVE])
    declares = Declares(environment=None, data="0" * 64)
    whole = RecipeLock(declares=declares, environment=GOOD, data=[], archives=[ARCHIVE])
    for data in (alone.encode(), whole.encode()):
        assert LockedEnvironment.decode(data, what="it") == alone
    for data in (b"[]", b"{}", b'{"declares": 1}', canonical({"format": 2, "environment": {}})):
        with pytest.raises(DataMismatchError, match="it"):
            LockedEnvironment.decode(data, what="it")


@pytest.mark.parametrize(
    ("environment", "files", "declared"),
    [
        ("current", {}, False),
        ({"pip": "requirements.txt"}, {"requirements.txt": "1" * 64}, True),
        ({"container": f"a/b@sha256:{'1' * 64}"}, {}, True),
    ],
)
def test_what_a_recipe_declares_is_told_by_what_it_names(
    environment: Any, files: dict[str, str], declared: bool
) -> None:
    recipe = from_plain({"name": "t", "code": {"entrypoint": "t.py"}, "environment": environment})
    found = Declares.of(recipe, files)
    assert (found.environment is not None) is declared
    if files:
        assert found.environment != Declares.of(recipe, {"requirements.txt": "2" * 64}).environment
    more = from_plain({
        "name": "t", "code": {"entrypoint": "t.py"}, "environment": environment,
        "data": {"in": {"package": "t/in", "path": "in"}},
    })  # fmt: skip
    other = Declares.of(more, files)
    assert other.data != found.data and other.environment == found.environment
