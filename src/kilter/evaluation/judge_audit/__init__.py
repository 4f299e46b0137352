"""The audit of a judge: what it prefers beside the better answer, and how far its word can be trusted.

cases.py    labelled pairs and lists of answers, from a data set
changes.py  what is done to an answer that must not change its worth
sheet.py    verdicts on comparisons as arrays
probes.py   what is measured, the limit, and the sentence for a person: a new probe is one entry
run.py      asks the judge, keeps its verdicts on disk, and decides
"""
