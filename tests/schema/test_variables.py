"""Which variables a recipe may set."""

from __future__ import annotations

import pytest

from reprokit.errors import RecipeError
from reprokit.schema.recipe import from_plain
from reprokit.schema.variables import why_refused

LOADING = (
    "LD_PRELOAD", "LD_AUDIT", "LD_LIBRARY_PATH", "DYLD_INSERT_LIBRARIES", "GCONV_PATH", "PYTHONPATH", "PYTHONSTARTUP",
    "PYTHONHOME", "PYTHONWARNINGS", "PYTHONBREAKPOINT", "PATH", "HOME", "ENV", "BASH_ENV", "BASH_FUNC_ls", "GIT_SSH",
    "GIT_EXTERNAL_DIFF", "XDG_CONFIG_HOME", "NODE_OPTIONS", "JAVA_TOOL_OPTIONS", "_JAVA_OPTIONS", "PERL5OPT", "RUBYOPT",
    "OPENSSL_CONF", "HDF5_PLUGIN_PATH", "NCCL_NET_PLUGIN", "NCCL_TUNER_PLUGIN", "TF_PLUGGABLE_DEVICE_LIBRARY_PATH",
    "OMP_TOOL_LIBRARIES", "CUDA_INJECTION64_PATH", "PJRT_NAMES_AND_LIBRARY_PATHS", "TRITON_PTXAS_PATH", "CXX",
    "IPYTHONDIR", "COVERAGE_PROCESS_START", "SSH_ASKPASS", "DOTNET_STARTUP_HOOKS",
)  # fmt: skip
FINE = (
    "KERAS_BACKEND", "OMP_PROC_BIND", "MKL_CBWR", "TF_ENABLE_ONEDNN_OPTS", "CUBLAS_WORKSPACE_CONFIG", "NODE_RANK",
    "PYTHONHASHSEED", "CUDA_VISIBLE_DEVICES", "GLIBC_TUNABLES", "HF_HOME", "MARK", "DATA_PATH", "NOISE_INJECTION",
    "PRELOAD_DATA", "R_SQUARED", "PATHS", "LDA_TOPICS", "MAKE_PLOTS", "lower_case",
)  # fmt: skip


@pytest.mark.parametrize("name", LOADING)
def test_a_variable_by_which_programs_load_code_is_refused(name: str) -> None:
    recipe = {"name": "t", "code": {"entrypoint": "t.py"}, "execution": {"variables": {name: "x"}}}
    with pytest.raises(RecipeError) as caught:
        from_plain(recipe)
    told = f"recipe: execution.variables: {name!r} may not be set by a recipe: programs load code by it."
    assert caught.value.message == told


def test_variables_of_numbers_and_of_one_s_own_may_be_set() -> None:
    assert {name: why_refused(name, "1") for name in FINE} == dict.fromkeys(FINE)


@pytest.mark.parametrize(
    ("value", "fine"),
    [
        ("", True),
        ("--xla_gpu_deterministic_ops=true --xla_cpu_enable_fast_math=false", True),
        ("--xla_gpu_cuda_data_dir=/tmp/x", False),
        ("--xla_dump_to=../x", False),
        ("flags.txt", False),
    ],
)
def test_flags_of_xla_name_no_file(value: str, fine: bool) -> None:
    assert why_refused("XLA_FLAGS", value) == (None if fine else "may only hold flags that name no file")
