"""Reads preference data of any shape, and turns it into tokens."""
