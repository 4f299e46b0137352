"""A sampler over a named model, whose weights are opened only if the sampler asks for them."""

from __future__ import annotations

from kilter.data.encode import Encoder
from kilter.models.forward import Scorer
from kilter.roles.open import OpenSpec, open_model
from kilter.sampling.build import SamplerContext, build
from kilter.sampling.config import SamplerKind
from kilter.seams import Sampler


def open_sampler(spec: SamplerKind, opening: OpenSpec, where: str = "sampler") -> Sampler:
    """The sampler that `spec` names, over the model that `opening` names.

    Args:
        spec: which sampler, and where it runs.
        opening: the model. An endpoint takes its reference for a name, and loads nothing.
        where: prefix of field names in errors.
    """

    def policy() -> tuple[Scorer, Encoder]:
        ready = open_model(opening)
        return ready.scorer, ready.encoder

    return build(SamplerContext(spec, policy, str(opening.model), opening.dtype), where)
