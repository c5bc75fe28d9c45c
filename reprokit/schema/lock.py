"""Locks: what is pinned from a recipe, down to the last hash. Data only; `locking.py` makes them.

A *recipe lock* pins environment and data and is committed beside the recipe. A *run lock* adds the code, the
parameters and the execution, and is kept in the run's record; its hash names the declared experiment.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

import msgspec

from reprokit.core.canonical_json import canonical, ordered, sha256_of
from reprokit.core.logical_keys import check_logical_key, check_relative
from reprokit.core.refs import check_package_name, is_run_id, parse_run
from reprokit.core.safe_json import load_json
from reprokit.errors import RecipeError, UsageError
from reprokit.schema import recipe as recipes
from reprokit.schema.artefact import check_nesting, check_size, decode
from reprokit.schema.recipe import Execution, Recipe

__all__ = [
    "Archive",
    "CodeIdentity",
    "CondaPackage",
    "DataPin",
    "EditablePackage",
    "EnvironmentLock",
    "LockedEnvironment",
    "LooseFile",
    "PackageChange",
    "PipPackage",
    "RecipeLock",
    "RunLock",
]


class _Artefact(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


# Locks come from registries, and these words go into requirement files, commands and paths.
_Name = Annotated[str, msgspec.Meta(pattern=r"\A[A-Za-z0-9_]([A-Za-z0-9._-]*[A-Za-z0-9_])?\Z", max_length=200)]
_Version = Annotated[str, msgspec.Meta(pattern=r"\A[A-Za-z0-9][A-Za-z0-9.!+_~-]*\Z", max_length=200)]
_Word = Annotated[str, msgspec.Meta(pattern=r"\A[A-Za-z0-9_.+-]+\Z", max_length=200)]
_Sha256 = Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{64}\Z")]


_Tree = Annotated[str, msgspec.Meta(pattern=r"\A([0-9a-f]{40}|[0-9a-f]{64})\Z")]
_File = Annotated[str, msgspec.Meta(pattern=r"\A[A-Za-z0-9_][A-Za-z0-9_.+!~-]*\Z", max_length=400)]
_Place = Annotated[str, msgspec.Meta(pattern=r"\A[^/\x00-\x1f\x7f][^\x00-\x1f\x7f]*\Z", max_length=4000)]
_ImageDigest = Annotated[str, msgspec.Meta(pattern=r"\Asha256:[0-9a-f]{64}\Z")]
_Url = Annotated[str, msgspec.Meta(pattern=r"\A((git|hg|svn|bzr)\+)?(https?|ssh|file)://[!-~]+\Z", max_length=4000)]


class CondaPackage(_Artefact, frozen=True, kw_only=True):
    """One record of conda-meta.

    Attributes:
        sha256: Of its archive; None where the channel gave none.
        edited: Hash of the files that are not those that were installed; None if all are.
    """

    name: _Name
    version: _Version
    build: _Word
    subdir: _Word
    sha256: _Sha256 | None = None
    edited: _Sha256 | None = None


class PipPackage(_Artefact, frozen=True, kw_only=True):
    """One installed distribution.

    Attributes:
        name: Normalised as PEP 503 says.
        tags: The wheel's tags, sorted; empty if it was not installed from a wheel.
        record: SHA-256 over the sorted RECORD rows without scripts, .pyc and installer notes; None without RECORD.
    """

    name: _Name
    version: _Version
    tags: list[_Word] = []
    record: _Sha256 | None = None


class LooseFile(_Artefact, frozen=True, kw_only=True):
    """What an interpreter would execute and no package answers for.

    Attributes:
        path: As `site-packages/helper.py`; of a folder, all of it that can be imported.
        sha256: Of the file; of a folder, of its files' names and digests; of a command, without the line that names
            the interpreter.
    """

    path: _Place
    sha256: _Sha256


class EditablePackage(_Artefact, frozen=True, kw_only=True):
    """A package that is imported from a working tree.

    Attributes:
        sha256: Over what can be imported there; None where that tree is the run's own code, which its commit names.
    """

    name: _Name
    sha256: _Sha256 | None = None


class Archive(_Artefact, frozen=True, kw_only=True):
    """Where a package came from: a fact, never part of an identity.

    Attributes:
        file: Name of the archive; None of a repository or folder.
        url: Without credentials, tokens, query and fragment; of a repository as `git+https://…`.
        sha256: Of the archive, in hex; None where nobody noted it.
        revision: Of a repository.
    """

    kind: Literal["conda", "pip"]
    name: _Name
    version: _Version
    file: _File | None = None
    url: _Url
    sha256: _Sha256 | None = None
    revision: _Word | None = None


class PackageChange(_Artefact, frozen=True, kw_only=True):
    """One package that differs between two environments; None where it is absent."""

    name: str
    kind: Literal["python", "conda", "pip", "container", "file", "editable"]
    locked: str | None
    found: str | None

    def __str__(self) -> str:
        if self.kind in ("file", "editable"):
            what = "of no package" if self.kind == "file" else "editable"
            how = "is gone" if self.found is None else "is new" if self.locked is None else "has other content"
            return f"{self.name} ({what}) {how}"
        if self.locked == self.found:
            return f"{self.name} {self.locked}: same version, other files"
        return f"{self.name} {self.locked or '(absent)'} → {self.found or '(absent)'}"


class EnvironmentLock(_Artefact, frozen=True, kw_only=True):
    """An environment's identity. Where its archives can be fetched is recorded elsewhere and never hashed.

    Attributes:
        container: The digest of the image that it is; then nothing in it is told apart.
        loose: What is executed and belongs to no package, or is not what its package brought: modules, `.pth` files,
            bytecode, commands.
        editable: Packages that are imported from working trees.
    """

    format: Literal[1] = 1
    python: _Version
    implementation: _Word
    platform: _Word
    conda: list[CondaPackage] = []
    pip: list[PipPackage] = []
    container: _ImageDigest | None = None
    loose: list[LooseFile] = []
    editable: list[EditablePackage] = []

    @property
    def hash(self) -> str:
        """64 hex digits; packages that are the run's own code do not count."""
        plain = msgspec.to_builtins(self)
        plain["editable"] = [one for one in plain["editable"] if one["sha256"] is not None]
        for key in ("container", "loose", "editable"):
            if not plain[key]:
                del plain[key]
        return sha256_of(plain)

    @property
    def size(self) -> int:
        """How many packages it has."""
        return len(self.conda) + len(self.pip)

    def changes_to(self, found: EnvironmentLock) -> list[PackageChange]:
        """Return every package that differs between this locked environment and the one found."""
        changes = []
        for name in ("python", "implementation", "platform"):
            if getattr(self, name) != getattr(found, name):
                changes.append(
                    PackageChange(name=name, kind="python", locked=getattr(self, name), found=getattr(found, name))
                )
        if self.container != found.container:
            changes.append(
                PackageChange(name="container", kind="container", locked=self.container, found=found.container)
            )
        changes += _changes("conda", {p.name: p for p in self.conda}, {p.name: p for p in found.conda})
        changes += _changes("pip", {p.name: p for p in self.pip}, {p.name: p for p in found.pip})
        changes += _changes("file", {f.path: f for f in self.loose}, {f.path: f for f in found.loose})
        code = {one.name for one in [*self.editable, *found.editable] if one.sha256 is None}
        ours, theirs = ({p.name: p for p in side.editable if p.name not in code} for side in (self, found))
        return changes + _changes("editable", ours, theirs)


