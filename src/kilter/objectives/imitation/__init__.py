"""Imitation of demonstrations or of a teacher."""
