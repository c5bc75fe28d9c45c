"""What is laid out below the cache: whole versions as trees, single entries as files. All of it is written here.

A version is laid out once, read-only, and given to every workspace. A tree is used again only if every file's stat is
what it was when its bytes were verified. A run looks at that when it ends, which also covers the time while it ran:
giving a tree to another workspace then costs nothing per file.

    trees/<top hash>/           the files of a version, or of the part of one that a run has as an input
    trees/<top hash>.objects    which objects it holds; there before the first of them is, and as long as one may be
    trees/<top hash>.json       the stats of its files when they were verified
    trees/<top hash>.lock       held by who lays it out
    files/<digest>/<name>       one entry, for what must have a path
    laid-out.lock               held shared by who lays out, alone by who erases
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from reprokit.core.atomic_files import durable_write, os_errors
from reprokit.core.canonical_json import canonical
from reprokit.core.digest import Digest, hash_file
from reprokit.core.progress import SILENT, Progress
from reprokit.core.scratch import ALL, DOCTOR, abandoned
from reprokit.packages.install import write_entries
from reprokit.registry import Registry
from reprokit.schema.manifest import Manifest

__all__ = [
    "Erased", "discard", "erase", "forget", "is_protected", "lay_out", "lay_out_file", "moment", "observe", "spoilt",
    "was_spoilt_before",
]  # fmt: skip

_LOCK = "laid-out.lock"


class Erased(NamedTuple):
    """What `erase` did.

    Attributes:
        gone: Files, and folders with all that was in them.
        left: What could not be removed, and why.
    """

    gone: list[Path]
    left: list[tuple[Path, str]]


def lay_out(
    manifest: Manifest,
    *,
    registry: Registry,
    cache: Path,
    what: str,
    look: bool = True,
    progress: Progress = SILENT,
) -> Path:
    """Return a folder that holds exactly the files of `manifest`, verified.

    Args:
        look: Look at every file of a tree that is there already; else the caller does so afterwards, by `spoilt`.
    Raises:
        DataMismatchError: An object in the registry is corrupt.
        RegistryError: Reading the registry or writing the cache failed.
    """
    trees = cache / "trees"
    tree = trees / manifest.top_hash
    with os_errors(f"Laying out {what} in {trees}"):
        if _is_there(tree, look=look):
            return tree
        trees.mkdir(parents=True, exist_ok=True)
        with _locked(cache / _LOCK, fcntl.LOCK_SH), _locked(_beside(tree, "lock")):
            if not _is_there(tree, look=look):  # of two that want the same tree, one makes it and the other waits
                objects = sorted({f"{entry.digest.type}-{entry.digest.hex}" for entry in manifest.entries})
                durable_write(_beside(tree, "objects"), "\n".join(objects).encode(), sync=False)
                try:
                    _make(tree, manifest, registry, what, progress)
                finally:
                    if not tree.exists():
                        _beside(tree, "objects").unlink(missing_ok=True)
    return tree


def lay_out_file(digest: Digest, name: str, read: Callable[[], bytes], *, cache: Path) -> Path:
    """Return a read-only file of that name with the verified bytes of one object, as `read` returns them."""
    place = cache / "files" / digest.hex / name
    with os_errors(f"Writing {place}"):
        cache.mkdir(parents=True, exist_ok=True)
        with _locked(cache / _LOCK, fcntl.LOCK_SH):
            data = read()
            if not place.is_file() or place.read_bytes() != data:
                durable_write(place, data, sync=False)
                place.chmod(0o444)
    return place


@contextlib.contextmanager
def _locked(path: Path, how: int = fcntl.LOCK_EX) -> Iterator[None]:
    while True:
        with path.open("ab") as handle:
            fcntl.flock(handle, how)
            if _is_named(handle.fileno(), path):  # else who had it removed it: it holds off nobody any more
                yield
                return


def _is_named(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _is_there(tree: Path, *, look: bool) -> bool:
    return spoilt(tree) is None if look else tree.is_dir() and _stats_of(tree).exists()


def _make(tree: Path, manifest: Manifest, registry: Registry, what: str, progress: Progress) -> None:
    temporary = Path(tempfile.mkdtemp(prefix="tmp-", dir=tree.parent))
    try:
        write_entries(
            registry,
            manifest.entries,
            temporary,
            what=what,
            title=f"Laying out {what}",
            mode=0o444,
            progress=progress,
        )
        temporary.chmod(0o755)
        verified = observe(temporary)  # renaming the folder changes none of it
        forget(tree)
        if tree.exists():  # changed since it was verified, or left by a kill: set aside, then remove
            condemned = Path(tempfile.mkdtemp(prefix="tmp-", dir=tree.parent))
            tree.rename(condemned / "tree")
            shutil.rmtree(condemned, ignore_errors=True)
        temporary.rename(tree)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    durable_write(_stats_of(tree), canonical(verified), sync=False)


def spoilt(tree: Path) -> str | None:
    """Return the first file of a tree that is not what it was when it was verified; None if all are.

    A tree of which nothing is known, or that is not there, is spoilt by its own name.
    """
    try:
        known = json.loads(_stats_of(tree).read_bytes())
        found = observe(tree)
    except (OSError, ValueError, RecursionError):
        return tree.name
    if found is None or not isinstance(known, list) or not all(isinstance(row, list) and row for row in known):
        return tree.name
    if known == found:
        return None
    before, after = ({str(row[0]): row for row in rows} for rows in (known, found))
    return min(key for key in before.keys() | after.keys() if before.get(key) != after.get(key))


def was_spoilt_before(tree: Path, file: str, when: int) -> bool:
    """True if a file of a tree, found spoilt, was so already at a `moment`; of a tree that is gone, False."""
    path = tree / file
    try:
        seen = path.lstat()
    except OSError:
        try:
            seen = path.parent.lstat()  # which changed when the file went
        except OSError:
            return False
    return seen.st_ctime_ns < when


def moment(cache: Path) -> int:
    """Return what time it is for the file system of the cache, whose clock may be another machine's: ns since 1970."""
    trees = cache / "trees"
    with os_errors(f"Writing to {trees}"):
        trees.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=trees, prefix="tmp-") as probe:
            return os.fstat(probe.fileno()).st_ctime_ns


