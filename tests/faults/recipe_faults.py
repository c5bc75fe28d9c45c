"""Faults of a recipe and of its data: another parameter, seed, switch, image or label."""

from __future__ import annotations

import platform
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image

from tests.faults.drawing import Drawn, Expected, kind
from tests.faults.reproducing import RECIPES, Bench, Verdict

# ── parameters and execution ──────────────────────────────────────────────────────────────────────────────────────────


def _option(
    training: str, name: str, option: str, values: list[Any] | Callable[[random.Random], Any], where: str,
    tensor: str | None = "*",
    **more: Any,
) -> None:  # fmt: skip
    """Add a kind: one option of `--with`, by its name, with a drawn value.

    Args:
        values: To choose from, or what draws one.
    """
    section, _, short = option.partition(".")
    cause = ("params", f"params.{short}") if section == "param" else ("execution", f"execution.{option}")

    @kind(training, name)
    def make(rng: random.Random) -> Drawn:
        value = values(rng) if callable(values) else rng.choice(values)
        expected = Expected(cause=cause, where=where, tensor=tensor, **more)
        text = f"{option}={value}"
        return text, lambda bench: (bench.reproduce(bench.original(training), text), expected)


def _seventh_digit(training: str) -> Callable[[random.Random], str]:
    rate = float(RECIPES[training]["params"]["rate"])
    return lambda rng: f"{float(f'{rate:.6e}'.replace('000000e', f'00000{rng.randint(1, 9)}e'))!r}"


_FIRST = {"torch": "conv.*", "keras": "*/hidden/*", "sklearn": "*"}
_OPTIONS = "state.json:optimizer.0.groups*."
_option("torch", "rate, 7th digit", "param.rate", _seventh_digit("torch"), "initial state", f"{_OPTIONS}lr")
_option(
    "keras", "rate, 7th digit", "param.rate", _seventh_digit("keras"), "initial state", "optimizer:sgd/learning_rate"
)
_option("sklearn", "rate, 7th digit", "param.rate", _seventh_digit("sklearn"), "initial state", None)
_torch = "torch"
_option(_torch, "dropout off", "param.dropout", [0.0, 0.1, 0.5], "epoch 0", "conv.*")
_option(_torch, "weight decay", "param.decay", [0.0, 0.011, 0.02], "initial state",
        f"{_OPTIONS}weight_decay")  # fmt: skip
_option(_torch, "eps", "param.eps", ["1.0e-7", "1.0e-9"], "initial state",
        f"{_OPTIONS}eps")  # fmt: skip
_option(_torch, "loss reduction", "param.reduction", ["sum"], "epoch 0", "conv.*")
_option(_torch, "optimizer", "param.optimizer", ["Adam", "NAdam", "SGD"], "initial state",
        "state.json:optimizer.0.*")  # fmt: skip
_option(_torch, "batch size", "param.batch", lambda rng: rng.randint(8, 23), "epoch 0", "conv.*")
_option(_torch, "augmentation", "param.augment", ["[flip, shift]", "[flip, noise]"], "epoch 0",
        "conv.*")  # fmt: skip
_option(_torch, "dtype", "param.dtype", ["float64"], "initial state", "conv.bias",
        first={"how": "F32 [8] → F64 [8]"})  # fmt: skip
_option(_torch, "wider", "param.hidden", [17], "initial state", "hidden.bias",
        first={"how": "F32 [16] → F32 [17]"})  # fmt: skip
_option(_torch, "an epoch fewer", "param.epochs", [2], "epoch 2 is missing from the repetition", None)
_option(_torch, "an epoch more", "param.epochs", [4], "epoch 3 is missing from the original", None)
_option(_torch, "seed", "seed", lambda rng: rng.randint(6, 10**6), "initial state", "conv.bias")
_option(_torch, "threads", "threads", [2], "epoch 0")
_option(_torch, "determinism off", "determinism", ["off"], "initial state", "conv.bias")
_option("keras", "activation", "param.activation", ["tanh", "gelu", "elu"], "initial state")
_option("keras", "batch order", "param.shuffle", ["false"], "epoch 0")
_option("keras", "momentum", "param.momentum", [0.8, 0.9000001], "initial state")
_option("keras", "loss reduction", "param.loss_reduction", ["sum"], "initial state")
_option("sklearn", "penalty", "param.alpha", lambda rng: f"{rng.uniform(1e-5, 1e-3):.5g}", "initial state", None)
_option("sklearn", "random state", "param.random_state", lambda rng: rng.randint(2, 10**6), "initial state",
        None)  # fmt: skip
