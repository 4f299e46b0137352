"""Supplies the groups of each optimizer step."""
