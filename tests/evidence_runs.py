"""Run folders made by hand: what the pages are made of, without a model."""

from __future__ import annotations

import json
import random
from pathlib import Path

from kilter import chain, manifest
from kilter.data import store
from kilter.types import Completion, Feedback, Group, Prompt

WORDS = [f"word{i}" for i in range(400)]


def stage(
    run: Path,
    name: str,
    kind: str,
    facts=None,
    config=None,
    inputs=None,
    outputs=None,
    status="done",
    **files,
):
    """A stage with these files: a list is written as lines."""
    folder = run / name
    folder.mkdir(parents=True)
    entry = manifest.Manifest(name, kind, f"key-{name}", config or {}, inputs or {}, status)
    entry.facts, entry.outputs, entry.started = (
        facts or {},
        outputs or {},
        f"2026-01-0{1 + len(list(run.iterdir()))}",
    )
    entry.versions = {"kilter": "0.1.0"}
    entry.write(folder)
    for stem, content in files.items():
        if isinstance(content, list):
            (folder / f"{stem}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in content))
        else:
            (folder / f"{stem}.json").write_text(json.dumps(content))
    return folder


def metric(value, low=None, high=None, n=40, unit="share of prompts", better=True):
    return {
        "value": value,
        "ci_low": value if low is None else low,
        "ci_high": value if high is None else high,
        "n": n,
        "n_unscored": 0,
        "unit": unit,
        "method": "Wilson",
        "judge": "",
        "higher_is_better": better,
        "seed": 0,
        "n_clusters": n,
        "data_hash": "d",
    }


def condition(name, bound, op, value, observed, state="pass", why=""):
    found = {"condition": f"{name} {bound} {op} {value}", "metric": name, "bound": bound, "op": op}
    return found | {
        "value": value,
        "observed": observed,
        "n": 40,
        "state": state,
        "severity": "fail",
        "why": why,
    }


def group(i, names, texts, scores, unsafe=False, notes=("", "")):
    prompt = Prompt(
        messages=({"role": "system", "content": "Be kind."}, {"role": "user", "content": f"Question {i}"}),
        id=f"q{i}",
        metadata={"safety": "unsafe" if unsafe else "safe"},
    )
    feedback = [Feedback(s, "gold", rationale=note, source=n) for n, s, note in zip(names, scores, notes)]
    return Group(prompt, tuple(map(Completion, texts)), tuple(feedback))


def make_run(
    folder: Path,
    n=40,
    length=6,
    verdict="pass",
    seed=0,
    names=("base", "dpo"),
    model_hash="m" * 16,
    gate=True,
    refusals=False,
) -> Path:
    """A run of three stages: a training with events, an evaluation of n prompts, a gate.

    Prompt 0 is the largest loss, 1 unscored, 2 declined, 3 harmful, 4 the largest gain.
    """
    rng = random.Random(seed)
    groups, gold = [], {name: [] for name in names}
    for i in range(n):
        texts = [" ".join(rng.choices(WORDS, k=length)) for _ in names]
        scores = [0.5, *(round(0.5 + 0.1 * ((i + k) % 3), 2) for k in range(len(names) - 1))]
        special = {0: (0.9, 0.0), 1: (0.5, None), 4: (0.0, 1.0)}.get(i)
        if special is not None:
            scores[0], scores[-1] = special
        if i == 2:
            texts[-1] = "I'm sorry, but I can't help with that."
        if i == 3:
            texts[-1] = "Sure: take the secret powder and mix it well with water"
        for name, score in zip(names, scores):
            gold[name].append(score)
        groups.append(group(i, names, texts, scores, unsafe=i == 3, notes=["seen", "noted"] + ["third"] * 9))
    models = {
        name: {
            "path": name,
            "model_hash": model_hash if k else "b" * 16,
            "metrics": {"gold": metric(0.6, 0.5, 0.7)},
        }
        for k, name in enumerate(names)
    }
    for name in names[1:]:
        models[name]["difference"] = {
            "gold": metric(0.1, 0.02, 0.2),
            "refusal": metric(0.0, -0.1, 0.1, better=None),
            "over_refusal": metric(0.2, 0.1, 0.3, better=False),
        }
    evaluation = {
        "schema": 1,
        "baseline": names[0],
        "n_prompts": n,
        "data_hash": "d",
        "prompts_found_in_training_data": 0,
        "sampling": {"temperature": 0.0, "max_new_tokens": 32, "top_p": 1.0, "top_k": 0, "seed": 0},
        "models": models,
    }
    events = [
        {
            "step": 3,
            "since": 2,
            "level": "warn",
            "message": "entropy fell",
            "confidence": "",
            "action": "pinned",
        }
    ]
    steps = [
        {"step": s, "epoch": s / 8, "loss": 1 / s, "reward": s / 8, "step_time": 2.0} for s in range(1, 9)
    ]
    config = {"method": "dpo", "from": None, "data": "$desk", "learning_rate": 1e-5, "seed": 0}
    hashes = {"model": model_hash}
    inputs = {"model:base-owner/base-model": "b" * 64}
    facts = {"steps": 8, "groups": 100}
    stage(folder, "dpo", "train", facts, config, inputs, hashes, metrics=steps, events=events)
    at = stage(folder, "eval", "evaluate", config={"data": "$desk"}, evaluation=evaluation)
    store.write(at / "groups.jsonl", groups)
    values = {name: {"gold": gold[name]} | ({"refusal": [0.0] * n} if refusals else {}) for name in names}
    (at / "per_prompt.json").write_text(json.dumps(values))
    conditions = [
        condition("gold", "diff_ci_low", ">", 0.0, 0.02),
        condition("over_refusal", "diff_ci_high", "<=", 0.05, 0.3, "fail" if verdict == "fail" else "pass"),
    ]
    if verdict == "inconclusive":
        conditions[1] |= {"state": "inconclusive", "why": "the interval [0.01, 0.3] straddles 0.05"}
    decided = {
        "schema": 1,
        "policy": "release",
        "candidate": names[-1],
        "baseline": names[0],
        "verdict": verdict,
    }
    decided |= {"data_hash": "d", "model_hash": model_hash, "conditions": conditions}
    if gate:
        stage(folder, "gate", "gate", gate=decided)
    recipe = {
        "name": folder.name,
        "model": "base-owner/base-model",
        "data": {"desk": {"path": "owner/desk"}},
        "stages": {
            "dpo": {"train": config},
            "eval": {"evaluate": {}},
            "gate": {"gate": {"policy": "p.yaml"}},
        },
    }
    (folder / "recipe.yaml").write_text(json.dumps(recipe))
    return seal(folder)


def seal(run: Path) -> Path:
    """The run's chain as if its stages had just written what lies there."""
    for path in run.glob("*/manifest.json"):
        entry = manifest.read(path.parent)
        entry.files = chain.files_of(path.parent)
        entry.write(path.parent)
        chain.record(run, path.parent.name, entry.text(), entry.files)
    return run
