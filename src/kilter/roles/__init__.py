"""Models in their roles: how one is opened, and how one is talked to."""
