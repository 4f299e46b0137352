"""The runs of bench.numbers: small recipes and what they read, made from seeds. Nothing here imports Kilter.

The recipes use keys that every commit reads since 949c5d3, so one script drives the code of any of them.
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

QUICKSTART = Path(__file__).resolve().parents[1] / "recipes" / "quickstart.yaml"

TEMPLATE = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] + '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)

REWARDS = '''
import asyncio, time

def letters(prompt, completion):
    """Share of letters a to m: a reward that any token can raise."""
    return sum("a" <= c <= "m" for c in completion.text.lower()) / max(1, len(completion.text))

def wanted(prompt, completion):
    """Share of letters n to z: what training never sees."""
    return sum("n" <= c <= "z" for c in completion.text.lower()) / max(1, len(completion.text))

def slow(prompt, completion):
    """Gives whoever kills the run time to do it."""
    time.sleep(0.01)
    return letters(prompt, completion)

def batch(prompts, completions, **columns):
    return [len(set(text)) / (1 + len(text)) for text in completions]

async def patient(prompt, completion):
    await asyncio.sleep(0.001)
    return None if completion.text.startswith("z") else wanted(prompt, completion)
'''

WORDS = ("the", "parcel", "came", "late", "broken", "please", "send", "it", "again", "or", "refund")

EVALUATE = {"data": "$data", "max_new_tokens": 12, "gold": "rewards.py:wanted"}
"""Fields of every evaluate stage of the tiny model."""

OFFLINE = {"batch_size": 8, "learning_rate": 3.0e-3, "max_steps": 4}
"""A train stage on the pairs."""

ONLINE: dict[str, Any] = {
    "prompts": "$data",
    "sampler": {"samples": 4, "max_new_tokens": 10},
    "batch_size": 4,
    "max_steps": 8,
    "learning_rate": 3.0e-3,
    "monitors": {
        "gold": "rewards.py:wanted",
        "gold_every": 3,
        "gold_prompts": 8,
        "stop": False,
        "allow_truncation": True,
        "keep_best": False,
    },
}
"""A train stage on answers of the policy; the last step's weights count, or a wrong step might go unseen."""

BEST = ONLINE["monitors"] | {"gold": "rewards.py:letters", "keep_best": True}
"""The gold score picks the weights that are kept; it rises with the reward, so the start does not win."""


@dataclass(frozen=True)
class Case:
    """One run. If a stage `killed` is named, the run is killed after `kill_after` steps of it and resumed."""

    recipe: dict[str, Any]
    overrides: tuple[str, ...] = ()
    killed: str = ""
    kill_after: int = 0


def cases() -> dict[str, Case]:
    """All runs by name, the slowest first."""
    resumed = _recipe(resumed=_train("ppo", "rewards.py:slow", **_RESUMED))
    return {
        "quickstart": _quickstart(),
        "ppo": Case(_ppo()),
        "grpo": Case(_grpo()),
        "unbroken": Case(resumed),
        "resumed": Case(resumed, killed="resumed", kill_after=7),
        "processes": Case(_processes()),
        "methods": Case(_methods()),
    }


_RESUMED: dict[str, Any] = {
    "max_steps": 18,
    "save_every": 3,
    "schedule": "linear",
    "kl_control": {"mode": "adaptive", "target": 0.5, "horizon": 64},
    "critic": {"learning_rate": 1.0e-2, "warmup_steps": 2},
    "minibatches": 2,
    "monitors": BEST,
}
"""All that a checkpoint holds: policy, critic, optimizers, schedule, prompts, KL coefficient, gold scores."""


def _quickstart() -> Case:
    """The real recipe and the built-in model, with few rows, few steps and short answers."""
    sizes = {"max_steps": 2, "batch_size": 4}
    overrides = [f"stages.{s}.train.{k}={v}" for s in ("sft", "rm", "dpo") for k, v in sizes.items()]
    overrides += ["data.desk.world.n=32", "data.unseen.world.n=8", "stages.eval.evaluate.max_new_tokens=12"]
    return Case(yaml.safe_load(QUICKSTART.read_text(encoding="utf-8")), tuple(overrides))


def _recipe(**stages: Any) -> dict[str, Any]:
    data = {
        "data": {"path": "pairs.jsonl", "heldout": 0.25},
        "rated": {"path": "rated.jsonl", "heldout": 0.25},
    }
    return {"model": "./tiny", "data": data, "stages": stages}


def _train(method: Any, feedback: Any = None, **fields: Any) -> dict[str, Any]:
    """A train stage: online where there is feedback."""
    if feedback is None:
        return {"train": {"method": method} | OFFLINE | fields}
    return {"train": {"method": method, "feedback": feedback} | ONLINE | fields}


def _gate(candidate: str, baseline: str) -> dict[str, Any]:
    conditions = [
        {"metric": "gold", "bound": "diff_ci_low", "op": ">", "value": 0, "min_n": 8},
        {"metric": "truncated", "bound": "ci_high", "op": "<", "value": 0.5, "severity": "warn"},
    ]
    return {"gate": {"candidate": candidate, "baseline": baseline, "policy": {"conditions": conditions}}}


def _ppo() -> dict[str, Any]:
    """InstructGPT in small: imitation, a reward model, PPO with a critic that begins from it, the verdict."""
    return _recipe(
        audit={"audit": {"data": "$data", "max_length": 128, "waive": {"grouped_split": "by design"}}},
        sft=_train("sft", eval_every=2),
        rm=_train("bradley_terry", **{"from": "sft"}),
        ppo=_train(
            {"name": "ppo", "beta": 0.05, "epochs": 2},
            {"reward_model": "rm"},
            **{"from": "sft"},
            critic={"learning_rate": 1.0e-2, "warmup_steps": 2},
            monitors=BEST | {"gold": "rewards.py:wanted"},
        ),
        eval={
            "evaluate": EVALUATE | {"models": ["sft", "ppo"], "baseline": "sft", "reward_model": "rm"},
        },
        gate=_gate("ppo", "sft"),
    )


