"""What command lines of other programs say: which program, which files, and whether it is a Python with our watch.

Beside `reprokit_watch`, and as light: every process of a run pays for what is imported here.
"""

import contextlib
import os

_ENDS = "|&;()<>"


def found(path, program, variables):
    """Return the file of a program that is executed by this name; None if there is none.

    Args:
        path: Where it lies if its name is a path.
    """
    value = (variables or os.environ).get("PATH") or os.defpath
    paths = [os.path.join(place, program) for place in os.fsdecode(value).split(os.pathsep)]
    for place in [path] if "/" in program else paths:
        if os.access(place, os.X_OK) and os.path.isfile(place):
            return place
    return None


def is_watched(path, words, variables):
    """True if a program is a Python that starts with this watch.

    Args:
        words: What stands after its name.
        variables: Those that it is given, where that was said.
    """
    if os.path.basename(path).rstrip("0123456789.") != "python":
        return False
    if variables is not None and "REPROKIT_INPUTS" not in {os.fsdecode(name) for name in variables}:
        return False
    for word in words:
        if not word.startswith("-") or word in ("-c", "-m", "-"):
            return True
        if not word.startswith("--") and set(word[1:]) & set("IES"):
            return False
    return True


def expanded(words):
    """Yield words as a shell would make of them, but for what it would have to execute."""
    import glob

    for word in words:
        word = os.path.expanduser(os.path.expandvars(word))
        yield from (glob.glob(word) if glob.has_magic(word) else ()) or (word,)


def commands(line):
    """Return the commands of a shell's line, as far as words tell, and the files that it adds to."""
    import shlex

    words = shlex.shlex(line, posix=True, punctuation_chars=_ENDS)
    words.whitespace_split = True
    told: list[list[str]] = [[]]
    changed, before = [], ""
    with contextlib.suppress(ValueError):  # quotes that do not end
        for word in words:
            if set(word) <= set(_ENDS):
                if not set(word) & set("<>"):
                    told.append([])
            elif ">>" in before:
                changed.append(word)
            elif "<" in before or ">" not in before:
                told[-1].append(word)
            before = word if set(word) <= set(_ENDS) else ""
    return told, changed
