"""Where the groups of each optimizer step come from."""
