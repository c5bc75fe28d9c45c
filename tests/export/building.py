"""Images built by buildah without an engine, a registry or rights: chroot isolation, and a base made of this Python."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

__all__ = ["Buildah", "base_root"]

_LEFT_OUT = shutil.ignore_patterns(
    "site-packages", "dist-packages", "__pycache__", "test", "tests", "idlelib", "tkinter", "turtledemo", "config-*"
)


class Buildah:
    """buildah with a storage of its own."""

    def __init__(self, folder: Path) -> None:
        self._storage = folder / "storage"
        self._run_folder = folder / "run"
        alone = ["unshare", "--net"]  # without any network, where the host lets us
        self._alone = (
            alone if subprocess.run([*alone, "true"], capture_output=True, check=False).returncode == 0 else []
        )

    @property
    def command(self) -> list[str]:
        where = ["--storage-driver", "vfs", "--root", str(self._storage), "--runroot", str(self._run_folder)]
        return [*self._alone, "buildah", *where]

    def __call__(self, *arguments: str, expect: int = 0, patience: int = 300) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [*self.command, *arguments], capture_output=True, text=True, timeout=patience, check=False
        )
        assert done.returncode == expect, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def build(self, context: Path, name: str, *options: str, expect: int = 0) -> subprocess.CompletedProcess[str]:
        return self(
            "bud", "--isolation", "chroot", "--network", "host", "--pull-never", *options, "-t", name, str(context),
            expect=expect,
        )  # fmt: skip

    def run(self, image: str, *command: str, expect: int = 0) -> subprocess.CompletedProcess[str]:
        container = self("from", "--pull-never", image).stdout.strip()
        return self("run", "--isolation", "chroot", container, "--", *command, expect=expect)

    def command_of(self, image: str) -> list[str]:
        """Return what the image runs when nothing else is asked of it."""
        config = json.loads(self("inspect", "--type", "image", image).stdout)["OCIv1"]["config"]
        return [*config.get("Entrypoint", []), *config.get("Cmd", [])]

    def remove(self) -> None:
        """Remove the storage, which holds a copy of the whole file system for each layer."""
        self("rm", "--all")
        self("rmi", "--all", "--force")
        shutil.rmtree(self._storage, ignore_errors=True)
        shutil.rmtree(self._run_folder, ignore_errors=True)


def base_root(folder: Path) -> None:
    """Lay out the smallest root in which this Python starts: it, its library, and what they link to."""
    python = Path(getattr(sys, "_base_executable", sys.executable)).resolve()
    standard = {Path(sysconfig.get_path(name, vars={"base": sys.base_prefix, "platbase": sys.base_exec_prefix}))
                for name in ("stdlib", "platstdlib")}  # fmt: skip
    for library in standard:
        shutil.copytree(library, folder / library.relative_to("/"), ignore=_LEFT_OUT, dirs_exist_ok=True)
    binaries = [python, *(file for library in standard for file in library.glob("lib-dynload/*.so"))]
    for file in {python, *_linked(binaries)}:
        place = folder / file.relative_to("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, place)
    for name in ("usr/local/bin", "tmp", "etc", "proc", "sys", "dev"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / "tmp").chmod(0o1777)
    certificates = Path("/etc/ssl/certs/ca-certificates.crt")  # py-rattler does not start without any
    if certificates.is_file():
        (folder / certificates.parent.relative_to("/")).mkdir(parents=True)
        shutil.copy(certificates, folder / certificates.relative_to("/"))
    (folder / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
    if not (folder / "usr/local/bin/python3").exists():
        (folder / "usr/local/bin/python3").symlink_to(python)


def _linked(binaries: list[Path]) -> Iterator[Path]:
    """Yield the libraries that binaries link to, where the loader looks for them; and those that most wheels need."""
    done = subprocess.run(["ldd", *map(str, binaries)], capture_output=True, text=True, check=False)
    for path in set(re.findall(r"(?:=> |^\s+)(/\S+) \(0x", done.stdout, re.MULTILINE)):
        yield Path(path)
    known = subprocess.run(["/sbin/ldconfig", "-p"], capture_output=True, text=True, check=True).stdout
    for name in ("libstdc++.so.6", "libgcc_s.so.1", "libm.so.6", "librt.so.1", "libpthread.so.0", "libdl.so.2"):
        found = re.search(rf"{re.escape(name)} \(.*x86-64.*\) => (\S+)", known)
        if found:
            yield Path(found[1])
