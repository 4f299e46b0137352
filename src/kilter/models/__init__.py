"""Loads models and computes log-probs with one prefix per prompt.

Models: loading, heads, adapters, the shared-prefix forward and the fused language-model head.
"""
