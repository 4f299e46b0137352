"""Does what happens around a training step, one concern per file.

Their order stands in training/assemble.py.
"""
