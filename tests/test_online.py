"""Online training end to end on a tiny model: every family learns, failures become events, a killed run continues exactly."""

from __future__ import annotations

import json
import math
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from kilter.cli import main
from kilter.data import store
from kilter.data.dataset import DataSpec, load
from kilter.errors import RunFailed, UserError
from kilter.training.config import TrainSpec
from kilter.training.trainer import Trainer

REWARDS = '''
import math, time, asyncio
calls = {"n": 0}

def letters(prompt, completion):
    """More of the letters a to m is better: a reward that any token can raise."""
    text = completion.text
    return sum("a" <= c <= "m" for c in text.lower()) / max(1, len(text))

def wanted(prompt, completion):
    text = completion.text
    return sum("n" <= c <= "z" for c in text.lower()) / max(1, len(text))

def batch(prompts, completions, **columns):
    return [letters(None, type("C", (), {"text": c})) for c in completions]

async def patient(prompt, completion):
    await asyncio.sleep(0.01)
    return letters(prompt, completion)

def raises(prompt, completion):
    calls["n"] += 1
    if calls["n"] % 3 == 0:
        raise ValueError("boom")
    return letters(prompt, completion)

def hangs(prompt, completion):
    calls["n"] += 1
    if calls["n"] % 5 == 0:
        time.sleep(30)
    return letters(prompt, completion)

def nan(prompt, completion):
    calls["n"] += 1
    return math.nan if calls["n"] % 3 == 0 else letters(prompt, completion)

def always_raises(prompt, completion):
    raise RuntimeError("no service")

def wrong_length(prompts, completions, **columns):
    calls["n"] += 1
    return [0.5] if calls["n"] % 2 == 0 else batch(prompts, completions)

def length(prompt, completion):
    return len(completion.token_ids) / 10

def short(prompt, completion):
    return -len(completion.token_ids) / 10
'''


@pytest.fixture
def rewards(tmp_path) -> str:
    path = tmp_path / "rewards.py"
    path.write_text(REWARDS)
    return str(path)


@pytest.fixture
def prompts(tmp_path) -> Path:
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps({"prompt": f"Say {chr(97 + i)}"}) + "\n" for i in range(16)))
    return path


def run(tiny, prompts, out, method, feedback, heldout=0.0, **options) -> list[dict]:
    """Trains; returns the lines of metrics.jsonl."""
    sampler = {"samples": 4, "max_new_tokens": 10} | options.pop("sampler", {})
    monitors = {"allow_truncation": True, "gold_every": 1000} | options.pop("monitors", {})
    fields = {
        "prompts": "$data",
        "batch_size": 4,
        "max_steps": 12,
        "learning_rate": 1e-2,
        "schedule": "constant",
        "warmup_ratio": 0.0,
    } | options
    spec = TrainSpec.model_validate(
        {"method": method, "feedback": feedback, "sampler": sampler, "monitors": monitors} | fields
    )
    data = load(DataSpec(path=str(prompts), heldout=heldout), "prompts")
    Trainer(spec, tiny, data.train, data.heldout, out).run()
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def mean(rows, key):
    return sum(r[key] for r in rows) / len(rows)


RISING = {
    "grpo": {},
    "dr_grpo": {},
    "dapo": {"mask_truncated": False},
    "gspo": {"clip_low": 0.2, "clip_high": 0.2},
    "luspo": {"clip_low": 0.2, "clip_high": 0.2},
    "cispo": {},
    "sapo": {},
    "vespo": {},
    "reinforce": {"beta": 0.01},
    "rloo": {"beta": 0.01},
    "reinforce_pp": {"beta": 0.01},
    "remax": {"beta": 0.01},
    "ppo": {"beta": 0.01, "epochs": 2},
    "online_dpo": {},
    "xpo": {},
    "nash_md": {"beta": 0.01},
}


@pytest.mark.parametrize("name", RISING)
def test_reward_rises(tiny, prompts, rewards, tmp_path, name):
    options = {"critic": {"learning_rate": 1e-2}} if name == "ppo" else {}
    if name in ("online_dpo", "xpo", "nash_md"):
        options |= {"sampler": {"samples": 6}, "max_steps": 20, "batch_size": 8}
    rows = run(
        tiny, prompts, tmp_path / "run", {"name": name} | RISING[name], f"{rewards}:letters", **options
    )
    assert mean(rows[-3:], "reward") > mean(rows[:3], "reward") + (0.05 if options else 0.1), [
        round(r["reward"], 2) for r in rows
    ]
    assert all(math.isfinite(r["loss"]) for r in rows)
    groups = [json.loads(line) for line in (tmp_path / "run" / "groups.jsonl").read_text().splitlines()]
    assert groups[0]["prompt"]["metadata"]["step"] == 1
    last = list(store.read(tmp_path / "run" / "groups.jsonl"))[-1].completions[0]
    assert len(last.token_ids) == len(last.sampling_logps) == len(last.mask) > 0
    assert last.policy_version is not None


