"""Policy and critic as one module, so that one forward, one wrapper and one optimizer serve both."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from kilter.batch import Batch, Outputs
from kilter.models.forward import Scorer


class ActorCritic(nn.Module):
    """`policy` gives log-probs and entropy, `critic` (a sequence classifier) a value per token."""

    def __init__(self, policy: Scorer, critic: Scorer) -> None:
        super().__init__()
        self.policy, self.critic = policy, critic
        self.mean, self.deviation = 0.0, 1.0

    def adopt(self, mean: float, deviation: float) -> None:
        """Makes values (head - mean) / deviation.

        A critic that began as the reward model then predicts normalised rewards from the start.
        """
        self.mean, self.deviation = mean, deviation

    @property
    def model(self) -> Any:
        """The policy's model: the one that is saved and sampled from."""
        return self.policy.model

    @property
    def shared(self) -> bool:
        """Whether both share prompts."""
        return self.policy.shared and self.critic.shared

    @property
    def device(self) -> torch.device:
        """Where the parameters live."""
        return self.policy.device

    def forward(
        self,
        batch: Batch,
        outputs: frozenset[str] = frozenset({"logps"}),
        temperature: float = 1.0,
        amp: bool = False,
    ) -> Outputs:
        """Each output from the model that has it; only what is asked for runs."""
        of_policy = outputs - {"values"}
        made: Outputs = self.policy(batch, of_policy, temperature, amp) if of_policy else Outputs()
        if "values" not in outputs:
            return made

        # A temperature sharpens or flattens a distribution over tokens. A value is not one, so it gets none.
        values_BT = self.critic(batch, frozenset({"values"}), amp=amp).values_BT
        if values_BT is not None and (self.mean, self.deviation) != (0.0, 1.0):
            values_BT = (values_BT - self.mean) / self.deviation
        return Outputs(
            logps_BT=made.logps_BT,
            entropy_BT=made.entropy_BT,
            scores_B=made.scores_B,
            values_BT=values_BT,
            aux_loss=made.aux_loss,
        )
