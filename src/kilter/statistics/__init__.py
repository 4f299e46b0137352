"""Intervals and tests, on scipy, statsmodels, scikit-learn and krippendorff: all of it gives an Estimate.

estimates.py    what an estimate is, and which values belong together
floors.py       how many observations each kind of interval needs, from bench/coverage.py
shares.py       bounds of a share: Wilson, Clopper-Pearson, the rule of three; the sign test
skewed.py       Student's t with Hall's correction
clustered.py    shares and means of bounded values, such as several verdicts on one prompt
means.py        any other means, and the BCa bootstrap
discordant.py   the difference of two shares of the same prompts: Tango's score interval
paired.py       two models on the same prompts, McNemar's test, several changes by Holm
wins.py         win rates, also at equal length or style
scores.py       rank correlation, AUC, calibration, Brier
spread.py       standard deviations
agreement.py    kappa, AC1 and alpha with a bootstrap over clusters
correction.py   rates of an instrument with errors: Rogan-Gladen, prediction-powered inference
family.py       several claims at once: Holm
power.py        how many observations a claim needs
sequential.py   tests that may be read after every observation
"""

from kilter.statistics.agreement import cohen_kappa, gwet_ac1, krippendorff_alpha
from kilter.statistics.clustered import clustered, proportion
from kilter.statistics.correction import (
    EXACT,
    Accuracy,
    corrected_any,
    corrected_difference,
    corrected_rate,
    prediction_powered,
)
from kilter.statistics.estimates import LEVEL, RESAMPLES, Estimate
from kilter.statistics.family import holm, one_sided_p
from kilter.statistics.floors import BOUNDED, CLUSTERS, SHARE, UNBOUNDED
from kilter.statistics.means import bca_bootstrap, mean
from kilter.statistics.paired import PairedChange, paired_changes, paired_difference
from kilter.statistics.power import (
    chance_to_certify,
    n_for_difference,
    n_for_rate,
    n_to_certify,
    n_to_show_no_change,
)
from kilter.statistics.scores import auc, brier, expected_calibration_error, spearman
from kilter.statistics.sequential import Rise, Shift, level_of_look
from kilter.statistics.shares import (
    clopper_pearson,
    constant_bounds,
    rule_of_three,
    sign_test,
    wilson_bounds,
)
from kilter.statistics.spread import deviation
from kilter.statistics.wins import length_controlled_win_rate, style_controlled_win_rate, win_rate

__all__ = [
    "BOUNDED",
    "CLUSTERS",
    "EXACT",
    "LEVEL",
    "RESAMPLES",
    "SHARE",
    "UNBOUNDED",
    "Accuracy",
    "Estimate",
    "PairedChange",
    "Rise",
    "Shift",
    "auc",
    "bca_bootstrap",
    "brier",
    "chance_to_certify",
    "clopper_pearson",
    "clustered",
    "cohen_kappa",
    "constant_bounds",
    "corrected_any",
    "corrected_difference",
    "corrected_rate",
    "deviation",
    "expected_calibration_error",
    "gwet_ac1",
    "holm",
    "krippendorff_alpha",
    "length_controlled_win_rate",
    "level_of_look",
    "mean",
    "n_for_difference",
    "n_for_rate",
    "n_to_certify",
    "n_to_show_no_change",
    "one_sided_p",
    "paired_changes",
    "paired_difference",
    "prediction_powered",
    "proportion",
    "rule_of_three",
    "sign_test",
    "spearman",
    "style_controlled_win_rate",
    "wilson_bounds",
    "win_rate",
]
