"""What is known of each framework: one object each, and nothing of it changed by where it stands."""

from __future__ import annotations

import ast
import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from reprokit.client.facts.asked import families
from reprokit.client.frameworks import Framework, find, frameworks
from reprokit.numerics.machine import NUMERIC_VARIABLES
from tests.conftest import ROOT, lean

_HERE = ROOT / "reprokit" / "client" / "frameworks"
_CALLBACKS = ROOT / "reprokit" / "callbacks"
_EVERY = list(frameworks().values())
_OF_CHECKPOINTS = {"pytorch": "torch"}  # callbacks that are called otherwise than their checkpoints


def _known(asked: str) -> list[str]:
    return [one.name for one in families().get(asked, [])]


@pytest.mark.parametrize(
    "callback", sorted(path.name for path in _CALLBACKS.iterdir() if (path / "__init__.py").exists())
)
def test_every_callback_has_a_framework(callback: str) -> None:
    framework = find(_OF_CHECKPOINTS.get(callback, callback))
    assert framework is not None
    assert f"\n{framework.extra} = [" in (ROOT / "pyproject.toml").read_text()


@pytest.mark.parametrize("framework", _EVERY, ids=lambda one: one.name)
def test_what_a_framework_names_is_there(framework: Framework) -> None:
    named = [told.writer for told in framework.stored.formats.values()]
    named += [framework.stored.model] if framework.stored.model else []
    for place in named:
        module, _, function = place.partition(":")
        source = ast.parse((ROOT / f"{module.replace('.', '/')}.py").read_text())
        assert function in {node.name for node in source.body if isinstance(node, ast.FunctionDef)}, place
    if framework.probe:
        hooks = set(vars(importlib.import_module(framework.probe)))
        assert hooks & {"rng", "find", "generators", "facts"}
    for library, kernels in framework.numbers.kernels.items():
        assert callable(kernels), library


def test_looking_them_up_imports_the_standard_library_alone() -> None:
    code = "from reprokit.client.frameworks import frameworks; import sys; frameworks(); print(*sys.modules)"
    bare = subprocess.run([sys.executable, "-c", "import sys; print(*sys.modules)"], capture_output=True, text=True)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    third = {name.partition(".")[0] for name in set(done.stdout.split()) - set(bare.stdout.split())}
    assert third - set(sys.stdlib_module_names) == {"reprokit"}


def test_each_file_is_found_by_its_name_and_nothing_else_is() -> None:
    assert set(frameworks()) == {path.stem for path in _HERE.glob("*.py") if path.stem != "__init__"}
    assert len({one.rank for one in _EVERY}) == len(_EVERY)
    for stranger in ("", "os", "__init__", None, 3, ["torch"]):
        assert find(stranger) is None


def test_what_is_stored_of_them_keeps_its_names() -> None:
    assert (_known("arrays"), _known("torch"), _known("tensorflow")) == (
        ["numpy", "scipy", "sklearn"], ["torch", "keras"], ["tensorflow", "keras"],
    )  # fmt: skip
    kernels = {one.name: (*one.numbers.kernels,) for one in _EVERY if one.numbers.kernels}
    before = {"numpy": ("numpy",), "scipy": ("scipy",), "torch": ("torch", "cuda"), "tensorflow": ("tensorflow",)}
    assert kernels.items() >= before.items()
    labels = {label: key for one in _EVERY for label, key in one.stored.generators.items()}
    assert labels.items() >= {
        ("Python RNG", "python"), ("NumPy RNG", "numpy"), ("torch RNG", "torch"), ("CUDA RNG", "cuda"),
        ("Keras RNG", "keras"),
    }  # fmt: skip
    assert {one.name for one in _EVERY if one.stored.made_by == "pt"} == {"torch", "lightning", "transformers"}


