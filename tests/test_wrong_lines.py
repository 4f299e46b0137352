"""Lines that nobody means to type: each is refused before any work, and nothing changes."""

from __future__ import annotations

import json
import shlex
import sys

import pytest

from conftest import pair_rows
from test_wrong_inputs import kilter

TRAIN = "train --model tiny --data pairs.jsonl --method dpo"
LINES = {
    f"{TRAIN} --set '=1'": "`--set` = '=1' is not KEY=VALUE",
    f"{TRAIN} --set 'beta.=1'": "`--set` = 'beta.=1' is not KEY=VALUE",
    f"{TRAIN} --template ''": "`--template` = '' is empty",
    f"{TRAIN} --template ' '": "`--template` = ' ' is empty",
    f"{TRAIN} --adapter lora --set adapter.target=[]": "`adapter.target` = [] is empty",
    f"{TRAIN} --adapter lora --set adapter.target=''": "`adapter.target` = None",
    f"{TRAIN} --map prompt=chosen --map prompt=rejected": "names 'prompt' a second time",
    f"{TRAIN} --map '{{prompt: chosen}}' --map prompt=chosen": "names 'prompt' a second time",
    f"{TRAIN} --map '{{prompt: chosen'": "`--data.map` = '{prompt: chosen' is not a YAML value",
    f"{TRAIN} --save-every 0": "`save_every` = 0 should be greater than 0",
    f"{TRAIN} --save-every never": "`save_every` = 'never'",
    f"{TRAIN} --min-lr-rate 2": "`min_lr_rate` = 2.0",
    f"{TRAIN} --early-stopping nope": "`early_stopping.patience` = 'nope'",
    f"{TRAIN} --learning-rate inf": "`learning_rate` = inf",
    f"{TRAIN} --epochs nan": "`epochs` = nan",
    f"{TRAIN} --data.heldout nan": "`data.heldout` = nan",
    f"{TRAIN} --max-grad-norm -1": "`max_grad_norm` = -1.0",
    "train --model tiny --data '' --method dpo": "`--data` = '' is empty",
    "train --model tiny --data ' ' --method dpo": "`--data` = ' ' is empty",
    "train --model tiny --data '{path: a' --method dpo": "`--data` = '{path: a' is not a YAML value",
    "train --model tiny --data '{path: \"\"}' --method dpo": "`data.path` = '' is empty",
    "train --model tiny --data pairs.jsonl --method ''": "`--method` = '' is empty",
    "label --data pairs.jsonl --feedback ''": "`--feedback` = '' is empty",
    "eval --model tiny --data pairs.jsonl --temperature nan": "`temperature` = nan",
    "eval --model a= --data pairs.jsonl": "`models` = 'a=' lacks a name or a model",
    "eval tiny --data pairs.jsonl": "--model means: the model",
    f"{TRAIN} --template open.jinja": "`template` = 'open.jinja' is not Jinja in line 1",
    f"{TRAIN} --template power.jinja": "`template` = 'power.jinja' does not end",
    f"{TRAIN} --template chatmll": "Did you mean 'chatml'?",
    "generate --model tiny --data pairs.jsonl --template open.jinja": "'open.jinja' is not Jinja",
    "eval --model tiny --data pairs.jsonl --template open.jinja": "'open.jinja' is not Jinja",
    "eval --model tiny --data pairs.jsonl --max-new-tokens 5000 --max-length 9000": "`max_new_tokens` = 5000 leaves no",
    "generate --model tiny --data pairs.jsonl --sampler.max-new-tokens 5000 --max-length 9000": "has 2048 positions",
    "train --model tiny --data pairs.jsonl --method grpo --feedback zeros.py:reward "
    "--max-length 9000 --sampler.max-new-tokens 5000": "`sampler.max_new_tokens` = 5000",
    f"{TRAIN} --out ''": "`--out` = '' is empty",
    f"{TRAIN} --out ' '": "`--out` = ' ' is empty",
    f"{TRAIN} --out=": "`--out` = '' is empty",
    f"{TRAIN} --out 'a\nb'": "`--out` = 'a\\nb' holds characters that no name should have",
    f"{TRAIN} --adapter lora --set 'adapter.target=[q_proj, nope]'": "`adapter.target` = 'nope' names no layer",
    f"{TRAIN} --adapter lora --set 'adapter.target=nope'": "`adapter.target` = 'nope' names no layer",
    f"{TRAIN} --adapter lora --set 'adapter.target=(q'": "`adapter.target` = '(q' is no pattern",
    "export tiny --to ''": "`--to` = '' is empty",
    f"{TRAIN} --warmup-steps 40 --batch-size 2": "`warmup_steps` = 40 is as long as the run of",
    f"{TRAIN} --data.heldout 0.3 --early-stopping 2 --eval-every 500 --batch-size 2": "`eval_every` = 500 leaves early_stopping no evaluation",
    f"{TRAIN} --data.world.level 2": "are dials of a world, and pairs.jsonl is none",
    f"{TRAIN} --data.world '{{n: 4}}'": "are dials of a world, and pairs.jsonl is none",
    f"{TRAIN} --template zero.jinja": "division by zero",
    f"{TRAIN} --template range.jinja": "Range too big",
    "train --model tiny --data pairs.jsonl --method simpo --reference tiny": "`reference` = 'tiny' has no effect",
    "run long.yaml": "`stages.last.train.max_length` = 9000 leaves 1 of 1 rows longer than",
    "run long.yaml --dry-run": "the 2048 positions of the model",
    "run dollar.yaml --dry-run": "`stages.g.gate.evaluation` = '$e' names no stage",
    f"{TRAIN} --data.split test": "`data.split` = 'test' has no effect: pairs.jsonl names files",
    "train --model tiny --data '*.jsonl' --method dpo --data.split test": "`data.split` = 'test' has no effect",
    "train --model tiny --data '[{path: pairs.jsonl, split: test}, {path: long.jsonl}]' --method dpo": "`data.parts.0.split` = 'test' has no effect",
    "train --model tiny --data builtin:support-desk --method dpo --map prompt=x": "has no effect: builtin:support-desk is generated",
    "train --model tiny --data builtin:support-desk --method dpo --format hh": "`data.format` = 'hh' has no effect",
    "eval --model tiny --data pairs.jsonl --data.split test": "`data.split` = 'test' has no effect",
    f"{TRAIN} --data.heldout 0.999": "`data.heldout` = 0.999 holds out every one of 16 rows",
    f"{TRAIN} --router-aux-loss -1": "`router_aux_loss` = -1",
    f"{TRAIN} --router-aux-loss nan": "`router_aux_loss` = nan should be a finite number",
    "eval --model tiny --data pairs.jsonl --gold support_desk": "`gold` = 'support_desk' is the judge of another world",
    "eval --model tiny --data pairs.jsonl --tasks pairs.jsonl": "has no effect: no metric that is asked for reads it",
    "eval --model tiny --data pairs.jsonl --preferred pairs.jsonl": "such as human_win_rate",
    "eval --model a=tiny --model b=tiny --data pairs.jsonl --preferred late.yaml --metric human_win_rate": "`preferred` = 'late.yaml:2'",
    "eval --model tiny --data pairs.jsonl --follow-ups push=Sure?": "`follow_ups` = {'push': 'Sure?'} has no effect",
    "label --data pairs.jsonl --feedback ordinary_questions": "`feedback` = 'ordinary_questions' is the judge of another world",
    "merge tiny out": "Use `kilter export MODEL --to FOLDER --merge`",
    "sample tiny --prompt ''": "`--prompt` = '' is empty",
    "sample tiny --prompt hi --top-p 0": "`sampler.top_p` = 0.0",
    "data convert pairs.jsonl pairs.jsonl --to trl": "`target` = 'pairs.jsonl' exists already",
}

