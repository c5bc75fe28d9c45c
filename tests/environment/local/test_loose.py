"""What Python executes of an environment and no package answers for is seen, and honest environments are left alone."""

from __future__ import annotations

import importlib.util
import marshal
import os
import py_compile
import sys
import sysconfig
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from reprokit.environment.capture import OURS, Captured, capture
from reprokit.environment.local.interpreter import Interpreter
from reprokit.environment.realise import realise
from reprokit.errors import EnvironmentMismatchError
from tests.environment.making import digest

RATE = "rate = 0.1\n"
FILES = {
    "demo/__init__.py": "",
    "demo/rate.py": RATE,
    "space/part/one.py": "one = 1\n",
    "demo-hook.pth": "import demo\n",
}
TAG = sys.implementation.cache_tag
COMMAND = "#!/old/python\nimport demo\n"


class Here:
    """An environment of one package, and a cache."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.prefix = base / "env"
        self.site = self.prefix / "lib" / "python3" / "site-packages"
        self.cache: Path | None = base / "cache"
        (self.prefix / "bin").mkdir(parents=True)
        (self.prefix / "library").mkdir()
        (self.prefix / "pyvenv.cfg").write_text("")
        self.command = self.prefix / "bin" / "demo"
        self.command.write_text(COMMAND)
        self.install("demo", {**FILES, "../../../bin/demo": COMMAND})
        self.interpreter = replace(
            Interpreter.here(),
            prefix=self.prefix,
            places=(str(self.site),),
            sites=(str(self.site),),
            library=str(self.prefix / "library"),
        )

    def install(self, name: str, files: dict[str, str], *notes: tuple[str, str]) -> None:
        """Install a package as pip does: files, bytecode, notes, RECORD."""
        info = f"{name}-1.0.dist-info"
        rows = []
        for path, text in {**files, f"{info}/METADATA": f"Name: {name}\nVersion: 1.0\n"}.items():
            file = self.write(path, text)
            rows.append(f"{path},{digest(text.encode())},{len(text)}")
            if path.endswith(".py"):
                rows.append(f"{self.compile(file).relative_to(self.site)},,")
        for note, text in (("INSTALLER", "pip\n"), *notes):
            self.write(f"{info}/{note}", text)
            rows.append(f"{info}/{note},,")
        self.write(f"{info}/RECORD", "\n".join([*rows, f"{info}/RECORD,,", ""]))

    def write(self, path: str, text: str) -> Path:
        file = self.site / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        return file

    def compile(self, file: Path) -> Path:
        return Path(str(py_compile.compile(str(file), doraise=True)))

    def look(self) -> Captured:
        return capture(self.cache, interpreter=self.interpreter)

    def loose(self) -> list[str]:
        return [one.path for one in self.look().lock.loose]


@pytest.fixture
def here(tmp_path: Path) -> Here:
    return Here(tmp_path)


def _bytecode(here: Here, source: str = "demo/rate.py") -> Path:
    return Path(importlib.util.cache_from_source(str(here.site / source)))


def _edit_bytecode(here: Here) -> None:
    """Have a module say another number, with the header as it was: Python believes it."""
    file = _bytecode(here)
    code = compile("rate = 0.9\n", str(here.site / "demo/rate.py"), "exec")
    file.write_bytes(file.read_bytes()[:16] + marshal.dumps(code))


def _edit_bytecode_of_a_run(here: Here) -> None:
    here.compile(here.site / "demo/rate.py")  # as a run does, after the installation
    assert here.loose() == []
    _edit_bytecode(here)


def _bytecode_that_is_never_compared(here: Here) -> None:
    other = here.base / "other.py"
    other.write_text("rate = 0.9\n")
    unchecked = py_compile.PycInvalidationMode.UNCHECKED_HASH
    py_compile.compile(str(other), cfile=str(_bytecode(here)), invalidation_mode=unchecked)


def _crash_of_bytecode(here: Here) -> None:
    file = _bytecode(here)
    file.write_bytes(file.read_bytes()[:16] + b"\xe3\xff\xff")


def _link(here: Here) -> None:
    (here.base / "elsewhere").mkdir()
    (here.base / "elsewhere" / "__init__.py").write_text("")
    (here.site / "linked").symlink_to(here.base / "elsewhere")


def _many(here: Here) -> None:
    for number in range(150):
        here.write(f"demo/made{number}.py", "")


def _sourceless(here: Here) -> None:
    py_compile.compile(str(here.site / "demo/rate.py"), cfile=str(here.site / "demo" / "ghost.pyc"))


CACHED = f"site-packages/demo/__pycache__/rate.{TAG}.pyc"
CHANGES: dict[str, tuple[Callable[[Here], object], list[str]]] = {
    "a module": (lambda here: here.write("helper.py", "x = 1\n"), ["site-packages/helper.py"]),
    "a module in a package": (lambda here: here.write("demo/more.py", ""), ["site-packages/demo/more.py"]),
    "a package": (lambda here: [here.write(f"own/{n}.py", "") for n in "ab"], ["site-packages/own"]),
    "a part of a namespace": (lambda here: here.write("space/other/two.py", ""), ["site-packages/space/other/two.py"]),
    "an extension module": (lambda here: here.write("fast.abi3.so", ""), ["site-packages/fast.abi3.so"]),
    "a library beside one": (lambda here: here.write("demo/libx.so.1", ""), ["site-packages/demo/libx.so.1"]),
    "a .pth file with code": (lambda here: here.write("x.pth", "import os; x=1\n"), ["site-packages/x.pth"]),
    "sitecustomize": (lambda here: here.write("sitecustomize.py", ""), ["site-packages/sitecustomize.py"]),
    "usercustomize": (lambda here: here.write("usercustomize.py", ""), ["site-packages/usercustomize.py"]),
    "sitecustomize beside the library": (
        lambda here: (here.prefix / "library" / "sitecustomize.py").write_text("import random\n"),
        ["library/sitecustomize.py"],
    ),
    "a linked folder": (_link, ["site-packages/linked"]),
    "many modules in a package": (_many, ["site-packages/demo"]),
    "bytecode without a source": (_sourceless, ["site-packages/demo/ghost.pyc"]),
    "edited bytecode": (_edit_bytecode, [CACHED]),
    "edited bytecode of a run": (_edit_bytecode_of_a_run, [CACHED]),
    "bytecode that is never compared": (_bytecode_that_is_never_compared, [CACHED]),
    "bytecode that cannot be read": (_crash_of_bytecode, [CACHED]),
    "an edited command": (lambda here: here.command.write_text(f"{COMMAND}#\n"), ["bin/demo"]),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_no_package_answers_for_is_a_difference(here: Here, change: str) -> None:
    before = here.look()
    assert before.lock.loose == [] and before.remarks() == []
    act, expected = CHANGES[change]
    act(here)
    after = here.look()
    assert [one.path for one in after.lock.loose] == expected
    assert [item.name for item in before.lock.changes_to(after.lock)] == expected
    assert before.lock.hash != after.lock.hash
    (remark,) = after.remarks()
    assert str(after.loose[0].path) in remark
    assert remark.endswith("remove it, install its package again, or put it into the repository.")
    assert here.look().lock == after.lock  # from what is remembered


def _debris(here: Here) -> None:
    here.write("~emo/old.py", "")
    here.write("~emo-0.9.dist-info/METADATA", "")


def _stale_bytecode(here: Here) -> None:
    file = _bytecode(here)
    file.write_bytes(file.read_bytes()[:12] + b"\1\0\0\0" + b"anything")  # of a source of another size


def _virtualenv(here: Here) -> None:
    (here.prefix / "pyvenv.cfg").write_text("uv = 0.9\n")
    here.write("_virtualenv.py", "import sys\n")
    here.write("_virtualenv.pth", "import _virtualenv")


HONEST: dict[str, Callable[[Here], object]] = {
    "bytecode that a run wrote": lambda here: here.compile(here.site / "demo/rate.py"),
    "optimised bytecode": lambda here: py_compile.compile(str(here.site / "demo/rate.py"), optimize=2),
    "bytecode of pytest": lambda here: here.write(f"demo/__pycache__/rate.{TAG}-pytest-9.pyc", "x"),
    "bytecode of another Python": lambda here: here.write("demo/__pycache__/rate.cpython-20.pyc", "x"),
    "bytecode that nobody believes": _stale_bytecode,
    "bytecode of a module that is gone": lambda here: here.write(f"__pycache__/x.{TAG}.pyc", ""),
    "data": lambda here: here.write("demo/table.json", "{}"),
    "a note": lambda here: here.write("README.txt", "x"),
    "weights": lambda here: here.write("demo/weights.pth", "import os"),
    "what pip could not remove": _debris,
    "what virtualenv and uv make": _virtualenv,
    "a .pth file without code": lambda here: here.write("x.pth", "# nothing\nnowhere\n"),
    "a hidden folder": lambda here: here.write(".ipynb_checkpoints/x.py", ""),
    "a second package": lambda here: here.install("two", {"two.py": ""}, ("REQUESTED", ""), ("direct_url.json", "{}")),
}


@pytest.mark.parametrize("addition", HONEST)
def test_an_honest_environment_is_left_alone(here: Here, addition: str) -> None:
    before = here.look()
    HONEST[addition](here)
    after = here.look()
    assert after.lock.loose == [] and after.changed == {} and after.remarks() == []
    assert [item.name for item in before.lock.changes_to(after.lock)] in ([], ["two"])


def test_the_environment_of_these_tests_is_honest() -> None:
    found = capture()
    assert [str(one.path) for one in found.loose] == []
    assert OURS not in [one.name for one in found.lock.editable]


@pytest.mark.parametrize("cached", [True, False])
def test_a_same_size_edit_is_seen_after_record_was_touched(here: Here, cached: bool) -> None:
    here.cache = here.cache if cached else None
    before = here.look()
    file = here.site / "demo/rate.py"
    stat = file.stat()
    file.write_text("rate = 0.9\n")
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    (here.site / "demo-1.0.dist-info" / "RECORD").touch()
    after = here.look()
    assert after.changed == {"demo": ["demo/rate.py"]}
    assert [str(item) for item in before.lock.changes_to(after.lock)] == ["demo 1.0: same version, other files"]
    (told,) = after.files({"demo"})
    assert told == "demo was changed since it was installed: demo/rate.py; install it again, with --force-reinstall"


def test_all_notes_touched_do_not_make_a_known_package_younger(here: Here) -> None:
    here.look()
    _edit_bytecode(here)
    (here.site / "demo/rate.py").write_text("rate = 0.9\n")
    for note in (here.site / "demo-1.0.dist-info").iterdir():
        note.touch()
    assert here.look().changed == {"demo": ["demo/rate.py"]}


def test_a_tool_that_was_changed_later_is_not_let_pass(here: Here) -> None:
    _virtualenv(here)
    old = here.prefix / "pyvenv.cfg"
    real = Path.stat

    class Later:
        st_ctime_ns = real(old).st_ctime_ns - 3600 * 10**9

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "stat", lambda self, **more: Later() if self == old else real(self, **more))
        assert here.loose() == ["site-packages/_virtualenv.pth", "site-packages/_virtualenv.py"]


def test_the_line_that_names_the_interpreter_does_not_count(here: Here) -> None:
    """Of a command that was edited, and lies somewhere else in another environment."""
    here.command.write_text("#!/a/python\nimport other\n")
    first = here.look().lock.loose
    here.command.write_text("#!/bin/sh\n'''exec' \"/b/python\" \"$0\" \"$@\"\n' '''\nimport other\n")
    assert here.look().lock.loose == first


def test_a_command_of_two_packages_is_what_either_brought(here: Here) -> None:
    other = f"{COMMAND}# of two\n"
    here.install("two", {"two.py": "", "../../../bin/demo": other})
    assert here.command.read_text() == other
    assert here.loose() == []


def test_the_users_own_folder_is_called_so_whoever_he_is(here: Here) -> None:
    """With its path in the name, no two users would have the same environment."""
    own = here.base / "home" / "site-packages"
    own.mkdir(parents=True)
    (own / "helper.py").write_text("")
    here.interpreter = replace(here.interpreter, sites=(str(own), str(here.site)))
    assert here.loose() == ["user/site-packages/helper.py"]


def test_what_is_in_no_archive_is_not_made(here: Here, tmp_path: Path) -> None:
    here.write("helper.py", "")
    with pytest.raises(EnvironmentMismatchError) as caught:
        realise(here.look().lock, cache=tmp_path / "made")
    assert caught.value.message == (
        "1 thing(s) that it executed are in no archive, for no package brought them: site-packages/helper.py."
    )
    assert caught.value.hint == "Have them here as they were, or run again without them."


def test_names_that_are_not_text_are_told_by_their_escapes(here: Here) -> None:
    (here.site / os.fsdecode(b"n\xffo.py")).write_text("")
    here.write("two\nlines.py", "")
    assert here.loose() == ["site-packages/n\\xffo.py", "site-packages/two\\nlines.py"]


def test_the_standard_library_of_this_python_is_known() -> None:
    assert Interpreter.here().library == sysconfig.get_path("stdlib")
    assert Interpreter.at(Path(sys.executable)).sites == Interpreter.here().sites
