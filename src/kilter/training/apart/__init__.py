"""Roles of a training in workers of their own: what a worker holds, and what the learner sees of it."""
