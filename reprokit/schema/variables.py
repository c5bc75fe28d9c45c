"""Which variables a recipe may not set, since programs load code by them; and which are the platform's, not the user's.

Decided here and nowhere else.

A recipe may name variables of its own, so what is listed is what is refused; it is by name, whatever the value, so that
nobody has to see through one. Where nothing of a run is to be executed, `env check`, only variables that decide numbers
go in at all (`numerics.machine`), and of these none that is refused here.
"""

from __future__ import annotations

import re

__all__ = ["looks_secret", "of_platform", "why_refused"]

# what starts so belongs to somebody who looks there for code, or for settings that name code
_PREFIXES = (
    "LD_", "DYLD_", "GCONV_", "_RLD",  # the loader
    "PYTHON", "__PYVENV", "PIP_", "UV_", "CONDA_", "MAMBA_", "PYTEST_", "COVERAGE_", "COV_CORE_", "IPYTHON", "JUPYTER_",
    "BASH_", "ZDOTDIR", "XDG_", "GIT_", "SSH_", "SUDO_", "LESSOPEN", "LESSCLOSE", "DBUS_",
    "NODE_OPTIONS", "NODE_PATH", "NPM_", "npm_", "JAVA_", "_JAVA_", "JDK_", "PERL5", "PERLLIB", "RUBYOPT", "RUBYLIB",
    "GEM_", "LUA_", "PHPRC", "PHP_INI", "R_PROFILE", "R_ENVIRON", "R_LIBS", "R_HOME", "JULIA_", "TCLLIBPATH", "GUILE_",
    "DOTNET_", "CORECLR_", "RUSTC", "CARGO_", "GCC_", "NVCC_", "CMAKE_", "MAKEFLAGS", "MAKEFILES",
    "OPENSSL_", "SASL_", "KRB5_", "GTK_", "GIO_", "QT_", "GST_", "MAGICK_", "VK_", "OCL_", "__EGL_", "LIBGL_", "GBM_",
    "OMP_TOOL", "CUDBG_", "NSYS_", "ROCP", "HSA_TOOLS", "KINETO_", "PJRT_", "PMIX_", "OMPI_", "PRTE_", "I_MPI_", "UCX_",
    "TRITON_", "TORCH_EXTENSIONS", "TORCHINDUCTOR_CACHE", "NUMBA_CACHE", "JAX_COMPILATION_CACHE",
)  # fmt: skip
_NAMES = {
    "PATH", "HOME", "ENV", "SHELL", "SHELLOPTS", "BASHOPTS", "PS4", "PROMPT_COMMAND", "IFS", "CDPATH", "FPATH",
    "EDITOR", "VISUAL", "PAGER", "MANPAGER", "BROWSER", "CLASSPATH", "LOCPATH", "NLSPATH", "VIRTUAL_ENV",
    "CC", "CXX", "CPP", "LD", "AR", "AS", "NVCC", "CFLAGS", "CXXFLAGS", "CPPFLAGS", "LDFLAGS", "CPATH",
    "COMPILER_PATH", "LIBRARY_PATH", "CUDA_HOME", "CUDA_PATH", "ROCM_PATH", "ROCM_HOME", "NCCL_CONF_FILE",
    "FI_PROVIDER_PATH", "MATPLOTLIBRC", "MPLCONFIGDIR",
}  # fmt: skip
# what a library loads it calls so, whosever it is: NCCL_NET_PLUGIN, HDF5_PLUGIN_PATH, CUDA_INJECTION64_PATH, …
_WORDS = re.compile(r"PLUGIN|PLUGGABLE|INJECTION(32|64)|ASKPASS|STARTUP_HOOK|_LIBRAR(Y|IES)(_PATHS?)?$|_INCLUDE_PATH$")
_HARMLESS = {
    "PYTHONHASHSEED",
    "PYTHONUTF8",
    "PYTHONIOENCODING",
    "PYTHONFAULTHANDLER",
    "PYTHONOPTIMIZE",
    "PYTHONDEVMODE",
}
# flags of XLA may name folders to load kernels from and files to write; a value without a dash is a file of flags
_FLAGS = {"XLA_FLAGS", "TF_XLA_FLAGS"}
_NAME = re.compile(r"[A-Za-z_]\w{0,199}", re.ASCII)


