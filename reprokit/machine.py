"""Facts about this machine. The *numeric class* is what decides floating-point bits; the rest is for people.

Never the whole environment: variables come from an allowlist, because secrets live in the others.
"""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path
from typing import Any

import psutil

__all__ = ["NUMERIC_VARIABLES", "machine_facts"]

NUMERIC_VARIABLES = re.compile(
    r"(OMP|KMP|MKL|OPENBLAS|BLIS|VECLIB|NUMEXPR|ATEN|DNNL|ONEDNN|CUBLAS|CUDNN|NVIDIA_TF32|NPY_DISABLE_CPU|XLA|TF_|KERAS_BACKEND"
    r"|CUDA_VISIBLE_DEVICES|PYTHONHASHSEED|PYTHONOPTIMIZE|LC_ALL|LC_NUMERIC|LANG$|TZ$)"
)
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
