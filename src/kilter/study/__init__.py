"""Methods compared on equal terms: one start, the same rows, the same held-out prompts, several seeds."""