def _changes(
    kind: Literal["conda", "pip", "file", "editable"], locked: dict[str, Any], found: dict[str, Any]
) -> list[PackageChange]:
    return [
        PackageChange(name=name, kind=kind, locked=_shown(locked.get(name)), found=_shown(found.get(name)))
        for name in sorted(locked.keys() | found.keys())
        if locked.get(name) != found.get(name)
    ]


def _shown(package: CondaPackage | PipPackage | LooseFile | EditablePackage | None) -> str | None:
    if package is None:
        return None
    if isinstance(package, LooseFile | EditablePackage):
        return package.sha256
    return f"{package.version}={package.build}" if isinstance(package, CondaPackage) else package.version


class DataPin(_Artefact, frozen=True, kw_only=True):
    """One input: which version lies at which path.

    Attributes:
        run: Of what a run made: its whole ID, and which of its checkpoints (`ID@epoch=7`).
        within: The folder or file of the version that is laid out; None for all of it.
        content: Of what a run made, or of a part of a version: the digest of what is laid out. Of a folder, the top
            hash that it would have as a package without message and metadata; of a file, its object hash in hex.
    """

    name: str
    package: str
    top_hash: _Sha256
    path: str
    run: str | None = None
    within: str | None = None
    content: _Sha256 | None = None

    @property
    def identity(self) -> str:
        """What the lock hash covers: a version of a run's names that run, so there it is the content alone."""
        return self.content or self.top_hash

    def __str__(self) -> str:
        return f"{self.package}@{self.top_hash[:8]}" + (f":{self.within}" if self.within else "")


class CodeIdentity(_Artefact, frozen=True, kw_only=True):
    """The git tree that is executed; the object format decides which hash it is.

    `python_path` are folders of it that modules are imported from: those of editable installs and of PYTHONPATH.
    """

    tree: _Tree
    object_format: Literal["sha1", "sha256"] = "sha1"
    python_path: list[str] = []


