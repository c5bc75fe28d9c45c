"""What a process says that `env check` starts in an environment: the same facts that a run's process says at its end.

`python -m reprokit.client.facts.asked QUESTION ANSWER`: two JSON files. Only libraries that are named here are
imported.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from pathlib import Path
from typing import Any

from reprokit.client.facts.fingerprint import fingerprint
from reprokit.client.facts.numeric import numeric_facts

__all__ = ["FAMILIES", "answer"]

_ALSO = {"scipy": ("scipy.linalg", "scipy.linalg.blas", "scipy.special")}
FAMILIES = {
    "arrays": (("numpy", "scipy", "sklearn"), ("libm", "numpy", "scipy")),
    "torch": (("torch", "keras"), ("torch", "cuda")),
    "tensorflow": (("tensorflow", "keras"), ("tensorflow",)),
}
"""Libraries that one process imports, in this order, and whose kernels it executes."""


def answer(question: dict[str, Any]) -> dict[str, Any]:
    """Import what a run had imported, set what its script had set, and say what comes of it.

    Args:
        question: `family`, `libraries` (those of it that are wanted) and `switches`, as
            `reprokit.numerics.query_environment` makes them.
    """
    libraries, kernels = FAMILIES[question["family"]]
    for name in libraries:
        if name in question["libraries"]:
            for module in (name, *_ALSO.get(name, ())):
                importlib.import_module(module)
    switches: dict[str, Any] = question["switches"]
    if "torch" in sys.modules and "torch" in libraries:
        _set_torch(sys.modules["torch"], switches)
    if "tensorflow" in sys.modules and "tensorflow" in libraries:
        _set_tensorflow(sys.modules["tensorflow"], switches)
    facts = numeric_facts(whole=True)
    own = {*libraries, "blas"} if question["family"] == "arrays" else set(libraries)
    return {**{name: value for name, value in facts.items() if name in own}, "fingerprint": fingerprint(kernels)}


def _set_torch(torch: Any, switches: dict[str, Any]) -> None:
    if "threads" in switches:
        torch.set_num_threads(switches["threads"])
    if "interop_threads" in switches:
        torch.set_num_interop_threads(switches["interop_threads"])
    if "deterministic" in switches:
        torch.use_deterministic_algorithms(switches["deterministic"])
    if "mkldnn" in switches:
        torch._C._set_mkldnn_enabled(switches["mkldnn"])
    if "precision" in switches:
        torch.set_float32_matmul_precision(switches["precision"])
    if switches.get("flush_denormal"):
        torch.set_flush_denormal(True)
    if "cuda" in switches and torch.cuda.is_available():
        torch.cuda.init()
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = switches["tf32"]
        torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = switches["cudnn_switches"]


def _set_tensorflow(tensorflow: Any, switches: dict[str, Any]) -> None:
    if "intra_op_threads" in switches:
        tensorflow.config.threading.set_intra_op_parallelism_threads(switches["intra_op_threads"])
    if "inter_op_threads" in switches:
        tensorflow.config.threading.set_inter_op_parallelism_threads(switches["inter_op_threads"])


if __name__ == "__main__":
    os.environ.pop("REPROKIT_SOCKET", None)  # nobody listens there
    Path(sys.argv[2]).write_text(json.dumps(answer(json.loads(Path(sys.argv[1]).read_bytes()))))
