"""Read NumPy's files, which may be a stranger's: nothing is unpickled, or allocated because a header asks for it."""

from __future__ import annotations

import io
import math
import warnings
import zipfile
import zlib
from typing import Any

import numpy as np
import numpy.typing as npt

from reprokit.core.terminal_text import printable

__all__ = ["MAX_BYTES", "Archive", "read_array"]

MAX_BYTES = 256 * 1024 * 1024  # of all members of an archive, unpacked
_MAX_MEMBERS = 1000


class Archive:
    """A stranger's `.npz`. What its members unpack to is bounded before one of them is unpacked."""

    def __init__(self, data: bytes) -> None:
        if data.count(b"PK\x01\x02") > 2 * _MAX_MEMBERS:  # zipfile makes an object of each
            raise ValueError(f"more than {_MAX_MEMBERS:,} arrays are not read")
        try:
            self._zip = zipfile.ZipFile(io.BytesIO(data))
        except (zipfile.BadZipFile, NotImplementedError, UnicodeDecodeError) as error:
            raise ValueError(f"not an .npz file ({error})") from None
        members = self._zip.infolist()
        self.names = {info.filename.removesuffix(".npy"): info for info in members}
        if len(members) > _MAX_MEMBERS:
            raise ValueError(f"more than {_MAX_MEMBERS:,} arrays are not read")
        if len(self.names) != len(members) or not all(info.filename.endswith(".npy") for info in members):
            raise ValueError("not an .npz file: a member is no array, or is there twice")
        if sum(info.file_size for info in members) > MAX_BYTES:
            raise ValueError(f"unpacked, the arrays have more than {MAX_BYTES:,} bytes; so many are not read")
        if any(info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) for info in members):
            raise ValueError("not an .npz file that NumPy writes: packed otherwise than by deflate")

    def __enter__(self) -> Archive:
        return self

    def __exit__(self, *_: object) -> None:
        self._zip.close()

    def read(self, name: str) -> npt.NDArray[Any]:
        try:
            with self._zip.open(self.names[name]) as handle:
                data = handle.read(self.names[name].file_size)
        except (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, UnicodeDecodeError) as error:
            raise ValueError(f"the array {printable(name)!r} cannot be unpacked ({error})") from None
        return read_array(data)


def read_array(data: bytes) -> npt.NDArray[Any]:
    """Return the array of an `.npy` file. Its size is checked against the bytes that are there, not believed."""
    handle = io.BytesIO(data)
    npy = np.lib.format
    try:
        version = npy.read_magic(handle)
        if version not in ((1, 0), (2, 0)):
            raise ValueError(f"version {version[0]}.{version[1]} of the format is not read")
        read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what NumPy would rather not see in a header
            shape, fortran, dtype = read(handle)
        if dtype.kind not in "biufcSUmM" or dtype.itemsize == 0:
            raise ValueError(
                f"elements of type {dtype.kind!r} are not compared by value, and objects are not unpickled"
            )
        if any(size < 0 for size in shape) or math.prod(shape) * dtype.itemsize != len(data) - handle.tell():
            raise ValueError("the header does not fit the bytes that follow")
        flat = np.frombuffer(data, dtype, offset=handle.tell()) if math.prod(shape) else np.empty(0, dtype)
        array: npt.NDArray[Any] = flat.reshape(shape, order="F" if fortran else "C")
        return array
    except Exception as error:  # noqa: BLE001 - whatever a hostile header makes NumPy's parser raise
        raise ValueError(f"not an .npy file that is read here: {error}") from None
