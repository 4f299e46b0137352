"""Distillation from a teacher, on fixed or on sampled answers."""

from __future__ import annotations

from dataclasses import dataclass, replace

from kilter.batch import Batch, Loss, Needs, Outputs
from kilter.objectives.imitation.sft import SFT
from kilter.objectives.knobs import knob
from kilter.objectives.ops import masked, mean
from kilter.objectives.registry import method


@method("distill")
@dataclass(frozen=True)
class Distill(SFT):
    """Divergence between the next-token distributions of teacher and student at every token of the answer.

        M = beta p_T + (1 - beta) p_S
        L = sum_it w_it [ beta KL(p_T || M) + (1 - beta) KL(p_S || M) ]
        w as in sft (token or sequence; field normalize)

    beta 0 is the forward KL(p_T || p_S), beta 1 the reverse KL(p_S || p_T). The whole vocabulary is compared,
    in chunks. Needs a `teacher` with the student's vocabulary. With `prompts` the student's own answers are
    compared (GKD). Paper: Agarwal et al. 2024, "On-policy distillation of language models", eq. 1.

    Use: a larger or an aligned model is at hand. Watch: divergence. Fails: a teacher that is unsure on the
    student's text teaches noise.
    """

    beta: float = knob(
        0.5, "0 forward KL, 1 reverse KL, between them the Jensen-Shannon divergence", "[0, 1]", "0, 0.5 or 1"
    )

    @property
    def needs(self) -> Needs:
        """The divergence to the teacher at every token, and log-probs for the metrics."""
        base = super().needs
        return replace(
            base,
            outputs=frozenset({"logps", "divergence"}),
            settings={"divergence": self.beta},
            metrics=base.metrics | {"divergence"},
        )

    def loss(self, out: Outputs, batch: Batch) -> Loss:
        """Weighted sum of token divergences."""
        assert out.divergence_BT is not None
        assert batch.weight_BT is not None
        divergence_BT = masked(out.divergence_BT, batch.mask_BT)
        metrics = super().loss(out, batch).metrics | {"divergence": mean(divergence_BT, batch.mask_BT)}
        return Loss((batch.weight_BT * divergence_BT).sum(), metrics)
