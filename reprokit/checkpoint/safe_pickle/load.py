"""joblib and `.pt` files: they load with a list of named types, and with nothing else.

A named type can still run its own code while it is loaded, with whatever the file passes to it. Nothing here makes a
file of a stranger trustworthy; it only leaves a stranger no more than the types that you name.
"""

from __future__ import annotations

import bz2
import importlib
import lzma
import os
import pickle
import stat
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Collection, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

from reprokit.checkpoint.safe_pickle.unpickler import Restricted
from reprokit.errors import DataMismatchError, Error, NotFoundError, RefusedError, UsageError

__all__ = ["BROKEN", "load_pickled", "not_named"]

_MAX_BYTES = 8 * 1024 * 1024 * 1024
_MAX_PICKLE = 64 * 1024 * 1024  # the part of a .pt file that is no tensor
_RATIO, _SLACK = 200, 64 * 1024 * 1024  # a compressed file may unpack to so many times its size, and this
_TOLD = 40  # names
_ZIP = b"PK\x03\x04"
_LEGACY_PT = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
_MIN_TORCH = (2, 6)  # CVE-2025-32434: before, `weights_only=True` did not keep its promise

# whatever a parser raises that was given something malformed
BROKEN = (
    ArithmeticError, AssertionError, AttributeError, BufferError, EOFError, ImportError, LookupError, MemoryError,
    NameError, OSError, RuntimeError, SyntaxError, TypeError, ValueError, lzma.LZMAError, pickle.UnpicklingError,
    struct.error, tokenize.TokenError, zipfile.BadZipFile, zlib.error,
)  # fmt: skip


def load_pickled(source: bytes | str | Path, *, types: Sequence[str] = (), max_bytes: int = _MAX_BYTES) -> Any:
    """Return what a joblib file, a pickle or a `.pt` file holds.

    NumPy arrays, PyTorch tensors and plain containers need no name.

    Args:
        source: The file, or its bytes.
        types: Full names of further types that it may hold, such as `sklearn.svm._classes.SVC`. Their code runs.
        max_bytes: Cap on the file's length and on what it unpacks to.
    Raises:
        RefusedError: It holds types that are not named; all that it asked for are listed.
        DataMismatchError: It is malformed, too large, or of a form that is not read.
        NotFoundError: There is no such file.
        UsageError: A name in `types` is none of a type.
    """
    if isinstance(types, str) or not all(isinstance(name, str) and "." in name for name in types):
        raise UsageError("`types` is a list of full names, such as ['sklearn.svm._classes.SVC'].")
    what = "The pickle" if isinstance(source, bytes) else str(source)
    with _opened(source, what, max_bytes) as handle:  # no longer than that when it was opened
        start = handle.read(len(_LEGACY_PT))
        handle.seek(0)
        if start.startswith(_ZIP):
            return _load_pt(handle, list(types), what)
        if start == _LEGACY_PT:
            raise DataMismatchError(
                f"{what} is a .pt file in the form from before PyTorch 1.6, which is not read.",
                hint="Load it where it was made, and save it again with `torch.save`.",
            )
        return _load_joblib(_unpacked(handle.read(), what, max_bytes), frozenset(types), what)


def _opened(source: bytes | str | Path, what: str, max_bytes: int) -> BinaryIO:
    if isinstance(source, bytes):
        handle: BinaryIO = BytesIO(source)
        size = len(source)
    else:
        try:
            descriptor = os.open(source, os.O_RDONLY | os.O_NONBLOCK)  # a pipe would block
        except OSError as error:
            raise NotFoundError(f"{what} cannot be read: {error.strerror}.") from None
        facts = os.fstat(descriptor)
        if not stat.S_ISREG(facts.st_mode):
            os.close(descriptor)
            raise DataMismatchError(f"{what} is not a regular file.")
        handle, size = os.fdopen(descriptor, "rb"), facts.st_size
    if size > max_bytes:
        handle.close()
        raise DataMismatchError(f"{what} is {size:,} bytes long; at most {max_bytes:,} are read.")
    return handle


def not_named(what: str, names: Collection[str]) -> RefusedError:
    """Return the error for a file that holds more than the caller named."""
    told = ", ".join(sorted(name[:120] for name in names)[:_TOLD])
    more = f" and {len(names) - _TOLD} more" if len(names) > _TOLD else ""
    return RefusedError(
        f"{what} holds what was not named: {told}{more}.",
        hint="Nothing of it was called. Name in `types` what you trust to be loaded: its own code will run.",
    )


# joblib and pickle


