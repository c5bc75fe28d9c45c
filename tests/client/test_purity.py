"""What importing costs: a script's process gets the standard library, and start-up gets no framework."""

from __future__ import annotations

import subprocess
import sys

from tests.conftest import ROOT

_HEAVY = {"torch", "tensorflow", "keras", "sklearn", "pandas", "numpy", "boto3", "obstore", "git", "rich", "yaml"}


def _modules(code: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", f"import sys\n{code}\nprint(*sys.modules)"],
        capture_output=True, text=True, check=True, cwd=ROOT,
    )  # fmt: skip
    return {name.partition(".")[0] for name in done.stdout.split()}


def test_import_reprokit_loads_no_framework() -> None:
    assert not _HEAVY & _modules("import reprokit")


def test_the_client_is_standard_library_only_until_a_snapshot() -> None:
    third = _modules("import reprokit.client") - _modules("pass") - set(sys.stdlib_module_names)
    assert third <= {"reprokit"}


def test_version_loads_no_framework_and_nothing_of_ours_but_the_command_table() -> None:
    loaded = _modules("from reprokit.cli.main import cli\ncli.main(['--version'], standalone_mode=False)")
    assert not _HEAVY & loaded


def test_ls_loads_no_framework() -> None:
    loaded = _modules("import reprokit.cli.commands.ls")
    assert not (_HEAVY - {"yaml"}) & loaded, _HEAVY & loaded
