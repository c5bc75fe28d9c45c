"""Whether a run's bits can be had in an environment, told before it is run there. Facts in, a prediction out.

Three kinds of evidence: the packages, what the libraries say of themselves, and kernels that were executed on both
sides. Packages that the run did not import, and those that compute nothing, are named and predict nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from reprokit.client.frameworks import find
from reprokit.numerics.numeric_class import Difference, differences, explanations, kernels_compared
from reprokit.schema.lock import PackageChange
from reprokit.schema.machine import Numeric

__all__ = ["Prediction", "Word", "predict"]

Word = Literal["EQUAL", "MAY-DIFFER", "DIFFERENT", "UNKNOWN"]

_TALK_ONLY = {
    "absl-py", "alabaster", "anyio", "argcomplete", "astunparse", "attrs", "babel", "build", "certifi",
    "charset-normalizer", "click", "colorama", "colorlog", "coverage", "distro", "docutils", "exceptiongroup",
    "filelock", "fsspec", "gitdb", "gitpython", "google-pasta", "grpcio", "h11", "hatchling", "httpcore", "httpx",
    "hypothesis", "idna", "iniconfig", "ipykernel", "ipython", "jinja2", "jupyter-client", "jupyter-core", "loguru",
    "markdown", "markdown-it-py", "markupsafe", "mdurl", "mypy", "mypy-extensions", "packaging", "pathspec", "pip",
    "platformdirs", "pluggy", "psutil", "pygments", "pytest", "pytest-xdist", "pyyaml", "requests", "rich", "ruff",
    "setuptools", "shellingham", "six", "smmap", "sniffio", "sphinx", "tabulate", "tensorboard",
    "tensorboard-data-server", "termcolor", "tomli", "tqdm", "typer", "types-psutil", "types-pyyaml",
    "typing-extensions", "urllib3", "uv", "wcwidth", "werkzeug", "wheel",
}  # fmt: skip
"""Packages that show, fetch, parse options, build or test: they hand no number to a training."""

_BELOW = (
    "nvidia-",
    "cuda-",
    "mkl",
    "intel-",
    "triton",
    "libblas",
    "openblas",
    "scipy-openblas",
    "llvm-openmp",
    "onednn",
)
"""Packages whose libraries are loaded below Python, so that nobody imports them."""

_UNTRIED = {
    "catboost", "cupy-cuda12x", "cupy-cuda13x", "faiss-cpu", "ggml-python", "jax", "jaxlib",
    "llama-cpp-python",
    "numba", "numexpr", "onnxruntime", "onnxruntime-gpu", "opencv-contrib-python", "opencv-python",
    "opencv-python-headless", "paddlepaddle", "pillow", "pillow-simd", "polars", "pyarrow", "torchaudio", "torchcodec",
    "torchvision",
}  # fmt: skip
"""Packages that choose their instructions by the processor, and of which no kernel is tried: unless a framework here is
called so, whose own kernels are."""

_SURE = {
    "linear": ("linear", "dense", "attention", "lstm", "gru"),
    "linear_backward": ("linear", "dense", "attention", "lstm", "gru"),
    "cross_entropy": ("crossentropy", "accuracy", "classif", "causallm"),
    "adam": ("adam",),
    "conv2d": ("conv",),
    "layer_norm": ("layernorm",),
    "batch_norm": ("batchnorm",),
    "attention": ("attention",),
    "softmax": ("softmax", "attention"),
    "gelu": ("gelu",),
}
"""Kernels of networks, and what shows that a run uses them: kinds of layers, optimisers, losses, names of metrics."""


class Prediction(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be expected of a run's bits.

    Attributes:
        prediction: `EQUAL`: nothing that decides bits differs. `DIFFERENT`: kernels that the run is trained with gave
            other bits here. `MAY-DIFFER`: something that can decide bits differs. `UNKNOWN`: there was nothing to
            compare with, or nobody to ask.
        reasons: What made it this and not EQUAL, the strongest first.
        notes: What differs and cannot change the bits by itself.
        kernels: By library, how many kernels were executed on both sides, and how many gave equal bits.
    """

    prediction: Word
    reasons: list[str] = []
    notes: list[str] = []
    kernels: dict[str, tuple[int, int]] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """What a run recorded that speaks for its bits.

    Attributes:
        imported: Packages that it imported; empty if it did not tell.
        numeric: Its numeric class.
        framework: Whose callback saved its checkpoints.
        metrics: Names of what it measured.
        unseeded: It drew numbers that nobody can draw again.
    """

    imported: Collection[str]
    numeric: Numeric
    framework: str | None
    metrics: Collection[str]
    unseeded: bool = False


