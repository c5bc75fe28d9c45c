"""Make the folder of CIFAR-10 images, and build the package vision/cifar10 from it.

Without --from, the official archive is downloaded (170 MB, resumable) and its pixels are written as PNG. With it, a
folder or archive of images, or the official archive, is used instead. From the root of the repository:

    python examples/cifar10/make_package.py
    python examples/cifar10/make_package.py --from images.tar.xz --registry s3://bucket/registry

What is written to the folder comes from one source, whole: it is made under a temporary name and renamed at the end.
"""

import argparse
import hashlib
import json
import shlex
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from download import DownloadError, download, md5_of
from images import Image, SourceError, of_batches, of_layout

official_url = "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"
official_md5 = "c58f30108f718f92721af3b95e74349a"


def main() -> int:
    arguments = parse()
    dest: Path = arguments.dest
    try:
        if arguments.source is None:
            make_from_download(arguments.url, dest, md5=arguments.md5)
        else:
            make_from(arguments.source, dest, md5=arguments.md5)
        summary = describe(dest)
    except (DownloadError, SourceError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except OSError as error:  # a full disk, a folder not ours to write: nothing to debug in this script
        print(f"error: {error.strerror or error}: {error.filename or dest}", file=sys.stderr)
        return 1
    print(f"{dest}: {summary}", file=sys.stderr)
    return 0 if arguments.no_build else build(dest, arguments.name, summary, arguments.registry)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Make the folder of CIFAR-10 images, and build a package from it.")
    add = parser.add_argument
    source = "folder or archive (.tar, .tar.gz, .tar.xz, .zip) with train/<class>/ and test/<class>/, or the official "
    source += "archive; without --from, that one is downloaded"
    add("--from", dest="source", type=Path, metavar="PATH", help=source)
    add("--dest", type=Path, default=Path("data/cifar10"), metavar="DIR", help="folder to make (%(default)s)")
    add("--no-build", action="store_true", help="make the folder only")
    add("--registry", metavar="URL", help="registry to build the package in (reprokit's default registry)")
    add("--name", default="vision/cifar10", help="name of the package (%(default)s)")
    add("--url", default=official_url, help="where to download the official archive (%(default)s)")
    add("--md5", default=official_md5, help="MD5 by which the official archive is known (%(default)s)")
    return parser.parse_args()


def make_from_download(url: str, dest: Path, *, md5: str) -> None:
    """Make `dest` from the official archive at `url`, which is kept beside it."""
    identity = f"md5:{md5}"
    if not is_complete(dest, identity):
        archive = dest.parent / (PurePosixPath(urlsplit(url).path).name or "cifar-10-python.tar.gz")
        write(dest, identity, of_batches(download(url, archive, md5=md5)))


def make_from(source: Path, dest: Path, *, md5: str) -> None:
    """Make `dest` from a folder or archive of images, or from the official archive: the one with this `md5`."""
    if not source.exists():
        raise SourceError(f"No file or folder {source} (seen from {Path.cwd()}). Pass an existing one to --from.")
    if source.is_dir():
        if dest.resolve().is_relative_to(source.resolve()):
            raise SourceError(f"{dest} lies in {source}, the folder to copy. Choose another with --dest.")
        digest = hashlib.sha256()
        for key, content in of_layout(source):
            digest.update(f"{key}\0{hashlib.sha256(content).hexdigest()}\n".encode())
        identity, images = f"sha256:{digest.hexdigest()}", of_layout(source)
    else:
        found = md5_of(source)
        identity, images = f"md5:{found}", of_batches(source) if found == md5 else of_layout(source)
    if not is_complete(dest, identity):
        write(dest, identity, images)


def note_of(dest: Path) -> Path:
    """Where the source of `dest` is noted: beside it, since everything in it goes into the package."""
    return dest.with_name(dest.name + ".source.json")


def is_complete(dest: Path, identity: str) -> bool:
    """Say whether `dest` has been made from this source already.

    Raises:
        SourceError: It was made from another source or by other means, or has changed since.
    """
    if not dest.exists():
        return False
    if not note_of(dest).exists():
        raise SourceError(
            f"{dest} exists and was not made by this script. Choose another folder with --dest, "
            f"or build it as it is: reprokit package build {dest} NAME."
        )
    note = json.loads(note_of(dest).read_text())
    if note["source"] != identity:
        raise SourceError(
            f"{dest} was made from another source: {note['source']}, now {identity}. "
            "Delete it, or choose another folder with --dest."
        )
    if (found := count(dest)) != note["images"]:
        raise SourceError(
            f"{dest} holds {found:,} files, {note['images']:,} were written. Delete it, and run this again."
        )
    print(f"{dest} is complete", file=sys.stderr)
    return True


def write(dest: Path, identity: str, images: Iterable[Image]) -> None:
    """Write all images below a temporary folder, and rename it to `dest`. A killed attempt's folder is removed."""
    part = dest.with_name(dest.name + ".part")
    if part.exists():
        shutil.rmtree(part)
    written = 0
    folders: set[Path] = set()
    for key, content in images:
        path = part / key
        if path.parent not in folders:
            path.parent.mkdir(parents=True, exist_ok=True)
            folders.add(path.parent)
        path.write_bytes(content)
        written += 1
        if written % 10_000 == 0:
            print(f"{written:,} images written", file=sys.stderr)
    note_of(dest).write_text(json.dumps({"source": identity, "images": written}) + "\n")
    part.rename(dest)


def count(folder: Path) -> int:
    return sum(1 for path in folder.rglob("*") if path.is_file())


def describe(dest: Path) -> str:
    """Say what the folder holds. It is the version's message and so part of its top hash: no date, no path."""
    kinds = Counter(path.suffix.lower().lstrip(".") for path in dest.rglob("*") if path.is_file())
    images = " and ".join(kind.upper().replace("JPG", "JPEG") for kind in sorted(kinds))
    return f"CIFAR-10: {count(dest / 'train'):,} train and {count(dest / 'test'):,} test images, {images}"


def build(dest: Path, name: str, message: str, registry: str | None) -> int:
    """Run `reprokit package build` and return its exit code."""
    command = [sys.executable, "-m", "reprokit", "package", "build", str(dest), name, "-m", message]
    if registry is not None:
        command += ["--registry", registry]
    code = subprocess.run(command).returncode
    if code != 0:
        print(
            f"error: the folder {dest} is complete, but building the package ended with {code}. "
            f"Build it again with: {shlex.join(command)}",
            file=sys.stderr,
        )
    return code


if __name__ == "__main__":
    sys.exit(main())
