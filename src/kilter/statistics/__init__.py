"""Intervals and tests, on scipy and statsmodels: everything that is measured is an Estimate.

estimates.py    shares, means, paired differences, and how many observations a limit needs
"""

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

__all__ = [
    "LEVEL",
    "RESAMPLES",
    "Estimate",
    "constant_bounds",
    "mean",
    "n_to_certify",
    "paired_difference",
    "proportion",
    "wilson_bounds",
    "win_rate",
]