LATE = """
model: tiny
data:
  data: {path: pairs.jsonl, heldout: 0}
  long: {path: long.jsonl, heldout: 0}
stages:
  sft: {train: {method: sft, max_steps: 1}}
  last:
    train: {from: sft, method: grpo, prompts: $data, max_steps: 1, sampler: {samples: 2, max_new_tokens: 4}, feedback: "zeros.py:reward"}
"""
STAGE = "stages.last.train"
LONG = """
model: tiny
data: {path: long.jsonl, heldout: 0}
stages:
  sft: {train: {method: sft, max_steps: 1, max_length: 64}}
  last: {train: {from: sft, method: dpo, max_steps: 1, max_length: 9000}}
"""
EARLY = """
model: tiny
data: {path: pairs.jsonl, heldout: 0.3}
stages:
  sft: {train: {method: sft, max_steps: 1}}
  last: {train: {from: sft, method: dpo, max_steps: 2, eval_every: 1}}
"""
STUDY = """
model: tiny
data: {pairs: {path: pairs.jsonl, heldout: 0.3}}
start: {data: $pairs, max_steps: 1}
methods: [dpo, orpo]
train: {data: $pairs, max_steps: 2, eval_every: 1}
seeds: [0]
evaluate: {data: $pairs}
"""
DOLLAR = """
model: tiny
data: {path: pairs.jsonl, heldout: 0.3}
stages:
  s: {train: {method: sft, max_steps: 1}}
  e: {evaluate: {models: [s]}}
  g: {gate: {evaluation: $e, policy: {conditions: [{metric: length, bound: ci_low, op: ">", value: 0}]}}}
"""
LINES |= {
    f"run late.yaml --set {STAGE}.{setting}{dry}": message
    for dry in ("", " --dry-run")
    for setting, message in {
        "feedback=\"{regex: {pattern: '('}}\"": f"`{STAGE}.feedback.regex.pattern` = '(' is not a regular",
        "feedback=support_desk": f"`{STAGE}.feedback` = 'support_desk' is the judge of another world",
        "monitors.gold=support_desk": f"`{STAGE}.monitors.gold` = 'support_desk' is the judge of another world",
        "feedback='{json_schema: {schema: {type: nonsense}}}'": "is not a JSON schema",
        "feedback='{length: {limit: -1, buffer: 4}}'": "`stages.last.train.feedback.length.buffer` = 4 must lie between",
        "adapter='{kind: lora, target: [q_proj, nope]}'": f"`{STAGE}.adapter.target` = 'nope' names no layer",
        "router_aux_loss=0.1": f"`{STAGE}.router_aux_loss` = 0.1 needs a mixture of experts",
        "template=hello.jinja": f"`{STAGE}.template` = 'hello.jinja' does not write what the assistant says",
        "template=open.jinja": f"`{STAGE}.template` = 'open.jinja' is not Jinja in line 1",
        "max_length=9000 --set stages.last.train.sampler.max_new_tokens=5000": "has 2048 positions for both",
        "early_stopping.metric=foo": f"`{STAGE}.early_stopping` = ",
        "sampler.name=vllm": f"`{STAGE}.sampler.name` = 'vllm' is not installed",
        "sampler.stop='[\"\"]'": f"`{STAGE}.sampler.stop.0` = '' should have at least 1 character",
        "feedback='{reward_model: sft}'": f"`{STAGE}.feedback.reward_model` = 'sft' is a policy",
        "monitors.gold='{preference_model: sft}'": f"`{STAGE}.monitors.gold.preference_model` = 'sft' is a policy",
        "processes=3 --set stages.last.train.batch_size=2": f"`{STAGE}.batch_size` = 2 is less than the 3 processes",
        "method=ppo --set stages.last.train.critic.warmup_steps=4": "the policy never learns",
        "prompts='$long' --set stages.last.train.max_length=3000": "the longest prompt has 2996 tokens",
    }.items()
}
LINES |= {
    f"{line}early_stopping.metric={metric}": f"{field}` = '{metric}' is not measured on held-out data"
    for line, field in {
        f"{TRAIN} --data.heldout 0.3 --eval-every 1 --set ": "`early_stopping.metric",
        "run early.yaml --set stages.last.train.": f"`{STAGE}.early_stopping.metric",
        "run early.yaml --dry-run --set stages.last.train.": f"`{STAGE}.early_stopping.metric",
    }.items()
    for metric in ("foo", "nll")
}
LINES |= {
    f"run early.yaml --set {setting}{dry}": message
    for dry in ("", " --dry-run")
    for setting, message in {
        "stages.last.train.fsdp=true": f"`{STAGE}.fsdp` = True shards over several processes, and there is one",
        "data.heldout=0 --set stages.last.train.early_stopping={}": "`stages.last.train.early_stopping` = 'loss' needs held-out",
        "'stages.last={evaluate: {models: [sft], sampler: {name: scripted}}}'": "`stages.last.evaluate.sampler.script` = 'sft' is",
        "'stages.last={evaluate: {models: [sft], sampler: {name: openai}}}'": "`OPENAI_API_KEY`",
        "'stages.last={generate: {sampler: {name: vllm}}}'": "`stages.last.generate.sampler.name` = 'vllm'",
    }.items()
}
LINES |= {
    f"compare study.yaml --set train.early_stopping.metric=divergence{dry}": "`train.early_stopping.metric"
    for dry in ("", " --dry-run")
}
"""What a second stage could only say when the first is done is said before it."""


