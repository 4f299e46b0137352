"""Roles of a training on other processes and machines; without `cluster:` only its words are read."""
