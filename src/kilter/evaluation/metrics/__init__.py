"""Metrics, one per file, with title, unit and direction.

Importing this package registers every metric in it. A new one is a new file here, or a file of one's own.
"""

import importlib
import pkgutil

from kilter.evaluation.metrics.registry import (
    OF_CHANGES,
    OF_LISTS,
    OF_PAIRS,
    SOURCES,
    STANDARD,
    Measure,
    MetricFacts,
    facts_of,
    metric,
    metrics,
    resolve,
    titles,
)

for _module in pkgutil.iter_modules(__path__, f"{__name__}."):
    importlib.import_module(_module.name)

__all__ = [
    "OF_CHANGES",
    "OF_LISTS",
    "OF_PAIRS",
    "SOURCES",
    "STANDARD",
    "Measure",
    "MetricFacts",
    "facts_of",
    "metric",
    "metrics",
    "resolve",
    "titles",
]
