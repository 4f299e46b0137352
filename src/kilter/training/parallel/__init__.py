"""Starts several processes, and shards training over them."""