@pytest.mark.parametrize(("method", "select"), [("sft", "best_of"), ("dpo", "best_worst")])
def test_offline_objectives_on_fresh_rollouts(tiny, prompts, rewards, tmp_path, method, select):
    """RAFT (rejection sampling) and iterative DPO with a reference that is refreshed."""
    options = {"refresh_reference_every": 4} if method == "dpo" else {}
    rows = run(
        tiny,
        prompts,
        tmp_path / "run",
        method,
        f"{rewards}:letters",
        select=select,
        max_steps=14,
        batch_size=6,
        sampler={"samples": 6},
        **options,
    )
    assert mean(rows[-3:], "reward") > mean(rows[:3], "reward") + 0.05


def test_the_policy_as_its_own_judge(tiny, prompts, tmp_path):
    rows = run(tiny, prompts, tmp_path / "run", "dpo", "self_reward", max_steps=2)
    assert 0 < rows[0]["reward"] < 1


def test_minibatches_and_inner_epochs(tiny, prompts, rewards, tmp_path):
    """Two passes of two optimizer steps each: the ratio leaves 1, the clip is reported."""
    rows = run(
        tiny,
        prompts,
        tmp_path / "run",
        "grpo",
        f"{rewards}:letters",
        max_steps=3,
        minibatches=2,
        inner_epochs=2,
        learning_rate=3e-2,
    )
    assert any(r["clip_ratio/region_mean"] > 0 for r in rows)


def test_a_minibatch_is_an_optimizer_step_of_its_own(tiny, prompts, rewards, tmp_path):
    """Its weights are its own: the loss of the first one is log 2, not a part of it."""
    lines = run(
        tiny,
        prompts,
        tmp_path / "run",
        "online_dpo",
        f"{rewards}:letters",
        minibatches=2,
        max_steps=1,
        learning_rate=1e-9,
    )
    assert lines[0]["loss"] == pytest.approx(math.log(2), abs=1e-3)


def test_lora_needs_no_second_model(tiny, prompts, rewards, tmp_path):
    rows = run(
        tiny,
        prompts,
        tmp_path / "run",
        {"name": "grpo", "beta": 0.05},
        f"{rewards}:letters",
        adapter={"r": 8},
        learning_rate=3e-2,
    )
    assert rows[0]["kl"] == pytest.approx(0, abs=1e-5)
    assert rows[-1]["kl"] > 1e-4
    assert mean(rows[-3:], "reward") > mean(rows[:3], "reward")


@pytest.mark.parametrize("mode", ["adaptive", "budget"])
def test_the_kl_coefficient_moves(tiny, prompts, rewards, tmp_path, mode):
    control = {"mode": mode, "target": 0.05, "horizon": 16}
    rows = run(
        tiny,
        prompts,
        tmp_path / "run",
        {"name": "rloo", "beta": 0.01},
        f"{rewards}:letters",
        kl_control=control,
        max_steps=8,
    )
    assert rows[-1]["kl/coefficient"] > 0.01


def test_drop_constant_refills(tiny, prompts, tmp_path):
    """Groups of one score are dropped and others sampled, up to the limit of rounds."""
    rows = run(
        tiny, prompts, tmp_path / "run", "grpo", {"regex": "a"}, select="drop_constant", refill=2, max_steps=3
    )
    assert any(r["sampling/rounds"] > 1 for r in rows)


def test_replay_of_a_runs_rollouts(tiny, prompts, rewards, tmp_path):
    """groups.jsonl is data: any method, online or offline, trains on it again."""
    run(tiny, prompts, tmp_path / "run", "grpo", f"{rewards}:letters", max_steps=3)
    import kilter

    rollouts = {"path": str(tmp_path / "run" / "groups.jsonl"), "heldout": 0}
    for method in ("grpo", "dpo"):
        options = {"max_steps": 2, "learning_rate": 1e-3, "replay": method == "grpo"}
        found = kilter.train(str(tiny), rollouts, method, tmp_path / method, **options)
        assert found.steps == 2


