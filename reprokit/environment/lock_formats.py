"""An environment in the formats of other tools, derived from its lock.

Sources: PEP 751 (pylock.toml); pip's requirements format; what `conda env export` writes.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence

from reprokit.schema.lock import Archive, EnvironmentLock

__all__ = ["as_environment_yml", "as_explicit", "as_pylock", "as_requirements"]

_SHORT = re.compile(r"\Ahttps://conda\.anaconda\.org/(?=[\w-]+\Z)")


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
        hashes = f"hashes = {{sha256 = {_quoted(str(one.sha256))}}}"
        lines += ["", "[[packages]]", f"name = {_quoted(one.name)}", f"version = {_quoted(one.version)}"]
        lines += [f"wheels = [{{name = {_quoted(str(one.file))}, url = {_quoted(one.url)}, {hashes}}}]"]
    return "\n".join(lines) + "\n"


def as_environment_yml(lock: EnvironmentLock, archives: Sequence[Archive], *, name: str) -> str:
    """Return an `environment.yml`: exact conda builds, and what pip installed, as `conda env export` writes it."""
    conda = [f"{one.name}={one.version}={one.build}" for one in lock.conda] or [f"python={lock.python}", "pip"]
    lines = [f"name: {_quoted(name)}", "channels:"]
    lines += [f"  - {one}" for one in _channels(lock, archives) or ["conda-forge"]]
    lines += ["dependencies:", *(f"  - {one}" for one in conda)]
    pip = [f"{one.name}=={one.version}" for one in lock.pip]
    if pip:
        lines += ["  - pip:", *(f"      - {one}" for one in pip)]
    return "\n".join(lines) + "\n"


def as_explicit(lock: EnvironmentLock, archives: Sequence[Archive]) -> tuple[str, dict[str, str]]:
    """Return the list that `conda create --file` installs as it is, and why packages are not in it, by name."""
    known = {one.name: one for one in archives if one.kind == "conda"}
    subdir = next((one.subdir for one in lock.conda if one.subdir != "noarch"), "noarch")
    lines = [_title(lock, "# "), "# conda create --name NAME --file THIS_FILE", f"# platform: {subdir}"]
    lost = {one.name: "nobody noted where it came from" for one in lock.conda if one.name not in known}
    lost |= {one.name: "pip installed it; see --as requirements" for one in lock.pip}
    lines += [f"# not here: {name}: {why}" for name, why in lost.items()]
    lines += ["@EXPLICIT", *(f"{one.url}#sha256:{one.sha256}" for one in known.values())]
    return "\n".join(lines) + "\n", lost


def _channels(lock: EnvironmentLock, archives: Sequence[Archive]) -> list[str]:
    """Return the channels of the conda packages, those of most packages first."""
    subdirs = {one.name: one.subdir for one in lock.conda}
    found = Counter(
        one.url.removesuffix(f"/{subdirs[one.name]}/{one.file}")
        for one in archives
        if one.kind == "conda" and one.name in subdirs
    )
    return [_SHORT.sub("", url) for url, _ in found.most_common()]


def _title(lock: EnvironmentLock, mark: str) -> str:
    return f"{mark}environment {lock.hash[:16]}: {lock.implementation} {lock.python}, {lock.platform}"


def _lost(lock: EnvironmentLock, lost: Mapping[str, str]) -> list[str]:
    versions = {one.name: one.version for one in lock.pip}
    return [f"# not here: {name} {versions[name]}: {why}" for name, why in lost.items()]


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)  # which is a basic string in TOML and YAML too
