"""What decides floating-point bits, as the loaded libraries say it: effective, not declared. Loads none of them."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

__all__ = ["LIBRARIES", "note_parts", "numeric_facts"]

LIBRARIES = ("numpy", "scipy", "sklearn", "torch", "tensorflow", "keras")
"""Those that say something here, in an order in which they can be imported."""

_PARTS: set[str] = set()
_BLAS = ("openblas", "mkl_rt", "libblis")


def note_parts(parts: Iterable[object]) -> None:
    """Note of what kinds a trained model's layers, optimisers and losses are: they tell which kernels were used."""
    _PARTS.update(part if isinstance(part, str) else type(part).__name__ for part in parts)


def numeric_facts(*, whole: bool = False) -> dict[str, Any]:
    """Return what the loaded libraries say decides their bits: builds, instruction sets, threads, switches, devices.

    Args:
        whole: Ask the libraries below them too (BLAS, MKL); what that starts up stays, so only as a script ends.
    """
    makers: dict[str, Callable[[Any, bool], dict[str, Any]]] = {
        "numpy": _numpy, "torch": _torch, "tensorflow": _tensorflow, "keras": _keras,
    }  # fmt: skip
    facts: dict[str, Any] = {}
    for name in LIBRARIES:
        module = sys.modules.get(name)
        if module is not None and isinstance(getattr(module, "__version__", None), str):
            facts[name] = {"version": str(module.__version__), **makers.get(name, _nothing)(module, whole)}
    if whole and (blas := dict(_blas())):
        facts["blas"] = blas
    if _PARTS:
        facts["parts"] = sorted(_PARTS)
    return facts


def _nothing(_module: Any, _whole: bool) -> dict[str, Any]:
    return {}


def _numpy(_module: Any, whole: bool) -> dict[str, Any]:
    core = sys.modules.get("numpy._core._multiarray_umath") or sys.modules.get("numpy.core._multiarray_umath")
    features, compiled = getattr(core, "__cpu_features__", {}), getattr(core, "__cpu_dispatch__", [])
    return {"simd": [name for name in compiled if features.get(name)]} if whole else {}


def _torch(torch: Any, whole: bool) -> dict[str, Any]:
    found = {
        "threads": torch.get_num_threads(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "cuda": torch.version.cuda,
        "devices": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        if torch.cuda.is_available()
        else [],
    }
    if not whole:
        return found
    found |= {
        "commit": str(torch.version.git_version)[:12],
        "interop_threads": torch.get_num_interop_threads(),
        "libraries": [
            line.strip(" -")
            for line in torch.__config__.show().splitlines()
            if "Math Kernel" in line or "DNN v" in line
        ],
        "mkldnn": bool(torch.backends.mkldnn.enabled and torch.backends.mkldnn.is_available()),
        "deterministic": bool(torch.are_deterministic_algorithms_enabled()),
        "precision": str(torch.get_float32_matmul_precision()),
        "flush_denormal": torch.tensor([1e-40], dtype=torch.float32, device="cpu").mul(1.0).item() == 0.0,
    }
    if found["devices"]:
        found |= {
            "cudnn": torch.backends.cudnn.version(),
            "capabilities": [list(torch.cuda.get_device_capability(i)) for i in range(torch.cuda.device_count())],
            "tf32": [bool(torch.backends.cuda.matmul.allow_tf32), bool(torch.backends.cudnn.allow_tf32)],
            "cudnn_switches": [bool(torch.backends.cudnn.benchmark), bool(torch.backends.cudnn.deterministic)],
        }
    library = _loaded(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so")
    if library is not None and hasattr(library, "mkl_serv_cbwr_get"):
        branch = int(library.mkl_serv_cbwr_get(1))  # 1 asks for the branch, as MKL_CBWR_BRANCH in mkl_service.h
        found["mkl_branch"] = {1: "off", 2: "auto", 3: "compatible"}.get(branch, str(branch))
    return found


def _tensorflow(tensorflow: Any, whole: bool) -> dict[str, Any]:
    if not whole or not hasattr(tensorflow, "config"):
        return {}
    found: dict[str, Any] = {
        "intra_op_threads": tensorflow.config.threading.get_intra_op_parallelism_threads()
        or _number(os.environ.get("TF_NUM_INTRAOP_THREADS")),
        "inter_op_threads": tensorflow.config.threading.get_inter_op_parallelism_threads()
        or _number(os.environ.get("TF_NUM_INTEROP_THREADS")),
    }
    port = sys.modules.get("tensorflow.python.util._pywrap_util_port")
    if port is not None and hasattr(port, "IsMklEnabled"):
        found["onednn"] = bool(port.IsMklEnabled())
    config = sys.modules.get("tensorflow.python.framework.config")
    if config is not None and hasattr(config, "is_op_determinism_enabled"):
        found["deterministic"] = bool(config.is_op_determinism_enabled())
    build = tensorflow.sysconfig.get_build_info()
    found["build"] = {key: str(build[key]) for key in sorted(build) if key.endswith("_version")}
    return found


def _keras(keras: Any, _whole: bool) -> dict[str, Any]:
    return {"backend": keras.config.backend(), "floatx": keras.config.floatx()} if hasattr(keras, "config") else {}


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isdigit() else None


def _blas() -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield, by file name, what each loaded BLAS says of itself: one file computes otherwise on another CPU."""
    for path in _mapped():
        library = _loaded(path)
        if library is None:
            continue
        found: dict[str, Any] = {}
        for key, name, kind in (
            ("config", "get_config", ctypes.c_char_p),
            ("core", "get_corename", ctypes.c_char_p),
            ("threads", "get_num_threads", ctypes.c_int),
        ):
            for spelling in (f"{p}openblas_{name}{s}" for p in ("scipy_", "") for s in ("64_", "")):
                if hasattr(library, spelling):
                    function = library[spelling]  # not the attribute: another package's declaration of it stays its own
                    function.restype, function.argtypes = kind, ()
                    value = function()
                    found[key] = value.decode(errors="replace") if isinstance(value, bytes) else value
                    break
        if hasattr(library, "MKL_Get_Max_Threads"):
            found["threads"] = int(library.MKL_Get_Max_Threads())
        yield path.name, found


def _mapped() -> list[Path]:
    """Return the BLAS libraries that are mapped into this process."""
    try:
        lines = Path("/proc/self/maps").read_text().splitlines()
    except OSError:
        return []
    paths = {line.split(maxsplit=5)[5] for line in lines if line.count("/") and len(line.split(maxsplit=5)) == 6}
    return [Path(path) for path in sorted(paths) if any(name in Path(path).name for name in _BLAS)]


def _loaded(path: Path) -> ctypes.CDLL | None:
    """Return a library that this process has loaded; it is not loaded for the asking."""
    try:
        return ctypes.CDLL(str(path), mode=os.RTLD_NOLOAD | os.RTLD_LAZY)
    except (OSError, AttributeError):
        return None
