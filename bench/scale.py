"""Training at scale on paper: bytes and seconds of a step, and a simulation of sampling ahead. Needs no GPU.

python -m bench.scale                 every number of docs/scale.md
python -m bench.scale --steps 60      the simulation alone, shorter
"""

from __future__ import annotations

import argparse
import heapq
import math
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from kilter.launch import plan
from kilter.models.sizes import sizes_of

CASES = {
    "7B, 16 GPUs, 1 M tokens": (7.6e9, 16, 1e6, 1, 8, "Qwen/Qwen2.5-7B"),
    "7B, 64 GPUs, 4 M tokens": (7.6e9, 64, 4e6, 2, 8, "Qwen/Qwen2.5-7B"),
    "70B, 256 GPUs, 4 M tokens": (70.6e9, 256, 4e6, 1, 64, "meta-llama/Llama-3.1-70B"),
}
"""Parameters, GPUs, tokens of a step, micro-batches of each GPU, GPUs of a group of shards, a model's name."""

RANK, SERVED = 16, 2
"""Of an adapter; bytes of a weight in an engine, in bfloat16."""
OLD_LOGPS = 1
"""Forward passes beside the training: old log-probs, computed anew."""

RAM, PICKLE, JSON = 85 * 2**20, (0.33, 0.6), (7.0, 13.0)
"""Of 2^20 tokens as Python numbers, measured on 2 loaded cores: bytes, seconds to pickle and back, as JSON."""


