"""Whether a run's bits can be had in an environment, told before it is run there. Facts in, a prediction out.

Three kinds of evidence: the packages, what the libraries say of themselves, and kernels that were executed on both
sides. Packages that the run did not import, and those that compute nothing, are named and predict nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from typing import Any, Literal

import msgspec

from reprokit.numerics.numeric_class import Difference, differences, explanations, kernels_compared
from reprokit.schema.lock import PackageChange

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
    "catboost", "cupy-cuda12x", "cupy-cuda13x", "faiss-cpu", "ggml-python", "jax", "jaxlib", "lightgbm",
    "llama-cpp-python",
    "numba", "numexpr", "onnxruntime", "onnxruntime-gpu", "opencv-contrib-python", "opencv-python",
    "opencv-python-headless", "paddlepaddle", "pillow", "pillow-simd", "polars", "pyarrow", "torchaudio", "torchcodec",
    "torchvision", "xgboost",
}  # fmt: skip
"""Packages that choose their instructions by the processor, and of which no kernel is tried."""

_TRAINED_BY = {
    "torch": {"torch", "cuda"},
    "lightning": {"torch", "cuda"},
    "transformers": {"torch", "cuda"},
    "tensorflow": {"tensorflow"},
    "sklearn": {"numpy", "scipy"},
    "numpy": {"numpy"},
}
"""Whose kernels make a checkpoint's numbers, by the callback that saved it; Keras says so itself."""

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


def predict(
    *,
    packages: list[PackageChange],
    imported: Collection[str],
    recorded: Mapping[str, Any],
    here: Mapping[str, Any] | None,
    framework: str | None,
    metrics: Collection[str],
    changed: Mapping[str, tuple[Any, Any]],
    unseeded: bool = False,
    unasked: str | None = None,
) -> Prediction:
    """Return what is to be expected.

    Args:
        packages: In what the environment differs from the locked one.
        imported: Packages that the run imported; empty if it did not tell.
        recorded, here: The numeric classes; None if the environment here could not be asked, and `unasked` says why.
        framework: Whose callback saved the run's checkpoints.
        metrics: Names of what the run measured.
        changed: What of the execution is to be changed (`threads`): before and after.
        unseeded: The run drew numbers that nobody can draw again.
    """
    reasons: list[tuple[int, str]] = []
    notes: list[str] = []
    for change in packages:
        rank, text = _package(change, imported)
        (reasons.append((rank, text)) if rank else notes.append(text))
    reasons += [(2, f"{name} {a} → {b}") for name, (a, b) in changed.items()]
    reasons += [(2, "execution.determinism is off: what the run drew by chance is not drawn again")] if unseeded else []
    found = differences(recorded, here) if here is not None else []
    kernels = kernels_compared(recorded, here) if here is not None else {}
    explained = {text for item in found if item.kind == "kernels" for text in explanations(found, item.family)}
    untried = sorted(_UNTRIED.intersection(imported))
    if kernels and framework is not None and _TRAINED_BY.get(_trainer(framework, recorded), set()).isdisjoint(kernels):
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
    recorded: Mapping[str, Any],
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
    trained = _TRAINED_BY.get(_trainer(framework, recorded))
    if trained is not None and item.family not in trained:
        return 2, f"{text}; the run was trained with {framework}"
    return (3 if trained is not None and _is_used(item, recorded, metrics) else 2), text


def _trainer(framework: str | None, recorded: Mapping[str, Any]) -> str:
    keras = recorded.get("keras")
    return str(keras.get("backend")) if framework == "keras" and isinstance(keras, dict) else str(framework)


def _is_used(item: Difference, recorded: Mapping[str, Any], metrics: Collection[str]) -> bool:
    """True if the run was trained with a kernel that gives other bits, whatever the sizes of its arrays."""
    told = recorded.get("parts")
    parts = [str(one).lower().replace("_", "") for one in [*(told if isinstance(told, list) else []), *metrics]]
    sizes = Counter(name.removesuffix(" small").removesuffix(" large") for name in item.names)
    for name, words in _SURE.items():
        everywhere = sizes[name] >= (2 if name == "conv2d" else 1)
        if everywhere and any(word in part for part in parts for word in words):
            return True
    return False
