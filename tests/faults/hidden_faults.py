"""Faults that no recipe shows: an environment, a file nobody declared, a generator nobody seeded, a forged record."""

from __future__ import annotations

import random

from tests.faults.drawing import Drawn, Expected, kind
from tests.faults.forging import Forger
from tests.faults.recipe_faults import pixel
from tests.faults.reproducing import Bench, Edit, Verdict

_Both = tuple[Verdict, Expected]


# ── environment ───────────────────────────────────────────────────────────────────────────────────────────────────────


@kind("torch", "a package")
def _(rng: random.Random) -> Drawn:
    def apply(bench: Bench) -> _Both:
        verdict = bench.reproduce(bench.original("torch"), "env=current", version="1.0.1")
        return verdict, Expected(
            cause=("environment", "environment.smoothing-demo"), where="epoch 0", tensor="conv.*", unlikely=("machine",)
        )

    return "smoothing-demo 1.0.0 → 1.0.1", apply


@kind("sklearn", "a package that is not imported, and a penalty")
def _(rng: random.Random) -> Drawn:
    alpha = f"{rng.uniform(1e-5, 1e-3):.5g}"

    def apply(bench: Bench) -> _Both:
        options = ("env=current", f"param.alpha={alpha}")
        verdict = bench.reproduce(bench.original("sklearn"), *options, version="1.0.1")
        return verdict, Expected(cause=("params", "params.alpha"), where="initial state", unlikely=("environment",))

    return f"alpha={alpha}, smoothing-demo 1.0.0 → 1.0.1", apply


# ── trails that lead elsewhere ────────────────────────────────────────────────────────────────────────────────────────


@kind("torch", "one pixel, and a module that is not imported")
def _(rng: random.Random) -> Drawn:
    detail, change, entry = pixel(rng)

    def apply(bench: Bench) -> _Both:
        edits = (("keras_images.py", "batch=16", "batch=17"),)
        options = (f"code={bench.edited(edits)}", bench.changed("images", change))
        verdict = bench.reproduce(bench.original("torch"), *options)
        return verdict, Expected(
            cause=("data", "data.images"), where="epoch 0", tensor="conv.*", lines=(entry,), unlikely=("code",)
        )

    return f"{detail}; keras_images.py", apply


@kind("torch", "one pixel, and notes that nobody reads")
def _(rng: random.Random) -> Drawn:
    detail, change, entry = pixel(rng)

    def apply(bench: Bench) -> _Both:
        edits = (("notes.md", "Nothing", "Something"),)
        options = (f"code={bench.edited(edits)}", bench.changed("images", change))
        verdict = bench.reproduce(bench.original("torch"), *options)
        return verdict, Expected(
            cause=("data", "data.images"), where="epoch 0", tensor="conv.*", lines=(entry,), unlikely=("code",)
        )

    return f"{detail}; notes.md", apply


# ── what nobody declared or seeded ────────────────────────────────────────────────────────────────────────────────────


@kind("sklearn", "an undeclared file")
def _(rng: random.Random) -> Drawn:
    one, other = rng.sample(range(10, 99), 2)

    def apply(bench: Bench) -> _Both:
        file = bench.folder().with_suffix(".txt")
        file.write_text(str(one))
        edits = (("sklearn_digits.py", "x[:300] / 16", f"x[:300] / float(Path({str(file)!r}).read_text())"),)
        run = bench.original("sklearn", edits)
        file.write_text(str(other))
        return bench.reproduce(run), Expected(cause=("inputs", f"inputs.*{file.name}"), where="epoch 0")

    return f"a number in a file, {one} → {other}", apply


def _unseeded(training: str, detail: str, where: str, tensor: str, *edits: Edit) -> None:
    @kind(training, f"a missing seed: {detail}")
    def make(rng: random.Random) -> Drawn:
        def apply(bench: Bench) -> _Both:
            verdict = bench.reproduce(bench.original(training, edits))
            return verdict, Expected(cause=("unexplained", "*"), where=where, tensor=tensor)

        return ", ".join(new for _, _, new in edits), apply


