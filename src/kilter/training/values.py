"""A critic that trains in another process, as the learner sees it.

Forwards take its values as leaves. Their gradients are what it learns from. Its weights and its optimizer
stand in the learner's checkpoint under the names that they have beside the policy, so that a run goes on
wherever its critic lives then.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from kilter.batch import Batch
from kilter.seams import ValueModel
from kilter.training.parallel.engine import Engine

POLICY, CRITIC = "policy.", "critic."
"""What names of weights begin with where policy and critic are one module."""


class Values:
    """Values of a critic elsewhere.

    Args:
        critic: where it is asked.
        engine: of the learner.
    """

    def __init__(self, critic: ValueModel, engine: Engine) -> None:
        self.critic, self.engine = critic, engine
        self._leaves: list[tuple[Batch, Tensor]] = []

    def noted(self, batch: Batch) -> Batch:
        """The batch with its values, and the numbers of its rows. Asked once for all micro-batches."""
        return batch.with_extra(values_BT=self.critic.values(batch), row_B=torch.arange(batch.rows()))

    def leaf(self, part: Batch) -> Tensor:
        """Values of a micro-batch of what was noted, as a leaf of its graph."""
        leaf = part.extra["values_BT"].clone().requires_grad_(torch.is_grad_enabled())
        if leaf.requires_grad:
            self._leaves.append((part, leaf))
        return leaf

    def teach(self, batch: Batch, rate: float, finite: bool) -> float:
        """Sends the gradient on the values of all micro-batches, unless the step is not taken.

        Returns:
            The norm of the critic's own gradient.
        """
        leaves, self._leaves = self._leaves, []
        if not finite:
            return 0.0
        delta_BT = torch.zeros(batch.tokens_BT.shape)
        for part, leaf in leaves:
            if leaf.grad is not None:
                delta_BT[part.extra["row_B"], : leaf.shape[1]] = leaf.grad / self.engine.loss_scale
        return float(self.critic.step(batch, delta_BT, rate)["grad_norm"])

    def weights(self, policy: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Weights of policy and critic as of one module, on the rank that has both."""
        critic: dict[str, Tensor] = self.critic.state().get("model", {})
        return _named(POLICY, policy) | critic

    def take(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The inverse of `weights`: hands the critic its own, and returns the policy's."""
        self.critic.take(_of(CRITIC, weights))
        return _of(POLICY, weights, "")

    def state(self, policy: Mapping[str, Any]) -> dict[str, Any]:
        """Checkpoint of the learner, with the critic in it.

        Args:
            policy: weights and optimizer; empty where each rank has written its own shards.
        """
        critic = self.critic.state()
        if not policy or not critic:
            # Shards lie in files of their own. Only the first rank has the critic, and only it writes.
            return {**policy, "critic": critic}
        weights = _named(POLICY, policy["model"]) | critic["model"]
        return {"model": weights, "optimizer": _joined(policy["optimizer"], critic["optimizer"])}

    def restore(self, state: Mapping[str, Any]) -> dict[str, Any]:
        """The inverse of `state`: hands the critic its part, and returns the policy's."""
        if "model" not in state:
            self.critic.restore(state["critic"])
            return dict(state)
        weights, optimizer = state["model"], state["optimizer"]
        self.critic.restore({"model": _of(CRITIC, weights), "optimizer": _part(optimizer, "critic")})
        return {**state, "model": _of(POLICY, weights, ""), "optimizer": _part(optimizer, "policy")}


def _of(start: str, weights: Mapping[str, Tensor], stays: str | None = None) -> dict[str, Tensor]:
    """Those whose names begin so, under another beginning where one is given."""
    new = start if stays is None else stays
    return {new + n.removeprefix(start): w for n, w in weights.items() if n.startswith(start)}


def _named(start: str, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {start + name: value for name, value in weights.items()}


def _joined(policy: Mapping[str, Any], critic: Mapping[str, Any]) -> dict[str, Any]:
    """States of two optimizers as of one, whose parameters are numbered through."""
    first = sum(len(group["params"]) for group in policy["param_groups"])
    groups = [g | {"params": [first + n for n in g["params"]]} for g in critic["param_groups"]]
    moments = {first + n: value for n, value in critic["state"].items()}
    return {"state": policy["state"] | moments, "param_groups": [*policy["param_groups"], *groups]}


def _part(optimizer: Mapping[str, Any], role: str) -> dict[str, Any]:
    """What one of the two optimizers had, its parameters numbered from zero."""
    groups = [g for g in optimizer["param_groups"] if g["role"] == role]
    number = {n: i for i, n in enumerate(n for g in groups for n in g["params"])}
    moments = {number[n]: value for n, value in optimizer["state"].items() if n in number}
    return {
        "state": moments,
        "param_groups": [g | {"params": [number[n] for n in g["params"]]} for g in groups],
    }
