"""What decides floating-point bits, as the loaded frameworks say it. Loads none of them."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

__all__ = ["numeric_facts"]


def numeric_facts() -> dict[str, Any]:
    """Return what the loaded frameworks say decides their bits: builds, instruction sets, threads, devices."""
    facts: dict[str, Any] = {"numpy": np.__version__}
    if (torch := sys.modules.get("torch")) is not None:
        facts["torch"] = {
            "version": str(torch.__version__),
            "threads": torch.get_num_threads(),
            "capability": torch.backends.cpu.get_cpu_capability(),
            "cuda": torch.version.cuda,
            "devices": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
            if torch.cuda.is_available()
            else [],
        }
    if (tensorflow := sys.modules.get("tensorflow")) is not None and hasattr(tensorflow, "__version__"):
        facts["tensorflow"] = {"version": tensorflow.__version__}
    if (keras := sys.modules.get("keras")) is not None and hasattr(keras, "__version__"):
        facts["keras"] = {"version": keras.__version__, "backend": keras.config.backend()}
    if (sklearn := sys.modules.get("sklearn")) is not None and hasattr(sklearn, "__version__"):
        facts["sklearn"] = {"version": sklearn.__version__}
    return facts
