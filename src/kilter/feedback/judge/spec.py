"""A judge as a strict file, judge.yaml, or as options in a recipe. docs/judges.md shows one of each mode."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from kilter.refs import ModelRef, TemplateRef
from kilter.sampling import named
from kilter.sampling.config import SamplerKind

Mode = Literal["pairwise", "rubric", "reference", "constitution", "safety"]
"""pairwise: which of two answers is better. rubric: a grade. reference: a grade beside a right answer.
constitution: pairwise, principle by principle. safety: whether one answer is safe."""

Reading = Literal["logprob", "text", "reasoned"]
"""logprob: probabilities of the verdict's tokens. text: a written verdict. reasoned: the reasons are
written first, then the probabilities of the verdict are read."""


class Price(BaseModel):
    """What an endpoint takes for tokens, in any one currency."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
    prompt: float = Field(0.0, ge=0, description="per million tokens read")
    completion: float = Field(0.0, ge=0, description="per million tokens written")


class JudgeSpec(BaseModel):
    """A judge: who is asked, what, and how the reply is read."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
    model: ModelRef | None = Field(
        None,
        description="stage, folder, builtin:smollm2-135m or Hub name; builtin:WORLD (its own critic), a "
        "file such as judge.yaml, or sampler.model of an endpoint",
    )
    sampler: SamplerKind = Field(default_factory=SamplerKind, description="who answers: local, openai, ...")
    template: TemplateRef = Field(
        "auto", description="chat template of a model in memory: auto, model, a name, or a .jinja file"
    )
    mode: Mode = Field("pairwise", description="what is asked")
    read: Reading = Field("logprob", description="how the verdict is read")
    criterion: str = Field(
        "", max_length=4000, description="what counts, in words; empty is the mode's own wording"
    )
    scale: int = Field(5, ge=2, le=9, description="grades from 1 to this; each is one token")
    clamp: tuple[float, float] | None = Field(
        None,
        strict=False,
        description="reasoned, of judges that compare: probabilities are kept inside, such as [0.4, 0.6]",
    )
    min_mass: float = Field(
        0.8, ge=0, le=1, description="a verdict whose tokens have less together is unscored"
    )
    repeats: int = Field(1, ge=1, le=100, description="how often each order is asked")
    canary: bool = Field(
        True, description="show the judge one answer in each batch that must not win, and count its failures"
    )
    constitution: str | None = Field(None, description="constitution: a shipped name, or a .yaml file")
    max_tokens: int = Field(512, ge=1, description="length of a written verdict or of the reasons")
    max_length: int = Field(4096, ge=64, description="longer questions are unscored, never cut")
    panel: list[dict[str, Any]] = Field(
        default_factory=list, description="several judges instead of one, each with fields like these"
    )
    cache: str | None = Field(None, description="SQLite file of paid replies; empty is the run's own")
    replay: bool = Field(False, description="answer from the cache alone, and fail where it has none")
    price: Price = Field(default_factory=Price, description="what tokens cost")
    max_cost: float | None = Field(None, gt=0, description="stop before the next call would exceed this")
    certificate: str | None = Field(None, description="judge.json of `kilter audit-judge`")
    require_certificate: bool = Field(
        False, description="refuse to judge without a valid certificate that names this judge"
    )

    _named = model_validator(mode="before")(named.settings)

    def as_written(self) -> dict[str, Any]:
        """What was set. A judge refuses a key that it does not read, so that no default is spelled out."""
        return self.model_dump(mode="json", by_alias=True, exclude_unset=True)
