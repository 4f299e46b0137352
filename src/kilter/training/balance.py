"""How much the load-balancing loss of a mixture of experts weighs."""

from __future__ import annotations

from typing import Any

from kilter.errors import UserError
from kilter.models.forward import Scorer, balances
from kilter.training.config import TrainSpec


def balance_weight(policy: Scorer, spec: TrainSpec) -> float:
    """The weight of the load-balancing loss; 0 where there is none.

    Args:
        policy: the model that trains.
        spec: its `router_aux_loss` is a number, or "auto" for that of the model's configuration.

    Raises:
        UserError: the model has no such loss.
    """
    if spec.router_aux_loss == 0:
        return 0.0
    refuse_dense(policy._base(), spec, classifies=policy.classifies)
    if spec.router_aux_loss != "auto":
        return float(spec.router_aux_loss)
    return declared_weight(policy)


def refuse_dense(
    base: Any, spec: TrainSpec, field: str = "router_aux_loss", classifies: bool = False
) -> None:
    """Raises UserError for a model without a load-balancing loss. classifies: with a head for scores."""
    if classifies or not balances(base):
        raise UserError(
            field,
            spec.router_aux_loss,
            f"needs a mixture of experts that tells what its routers say: {type(base).__name__} does not",
            "leave it out",
        )


def declared_weight(policy: Scorer) -> float:
    """What the model's own configuration says, as TRL reads it; 0 where it says nothing."""
    return float(getattr(policy._base().config.get_text_config(), "router_aux_loss_coef", None) or 0.0)


def advice(policy: Scorer, spec: TrainSpec) -> list[str]:
    """What to tell of a mixture of experts that trains without its load-balancing loss."""
    declared = declared_weight(policy)
    if spec.router_aux_loss or policy.classifies or not balances(policy._base()) or not declared:
        return []
    return [
        "mixture of experts: no load-balancing loss; "
        f"router_aux_loss=auto adds it with the weight {declared:g} of the model's configuration"
    ]
