"""Measures models on held-out prompts, with intervals and pairing."""
