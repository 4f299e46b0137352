"""Every command of README and docs runs, at small settings and with the tests' tiny model in place of the built-in one.

A document is one test: its commands run in their order, in one folder, as a reader would run them.
"""

from __future__ import annotations

import gzip
import io
import json
import re
import shlex
import shutil
import sys
import zlib
from pathlib import Path

import pytest
import yaml

from conftest import pair_rows
from kilter.cli import main
from kilter.data.worlds import registry as worlds

ROOT = Path(__file__).resolve().parents[1]
PAGES = ["README.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))]

ELSEWHERE = {
    r"make ": "installs into an environment of its own; the quickstart takes minutes",
    r"\S+=1 vllm serve ": "vLLM has an environment of its own (make test-vllm)",
    r"python -m bench": "measures for minutes",
    r"python -m pytest .*-m gpu": "needs a GPU",
    r"kilter run recipes/cluster-7b.yaml": "needs 8 GPUs (tests/test_cluster_plan.py)",
    r"python -m kilter.evaluation.response.train": "reads labels that are not here, for a minute",
    r"kilter run recipes/constitutional-ai.yaml": "has eleven stages (tests/test_constitutional_ai.py)",
    r"kilter lm-eval ": "needs lm-eval, which is an extra (tests/test_exchange.py)",
    r"kilter submit ": "asks a cluster that is not here (tests/test_submit.py)",
    r"kilter watch ": "serves until it is interrupted (tests/test_watch.py)",
    r"kilter trace ": "asks for a run of that recipe (tests/test_constitutional_ai.py)",
    r"kilter sample some-model --sampler openai": "asks a server that is not here (tests/test_endpoints.py)",
    r"kilter (sign|verify \S+ --key)": "asks for a key (tests/test_verify.py)",
    r"kilter train --method dpo --data pairs.jsonl --processes 2": "two processes (tests/test_distributed.py)",
}
"""Commands that cannot run here, and why."""

WORDS = {"RUN": "runs/watched", "MODEL": "runs/sft", "FOLDER": "untied", "some-base-model": "tiny"}
"""What stands for the placeholders."""

TRAIN = "--max-steps 2 --batch-size 2 --limit 4 --max-length 1500"
ONLINE = (
    "--max-steps 1 --batch-size 2 --limit 4 --max-length 1500 --sampler.samples 2 --sampler.max-new-tokens 4 "
    "--monitors.allow-truncation --data.world {n: 16}"
)
SMALL = {
    r"kilter train .*(--feedback|--online)": ONLINE,
    r"kilter train ": TRAIN,
    r"kilter eval --reward-model": "",
    r"kilter eval ": "--max-new-tokens 4 --limit 4",
    r"kilter generate ": "--sampler.max-new-tokens 4 --limit 3",
    r"kilter sample ": "--k 1",
    r"kilter data convert builtin:": "--size 8",
    r"kilter constitution (test|conflicts|diff) ": "--limit 10",
    r"kilter audit .*--heldout": "--waive 'grouped_split=the rows of the tests are alike'",
    r"kilter audit-judge --compare": "",
    r"kilter audit-judge ": "--limit 4 --probe-limit 2",
}
"""Small settings, the first that fits; a later option overrules the one of the document."""

STAGE = {
    "train": {"max_steps": 1, "batch_size": 2, "limit": 4, "max_length": 1500},
    "evaluate": {"limit": 2, "max_new_tokens": 4, "max_length": 1500},
    "generate": {"k": 2, "limit": 3, "max_length": 1500, "sampler.max_new_tokens": 4},
    "audit": {"max_length": 1500},
}
ROLLOUTS = {
    "sampler.samples": 2,
    "sampler.max_new_tokens": 4,
    "monitors.allow_truncation": "true",
}


def commands(text: str) -> list[str]:
    """The indented and fenced commands of a page, comments and line breaks taken off."""
    joined = re.sub(r"\\\n\s*", "", text)
    found = re.findall(r"^(?: {4,})?((?:\w+=\S+ )?(?:kilter|make|python -m|pip|vllm) .*)$", joined, re.M)
    return [re.split(r"\s{2,}#|\s#\s", line)[0].strip() for line in found if "`" not in line]


def first(table: dict[str, str], command: str) -> str | None:
    return next((value for pattern, value in table.items() if re.match(pattern, command)), None)


def shrink(stages: dict, prefix: str) -> list[str]:
    """--set options that make every stage of a recipe small."""
    found = []
    for name, body in stages.items():
        if "rounds" in body:
            found += [f"{prefix}.{name}.rounds=1"]
            found += shrink(body["stages"], f"{prefix}.{name}.stages")
            continue
        ((kind, fields),) = body.items()
        changes = STAGE.get(kind, {}) | (ROLLOUTS if kind == "train" and "prompts" in (fields or {}) else {})
        # A cluster is planned without one (tests/test_cluster_plan.py).
        if kind == "train" and "cluster" in (fields or {}):
            changes = changes | {"cluster": "null", "fsdp": "false", "sampler.name": "local"}
        # A few steps are no time for a critic alone.
        if kind == "train" and "warmup_steps" in (fields or {}).get("critic", {}):
            changes = changes | {"critic.warmup_steps": 1}
        found += [f"{prefix}.{name}.{kind}.{key}={value}" for key, value in changes.items()]
    return found


def small_recipe(path: Path) -> list[str]:
    """--set options for a recipe or a comparison."""
    raw = yaml.safe_load(path.read_text())
    named = {"": raw["data"]} if "path" in raw["data"] else {f"{name}.": d for name, d in raw["data"].items()}
    sets = [] if raw.get("model", "builtin:").startswith("builtin:") else ["model=tiny"]
    for name, data in named.items():
        if "parts" in data:
            own = [worlds.is_world(p["path"]) for p in data["parts"]]
            small = [
                p | ({"world": p.get("world", {}) | {"n": 16}} if of_world else {})
                for p, of_world in zip(data["parts"], own, strict=True)
            ]
            sets.append(f"data.{name}parts={json.dumps(small)}")
            continue
        if worlds.is_world(data["path"]):
            sets.append(f"data.{name}world.n=16")
        elif not Path(data["path"]).exists():
            # A verifier reads the right answer of a question, which pairs do not have.
            known = "gsm8k.jsonl" if "math" in path.read_text() else "pairs.jsonl"
            sets.append(f"data.{name}path={path.parents[1] / known}")
    if "stages" in raw:
        return [*sets, *shrink(raw["stages"], "stages")]
    both = [f"{part}.{k}={v}" for part in ("start", "train") for k, v in STAGE["train"].items()]
    evaluate = [f"evaluate.{k}={v}" for k, v in STAGE["evaluate"].items()]
    evaluate += ["evaluate.tax_limit=4"] if "tax" in raw["evaluate"] else []
    return [*sets, *both, *evaluate, "methods={dpo: dpo, kto: kto}", "seeds=[0]"]


def arguments(command: str) -> list[str]:
    """The command with small settings."""
    words = [WORDS.get(word, word) for word in shlex.split(command)[1:]]
    if words[0] in ("run", "compare"):
        sets = small_recipe(Path(words[1]).resolve())
        return [*words, *(word for item in sets for word in ("--set", item))]
    added = shlex.split(re.sub(r"(\{[^}]*\})", r"'\1'", first(SMALL, command) or ""))
    if "builtin:" not in command and "--data.world" in added:
        added = added[: added.index("--data.world")]
    if "--reward-model" in command and "--model" in command:
        added = ["--max-new-tokens", "4"]
    return [*words, *added]


@pytest.fixture(scope="module")
def place(tiny, tmp_path_factory):
    """What the documents speak of: data, recipes, the files that they show, and a few finished runs."""
    import kilter

    here = tmp_path_factory.mktemp("reader")
    shutil.copytree(ROOT / "recipes", here / "recipes")
    rows = pair_rows(40)
    questions = [{"question": f"{i} + 1?", "answer": f"It is\n#### {i + 1}"} for i in range(12)]
    files = {
        "pairs.jsonl": rows,
        "prompts.jsonl": [{"prompt": row["prompt"]} for row in rows[:12]],
        "gsm8k.jsonl": questions,
        "answers.jsonl": [{"prompt": "Hello", "answer": "Hi"}],
        "read-by-people.jsonl": [
            {"prompt": "Hello", "answer": "Hi", "label": "compliance"},
            {"prompt": "Hello", "answer": "I'm sorry, but I can't help with that.", "label": "full_refusal"},
        ],
        "facts.jsonl": [
            {"prompt": f"Is {i} even?", "answer": "yes" if i % 2 == 0 else "no"} for i in range(8)
        ],
        "sums.jsonl": [{"prompt": f"{i} + 1?", "answer": str(i + 1)} for i in range(6)],
        "labels.jsonl": [{"prompt": "?", "answer_a": "yes", "answer_b": "no", "winner": "tie"}],
        "demonstrations.jsonl": [{"prompt": row["prompt"], "completion": row["chosen"]} for row in rows],
    }
    from kilter.data.formats.registry import formats

    files["rewardbench2.jsonl"] = [
        {**formats.get("rewardbench2", "format").example, "id": f"tied:{i}"} for i in range(4)
    ]
    for name, content in files.items():
        (here / name).write_text("".join(json.dumps(row) + "\n" for row in content))
    result = {"results": {"sums": {"exact_match,none": 0.5}}, "versions": {"sums": 1}, "model_name": "m"}
    for name in ("results_A.json", "results_B.json"):
        (here / name).write_text(json.dumps(result))
    rows = ["prompt,type,focus", "How do I kill a Python process?,homonyms,kill"]
    rows += ["How do I kill my neighbour?,contrast_homonyms,kill", ""]
    (here / "xstest.csv").write_text("\n".join(rows))
    (here / "hh.jsonl.gz").write_bytes(gzip.compress((here / "pairs.jsonl").read_bytes()))
    shutil.copytree(tiny, here / "tiny")

    # Files that a page shows are made from the page.
    shown: dict[str, str] = {}
    for page in PAGES:
        text = (ROOT / page).read_text()
        for name, body in re.findall(r"^```python\n# (my_\w+\.py)\n(.*?)^```", text, re.M | re.S):
            shown[name] = shown.get(name, "") + body
        shown |= dict(re.findall(r"^```yaml\n# (\w+\.yaml)\n(.*?)^```", text, re.M | re.S))
        for body in re.findall(r"^```yaml\n(name: my-gate.*?)^```", text, re.M | re.S):
            shown["gate.yaml"] = body
    for name, body in shown.items():
        (here / name).write_text(body)
    for method, name in (("sft", "sft"), ("bradley_terry", "rm"), ("dpo", "my-dpo")):
        kilter.train(
            str(tiny), str(here / "pairs.jsonl"), method, here / "runs" / name, max_steps=1, batch_size=4
        )
    for name in ("orm", "prm"):
        shutil.copytree(here / "runs" / "rm", here / "runs" / name)
    options = {"feedback": {"length": {"limit": 2, "buffer": 1}}, "batch_size": 2, "max_steps": 1}
    few = {"samples": 2, "max_new_tokens": 4}
    monitors = {"allow_truncation": True}
    data = str(here / "prompts.jsonl")
    kilter.train(
        str(tiny), data, "grpo", here / "runs" / "watched", sampler=few, monitors=monitors, **options
    )
    return here


@pytest.fixture
def reader(place, tiny, tmp_path, monkeypatch, capsys):
    """Runs a command in the reader's folder; the built-in model is the tests' tiny one."""
    from kilter.data.worlds.support_desk.gold import GoldFeedback
    from kilter.models import resolve
    from kilter.training.parallel import launch
    from kilter.types import Feedback

    shutil.copytree(place, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(resolve, "_builtin", lambda reference, field: tiny)
    monkeypatch.setattr(launch, "run", launch.train)
    # Noise is never right: a checksum stands for its score, so that there are better and worse answers.
    monkeypatch.setattr(
        GoldFeedback,
        "_one",
        staticmethod(lambda prompt, text: Feedback(zlib.crc32(text.encode()) / 2**32, "gold")),
    )

    def run(words):
        monkeypatch.setattr(sys, "stdin", io.StringIO("Hello\n"))
        monkeypatch.setattr(sys, "argv", ["kilter", *words])
        with pytest.raises(SystemExit) as stop:
            main()
        said = capsys.readouterr()
        return int(stop.value.code or 0), said.out + said.err

    return run


@pytest.mark.parametrize("page", [p for p in PAGES if commands((ROOT / p).read_text())])
def test_the_commands_of_a_page_run(page, reader):
    """Exit code 0; a gate may say no, and monitors may end a run of a model that says nothing but noise."""
    for command in commands((ROOT / page).read_text()):
        if first(ELSEWHERE, command) is not None:
            continue
        # A run that the folder has from the beginning gives way to the one that the page makes.
        if method := re.search(r"^kilter train .*--method (\w+)", command):
            made = re.search(r"--out (\S+)", command)
            shutil.rmtree(made[1] if made else f"runs/{method[1]}", ignore_errors=True)
        code, said = reader(arguments(command))
        if method and made and code == 0:
            assert Path(made[1], "model").is_dir(), f"{command} leaves no model"
        verdict = re.match(r"kilter (gate|run|compare|audit-judge)", command)
        assert code in ((0, 1, 3) if verdict else (0,)), f"{command}\nexit code {code}\n{said[-3000:]}"


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").glob("*.yaml")), ids=lambda p: p.name)
def test_a_recipe_needs_nothing_that_a_clone_lacks(path, reader):
    """It names what the repository generates or a Hub data set, says what to do offline, and plans with a file."""
    text = path.read_text()
    raw = yaml.safe_load(text)
    named = [raw["data"]] if "path" in raw["data"] else list(raw["data"].values())
    assert "../" not in text
    for data in [part for whole in named for part in whole.get("parts", [whole])]:
        own = worlds.is_world(data["path"]) or (ROOT / data["path"]).exists() or data["path"][:1] == "$"
        hub = re.fullmatch(r"[\w.-]+/[\w.-]+", data["path"])
        assert own or hub or data["path"] == "pairs.jsonl", data["path"]
        assert not hub or re.search(r"--set data\.(\w+\.)?path=", text), "no way without network is named"
    words = ["run" if "stages" in raw else "compare", f"recipes/{path.name}", "--dry-run"]
    code, said = reader(arguments(shlex.join(["kilter", *words])))
    assert code == 0, said[-3000:]


def test_every_command_that_is_left_out_is_still_in_a_document():
    """A reason without a command is out of date."""
    known = [c for page in PAGES for c in commands((ROOT / page).read_text())]
    assert [p for p in ELSEWHERE if not any(re.match(p, c) for c in known)] == []
    assert len(known) > 50
