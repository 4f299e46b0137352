"""Fields of `adapter`: which low-rank adapters are trained.

Without torch, so that the command line starts at once.
"""

from __future__ import annotations

import importlib.util
from typing import Any, Literal

from pydantic import ConfigDict, Field, field_validator, model_validator

from kilter.errors import UserError
from kilter.validation import Settings


class AdapterSpec(Settings):
    """Low-rank adapters: h = W x + scale B A x, only A and B (and a reward model's head) are trained.

    lora: scale alpha / r (Hu et al. 2021).
    rslora: scale alpha / sqrt(r), so that a high rank still learns (Kalajdzievski 2023).
    dora: direction and magnitude apart (Liu et al. 2024).
    qlora: lora over a base in 4 bits (Dettmers et al. 2023); needs a GPU.
    """

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)
    kind: Literal["lora", "rslora", "dora", "qlora"] = Field(
        "lora", description="lora, rslora, dora, or qlora (4-bit base, needs a GPU)"
    )
    r: int = Field(16, ge=1, description="rank")
    alpha: float = Field(
        32,
        gt=0,
        description="scale numerator; the update is multiplied by alpha / r (rslora: alpha / sqrt(r))",
    )
    dropout: float = Field(0.0, ge=0, lt=1, description="dropout on the adapter's input")
    target: str | list[str] = Field(
        "all-linear", description="module names, or all-linear: every linear layer but the heads"
    )
    merge: bool = Field(
        False, description="save full weights with the adapter folded in, instead of the adapter alone"
    )

    @field_validator("target")
    @classmethod
    def _some_layers(cls, value: str | list[str]) -> str | list[str]:
        if not value:
            raise ValueError("is empty: it names no layer")
        return value

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: Any) -> Any:
        """`adapter: lora` names the kind alone."""
        return {"kind": value} if isinstance(value, str) else value


def check_adapter(spec: AdapterSpec, where: str = "adapter") -> None:
    """Raises UserError where the machine cannot train such an adapter."""
    if spec.kind != "qlora":
        return
    import torch  # only here: recipes without qlora are checked before torch is read

    if not torch.cuda.is_available():
        raise UserError(
            f"{where}.kind",
            "qlora",
            "needs a CUDA GPU: its 4-bit kernels do not run on a CPU",
            "use lora, or run on a GPU",
        )
    if importlib.util.find_spec("bitsandbytes") is None:
        raise UserError(f"{where}.kind", "qlora", "needs bitsandbytes", "run: pip install 'kilter[qlora]'")
    if spec.merge:
        raise UserError(
            f"{where}.merge",
            True,
            "would fold the adapter into rounded 4-bit weights",
            "leave merge out; `kilter export --merge` folds it into the full base",
        )
