"""A recipe that tries the suggestions side by side: SFT, each method from it, one evaluation, one gate."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from kilter.advice.facts import Facts
from kilter.advice.rules import Machine, Suggestion
from kilter.data.worlds import registry as worlds
from kilter.models.sizes import Sizes
from kilter.objectives import build_objective
from kilter.refs import looks_like_stage
from kilter.training.config import TrainSpec
from kilter.training.estimate import train_memory

HEADER = (
    "# Made by `kilter advise {path}`: the methods worth trying on this data, "
    "from one start, on the same rows.\n"
    "#   kilter run {target}\n"
)


def fitting(size: Sizes, machine: Machine) -> dict[str, Any]:
    """Fields with which training fits into the memory.

    Full weights come first, then adapters, then adapters with recomputed activations. The need is
    `plan.train_memory`'s estimate. A fifth of the memory is left to everything else.
    """
    tries: tuple[dict[str, Any], ...] = (
        {"dtype": "bfloat16"},
        {"dtype": "bfloat16", "adapter": {"r": 16}},
        {"dtype": "bfloat16", "adapter": {"r": 16}, "gradient_checkpointing": True},
    )
    for fields in tries:
        if train_memory(TrainSpec.model_validate({"method": "sft"} | fields), size) < 0.8 * machine.memory_gb:
            return fields
    return tries[-1]


def make(
    model: str,
    facts: Facts,
    suggestions: list[Suggestion],
    fields: dict[str, Any],
    target: str = "advice.yaml",
    read: Mapping[str, Any] | None = None,
) -> str:
    """The recipe as YAML.

    Args:
        model: where every stage starts.
        facts: of the data set.
        suggestions: methods to compare; each becomes a stage.
        fields: of every train stage, from `fitting`.
        target: file that the recipe goes to, for its first lines.
        read: how the file is read, as fields of a data set.
    """
    # In a recipe a bare word is a stage.
    if looks_like_stage(model):
        model = f"./{model}"
    stages: dict[str, Any] = {}
    has_answers = facts.kind not in ("prompts",)
    start: str | None = None
    skip = {"on_bad_row": "skip"} if facts.left_out else {}
    source = {"path": facts.path, "heldout": 0.1} | skip | dict(read or {})
    data: dict[str, Any] = {"data": source}
    # Where there are answers to imitate, all methods start from their imitation.
    if has_answers and facts.kind not in ("thumbs", "scored"):
        stages["sft"] = {"train": {"method": "sft", "data": "$data"} | fields}
        start = "sft"
    for s in suggestions:
        if s.method == "sft" and "sft" in stages:
            continue
        if s.data:
            data[f"for_{s.method}"] = source | s.data
        stages[s.method] = {"train": ({"from": start} if start else {}) | _train(s, facts) | fields}

    trained = [name for name in stages if name != start]
    evaluated = [start or model, *trained]
    evaluate = {"models": evaluated, "baseline": evaluated[0], "data": "$data", "max_new_tokens": 128}

    # Preferences also make a judge that no policy saw. Held-out pairs say how far to trust it.
    if facts.kind in ("pairs", "rankings", "ratings"):
        judge = {"from": start, "method": "bradley_terry", "data": "$data"} | fields
        stages["rm"] = {"train": judge}
        evaluate["reward_model"] = "rm"
    stages["eval"] = {"evaluate": evaluate}
    recipe = {"model": model, "data": data if len(data) > 1 else data["data"], "stages": stages}
    return HEADER.format(path=facts.path, target=target) + yaml.safe_dump(
        recipe, sort_keys=False, allow_unicode=True
    )


def _train(s: Suggestion, facts: Facts) -> dict[str, Any]:
    """What a method trains on, and how."""
    method = {"name": s.method} | s.settings if s.settings else s.method
    if build_objective(s.method).needs.shape != "rollouts":
        return {"method": method, "data": f"$for_{s.method}" if s.data else "$data"}
    return {
        "method": method,
        "prompts": "$data",
        "feedback": _feedback(facts),
        "sampler": {"samples": 8, "max_new_tokens": 128},
        "max_steps": 100,
    }


def _feedback(facts: Facts) -> Any:
    """A source that exists: the world's verifier, the answers in the data, or the policy's own judgement."""
    if facts.format in worlds.sources():
        return facts.format
    if facts.verifiable > facts.groups / 2:
        return {"math": {"mark": "####"}} if facts.format == "question_answer" else "math"
    return "self_reward"
