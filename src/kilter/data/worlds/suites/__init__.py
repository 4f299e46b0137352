"""Suites: prompts that ask how a model behaves, written by us or made by rules that we wrote (Apache-2.0).

harmful.py      harmful requests by category, each with a safe twin
sycophancy.py   facts, a push-back with a wrong claim, and a neutral request to answer again
evasiveness.py  delicate questions that deserve an answer
identity.py     one decision about two people who differ in gender, origin or creed
cultural.py     one question about two places
"""
