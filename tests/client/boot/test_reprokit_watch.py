"""Which mode sees what: each row of the table in docs/inputs.md, under `warn` and `deny`, in one process a mode."""

from __future__ import annotations

import itertools
import json
import os
import re
import sqlite3
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from reprokit.core.package_root import PACKAGE
from reprokit.numerics.script_environ import BENIGN, lay_bootstrap
from reprokit.recording.input_report import InputReport

SHM = "/dev/shm"  # noqa: S108 - watched as any other folder

# What a script does with a file F that is outside (its name ends so), by the row of the table that it stands for.
SEEN: dict[str, list[tuple[str, str]]] = {
    "a file that is opened, whatever its name": [
        (".csv", "open(F).read()"),
        (".pth", "open(F, 'rb').read()"),
        (".so", "open(F, 'rb').read()"),
        (".py", "exec(open(F).read())"),
        (".pyi", "pathlib.Path(F).read_text()"),
        (".bin", "io.FileIO(F).read()"),
        (".a", "os.read(os.open(F, os.O_RDONLY), 9)"),
        (".b", "os.read(posix.open(os.fsencode(F), os.O_RDONLY), 9)"),
        (".c", "shutil.copyfile(F, 'copied')"),
        (".d", "mmap.mmap(os.open(F, os.O_RDONLY), 0, access=mmap.ACCESS_READ)"),
        (".zip", "zipfile.ZipFile(F)"),
        (".e", "os.sendfile(os.open('sink', os.O_WRONLY | os.O_CREAT), os.open(F, os.O_RDONLY), 0, 9)"),
        (".f", "open(F, opener=lambda path, flags: os.open(path, flags)).read()"),
    ],
    "a link, in the tree or anywhere, that leads outside": [
        (".csv", "os.symlink(F, 'link'); open('link').read()"),
        (".dir", "os.symlink(os.path.dirname(F), 'out'); open('out/' + os.path.basename(F)).read()"),
        (".fd", "open(f'/proc/self/fd/{os.open(F, os.O_PATH)}').read()"),
        (".back", "os.mkdir('d'); N = os.path.basename(F); open(f'd/{N}', 'w').close(); open(f'd/{N}').close(); "
         "shutil.rmtree('d'); os.symlink(os.path.dirname(F), 'd'); open(f'd/{N}').read()"),
        (".link", "os.link(F, F + '2'); open(F + '2').read()"),
    ],
    "`/dev/shm`": [
        (SHM, "open(F).read()"),
        (f"{SHM}/b", "multiprocessing.shared_memory.SharedMemory(os.path.basename(F))"),
    ],
    "a file that is opened to be changed, or was added to": [
        (".r+", "open(F, 'r+').read()"),
        (".a", "open(F, 'a').write('x'); open(F).read()"),
        (".a+", "h = open(F, 'a+'); h.seek(0); h.read()"),
        (".npy", "import numpy; numpy.memmap(F, 'u1')"),
        (".utime", "os.utime(F); open(F).read()"),
        (".moved", "os.rename(F, F + '2'); open(F + '2').read()"),
    ],
    "`sqlite3`": [
        (".db", "sqlite3.connect(F)"),
        (".db2", "sqlite3.connect(f'file:{F}?mode=ro', uri=True)"),
    ],
    "the same path once more": [(".twice", "twice(F)")],
    "a package or tree of the cache that is not an input": [("/cache", "open(F).read()")],
    "`os.open(dir_fd=…)`": [
        (".at", "os.open(os.path.basename(F), os.O_RDONLY, dir_fd=os.open(os.path.dirname(F), os.O_RDONLY))"),
    ],
    "a module that is imported from elsewhere, `runpy`, `ctypes`": [
        ("_a.py", "sys.path.insert(0, os.path.dirname(F)); __import__(os.path.basename(F)[:-3])"),
        ("_b.py", "__import__('runpy').run_path(F)"),
        ("_c.so", "__import__('ctypes').CDLL(F)"),
        ("_d.py", "importlib.util.spec_from_file_location('m', F).loader.get_code('m')"),
    ],
    "a thread, a fork, a spawned process of `multiprocessing`": [
        (".thread", "elsewhere(lambda: open(F).read(), 'thread')"),
        (".fork", "elsewhere(lambda: open(F).read(), 'fork')"),
        (".python", "subprocess.run([sys.executable, '-c', f'open({F!r}).read()'], check=True, stderr=-3)"),
        (".script.py", "subprocess.run([sys.executable, F], check=True, stderr=-3)"),
    ],
    "a file that a program's command line names": [
        (".cat", "subprocess.run(['cat', F], check=True, stdout=-3)"),
        (".shell", "subprocess.run(f'true | wc -c < {F}', check=True, shell=True, stdout=-3)"),
        (".system", "assert not os.system(f'cat {F} > /dev/null')"),
        (".pattern", "subprocess.run(f'cat {F[:-1]}*', check=True, shell=True, stdout=-3)"),
        (".home", "subprocess.run(f'cat $PLACE/{os.path.basename(F)}', check=True, shell=True, stdout=-3)"),
        (".added", "os.system(f'echo x >> {F}'); open(F).read()"),
        (".dd", "subprocess.run(['dd', f'if={F}', 'of=/dev/null'], check=True, stderr=-3)"),
        (".bin-program", "os.chmod(F, 0o755); subprocess.run([F])"),
        (".spawn", "assert not os.waitpid(os.posix_spawn('/bin/cat', ['cat', F], {}), 0)[1]"),
    ],
}  # fmt: skip