_option("sklearn", "solver", "param.solver", ["sgd"], "initial state", None)


def _switch(training: str, name: str, values: list[str]) -> None:
    """Add two kinds: a variable that chooses other instructions, by an option, and in the recipe of a second run."""

    @kind(training, name)
    def make(rng: random.Random) -> Drawn:
        text = f"variable.{name}={rng.choice(values)}"
        return text, lambda bench: (bench.reproduce(bench.original(training), text), expected)

    @kind(training, f"{name} in another recipe")
    def make_other(rng: random.Random) -> Drawn:
        value = rng.choice(values)

        def apply(bench: Bench) -> tuple[Verdict, Expected]:
            other = bench.original(training, changes={"execution": {"variables": {name: value}}})
            return bench.diff(bench.original(training), other), expected

        return f"{name}={value}", apply

    expected = Expected(cause=("execution", f"execution.variables.{name}"), where="*", unlikely=("code",))


if platform.machine() in ("x86_64", "AMD64"):  # elsewhere there are others
    _switch("torch", "ATEN_CPU_CAPABILITY", ["default"])
    _switch("torch", "MKL_CBWR", ["COMPATIBLE"])
    _switch("sklearn", "OPENBLAS_CORETYPE", ["Prescott", "Nehalem"])


# ── data ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _data(training: str, name: str, package: str, pick: Callable[[random.Random], tuple[str, Any, str]]) -> None:
    """Add a kind: another version of a package; `pick` returns words, what changes its folder, the changed entry."""

    @kind(training, name)
    def make(rng: random.Random) -> Drawn:
        detail, change, entry = pick(rng)
        expected = Expected(cause=("data", f"data.{package}"), where="epoch 0", tensor=_FIRST[training], lines=(entry,))

        def apply(bench: Bench) -> tuple[Verdict, Expected]:
            return bench.reproduce(bench.original(training), bench.changed(package, change)), expected

        return detail, apply


def pixel(rng: random.Random) -> tuple[str, Callable[[Path], None], str]:
    number, x, y, channel, step = (
        rng.randrange(48),
        *(rng.randrange(32) for _ in "xy"),
        rng.randrange(3),
        rng.randint(1, 50),
    )

    def change(folder: Path) -> None:
        file = folder / f"{number:03}.png"
        with Image.open(file) as image:
            pixel = list(image.getpixel((x, y)))
            pixel[channel] += step if pixel[channel] + step < 256 else -step
            image.putpixel((x, y), tuple(pixel))
            image.save(file)

    return f"image {number}, pixel ({x}, {y}), channel {channel}, by {step}", change, f"{number:03}.png"


def _labels(rng: random.Random) -> tuple[str, Callable[[Path], None], str]:
    seed = rng.randrange(10**6)

    def change(folder: Path) -> None:
        lines = (folder / "labels.txt").read_text().split()
        random.Random(seed).shuffle(lines)
        (folder / "labels.txt").write_text("".join(f"{line}\n" for line in lines))

    return f"labels in the order {seed}", change, "labels.txt"


def _label(rng: random.Random) -> tuple[str, Callable[[Path], None], str]:
    number, by = rng.randrange(48), rng.randint(1, 9)

    def change(folder: Path) -> None:
        lines = (folder / "labels.txt").read_text().split()
        lines[number] = str((int(lines[number]) + by) % 10)
        (folder / "labels.txt").write_text("".join(f"{line}\n" for line in lines))

    return f"label {number}, by {by}", change, "labels.txt"


def _removed(rng: random.Random) -> tuple[str, Callable[[Path], None], str]:
    name = f"{rng.randrange(48):03}.png"
    return f"{name} removed", lambda folder: (folder / name).unlink(), name


for _training in ("torch", "keras"):
    _data(_training, "label order", "labels", _labels)
_data("torch", "one pixel", "images", pixel)
_data("keras", "one label", "labels", _label)
_data("torch", "an image removed", "images", _removed)
