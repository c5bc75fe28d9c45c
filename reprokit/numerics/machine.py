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
from typing import Any

import psutil

__all__ = ["NUMERIC_VARIABLES", "machine_facts"]

# not all of TF_: TF_TOKEN_… and TF_VAR_… are secrets of Terraform
NUMERIC_VARIABLES = re.compile(
    r"(OMP_|GOMP_|KMP_|MKL_|OPENBLAS|GOTO_NUM|BLIS|VECLIB|NUMEXPR|ATEN_|TORCH_MKLDNN|TORCH_ALLOW_TF32|DNNL_|ONEDNN_|CUBLAS"
    r"|CUDNN|NVIDIA_TF32|NPY_|XLA_|KERAS_BACKEND|CUDA_VISIBLE_DEVICES|GLIBC_TUNABLES|LD_PRELOAD"
    r"|TF_(NUM|DETERMINISTIC|CUDNN|CUBLAS|ENABLE|DISABLE|USE|XLA|ONEDNN|MKL|FORCE|GPU|OVERRIDE|FP16)"
    r"|PYTHONHASHSEED|PYTHONOPTIMIZE|LC_ALL|LC_NUMERIC|LANG$|TZ$)"
)
_LEVELS = (
    {"sse4_2", "ssse3"},
    {"avx2", "bmi2", "fma", "f16c"},
    {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"},
)
"""Flags that the levels 2, 3 and 4 of x86-64 ask for, as far as `_ISA` keeps them."""
_ISA = re.compile(r"^(sse|ssse|avx|fma|f16c|bmi|amx|neon|asimd|sve)")


def machine_facts(variables: dict[str, str], *, python: str) -> dict[str, Any]:
    """Return what is known without importing a framework; the script's process adds what its frameworks report.

    Args:
        variables: The child's whole environment; only allowlisted names are kept.
        python: The version that the script runs with.
    """
    cpu, flags = _cpu()
    return {
        "os": platform.system(),
        "kernel": platform.release(),
        "libc": " ".join(platform.libc_ver()),
        "python": python,
        "hostname": platform.node(),
        "memory_bytes": psutil.virtual_memory().total,
        "cores": os.cpu_count(),
        "gpus": _gpus(),
        "driver": _driver(),
        "virtual": _virtual(flags),
        "numeric": {
            "machine": platform.machine(),
            "cpu": cpu,
            "isa": flags,
            "variables": {key: value for key, value in sorted(variables.items()) if NUMERIC_VARIABLES.match(key)},
        },
    }


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
