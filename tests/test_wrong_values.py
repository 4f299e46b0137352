"""A table of wrong inputs: each ends with exit code 2, naming field, value and fix, before any model is loaded."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sys
from pathlib import Path

import pytest
import yaml

from conftest import make_model, pair_rows
from kilter import cli


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """A folder with good and with spoilt files."""
    home = tmp_path_factory.mktemp("wrong")
    make_model(home / "model")
    (home / "pairs.jsonl").write_text("".join(json.dumps(r) + "\n" for r in pair_rows(24)))
    (home / "prompts.jsonl").write_text("".join(json.dumps({"prompt": f"q{i}"}) + "\n" for i in range(8)))
    (home / "r.py").write_text(
        "def reward(prompt, completion): return 1.0\nvalue = 3\n"
        "def one(completion): return 1.0\n"
        "def rows(prompts, completions, solution): return [1.0] * len(prompts)\n"
    )
    (home / "demo.jsonl").write_text('{"prompt": "q", "completion": "a"}\n' * 3)
    (home / "huge.jsonl").write_text(
        json.dumps(
            {"prompt": "q", "chosen": "a", "rejected": "b", "score_chosen": 10**400, "score_rejected": 1}
        )
    )
    (home / "p.yaml").write_text("conditions: [{metric: length, bound: ci_low, op: '>=', value: 0}]\n")
    (home / "broken.yaml").write_text("a: [1")
    (home / "list.json").write_text("[1, 2]")
    (home / "deep.jsonl").write_text("[" * 100_000 + "\n")
    (home / "deep.json").write_text("[" * 100_000)
    (home / "bytes.jsonl").write_bytes(bytes(range(256)))
    (home / "not.parquet").write_text("no")
    (home / "not.jsonl.gz").write_bytes(b"nope")
    (home / "adir").mkdir()
    for name in ("cut", "config"):
        shutil.copytree(home / "model", home / name)
    weights = home / "cut" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    (home / "config" / "config.json").write_text("{")
    return home


TRAIN = "train --method dpo --model model --data pairs.jsonl --out o"
ONLINE = "train --method grpo --model model --data prompts.jsonl --out o --feedback r.py:reward"
EVAL = "eval --model model --data pairs.jsonl --out e"
LABEL = "label --data pairs.jsonl --feedback r.py:reward --out l"
MAKE = "generate --model model --data prompts.jsonl --out g"

COMMANDS = {
    "train --method dpo --model cut --data pairs.jsonl": "`model` = 'cut/model.safetensors' cannot be loaded",
    "train --method dpo --model config --data pairs.jsonl": "`model` = 'config' cannot be loaded",
    "train --method dpo --model pairs.jsonl --data pairs.jsonl": "`model` = 'pairs.jsonl' names no model folder",
    "train --method dpo --model bad.gguf --data pairs.jsonl": "`model` = 'bad.gguf' names no GGUF file",
    "train --method dpo --model '' --data pairs.jsonl": "`model` = '' is empty",
    "train --method dpo --model model --data deep.jsonl": "deep.jsonl",
    "train --method dpo --model model --data deep.json": "'deep.json' is nested too deeply",
    "train --method dpo --model model --data bytes.jsonl": "bytes.jsonl",
    "train --method dpo --model model --data huge.jsonl": "huge.jsonl:1 field score_chosen",
    "train --method dpo --model model --data not.parquet": "'not.parquet' cannot be read",
    "train --method dpo --model model --data not.jsonl.gz": "'not.jsonl.gz' cannot be read",
    "train --method dpo --model model --data builtin:support-dask": "Did you mean 'builtin:support-desk'?",
    "train --method dpo --model model --data pairs.jsonl --out pairs.jsonl": "`out` = 'pairs.jsonl'",
    "train --method dpo --model model --data pairs.jsonl --out pairs.jsonl/x": "`out` = 'pairs.jsonl/x'",
    "train --method '' --model model --data pairs.jsonl": "`--method` = '' is empty",
    "train --method '{dpo' --model model --data pairs.jsonl": "'{dpo' is not a YAML value",
    "train --method r.py --model model --data pairs.jsonl": "names a file without its class or function",
    "train --method r.py:nope --model model --data pairs.jsonl": "'r.py:nope' cannot be imported",
    f"{TRAIN} --learning-rate nan": "`learning_rate` = nan should be a finite number",
    f"{TRAIN} --learning-rate inf": "`learning_rate` = inf should be a finite number",
    f"{TRAIN} --learning-rate 0": "`learning_rate` = 0.0 should be greater than 0",
    f"{TRAIN} --epochs 0": "`epochs` = 0.0",
    f"{TRAIN} --epochs inf": "`epochs` = inf",
    f"{TRAIN} --max-steps 0": "`max_steps` = 0",
    f"{TRAIN} --seed -1": "`seed` = -1 should be greater than or equal to 0",
    f"{TRAIN} --seed {2**70}": f"`seed` = {2**70} should be less than {2**32}",
    f"{TRAIN} --max-length 0": "`max_length` = 0",
    f"{TRAIN} --save-every 0": "`save_every",
    f"{TRAIN} --data.heldout 1": "`data.heldout` = 1.0 should be less than 1",
    f"{TRAIN} --data.heldout nan": "`data.heldout` = nan",
    f"{TRAIN} --data.heldout -0.1": "`data.heldout` = -0.1",
    f"{TRAIN} --limit 0": "`limit` = 0",
    f"{TRAIN} --adapter loraa": "`adapter.kind` = 'loraa'",
    f"{TRAIN} --set adapter.r=0": "`adapter.r` = 0",
    f"{TRAIN} --set adapter.r=65": "`adapter.r` = 65 is above the width of every layer",
    f"{TRAIN} --set adapter.r=33 --set adapter.target=[q_proj]": "`adapter.r` = 33 is above the width of every layer",
    f"{TRAIN} --set adapter.alpha=.inf": "`adapter.alpha` = inf should be a finite number",
    f"{TRAIN} --set adapter.alpha=0": "`adapter.alpha` = 0 should be greater than 0",
    f"{TRAIN} --set adapter.dropout=1": "`adapter.dropout` = 1 should be less than 1",
    f"{TRAIN} --set adapter.target=[norm]": "`adapter.target` = 'norm' names modules that take no adapter",
    f"{TRAIN} --set adapter.target=[q_proj,mlp]": "`adapter.target` = 'mlp' names modules that take no adapter",
    f"{TRAIN} --set 'adapter.target=.*norm'": "`adapter.target` = '.*norm' names modules that take no adapter",
    f"{TRAIN} --set 'adapter.target=.*layers.7.*proj'": "`adapter.target` = '.*layers.7.*proj' names no layer",
    f"{TRAIN} --set adapter.layers_to_transform=[99]": "`adapter.layers_to_transform` = [99] is not a known key",
    f"{TRAIN} --data.heldout 0 --eval-every 1": "`eval_every` = 1 needs held-out rows, and the data has none",
    f"{TRAIN} --data.heldout 0 --eval-every 1 --early-stopping 2": "`early_stopping` = 'loss' needs held-out",
    f"{TRAIN} --data.heldout 0.3 --limit 3 --data.limit 3 --eval-every 1 --early-stopping 2": "`early_stopping`",
    f"{ONLINE} --set monitors.keep_best=true": "`monitors.keep_best` = True has no effect: nothing judges",
    f"{TRAIN} --data.heldout 0 --eval-limit 4": "`eval_limit` = 4 needs held-out rows, and the data has none",
    f"{TRAIN} --data.heldout 0 --data.split-by near_duplicates": "`data.split_by` = 'near_duplicates' has no effect",
    f"{TRAIN} --data.heldout 0 --data.seed 3": "`data.seed` = 3 has no effect: no prompt is held out",
    f"{TRAIN} --data.safety unsafe": "`data.safety` = 'unsafe' has no effect: nothing here asks these prompts",
    f"{ONLINE} --set kl_control.target=3": "`kl_control.target` = 3.0 has no effect: kl_control.mode fixed",
    f"{ONLINE} --set beta=0.1 --set kl_control.mode=budget --set kl_control.max_coef=0.05": "`kl_control.max_coef`",
    f"{EVAL} --metrics length --gold r.py:reward": "`gold` = 'r.py:reward' has no effect: no metric that is asked",
    f"{EVAL} --metrics length --probes prompts.jsonl": "`probes` = ['prompts.jsonl'] has no effect: no metric",
    f"{EVAL} --metrics length --tax pairs.jsonl": "`tax` = 'pairs.jsonl' has no effect: no metric that is asked",
    f"{EVAL} --probe-limit 9": "`probe_limit` = 9 has no effect: probes is not given",
    f"{EVAL} --tax-limit 9": "`tax_limit` = 9 has no effect: tax is not given",
    f"{EVAL} --temperature 0 --top-p 0.5": "`top_p` = 0.5 has no effect: at temperature 0 the likeliest token",
    f"{MAKE} --k 1 --sampler.temperature 0 --sampler.top-k 5": "`sampler.top_k` = 5 has no effect: at temperature 0",
    "audit pairs.jsonl --max-length 64": "`--max-length` = 64 has no effect: no model says how texts become tokens",
    "audit pairs.jsonl --split-by near_duplicates": "`--split-by` = 'near_duplicates' has no effect: no prompt is",
    "audit pairs.jsonl --only ties --waive 'roles=x'": "`--waive` = 'roles=x' has no effect: --only leaves out",
    "audit pairs.jsonl --only ties --against prompts.jsonl": "`--against` = 'prompts.jsonl' has no effect",
    "data filter pairs.jsonl t.jsonl --drop ties --max-length 64": "`--max-length` = 64 has no effect: no model",
    "data convert pairs.jsonl t.jsonl --size 4": "`--size` = 4 has no effect: it is a dial of a world",
    "data convert pairs.jsonl t.jsonl --view pairs": "`--view` = 'pairs' has no effect: it is a dial of a world",
    f"{TRAIN} --set feedback.math.key=x": "`--set` = 'feedback.math.key=x' sets an option of feedback, and there is",
    "train --method dpo+sft:x --model model --data pairs.jsonl": "'dpo+sft:x' gives sft the weight 'x', which is",
    f"{EVAL} --replay r.py": "`replay` = 'r.py' is read by no judge of this feedback",
    f"{EVAL} --instruments r.py": "`instruments` = 'r.py' is damaged or missing",
    "sample model --prompt hi --out r.py": "`--out` = 'r.py' is not a .jsonl file",
    f"{MAKE} --sampler openai --sampler.url x": "`sampler.url` = 'x' should begin with http:// or https://",
    f"{LABEL} --agreement.data nope.jsonl": "`agreement.data` = 'nope.jsonl' names no file",
    f"{EVAL} --probes nope.jsonl --seed 1": "`probes` = 'nope.jsonl' names no file",
    "audit pairs.jsonl --against nope.jsonl": "`--against` = 'nope.jsonl' names no file",
    "audit pairs.jsonl --waive ties=x --waive ties=y": "`--waive` = 'ties=y' gives a second reason for one check",
    "audit pairs.jsonl --out r.py": "`--out` = 'r.py' is a file, and a folder is written",
    "label --data demo.jsonl --feedback r.py:reward": "`write` = 'pairs' compares answers to a prompt, and",
    "label --data pairs.jsonl --feedback '{judge: {model: nope}}'": "`feedback.judge.model` = 'nope' names no",
    "train --method grpo --replay --model model --data pairs.jsonl --sampler.samples 3": "`sampler.samples` = 3 has no",
    "train --method grpo --replay --model model --data pairs.jsonl --eval-every 8": "`eval_every` = 8 has no effect",
    f"{LABEL} --judge model": "`judge` = 'model' has no effect: no source of this feedback scores with a policy",
    f"{LABEL} --max-length 64": "`max_length` = 64 has no effect: no source of this feedback reads answers",
    f"{LABEL} --template chatml": "`template` = 'chatml' has no effect: no source of this feedback reads answers",
    f"{LABEL} --route.human 0.5": "`route` = {'human': 0.5} has no effect: this feedback gives no odds",
    "label --data pairs.jsonl --out l --feedback self_reward": "`feedback.self_reward` needs the policy",
    f"{ONLINE} --set monitors.gold=self_reward": "`monitors.gold.self_reward` needs the policy",
    f"{EVAL} --gold self_reward": "`gold.self_reward` needs the policy",
    "sample model --prompt hi --limit 3": "`--limit` = 3 has no effect: --prompt asks one prompt",
    "sample model --prompt hi --part 1/2": "`--part` = '1/2' has no effect: --prompt asks one prompt",
    "sample model --prompt hi --split all": "`--split` = 'all' has no effect: --prompt asks one prompt",
    "sample model --prompt hi --data.limit 3": "`--data.limit` = 3 has no effect: --prompt asks one prompt",
    "sample model --prompt hi --map prompt=q": "`--data.map` = ['prompt=q'] has no effect: --prompt asks",
    f"{TRAIN} --data.threshold 3": "`data.threshold` = 3.0 has no effect: nothing here learns from labels",
    f"{TRAIN} --data.pairs.min-margin 0.5": "`data.pairs.min_margin` = 0.5 has no effect: the data tells",
    "train --method sft --model model --data pairs.jsonl --data.pairs.rule all": "`data.pairs.rule` = 'all' has no",
    "train --method kto --model model --data pairs.jsonl --data.threshold 1": "`data.threshold` = 1.0 has no effect",
    f"{EVAL} --data.pairs.min-margin 1": "`data.pairs.min_margin` = 1.0 has no effect: nothing here learns",
    f"{MAKE} --data.threshold 0": "`data.threshold` = 0.0 has no effect: nothing here learns from labels",
    f"{ONLINE} --set monitors.gold_every=5": "`monitors.gold_every` = 5 has no effect: nothing judges the answers",
    f"{ONLINE} --set monitors.gold_prompts=9": "`monitors.gold_prompts` = 9 has no effect: nothing judges",
    f"{ONLINE} --set monitors.gold=r.py:reward --data.limit 3": "`monitors.gold` = 'r.py:reward' has no prompts",
    f"{EVAL} --sampler openai --sampler.concurrency 1001": "concurrency` = 1001 should be less than or equal",
    f"{TRAIN} --template no.jinja": "`template` = 'no.jinja' names no file",
    f"{TRAIN} --schedule cosin": "`schedule` = 'cosin'",
    f"{TRAIN} --engine fdsp": "`engine` = 'fdsp'",
    f"{TRAIN} --processes 0": "`processes` = 0",
    f"{TRAIN} --set beta=nan": "`dpo.beta` = nan must lie in (0, inf)",
    f"{TRAIN} --set beta=[1]": "`dpo.beta` = [1] is not a number",
    f"{TRAIN} --set beta=true": "`dpo.beta` = True is not a number",
    f"{TRAIN} --set learning_rate=1e-3": "Fix: Write --learning-rate 1e-3",
    f"{TRAIN} --set fsdp=true": "Fix: Write --fsdp.",
    f"{TRAIN} --set shuffle=false": "Fix: Write --no-shuffle.",
    f"{TRAIN} --set 'early_stopping=eval_loss'": "`--set` = 'early_stopping=eval_loss' is no setting of dpo",
    f"{TRAIN} --set =1": "is not KEY=VALUE",
    f"{ONLINE} --feedback nope.py:reward": "'nope.py:reward' cannot be imported",
    f"{ONLINE} --feedback r.py:reword": "'r.py:reword' cannot be imported",
    f"{ONLINE} --feedback r.py:value": "'r.py:value' is not a source of feedback",
    f"{ONLINE} --feedback r.py:one": "= 'def one(completion)' cannot be called with a prompt and a completion",
    f"{ONLINE} --feedback r.py:rows": "`feedback.r.py:rows` = 'solution' is needed and is not a column of the data",
    f"{ONLINE} --feedback '{{math: {{key: gold}}}}'": "`feedback.math` = 'gold' is needed and is not a column",
    f"{ONLINE} --set feedback.r.py:reward.timeout=-1": "`feedback.r.py:reward.timeout` = -1",
    f"{ONLINE} --feedback '[format, {{math: {{kee: 1}}}}]'": "`feedback.1.math.kee` = 1 is not a",
    f"{ONLINE} --feedback instructions": "`feedback.instructions` = 'instructions' is needed",
    f"{ONLINE} --feedback maths": "Did you mean 'math'?",
    f"{ONLINE} --feedback 5": "5 is neither a name nor {name: options}",
    f"{ONLINE} --feedback []": "`feedback` = [] is empty",
    f"{ONLINE} --feedback '{{math: {{}}, weight: x}}'": "`feedback.weight` = 'x'",
    f"{ONLINE} --feedback '{{math: {{kee: 1}}}}'": "Did you mean 'key'?",
    f"{ONLINE} --feedback '{{reward_model: {{model: model}}}}'": "is not a reward model (it has no score head)",
    f"{ONLINE} --set sampler.samples=1": "`sampler.samples` = 1",
    f"{ONLINE} --set sampler.max_new_tokens=0": "`sampler.max_new_tokens` = 0",
    f"{ONLINE} --set sampler.max_new_tokens=5000": "leaves 0 tokens for prompts beside 5000",
    f"{ONLINE} --set sampler.temperature=nan": "`sampler.temperature` = nan",
    f"{ONLINE} --set sampler.top_p=2": "`sampler.top_p` = 2",
    f"{ONLINE} --set monitors.gold=mathh": "`monitors.gold` = 'mathh'",
    f"{EVAL} --baseline nowhere": "'nowhere' names no model folder",
    f"{EVAL} --metrics lenght": "Did you mean 'length'?",
    f"{EVAL} --gold gould": "`gold` = 'gould'",
    f"{EVAL} --reward-model model": "is not a reward model (it has no score head)",
    f"{EVAL} --probes nope.jsonl": "'nope.jsonl' names no file",
    f"{EVAL} --tax nope.jsonl": "'nope.jsonl' names no file",
    f"{EVAL} --tax prompts.jsonl": "leaves zero rows",
    f"{EVAL} --seed -1": "`seed` = -1",
    "eval --model =model --data pairs.jsonl": "'=model' lacks a name or a model",
    "gate p.yaml --policy p.yaml": "'p.yaml' is not an evaluation.json",
    "gate list.json --policy p.yaml": "'list.json' is not an evaluation.json",
    f"{MAKE} --k 0": "`k` = 0",
    f"{MAKE} --part 3/2": "`part` = '3/2' is beyond the last part",
    f"{MAKE} --seed {2**40}": f"`seed` = {2**40}",
    "label --data prompts.jsonl --feedback math --out l": "holds no answers to score",
    "run adir": "`recipe` = 'adir' names no file",
    "run broken.yaml": "is not YAML",
    "run list.json": "'list.json' is not a mapping",
    "run bytes.jsonl": "'bytes.jsonl' is not YAML",
    "report pairs.jsonl": "is not a run folder",
}


def kilter(monkeypatch, capsys, *args: str) -> tuple[int, str]:
    monkeypatch.setattr(sys, "argv", ["kilter", *args])
    monkeypatch.setattr(cli.err, "width", 400)
    with pytest.raises(SystemExit) as stop:
        cli.main()
    captured = capsys.readouterr()
    return int(stop.value.code or 0), captured.out + captured.err


@pytest.mark.parametrize("command", COMMANDS)
def test_command(command, home, monkeypatch, capsys):
    monkeypatch.chdir(home)
    monkeypatch.setattr(
        sys, "dont_write_bytecode", True
    )  # Python's own copy of a module is no change of ours
    before = sorted(home.rglob("*"))
    code, text = kilter(monkeypatch, capsys, *shlex.split(command))
    assert code == 2, text
    assert sorted(home.rglob("*")) == before  # nothing was begun
    assert COMMANDS[command.removesuffix(" --dry-run")] in text
    assert "Fix: " in text
    assert "Traceback" not in text
    assert "answers of" not in text  # nothing has been sampled


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith(("train", "generate", "label"))])
def test_a_dry_run_refuses_what_a_run_refuses(command, home, monkeypatch, capsys):
    test_command(f"{command} --dry-run", home, monkeypatch, capsys)


def test_answers_that_are_not_read_are_told_where_none_is_left_to_score(home, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(home)
    row = {"forbidden_prompt": "Pick it", "response": "So.", "score": 0.5}
    (tmp_path / "s.jsonl").write_text(json.dumps(row))
    command = f"label --data {tmp_path / 's.jsonl'} --feedback math --out {tmp_path / 'l'}"
    code, text = kilter(monkeypatch, capsys, *command.split())
    assert code == 2 and "holds no answers to score" in text
    assert "prompts alone are read, without the answers (response)" in " ".join(text.split())


def stage(name: str, kind: str, **settings):
    """A change of a good recipe: one more stage."""
    return lambda r: r["stages"].update({name: {kind: settings}})


def judged(**gate):
    """An evaluation and its gate, which has something wrong."""

    def change(r):
        stage("e", "evaluate", models=["sft", "dpo"])(r)
        stage("g", "gate", **{"policy": "p.yaml"} | gate)(r)

    return change


def policy(**condition) -> dict:
    return {"conditions": [{"metric": "length", "bound": "ci_low", "op": ">=", "value": 0} | condition]}


def reward_model(r):
    stage("rm", "train", method="bradley_terry")(r)


RECIPES = {
    "a number that is a switch": (
        lambda r: r["stages"]["dpo"]["train"].update(seed=True),
        "`stages.dpo.train.seed` = True should be a number, not yes or no",
    ),
    "a limit that is a switch": (
        lambda r: r["data"].update(limit=True),
        "`data.limit` = True should be a number, not yes or no",
    ),
    "a threshold that is a switch": (
        stage("l", "label", feedback="r.py:reward", write="binary", threshold=True),
        "`stages.l.label.threshold` = True should be a number, not yes or no",
    ),
    "data beside prompts": (
        lambda r: (
            r.update(data={"data": r["data"], "b": {"path": "prompts.jsonl"}}),
            stage("g", "train", method="grpo", data="$b", prompts="$data", feedback="r.py:reward")(r),
        ),
        "`stages.g.train.data` = '$b' has no effect: the prompts are $data",
    ),
    "stages of a list": (lambda r: r.update(stages=[1]), "`stages` = [1] is not a mapping"),
    "stage named yes": (lambda r: r["stages"].update({True: {"train": {}}}), "`stages` = True is not a name"),
    "stage null": (lambda r: r["stages"].update(x=None), "`stages.x` = None needs exactly one kind"),
    "two kinds": (
        lambda r: r["stages"].update(x={"train": {}, "audit": {}}),
        "needs exactly one kind",
    ),
    "data without a path": (lambda r: r.update(data={"heldout": 0.1}), "path` is required"),
    "data of an unknown stage": (
        lambda r: stage("e", "train", method="sft", data="$x")(r),
        "names no data set",
    ),
    "a later stage": (lambda r: r["stages"]["sft"]["train"].update({"from": "dpo"}), "comes later"),
    "the stage itself": (lambda r: r["stages"]["dpo"]["train"].update({"from": "dpo"}), "comes later"),
    "model a number": (lambda r: r.update(model=5), "`model` = 5"),
    "model empty": (lambda r: r.update(model=""), "`model` = '' is empty"),
    "gate alone": (stage("g", "gate", policy="p.yaml"), "`stages.g.gate.evaluation`"),
    "policy a folder": (judged(policy="adir"), "`stages.g.gate.policy` = 'adir' names no policy file"),
    "candidate": (judged(candidate="dpoo"), "Did you mean 'dpo'?"),
    "baseline": (judged(baseline="dpo"), "is not the baseline of the evaluation, 'sft'"),
    "metric": (judged(policy=policy(metric="lenght")), "Did you mean 'length'?"),
    "condition of nan": (judged(policy=policy(value=float("nan"))), "conditions.0.value` = nan"),
    "waiver": (judged(policy=policy(waiver={"owner": "a"})), "waiver.reason` is required"),
    "no models": (stage("e", "evaluate", models=[]), "`stages.e.evaluate.models` = []"),
    "a model twice": (stage("e", "evaluate", models=["sft", "sft"]), "names a model twice"),
    "probe": (
        lambda r: (
            r.update(data={"data": r["data"], "pr": {"path": "nope.jsonl"}}),
            stage("e", "evaluate", models=["sft"], probes=["$pr"])(r),
        ),
        "'nope.jsonl' names no file",
    ),
    "policy as a reward model": (
        stage("e", "evaluate", models=["sft"], reward_model="dpo"),
        "`stages.e.evaluate.reward_model` = 'dpo' is a policy",
    ),
    "reward model as a policy": (
        lambda r: (reward_model(r), stage("e", "evaluate", models=["rm"])(r)),
        "= 'rm' is a reward model, which answers nothing",
    ),
    "start from a reward model": (
        lambda r: (reward_model(r), stage("d", "train", **{"method": "dpo", "from": "rm"})(r)),
        "`stages.d.train.from` = 'rm' is a reward model",
    ),
    "reference": (
        lambda r: r["stages"]["dpo"]["train"].update(reference="./nope"),
        "`stages.dpo.train.reference` = './nope' names no model folder",
    ),
    "reference cut": (
        lambda r: r["stages"]["dpo"]["train"].update(reference="./cut"),
        "`stages.dpo.train.reference` = 'cut/model.safetensors' cannot be loaded",
    ),
    "a column that a late reward needs": (
        stage("g", "train", method="grpo", prompts="$data", feedback="r.py:rows"),
        "`stages.g.train.feedback.r.py:rows` = 'solution' is needed and is not a column of the data",
    ),
    "a reference that a late verifier needs": (
        stage("g", "train", method="grpo", prompts="$data", feedback=["r.py:reward", "math"]),
        "`stages.g.train.feedback.1.math` = 'answer' is needed",
    ),
    "a reference that a monitor needs": (
        stage(
            "g", "train", method="grpo", prompts="$data", feedback="r.py:reward", monitors={"gold": "math"}
        ),
        "`stages.g.train.monitors.gold.math` = 'answer' is needed",
    ),
    "a reference that the gold score needs": (
        stage("e", "evaluate", models=["sft"], gold={"exact": "gold"}),
        "`stages.e.evaluate.gold.exact` = 'gold' is needed",
    ),
    "a reference that a label needs": (
        stage("l", "label", data="$data", feedback="math"),
        "`stages.l.label.feedback.math` = 'answer' is needed",
    ),
    "an evaluation of rows that nobody holds out": (
        lambda r: (
            r.update(data={"pr": {"path": "pairs.jsonl", "heldout": 0}}),
            r["stages"].update(
                sft={"train": {"method": "sft", "data": "$pr"}},
                dpo={"train": {"method": "dpo", "data": "$pr", "eval_every": 1}},
            ),
        ),
        "`stages.dpo.train.eval_every` = 1 needs held-out rows, and the data has none.\n"
        "Fix: Set data.pr.heldout, such as 0.1, or leave eval_every out",
    ),
    "an evaluation of rows that a stage will make": (
        lambda r: (
            stage("g", "generate", model="sft", data="$data")(r),
            stage("d", "train", method="sft", data="$g", eval_every=1)(r),
        ),
        "`stages.d.train.eval_every` = 1 needs held-out rows",
    ),
    "a rank above every layer": (
        lambda r: r["stages"]["dpo"]["train"].update(adapter={"r": 99}),
        "`stages.dpo.train.adapter.r` = 99 is above the width of every layer",
    ),
    "no rounds": (
        lambda r: r["stages"].update(l={"rounds": 0, "stages": {"a": {}}}),
        "`stages.l.rounds` = 0",
    ),
    "many rounds": (
        lambda r: r["stages"].update(l={"rounds": 10**7, "stages": {"a": {"train": {"method": "sft"}}}}),
        "`stages.l.rounds` = 10000000 should be less than or equal to 1000",
    ),
}


@pytest.mark.parametrize("dry", [False, True], ids=["run", "dry-run"])
@pytest.mark.parametrize("name", RECIPES)
def test_recipe(name, dry, home, monkeypatch, capsys):
    """Also of a late stage, and by --dry-run: everything is opened before the first stage."""
    monkeypatch.chdir(home)
    breaks, where = RECIPES[name]
    recipe = {
        "model": "model",
        "data": {"path": "pairs.jsonl", "heldout": 0.25},
        "stages": {
            "sft": {"train": {"method": "sft"}},
            "dpo": {"train": {"from": "sft", "method": "dpo"}},
        },
    }
    breaks(recipe)
    Path("r.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    code, text = kilter(monkeypatch, capsys, "run", "r.yaml", *["--dry-run"] * dry)
    assert code == 2, text
    assert where in text
    assert "Fix: " in text
    assert "Traceback" not in text
    assert not os.path.exists("runs/r/sft")


def test_there_are_enough():
    assert len(COMMANDS) + len(RECIPES) >= 100