# What is named and never refused, and what no mode but the hermetic one sees.
FOLDERS = [
    "os.listdir(F)",
    "list(os.scandir(F))",
    "list(pathlib.Path(F).iterdir())",
    "assert __import__('glob').glob(F + '/*')",
]
UNSEEN = {
    "what another program reads by itself": [
        "subprocess.run(['sh', '-c', f'x={F[:-1]}; cat ${{x}}{F[-1]}'], check=True)"
    ],
    "what native code opens (HDF5, Arrow, TensorFlow's and XGBoost's readers, OpenCV), `python -I`, `-S`": [
        "import ctypes; assert ctypes.CDLL(None).open(F.encode(), 0) > 0",
        "subprocess.run([sys.executable, '-I', '-c', f'open({F!r}).read()'], check=True, stderr=-3)",
    ],
}

# What a run does that is nobody's business.
QUIET = """
    import importlib.metadata, pkgutil; list(pkgutil.iter_modules(['..']))
    list(importlib.metadata.distributions(path=['../outside']))
    import glob, tempfile, locale, zoneinfo, ssl, ctypes.util, platform, multiprocessing.shared_memory
    os.listdir(); os.listdir('data'); os.listdir('folder'); glob.glob('data/*')
    open('written', 'w').write('x'); open('written').read(); open('data/in').read()
    made = tempfile.mkdtemp()
    open(f'{made}/a', 'w').write('x'); open(f'{made}/a', 'a').write('y'); open(f'{made}/a').read()
    os.utime(f'{made}/a', (1, 1)); open(f'{made}/a').read()
    subprocess.run(['sh', '-c', f'echo x > {made}/b'], check=True); open(f'{made}/b').read()
    os.rename(f'{made}/b', f'{made}/c'); open(f'{made}/c').read(); os.listdir(made)
    subprocess.run([sys.executable, '-c', f'import os; open("{made}/d", "w").write("x"); os.utime("{made}/d", (1, 1))'])
    open(f'{made}/d').read()
    db = sqlite3.connect(f'{made}/db'); db.execute('create table t (x)'); db.close(); sqlite3.connect(f'{made}/db')
    open('/proc/self/status').read(); open('/etc/ld.so.cache', 'rb').read();
    zoneinfo.ZoneInfo('UTC'); locale.setlocale(0, 'C')
    ssl.create_default_context(); ctypes.util.find_library('c'); ctypes.CDLL(None); platform.processor()
    memory = multiprocessing.shared_memory.SharedMemory(create=True, size=9); memory.close(); memory.unlink()
    shutil.rmtree(made); subprocess.run(['ls', '/'], stdout=-3); os.system('echo x > /dev/null; echo y >> new; cat new')
    json.loads(open(json.__file__).read()[:0] or '1')
"""

