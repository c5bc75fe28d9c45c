"""Which variables the user's code reads, in real processes that start as a run's do."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from reprokit.numerics.script_environ import lay_bootstrap

TOKEN = "ab" * 16

WAYS = {
    "a key": 'os.environ["NAME"]',
    "get": 'os.environ.get("NAME", 1)',
    "getenv": 'os.getenv("NAME")',
    "in": '"NAME" in os.environ',
    "setdefault": 'os.environ.setdefault("NAME", "1")',
    "pop": 'os.environ.pop("NAME")',
    "bytes": 'os.environb[b"NAME"]',
    "getenvb": 'os.getenvb(b"NAME")',
    "expandvars": 'os.path.expandvars("$NAME/x")',
    "a template": 'string.Template("$NAME").substitute(os.environ)',
    "a format": '"{NAME}".format_map(os.environ)',
    "an item getter": 'operator.itemgetter("NAME")(os.environ)',
    "a chain": 'collections.ChainMap(os.environ)["NAME"]',
    "a pattern": "take(os.environ)",
    "a filter": '[os.environ[k] for k in os.environ if k == "NAME"]',
    "a thread": 'thread(lambda: os.environ["NAME"])',
    "a fork": 'fork(lambda: os.environ["NAME"])',
    "a child": 'subprocess.run([sys.executable, "-c", "import os; os.environ[\'NAME\']"])',
    "a child of a pool": "pool()",
    "a shell": 'subprocess.run("echo $NAME > /dev/null", shell=True)',
    "os.system": 'os.system("echo ${NAME} > /dev/null")',
    "exec of a shell": "fork(lambda: os.execv('/bin/sh', ['sh', '-c', 'echo $NAME > /dev/null']))",
    "a spawned shell": "os.posix_spawn('/bin/sh', ['sh', '-c', 'echo $NAME > /dev/null'], os.environ); os.wait()",
    "a module of the user's": "theirs.read()",
    "exec": "exec(\"import os; os.environ['NAME']\")",
}
SCRIPT = """\
import collections, multiprocessing, operator, os, string, subprocess, sys, threading
import theirs

def thread(do):
    one = threading.Thread(target=do); one.start(); one.join()

def fork(do):
    if (child := os.fork()) == 0:
        do(); os._exit(0)
    os.waitpid(child, 0)

def take(environ):
    match environ:
        case {"NAME": found}:
            return found

def read(_=None):
    return os.environ["NAME"]

def pool():
    with multiprocessing.get_context("spawn").Pool(1) as workers:
        workers.map(read, [1])

if __name__ == "__main__":
    WHAT
"""


class Process:
    """What a script's process notes."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.boot = lay_bootstrap(base)

    def notes(self, script: str, *, expect: int = 0, policy: str = "warn", **variables: str) -> list[str]:
        """Run a script, and return the lines of its notes."""
        asked = self.base / "asked.txt"
        asked.unlink(missing_ok=True)
        (self.base / "train.py").write_text(script)
        told = {
            "PATH": os.environ["PATH"], "PYTHONPATH": str(self.boot), "REPROKIT_RUN_ID": "r", "REPROKIT_TOKEN": TOKEN,
            "REPROKIT_INPUTS": policy, "REPROKIT_INPUTS_REPORT": str(self.base / "inputs.txt"),
            "REPROKIT_ALLOWED": str(self.base), "REPROKIT_ASKED": str(asked), "HOME": str(self.base),
        }  # fmt: skip
        done = subprocess.run(
            [sys.executable, str(self.base / "train.py")], env={**told, **variables}, cwd=self.base,
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        self.error = done.stderr
        assert done.returncode == expect, done.stderr
        return asked.read_text().splitlines() if asked.exists() else []


@pytest.fixture
def process(tmp_path: Path) -> Process:
    return Process(tmp_path)


def digest(value: str) -> str:
    return hashlib.blake2s(value.encode(), key=bytes.fromhex(TOKEN), digest_size=16).hexdigest()


def test_a_variable_that_is_read_is_noted_once_by_its_name(process: Process) -> None:
    (process.base / "theirs.py").write_text('import os\ndef read():\n    return os.environ["NAME_THEIRS"]\n')
    names = {way: f"NAME_{number}" for number, way in enumerate(WAYS)}
    names["a module of the user's"], names["a child of a pool"] = "NAME_THEIRS", "NAME_POOL"
    code = "\n    ".join(what.replace("NAME", names[way]) for way, what in WAYS.items())
    script = SCRIPT.replace("WHAT", code)
    script = script.replace('["NAME"]', '["NAME_POOL"]').replace(
        '{"NAME": found}', f'{{"{names["a pattern"]}": found}}'
    )
    notes = process.notes(script, NAME="0.5", OTHER="1", **dict.fromkeys(names.values(), "0.5"))
    named = sorted(line for line in notes if line.startswith("V "))
    assert named == sorted(f"V {digest('0.5')} {name}" for name in names.values())
    assert "0.5" not in "\n".join(notes)


@pytest.mark.parametrize(
    ("code", "notes"),
    [
        ("dict(os.environ)", ["W os.environ"]),
        ("os.environ.copy()", ["W os.environ"]),
        ("{**os.environ, 'A': '1'}", ["W os.environ"]),
        ("{k: v for k, v in os.environ.items()}", ["W os.environ"]),
        ("os.environ | {}", ["W os.environ"]),
        ("sorted(os.environ)", ["W os.environ"]),
        ("import subprocess; subprocess.run(['/bin/true'])", ["W true"]),
        ("import subprocess; subprocess.run(['/bin/true'], env={})", []),
        ("os.environ['OWN'] = '1'; os.environ['OWN']", []),
        ("import subprocess; subprocess.run([__import__('sys').executable, '-c', 'pass'])", []),
        ("import tempfile, urllib.request; tempfile.gettempdir(); urllib.request.getproxies()", []),
        ("os.environ.get('NOT_THERE')", ["V - NOT_THERE"]),
        ("repr(os.environ); len(os.environ)", []),
    ],
)  # fmt: skip
def test_what_is_taken_whole_is_no_reading_by_name_and_what_is_set_here_none(
    code: str, notes: list[str], process: Process
) -> None:
    assert process.notes(f"import os\n{code}\n", NAME="0.5") == notes


def test_what_libraries_read_for_themselves_is_not_noted(process: Process) -> None:
    library = process.base / "site-packages" / "lib"
    library.mkdir(parents=True)
    (library / "__init__.py").write_text('import os\ndef read():\n    return os.environ["NAME"]\n')
    script = f"import sys; sys.path.insert(0, {str(library.parent)!r})\nimport lib; lib.read()\n"
    assert process.notes(script, NAME="0.5") == []
    assert process.notes("import numpy\n", NAME="0.5") == []


def test_what_is_hidden_is_missed_in_words_that_say_how_to_declare_it(process: Process) -> None:
    process.notes("import os\nos.environ['LR']\n", expect=1, policy="deny")
    assert "KeyError" in process.error or "_UndeclaredError" in process.error
    assert (
        "with `inputs: deny` a run has no variables of the shell. Declare it under `execution.variables`"
        in process.error
    )
    assert process.notes("import os\ntry: os.environ['LR']\nexcept KeyError: pass\n", policy="deny") == ["V - LR"]
    assert process.notes("import os\nos.environ['LR']\n", policy="off", LR="1") == []
