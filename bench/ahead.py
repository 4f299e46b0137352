"""Lookahead against taking turns, with an engine and a learner of declared latency.

    python -m bench.ahead                       # on a clock of its own: a second, the same numbers on any machine
    python -m bench.ahead --ray                 # the same sleeps for real, the engine in a Ray actor

The engine answers several batches at once, each prompt after 0.1 to 1 s, as one with continuous batching does.
The learner needs 0.4 s a step of 8 prompts. Arithmetic on two cores would show nothing: both sides would fight for them.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from bench.stand_in import StandIn
from kilter.cluster.backend import Backend
from kilter.cluster.inline import InlineBackend
from kilter.cluster.pool import Pool
from kilter.cluster.weights import ObjectTransport, Package, Taken
from kilter.launch.spec import ClusterSpec
from kilter.objectives import build_objective
from kilter.sampling.config import SamplerSpec
from kilter.seams import FeedbackSource
from kilter.training.apart.rollouts import PooledSampler
from kilter.training.sources.answers import PolicyAnswers
from kilter.training.sources.prompts import PromptOrder
from kilter.training.sources.rollouts import RolloutSource
from kilter.types import Completion, Encoded, Feedback, Group, Prompt, Request, Sample, Weights

LEARNS = 0.4
"""Seconds of a step."""
SLOWEST, FASTEST = 1.0, 0.1
"""Seconds until a prompt is answered, drawn evenly between them. A batch waits for its slowest."""
AT_ONCE = 16


class SleepingEngine(StandIn):
    """Answers after a while. `sleeps`: really, or by the clock of the backend."""

    def __init__(self, sleeps: bool) -> None:
        self.sleeps, self.version = sleeps, 0

    def load(self, package: Package) -> Taken:
        """Takes new weights at once: answers under way go on with them."""
        self.version = max(self.version, package.version)
        return Taken(package.version)

    def generate(self, requests: list[Request], version: int) -> list[Sample]:
        """One token per answer, after the time that the first request's seed draws."""
        version = max(version, self.version)
        if self.sleeps:
            time.sleep(seconds(requests))
        answer = Completion("a", (1,), (1,), (-0.1,), "stop", version, prompt_ids=(2,))
        return [Sample(r, i, replace(answer)) for r in requests for i in range(r.k)]


def seconds(requests: list[Request]) -> float:
    """How long the slowest of these requests takes: the same whoever asks."""
    draws = [random.Random(f"{r.params.seed}:{r.prompt.id}") for r in requests]
    return max(draw.uniform(FASTEST, SLOWEST) for draw in draws)


class Even(FeedbackSource):
    """Scores by place."""

    def __call__(self, groups: Any) -> list[list[Feedback]]:
        """0, 1, 2, ..."""
        return [[Feedback(float(n)) for n in range(len(g.completions))] for g in groups]

    def spread(self) -> None:
        """No ensemble."""


class Tokens:
    """An encoder of what is tokens already."""

    def tokens(self, group: Group) -> Encoded:
        """The answers' tokens, all of them learned."""
        ids = tuple(c.token_ids or () for c in group.completions)
        return Encoded(group, (2,), ids, tuple((1,) * len(i) for i in ids))


def run(
    backend: Backend, lookahead: int, steps: int, sleeps: bool, learn: Callable[[], None]
) -> dict[str, Any]:
    """Takes the steps; seconds in all, and the staleness of every answer."""
    pool = Pool(backend, "rollout", 1, SleepingEngine, {"sleeps": sleeps}, at_once=AT_ONCE)
    sampler = PooledSampler(pool, ObjectTransport(backend), dict, verify=0, ahead=lookahead)
    source = RolloutSource(
        PromptOrder([Prompt(text=str(n), id=str(n)) for n in range(64)]),
        PolicyAnswers(sampler, 2),
        Even(),  # type: ignore[arg-type]
        Tokens(),  # type: ignore[arg-type]
        build_objective("grpo").needs,
        SamplerSpec(samples=2, max_new_tokens=1),
        None,
        8,
        max_steps=steps,
        lookahead=lookahead,
    )
    begin, ages = backend.now(), []
    while (step := source.next()) is not None:
        versions = [c.policy_version for e in step.groups for c in e.group.completions]
        ages += [step.number - 1 - (v or 0) for v in versions]
        learn()
        source.after_update(Weights(step.number))
    taken = backend.now() - begin
    pool.close()
    return {"seconds": taken, "mean": sum(ages) / len(ages), "max": max(ages), "min": min(ages)}


def measure(lookaheads: list[int], steps: int, ray: bool) -> list[dict[str, Any]]:
    """One row per lookahead, with its speed against taking turns."""
    rows = []
    for lookahead in lookaheads:
        if ray:
            from kilter.cluster.ray import RayBackend

            backend: Backend = RayBackend(ClusterSpec())
            row = run(backend, lookahead, steps, True, lambda: time.sleep(LEARNS))
            backend.close()
        else:
            inline = InlineBackend(
                lambda role, n, method, arguments: seconds(arguments[0]) if method == "generate" else 0.0
            )
            row = run(inline, lookahead, steps, False, lambda: inline.pass_time(LEARNS))
        rows.append({"lookahead": lookahead} | row)
    for row in rows:
        row["ratio"] = rows[0]["seconds"] / row["seconds"]
    return rows


def main() -> None:
    """Prints the table; exits with 1 where lookahead pays less than it has to."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ray", action="store_true", help="sleep for real, the engine in a Ray actor")
    parser.add_argument("--steps", type=int, default=25)
    options = parser.parse_args()
    rows = measure([0, 1, 2, 4], options.steps, options.ray)
    print("| lookahead | s per step | times in turn | staleness mean | least | most |")
    print("|---|---|---|---|---|---|")
    for r in rows:
        shown = f"{r['seconds'] / options.steps:.2f} | {r['ratio']:.2f} | {r['mean']:.2f} | {r['min']} | {r['max']}"
        print(f"| {r['lookahead']} | {shown} |")
    bounds = all(r["min"] >= 0 and r["max"] <= r["lookahead"] for r in rows)
    raise SystemExit(0 if bounds and rows[1]["ratio"] >= 1.6 and rows[2]["ratio"] >= 2.1 else 1)


if __name__ == "__main__":
    # Workers import what they hold by the name of its module.
    from bench import ahead

    ahead.main()
