"""vLLM as a sampler; filled in next."""

from __future__ import annotations

from pathlib import Path

from kilter.data.encode import Encoder
from kilter.models.forward import Scorer
from kilter.training.config import SamplerSpec
from kilter.types import Sampler


def VllmSampler(scorer: Scorer, encoder: Encoder, start: Path, spec: SamplerSpec, dtype: str) -> Sampler:  # noqa: N802
    raise NotImplementedError
