"""How much several answers to one prompt repeat each other: self-BLEU (Zhu et al. 2018), by sacrebleu."""

from dataclasses import dataclass

from kilter.evaluation.metrics.registry import metric
from kilter.evaluation.metrics.samples import at_least_two
from kilter.types import Answered


@metric(
    "self_bleu",
    title="Self-BLEU of samples",
    unit="BLEU, 0 to 1",
    better="lower",
    aggregate="rate",
    needs={"samples"},
    judge="sacrebleu",
)
@dataclass(frozen=True)
class SelfBleu:
    """Mean BLEU of each answer to a prompt against the others; 1 where all are the same.

    samples: answers per prompt, at least 2.
    """

    samples: int = 4

    def __post_init__(self) -> None:
        at_least_two("self_bleu", self.samples)

    def per_prompt(self, item: Answered) -> float | None:
        """0 to 1; unscored with fewer than two answers that say something."""
        from sacrebleu import sentence_bleu

        texts = [a.text for a in item.answers[: self.samples] if a.text.strip()]
        if len(texts) < 2:
            return None
        scores = [sentence_bleu(text, [*texts[:i], *texts[i + 1 :]]).score for i, text in enumerate(texts)]
        return min(1.0, float(sum(scores)) / len(scores) / 100)