# where one is, as whom, on what terminal, in which job of a cluster; and what libraries are set up by, whole names only
_PLATFORM_PREFIXES = (
    "LC_", "CUDA_", "NVIDIA_", "NCCL_", "GLOO_", "ROCR_", "HIP_", "HSA_", "OMP_", "KMP_", "GOMP_", "MKL_", "OPENBLAS_",
    "MALLOC_", "SLURM_", "PBS_", "LSB_", "SGE_", "FLUX_", "TORCHELASTIC_", "PMI_", "REPROKIT_",
)  # fmt: skip
_PLATFORM = {
    "USER", "LOGNAME", "LNAME", "USERNAME", "HOST", "HOSTNAME", "PWD", "OLDPWD", "TERM", "TERMINFO", "COLORTERM",
    "TERM_PROGRAM", "COLUMNS", "LINES", "DISPLAY", "WAYLAND_DISPLAY", "TMPDIR", "TEMP", "TMP", "SHLVL", "_", "LANG",
    "LANGUAGE", "TZ", "NO_COLOR", "FORCE_COLOR", "CLICOLOR", "CI", "SSL_CERT_FILE", "SSL_CERT_DIR", "CURL_CA_BUNDLE",
    "REQUESTS_CA_BUNDLE", "RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "NODE_RANK", "GROUP_RANK",
    "MASTER_ADDR", "MASTER_PORT", "TORCH_HOME", "HF_HOME", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "HF_DATASETS_CACHE",
    "HF_DATASETS_OFFLINE", "HUGGINGFACE_HUB_CACHE", "TRANSFORMERS_CACHE", "TRANSFORMERS_OFFLINE", "KERAS_HOME",
    "KERAS_BACKEND", "TFHUB_CACHE_DIR", "TFDS_DATA_DIR", "TF_CPP_MIN_LOG_LEVEL", "TOKENIZERS_PARALLELISM",
    "HYDRA_FULL_ERROR",
}  # fmt: skip
_SECRET = re.compile(
    r"(^|_)(API_?KEY|KEY|TOKEN|SECRETS?|PASS|PASSWORD|PASSWD|PASSPHRASE|PWD|CREDENTIALS?|AUTH|COOKIE|PRIVATE|DSN|PAT)(_|$)",
    re.IGNORECASE,
)


def of_platform(name: str) -> bool:
    """True for a variable that says where and on what a program runs, or by which it finds its own parts."""
    if name in ("PWD", "OLDPWD"):
        return True
    if looks_secret(name):
        return False
    known = name in _PLATFORM or name in _NAMES or name in _HARMLESS or name in _FLAGS
    return known or name.startswith((*_PLATFORM_PREFIXES, *_PREFIXES)) or name.lower().endswith("_proxy")


def looks_secret(name: str) -> bool:
    """True for a variable whose name says that its value is nobody's business."""
    return _SECRET.search(name) is not None


def why_refused(name: str, value: str) -> str | None:
    """Return why a recipe, or a lock, may not set a variable; None if it may."""
    if not _NAME.fullmatch(name) or name.startswith("REPROKIT_"):
        return "is not a variable that a recipe may set"
    if "\0" in value:
        return "has a value with a NUL"
    if name in _HARMLESS:
        return None
    if name in _NAMES or name.startswith(_PREFIXES) or _WORDS.search(name):
        return "may not be set by a recipe: programs load code by it"
    if name in _FLAGS and any("/" in flag or "\\" in flag or not flag.startswith("--") for flag in value.split()):
        return "may only hold flags that name no file"
    return None