class Declares(_Artefact, frozen=True, kw_only=True):
    """Hashes of what a recipe declares; others than a lock's mean that it is out of date.

    Attributes:
        environment: Of its section and the files that it names; None where it takes the environment that is there.
        data: Of its section.
    """

    environment: _Sha256 | None
    data: _Sha256

    @classmethod
    def of(cls, recipe: Recipe, files: Mapping[str, str]) -> Declares:
        """Return what a recipe declares; `files` are the hashes of those that its environment names."""
        plain = recipes.to_plain(recipe)
        declared = bool(files) or recipe.image is not None
        environment = sha256_of({"environment": plain["environment"], "files": dict(files)}) if declared else None
        return cls(environment=environment, data=sha256_of(plain.get("data")))


class RecipeLock(_Artefact, frozen=True, kw_only=True):
    """What `reprokit lock` writes beside the recipe.

    Attributes:
        archives: Where the environment's packages were found.
    """

    format: Literal[1] = 1
    declares: Declares
    environment: EnvironmentLock
    data: list[DataPin]
    archives: list[Archive] = []

    def encode(self) -> bytes:
        return _indented(msgspec.to_builtins(self))

    @classmethod
    def decode(cls, data: bytes, *, what: str) -> RecipeLock:
        """Parse an untrusted lock.

        Raises:
            DataMismatchError: It does not have the form.
            RecipeError: What it pins is nothing that a recipe could declare.
        """
        lock = decode(data, cls, what=what)
        with _named(what):
            _check_pins(lock.data)
        return lock


class LockedEnvironment(_Artefact, frozen=True, kw_only=True):
    """An environment by itself, as `reprokit env lock` writes it."""

    format: Literal[1] = 1
    environment: EnvironmentLock
    archives: list[Archive] = []

    def encode(self) -> bytes:
        return _indented(msgspec.to_builtins(self))

    @classmethod
    def decode(cls, data: bytes, *, what: str) -> LockedEnvironment:
        """Parse an untrusted file of its own, or take the environment out of a recipe's lock."""
        value = load_json(data, what=what)
        if isinstance(value, dict) and "declares" in value:
            lock = RecipeLock.decode(data, what=what)
            return cls(environment=lock.environment, archives=lock.archives)
        return decode(data, cls, what=what)


class RunLock(_Artefact, frozen=True, kw_only=True):
    """A whole declared experiment."""

    format: Literal[1] = 1
    recipe: Recipe
    code: CodeIdentity
    environment: EnvironmentLock
    data: list[DataPin]
    params: dict[str, Any]
    execution: Execution

    @property
    def hash(self) -> str:
        """64 hex digits; equal for equal declared experiments, whatever the machine, place or time."""
        return sha256_of(
            {
                "recipe": recipes.to_plain(self.recipe),
                "code": msgspec.to_builtins(self.code),
                "environment": self.environment.hash,
                "data": [[pin.name, pin.identity, pin.path] for pin in self.data],
                "params": self.params,
                "execution": msgspec.to_builtins(self.execution),
            }
        )

    def encode(self) -> bytes:
        """Return its bytes, with parameters and metrics in the recipe's order, which the hash does not count."""
        value = msgspec.to_builtins(self)
        check_nesting(value, what="The lock")
        return check_size(ordered(value) + b"\n", what="The lock")

    @classmethod
    def decode(cls, data: bytes, *, what: str) -> RunLock:
        """Parse an untrusted lock: all of it passes every check that a new recipe passes.

        Raises:
            DataMismatchError: It does not have the form.
            RecipeError: Its recipe, or what was made of it, is nothing that a recipe could declare.
        """
        lock = decode(data, cls, what=what)
        recipes.from_plain(recipes.to_plain(lock.recipe), what=f"The recipe in {what}")
        with _named(what):
            recipes.check_execution(lock.execution)
            recipes.check_params(lock.params)
            _check_pins(lock.data)
            for folder in lock.code.python_path:
                check_relative(folder, what="code.python_path")
        return lock


def _check_pins(pins: list[DataPin]) -> None:
    recipes.check_places((pin.name, pin.path) for pin in pins)
    for pin in pins:
        check_package_name(pin.package)
        if pin.run is not None and not is_run_id(parse_run(pin.run).run):  # a name would mean another run tomorrow
            raise UsageError(f"Not the ID of a run: {pin.run[:200]!r}.")
        if pin.within is not None:
            check_logical_key(pin.within)


@contextlib.contextmanager
def _named(what: str) -> Iterator[None]:
    """Say of a fault whose it is."""
    try:
        yield
    except UsageError as error:
        raise RecipeError(f"{what}: {error.message}", hint=error.hint) from None


def _indented(value: Any) -> bytes:
    return check_size(msgspec.json.format(canonical(value), indent=1) + b"\n", what="The lock")