def is_protected(cache: Path) -> bool:
    """True if the modes of what is laid out keep who runs here from writing to it; root, most often, they do not."""
    if os.geteuid() != 0:
        return True
    trees = cache / "trees"
    with os_errors(f"Writing to {trees}"):
        trees.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=trees, prefix="tmp-") as probe:
            Path(probe.name).chmod(0o444)
            try:
                os.close(os.open(probe.name, os.O_WRONLY))
            except PermissionError:
                return True
    return False


def forget(tree: Path) -> None:
    """Have a tree laid out anew the next time."""
    _stats_of(tree).unlink(missing_ok=True)


def discard(cache: Path, top_hash: str) -> None:
    """Remove a tree that nobody will want again."""
    tree = cache / "trees" / top_hash
    if tree.parent.is_dir():
        with _locked(cache / _LOCK, fcntl.LOCK_SH), _locked(_beside(tree, "lock")):
            _remove_tree(tree, Erased([], []))


def erase(
    digests: Collection[Digest], *, cache: Path, sizes: Collection[int] = (), also: Iterable[Path] = ()
) -> Erased:
    """Erase every copy of these objects: each tree that holds one, also if it was changed since, each file, and others.

    Trees of which it is not known what they hold go too, and so does what was left of one that was never finished. A
    tree that a run is using goes as well: the run finds that out, and its record says so.

    Args:
        sizes: Lengths of the objects. A file of such a length, anywhere below the cache, is read, and goes if it is
            one of them, for archives of packages lie there too.
        also: More folders to look through in this way.
    Raises:
        RegistryError: The cache cannot be locked; nothing was erased.
    """
    done = Erased([], [])
    names = {f"{digest.type}-{digest.hex}" for digest in digests}
    if cache.is_dir():
        with os_errors(f"Erasing in {cache}"), _locked(cache / _LOCK):
            trees = cache / "trees"
            present = sorted(os.listdir(trees)) if trees.is_dir() else []
            for name in present:
                if name.startswith(("tmp-", ".tmp-")):  # nobody lays anything out now
                    _remove(trees / name, done)
            for tree in (trees / name for name in dict.fromkeys(name.partition(".")[0] for name in present) if name):
                held = _objects_of(tree)
                if held is None or not names.isdisjoint(held):
                    _remove_tree(tree, done)
            for digest in digests:
                _remove(cache / "files" / digest.hex, done)
            for folder in abandoned(cache, prefix=DOCTOR, elsewhere=ALL):  # whose registry may have them in its packs
                _remove(folder, done)
            done.left.extend((folder, "a doctor is at work there") for folder in sorted(cache.glob(f"{DOCTOR}*")))
    for folder in (cache, *also):
        for copy in _copies(folder, digests, {size for size in sizes if size}):
            _remove(copy, done)
    return done


