"""A critic that began as the reward model follows that model's scale."""

from __future__ import annotations

from kilter.batch import Batch
from kilter.feedback.registry import Weighted
from kilter.models.critic import ActorCritic
from kilter.seams import Hook, ValueModel


class CriticScale(Hook):
    """Rewards are normalised as they come in, so the scale is taken anew before every step."""

    name = "critic_scale"

    def __init__(self, critic: ActorCritic | ValueModel, feedback: Weighted) -> None:
        self.critic, self.feedback = critic, feedback

    def before_update(self, batch: Batch) -> Batch:
        """Values become (head - mean) / deviation."""
        self.critic.adopt(*(self.feedback.scale_of("reward_model") or (0.0, 1.0)))
        return batch