SCRIPT = """\
import importlib.util, multiprocessing.shared_memory, io, json, mmap, os, pathlib, posix, shutil, sqlite3, subprocess
import sys, threading, zipfile

def elsewhere(read, how):
    caught = []
    def attempt():
        try:
            read()
        except OSError as error:
            caught.append(error)
    if how == "thread":
        thread = threading.Thread(target=attempt)
        thread.start(); thread.join()
    else:
        child = os.fork()
        if not child:
            attempt(); os._exit(bool(caught))
        if os.waitpid(child, 0)[1]:
            caught.append(PermissionError("reprokit: in the child"))
    if caught:
        raise caught[0]

def twice(path):
    for last in (False, True):
        try:
            open(path).read()
        except PermissionError:
            if last:
                raise

QUIET
told = {}
for number, (F, does) in enumerate(json.loads(sys.stdin.read())):
    place = f"row{number}"
    os.mkdir(place); os.chdir(place)
    try:
        exec(does)
        told[F] = "read"
    except (PermissionError, subprocess.CalledProcessError) as error:
        told[F] = "refused" if "reprokit" in str(error) or hasattr(error, "cmd") else str(error)
    except Exception as error:
        told[F] = f"failed: {error!r}"
    os.chdir("..")
print(json.dumps(told))
"""


class Ground:
    """A workspace with an input, a scratch folder, and files outside that are older than the run."""

    def __init__(self, base: Path) -> None:
        self.base, self.workspace, self.outside = base, base / "workspace", base / "outside"
        self.rows: dict[str, list[str]] = {}
        self.does: list[tuple[str, str]] = []
        for folder in (self.outside, base / "scratch", base / "cache/trees/a", base / "cache/trees/b", self.workspace):
            folder.mkdir(parents=True)
        (self.workspace / "data").mkdir()
        (base / "cache/trees/a/in").write_text("1")
        (self.workspace / "data/in").symlink_to(base / "cache/trees/a/in")
        (self.workspace / "folder").symlink_to(base / "cache/trees/a")
        os.utime(base / "cache/trees/a", (1, 1))
        self.shared = Path(SHM) / f"reprokit-test-{os.getpid()}-{base.name}"
        for number, (row, cases) in enumerate(SEEN.items()):
            for name, does in cases:
                file = self._file(f"f{number}{name}", name)
                self.rows.setdefault(row, []).append(str(file))
                self.does.append((str(file), does))
        self.folders = [str(self.outside / f"folder{number}") for number in range(len(FOLDERS))]
        self.unseen = [str(self._file(f"u{number}", "")) for number in range(sum(map(len, UNSEEN.values())))]
        self.does += zip(self.folders, FOLDERS, strict=True)
        self.does += zip(self.unseen, itertools.chain.from_iterable(UNSEEN.values()), strict=True)
        for folder in self.folders:
            Path(folder, "x").mkdir(parents=True)
            os.utime(folder, (1, 1))

    def forget(self) -> None:
        for file in self.shared.parent.glob(f"{self.shared.stem}*"):
            file.unlink()

    def _file(self, name: str, kind: str) -> Path:
        where = {SHM: self.shared, f"{SHM}/b": self.shared.with_suffix(".b")}
        where["/cache"] = self.base / "cache/trees/b/x"
        file = where.get(kind, self.outside / name)
        if ".db" in kind:
            sqlite3.connect(file).execute("create table t (x)").connection.commit()
        elif kind == ".bin-program":
            file.write_text("#!/bin/sh\n")
        file.exists() or file.write_text("1\n")
        old = file.stat().st_mtime_ns - 10**12
        os.utime(file, ns=(old, old))
        return file

    def run(self, policy: str, around: Callable[..., list[str]] = lambda command: command) -> tuple[Any, InputReport]:
        """Do all rows in one process, and return what came of each, and the report."""
        scratch = self.base / "scratch"
        (scratch / "context.json").write_text("{}")
        report = self.base / f"report-{policy}"
        report.touch()
        variables = {
            "PLACE": str(self.outside), "PATH": os.environ["PATH"], "PYTHONPATH": f"{lay_bootstrap(scratch)}",
            "REPROKIT_RUN_ID": "r", "REPROKIT_INPUTS": policy, "REPROKIT_INPUTS_REPORT": str(report),
            "REPROKIT_CONTEXT": str(scratch / "context.json"),
            "REPROKIT_OWN": f"{self.workspace}:{self.base}/cache/trees/a:{scratch}:{PACKAGE}",
            "REPROKIT_ALLOWED": ":".join([*BENIGN, *(p for p in sys.path if "site-packages" in p)]),
            "REPROKIT_TREE": f"{self.workspace}:{self.workspace}/data/in",
        }  # fmt: skip
        done = subprocess.run(
            around([sys.executable, "-c", SCRIPT.replace("QUIET", textwrap.dedent(QUIET))]), cwd=self.workspace,
            env=variables, input=json.dumps(self.does),
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1] if done.stdout else "null"), InputReport.read(report)