@pytest.mark.parametrize("method", ["grpo", {"name": "remax", "beta": 0.0}, "xpo"], ids=str)
def test_a_prompt_is_tokenised_once(tiny, rewards, tmp_path, monkeypatch, method):
    """By the sampler: its ids travel with the answer, so that a prompt that is too long is cut and counted once."""
    from kilter.data.encode import Encoder

    path = tmp_path / "long.jsonl"
    path.write_text("".join(json.dumps({"prompt": "z" * (3 if i % 2 else 40)}) + "\n" for i in range(8)))
    read = []
    prompt = Encoder.prompt
    monkeypatch.setattr(Encoder, "prompt", lambda self, p: (read.append(p), prompt(self, p))[1])
    spec = TrainSpec.model_validate(
        {
            "method": method,
            "prompts": "$data",
            "feedback": f"{rewards}:letters",
            "sampler": {"samples": 2, "max_new_tokens": 6},
            "monitors": {"allow_truncation": True},
            "max_length": 30,
            "batch_size": 4,
            "max_steps": 4,
        }
    )
    data = load(DataSpec(path=str(path), heldout=0), "prompts")
    result = Trainer(spec, tiny, data.train, [], tmp_path / "run").run()
    # All eight are tried before the first step; after that each of sixteen is read once.
    assert len(read) == 8 + 16
    assert result.counts["prompts cut"] == 8
    kept = (tmp_path / "run" / "groups.jsonl").read_text()
    assert "prompt_ids" not in kept


# Rewards that fail


@pytest.mark.parametrize(
    ("name", "cause"),
    [
        ("raises", "ValueError: boom"),
        ("nan", "returned nan"),
        ("hangs", "took longer than 0.2 s"),
        ("wrong_length", "returned 1 scores for 16"),
    ],
)
def test_a_failing_reward_leaves_answers_unscored_and_the_run_goes_on(
    tiny, prompts, rewards, tmp_path, name, cause
):
    feedback = {f"{rewards}:{name}": {"timeout": 0.2}}
    rows = run(tiny, prompts, tmp_path / "run", "grpo", feedback, max_steps=4, monitors={"stop": False})
    assert len(rows) >= 2
    events = [json.loads(line) for line in (tmp_path / "run" / "events.jsonl").read_text().splitlines()]
    assert any(cause in e["message"] and e["monitor"] == "unscored completions" for e in events), events
    assert any(r["feedback/unscored"] > 0 for r in rows) or name == "wrong_length"


def test_a_reward_that_never_works_ends_the_run_with_its_cause(tiny, prompts, rewards, tmp_path):
    with pytest.raises(RunFailed, match="no service"):
        run(tiny, prompts, tmp_path / "run", "grpo", f"{rewards}:always_raises")


@pytest.mark.parametrize("name", ["batch", "patient"])
def test_batch_and_async_functions_give_the_same_scores(tiny, prompts, rewards, tmp_path, name):
    plain = run(tiny, prompts, tmp_path / "a", "grpo", f"{rewards}:letters", max_steps=1)
    other = run(tiny, prompts, tmp_path / "b", "grpo", f"{rewards}:{name}", max_steps=1)
    assert other[0]["reward"] == pytest.approx(plain[0]["reward"])


def test_weighted_parts_are_logged_apart(tiny, prompts, rewards, tmp_path):
    feedback = [f"{rewards}:letters", {"length": {"limit": 10, "buffer": 4}, "weight": 0.5}]
    row = run(tiny, prompts, tmp_path / "run", "grpo", feedback, max_steps=1)[0]
    assert row["reward"] == pytest.approx(
        row["rewards/letters/mean"] + 0.5 * row["rewards/length/mean"], abs=1e-6
    )


# Monitors


def events_of(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "events.jsonl").read_text().splitlines()]


HACK = {
    "heldout": 0.5,
    "batch_size": 8,
    "learning_rate": 1e-2,
    "sampler": {"samples": 8, "max_new_tokens": 16},
}


@pytest.fixture
def many_prompts(tmp_path) -> Path:
    path = tmp_path / "many.jsonl"
    path.write_text("".join(json.dumps({"prompt": f"Say {i}"}) + "\n" for i in range(64)))
    return path


