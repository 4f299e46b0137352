"""Intervals and tests, on scipy, statsmodels and krippendorff: everything that is measured is an Estimate.

estimates.py    shares, means, paired differences, and how many observations a limit needs
clustered.py    shares of values that come in clusters, such as verdicts on one prompt
spread.py       standard deviations
agreement.py    kappa, AC1 and alpha with a bootstrap over clusters
correction.py   rates of an instrument with errors: Rogan-Gladen, prediction-powered inference
"""

from kilter.statistics.agreement import cohen_kappa, gwet_ac1, krippendorff_alpha
from kilter.statistics.clustered import clustered
from kilter.statistics.correction import (
    EXACT,
    Accuracy,
    corrected_difference,
    corrected_rate,
    prediction_powered,
)
from kilter.statistics.estimates import (
    LEVEL,
    RESAMPLES,
    Estimate,
    constant_bounds,
    mean,
    n_to_certify,
    paired_difference,
    proportion,
    wilson_bounds,
    win_rate,
)
from kilter.statistics.spread import deviation

__all__ = [
    "EXACT",
    "LEVEL",
    "RESAMPLES",
    "Accuracy",
    "Estimate",
    "clustered",
    "cohen_kappa",
    "constant_bounds",
    "corrected_difference",
    "corrected_rate",
    "deviation",
    "gwet_ac1",
    "krippendorff_alpha",
    "mean",
    "n_to_certify",
    "paired_difference",
    "prediction_powered",
    "proportion",
    "wilson_bounds",
    "win_rate",
]
