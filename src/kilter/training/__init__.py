"""Trains any method in one loop: sources, learner, hooks."""
