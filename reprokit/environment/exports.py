"""An environment in the formats of other tools, derived from its lock.

Sources: PEP 751 (pylock.toml); pip's requirements format; what `conda env export` writes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from reprokit.environment.archives import Archive
from reprokit.lock import EnvironmentLock

__all__ = ["as_environment_yml", "as_pylock", "as_requirements"]


def as_requirements(lock: EnvironmentLock, archives: Sequence[Archive], lost: Mapping[str, str]) -> str:
    """Return a requirements file with hashes, for `pip install --require-hashes --no-deps -r`."""
    lines = [_title(lock, "# "), *_lost(lock, lost)]
    lines += [f"{one.name}=={one.version} \\\n    --hash=sha256:{one.sha256}" for one in archives]
    return "\n".join(lines) + "\n"


def as_pylock(lock: EnvironmentLock, archives: Sequence[Archive], lost: Mapping[str, str]) -> str:
    """Return a `pylock.toml`."""
    system, _, machine = lock.platform.partition("-")
    marker = f"sys_platform == '{system}' and platform_machine == '{machine}'"
    lines = [_title(lock, "# "), *_lost(lock, lost)]
    lines += ['lock-version = "1.0"', f"environments = [{_quoted(marker)}]"]
    lines += [f"requires-python = {_quoted(f'=={lock.python}')}", 'created-by = "reprokit"']
    for one in archives:
        hashes = f"hashes = {{sha256 = {_quoted(one.sha256)}}}"
        lines += ["", "[[packages]]", f"name = {_quoted(one.name)}", f"version = {_quoted(one.version)}"]
        lines += [f"wheels = [{{name = {_quoted(one.file)}, url = {_quoted(one.url)}, {hashes}}}]"]
    return "\n".join(lines) + "\n"


def as_environment_yml(lock: EnvironmentLock, *, name: str) -> str:
    """Return an `environment.yml`: exact conda builds, and what pip installed, as `conda env export` writes it."""
    conda = [f"{one.name}={one.version}={one.build}" for one in lock.conda] or [f"python={lock.python}", "pip"]
    lines = [f"name: {_quoted(name)}", "channels:", "  - conda-forge", "dependencies:"]
    lines += [f"  - {one}" for one in conda]
    owned = {one.name.replace("_", "-") for one in lock.conda}
    pip = [f"{one.name}=={one.version}" for one in lock.pip if one.name not in owned]
    if pip:
        lines += ["  - pip:", *(f"      - {one}" for one in pip)]
    return "\n".join(lines) + "\n"


def _title(lock: EnvironmentLock, mark: str) -> str:
    return f"{mark}environment {lock.hash[:16]}: {lock.implementation} {lock.python}, {lock.platform}"


def _lost(lock: EnvironmentLock, lost: Mapping[str, str]) -> list[str]:
    versions = {one.name: one.version for one in lock.pip}
    return [f"# not here: {name} {versions[name]}: {why}" for name, why in lost.items()]


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)  # which is a basic string in TOML and YAML too
