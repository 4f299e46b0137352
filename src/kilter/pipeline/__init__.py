"""Runs a recipe stage by stage, resumable by content hash."""