@pytest.fixture(scope="module", params=["warn", "deny"])
def seen(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    ground = Ground(tmp_path_factory.mktemp(request.param))
    try:
        told, report = ground.run(request.param)
    finally:
        ground.forget()
    return request.param, ground, told, report


@pytest.mark.parametrize("row", SEEN)
def test_a_row_of_the_table_holds(seen: Any, row: str) -> None:
    policy, ground, told, report = seen
    for file in ground.rows[row]:
        assert {file, file + "2"} & {*report.undeclared, *report.refused}, f"{file} was read unnoticed: {told[file]}"
        assert (told[file] == "refused") == (policy == "deny"), (file, told[file])
        assert bool({file, file + "2"} & {*report.refused}) == (policy == "deny")
        assert bool({file, file + "2"} & {*report.undeclared}) == (policy == "warn"), "what was refused was not read"


def test_nothing_else_is_named(seen: Any) -> None:
    _, ground, _, report = seen
    own = {*itertools.chain.from_iterable(ground.rows.values()), *(f"{folder}/" for folder in ground.folders)}
    assert [
        name for name in [*report.undeclared, *report.refused] if name not in own and name.removesuffix("2") not in own
    ] == []
    names = {Path(name).name for name in report.programs}
    assert "ls" in names and not {"null", "new"} & names


def test_folders_are_named_what_native_code_reads_is_not_and_its_program_is(seen: Any) -> None:
    _, ground, told, report = seen
    for file in ground.folders:
        assert (told[file], f"{file}/" in report.undeclared, file in report.refused) == ("read", True, False)
    for file in ground.unseen:
        assert (told[file], file in report.undeclared) == ("read", False)
    assert {"cat", *(Path(os.path.realpath(one)).name for one in ("/bin/sh", sys.executable))} <= {
        Path(name).name for name in report.programs
    }


def test_every_row_stands_in_the_documents() -> None:
    table = (PACKAGE.parent / "docs/inputs.md").read_text()
    rows = re.findall(r"^\| (.+?) \|", table, flags=re.MULTILINE)
    assert {*SEEN, *UNSEEN, "the names in a folder"} <= set(rows)