@pytest.mark.parametrize(
    ("name", "recorded"),
    [
        ("OMP_NUM_THREADS", True), ("ATEN_CPU_CAPABILITY", True), ("TORCH_ALLOW_TF32_CUBLAS_OVERRIDE", True),
        ("TORCH_HOME", False), ("TF_ENABLE_ONEDNN_OPTS", True), ("TF_TOKEN_app", False), ("TF_VAR_key", False),
        ("KERAS_BACKEND", True), ("KERAS_HOME", False), ("NPY_DISABLE_CPU_FEATURES", True), ("XLA_FLAGS", True),
        ("LANG", True), ("LANGUAGE", False), ("AWS_SECRET_ACCESS_KEY", False), ("CUDNN_LICENSE_KEY", False),
        ("OMP_TOKEN", False), ("MKL_PASSWORD", False), ("XLA_SECRET", False), ("NPY_TOKEN", False),
    ],
)  # fmt: skip
def test_variables_that_decide_numbers_are_recorded_and_secrets_are_not(name: str, recorded: bool) -> None:
    assert (name in NUMERIC_VARIABLES) is recorded


@pytest.mark.parametrize("framework", _EVERY, ids=lambda one: one.name)
def test_what_a_run_is_given_is_recorded(framework: Framework) -> None:
    given = framework.variables
    assert {*given.strict, *given.fixed, *given.threads} <= NUMERIC_VARIABLES


@pytest.mark.parametrize("name", ["torch", "lightning", "transformers"])
def test_a_notebook_of_pytorch_weights_says_how_they_get_into_a_model(name: str) -> None:
    framework = find(name)
    assert framework is not None and "load_into(model)" in framework.stored.opening


def test_seeds_at_start_up_are_of_known_frameworks() -> None:
    source = Path(ROOT / "reprokit" / "client" / "boot" / "sitecustomize.py").read_text()
    actions = next(
        node.value
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "seeded"
    )
    assert isinstance(actions, ast.Dict)
    seeded = {ast.literal_eval(key).partition(".")[0] for key in actions.keys if key is not None}
    assert seeded - {"random"} <= set(frameworks())


def test_strict_makes_torch_deterministic_and_its_compiler_too_once_that_is_loaded() -> None:
    torch = find("torch")
    assert torch is not None
    pytest.importorskip("torch", reason="the torch extra is not installed")
    code = (
        "import sys, torch; before = 'torch._inductor.config' in sys.modules; import torch._inductor.config as config;"
        "print(torch.get_deterministic_debug_mode(), torch.are_deterministic_algorithms_enabled(), before,"
        "config.deterministic)"
    )
    told = {"PYTHONPATH": str(ROOT / "reprokit" / "client" / "boot"), "REPROKIT_RUN_ID": "x", "REPROKIT_SEED": "3"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True,
        env={**os.environ, **torch.variables.strict, **told, "REPROKIT_DETERMINISM": "strict"},
    )  # fmt: skip
    assert done.stdout.split() == ["2", "True", "False", "True"]


def test_keras_is_seeded_as_by_its_own_function_and_tensorflow_is_loaded_by_nobody_but_the_script() -> None:
    pytest.importorskip("keras", reason="the keras extra is not installed")
    pytest.importorskip("torch", reason="the torch extra is not installed")
    draw = (
        "import random, sys, numpy as np, keras; {}\n"
        "def drawn(): return [random.random(), np.random.rand(), keras.random.uniform((2,)).tolist(),"
        "float(keras.initializers.GlorotUniform()((2, 2)).sum())]\n"
        "print(drawn(), 'tensorflow' in sys.modules)"
    )
    told = {"PYTHONPATH": str(ROOT / "reprokit" / "client" / "boot"), "REPROKIT_RUN_ID": "x", "REPROKIT_SEED": "3"}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", lean(draw.format(more))], stdout=subprocess.PIPE, text=True,
            env={**os.environ, **told, "REPROKIT_DETERMINISM": determinism, "KERAS_BACKEND": "torch"},
        )
        for determinism, more in (("seeded", ""), ("off", "keras.utils.set_random_seed(3)"))
    ]  # fmt: skip
    ours, its = (process.communicate(timeout=120)[0].strip() for process in started)
    assert ours.endswith("] False") and its.endswith("] True")
    assert ours.removesuffix("False") == its.removesuffix("True")