@pytest.mark.parametrize("line", LINES)
def test_a_wrong_line_is_refused_and_changes_nothing(line, tmp_path, tiny, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    (tmp_path / "tiny").symlink_to(tiny)
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(r) + "\n" for r in pair_rows(16)))
    (tmp_path / "zeros.py").write_text("def reward(prompt, completion): return 1.0\n")
    (tmp_path / "open.jinja").write_text("{% if x %}")
    (tmp_path / "zero.jinja").write_text("{{ 1 / 0 }}")
    (tmp_path / "range.jinja").write_text("{% for i in range(200000) %}{% endfor %}")
    (tmp_path / "dollar.yaml").write_text(DOLLAR)
    long = {"prompt": "word " * 3000, "chosen": "a", "rejected": "b"}
    (tmp_path / "long.jsonl").write_text(json.dumps(long) + "\n")
    (tmp_path / "long.yaml").write_text(LONG)
    (tmp_path / "early.yaml").write_text(EARLY)
    (tmp_path / "study.yaml").write_text(STUDY)
    (tmp_path / "hello.jinja").write_text("hello")
    (tmp_path / "power.jinja").write_text("{{ 9 ** 9 ** 9 }}")
    (tmp_path / "late.yaml").write_text(LATE)
    monkeypatch.setattr(
        sys, "dont_write_bytecode", True
    )  # Python's own copy of a module is no change of ours
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    code, text = kilter(monkeypatch, capsys, *shlex.split(line))
    assert code == 2, text
    assert LINES[line] in text and "Fix: " in text
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before
