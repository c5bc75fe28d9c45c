"""The watch on what a run's processes read: files that no declaration covers are noted, and with `deny` refused.

Seen is what goes through Python's own calls, in every process that inherits `sitecustomize`; of a program that is not
Python, its name and the files that its command line names. What each mode sees stands in `docs/inputs.md`, which a test
holds against this. Standard library alone, and little of it: every process of a run pays for what is imported here.

A line of the report is a path; what it begins with says what it is (`reprokit.recording.input_report`).
"""

import contextlib
import fnmatch
import os
import stat
import sys
import threading
import time

import reprokit_commands  # type: ignore[import-not-found]  # lies beside this file

OPENED, REFUSED, MODULE, PROGRAM, MADE, FOREIGN = b"\0", b"\1", b"\2", b"\3", b"\4", b"\5"

_SYSTEM = ("/usr/", "/bin/", "/sbin/", "/lib/", "/lib32/", "/lib64/", "/libx32/", "/nix/store/", "/opt/rocm/")
_KERNEL = ("/proc/", "/sys/", "/dev/")
_SHARED = "/dev/shm/"  # noqa: S108 - where files lie as anywhere else
_SHELLS = ("sh", "bash", "dash", "zsh", "ksh")
_PACE = 20_000  # folders whose real place is remembered
_IMPORTERS = (
    "<frozen importlib._bootstrap_external>",
    "<frozen zipimport>",
    "<frozen runpy>",
    "/runpy.py",
    "/zipimport.py",
    "/pkgutil.py",
    "/importlib/metadata/__init__.py",
)


class _Refused(Exception):
    pass


