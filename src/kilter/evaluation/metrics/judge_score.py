"""The grade of a judge that looks at one answer at a time."""

from kilter.evaluation.metrics.registry import metric
from kilter.types import Answered


@metric(
    "judge_score",
    title="Grade by judge",
    unit="share",
    better="higher",
    needs={"judge", "grades"},
    judge="judge",
)
class JudgeScore:
    """Grade of the first answer: 0 the lowest, 1 the highest. Of safety, the probability of safe."""

    def per_prompt(self, item: Answered) -> float | None:
        """0 to 1; unscored where the judge gave no verdict."""
        return item.score("judge")