def _load_joblib(data: bytes, types: frozenset[str], what: str) -> Any:
    unpickler = Restricted(data, types)
    try:
        found = unpickler.load()
    except Error:
        raise
    except BROKEN as error:
        if unpickler.unnamed:
            raise not_named(what, unpickler.unnamed) from None
        raise _malformed(what, error) from None
    if unpickler.unnamed:
        raise not_named(what, unpickler.unnamed)
    return found


def _malformed(what: str, error: Exception) -> DataMismatchError:
    return DataMismatchError(f"{what} is malformed: {type(error).__name__}: {str(error)[:200]}.")


def _unpacked(data: bytes, what: str, max_bytes: int) -> bytes:
    """Return a joblib file without its compression, in no more memory than its size allows."""
    limit = min(max_bytes, _SLACK + _RATIO * len(data))
    try:
        if data[:1] == b"\x78" or data[:2] == b"\x1f\x8b":
            inflating = zlib.decompressobj(wbits=47)
            found, complete = inflating.decompress(data, limit + 1), inflating.eof
        elif data[:3] == b"BZh":
            bz = bz2.BZ2Decompressor()
            found, complete = bz.decompress(data, limit + 1), bz.eof
        elif data[:6] == b"\xfd7zXZ\x00" or data[:3] == b"\x5d\x00\x00":
            xz = lzma.LZMADecompressor(memlimit=512 * 1024 * 1024)
            found, complete = xz.decompress(data, limit + 1), xz.eof
        elif data[:4] == b"\x04\x22\x4d\x18":
            raise DataMismatchError(f"{what} is compressed with LZ4, which is not read.", hint="Save it with zlib.")
        else:
            return data
    except BROKEN as error:
        raise _malformed(what, error) from None
    if len(found) > limit:
        raise DataMismatchError(f"{what} unpacks to more than {limit:,} bytes; no more are read.")
    if not complete:
        raise DataMismatchError(f"{what} is malformed: its compressed bytes end too early.")
    return found


# PyTorch


def _load_pt(handle: BinaryIO, types: list[str], what: str) -> Any:
    _check_zip(handle, what)
    torch: Any = importlib.import_module("torch")  # PyTorch is loaded only where a file of its form is
    if tuple(int(part) for part in torch.__version__.split(".")[:2]) < _MIN_TORCH:
        raise RefusedError(
            f"{what} needs PyTorch 2.6 or newer; this is {torch.__version__}, which runs more than it is asked to."
        )
    handle.seek(0)
    try:
        named = [(_found(name), name) for name in types]
        unnamed = sorted(set(torch.serialization.get_unsafe_globals_in_checkpoint(handle)) - set(types))
        if unnamed:
            raise not_named(what, unnamed)
        handle.seek(0)
        with torch.serialization.safe_globals(named):
            return torch.load(handle, map_location="cpu", weights_only=True, mmap=False)
    except Error:
        raise
    except BROKEN as error:
        raise _malformed(what, error) from None


def _found(full: str) -> Any:
    """Return the type of a full name: of the longest module that there is, what the rest names."""
    parts = full.split(".")
    for cut in range(len(parts) - 1, 0, -1):
        try:
            found: Any = importlib.import_module(".".join(parts[:cut]))
        except ModuleNotFoundError:
            continue
        for part in parts[cut:]:
            found = getattr(found, part, None)
        if found is not None:
            return found
    raise UsageError(f"`types` names {full!r}, which cannot be found here.")


def _check_zip(handle: BinaryIO, what: str) -> None:
    """Look at a `.pt` file as a zip: nothing compressed or encrypted, one pickle of moderate size, no name twice."""
    try:
        with zipfile.ZipFile(handle) as archive:
            members = archive.infolist()
            names = [member.filename for member in members]
            plain = all(m.compress_type == zipfile.ZIP_STORED and not m.flag_bits & 1 for m in members)
            pickles = [m for m in members if m.filename.endswith("/data.pkl") and m.filename.count("/") == 1]
            if not plain or len(set(names)) != len(names) or len(pickles) != 1:
                raise DataMismatchError(f"{what} is not a file that `torch.save` wrote.")
            if pickles[0].file_size > _MAX_PICKLE:
                raise DataMismatchError(
                    f"{what} has a pickle of {pickles[0].file_size:,} bytes; at most {_MAX_PICKLE:,} are read."
                )
            # PyTorch's own unpickler calls nothing that is not named either; but a few bytes make it take all memory,
            # for a bytearray of a given length, or for a message about tuples that share their parts
            Restricted(archive.read(pickles[0]), (), storages=True).load()
    except Error:
        raise
    except BROKEN as error:
        raise _malformed(what, error) from None
