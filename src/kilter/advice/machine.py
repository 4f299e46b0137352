"""The memory at hand."""

from __future__ import annotations

import torch

from kilter.advice.rules import Machine


def here() -> Machine:
    """Free memory of the first GPU, else of the machine."""
    if torch.cuda.is_available():
        free, _ = torch.cuda.mem_get_info()
        return Machine(free / 1e9, torch.cuda.get_device_name())
    import psutil

    return Machine(psutil.virtual_memory().available / 1e9, "CPU, free memory")
