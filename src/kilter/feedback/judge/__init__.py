"""Judges: models that are asked which answer is better, or how good one is, and that are measured.

verdict.py      what a judge says, order by order, and what follows from it
spec.py         a judge as a strict file, judge.yaml, or as options in a recipe
prompts.py      what is asked, by mode; each wording has a version that is hashed
parse.py        text to a verdict: the last anchored one, never a quoted or planted one
protocol.py     both orders, repeats, log-probs, rationale first; unscored stays unscored
panel.py        several judges, a strict majority of the panel's size
source.py       the judge as a feedback source, for labels, rewards and metrics
certificate.py  judge.json: what was measured of which judge, and until when it holds
"""
