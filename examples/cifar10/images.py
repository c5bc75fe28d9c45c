"""Read the images of CIFAR-10 from a folder, an archive or the official Python batches. Writes nothing.

Whatever the source, an image comes out as its key, `train/<class>/<name>` or `test/<class>/<name>`, and its bytes.
Archives are not trusted: absolute names, `..`, links and devices are refused, and so is what a pickle may not name.
"""

import gzip
import io
import lzma
import os
import pickle
import re
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Image", "SourceError", "of_batches", "of_layout"]

Image = tuple[str, bytes]  # key, content
Member = tuple[str, int, Callable[[], bytes]]  # name, size, reader of its content

largest_image = 1 << 20  # bytes; one of 32 × 32 pixels needs 3 KB
largest_batch = 1 << 26  # bytes; an official batch has 31 MB
batch_names = ("data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5", "test_batch")


class SourceError(Exception):
    """A source which is unsafe, damaged or laid out in another way than expected."""


# Images laid out by split and class ----------------------------------------------------------------------------

layout = re.compile(r"([^/.][^/]*/)?((?:train|test)/[^/.][^/]*/[^/.][^/]*\.(?:png|jpg|jpeg|PNG|JPG|JPEG))")


def of_layout(source: Path) -> Iterator[Image]:
    """Yield the files at `train/<class>/` and `test/<class>/` of a folder or archive, as they are.

    Both may lie below one folder, as in most archives. Other files, a readme say, are passed over.
    """
    top: str | None = None
    classes: dict[str, set[str]] = {"train": set(), "test": set()}
    keys: set[str] = set()
    for name, content in _files(source, layout, largest_image):
        its_top, key = layout.sub(r"\1", name), layout.sub(r"\2", name)
        if top is not None and its_top != top:
            raise SourceError(f"{source} holds images below ./{top} and below ./{its_top}; expected one of them.")
        if key in keys:
            raise SourceError(f"{source} holds {name} twice.")
        top = its_top
        keys.add(key)
        split, label, _ = key.split("/")
        classes[split].add(label)
        yield key, content
    if not keys or classes["train"] != classes["test"]:
        raise SourceError(
            f"{source} holds images of {len(classes['train'])} classes below train/ and {len(classes['test'])} below "
            "test/; expected train/<class>/*.png or *.jpg, and the same classes below test/. "
            "(The official archive is recognised by its MD5 alone.)"
        )


# The official batches ----------------------------------------------------------------------------------------------


batch = re.compile(r"(.*/)?(data_batch_[1-5]|test_batch|batches\.meta)")


def of_batches(source: Path) -> Iterator[Image]:
    """Yield the images of the official Python batches as PNG, numbered within split and class from 0000.

    Source: https://www.cs.toronto.edu/~kriz/cifar.html, "Dataset layout", Python version.
    """
    batches: dict[str, dict[bytes, Any]] = {}
    for name, content in _files(source, batch, largest_batch):
        batches[name.split("/")[-1]] = _unpickle(content, f"{name} of {source}")
    missing = sorted({*batch_names, "batches.meta"} - batches.keys())
    if missing:
        raise SourceError(f"{source} lacks {', '.join(missing)}; expected the Python version of CIFAR-10.")
    stated = batches["batches.meta"].get(b"label_names")
    names = [x.decode("latin1") if isinstance(x, bytes) else str(x) for x in stated] if isinstance(stated, list) else []
    if not names or not all(re.fullmatch(r"[\w-]+", name, re.ASCII) for name in names):
        raise SourceError(f"{source} names its classes {names}; expected letters, digits, _ and -.")
    counts: dict[str, int] = {}
    for base in batch_names:
        pixels, labels = batches[base].get(b"data"), batches[base].get(b"labels", [])
        if not isinstance(labels, list) or not isinstance(pixels, np.ndarray):
            raise SourceError(f"{base} of {source} does not hold an array `data` and a list `labels`.")
        if pixels.dtype != np.uint8 or pixels.shape != (len(labels), 3072):
            raise SourceError(f"{base} of {source} does not hold uint8 [N, 3072] with N labels.")
        split = "test" if base == "test_batch" else "train"
        for label, image in zip(labels, _png(pixels), strict=True):
            if label not in range(len(names)):
                raise SourceError(f"{base} of {source} holds the label {label!r}; there are {len(names)} classes.")
            folder = f"{split}/{names[label]}"
            number = counts.get(folder, 0)
            counts[folder] = number + 1
            yield f"{folder}/{number:04}.png", image


def _png(pixels: NDArray[np.uint8]) -> Iterator[bytes]:
    """Encode uint8 [N, 3072] (three planes of 32 × 32) as N RGB images.

    Deflate stores here and does not compress: so the bytes, and with them the top hash of the package, depend on no
    version of zlib or Pillow. Source: PNG (third edition), sections 5.3 and 11.2; RFC 1951, section 3.2.4.
    """

    def part(kind: bytes, content: bytes) -> bytes:
        checked = kind + content
        return struct.pack(">I", len(content)) + checked + struct.pack(">I", zlib.crc32(checked))

    header = b"\x89PNG\r\n\x1a\n" + part(b"IHDR", struct.pack(">IIBBBBB", 32, 32, 8, 2, 0, 0, 0))
    rows = np.zeros((len(pixels), 32, 1 + 32 * 3), np.uint8)  # each row begins with its filter type: 0, none
    rows[:, :, 1:] = pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1).reshape(-1, 32, 96)
    for image in rows:
        raw = image.tobytes()
        length = len(raw)  # 3104: one stored block
        stored = b"\x78\x01\x01" + struct.pack("<HH", length, length ^ 0xFFFF) + raw
        yield header + part(b"IDAT", stored + struct.pack(">I", zlib.adler32(raw))) + part(b"IEND", b"")


