"""More than two ranked answers to a prompt."""
