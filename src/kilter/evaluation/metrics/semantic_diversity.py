"""How different several answers to one prompt are in meaning: 1 - mean cosine of their embeddings."""

import importlib.util
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from kilter.errors import UserError
from kilter.evaluation.metrics.registry import metric
from kilter.evaluation.metrics.samples import at_least_two
from kilter.types import Answered


@metric(
    "semantic_diversity",
    title="Semantic diversity",
    unit="1 - cosine",
    better="higher",
    needs={"samples"},
    judge="sentence embeddings",
)
@dataclass(frozen=True)
class SemanticDiversity:
    """1 - mean cosine similarity over all pairs of answers to a prompt.

    model: of sentence-transformers, a folder or a Hub id. samples: answers per prompt, at least 2.
    """

    model: str = "sentence-transformers/all-MiniLM-L6-v2"
    samples: int = 4

    def __post_init__(self) -> None:
        at_least_two("semantic_diversity", self.samples)
        if importlib.util.find_spec("sentence_transformers") is None:
            raise UserError(
                "metrics.semantic_diversity",
                self.model,
                "needs sentence-transformers, which is not installed.",
                'Run pip install "kilter[embeddings]", or measure self_bleu, which needs no model.',
            )

    @cached_property
    def encoder(self) -> Any:
        """Opened at the first answer."""
        from sentence_transformers import SentenceTransformer

        return SentenceTransformer(self.model, device="cpu")

    def per_prompt(self, item: Answered) -> float | None:
        """0 for equal answers, 2 at most; unscored with fewer than two answers that say something."""
        texts = [a.text for a in item.answers[: self.samples] if a.text.strip()]
        if len(texts) < 2:
            return None
        vectors = self.encoder.encode(texts, normalize_embeddings=True, show_progress_bar=False)

        # The diagonal is each answer with itself; every pair stands twice.
        n = len(texts)
        return 1 - (float((vectors @ vectors.T).sum()) - n) / (n * (n - 1))