def test_hacking_is_seen_and_the_guarded_run_keeps_its_best_model(tiny, many_prompts, rewards, tmp_path):
    """What pays (letters a to m) displaces what is wanted (letters n to z): unguarded to the end; with the guard the run stops."""
    gold = {"gold": f"{rewards}:wanted", "gold_every": 3, "gold_prompts": 32}
    free = run(
        tiny,
        many_prompts,
        tmp_path / "free",
        "grpo",
        f"{rewards}:letters",
        monitors=gold | {"stop": False, "keep_best": False},
        max_steps=24,
        **HACK,
    )
    guarded = run(
        tiny,
        many_prompts,
        tmp_path / "guarded",
        "grpo",
        f"{rewards}:letters",
        monitors=gold,
        max_steps=24,
        **HACK,
    )
    seen = [r for r in free if "gold/score" in r]
    assert mean(free[-3:], "reward") > mean(free[:3], "reward")
    assert seen[-1]["gold/score"] < seen[0]["gold/score"]
    assert len(guarded) < len(free) == 24
    assert [e["level"] for e in events_of(tmp_path / "free") if e["tier"] == 2] == ["warn", "warn"]
    last = events_of(tmp_path / "guarded")[-1]
    assert last["level"] == "stop"
    assert "reward hacking" in last["message"]
    assert "run stopped" in last["action"]
    history = [json.loads(line) for line in (tmp_path / "guarded" / "gold.jsonl").read_text().splitlines()]
    assert max(history, key=lambda e: e["gold"])["step"] < history[-1]["step"]


def test_replaying_the_monitors_finds_the_same_events(tiny, many_prompts, rewards, tmp_path):
    from kilter.training.monitors.replay import replay

    gold = {"gold": f"{rewards}:wanted", "gold_every": 3, "gold_prompts": 32, "stop": False}
    run(
        tiny,
        many_prompts,
        tmp_path / "run",
        "grpo",
        f"{rewards}:letters",
        monitors=gold,
        max_steps=15,
        **HACK,
    )
    recorded = [(e["step"], e["monitor"], e["level"]) for e in events_of(tmp_path / "run")]
    assert recorded
    assert [(e.step, e.monitor, e.level) for e in replay(tmp_path / "run")] == recorded


def test_answers_that_never_end_stop_a_run(tiny, prompts, rewards, tmp_path):
    with pytest.raises(RunFailed, match="length limit"):
        run(
            tiny,
            prompts,
            tmp_path / "run",
            "grpo",
            f"{rewards}:letters",
            sampler={"max_new_tokens": 3},
            monitors={"allow_truncation": False},
        )


# Resumption


def arguments(tiny, prompts, rewards, out, method, gold):
    """Words of `kilter train`."""
    options = [
        "sampler.samples=4",
        "sampler.max_new_tokens=10",
        "monitors.allow_truncation=true",
        f"monitors.gold={gold}",
        "monitors.gold_every=4",
        "monitors.gold_prompts=4",
        "data.heldout=0.25",
        "kl_control.mode=adaptive",
        "kl_control.target=0.5",
        "kl_control.horizon=64",
        "monitors.stop=false",
        "beta=0.05",
    ]
    return [
        "train",
        "--method",
        method,
        "--model",
        str(tiny),
        "--data",
        str(prompts),
        "--feedback",
        f"{rewards}:letters",
        "--max-steps",
        "30",
        "--batch-size",
        "4",
        "--learning-rate",
        "3e-3",
        "--save-every",
        "3",
        "--out",
        str(out),
        *[x for o in options for x in ("--set", o)],
    ]


