"""The one loop: sources, learner, optimizer, checkpoints, metrics."""
