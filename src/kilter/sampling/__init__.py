"""Samples completions, with token ids and log-probs where known."""