def _objects_of(tree: Path) -> list[str] | None:
    try:
        return _beside(tree, "objects").read_text("utf-8").split("\n")
    except (OSError, UnicodeDecodeError):
        return None


def _copies(folder: Path, digests: Collection[Digest], sizes: Collection[int]) -> Iterator[Path]:
    """Yield the files below a folder that are one of these objects, byte for byte."""
    kinds = {digest.type for digest in digests}
    for base, _, files in os.walk(folder) if sizes else ():
        for name in files:
            path = Path(base, name)
            with contextlib.suppress(OSError):  # gone meanwhile, or not ours to read
                seen = path.lstat()
                alike = stat.S_ISREG(seen.st_mode) and seen.st_size in sizes
                if alike and any(hash_file(path, kind)[0] in digests for kind in kinds):
                    yield path


def _remove_tree(tree: Path, done: Erased) -> None:
    """Remove a tree, then what is kept beside it: of a tree that could not be removed it stays known what it holds."""
    forget(tree)
    if _remove(tree, done):
        for what in ("objects", "lock"):
            _beside(tree, what).unlink(missing_ok=True)


def _remove(path: Path, done: Erased) -> bool:
    """Remove a file, or a folder with all that is in it; note what could not be removed, and return False then."""
    failed: list[OSError] = []
    steps: list[tuple[Callable[[Path], None], Path]] = []
    if path.is_dir() and not path.is_symlink():
        for base, folders, files in os.walk(path, topdown=False, onerror=failed.append):
            links = [name for name in folders if Path(base, name).is_symlink()]
            steps += [(Path.unlink, Path(base, name)) for name in (*files, *links)]
            steps.append((Path.rmdir, Path(base)))
    elif path.exists() or path.is_symlink():
        steps.append((Path.unlink, path))
    for remove, place in steps:
        try:
            remove(place)
        except FileNotFoundError:
            continue
        except OSError as error:
            failed.append(error)
    done.left.extend((Path(str(error.filename or path)), error.strerror or str(error)) for error in failed)
    if steps and not failed:
        done.gone.append(path)
    return not failed


def _stats_of(tree: Path) -> Path:
    return _beside(tree, "json")


def _beside(tree: Path, what: str) -> Path:
    return tree.with_name(f"{tree.name}.{what}")


def observe(tree: Path) -> list[list[object]] | None:
    """Return [path, size, mtime, ctime, inode] of every file, sorted; None if there is no tree."""
    if not tree.is_dir():
        return None
    rows: list[list[object]] = []
    pending = [("", str(tree))]
    while pending:
        prefix, folder = pending.pop()
        with os.scandir(folder) as children:
            for child in children:
                if child.is_dir(follow_symlinks=False):
                    pending.append((f"{prefix}{child.name}/", child.path))
                else:
                    seen = child.stat(follow_symlinks=False)
                    row = [prefix + child.name, seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns, seen.st_ino]
                    rows.append(list[object](row))
    return sorted(rows, key=lambda row: str(row[0]))
