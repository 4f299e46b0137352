"""The online source: prompts -> sampler -> feedback -> select -> groups, everything sampled kept in groups.jsonl."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from kilter.artifacts import cut_lines
from kilter.batch import Metrics, Needs
from kilter.data import store
from kilter.data.encode import Encoded, Encoder
from kilter.errors import RunFailed, UserError
from kilter.feedback.registry import Weighted, model_references
from kilter.objectives import build_objective
from kilter.sampling.config import SamplerSpec
from kilter.seams import Sampler
from kilter.types import Completion, Feedback, Group, Prompt, SamplingParams
from kilter.validation import refuse_idle

EMPTY_STEPS = 3
"""Steps in a row without a single usable group after which the run fails with the cause."""


def choose_select(select: str, needs: Needs) -> str:
    """What "auto" means: all rollouts for policy gradients, rankings and distillation, the best for imitation, best against worst for pairs."""
    if select != "auto":
        return select
    if needs.shape == "rollouts":
        return "best_worst" if needs.unit == "group" and needs.opponent is None else "all"
    if needs.teacher is not None:
        return "all"
    return {"demonstrations": "best_of", "pairs": "best_worst"}.get(needs.shape, "all")


def check_online(spec: Any, needs: Needs, where: str = "") -> None:
    """Raises UserError for settings that cannot work together; called before any work."""
    select, samples = choose_select(spec.select, needs), spec.sampler.samples
    pairs = needs.shape == "pairs" or (needs.shape == "rollouts" and needs.unit == "group")
    if needs.shape == "unpaired" or needs.joint:
        raise UserError(
            f"{where}method",
            spec.method,
            "learns from judged data, not from fresh answers",
            "leave prompts and feedback out, or use online_dpo or grpo",
        )
    room = spec.max_length - spec.sampler.max_new_tokens
    if room < 16:
        raise UserError(
            f"{where}max_length",
            spec.max_length,
            f"leaves {max(0, room)} tokens for prompts beside {spec.sampler.max_new_tokens} of the answer",
            "raise max_length, or lower sampler.max_new_tokens",
        )
    reference = "ref_logps" in needs.annotations
    if spec.monitors.kl_budget is not None and not reference:
        raise UserError(
            f"{where}monitors.kl_budget",
            spec.monitors.kl_budget,
            "needs a reference, and this method loads none",
            "set the method's beta above 0, or leave the budget out",
        )
    objective = build_objective(spec.method)
    _check_idle(spec, needs, reference, where)
    if spec.kl_control.mode != "fixed" and (not reference or not hasattr(objective, "kl_in")):
        raise UserError(
            f"{where}kl_control.mode",
            spec.kl_control.mode,
            "has no coefficient to move: this method has no KL term",
            "set the method's beta above 0, or leave kl_control out",
        )
    advantage, k = (getattr(objective, name, None) for name in ("advantage", "k"))
    if advantage == "passk" and isinstance(k, int) and k > samples:
        raise UserError(
            f"{where}method.k",
            k,
            f"is more than the {samples} completions of a prompt",
            "raise sampler.samples, or lower k",
        )
    if (
        advantage == "prm_token"
        and spec.feedback is not None
        and not model_references(spec.feedback, ("process_reward",))
    ):
        raise UserError(
            f"{where}method.advantage",
            "prm_token",
            "needs token rewards",
            "add a process_reward to the feedback",
        )
    if advantage == "prm_token" and isinstance(spec.feedback, list | tuple) and len(spec.feedback) > 1:
        raise UserError(
            f"{where}feedback",
            f"{len(spec.feedback)} sources",
            "cannot be summed: prm_token reads the steps of process_reward alone",
            "leave process_reward as the only source, or use another advantage",
        )
    if needs.shape == "ranked" and select != "all":
        raise UserError(f"{where}select", select, "gives this method no rankings", "use all")
    if spec.feedback is None and needs.teacher is None:
        raise UserError(
            f"{where}feedback",
            None,
            "is required when prompts are sampled",
            "write feedback: support_desk, math, {reward_model: rm} or my_file.py:reward",
        )
    if pairs and needs.opponent is None and select != "best_worst":
        raise UserError(f"{where}select", select, "gives this method no pairs", "use best_worst")
    if needs.shape == "demonstrations" and select not in ("best_of", "all"):
        raise UserError(f"{where}select", select, "gives this method no single answers", "use best_of or all")
    if select in ("best_worst", "drop_constant") and samples < 2 and needs.opponent is None:
        raise UserError(f"{where}sampler.samples", samples, "is too few for groups", "use 2 or more")
    if needs.opponent is not None and spec.adapter is not None and spec.reference is None:
        raise UserError(
            f"{where}adapter",
            spec.adapter.kind,
            f"leaves no second model to sample the {needs.opponent} from",
            "train all weights, or name a reference",
        )
    if samples < 2 and getattr(objective, "compares_siblings", False):
        raise UserError(
            f"{where}sampler.samples",
            samples,
            "leaves an answer without siblings to be compared with: every advantage would be 0",
            "use 2 or more, or reinforce, remax or ppo, which take one answer per prompt",
        )
    if needs.shape == "rollouts" and select == "best_of":
        raise UserError(
            f"{where}select",
            select,
            "leaves one completion per prompt, and a policy gradient needs the others",
            "use all or drop_constant",
        )


def _check_idle(spec: Any, needs: Needs, reference: bool, where: str) -> None:
    """Settings that this run would not read, or that would bias it."""
    idle = [("eval_every", "online runs are evaluated on gold", "use monitors.gold_every")]
    if "critic" not in needs.models:
        idle.append(("critic", "no method but ppo has a critic", "leave it out, or use ppo"))
    if not reference and needs.opponent is None:
        idle.append(
            (
                "refresh_reference_every",
                "this method loads no reference",
                "set the method's beta above 0, or leave it out",
            )
        )
    if choose_select(spec.select, needs) != "drop_constant":
        idle.append(
            (
                "refill",
                "only select: drop_constant samples again",
                "set select: drop_constant, or leave it out",
            )
        )
    refuse_idle(spec, where, idle)
    sampler = spec.sampler
    if sampler.name == "local":
        refuse_idle(
            sampler,
            f"{where}sampler.",
            [
                (
                    n,
                    "the local sampler has no server and no memory of its own",
                    "set sampler.name: vllm, or leave it out",
                )
                for n in ("url", "memory")
            ],
        )
    if sampler.name == "vllm" and (sampler.top_p < 1 or sampler.top_k):
        field = "top_p" if sampler.top_p < 1 else "top_k"
        raise UserError(
            f"{where}sampler.{field}",
            getattr(sampler, field),
            "makes vLLM report log-probs of what was left, which bias every correction",
            "leave it out, or use sampler.name: local",
        )


@dataclass
class Online:
    """Source over prompts. Its state is the step, the number of prompts consumed, and the feedback's own state.

    `sampler` answers with the policy, `opponent` (for methods that need one) with reference or mixture. With several
    processes each takes every world-th prompt of a step.
    """

    prompts: Sequence[Prompt]
    sampler: Sampler
    feedback: Weighted
    encoder: Encoder
    needs: Needs
    spec: SamplerSpec
    path: Path
    batch_size: int
    select: str = "all"
    refill: int = 3
    epochs: float = 1.0
    max_steps: int | None = None
    shuffle: bool = True
    seed: int = 0
    rank: int = 0
    world: int = 1
    opponent: Sampler | None = None
    position: int = 0
    cursor: int = 0
    metrics: Metrics = field(default_factory=dict)
    last: list[Group] = field(default_factory=list)
    own: list[Group] = field(default_factory=list)
    """The policy's own answers of the last step: all of them, but for an opponent's."""
    notes: list[str] = field(default_factory=list)
    on_event: Callable[[int, str, str], None] | None = None
    gather: Callable[[Any], list[Any]] = lambda value: [value]

    @property
    def total_steps(self) -> int:
        """Steps of the loop (each one batch of rollouts)."""
        return self.max_steps or max(1, math.ceil(self.epochs * len(self.prompts) / self.batch_size))

    def epoch_of(self, step: int) -> float:
        """Passes over the prompts so far."""
        return self.cursor / len(self.prompts)

    def __iter__(self) -> Iterator[list[Encoded]]:
        empty = 0
        while self.position < self.total_steps:
            before = self.cursor
            try:
                groups = self._rollouts()
            except BaseException:
                self.cursor = (
                    before  # the step was not done: a checkpoint taken now begins with the same prompts
                )
                raise
            encoded = [e for e in (self._encode(g) for g in groups) if e is not None]
            self.position += 1
            if self._everywhere(len(encoded)) > 0 and not encoded:
                encoded = self._placeholder()
            if not encoded:
                empty += 1
                cause = next(
                    (f.rationale for g in self.last for f in g.feedback if f.score is None),
                    "every group was dropped by select",
                )
                self._event(self.position, "no usable group", f"step {self.position}: {cause}")
                if empty >= EMPTY_STEPS:
                    raise RunFailed(
                        f"{EMPTY_STEPS} steps in a row without one scored group to learn from\n  cause: {cause}\n  fix: mend the feedback or the select rule, then run the same command again to resume"
                    )
                continue
            empty = 0
            yield encoded

    def _everywhere(self, count: int) -> int:
        """Sum over all processes."""
        return sum(self.gather(count))

    def _placeholder(self) -> list[Encoded]:
        """A group without a preference among its answers, for a process that has nothing to learn from while others do."""
        if self.needs.shape != "rollouts":
            raise RunFailed(
                "one process has no scored answer to learn from while others do\n  fix: raise batch_size or sampler.samples"
            )
        group = self.last[0]
        same = replace(group, feedback=tuple(Feedback(0.0, "placeholder") for _ in group.completions))
        return [e for e in [self._encode(same)] if e is not None]

    def _next_prompts(self) -> list[Prompt]:
        found = []
        for _ in range(self.batch_size):
            epoch, index = divmod(self.cursor, len(self.prompts))
            found.append(self.prompts[self._order(epoch)[index]])
            self.cursor += 1
        return found

    def _order(self, epoch: int) -> list[int]:
        if getattr(self, "_epoch", None) != epoch:
            self._epoch, self._permutation = epoch, list(range(len(self.prompts)))
            if self.shuffle:
                random.Random(f"{self.seed}:{epoch}").shuffle(self._permutation)
        return self._permutation

    def _rollouts(self) -> list[Group]:
        """One step's groups after selection; metrics are over everything sampled."""
        kept: list[Group] = []
        everything: list[Group] = []
        tokens, clock = 0, time.perf_counter()
        feedback_seconds = 0.0
        rounds = 0
        share = -(-self.batch_size // self.world)
        # Every process goes another round when any of them lacks groups: they walk through the prompts together.
        while rounds == 0 or (
            self.select == "drop_constant"
            and rounds <= self.refill
            and self._everywhere(int(len(kept) < share)) > 0
        ):
            prompts = self._next_prompts()[self.rank :: self.world]
            sampled = self._sample(prompts, rounds)
            tokens += sum(len(c.token_ids or ()) for g in sampled for c in g.completions)
            begin = time.perf_counter()
            scored = self._score(sampled)
            feedback_seconds += time.perf_counter() - begin
            everything += scored
            kept += [g for g in (self._select(g) for g in scored) if g is not None]
            rounds += 1
        seconds = time.perf_counter() - clock - feedback_seconds
        kept = kept[:share]
        self.last = everything
        stamped = [
            replace(
                g,
                prompt=replace(
                    g.prompt,
                    metadata={
                        **g.prompt.metadata,
                        "step": self.position + 1,
                        "sampled_at": self.spec.temperature,
                    },
                ),
            )
            for g in everything
        ]
        store.append(self.path, stamped)
        self.own = own(everything, self.opponent is not None)
        self.metrics = self._measure(self.own) | {
            "sampling/tokens_per_second": round(tokens / max(seconds, 1e-9), 1),
            "sampling/seconds": round(seconds, 3),
            "feedback/seconds": round(feedback_seconds, 3),
            "sampling/rounds": float(rounds),
        }
        return kept

    def _params(self, rounds: int, **changes: Any) -> SamplingParams:
        s = self.spec
        seed = (self.seed * 1_000_003 + self.position) * 97 + rounds
        return replace(
            SamplingParams(s.max_new_tokens, s.temperature, s.top_p, s.top_k, tuple(s.stop), seed), **changes
        )

    def _sample(self, prompts: Sequence[Prompt], rounds: int) -> list[Group]:
        params = self._params(rounds)
        if self.opponent is not None:
            mine = self.sampler.generate(prompts, 1, params)
            theirs = self.opponent.generate(prompts, 1, replace(params, seed=params.seed + 13))
            answers = [[a[0], b[0]] for a, b in zip(mine, theirs, strict=True)]
        else:
            answers = self.sampler.generate(prompts, self.spec.samples, params)
        groups = [
            Group(p, tuple(a), (Feedback(None),) * len(a)) for p, a in zip(prompts, answers, strict=True)
        ]
        if not self.needs.greedy_baseline:
            return groups
        greedy = self.sampler.generate(prompts, 1, self._params(rounds, temperature=0.0))
        baselines = self.feedback(
            [Group(p, (a[0],), (Feedback(None),)) for p, a in zip(prompts, greedy, strict=True)]
        )
        return [
            replace(
                g,
                prompt=replace(
                    g.prompt, metadata={**g.prompt.metadata, "greedy_score": b[0].score, "greedy": a[0].text}
                ),
            )
            for g, b, a in zip(groups, baselines, greedy, strict=True)
        ]

    def _score(self, groups: Sequence[Group]) -> list[Group]:
        found = self.feedback(groups)
        scored = [replace(g, feedback=tuple(f)) for g, f in zip(groups, found, strict=True)]
        missing = [f for g in scored for f in g.feedback if f.score is None]
        if missing:
            self._event(
                self.position + 1,
                "unscored completions",
                f"{len(missing)} of {sum(len(g.feedback) for g in scored)}: {missing[0].rationale or 'no reason given'}",
            )
        return scored

    def _select(self, group: Group) -> Group | None:
        """The completions that train. Unscored ones never do."""
        if self.needs.greedy_baseline and group.prompt.metadata.get("greedy_score") is None:
            return None
        if self.opponent is not None:
            return group if all(f.score is not None for f in group.feedback) else None
        order = [i for i, f in enumerate(group.feedback) if f.score is not None]
        scores = {i: group.feedback[i].score or 0.0 for i in order}
        if self.needs.shape == "ranked":
            best_first = sorted(order, key=lambda i: -scores[i])
            order = [i for n, i in enumerate(best_first) if n == 0 or scores[i] < scores[best_first[n - 1]]]
            order = order if len(order) > 1 else []
        if self.select == "best_of":
            order = [max(order, key=scores.__getitem__)] if order else []
        elif self.select == "best_worst":
            best, worst = (
                (max(order, key=scores.__getitem__), min(order, key=scores.__getitem__)) if order else (0, 0)
            )
            order = [best, worst] if order and scores[best] > scores[worst] else []
        elif self.select == "drop_constant" and len(set(scores.values())) < 2:
            order = []
        if not order:
            return None
        return replace(
            group,
            completions=tuple(group.completions[i] for i in order),
            feedback=tuple(group.feedback[i] for i in order),
        )

    def _encode(self, group: Group) -> Encoded | None:
        """Sampled tokens as they are; the prompt as the sampler saw it."""
        prompt = self.encoder.prompt(group.prompt)
        pieces = [self.encoder.completion(group.prompt, c) for c in group.completions]
        kept = [i for i, (ids, mask) in enumerate(pieces) if ids and any(mask)]
        if len(kept) < len(pieces):
            return None
        return Encoded(group, prompt, tuple(p[0] for p in pieces), tuple(p[1] for p in pieces))

    def _measure(self, groups: Sequence[Group]) -> Metrics:
        """Names and definitions as in TRL's GRPO trainer, over the completions of all ranks."""
        mine = [
            [
                (f.score, f.parts, len(c.token_ids or ()), c.finish_reason, _surprise(c))
                for c, f in zip(g.completions, g.feedback, strict=True)
            ]
            for g in groups
        ]
        rows = [row for share in self.gather(mine) for row in share]
        answers = [a for row in rows for a in row]
        if not answers:
            return {}
        scores = [[score for score, *_ in row if score is not None] for row in rows]
        flat = [s for row in scores for s in row]
        within = [_std(row) for row in scores if len(row) > 1]
        lengths = [n for _, _, n, *_ in answers]
        ended = [n for _, _, n, reason, _ in answers if reason == "stop"]
        out: Metrics = {
            "completions/mean_length": fmean(lengths),
            "completions/min_length": min(lengths),
            "completions/max_length": max(lengths),
            "completions/clipped_ratio": fmean([reason == "length" for *_, reason, _ in answers]),
            "feedback/unscored": 1 - len(flat) / len(answers),
        }
        out["entropy"] = sum(surprise for *_, surprise in answers) / max(1, sum(lengths))
        if ended:
            out |= {
                "completions/mean_terminated_length": fmean(ended),
                "completions/min_terminated_length": min(ended),
                "completions/max_terminated_length": max(ended),
            }
        if flat:
            out |= {"reward": fmean(flat), "reward_std": _std(flat)}
        if within:
            out |= {
                "reward_std_within_group": fmean(within),
                "frac_reward_zero_std": fmean([s < 1e-8 for s in within]),
            }
        for name in sorted({name for _, parts, *_ in answers for name in parts}):
            values = [parts[name] for _, parts, *_ in answers if name in parts]
            out |= {f"rewards/{name}/mean": fmean(values), f"rewards/{name}/std": _std(values)}
        gaps = [gap for gap in self.gather(self.feedback.disagreement()) if gap is not None]
        return out | ({"rewards/disagreement": fmean(gaps)} if gaps else {})

    def _event(self, step: int, what: str, detail: str) -> None:
        if self.on_event is not None:
            self.on_event(step, what, detail)

    def after_update(self) -> None:
        """The sampler takes the new weights."""
        for sampler in (self.sampler, self.opponent):
            if sampler is not None:
                sampler.sync()

    def state(self) -> dict[str, Any]:
        """All that a resumed run needs besides the weights."""
        return {
            "position": self.position,
            "cursor": self.cursor,
            "feedback": self.feedback.state(),
            "version": self.sampler.version,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """The inverse of `state`."""
        self.position, self.cursor = state["position"], state["cursor"]
        self.feedback.restore(state["feedback"])
        for sampler in (self.sampler, self.opponent):
            if sampler is not None:
                sampler.sync()  # an engine of its own was started with the weights that training began from
                sampler.version = state["version"]


def own(groups: Sequence[Group], opponent: bool) -> list[Group]:
    """The policy's answers: all of them, or the first of each pair where the second is an opponent's."""
    return (
        [replace(g, completions=g.completions[:1], feedback=g.feedback[:1]) for g in groups]
        if opponent
        else list(groups)
    )


def trim(path: Path, step: int) -> None:
    """Cuts groups.jsonl back to the rollouts of the first `step` steps."""
    cut_lines(path, lambda row: row["prompt"].get("metadata", {}).get("step", 0) <= step)


def _surprise(completion: Completion) -> float:
    """Entropy times tokens, nats: from the logits where the sampler gives it, else the log-probs of what was drawn."""
    if completion.entropy is not None:
        return completion.entropy * len(completion.token_ids or ())
    return -sum(completion.sampling_logps or ())


def _std(values: Sequence[float]) -> float:
    """Sample standard deviation, 0 for a single value."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


def sample_text(groups: Sequence[Group]) -> str:
    """The last completion, for the live view."""
    last: Completion | None = groups[-1].completions[0] if groups and groups[-1].completions else None
    return "" if last is None else " ".join(last.text.split())