@pytest.mark.parametrize(("method", "judge"), [("ppo", "function"), ("grpo", "reward model")])
def test_a_killed_run_continues_exactly(
    tiny, prompts, rewards, pairs_file, tmp_path, monkeypatch, method, judge
):
    """Policy, critic, optimizers, prompt position, KL controller, monitors and the scale of a gold reward model: the metrics equal those of an unbroken run."""
    gold = f"{rewards}:short"
    if judge == "reward model":
        import kilter

        model = kilter.train(
            str(tiny),
            str(pairs_file),
            "bradley_terry",
            tmp_path / "rm",
            max_steps=3,
            batch_size=4,
            learning_rate=1e-2,
        ).model
        gold = json.dumps({"reward_model": str(model)})
    words = partial(arguments, tiny, prompts, rewards, method=method, gold=gold)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    process = subprocess.Popen(
        [sys.executable, "-m", "kilter.cli", *words(broken)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    path = broken / "metrics.jsonl"
    while process.poll() is None and not (path.exists() and len(path.read_text().splitlines()) >= 8):
        time.sleep(0.02)
    assert process.poll() is None, "it came to its end before it could be killed"
    process.send_signal(signal.SIGKILL)
    process.wait()

    # The killed run needs a process of its own; what never stops, and what goes on, need none.
    for folder in (whole, broken):
        monkeypatch.setattr(sys, "argv", ["kilter", *words(folder)])
        with pytest.raises(SystemExit) as end:
            main()
        assert end.value.code == 0
    timing = (
        "step_time",
        "tokens_per_second",
        "sampling/tokens_per_second",
        "sampling/seconds",
        "feedback/seconds",
        "memory/peak_gb",
    )
    read = lambda p: [
        {k: v for k, v in json.loads(line).items() if k not in timing} for line in p.read_text().splitlines()
    ]
    assert read(path) == read(whole / "metrics.jsonl")
    assert (broken / "groups.jsonl").read_text() == (whole / "groups.jsonl").read_text()
    assert (broken / "groups.tokens").read_bytes() == (whole / "groups.tokens").read_bytes()
    assert (broken / "gold.jsonl").read_text() == (whole / "gold.jsonl").read_text()
    assert (broken / "events.jsonl").exists() == (whole / "events.jsonl").exists()
    if (whole / "events.jsonl").exists():
        assert (broken / "events.jsonl").read_text() == (whole / "events.jsonl").read_text()


# Wrong inputs


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"feedback": None}, "feedback"),
        ({"feedback": "mathh"}, "Did you mean 'math'"),
        ({"feedback": {"math": {"mrk": "#"}}}, "Did you mean 'mark'"),
        ({"feedback": {"length": {"limit": 10}}}, "buffer"),
        ({"feedback": {"regex": "("}}, "regular expression"),
        ({"method": "dpo", "select": "all"}, "best_worst"),
        ({"select": "best_of"}, "policy gradient needs the others"),
        ({"sampler": {"samples": 1}, "select": "drop_constant"}, "too few"),
        ({"feedback": "missing_file.py:reward"}, "cannot be imported"),
    ],
)
def test_settings_that_cannot_work_are_named_before_any_work(
    tiny, prompts, rewards, tmp_path, changes, message
):
    fields = {"method": "grpo", "feedback": f"{rewards}:letters"} | changes
    method, feedback = fields.pop("method"), fields.pop("feedback")
    with pytest.raises(UserError, match=message):
        run(tiny, prompts, tmp_path / "run", method, feedback, **fields)


def test_rollout_methods_say_what_they_need(tiny, pairs_file, tmp_path):
    import kilter

    prompts_only = tmp_path / "p.jsonl"
    prompts_only.write_text('{"prompt": "a"}\n{"prompt": "b"}\n')
    with pytest.raises(UserError, match="no scored rollouts"):
        kilter.train(str(tiny), str(prompts_only), "grpo", tmp_path / "run", replay=True)


def test_on_policy_distillation_needs_no_feedback(tiny, prompts, tmp_path):
    """GKD: the student's own answers, the teacher's distribution at every token of them."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny)
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(0.8)
    other = tmp_path / "teacher"
    model.save_pretrained(other)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        if (tiny / name).exists():
            (other / name).write_bytes((tiny / name).read_bytes())
    lines = run(
        tiny,
        prompts,
        tmp_path / "run",
        "distill",
        None,
        teacher=str(other),
        monitors={"enabled": False},
        max_steps=8,
    )
    assert lines[-1]["divergence"] < lines[0]["divergence"]


@pytest.mark.parametrize("name", ["plackett_luce", "lipo_lambda"])
def test_rankings_of_fresh_answers(tiny, prompts, tmp_path, rewards, name):
    """A listwise loss on the policy's own answers, ranked by their scores; ties are dropped."""
    lines = run(tiny, prompts, tmp_path / "run", name, f"{rewards}:length", max_steps=4)
    assert any("rewards/margins" in line for line in lines)


def test_methods_for_judged_data_are_refused_online(tiny, prompts, tmp_path, rewards):
    from kilter.errors import UserError

    with pytest.raises(UserError, match="learns from judged data"):
        run(tiny, prompts, tmp_path / "run", "kto", f"{rewards}:length")


