"""Wheels: looked through before anything is installed, and made again from an installed package.

A wheel's RECORD names every file with its hash, and the lock has a digest of it. So a wheel can be checked against the
lock wherever it came from; and what is installed, unchanged, can be packed into a wheel of the same identity.
Source: https://packaging.python.org/en/latest/specifications/binary-distribution-format/
"""

from __future__ import annotations

import configparser
import csv
import io
import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from packaging.utils import canonicalize_name

from reprokit.environment.pip.installed import Row, is_identity, record_digest, rows_of, spell
from reprokit.errors import DataMismatchError, EnvironmentMismatchError
from reprokit.schema.lock import PipPackage

__all__ = ["read_wheel", "repack", "wheel_name"]

_MAX_RECORD = 64 * 1024 * 1024
_MAX_MEMBERS = 200_000
_UNHASHED = ("RECORD", "RECORD.jws", "RECORD.p7s")
_TIME = (1980, 1, 1, 0, 0, 0)


def read_wheel(path: Path) -> PipPackage:
    """Return a wheel's identity once installed, when every file in it was found to be what its RECORD says.

    Raises:
        DataMismatchError: It is malformed, holds other bytes than it says, or a path outside its root.
    """
    what = f"The wheel {path.name}"
    try:
        with zipfile.ZipFile(path) as archive:
            return _read(archive, what)
    except (zipfile.BadZipFile, ValueError, KeyError, OSError, EOFError, NotImplementedError, csv.Error) as error:
        raise DataMismatchError(f"{what} cannot be read: {type(error).__name__}: {str(error)[:200]}.") from None


def _read(archive: zipfile.ZipFile, what: str) -> PipPackage:
    members = {info.filename: info for info in archive.infolist() if not info.is_dir()}
    if len(archive.infolist()) > _MAX_MEMBERS or len({i.filename for i in archive.infolist()}) != len(
        archive.infolist()
    ):
        raise DataMismatchError(f"{what} holds too many files, or one twice.")
    for name, info in members.items():
        if not _is_inside(name) or (info.external_attr >> 16) & 0o170000 not in (0, 0o100000):
            raise DataMismatchError(f"{what} holds {name[:200]!r}, which is no file inside its root.")
    infos = {name.split("/")[0] for name in members if re.fullmatch(r"[^/]+\.dist-info/RECORD", name)}
    if len(infos) != 1:
        raise DataMismatchError(f"{what} has {len(infos)} RECORD files.")
    folder = infos.pop()
    rows = rows_of(_small(archive, f"{folder}/RECORD", what))
    _check_files(archive, members, rows, folder, what)
    metadata = _headers(_small(archive, f"{folder}/METADATA", what))
    tags = sorted(value for key, value in _headers(_small(archive, f"{folder}/WHEEL", what)) if key == "tag")
    told = dict(reversed(metadata))
    data = folder.removesuffix(".dist-info") + ".data"
    installed = [(_installed_at(path, data), digest, size) for path, digest, size in rows]
    return PipPackage(
        name=canonicalize_name(told["name"]), version=told["version"], tags=tags, record=record_digest(installed)
    )


def _is_inside(name: str) -> bool:
    parts = name.split("/")
    return "\\" not in name and "\0" not in name and ":" not in parts[0] and not {"", ".", ".."} & set(parts)


def _small(archive: zipfile.ZipFile, name: str, what: str) -> str:
    if archive.getinfo(name).file_size > _MAX_RECORD:
        raise DataMismatchError(f"{what} has a {name.split('/')[-1]} of more than {_MAX_RECORD:,} bytes.")
    return archive.read(name).decode("utf-8")


def _headers(text: str) -> list[tuple[str, str]]:
    """Return the header fields of METADATA or WHEEL, names in lower case, in order."""
    head = re.split(r"\r?\n\r?\n", text, maxsplit=1)[0]
    return [
        (key.strip().lower(), value.strip())
        for key, colon, value in (line.partition(":") for line in head.splitlines())
        if colon and not key.startswith((" ", "\t"))
    ]


def _check_files(
    archive: zipfile.ZipFile,
    members: dict[str, zipfile.ZipInfo],
    rows: list[Row],
    info: str,
    what: str,
) -> None:
    unhashed = {f"{info}/{name}" for name in _UNHASHED}
    told = {path: (digest, size) for path, digest, size in rows}
    if len(told) != len(rows) or told.keys() - unhashed != members.keys() - unhashed:
        other = sorted((told.keys() ^ members.keys()) - unhashed)
        raise DataMismatchError(f"{what} and its RECORD have different files: {', '.join(other[:5]) or 'one twice'}.")
    for name, member in members.items():
        if name in unhashed:
            continue
        digest, size = told[name]
        with archive.open(member) as handle:  # which ends where the archive says that the file does
            if (size and member.file_size != int(size)) or spell(handle, digest) != digest:
                raise DataMismatchError(f"{what}: {name} is not what its RECORD says.")