class Watch:
    """Decides on every path that a process asks for.

    Args:
        named: Folders whose files are locked or the platform's, under whatever link they are reached.
        own: Folders of this run: its tree, inputs and scratch; a link that leads out of them leaves them.
        tree, data: The run's tree, and where in it inputs are laid out.
        benign: Patterns of paths.
        since: When the run began, in ns: what was last written after that, was written by the run.
    """

    def __init__(self, policy, report, *, named, own, tree, data, benign, since):
        self.policy, self.since, self.benign = policy, since, benign
        self.named = _folders(named) + tuple(place for place in _folders(map(os.path.realpath, named)))
        self.own = _folders(map(os.path.realpath, own))
        self.tree, self.data = os.path.realpath(tree) + "/", _folders(data)
        self.report = os.open(report, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
        self.told, self.made, self.foreign = set(), set(), set()
        self.read_to, self.places, self.at = 0, {}, threading.local()

    # ------------------------------------------------------------------------------------------ what is asked for

    def hook(self, event, arguments):
        if (event != "open" and event not in _EVENTS) or getattr(self.at, "busy", False):  # what looking itself opens
            return
        self.at.busy = True
        try:
            if event == "open":
                self._opened(*arguments)
            else:
                getattr(self, _EVENTS[event])(*arguments)
        except _Refused as refused:
            raise PermissionError(str(refused)) from None
        except (OSError, TypeError, ValueError):  # what is asked for is no path, or not there: the call itself says so
            return
        finally:
            self.at.busy = False

    def _opened(self, path, _, flags):
        full = self._full(path, getattr(self.at, "folder", None))
        if full is None or not isinstance(flags, int) or flags & os.O_DIRECTORY:
            return
        access = flags & os.O_ACCMODE
        if access != os.O_RDONLY:
            self._written(full, flags)
        if access == os.O_WRONLY or flags & os.O_TRUNC:
            return
        self._read(full, module=_is_import())

    def _written(self, full, flags):
        """Keep whether what a file holds from now on is the run's, or was there before."""
        real = self._real(full)
        if real in self.made or real.startswith(self.own):
            return
        try:
            old = os.stat(real).st_mtime_ns <= self.since
        except OSError:
            old = False
        if flags & os.O_TRUNC or not os.path.lexists(real):
            self.made.add(real)
            self.foreign.discard(real)
        elif old:
            self._remember(FOREIGN, self.foreign, real)

    def _touched(self, path, *_):
        """Times of a file are set: from now on they do not tell whose it is."""
        full = self._full(path)
        real = None if full is None else self._real(full)
        if real is None or real.startswith(self.own):
            return
        if real in self.made:
            self._say(MADE, real)
            return
        with contextlib.suppress(OSError):
            if os.stat(real).st_mtime_ns <= self.since:
                self._remember(FOREIGN, self.foreign, real)

    def _linked(self, *_):
        self.places.clear()

    def _database(self, name):
        if isinstance(name, bytes):
            name = os.fsdecode(name)
        if not isinstance(name, str) or name in ("", ":memory:"):
            return
        if name.startswith("file:"):
            import urllib.parse

            name = urllib.parse.unquote(name[5:].partition("?")[0])
            name = "/" + name.lstrip("/") if name.startswith("//") else name
        full = self._full(name)
        if full is None:
            return
        if os.path.exists(full):
            self._read(full)
        else:
            self._written(full, os.O_CREAT)

    def _imported(self, _, file, *__):
        full = self._full(file) if file else None
        if full is not None:
            self._read(full, module=True)

    def _loaded(self, name):
        if isinstance(name, (str, bytes)) and "/" in os.fsdecode(name):
            full = self._full(name)
            if not self._real(full).startswith(_SYSTEM):
                self._read(full, module=True)

    def _mapped(self, descriptor, *_):
        """A file is laid into memory: one that native code opened too, such as memory that is shared by name."""
        if descriptor >= 0:
            path = os.readlink(f"/proc/self/fd/{descriptor}")
            if path.startswith("/"):
                self._read(path)

    def _listed(self, path=None):
        if isinstance(path, int):
            return
        full = self._full("." if path is None else path)
        if full is None or full in sys.path or _is_import():
            return
        self._read(full, folder=True)

    # ------------------------------------------------------------------------------------------ other programs

    def _started(self, program, arguments=(), folder=None, variables=None):
        self.places.clear()  # what it does to links is not seen
        words = [os.fsdecode(one) for one in ([arguments] if isinstance(arguments, (str, bytes)) else arguments)]
        folder = None if folder is None else os.fsdecode(folder)
        words = [os.fsdecode(program) if program is not None else words[0], *words[1:]]
        self._command(words, folder, variables)
        if os.path.basename(words[0]) in _SHELLS and "-c" in words[:-1]:
            commands, changed = reprokit_commands.commands(words[words.index("-c") + 1])
            for file in changed:
                self._written(self._full(file, folder), os.O_APPEND)
            for command in commands:
                self._command(list(reprokit_commands.expanded(command)), folder, variables)

    def _command(self, words, folder, variables):
        """Name the program of a command, and the files that its words name, unless it is a Python with this watch."""
        while words and "=" in words[0].partition("/")[0]:
            words = words[1:]
        path = reprokit_commands.found(self._full(words[0], folder), words[0], variables) if words else None
        if path is not None:
            if reprokit_commands.is_watched(path, words[1:], variables):
                if not self._is_covered(path, self._real(path)):
                    self._program(path)
                return
            self._program(path)
        for word in words[1:]:
            for part in dict.fromkeys((word, word.partition("=")[2], word.lstrip("@"))):
                full = self._full(part, folder) if part else None
                if full is not None and os.path.isfile(full) and not self._real(full).startswith(_SYSTEM):
                    self._read(full)

    def _system(self, command):
        self._started("/bin/sh", ["sh", "-c", os.fsdecode(command)])

    def _executed(self, path, arguments, variables):
        self._started(path, arguments, None, variables)

    def _program(self, path):
        real = self._real(path)
        if (PROGRAM, real) not in self.told:
            self._say(PROGRAM, real)
        if not (real.startswith(_SYSTEM) or self._is_covered(path, real)):
            self._read(path)

    # ------------------------------------------------------------------------------------------ what is decided

    def _read(self, full, *, module=False, folder=False):
        real = self._real(full)
        if folder:
            full, real = full.rstrip("/") + "/", real.rstrip("/") + "/"
        if self._is_covered(full, real):
            if real.startswith(self.tree) and not folder and not _is_code(real, module):
                self._note_opened(real)
            return
        if real.startswith(_KERNEL + _SYSTEM if folder else _KERNEL) and not real.startswith(_SHARED):
            return
        try:
            facts = os.stat(real)
        except OSError:
            return
        if stat.S_ISDIR(facts.st_mode) != folder or stat.S_ISSOCK(facts.st_mode) or self._is_made(real, facts):
            return
        if module and real.endswith(".pyc"):
            real = _source(real)
        benign = folder or any(fnmatch.fnmatchcase(real, pattern) for pattern in self.benign)
        denied = self.policy == "deny" and not benign
        mark = REFUSED if denied else MODULE if module else b""
        if (mark, real) not in self.told:
            self._say(mark, real)
        if denied:
            raise _Refused(
                f"reprokit: {full} is not a declared input of this run"
                + ("" if full == real else f" (it is {real})")
                + ". Declare it under `data:` in the recipe, commit it, or set `execution.inputs: warn`."
            )

    def _note_opened(self, real):
        name = real[len(self.tree) :]
        if not real.startswith(self.data) and (OPENED, name) not in self.told:
            self._say(OPENED, name)

    def _is_covered(self, full, real):
        return real.startswith(self.own + self.named) or full.startswith(self.named)

    def _is_made(self, real, facts):
        """True if the run itself wrote what the file holds: this process, or another of its own."""
        self._catch_up()
        if real in self.made:
            return True
        return min(facts.st_mtime_ns, facts.st_ctime_ns) > self.since and real not in self.foreign

    def _full(self, path, folder=None):
        if hasattr(path, "__fspath__"):
            path = path.__fspath__()
        if not isinstance(path, (str, bytes)):
            return None
        try:
            return os.path.normpath(os.path.join(folder or os.getcwd(), os.fsdecode(path)))
        except OSError:  # the working directory is gone
            return os.path.normpath(os.fsdecode(path))

    def _real(self, full):
        """Return where a path leads; of folders that is found out once."""
        place, name = os.path.split(full)
        known = self.places.get(place)
        if known is None or place.startswith(_KERNEL):
            if len(self.places) > _PACE:
                self.places.clear()
            known = self.places[place] = os.path.realpath(place)
        path = os.path.join(known, name)
        return os.path.realpath(path) if os.path.islink(path) else path

    # ------------------------------------------------------------------------------------------ the report

    def _say(self, mark, path):
        self.told.add((mark, path))
        with contextlib.suppress(OSError):
            os.write(self.report, mark + os.fsencode(path).replace(b"\n", b" ") + b"\n")

    def _remember(self, mark, kept, path):
        if path not in kept:
            kept.add(path)
            self._say(mark, path)

    def _catch_up(self):
        """Read what other processes of the run said of files since."""
        with contextlib.suppress(OSError):
            size = os.fstat(self.report).st_size
            while self.read_to < size:
                piece = os.pread(self.report, min(size - self.read_to, 1 << 20), self.read_to)
                whole = piece[: piece.rfind(b"\n") + 1]
                if not whole:
                    return
                self.read_to += len(whole)
                for line in whole.splitlines():
                    if line[:1] == MADE:
                        self.made.add(os.fsdecode(line[1:]))
                    elif line[:1] == FOREIGN and os.fsdecode(line[1:]) not in self.made:
                        self.foreign.add(os.fsdecode(line[1:]))


_EVENTS = {
    "sqlite3.connect": "_database",
    "import": "_imported",
    "ctypes.dlopen": "_loaded",
    "mmap.__new__": "_mapped",
    "os.utime": "_touched",
    "os.truncate": "_touched",
    "os.symlink": "_linked",
    "os.rename": "_linked",
    "os.listdir": "_listed",
    "os.scandir": "_listed",
    "subprocess.Popen": "_started",
    "os.system": "_system",
    "os.exec": "_executed",
    "os.posix_spawn": "_executed",
}


def install():
    """Watch this process, as its variables say."""
    told = os.environ
    allowed, own = (_split(told.get(name, "")) for name in ("REPROKIT_ALLOWED", "REPROKIT_OWN"))
    for prefix in {sys.prefix, sys.base_prefix, sys.exec_prefix}:
        narrow = prefix.rstrip("/") in ("", "/usr", "/usr/local")  # with all that the machine has
        allowed += [os.path.join(prefix, name) for name in ("bin", "include", "lib")] if narrow else [prefix]
    tree, *data = told.get("REPROKIT_TREE", os.devnull).split(os.pathsep)
    try:
        since = os.stat(told["REPROKIT_CONTEXT"]).st_mtime_ns
    except (KeyError, OSError):
        since = time.time_ns()
    watch = Watch(
        told["REPROKIT_INPUTS"], told["REPROKIT_INPUTS_REPORT"], named=allowed, own=own, tree=tree, data=data,
        benign=_split(told.get("REPROKIT_BENIGN", "")), since=since,
    )  # fmt: skip
    _resolve_descriptors(watch)
    sys.addaudithook(watch.hook)


def _resolve_descriptors(watch):
    """Have `os.open(…, dir_fd=…)` tell the watch in which folder it looks, which its event does not say."""
    import posix

    original = os.open

    def open(path, flags, mode=0o777, *, dir_fd=None):
        if dir_fd is None:
            return original(path, flags, mode)
        with contextlib.suppress(OSError):
            watch.at.folder = os.readlink(f"/proc/self/fd/{dir_fd}")
        try:
            return original(path, flags, mode, dir_fd=dir_fd)
        finally:
            watch.at.folder = None

    os.supports_dir_fd.add(open)
    os.open = posix.open = open


def _split(text):
    return [one for one in text.split(os.pathsep) if one]


def _folders(places):
    return tuple(dict.fromkeys(place.rstrip("/") + "/" for place in places))


def _is_import():
    """True if the import system asks, or the interpreter for its script, and not the program itself."""
    try:
        frame = sys._getframe(3)
    except ValueError:
        return True
    return frame.f_code.co_filename.endswith(_IMPORTERS)


def _is_code(path, module):
    return module and (path.endswith((".py", ".pyc", ".so")) or "." not in os.path.basename(path))


def _source(compiled):
    """Return the source that bytecode was made of, where that is there."""
    folder, name = os.path.split(compiled)
    if os.path.basename(folder) == "__pycache__":
        source = os.path.join(os.path.dirname(folder), name.partition(".")[0] + ".py")
        return source if os.path.exists(source) else compiled
    return compiled