@pytest.mark.parametrize(
    "method",
    [{"name": "grpo", "beta": 0.05}, "online_dpo", "xpo", {"name": "nash_md", "mixture": 1.0}],
    ids=str,
)
def test_the_distance_to_the_reference_is_watched(tiny, prompts, tmp_path, rewards, method):
    """kl/sequence is there for methods that use a batch once, and beside an opponent it is the policy's own: never far below 0."""
    lines = run(
        tiny,
        prompts,
        tmp_path / "run",
        method,
        f"{rewards}:letters",
        monitors={"kl_budget": 1e6},
        max_steps=8,
    )
    found = [line["kl/sequence"] for line in lines]
    assert len(found) == 8
    assert found[-1] > 0.05
    assert max(found) > max(0.0, -min(found))


def test_a_kl_budget_stops_grpo(tiny, prompts, tmp_path, rewards):
    from kilter.errors import RunFailed

    with pytest.raises(RunFailed, match="KL"):
        run(
            tiny,
            prompts,
            tmp_path / "run",
            {"name": "grpo", "beta": 0.05},
            f"{rewards}:letters",
            monitors={"kl_budget": 1e-6},
            max_steps=12,
        )


@pytest.mark.parametrize(
    ("method", "options", "field"),
    [
        ("grpo", {"monitors": {"kl_budget": 3.0}}, "monitors.kl_budget"),
        ("grpo", {"kl_control": {"mode": "adaptive"}}, "kl_control.mode"),
        ({"name": "grpo", "advantage": "passk", "k": 16}, {}, "method.k"),
        ({"name": "grpo", "advantage": "prm_token"}, {}, "method.advantage"),
        ({"name": "grpo", "advantage": "passk", "kl_in": "reward", "beta": 0.1}, {}, "method.kl_in"),
        ("online_dpo", {"kl_control": {"mode": "adaptive"}}, "kl_control.mode"),
        ("grpo", {"refresh_reference_every": 2}, "refresh_reference_every"),
        ("grpo", {"critic": {"learning_rate": 1e-3}}, "critic"),
        ("grpo", {"eval_every": 2}, "eval_every"),
        ("grpo", {"eval_limit": 2}, "eval_limit"),
        ("grpo", {"refill": 1}, "refill"),
        ("grpo", {"sampler": {"url": "http://127.0.0.1:9"}}, "sampler.url"),
        ("grpo", {"sampler": {"name": "vllm", "top_p": 0.9}}, "sampler.top_p"),
        ("grpo", {"monitors": {"gold": "math"}}, "monitors.gold"),
        ("grpo", {"sampler": {"max_new_tokens": 1020}}, "max_length"),
    ],
    ids=str,
)
def test_settings_that_would_do_nothing_are_refused(tiny, prompts, tmp_path, rewards, method, options, field):
    from kilter.errors import UserError

    with pytest.raises(UserError) as stop:
        run(tiny, prompts, tmp_path / "run", method, f"{rewards}:letters", **options)
    assert stop.value.field == field


def test_truncated_answers_leave_the_denominators(tiny, prompts, tmp_path, rewards):
    """DAPO's token mean is over the tokens that train, as in TRL: the mask comes before the count."""
    import torch

    from kilter.models.forward import Scorer
    from kilter.models.load import load_causal
    from kilter.objectives import build_objective
    from kilter.training.learner import LocalLearner
    from kilter.training.parallel.engine import Engine
    from test_rl_objectives import rollout

    objective = build_objective("dapo")
    batch = rollout([1.0, 0.0], [[1.0, 1], [1, 1]], truncated_B=torch.tensor([0.0, 1.0]))
    learner = LocalLearner(Scorer(load_causal(tiny)), objective.needs, TrainSpec(method="dapo"), 1, Engine())
    found = learner.annotate(batch, objective.needs)
    assert float(found.n_tokens_total) == 2
    assert found.mask_BT[1].sum() == 0


def test_a_run_in_which_nothing_can_be_scored_fails(tiny, prompts, tmp_path):
    from kilter.errors import RunFailed

    with pytest.raises(RunFailed, match="Not one step"):
        run(tiny, prompts, tmp_path / "run", "grpo", "math", max_steps=2, monitors={"enabled": False})
    assert not (tmp_path / "run" / "model").exists()


