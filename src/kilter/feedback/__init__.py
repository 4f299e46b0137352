"""Feedback sources: whoever scores completions."""
