"""Answers judged one by one: thumbs up or down."""