def test_the_first_and_the_last_state_that_a_signal_named_are_pinned(tmp_path):
    """Hard links beside the checkpoints, which go away when the stage is done."""
    from kilter.training.checkpoint import Checkpoints

    checkpoints = Checkpoints(tmp_path / "checkpoints", 1)
    for step in (1, 2, 3):
        checkpoints.save(step, lambda path: path.write_text("state"), {})
        checkpoints.pin(step)
    assert sorted(p.name for p in (tmp_path / "pinned").iterdir()) == ["step-1", "step-3"]
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["step-2", "step-3"]
    assert (tmp_path / "pinned" / "step-1" / "state.safetensors").read_text() == "state"


def test_a_drifting_policy_is_pinned_and_the_slope_of_its_kl_is_watched(tiny, prompts, tmp_path, rewards):
    gold = {"gold": {"regex": "[a-m]"}, "gold_every": 4, "gold_prompts": 4, "stop": False}
    lines = run(
        tiny,
        prompts,
        tmp_path / "run",
        {"name": "rloo", "beta": 0.01},
        f"{rewards}:short",
        heldout=0.3,
        monitors=gold,
        max_steps=20,
    )
    events = [json.loads(x) for x in (tmp_path / "run" / "events.jsonl").read_text().splitlines()]
    assert any(e["tier"] == 1 and e["level"] == "warn" for e in events)
    assert list((tmp_path / "run" / "pinned").glob("step-*/state.safetensors"))
    assert "monitor/kl/slope" in lines[-1]


def test_the_critic_alone_learns_during_its_warm_up(tiny, prompts, tmp_path, rewards):
    from kilter.models.load import load_causal

    method = {"name": "ppo", "epochs": 1, "beta": 0.0}
    run(
        tiny,
        prompts,
        tmp_path / "frozen",
        method,
        f"{rewards}:letters",
        critic={"learning_rate": 1e-2, "warmup_steps": 50},
        max_steps=2,
        monitors={"enabled": False},
    )
    run(
        tiny,
        prompts,
        tmp_path / "free",
        method,
        f"{rewards}:letters",
        critic={"learning_rate": 1e-2},
        max_steps=2,
        monitors={"enabled": False},
    )
    start, frozen, free = (
        load_causal(p).state_dict()
        for p in (tiny, tmp_path / "frozen" / "model", tmp_path / "free" / "model")
    )
    assert all((frozen[n] == v).all() for n, v in start.items())
    assert any((free[n] != v).any() for n, v in start.items())


def test_the_live_screen_shows_what_matters():
    import io

    from rich.console import Console

    from kilter.training.live import LiveDisplay
    from kilter.training.monitors.events import Event

    out = io.StringIO()
    live = LiveDisplay(Console(file=out, force_terminal=True, width=120), "grpo", 10, 0)
    record = {
        "reward": 0.25,
        "gold/score": 0.5,
        "kl/sequence": 1.5,
        "entropy": 2.0,
        "completions/mean_length": 33.0,
        "frac_reward_zero_std": 0.1,
        "sampling/tokens_per_second": 321.0,
        "tokens_per_second": 123.0,
        "memory/peak_gb": 4.2,
        "loss": 0.1,
    }
    event = Event(
        1, 1, "warn", "refusal", "the refusal rate drifts", 1, "robust z +5", "gold evaluation asked for"
    )
    for step in (1, 2):
        live.step(step, record, [event], "the last answer")
    live.close()
    text = out.getvalue()
    for part in ("0.25", "0.5", "1.5", "321", "123", "4.2", "the last answer", "refusal rate drifts"):
        assert part in text, part


def test_a_mended_reward_goes_on_where_it_stopped(tiny, prompts, tmp_path, capsys):
    path = tmp_path / "mine.py"
    path.write_text("def reward(prompt, completion):\n    raise KeyError('no such column')\n")
    with pytest.raises(RunFailed, match="no such column"):
        run(tiny, prompts, tmp_path / "out", "grpo", f"{path}:reward", max_steps=6, save_every=1)
    path.write_text("def reward(prompt, completion):\n    return float(len(completion.text))\n")
    records = run(tiny, prompts, tmp_path / "out", "grpo", f"{path}:reward", max_steps=6, save_every=1)
    assert records[-1]["step"] == 6


def test_one_answer_to_a_prompt_has_no_siblings(tiny, prompts, rewards, tmp_path):
    for method in ("grpo", "rloo", "luspo"):
        with pytest.raises(UserError, match=r"sampler\.samples` = 1"):
            run(tiny, prompts, tmp_path / method, method, f"{rewards}:letters", sampler={"samples": 1})


