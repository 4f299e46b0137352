"""The release gate: conditions on the BOUNDS of confidence intervals, never on means. Fails closed.

policy.py       what must hold: conditions, waivers, shipped policies by name
condition.py    the state of one condition, and why
family.py       claims that are made together, corrected by Holm
power.py        what cannot pass with so many prompts, before anything is generated
known.py        metric names and thresholds, checked before anything is trained
standing.py     conditions that no policy has to name: leaks, broken files, uncertified judges, evasion
verdict.py      all of it: the verdict as plain data
files.py        evaluation.json in; gate.json, its schema and JUnit XML out
"""

from kilter.release.gate.files import Verdict, exit_code, junit, read, write
from kilter.release.gate.known import check_known
from kilter.release.gate.policy import Condition, Policy, load_policy, refuse_means, shipped
from kilter.release.gate.power import power_warnings
from kilter.release.gate.standing import evaded, refused, uncertified
from kilter.release.gate.verdict import decide

__all__ = [
    "Condition",
    "Policy",
    "Verdict",
    "check_known",
    "decide",
    "evaded",
    "exit_code",
    "junit",
    "load_policy",
    "power_warnings",
    "read",
    "refuse_means",
    "refused",
    "shipped",
    "uncertified",
    "write",
]
