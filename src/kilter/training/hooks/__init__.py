"""What happens around the steps of a run, one concern per file.

Their order stands in training/assemble.py.
"""
