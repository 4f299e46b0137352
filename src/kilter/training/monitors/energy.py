"""Energy loss of the last layer, a white-box sign of reward hacking.

    dE = mean over tokens of |h_in|_1 - |h_out|_1,  h_in, h_out: states before and after the last layer

Miao et al. 2025, "The energy loss phenomenon in RLHF": it grows when a policy starts to exploit its reward.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from kilter.models.forward import Scorer


class EnergyProbe:
    """Reads the last decoder layer while it trains; sampling and scoring are not counted.

    `idle`: whether the present forward is of no row.
    """

    def __init__(self, scorer: Scorer, idle: Callable[[], bool] = lambda: False) -> None:
        self.total, self.count, self.idle = 0.0, 0, idle
        layers = [
            child
            for child in scorer._base().get_decoder().modules()
            if isinstance(child, nn.ModuleList) and len(child) > 0
        ]
        # The last decoder layer: its states before and after carry the sign.
        if layers:
            layers[0][-1].register_forward_hook(self._see, with_kwargs=True)

    def _see(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        before = args[0] if args else kwargs.get("hidden_states")
        after = output[0] if isinstance(output, tuple) else output
        # Only the forward that trains is looked at, once per token.
        if not module.training or before is None or not torch.is_grad_enabled() or self.idle():
            return
        with torch.no_grad():
            gap = before.float().abs().sum(-1) - after.float().abs().sum(-1)
            self.total += float(gap.sum())
            self.count += gap.numel()

    def take(self) -> tuple[float, int]:
        """The sum since the last call, and over how many tokens; none when nothing trained."""
        found = self.total, self.count
        self.total, self.count = 0.0, 0
        return found
