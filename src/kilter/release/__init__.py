"""Decides whether a model may ship, and writes the report."""
