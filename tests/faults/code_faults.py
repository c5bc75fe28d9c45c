"""Faults of the code: another draw, order, layer or rate; each from a drawn epoch on."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from tests.faults.drawing import Drawn, Expected, kind
from tests.faults.reproducing import Bench, Edit, Verdict

_Picked = tuple[str, tuple[Edit, ...], Expected]


def _code(training: str, name: str) -> Callable[[Callable[[random.Random], _Picked]], None]:
    def keep(pick: Callable[[random.Random], _Picked]) -> None:
        @kind(training, name)
        def make(rng: random.Random) -> Drawn:
            detail, edits, expected = pick(rng)

            def apply(bench: Bench) -> tuple[Verdict, Expected]:
                return bench.reproduce(bench.original(training), f"code={bench.edited(edits)}"), expected

            return detail, apply

    return keep


def _changed_code(where: str, tensor: str | None = "*", line: str = "", **more: Any) -> Expected:
    return Expected(cause=("code", "code"), where=where, tensor=tensor, lines=(line,) if line else (), **more)


_BEGIN = "        total = 0.0\n"
_END = "        for act in after_epoch:\n            act(optimizer)\n"


def _torch_edit(old: str, new: str) -> tuple[Edit, ...]:
    return (("torch_images.py", old, new),)


@_code("torch", "an extra draw")
def _(rng: random.Random) -> _Picked:
    epoch, number = rng.randrange(3), rng.randint(1, 5)
    line = f"        if epoch == {epoch}:\n            torch.rand({number})\n"
    return f"{number} of PyTorch's, epoch {epoch} begins", _torch_edit(_BEGIN, _BEGIN + line), _changed_code(
        f"epoch {epoch}", line=f"torch.rand({number})"
    )  # fmt: skip


@_code("torch", "an extra draw at the end")
def _(rng: random.Random) -> _Picked:
    epoch, name = rng.randrange(3), rng.choice(["torch.rand(1)", "np.random.rand()"])
    line = f"        if epoch == {epoch}:\n            {name}\n"
    return f"{name} before epoch {epoch} is saved", _torch_edit(_END, _END + line), _changed_code(
        f"epoch {epoch}", f"state.json:rng.{'numpy' if name.startswith('np') else 'torch'}*", name,
    )  # fmt: skip


@_code("torch", "batch order")
def _(rng: random.Random) -> _Picked:
    seed = rng.randint(4, 10**6)
    return f"the loader's seed {seed}", _torch_edit("manual_seed(3)", f"manual_seed({seed})"), _changed_code(
        "initial state", "state.json:rng.held.loader.0.generator*", f"manual_seed({seed})"
    )  # fmt: skip


@_code("torch", "hooks reordered")
def _(rng: random.Random) -> _Picked:
    return "limited, cooled", _torch_edit("[cooled, limited]", "[limited, cooled]"), _changed_code(
        "epoch 0", "state.json:*lr", "[limited, cooled]"
    )  # fmt: skip


@_code("torch", "a layer renamed")
def _(rng: random.Random) -> _Picked:
    old, new = rng.choice(["hidden", "out"]), rng.choice(["dense", "head"])
    edits = _torch_edit(f'add_module("{old}"', f'add_module("{new}"')
    return f"{old} → {new}", edits, _changed_code(
        "initial state", f"{old}.bias", f'"{new}"', first={"how": f"renamed to {new}.bias"}
    )  # fmt: skip


@_code("torch", "an output only")
def _(rng: random.Random) -> _Picked:
    name = rng.choice(["median", "std", "min"])
    return name, _torch_edit("sums.mean()", f"sums.{name}()"), _changed_code("output metrics.json", None, f"{name}()")


@_code("torch", "a rate from one epoch on")
def _(rng: random.Random) -> _Picked:
    epoch = rng.randrange(3)
    line = f'        if epoch == {epoch}:\n            optimizer.param_groups[0]["lr"] *= 1.001\n'
    return f"epoch {epoch}", _torch_edit(_BEGIN, _BEGIN + line), _changed_code(f"epoch {epoch}", line="1.001")


@_code("torch", "a weight moved by an ulp")
def _(rng: random.Random) -> _Picked:
    epoch, name, size = (
        rng.randint(-1, 2),
        *rng.choice([("out.weight", 160), ("conv.weight", 216), ("hidden.bias", 16)]),
    )
    place = rng.randrange(size)
    line = (
        f"flat = net.get_parameter({name!r}).data.view(-1); flat[{place}] = flat[{place}].nextafter(torch.tensor(9.0))"
    )
    old = "    after_epoch = [cooled, limited]\n" if epoch < 0 else _END
    new = old + (f"    {line}\n" if epoch < 0 else f"        if epoch == {epoch}:\n            {line}\n")
    return f"{name}[{place}] at epoch {epoch}", _torch_edit(old, new), _changed_code(
        "initial state" if epoch < 0 else f"epoch {epoch}", name, "nextafter", first={"differing": 1, "ulp": 1}
    )  # fmt: skip


@_code("torch", "a layer frozen")
def _(rng: random.Random) -> _Picked:
    epoch = rng.randrange(3)
    line = f"        net.conv.requires_grad_(epoch != {epoch})\n"
    return (
        f"epoch {epoch}",
        _torch_edit(_BEGIN, _BEGIN + line),
        _changed_code(f"epoch {epoch}", "conv.*", "requires_grad_"),
    )


@_code("torch", "an imported module")
def _(rng: random.Random) -> _Picked:
    return "augmenting.py", (("augmenting.py", "flip(-1)", "flip(-2)"),), _changed_code("epoch 0", "conv.*", "flip(-2)")


@_code("keras", "callbacks reordered")
def _(rng: random.Random) -> _Picked:
    edits = (("keras_images.py", "[Cooled(), Limited(), Pack", "[Limited(), Cooled(), Pack"),)
    return "Limited, Cooled", edits, _changed_code("epoch 0", "optimizer:*learning_rate", "[Limited(), Cooled()")


@_code("keras", "a layer renamed")
def _(rng: random.Random) -> _Picked:
    old, new = rng.choice(["hidden", "out"]), rng.choice(["dense_a", "head"])
    edits = (("keras_images.py", f'name="{old}"', f'name="{new}"'),)
    return f"{old} → {new}", edits, _changed_code("initial state", f"*{old}*", f'"{new}"')


@_code("torch", "a weight that is no number")
def _(rng: random.Random) -> _Picked:
    epoch = rng.randrange(3)
    line = f"        if epoch == {epoch}:\n            net.out.bias.data[{rng.randrange(10)}] = float('nan')\n"
    return f"epoch {epoch}", _torch_edit(_END, _END + line), _changed_code(
        f"epoch {epoch}", "out.bias", "nan", first={"how": "1 × NaN against a value", "differing": 1, "max_abs": None}
    )  # fmt: skip
