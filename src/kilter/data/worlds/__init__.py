"""Makes data with a judge that knows the right answer."""