def case(parameters: float, gpus: int, tokens: float, micro: int, group: int, name: str) -> dict[str, str]:
    """The column of a case."""
    shared = lambda n: plan.STATE * parameters / n / 1e9
    wide, narrow = (plan.gathers(parameters, micro, g, gpus) for g in (4, 2))
    inside = plan.gathers(parameters, micro, 2, group)
    between = plan.replicas(parameters, group, gpus // group)
    sent = SERVED * parameters
    tcp = sent * plan.SECONDS_PER_BYTE["gloo"]
    in_group = plan.WITHIN if group <= 8 else plan.BETWEEN
    seconds = plan.learning(parameters, tokens, gpus, 3 + OLD_LOGPS)
    known = sizes_of(name)
    assert known is not None
    adapter = plan.FROZEN * known[0].adapter(RANK)
    return {
        "state of a GPU, sharded over all": f"{shared(gpus):.1f} GB",
        "the same over 64 / over 8": f"{shared(64):.1f} / {shared(8):.0f} GB",
        "learning, old log-probs included": f"{seconds:.1f} s",
        "gathers in float32": f"{wide / 1e9:.0f} GB, {wide / plan.BETWEEN:.1f} s",
        "gathers in bfloat16": f"{narrow / 1e9:.0f} GB, {narrow / plan.BETWEEN:.1f} s",
        f"shards of {group}: inside": f"{inside / 1e9:.0f} GB, {inside / in_group:.1f} s",
        f"shards of {group}: between": f"{between / 1e9:.1f} GB, {between / plan.BETWEEN:.2f} s",
        "weights to each engine": f"{sent / 1e9:.0f} GB",
        "one root / 8 senders": f"{sent / plan.ROOT:.1f} / {sent / plan.ROOT / 8:.1f} s",
        "over TCP to 8 engines: from one rank / from 8": f"{8 * tcp:.0f} / {tcp:.0f} s",
        "through /dev/shm": f"{sent * plan.SECONDS_PER_BYTE['file']:.0f} s",
        f"an adapter of rank {RANK}, to local samplers": f"{adapter / 1e6:.0f} MB, {adapter * plan.SECONDS_PER_BYTE['object']:.2f} s",
    }


def rollouts(tokens: int) -> dict[str, str]:
    """What the answers of a step weigh, as arrays and as Python's own numbers."""
    mi = tokens / 2**20
    return {
        "as arrays": f"{plan.ROLLOUT * tokens / 1e9:.2f} GB",
        "as Python numbers in memory": f"{RAM * mi / 1e9:.1f} GB",
        "pickled and back": f"{PICKLE[0] * mi:.0f} to {PICKLE[1] * mi:.0f} s",
        "as JSON": f"{JSON[0] * mi:.0f} to {JSON[1] * mi:.0f} s",
    }


@dataclass(frozen=True)
class World:
    """Engines, prompts and lengths. A token takes plan.TOKEN seconds in its slot, whatever the load.

    `learn`: seconds of learning, as long as half of the GPUs need to write a batch without a gap.
    """

    median: float
    sigma: float
    cap: int
    engines: int = 8
    slots: int = 64
    prompts: int = 64
    answers: int = 8
    pause: float = 2.0

    def length(self, rng: random.Random) -> int:
        """Tokens of an answer: lognormal, cut."""
        return max(1, min(self.cap, round(math.exp(rng.gauss(math.log(self.median), self.sigma)))))

    @property
    def learn(self) -> float:
        """Seconds of learning."""
        rng = random.Random(1)
        mean = sum(self.length(rng) for _ in range(100_000)) / 100_000
        return mean * plan.TOKEN * self.prompts * self.answers / (self.engines * self.slots)


def together(world: World, steps: int, seed: int) -> tuple[float, float]:
    """(seconds of a step, share of slots at work) where all GPUs sample, then all learn."""
    rng, count, spent, written = random.Random(seed), world.prompts * world.answers, 0.0, 0
    learn = world.learn / 2
    for _ in range(steps):
        lengths = [world.length(rng) for _ in range(count)]
        spent += max(lengths) * plan.TOKEN + learn + world.pause
        written += sum(lengths)
    return spent / steps, written * plan.TOKEN / (spent * 2 * world.engines * world.slots)


@dataclass
class Apart:
    """Engines and learner side by side: an event is the end of an answer or of a step.

    Args:
        world: what is simulated.
        ahead: lookahead, or the budget where whatever is ready first is learned from.
        keep: whether answers go on after an update; else all end first.
        ordered: whether a batch is the next prompts of the data.
    """

    world: World
    ahead: int
    keep: bool = True
    ordered: bool = True
    seed: int = 0
    ends: list[float] = field(default_factory=list)
    ages: list[int] = field(default_factory=list)

    def run(self, steps: int) -> Apart:
        """Simulates so many steps; `ends` are their times, `ages` the answers' ages at their first token."""
        self.rng, self.learn = random.Random(self.seed), self.world.learn
        self.now = self.clock = 0.0
        self.version = self.begun = 0
        self.queue: deque[int] = deque()
        self.busy: list[tuple[float, int]] = []
        self.left: dict[int, int] = {}
        self.born: dict[int, list[int]] = {}
        self.ready: deque[int] = deque()
        self.done: set[int] = set()
        self._admit()
        while len(self.ends) < steps:
            batch = self._batch()
            # Answers go on until the learner has a batch, and while it learns.
            if batch is None:
                self._answer()
                continue
            until = self.now + self.learn
            while self.busy and self.now + self.busy[0][0] - self.clock <= until:
                self._answer()
            self.clock += until - self.now
            self.now = until
            self.ages += [self.version - v for p in batch for v in self.born.pop(p)]
            self._publish()
        return self

    def _admit(self) -> None:
        """Batch m may begin when version >= m - ahead."""
        while self.begun < (self.version + self.ahead + 1) * self.world.prompts:
            self.left[self.begun], self.born[self.begun] = self.world.answers, []
            self.queue += [self.begun] * self.world.answers
            self.begun += 1
        self._fill()

    def _fill(self) -> None:
        """Every free slot takes the next answer."""
        while self.queue and len(self.busy) < self.world.engines * self.world.slots:
            prompt = self.queue.popleft()
            self.born[prompt].append(self.version)
            heapq.heappush(self.busy, (self.clock + self.world.length(self.rng) * plan.TOKEN, prompt))

    def _answer(self, refill: bool = True) -> None:
        """The next answer ends."""
        end, prompt = heapq.heappop(self.busy)
        self.now, self.clock = self.now + end - self.clock, end
        self.left[prompt] -= 1
        if not self.left[prompt]:
            self.ready.append(prompt)
            self.done.add(prompt)
        if refill:
            self._fill()

    def _batch(self) -> list[int] | None:
        """The prompts of the next step, once all of them are answered."""
        size = self.world.prompts
        if not self.ordered:
            return [self.ready.popleft() for _ in range(size)] if len(self.ready) >= size else None
        wanted = range(len(self.ends) * size, (len(self.ends) + 1) * size)
        return list(wanted) if all(p in self.done for p in wanted) else None

    def _publish(self) -> None:
        """New weights: answers under way wait, or end first."""
        while not self.keep and self.busy:
            self._answer(refill=False)
        # The clock of the engines stands still.
        self.now += self.world.pause
        self.version += 1
        self.ends.append(self.now)
        self._admit()

    def step(self, first: int = 0) -> float:
        """Seconds of a step, from this step on."""
        begin = self.ends[first - 1] if first else 0.0
        return (self.ends[-1] - begin) / (len(self.ends) - first)


WORLDS = {
    "long tail (median 1500, sigma 0.9, cap 8192)": World(1500, 0.9, 8192),
    "lighter (sigma 0.5, cap 4096)": World(1500, 0.5, 4096),
}
POLICIES: dict[str, Callable[[World, int], Apart]] = {
    "in turn, apart": lambda w, s: Apart(w, 0, seed=s),
    "lookahead 1, finish": lambda w, s: Apart(w, 1, keep=False, seed=s),
    "lookahead 1, keep": lambda w, s: Apart(w, 1, seed=s),
    "lookahead 2": lambda w, s: Apart(w, 2, seed=s),
    "lookahead 4": lambda w, s: Apart(w, 4, seed=s),
    "lookahead 8": lambda w, s: Apart(w, 8, seed=s),
    "ready first, budget 1": lambda w, s: Apart(w, 1, ordered=False, seed=s),
    "ready first, budget 2": lambda w, s: Apart(w, 2, ordered=False, seed=s),
    "ready first, budget 4": lambda w, s: Apart(w, 4, ordered=False, seed=s),
}


def predicted(world: World, run: Apart) -> float:
    """Seconds of a step by the plan's formula."""
    learn, longest = world.learn + world.pause, world.cap * plan.TOKEN
    return plan.ahead(run.ahead, learn, world.learn, longest, run.keep, world.pause)


def simulate(world: World, steps: int, seed: int) -> list[list[str]]:
    """Rows of the table: policy, speed against all together, with the start, by formula, slots, age."""
    base, share = together(world, steps, seed)
    rows = [["in turn, together", "1.00x", "1.00x", "", f"{share:.0%}", "0 / 0"]]
    for name, make in POLICIES.items():
        run = make(world, seed).run(steps)
        settled = run.step(steps // 4)
        ages = run.ages[len(run.ages) // 4 :]
        formula = f"{base / predicted(world, run):.2f}x" if run.ordered else ""
        # Engines write a batch in `learn` seconds where no slot is ever empty.
        slots = f"{world.learn / settled:.0%}"
        age = f"{sum(ages) / len(ages):.2f} / {max(run.ages)}"
        rows.append([name, f"{base / settled:.2f}x", f"{base / run.step():.2f}x", formula, slots, age])
    return rows


def table(head: list[str], rows: list[list[str]]) -> None:
    """Prints Markdown."""
    print("| " + " | ".join(head) + " |\n|" + "---|" * len(head))
    print("\n".join("| " + " | ".join(row) + " |" for row in rows) + "\n")


def main() -> None:
    """Prints the tables."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--steps", type=int, help="steps of the simulation alone, without the other tables")
    p.add_argument("--seed", type=int, default=0)
    args = p.parse_args()
    if args.steps is None:
        for name, given in CASES.items():
            table([name, ""], [[k, v] for k, v in case(*given).items()])
        for what, tokens in (("512 x 16 x 2k", 512 * 16 * 2048), ("512 x 16 x 8k", 512 * 16 * 8192)):
            table([f"rollouts of {what} tokens", ""], [[k, v] for k, v in rollouts(tokens).items()])
    for name, world in WORLDS.items():
        head = [name, "settled", "first 60 steps" if args.steps in (None, 60) else "with the start"]
        rows = simulate(world, args.steps or 60, args.seed)
        table([*head, "by formula", "slots at work", "age mean / max"], rows)


if __name__ == "__main__":
    main()