_OWN = ".manual_seed(3)", ".manual_seed(__import__('secrets').randbits(32))"
_unseeded("torch", "the loader's", "initial state", "state.json:rng.held.loader*", ("torch_images.py", *_OWN))
_unseeded("sklearn", "its own", "initial state", "*", ("sklearn_digits.py", "default_rng(3)", "default_rng()"))
_unseeded(
    "keras", "of the noise", "epoch 0", "*hidden*",
    ("keras_images.py", 'astype("float32") / 255', 'astype("float32") / np.random.default_rng().uniform(250, 260)'),
)  # fmt: skip


# ── what somebody changed in the registry ─────────────────────────────────────────────────────────────────────────────


def _forged(bench: Bench, training: str) -> Forger:
    """Return a copy of the registry, opened at the original, whose repetition was equal in every bit."""
    assert bench.repetition(training)["verdict"] == "BITWISE"
    return Forger(bench.project.registry, bench.folder(), bench.original(training))


def _said(bench: Bench, training: str, forger: Forger) -> Verdict:
    """Return the verdict on the forged run beside the repetition made before; it is not executed any more."""
    run = bench.original(training)
    refused = bench.project.reprokit("reproduce", run, "--registry", str(forger.place), expect=4).stderr
    assert f"The record of run {run} is not borne out, so nothing of it was executed: " in refused
    return bench.diff(run, bench.repetition(training)["run_id"], forger.place)


def _weight(training: str) -> None:
    @kind(training, "a stored weight moved by an ulp")
    def make(rng: random.Random) -> Drawn:
        epoch, chosen, share = rng.randrange(3), rng.random(), rng.random()

        def apply(bench: Bench) -> _Both:
            forger = _forged(bench, training)
            sizes = forger.tensors(epoch)
            name = sorted(sizes)[int(chosen * len(sizes))]
            index = forger.nudge(epoch, name, int(share * sizes[name]), 1)
            facts = {"epoch": epoch, "differing": 1, "ulp": 1, "index": list(index), "elements": sizes[name]}
            alone = ("record", f"record.epoch {epoch}" if epoch < 2 else "record.record")
            return _said(bench, training, forger), Expected(
                cause=alone, where=f"epoch {epoch}", tensor=name, first=facts, differing=(f"epoch {epoch}",)
            )

        return f"at epoch {epoch}", apply


_weight("torch")
_weight("keras")


@kind("torch", "a metric edited in the record")
def _(rng: random.Random) -> Drawn:
    epoch, by = rng.randrange(3), rng.uniform(1e-6, 1e-2)

    def apply(bench: Bench) -> _Both:
        forger = _forged(bench, "torch")
        value = forger.run.record.checkpoints[epoch].metrics["loss"]
        forger.metric(epoch, "loss", value - by, header=False)
        return _said(bench, "torch", forger), Expected(
            cause=("record", f"record.epoch {epoch}"), where=f"*epoch {epoch}", tensor=None
        )

    return f"epoch {epoch}, by {by:.2g}", apply


@kind("torch", "a metric edited wherever it stands")
def _(rng: random.Random) -> Drawn:
    epoch, by = rng.randrange(3), rng.uniform(1e-6, 1e-2)

    def apply(bench: Bench) -> _Both:
        forger = _forged(bench, "torch")
        value = forger.run.record.checkpoints[epoch].metrics["loss"]
        forger.metric(epoch, "loss", value - by, header=True)
        return _said(bench, "torch", forger), Expected(
            cause=("record", "record.record"), where=f"metric loss of epoch {epoch}", tensor=None
        )

    return f"epoch {epoch}, by {by:.2g}", apply


@kind("torch", "a final metric edited in the record")
def _(rng: random.Random) -> Drawn:
    by = rng.uniform(1e-6, 1e-2)

    def apply(bench: Bench) -> _Both:
        forger = _forged(bench, "torch")
        metrics = forger.run.record.metrics
        forger.record({"metrics": {**metrics, "total": metrics["total"] - by}})
        return _said(bench, "torch", forger), Expected(
            cause=("record", "record.record"), where="metric total", tensor=None
        )

    return f"by {by:.2g}", apply


@kind("sklearn", "an output changed in the record's package")
def _(rng: random.Random) -> Drawn:
    text = f'{{"loss": {rng.random()}}}\n'.encode()

    def apply(bench: Bench) -> _Both:
        forger = _forged(bench, "sklearn")
        forger.output("metrics.json", text)
        return _said(bench, "sklearn", forger), Expected(
            cause=("record", "record.record"), where="output metrics.json", tensor=None
        )

    return text.decode().strip(), apply
