"""Asks the quickstart's gate of what must not ship: flipped labels, a policy that declines, the start itself.

    kilter run recipes/quickstart.yaml && python -m bench.desk runs/quickstart

It trains two models from the quickstart's start and evaluates both beside the start. About six minutes on
2 cores. Exit code 1 if any of them passes.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import yaml

import kilter
from kilter.data import store
from kilter.data.dataset import DataSpec, load
from kilter.release.gate import decide, load_policy
from kilter.types import Completion, Feedback, Group

RECIPE = Path(__file__).resolve().parents[1] / "recipes" / "quickstart.yaml"


def declines(spec: DataSpec, target: Path) -> None:
    """Demonstrations that decline every training prompt of the data, under the right rule."""
    rows = [
        Group(
            group.prompt,
            (Completion(f"Under {group.prompt.metadata['gold']['rule']}: declined."),),
            (Feedback(None, "demonstration"),),
        )
        for group in load(spec, "prompts").train
    ]
    target.unlink(missing_ok=True)
    store.append(target, rows)


def recipe(raw: dict[str, Any], start: str, rows: Path) -> dict[str, Any]:
    """The quickstart with its candidate replaced by those that must not pass."""
    dpo, evaluate = raw["stages"]["dpo"]["train"], raw["stages"]["eval"]["evaluate"]
    desk = raw["data"]["desk"]
    flipped = desk | {"world": desk["world"] | {"label_noise": 1.0}}
    imitate = {name: dpo[name] for name in ("batch_size", "max_length", "dtype")}
    imitate |= {"method": "sft", "data": "$declines", "learning_rate": 1.0e-4, "limit": 160}
    kept = {k: v for k, v in evaluate.items() if k not in ("models", "reward_model")}
    return {
        "model": raw["model"],
        "data": raw["data"] | {"flipped": flipped, "declines": {"path": str(rows), "heldout": 0}},
        "stages": {
            "flipped": {"train": dpo | {"from": start, "data": "$flipped"}},
            "declining": {"train": imitate | {"from": start}},
            "eval": {
                "evaluate": kept
                | {"models": {"sft": start, "flipped": "flipped", "declining": "declining", "same": start}}
            },
        },
    }


def main() -> None:
    """Prints one line per candidate and condition."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("run", type=Path, help="folder of a finished quickstart")
    p.add_argument("--out", type=Path, default=Path("runs/desk-not-to-ship"))
    p.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a field of its recipe")
    args = p.parse_args()

    # The rows come first: the recipe names them.
    raw = yaml.safe_load(RECIPE.read_text())
    args.out.mkdir(parents=True, exist_ok=True)
    rows = args.out.parent / f"{args.out.name}-declines.jsonl"
    declines(DataSpec.model_validate(raw["data"]["desk"]), rows)
    path = args.out.parent / f"{args.out.name}.yaml"
    path.write_text(yaml.safe_dump(recipe(raw, str(args.run / "sft"), rows), sort_keys=False))
    kilter.run(path, args.set, runs=args.out.parent)

    # The reward model is the quickstart's: what is tested here is the policy.
    evaluation = json.loads((args.out / "eval" / "evaluation.json").read_text())
    evaluation["reward_model"] = json.loads((args.run / "eval" / "evaluation.json").read_text())[
        "reward_model"
    ]
    policy = load_policy(raw["stages"]["gate"]["gate"]["policy"])
    passed = []
    for name in ("flipped", "declining", "same"):
        result = decide(policy, evaluation, name)
        print(f"{name}: {result['verdict']}")
        for condition in result["conditions"]:
            print(f"  {condition['state']:<12} {condition['condition']}   {condition['why']}")
        passed += [name] if result["verdict"] == "pass" else []
    sys.exit(1 if passed else 0)


if __name__ == "__main__":
    main()