def _installed_at(path: str, data: str) -> str:
    """Return where RECORD says that a wheel's file is once installed; what leaves site-packages is not told apart."""
    if not path.startswith(f"{data}/"):
        return path
    kind, _, rest = path.removeprefix(f"{data}/").partition("/")
    return rest if kind in ("purelib", "platlib") else f"../{rest}"


@dataclass(frozen=True)
class _Installed:
    """An installed package: its RECORD, and the folders that its rows are relative to."""

    site: Path
    info: Path
    prefix: Path

    @property
    def rows(self) -> list[Row]:
        return rows_of((self.info / "RECORD").read_text(encoding="utf-8"))

    def path(self, row: str) -> Path:
        return self.site / row


def repack(info: Path, *, prefix: Path, into: Path) -> Path:
    """Pack an installed package, as it is now, into a wheel of the same identity, and return the file.

    Args:
        info: Its `.dist-info` folder.
        prefix: Of the environment that it is in.
        into: Folder for the wheel.
    Raises:
        EnvironmentMismatchError: Its metadata is missing or malformed.
    """
    try:
        return _repack(info, prefix, into)
    except (FileNotFoundError, ValueError, csv.Error, configparser.Error) as error:
        told = f"{error.filename} is missing" if isinstance(error, FileNotFoundError) else str(error)[:200]
        raise EnvironmentMismatchError(
            f"{info.name.removesuffix('.dist-info')} cannot be packed: {told}.", hint="Install it again."
        ) from None


def _repack(info: Path, prefix: Path, into: Path) -> Path:
    found = _Installed(info.parent, info, prefix)
    stem = info.name.removesuffix(".dist-info")
    members = dict(_members(found, f"{stem}.data"))
    told = {path: (digest, size) for path, digest, size in found.rows}
    metadata = dict(reversed(_headers((info / "METADATA").read_text("utf-8"))))
    tags = sorted(value for key, value in _headers((info / "WHEEL").read_text("utf-8")) if key == "tag")
    package = PipPackage(
        name=canonicalize_name(metadata.get("name", "")), version=metadata.get("version", ""), tags=tags
    )
    target = into / wheel_name(package)
    lines: list[Row] = []
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name in sorted(members):
            body = members[name].read_bytes()
            script = name.startswith(f"{stem}.data/scripts/")
            if script:
                body = re.sub(rb"\A#!.*python[^\r\n]*", b"#!python", body)
            digest, size = told.get(name, ("", ""))
            actual = spell(io.BytesIO(body), digest) or spell(io.BytesIO(body), "sha256=") or ""
            if actual != digest:
                digest, size = actual, str(len(body))
            lines.append((name, digest, size))
            _write(archive, name, body, executable=script)
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([*lines, (f"{info.name}/RECORD", "", "")])
        _write(archive, f"{info.name}/RECORD", text.getvalue().encode())
    return target


def _write(archive: zipfile.ZipFile, name: str, body: bytes, *, executable: bool = False) -> None:
    row = zipfile.ZipInfo(name, _TIME)
    row.compress_type = zipfile.ZIP_DEFLATED
    row.external_attr = (0o100755 if executable else 0o100644) << 16
    archive.writestr(row, body)


def _members(found: _Installed, data: str) -> Iterator[tuple[str, Path]]:
    """Yield (name in a wheel, file) of an installed package; what installers make themselves is left out."""
    made = _entry_points(found.info)
    root = found.prefix.resolve()
    for row, digest, _ in found.rows:
        if not digest or row.endswith(".pyc"):
            continue
        if is_identity(row):
            if found.path(row).is_file():
                yield row, found.path(row)
        elif row.startswith("../"):
            file = (found.site / row).resolve()
            if not file.is_relative_to(root) or not file.is_file():
                continue
            inside = file.relative_to(root)
            if inside.parts[0] != "bin":
                yield f"{data}/data/{inside.as_posix()}", file
            elif inside.name not in made:
                yield f"{data}/scripts/{inside.name}", file


def _entry_points(info: Path) -> set[str]:
    """Return the names of the scripts that an installer makes from entry points."""
    parser = configparser.ConfigParser(delimiters=("=",), interpolation=None, strict=False)
    parser.optionxform = str  # type: ignore[method-assign,assignment] # names keep their case
    if (info / "entry_points.txt").is_file():
        parser.read_string((info / "entry_points.txt").read_text(encoding="utf-8"))
    sections = [parser[one] for one in ("console_scripts", "gui_scripts") if parser.has_section(one)]
    names = {name for section in sections for name in section}
    if "pip" in names:  # which names its scripts by the version of Python too
        names |= {f"pip{version}" for version in ("3", *(f"3.{minor}" for minor in range(50)))}
    return names


def wheel_name(package: PipPackage) -> str:
    """Return the file name of a package's wheel, as `demo-1.0-py2.py3-none-any.whl`."""
    parts: list[dict[str, None]] = [{}, {}, {}]
    for tag in package.tags:
        for part, values in zip(tag.split("-"), parts, strict=False):
            values[part] = None
    tag = "-".join(".".join(values) for values in parts)
    return f"{package.name.replace('-', '_')}-{package.version.replace('-', '_')}-{tag}.whl"