def test_a_torn_or_broken_log_is_named(tiny, prompts, rewards, tmp_path):
    from kilter.training.monitors.replay import replay

    run(tiny, prompts, tmp_path / "run", "grpo", f"{rewards}:letters", max_steps=2)
    metrics = tmp_path / "run" / "metrics.jsonl"
    whole = metrics.read_text()
    metrics.write_text(whole + '{"step": 3, "los')
    replay(tmp_path / "run")
    metrics.write_text("garbage\n" + whole)
    with pytest.raises(UserError, match=r"metrics\.jsonl:1.*is not a line of JSON"):
        replay(tmp_path / "run")


def test_best_weights_on_a_full_disk(tiny, many_prompts, rewards, tmp_path, monkeypatch):
    from kilter.training.hooks import gold as hook

    def full(*args):
        raise RuntimeError("[enforce fail] no space left")

    monkeypatch.setattr(hook, "write_values", full)
    gold = {"gold": f"{rewards}:wanted", "gold_every": 3, "gold_prompts": 8}
    with pytest.raises(RunFailed, match=r"(?i)best weights so far.*\n.*Fix: free disk space"):
        run(
            tiny,
            many_prompts,
            tmp_path / "run",
            "grpo",
            f"{rewards}:letters",
            monitors=gold,
            max_steps=3,
            heldout=0.25,
        )


@pytest.mark.parametrize("method", ["grpo", "remax", "nash_md"])
def test_a_completion_that_cannot_be_sampled_is_counted_named_and_never_scored(
    tiny, prompts, rewards, tmp_path, monkeypatch, method
):
    """One prompt always fails and every prompt loses a sample; training, gold evidence and the record go on without."""
    from kilter.sampling.local import LocalSampler
    from kilter.types import Sample

    whole = LocalSampler.run

    def run_partly(self, requests, *more):
        for sample in whole(self, requests, *more):
            asked = sample.request.prompt.messages[-1]["content"]
            failed = asked == "Say c" or sample.index == 3
            yield Sample(sample.request, sample.index, None, "the line is dead") if failed else sample

    monkeypatch.setattr(LocalSampler, "run", run_partly)
    monitors = {"gold": f"{rewards}:wanted", "gold_every": 2, "stop": False}
    rows = run(
        tiny,
        prompts,
        tmp_path / "run",
        method,
        f"{rewards}:letters",
        heldout=0.4,
        max_steps=4,
        monitors=monitors,
    )
    assert sum(r.get("sampling/failed", 0) for r in rows) > 0
    assert all(math.isfinite(r["loss"]) for r in rows)
    events = [json.loads(line) for line in (tmp_path / "run" / "events.jsonl").read_text().splitlines()]
    assert any(e["monitor"] == "failed completions" and "the line is dead" in e["message"] for e in events)
    groups = [json.loads(line) for line in (tmp_path / "run" / "groups.jsonl").read_text().splitlines()]
    assert all(g["prompt"]["messages"][-1]["content"] != "Say c" for g in groups)
    assert {len(g["completions"]) for g in groups} == {2 if method == "nash_md" else 3}


def test_gold_evidence_keeps_the_place_of_a_prompt_without_an_answer(scorer, encoder):
    from kilter.sampling.local import LocalSampler
    from kilter.seams import FeedbackSource
    from kilter.training.monitors.gold import GoldEvaluator
    from kilter.types import Feedback, Prompt, Sample, SamplingParams

    class Partly(LocalSampler):
        def run(self, requests, *more):
            for sample in super().run(requests, *more):
                dead = sample.request.prompt.text == "b"
                yield Sample(sample.request, sample.index, None, "the line is dead") if dead else sample

    class Judge(FeedbackSource):
        def __call__(self, groups):
            return [[Feedback(float(g.prompt.text == "c"))] for g in groups]

    prompts, judge = [Prompt(text=t) for t in "abc"], Judge()
    params = SamplingParams(max_new_tokens=4)
    evidence = GoldEvaluator(prompts, Partly(scorer.eval(), encoder), judge, judge, params)()
    assert evidence.values["gold"] == evidence.values["proxy"] == [0.0, None, 1.0]
    assert evidence.values["length"][1] is None
    assert len(evidence.answers) == 3
    assert "the line is dead" in evidence.problems["gold"]