def _grpo() -> dict[str, Any]:
    """Reward functions of a user's file, which run in a process of their own; adapters; refilled groups.

    A further stage merges the adapter: in evaluation.json the hash of an adapter depends on its base's path.
    """
    weighted = ["rewards.py:letters", {"rewards.py:batch": {"timeout": 20.0}, "weight": 0.5}]
    merged = {"from": "lora", "adapter": {"r": 4, "merge": True}, "max_steps": 2}
    return _recipe(
        grpo=_train({"name": "grpo", "beta": 0.05}, weighted, minibatches=2, inner_epochs=2),
        lora=_train("grpo", "rewards.py:patient", adapter={"r": 4}, select="drop_constant", refill=1),
        merged=_train("dpo", **merged),
        eval={"evaluate": EVALUATE | {"models": ["./tiny", "grpo", "merged"], "baseline": "./tiny"}},
        gate=_gate("grpo", "./tiny"),
    )


def _processes() -> dict[str, Any]:
    """Two processes, on fixed pairs and on fresh answers."""
    return _recipe(
        dpo=_train({"name": "dpo", "beta": 0.1}, processes=2, eval_every=2),
        rloo=_train({"name": "rloo", "beta": 0.05}, "rewards.py:letters", processes=2, max_steps=4),
    )


def _methods() -> dict[str, Any]:
    """One method for every further thing that a method can ask of the loop."""
    short = {"max_steps": 3}
    reward = "rewards.py:letters"
    stages = {
        "sft": _train("sft", dtype="bfloat16", gradient_checkpointing=True),
        "kto": _train("kto", **short),  # log-ratios over answers to other prompts
        "bco": _train("bco", **short),  # a running state
        "npo": _train("npo", **short),  # one label only
        "dr_dpo": _train("dr_dpo", tokens_per_microbatch=120, **short),  # the whole batch at once
        "wdpo": _train("wdpo", **short),  # the gradient is differentiated again
        "mix": _train({"mix": {"dpo": 1, "sft": 0.1}}, schedule="cosine", **short),
        "lists": _train("plackett_luce", data="$rated", **short),
        "replay": _train("grpo", data="$rated", replay=True, **short),  # old rollouts as data
        "preference": _train("pairwise_preference", **short),  # both answers in one row
        "distill": _train("distill", teacher="sft", **short),
        "judged": _train("grpo", {"preference_model": "preference"}, **short),
        "dapo": _train(
            "dapo", reward, sampler=ONLINE["sampler"] | {"stop": ["a", "e"]}, **short
        ),  # cut answers masked
        "remax": _train("remax", reward, **short),  # the greedy answer's score
        "reinforce_pp": _train("reinforce_pp", reward, **short),
        "nash_md": _train("nash_md", reward, **short),  # an opponent
        "xpo": _train("xpo", reward, **short),
        "best": _train("sft", reward, select="best_of", **short),
        "iterative": _train("dpo", reward, select="best_worst", refresh_reference_every=2, **short),
    }
    return _recipe(**stages)


def write_inputs(folder: Path, recipe: dict[str, Any]) -> None:
    """What a run reads, under `folder`: recipe.yaml; for the tiny model also its folder, data and rewards."""
    folder.mkdir(parents=True)
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe | {"name": "run"}, sort_keys=False))
    if recipe["model"] == "./tiny":
        make_model(folder / "tiny")
        for name, rows in (("pairs", pair_rows()), ("rated", rated_rows())):
            (folder / f"{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
        (folder / "rewards.py").write_text(REWARDS)


def pair_rows(count: int = 48) -> list[dict[str, str]]:
    """Pairs of unlike lengths whose better answer is the polite one."""
    draw = random.Random(0)
    return [
        {
            "prompt": f"Order {i}: {_words(draw, 2, 9)}?",
            "chosen": f"Thank you, {_words(draw, 2, 8)}.",
            "rejected": f"No, {_words(draw, 1, 10)}!",
        }
        for i in range(count)
    ]


def rated_rows(count: int = 24) -> list[dict[str, Any]]:
    """Four rated answers to a prompt; some ratings tie."""
    draw = random.Random(1)
    answer = lambda: {"response": f"It {_words(draw, 1, 8)}.", "score": draw.randint(1, 5)}
    return [
        {"prompt": f"Order {i}: {_words(draw, 2, 9)}?", "completions": [answer() for _ in range(4)]}
        for i in range(count)
    ]


def _words(draw: random.Random, least: int, most: int) -> str:
    return " ".join(draw.choice(WORDS) for _ in range(draw.randint(least, most)))


def make_model(folder: Path) -> None:
    """A 2-layer Llama over bytes, from a seed."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
    from transformers.utils import logging

    logging.disable_progress_bar()
    specials = ["<|pad|>", "<|end|>", "<|user|>", "<|assistant|>", "<|system|>"]
    vocabulary = {t: i for i, t in enumerate([*specials, *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    raw = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    raw.add_special_tokens(specials)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="<|end|>", pad_token="<|pad|>")
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)

    # Large initial weights, so that answers differ and rewards vary from the first step on.
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=264,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        eos_token_id=1,
        pad_token_id=0,
        bos_token_id=None,
        initializer_range=0.15,
    )
    model = LlamaForCausalLM(config)
    model.generation_config.eos_token_id = 1
    model.save_pretrained(folder)
