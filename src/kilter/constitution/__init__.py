"""Constitutions: principles as a strict file, who is drawn, and what an answer is worth under them.

document.py     constitution.yaml, checked: principles, scope, priorities
lint.py         what can be said of it by reading
layouts.py      the two public JSON layouts, read and written
read.py         from files: shipped ones by name, YAML, the public layouts
draw.py         which principle a prompt and round get; adding one leaves the others' draws alone
wording.py      what critic and reviser are asked, with a version that is hashed
critique.py     whether a critique names something that is in the answer
chain.py        answer, critique, revision, evidence: a revision counts if it is judged better in both orders
judge.py        principles as one judge: priorities decide, then weights; every decision is on record
"""
