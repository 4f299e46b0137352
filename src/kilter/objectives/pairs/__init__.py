"""Preference pairs: DPO and its relatives.

Each file is one formula on two sides, w (chosen) and l (rejected).
"""
