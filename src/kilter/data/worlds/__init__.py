"""Worlds: data that the project makes itself, with a gold verifier that knows the right answer."""