def predict(
    run: Recorded,
    here: Numeric | None,
    *,
    packages: list[PackageChange],
    changed: Mapping[str, tuple[Any, Any]],
    unasked: str | None = None,
) -> Prediction:
    """Return what is to be expected.

    Args:
        here: The numeric class here; None if it could not be asked, and `unasked` says why.
        packages: In what the environment differs from the locked one.
        changed: What of the execution is to be changed (`threads`): before and after.
    """
    imported, framework, metrics, recorded = run.imported, run.framework, run.metrics, run.numeric
    reasons: list[tuple[int, str]] = []
    notes: list[str] = []
    for change in packages:
        rank, text = _package(change, imported)
        (reasons.append((rank, text)) if rank else notes.append(text))
    reasons += [(2, f"{name} {a} → {b}") for name, (a, b) in changed.items()]
    if run.unseeded:
        reasons.append((2, "execution.determinism is off: what the run drew by chance is not drawn again"))
    found = differences(recorded, here) if here is not None else []
    kernels = kernels_compared(recorded, here) if here is not None else {}
    explained = {text for item in found if item.kind == "kernels" for text in explanations(found, item.family)}
    untried = sorted(name for name in _UNTRIED.intersection(imported) if find(name) is None)
    if kernels and framework is not None and set(_trained_by(framework, recorded) or ()).isdisjoint(kernels):
        reasons.append((2, f"the run was trained with {framework}, and no kernel of it was tried on both sides"))
    for item in found:
        if item.kind == "fact" and str(item) in explained:
            continue  # said beside the kernels
        rank, text = _numeric(item, found, framework, recorded, metrics=metrics, tried=bool(kernels))
        if item.kind == "machine" and kernels and untried:
            rank, text = 2, f"{item}: {', '.join(untried)} may depend on it, and was not tried"
        (reasons.append((rank, text)) if rank else notes.append(text))
    equal = {
        family: (count, count - sum(len(i.names) for i in found if i.kind == "kernels" and i.family == family))
        for family, count in kernels.items()
    }
    reasons.sort(key=lambda reason: -reason[0])
    told = [text for _, text in reasons]
    if any(rank == 3 for rank, _ in reasons):
        return Prediction(prediction="DIFFERENT", reasons=told, notes=notes, kernels=equal)
    if here is None:
        return Prediction(prediction="UNKNOWN", reasons=[unasked or "nobody was asked", *told], notes=notes)
    if not kernels:
        missing = "the run recorded no kernels: it failed, was stopped, or is of an older release"
        return Prediction(prediction="MAY-DIFFER" if told else "UNKNOWN", reasons=[*told, missing], notes=notes)
    return Prediction(prediction="MAY-DIFFER" if told else "EQUAL", reasons=told, notes=notes, kernels=equal)


def _package(change: PackageChange, imported: Collection[str]) -> tuple[int, str]:
    """Return how much a package that differs says, 0 for nothing, and in what words."""
    text = str(change)
    if change.kind == "python":
        return 2, f"{text}: another interpreter"
    if change.kind in ("file", "editable"):
        return 2, f"{text}: Python executes it"
    if change.name in _TALK_ONLY:
        return 0, f"{text}: computes nothing"
    below = change.kind == "conda" or change.name.startswith(_BELOW)
    if imported and change.name not in imported and not below:
        return 0, f"{text}: not imported by the run"
    return 2, f"{text}: {'imported by the run' if change.name in imported else 'may be used by the run'}"


def _numeric(
    item: Difference,
    found: list[Difference],
    framework: str | None,
    recorded: Numeric,
    *,
    metrics: Collection[str],
    tried: bool,
) -> tuple[int, str]:
    """Return how much a numeric difference says, and in what words."""
    if item.kind == "harmless":
        return 0, f"{item}: no library of the run computes by it"
    if item.kind == "machine":
        return (0, f"{item}: the kernels tell what comes of it") if tried else (2, str(item))
    if item.kind != "kernels" and item.what.endswith(".version"):
        return 0, f"{item}: see the packages"
    if item.kind != "kernels":
        return 2, str(item)
    why = explanations(found, item.family)
    text = f"{item} give other bits here" + (f" ({'; '.join(why)})" if why else "")
    trained = _trained_by(framework, recorded)
    if trained is not None and item.family not in trained:
        return 2, f"{text}; the run was trained with {framework}"
    return (3 if trained is not None and _is_used(item, recorded, metrics) else 2), text


def _trained_by(name: str | None, recorded: Numeric) -> Collection[str] | None:
    """Return whose kernels make a checkpoint's numbers, by the framework whose callback saved it; None if unknown."""
    framework, facts = find(name), recorded.libraries.get(str(name))
    if framework is not None and framework.numbers.trained_by is None and facts is not None:
        framework = find(facts.get("backend"))
    return None if framework is None else framework.numbers.trained_by


def _is_used(item: Difference, recorded: Numeric, metrics: Collection[str]) -> bool:
    """True if the run was trained with a kernel that gives other bits, whatever the sizes of its arrays."""
    parts = [one.lower().replace("_", "") for one in [*recorded.parts, *metrics]]
    sizes = Counter(name.removesuffix(" small").removesuffix(" large") for name in item.names)
    for name, words in _SURE.items():
        everywhere = sizes[name] >= (2 if name == "conv2d" else 1)
        if everywhere and any(word in part for part in parts for word in words):
            return True
    return False