def _unpickle(content: bytes, where: str) -> dict[bytes, Any]:
    try:
        found = _BatchUnpickler(io.BytesIO(content), encoding="bytes").load()
    except pickle.UnpicklingError as error:
        raise SourceError(f"{where} was refused: {error}.") from error
    except (ValueError, TypeError, AttributeError, EOFError, IndexError, KeyError, MemoryError) as error:
        raise SourceError(f"{where} is no batch of CIFAR-10: {type(error).__name__}: {error}.") from error
    if not isinstance(found, dict):
        raise SourceError(f"{where} is no batch of CIFAR-10: it holds a {type(found).__name__}, expected a dict.")
    return {key.encode() if isinstance(key, str) else key: value for key, value in found.items()}


class _BatchUnpickler(pickle.Unpickler):
    """Builds dicts, lists, bytes, numbers and NumPy arrays, and refuses every other name."""

    def find_class(self, module: str, name: str) -> Any:
        allowed: dict[str, Any] = {
            "numpy.ndarray": np.ndarray,
            "numpy.dtype": np.dtype,
            "numpy.core.multiarray._reconstruct": _empty_array,
            "numpy._core.multiarray._reconstruct": _empty_array,  # its name since NumPy 2
            "_codecs.encode": _latin1,
        }
        try:
            return allowed[f"{module}.{name}"]
        except KeyError:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no batch needs") from None


def _empty_array(kind: object, shape: object, code: object) -> NDArray[Any]:
    """What NumPy's `_reconstruct` makes: an empty array, filled in by the state that follows."""
    if kind is not np.ndarray or shape != (0,):
        raise pickle.UnpicklingError(f"it asks for an array of {kind} with shape {shape}")
    reduced: Any = np.empty(0).__reduce__()
    empty: NDArray[Any] = reduced[0](kind, shape, code)
    return empty


def _latin1(text: str, encoding: str) -> bytes:
    """What Python 3 writes for bytes in an old protocol: `_codecs.encode(text, "latin1")`."""
    if encoding not in ("latin1", b"latin1"):
        raise pickle.UnpicklingError(f"it asks for the encoding {encoding!r}")
    return text.encode("latin1")


# Files of a folder or archive, every name checked -----------------------------------------------------------


def _files(source: Path, wanted: re.Pattern[str], largest: int) -> Iterator[tuple[str, bytes]]:
    """Yield name and bytes of the files whose whole name matches, in the order of the source.

    Every member is checked, wanted or not. An archive may be a tar (plain, gz, bz2, xz) or a zip.

    Raises:
        SourceError: Damage, a name or kind of member which is refused, or more than `largest` bytes.
    """
    if source.is_dir():
        members = _folder_members(source)
    else:
        members = (_zip_members if zipfile.is_zipfile(source) else _tar_members)(source)
    damage = (
        tarfile.TarError,
        gzip.BadGzipFile,
        lzma.LZMAError,
        zlib.error,
        EOFError,
        zipfile.BadZipFile,
        RuntimeError,
    )
    try:
        for name, size, read in members:
            if wanted.fullmatch(name):
                if size > largest:
                    raise SourceError(f"{source} holds {name} of {size:,} bytes; expected {largest:,} at most.")
                yield name, read()
    except damage as error:
        raise SourceError(f"Cannot read {source} as a tar or zip archive: {error}.") from error


def _folder_members(folder: Path) -> Iterator[Member]:
    for here, folders, files in os.walk(folder):
        folders.sort()
        for name in sorted(folders + files):
            path = Path(here, name)
            status = path.lstat()
            if stat.S_ISREG(status.st_mode):
                yield path.relative_to(folder).as_posix(), status.st_size, path.read_bytes
            elif not stat.S_ISDIR(status.st_mode):
                raise _refused_kind(folder, path.relative_to(folder).as_posix())


def _tar_members(archive: Path) -> Iterator[Member]:
    with tarfile.open(archive) as tar:
        for member in tar:
            name = _checked(archive, member.name)
            if member.isdir():
                continue
            if not member.isfile() or member.issparse():
                raise _refused_kind(archive, name)
            yield name, member.size, partial(_read_tar, tar, member)
        while tar.fileobj and tar.fileobj.read(1 << 20):  # tarfile stops before gzip's and xz's checksums: go there
            pass


def _read_tar(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member)
    content = file.read() if file else b""
    if len(content) != member.size:
        raise EOFError(f"{member.name} ends early")
    return content


def _zip_members(archive: Path) -> Iterator[Member]:
    with zipfile.ZipFile(archive) as file:
        for member in file.infolist():
            name = _checked(archive, member.orig_filename)
            if stat.S_IFMT(member.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise _refused_kind(archive, name)
            if not member.is_dir():
                yield name, member.file_size, partial(file.read, member)


def _refused_kind(source: Path, name: str) -> SourceError:
    return SourceError(f"{source} holds {name}, a link or a device; expected files and folders only.")


def _checked(archive: Path, name: str) -> str:
    parts = name.split("/")
    if name.startswith("/") or ".." in parts or "\\" in name or "\0" in name or re.match("[A-Za-z]:", name):
        raise SourceError(f"{archive} holds a member named {name!r}, which could point outside: refused.")
    return "/".join(part for part in parts if part not in ("", "."))
