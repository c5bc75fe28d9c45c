"""Names that a loop's body uses before they have a value, in each kind of statement."""

from __future__ import annotations

import sys
import textwrap
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from reprokit.client.probe.loop_source import LoopNames, names_in, taken_in


def names(tmp_path: Path, source: str) -> tuple[list[str], list[str]]:
    """Execute a script in which `turns()` gives what a loop is about to begin; return the names that it carries."""
    found: list[tuple[list[str], list[str]]] = []

    def turns(count: int = 1) -> Any:
        frame: FrameType | None = sys._getframe(1)
        assert frame is not None
        found.append(names_in(frame)[:2])
        yield from range(count)

    file = tmp_path / f"train{len(list(tmp_path.iterdir()))}.py"  # sources are read once
    file.write_text(textwrap.dedent(source))
    code = compile(file.read_text(), str(file), "exec")
    exec(code, {"turns": turns, "__name__": "__main__"})  # noqa: S102 - a script of this test
    (one,) = found
    return one


@pytest.mark.parametrize(
    ("body", "carried"),
    [
        ("lr /= 4", "lr"),
        ("lr = 4", ""),
        ("lr = lr * 0.5", "lr"),
        ("if epoch > 1: lr = 1\n    use(lr)", "lr use"),
        ("if epoch > 1: lr = 1\n    else: lr = 2\n    use(lr)", "use"),
        ("loss = 1\n    history.append(loss)", "history"),
        ("for i in range(3): best = i\n    use(best)", "range use"),
        ("for i in range(3): use(total); total = i", "range total use"),
        ("while epoch < 0: x = 1\n    use(x)", "use x"),
        ("table['a'] = 1", "table"),
        ("stopper.count += 1", "stopper"),
        ("use([i for i in rows if i], {k: v for k, v in pairs})", "pairs rows use"),
        ("use(lambda x, y=start: x + y + offset)", "offset start use"),
        ("with use() as file: file.x\n    use(file)", "use"),
        ("try: x = 1\n    except E: x = 2\n    use(x)", "E use x"),
        ("a, (b, *c) = 1, (2, 3)\n    use(a, b, c)", "use"),
        ("x: int = 3\n    use(x)", "use"),
        ("def f(q): return q + kept\n    f(1)", "kept"),
        ("use(epoch)", "use"),
    ],
)
def test_what_a_body_uses_before_it_has_a_value(tmp_path: Path, body: str, carried: str) -> None:
    source = f"for epoch in turns(0):\n    {body}\n"
    assert names(tmp_path, source) == (sorted(carried.split()), [])
    inside = textwrap.indent(source, "    ")
    held = "lr = use = x = history = table = stopper = kept = rows = pairs = start = offset = E = best = range = 1"
    inner, outer = names(tmp_path, f"def main():\n    {held}\n{inside}\nmain()\n")
    assert (inner, outer) == (sorted(carried.split()), [])


def test_what_functions_of_the_script_share_through_its_module_is_carried(tmp_path: Path) -> None:
    source = """
        seen, rate, unused = [], 1.0, 2

        def learn():
            global rate
            rate *= 0.5
            seen.append(rate)

        def main():
            mine = 1
            for epoch in turns(2):
                learn()
                mine += 1

        main()
    """
    assert names(tmp_path, source) == (["mine"], ["learn", "rate", "seen"])


def test_the_loop_is_the_one_that_begins_here(tmp_path: Path) -> None:
    source = """
        other = inner = outer = 1
        for one in (1, 2):
            other += one
        for epoch in (
            turns(1)
        ):
            outer += 1
            for step in (1, 2):
                inner += 1
    """
    assert names(tmp_path, source) == (["inner", "outer"], [])


def test_a_while_around_an_iterator_is_found(tmp_path: Path) -> None:
    source = """
        lr = 1
        epochs = turns(1)
        while next(epochs, None) is not None:
            lr *= 2
    """
    assert names(tmp_path, source) == (["lr"], [])


def test_where_no_source_is_nothing_is_said() -> None:
    found: list[Any] = []

    def turns() -> Any:
        found.append(names_in(sys._getframe(1))[:2])
        yield 1

    exec("for epoch in turns(): x = epoch", {"turns": turns})  # noqa: S102
    assert found == [([], [])]


def loop(tmp_path: Path, source: str) -> LoopNames:
    found: list[LoopNames] = []

    def turns(count: int = 1) -> Any:
        found.append(names_in(sys._getframe(1)))
        yield from range(count)

    file = tmp_path / "train.py"
    file.write_text(textwrap.dedent(source))
    exec(compile(file.read_text(), str(file), "exec"), {"turns": turns, "__name__": "__main__"})  # noqa: S102
    return found[0]


def test_a_name_that_functions_use_after_each_turn_set_it_is_not_carried(tmp_path: Path) -> None:
    found = loop(
        tmp_path,
        """
        import torch
        model, seen, rate, late, handed, kept = 1, [], 1, 1, 1, 1

        def show():
            print(epoch, rate)

        def learn():
            show()
            seen.append(late)

        def told(value):
            return value + handed

        class Model:
            def step(self):
                return kept

        callbacks = [told]
        for epoch in turns(0):
            print(epoch)
            rate = 0.1 / (1 + epoch)
            learn()
            late = 2
            handed = 3
            kept = 4
            model.step()
        """,
    )
    assert found.own == ["late", "learn", "model", "print", "seen"]
    assert found.anew == {"epoch", "rate", "handed", "kept"}


def test_classes_and_modules_that_functions_use_are_shared(tmp_path: Path) -> None:
    found = loop(
        tmp_path,
        """
        import os.path as path, json
        class Config:
            lr = 1
        def learn():
            Config.lr /= 2
            return path.sep, json.dumps(1)
        for epoch in turns(0):
            learn()
        """,
    )
    assert found.own == ["Config", "json", "learn", "path"]


def test_what_a_function_may_use_before_it_is_set_is_carried(tmp_path: Path) -> None:
    found = loop(
        tmp_path,
        """
        handed, kept, mine = 1, 1, 1
        def told(value):
            return value + handed
        class Model:
            def step(self):
                return kept
        hooks, model = [told], Model()
        for epoch in turns(0):
            model.step()
            handed = kept = mine = 2
        """,
    )
    assert (found.own, found.anew) == (["handed", "kept", "model"], {"epoch", "mine"})


def test_what_a_script_takes_from_state_is_known_by_its_names(tmp_path: Path) -> None:
    file = tmp_path / "script.py"
    file.write_text(
        "n, x = ckpt.state.get('n', 0), ckpt.state['x']\n"
        "ckpt.state['only put'] = n\n"
        "ckpt.state.update(other=1)\n"
        "y = self.ckpt.state.pop('y')\n"
        "z = state['not it'], ckpt.other['nor'], ckpt.state[name]\n"
    )
    assert taken_in(str(file)) == {"n", "x", "y"}
    assert taken_in(str(tmp_path / "gone.py")) == frozenset()
