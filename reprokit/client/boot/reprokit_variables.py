"""Notes which environment variables the user's code reads, in the file that REPROKIT_ASKED names.

Stands alone, as `sitecustomize` does, which starts it in every Python process of a run. A note is a line: `V`, a keyed
digest of the value (`-` where there is none) and the name; `W` and what took all of them: `os.environ` where it was
copied or gone through, or a program that was started with them and is no Python. The key is the run's token, so that
the runner can tell whether it is the value that it gave, and nobody else anything.

Whose code reads is told by the stack: the first frame that is neither of the standard library nor of an installed
package, where what lies between only passes names on.
"""

import _thread
import os
import sys

_NAMED = r"\$\{?([A-Za-z_][A-Za-z0-9_]*)"
_STARTS = frozenset({"subprocess.Popen", "os.exec", "os.posix_spawn", "os.system"})
# what reads by names that its caller gives it
_TAKES_ALL = {"os", "_collections_abc", "collections", "copy", "json", "IPython"}
_PASSES_ON = _TAKES_ALL | {
    "posixpath", "string", "configparser", "argparse", "subprocess", "multiprocessing",
    "decouple", "environs", "environ", "envparse", "dotenv", "pydantic", "pydantic_settings", "omegaconf", "hydra",
    "click", "typer", "configargparse", "jsonargparse", "starlette", "pexpect", "ptyprocess",
    "ipykernel",
}  # fmt: skip
_LIBRARY = os.path.dirname(os.__file__) + os.sep


class _UndeclaredError(KeyError):
    """A variable that the run does not have, where it has only what is declared."""

    def __str__(self):
        return (
            f"{self.args[0]!r} (reprokit: with `inputs: deny` a run has no variables of the shell. Declare it under "
            "`execution.variables`, or under `execution.secrets`)"
        )


def watch(report, token, own, policy):
    """Begin to note.

    Args:
        report: The file of notes.
        token: The key of digests, in hex.
        own: Folders of our own modules.
        policy: `deny`: a variable that is not there is missed in words that say how to declare it.
    """
    kind, environ = type(os.environ), os.environ
    key = bytes.fromhex(token)
    noted, set_here = set(), set()
    users: dict[str, bool] = {}
    busy, taken = set(), set()
    going = [None]  # the place of the code that went through all of them last

    def is_users(code):
        file = code.co_filename
        found = users.get(file)
        if found is None:
            theirs = file.startswith((_LIBRARY, "<frozen", *own)) or "/site-packages/" in file
            found = users[file] = not (theirs or "/dist-packages/" in file)
        return found

    def reader(through):
        """Return the frame of the user's code that reads, if it is one's."""
        frame = vars(sys)["_getframe"](4)
        while frame is not None:
            if is_users(frame.f_code):
                return frame
            if str(frame.f_globals.get("__name__")).partition(".")[0] not in through:
                return None
            frame = frame.f_back
        return None

    def append(line):
        try:
            descriptor = os.open(report, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        except OSError:
            return
        try:
            os.write(descriptor, line)
        except OSError:
            pass
        finally:
            os.close(descriptor)

    def write(name):
        if name in noted or name in set_here:
            return
        noted.add(name)
        value = vars(environ)["_data"].get(environ.encodekey(name))
        if value is None:
            digest = "-"
        else:
            from hashlib import blake2s

            digest = blake2s(value, key=key, digest_size=16).hexdigest()
        append(b"V " + digest.encode() + b" " + os.fsencode(name).replace(b"\n", b" ") + b"\n")

    def guarded(note, *arguments):
        thread = _thread.get_ident()
        if thread in busy:
            return
        busy.add(thread)
        try:
            note(*arguments)
        except Exception:  # noqa: BLE001, S110 - what cannot be noted is no reason to stop a training
            pass
        finally:
            busy.discard(thread)

    def place(frame):
        return id(frame), frame.f_code.co_filename, frame.f_lasti

    def note_read(name):
        frame = reader(_PASSES_ON)
        if frame is not None and place(frame) != going[0]:
            write(name)

    def note_all(what):
        frame = reader(_TAKES_ALL)
        if frame is None:
            return
        going[0] = place(frame)
        if what not in taken:
            taken.add(what)
            append(b"W " + what.encode() + b"\n")

    def note_start(event, arguments):
        program = arguments[0]
        words = [program] if event == "os.system" else arguments[1] or []
        if isinstance(words, (str, bytes)):
            words = [words]
        if reader(_PASSES_ON) is None:
            return
        text = " ".join(os.fsdecode(word) for word in words)
        name = os.path.basename(os.fsdecode(program or words[0])).split(" ")[0]
        import re

        for variable in re.findall(_NAMED, text):
            if variable in environ or policy == "deny":
                write(variable)
        given = None if event == "os.system" else arguments[3 if event == "subprocess.Popen" else 2]
        if (given is None or given is environ) and not name.startswith("python") and name not in taken:
            taken.add(name)
            append(b"W " + name.encode("utf-8", "replace").replace(b"\n", b" ") + b"\n")

    get, set_, delete, walk = kind.__getitem__, kind.__setitem__, kind.__delitem__, kind.__iter__

    def getitem(self, name):
        if isinstance(name, (str, bytes)) and name not in noted:
            guarded(note_read, os.fsdecode(name))
        try:
            return get(self, name)
        except KeyError:
            if policy == "deny" and name in noted:
                raise _UndeclaredError(name) from None
            raise

    def setitem(self, name, value):
        set_(self, name, value)
        set_here.add(os.fsdecode(name))

    def delitem(self, name):
        delete(self, name)
        set_here.add(os.fsdecode(name))

    def go_through(self):
        guarded(note_all, "os.environ")
        return walk(self)

    hooks = {"__getitem__": getitem, "__setitem__": setitem, "__delitem__": delitem, "__iter__": go_through}
    for name, method in hooks.items():
        setattr(kind, name, method)

    def hook(event, arguments):
        if event in _STARTS:
            guarded(note_start, event, arguments)

    sys.addaudithook(hook)
