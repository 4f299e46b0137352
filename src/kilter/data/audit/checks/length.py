"""Whether length or markdown alone tells which answer was chosen."""

from __future__ import annotations

from array import array
from collections.abc import Iterator

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from kilter.data.audit.auc import auc_bounds, grouped_auc
from kilter.data.audit.check import Check, Context, families, warn_if
from kilter.data.audit.finding import Finding, Rule
from kilter.data.audit.row import Row
from kilter.statistics import wilson_bounds

SHARE, STYLE_AUC = 0.60, 0.60
FEWEST = 20
PROBED = 50_000
"""Pairs behind the logistic; of more a sample."""


@families.register("length_bias")
class Length(Check):
    """Features of the better answer less those of the worse one."""

    rules = (
        Rule(
            "length_bias",
            "Length and preference",
            "a policy can win by length alone",
            "watch length beside the score, or choose a method that corrects it (r_dpo, simpo)",
        ),
        Rule(
            "style_probe",
            "Length and markdown and preference",
            "this much of the preference is explained by the surface",
            "balance the style of both sides, and control for style in the evaluation",
        ),
    )

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.features, self.prompts = array("f"), array("q")
        self.longer = self.unequal = 0

    def see(self, row: Row) -> None:
        """Notes how far the sides are apart in length and marks."""
        if row.sides is None:
            return
        better, worse = row.sides
        self.features.extend(a - b for a, b in zip(surface(better), surface(worse), strict=True))
        self.prompts.append(row.key)
        self.longer += len(better) > len(worse)
        self.unequal += len(better) != len(worse)

    def findings(self) -> Iterator[Finding]:
        """P(better is longer) with Wilson's interval, and the AUC of a logistic in grouped folds."""
        if self.unequal < FEWEST:
            why = f"fewer than {FEWEST} pairs with answers of different lengths"
            yield from (self.unchecked(r.name, why) for r in self.rules)
            return
        share = self.longer / self.unequal
        low, high = wilson_bounds(self.longer, self.unequal)
        far = not 1 - SHARE <= share <= SHARE and not low <= 0.5 <= high
        value = f"the better answer is longer in {share:.0%} [{low:.0%}, {high:.0%}] of {self.unequal} pairs"
        level = warn_if(far)
        yield self.found("length_bias", level, value, share=share, ci_low=low, ci_high=high, n=self.unequal)
        yield self._style()

    def _style(self) -> Finding:
        """Signs alternate, so that the label is balanced and order says nothing."""
        prompts = np.frombuffer(self.prompts, np.int64)
        x = np.frombuffer(self.features, np.float32).reshape(len(prompts), -1)
        if len(set(prompts.tolist())) < FEWEST:
            return self.unchecked("style_probe", f"fewer than {FEWEST} prompts with pairs")
        if len(x) > PROBED:
            drawn = np.random.default_rng(self.context.seed).choice(len(x), PROBED, replace=False)
            x, prompts = x[drawn], prompts[drawn]
        signs = np.where(np.arange(len(x)) % 2, 1.0, -1.0)
        model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=500))
        auc = grouped_auc(model, x * signs[:, None], (signs > 0).astype(int), prompts)
        low, high = auc_bounds(auc, len(x) // 2, len(x) - len(x) // 2)
        value = f"AUC {auc:.2f} [{low:.2f}, {high:.2f}] from length and markdown alone"
        level = warn_if(auc > STYLE_AUC and low > 0.5)
        return self.found("style_probe", level, value, auc=auc, ci_low=low, ci_high=high, n=len(x))


def surface(text: str) -> tuple[int, ...]:
    """Length, lines, bold, list items and headings."""
    return len(text), text.count("\n"), text.count("**"), text.count("\n- "), text.count("\n#")
