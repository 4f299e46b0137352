"""Results of other evaluators: their formats are written and read.

outcome.py    one model's result as every format can say it
kilter.py     from and to evaluation.json
inspect.py    logs of inspect_ai
imported.py   a folder of results with its manifest, for a gate
lm_eval.py    results and samples of lm-evaluation-harness
"""

from kilter.evaluation.exchange import inspect, lm_eval
from kilter.evaluation.exchange.outcome import Exchange, Outcome, exchanges

__all__ = ["Exchange", "Outcome", "exchanges", "inspect", "lm_eval"]
