"""How many independent observations each kind of interval needs, as `bench/coverage.py` has simulated."""

SHARE = 10
"""Of a share: below, ten observations cannot say more than that events are neither rare nor usual."""

BOUNDED = 15
"""Of a mean whose ends are known."""

UNBOUNDED = 20
"""Of any other mean: below, what is skewed is covered in less than 93 %, and there is no interval."""

CLUSTERS = 20
"""Clusters, if any holds more than one observation: below, how alike its values are is a guess."""
