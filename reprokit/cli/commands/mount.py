"""mount, unmount."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from reprokit.cli.face import Face, common, reference
from reprokit.core.refs import PackageRef
from reprokit.mount.fuse import Mounted, check_fuse, start
from reprokit.mount.fuse import mount as mount_package
from reprokit.mount.table import unmount as unmount_folder
from reprokit.packages.package import Package

__all__ = ["mount", "unmount"]


@click.command()
@reference("ref")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("-f", "--foreground", is_flag=True, help="Serve until Ctrl-C, instead of in the background.")
@common
def mount(face: Face, ref: str, folder: Path, foreground: bool) -> None:
    """Serve package version REF at FOLDER, read-only and verified, until it is unmounted.

    Any program can read there. FOLDER is empty or missing; a missing one is made, and removed with the mount.
    """
    check_fuse()
    registry = face.registry()

    def say(mounted: Mounted) -> None:
        plain = asdict(mounted) | {"folder": str(mounted.folder), "log": str(mounted.log) if mounted.log else None}
        face.result(plain, f"{mounted.name}@{mounted.top_hash[:16]} → {folder}: {mounted.entries:,} files, read-only")
        face.note(f"{'Ctrl-C' if foreground else f'`reprokit unmount {folder}`'} ends it.")
        if mounted.log:
            face.note(f"What cannot be read is said in {mounted.log}")

    if foreground:
        mount_package(Package.open(ref, registry=registry), folder, ready=say)
    else:
        say(start(PackageRef.parse(ref), folder, registry=registry))


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--lazy", is_flag=True, help="Detach it even while in use; who has a file open there reads on.")
@common
def unmount(face: Face, folder: Path, lazy: bool) -> None:
    """End the mount at FOLDER, also one whose process was killed."""
    version = unmount_folder(folder, lazy=lazy)
    face.result({"version": version, "folder": str(folder)}, f"{version} is no longer at {folder}")
