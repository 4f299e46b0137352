"""Trains models that score answers."""
