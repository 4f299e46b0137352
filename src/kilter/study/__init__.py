"""Compares methods from one start on the same rows and prompts.

Methods compared on equal terms: one start, the same rows, the same held-out prompts, several seeds.
"""
