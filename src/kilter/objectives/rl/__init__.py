"""Reinforcement learning on sampled answers."""
