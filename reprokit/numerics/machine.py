"""Facts about this machine. The *numeric class* is what decides floating-point bits; the rest is for people.

Never the whole environment: variables come from an allowlist, because secrets live in the others.
"""

from __future__ import annotations

import ctypes
import os
import platform
import re
import sys
from pathlib import Path

import psutil

from reprokit.client.frameworks import frameworks
from reprokit.schema.machine import Machine, Numeric

__all__ = ["NUMERIC_VARIABLES", "machine_facts"]

_VARIABLES = (
    # OpenMP 5.2, chapter 21
    "OMP_AFFINITY_FORMAT", "OMP_ALLOCATOR", "OMP_CANCELLATION", "OMP_DEFAULT_DEVICE", "OMP_DISPLAY_AFFINITY",
    "OMP_DISPLAY_ENV", "OMP_DYNAMIC", "OMP_MAX_ACTIVE_LEVELS", "OMP_MAX_TASK_PRIORITY", "OMP_NESTED", "OMP_NUM_TEAMS",
    "OMP_NUM_THREADS", "OMP_PLACES", "OMP_PROC_BIND", "OMP_SCHEDULE", "OMP_STACKSIZE", "OMP_TARGET_OFFLOAD",
    "OMP_TEAMS_THREAD_LIMIT", "OMP_THREAD_LIMIT", "OMP_WAIT_POLICY",
    # libgomp; the OpenMP of LLVM and Intel
    "GOMP_CPU_AFFINITY", "GOMP_SPINCOUNT", "GOMP_STACKSIZE", "GOMP_RTEMS_THREAD_POOLS",
    "KMP_AFFINITY", "KMP_ALL_THREADS", "KMP_BLOCKTIME", "KMP_DETERMINISTIC_REDUCTION", "KMP_DUPLICATE_LIB_OK",
    "KMP_DYNAMIC_MODE", "KMP_FORCE_REDUCTION", "KMP_HW_SUBSET", "KMP_INIT_AT_FORK", "KMP_LIBRARY", "KMP_SETTINGS",
    "KMP_STACKSIZE", "KMP_TOPOLOGY_METHOD", "KMP_WARNINGS",
    # MKL, OpenBLAS, BLIS, Accelerate, numexpr
    "MKL_CBWR", "MKL_DEBUG_CPU_TYPE", "MKL_DISABLE_FAST_MM", "MKL_DOMAIN_NUM_THREADS", "MKL_DYNAMIC",
    "MKL_ENABLE_INSTRUCTIONS", "MKL_INTERFACE_LAYER", "MKL_NUM_STRIPES", "MKL_NUM_THREADS", "MKL_SERVICE_FORCE_INTEL",
    "MKL_THREADING_LAYER", "MKL_VERBOSE",
    "OPENBLAS_CORETYPE", "OPENBLAS_DEFAULT_NUM_THREADS", "OPENBLAS_L2_SIZE", "OPENBLAS_MAIN_FREE",
    "OPENBLAS_NUM_THREADS", "OPENBLAS_THREAD_TIMEOUT", "OPENBLAS_VERBOSE", "GOTOBLAS_MAIN_FREE", "GOTO_NUM_THREADS",
    "BLIS_ARCH_DEBUG", "BLIS_ARCH_TYPE", "BLIS_IC_NT", "BLIS_IR_NT", "BLIS_JC_NT", "BLIS_JR_NT", "BLIS_MODEL_TYPE",
    "BLIS_NUM_THREADS", "BLIS_PC_NT", "BLIS_THREAD_IMPL",
    "VECLIB_MAXIMUM_THREADS", "NUMEXPR_MAX_THREADS", "NUMEXPR_NUM_THREADS",
    # oneDNN, by its name of now and of before
    *(
        f"{prefix}_{name}"
        for prefix in ("DNNL", "ONEDNN")
        for name in ("CPU_ISA_HINTS", "DEFAULT_FPMATH_MODE", "MAX_CPU_ISA", "PRIMITIVE_CACHE_CAPACITY", "VERBOSE")
    ),
    # CUDA
    "CUBLASLT_WORKSPACE_SIZE", "CUBLAS_WORKSPACE_CONFIG", "CUDA_DEVICE_ORDER", "CUDA_LAUNCH_BLOCKING",
    "CUDA_VISIBLE_DEVICES", "CUDNN_CONV_WSCAP_DBG", "CUDNN_LOGDEST_DBG", "CUDNN_LOGINFO_DBG", "CUDNN_LOGLEVEL_DBG",
    "CUBLAS_LOGDEST_DBG", "CUBLAS_LOGINFO_DBG", "NVIDIA_TF32_OVERRIDE",
    # the C library and Python
    "GLIBC_TUNABLES", "LD_PRELOAD", "PYTHONHASHSEED", "PYTHONOPTIMIZE", "LC_ALL", "LC_NUMERIC", "LANG", "TZ",
)  # fmt: skip
NUMERIC_VARIABLES = frozenset(_VARIABLES).union(*(one.variables.numeric for one in frameworks().values()))
"""Variables that decide numbers, each by its whole name: whatever else begins as they do may be a secret."""
_LEVELS = (
    {"sse4_2", "ssse3"},
    {"avx2", "bmi2", "fma", "f16c"},
    {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"},
)
"""Flags that the levels 2, 3 and 4 of x86-64 ask for, as far as `_ISA` keeps them."""
_ISA = re.compile(r"^(sse|ssse|avx|fma|f16c|bmi|amx|neon|asimd|sve)")


def machine_facts(variables: dict[str, str], *, python: str) -> Machine:
    """Return what is known without importing a framework; the script's process adds what its frameworks report.

    Args:
        variables: The child's whole environment; only allowlisted names are kept.
        python: The version that the script runs with.
    """
    cpu, flags = _cpu()
    return Machine(
        os=platform.system(),
        kernel=platform.release(),
        libc=" ".join(platform.libc_ver()),
        python=python,
        hostname=platform.node(),
        memory_bytes=psutil.virtual_memory().total,
        cores=os.cpu_count(),
        gpus=_gpus(),
        driver=_driver(),
        virtual=_virtual(flags),
        numeric=Numeric(
            machine=platform.machine(),
            cpu=cpu,
            isa=flags,
            variables={key: value for key, value in sorted(variables.items()) if key in NUMERIC_VARIABLES},
        ),
    )


def _cpu() -> tuple[str, list[str]]:
    """Return the CPU's model and its vector flags, from /proc/cpuinfo where there is one."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor(), []
    model = re.search(r"^model name\s*:\s*(.*)$", text, re.MULTILINE)
    flags = re.search(r"^(?:flags|Features)\s*:\s*(.*)$", text, re.MULTILINE)
    names = sorted(flag for flag in (flags[1].split() if flags else []) if _ISA.match(flag))
    return (model[1] if model else platform.processor()), names


def _virtual(flags: list[str]) -> dict[str, str]:
    """Return what conda calls virtual packages: of the system, not installed, and decisive for what can be.

    `__archspec` is the level of x86-64 that the processor reaches, elsewhere the architecture.
    Source: https://docs.conda.io/projects/conda/en/stable/user-guide/tasks/manage-virtual.html
    """
    version = re.match(r"\d+(\.\d+)*", platform.release())
    found = {
        "linux": {"__linux": version[0] if version else "0", "__unix": "0"},
        "darwin": {"__osx": platform.mac_ver()[0], "__unix": "0"},
        "win32": {"__win": "0"},
    }.get(sys.platform, {})
    library, number = platform.libc_ver()
    if library == "glibc":
        found["__glibc"] = number
    level = 1
    for wanted in _LEVELS if platform.machine() == "x86_64" else ():
        if not wanted <= set(flags):
            break
        level += 1
    found["__archspec"] = f"x86_64_v{level}" if platform.machine() == "x86_64" else platform.machine()
    if (cuda := _cuda()) is not None:
        found["__cuda"] = cuda
    return dict(sorted(found.items()))


def _cuda() -> str | None:
    """Return the newest CUDA that the installed driver serves; nothing is initialised on the device."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
        version = ctypes.c_int(0)
        if driver.cuDriverGetVersion(ctypes.byref(version)) != 0:
            return None
    except (OSError, AttributeError):
        return None
    return f"{version.value // 1000}.{version.value % 1000 // 10}"


def _driver() -> str | None:
    """Return the version of the NVIDIA driver's kernel module."""
    try:
        found = re.search(r"Kernel Module.*?\s(\d+\.\d+(?:\.\d+)?)\s", Path("/proc/driver/nvidia/version").read_text())
    except OSError:
        return None
    return found[1] if found else None


def _gpus() -> list[str]:
    """Return what the NVIDIA driver says about its devices, without starting a process."""
    found = []
    for file in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information")):
        try:
            model = re.search(r"Model:\s*(.*)", file.read_text())
        except OSError:
            continue
        found.append(model[1].strip() if model else "unknown NVIDIA device")
    return found
