"""How well a model tells two classes apart on prompts that it was not fitted on."""

from __future__ import annotations

import math
import warnings
from typing import Any

from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupKFold, cross_val_predict

Z = 1.96


def grouped_auc(model: Any, x: Any, y: Any, groups: Any) -> float:
    """Cross-validated area under the curve, whole groups per fold.

    Args:
        model: a classifier of scikit-learn with probabilities.
        x: [n, features], or [n] texts.
        y: [n] 0 or 1.
        groups: [n] what stays together, such as the prompt.
    """
    folds = GroupKFold(min(5, len(set(groups.tolist()))))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        scores = cross_val_predict(model, x, y, groups=groups, cv=folds, method="predict_proba")[:, 1]
    return float(roc_auc_score(y, scores))


def auc_bounds(auc: float, positive: int, negative: int) -> tuple[float, float]:
    """95 % interval of an area under the curve (Hanley and McNeil 1982)."""
    q1, q2 = auc / (2 - auc), 2 * auc * auc / (1 + auc)
    spread = auc * (1 - auc) + (positive - 1) * (q1 - auc * auc) + (negative - 1) * (q2 - auc * auc)
    error = Z * math.sqrt(max(0.0, spread) / (positive * negative))
    return max(0.0, auc - error), min(1.0, auc + error)
