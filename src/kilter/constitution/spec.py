"""A critic's settings. No torch: the command line shows them as options."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, model_validator

from kilter.refs import ModelRef, TemplateRef
from kilter.sampling import named
from kilter.sampling.config import FOLLOWS, SamplerKind


class CriticSpec(BaseModel):
    """Who writes critiques and revisions."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)
    model: ModelRef | None = Field(
        None,
        description="stage or model that criticises and revises, builtin:WORLD (its own critic) or a file "
        "of these settings; default: the one that answered",
    )
    sampler: SamplerKind = Field(
        default_factory=SamplerKind, description="who writes: local, openai, world, scripted, ..."
    )
    max_new_tokens: int = Field(128, ge=8, description="tokens of a critique or a revision")
    temperature: float = Field(0.7, ge=0, description="0: greedy")
    max_length: int = Field(2048, ge=64, description="tokens of a question and its reply")
    template: TemplateRef = Field("auto", description="chat template of a local model")

    _named = model_validator(mode="before")(named.settings)

    @property
    def opens(self) -> bool:
        """Whether it reads weights that are opened here."""
        return self.sampler.name in FOLLOWS
