"""Evaluation: answers on held-out prompts, metrics with confidence intervals, paired comparisons."""
