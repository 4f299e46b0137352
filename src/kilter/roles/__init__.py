"""Opens every model in its role, and talks to it."""
