"""Samplers: prompts to completions with token ids and exact log-probs."""
