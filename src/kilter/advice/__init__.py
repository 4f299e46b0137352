"""Picks two or three methods for a data set, with evidence.

From a data set and a machine to the two or three methods worth trying, with evidence for each sentence.
"""
