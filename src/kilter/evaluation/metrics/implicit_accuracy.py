"""Whether a policy moved towards what people preferred: held-out pairs by log-probs, without a judge."""

from kilter.evaluation.metrics.registry import metric
from kilter.types import Answered


@metric(
    "implicit_accuracy",
    title="Implicit accuracy on held-out pairs",
    short="Implicit accuracy",
    unit="share of pairs",
    better="higher",
    aggregate="wins",
    needs={"pair_logps", "baseline"},
    over=("pairs",),
)
class ImplicitAccuracy:
    """P(log pi(chosen)/base(chosen) > log pi(rejected)/base(rejected)); the baseline itself has 1/2.

    It is the accuracy of DPO's implicit reward (Rafailov et al. 2023), for any policy and one common base.
    """

    def per_prompt(self, item: Answered) -> float | None:
        """1 where the chosen answer gained more than the rejected one, 1/2 for a tie, else 0."""
        if item.pair_logps is None or item.baseline is None or item.baseline.pair_logps is None:
            return None
        now, before = item.pair_logps, item.baseline.pair_logps
        gained = (now[0] - before[0]) - (now[1] - before[1])
        return 0.5 if gained == 0 else float(gained > 0)
