"""Roles in workers of their own, in this process: a run apart in turn is the run here, whatever dies on its way."""

from __future__ import annotations

import functools
import json
import pickle
import random
import re
import shutil
import signal
import threading
import time
import weakref
from types import SimpleNamespace
from typing import ClassVar

import pytest
import torch

from conftest import make_model
from kilter.cluster.held import Held
from kilter.cluster.inline import InlineBackend
from kilter.cluster.pool import Pool, Restarts
from kilter.data import store
from kilter.data.dataset import DataSpec, load
from kilter.errors import Interrupted, RunFailed, UserError
from kilter.feedback.registry import Weighted
from kilter.models.forward import Way
from kilter.roles.open import OpenSpec, open_model
from kilter.training.apart.scores import PooledScores, ScoreWorker
from kilter.training.apart.teacher import PooledTeacher, TeacherWorker
from kilter.training.apart.vllm import VllmWorker
from kilter.training.config import TrainSpec
from kilter.training.learner import LocalLearner
from kilter.training.trainer import Trainer
from kilter.types import Completion, Feedback, Group, Prompt

NUMBERS = ("loss", "grad_norm", "reward")


@pytest.fixture(scope="module")
def folder(tiny, tmp_path_factory):
    """Prompts, a teacher, and models with random heads: a reward model, one of pairs, one of steps."""
    from transformers import AutoModelForSequenceClassification, AutoModelForTokenClassification

    from kilter.models.folder import quiet_transformers
    from kilter.models.load import MADE_BY
    from kilter.models.tokenizer import load_tokenizer

    made = tmp_path_factory.mktemp("apart")
    rows = [json.dumps({"prompt": f"Say {chr(97 + i)}"}) + "\n" for i in range(16)]
    (made / "prompts.jsonl").write_text("".join(rows))
    heads = {
        "rm": (AutoModelForSequenceClassification, 1),
        "pm": (AutoModelForSequenceClassification, 1),
        "prm": (AutoModelForTokenClassification, 2),
    }
    for name, (kind, labels) in heads.items():
        torch.manual_seed(len(name))
        with quiet_transformers():
            model = kind.from_pretrained(str(tiny), num_labels=labels)
            model.score.weight.data.normal_(0, 0.3)
            model.save_pretrained(made / name)
        load_tokenizer(tiny).save_pretrained(made / name)
    make_model(made / "teacher", hidden_size=48, tie_word_embeddings=False)
    (made / "pm" / MADE_BY).write_text(json.dumps({"method": "pairwise_preference", "reads": "pairs"}))
    return made


def run(
    start, folder, out, method="grpo", feedback="rm", cluster=None, backend=None, steps=6, held=0, **fields
):
    """(metrics of every step, token ids of every answer)."""
    if "teacher" in fields:
        fields["teacher"] = str(folder / fields["teacher"])
    spec = TrainSpec.model_validate(
        {
            "method": method,
            "prompts": "$data",
            "feedback": {"reward_model": str(folder / "rm")} if feedback == "rm" else feedback,
            "sampler": {"samples": 4, "max_new_tokens": 10},
            "monitors": {"allow_truncation": True, "gold_every": 1000},
            "batch_size": 4,
            "max_steps": steps,
            "learning_rate": 1e-3,
        }
        | ({} if cluster is None else {"cluster": cluster})
        | fields
    )
    data = load(DataSpec(path=str(folder / "prompts.jsonl"), heldout=0.0), "prompts")
    backend = backend or InlineBackend()
    Trainer(spec, start, data.train, data.train[:held], out, connect=lambda spec: backend).run()
    metrics = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    tokens = [c.token_ids for g in store.read(out / "groups.jsonl") for c in g.completions]
    return metrics, tokens


def same(here, there):
    for name in NUMBERS:
        assert [r[name] for r in there[0]] == pytest.approx([r[name] for r in here[0]], rel=1e-6, abs=1e-6)
    assert there[1] == here[1]
    assert len({r["grad_norm"] for r in here[0]} - {0.0}) == len(here[0]) > 1


def apart(*roles, **settings):
    return {role: {"place": "apart"} for role in roles} | settings


def sources(name, tiny, folder):
    rm, judge = str(folder / "rm"), {"model": str(tiny), "mode": "rubric", "min_mass": 0.0, "canary": False}
    return {
        "pairs": {"preference_model": str(folder / "pm")},
        "several": [
            {"reward_model": {"model": [rm, rm], "combine": "min"}},
            {"process_reward": str(folder / "prm"), "weight": 0.5},
            {"repetition": {}, "weight": 0.1},
        ],
        "judge": {"judge": judge | {"require_certificate": False}},
    }[name]


@pytest.mark.parametrize("name", ["pairs", "several", "judge"])
def test_scores_apart_are_those_of_here(name, tiny, folder, tmp_path):
    feedback, backend = sources(name, tiny, folder), InlineBackend()
    here = run(tiny, folder, tmp_path / "here", feedback=feedback, steps=2)
    two = {"cluster": {"reward": {"place": "apart", "copies": 2}}, "backend": backend}
    same(here, run(tiny, folder, tmp_path / "there", feedback=feedback, steps=2, **two))
    assert {h.role for h in backend.handles} == {"reward"}
    assert len(backend.handles) == {"pairs": 2, "several": 6, "judge": 2}[name]


class Length:
    """Scores by length, and says how often it did."""

    def __init__(self, log=None):
        self.log = [] if log is None else log

    def __call__(self, groups):
        self.log += [g.prompt.text for g in groups]
        return [[Feedback(float(len(c.text))) for c in g.completions] for g in groups]


def groups(count):
    texts = [("a" * n, "b" * (n + 1)) for n in range(count)]
    return [
        Group(Prompt(text=str(n)), tuple(map(Completion, t)), (Feedback(None),) * 2)
        for n, t in enumerate(texts)
    ]


@pytest.mark.parametrize("seed", range(40))
def test_whatever_dies_every_group_is_scored(seed):
    draw = random.Random(seed)
    backend = InlineBackend(lambda *a: draw.choice((0.0, 0.1, 2.0)))
    for _ in range(draw.randint(0, 5)):
        backend.at(draw.uniform(0, 8), lambda: draw.choice(backend.handles).kill())
    arguments = {"make": Length, "arguments": {}}
    scores = PooledScores(Pool(backend, "reward", 2, ScoreWorker, arguments, 10.0, Restarts(20)))
    asked = groups(12)
    # Some are told of as they arrive, in any order and maybe twice.
    for group in draw.sample(asked, 7):
        scores.begin([group])
        scores.begin([group] * draw.randrange(2))
        backend.pass_time(draw.uniform(0, 1))
    assert [[f.score for f in row] for row in scores(asked)] == [[n, n + 1] for n in range(12)]
    assert not scores._begun


def test_what_was_told_of_is_scored_once_and_while_others_are_waited_for():
    backend, log = InlineBackend(lambda role, n, method, a: 1.0 if method == "scores" else 0.0), []
    arguments = {"make": Length, "arguments": {"log": log}}
    scores = PooledScores(Pool(backend, "reward", 1, ScoreWorker, arguments))
    asked = groups(4)
    start = backend.now()
    for group in asked:
        scores.begin([group])
        backend.pass_time(1.0)
    scores(asked)
    assert backend.now() - start == 4.0
    assert log == ["0", "1", "2", "3"]


def test_scoring_begins_with_the_first_answers_of_a_step(tiny, folder, tmp_path):
    order = []

    def latency(role, number, method, arguments):
        order.append((role, method))
        return 1.0 + number if method == "generate" else 0.0

    cluster = {"rollout": {"place": "apart", "engines": 2}, "reward": {"place": "apart"}}
    backend = InlineBackend(latency)
    run(tiny, folder, tmp_path / "run", cluster=cluster, backend=backend, steps=1)
    ended = [call for call in order if call[1] in ("generate", "scores")]
    # The first engine's two prompts were scored while the second engine was at work.
    assert ended == [("rollout", "generate")] * 2 + [("reward", "scores")] * 4
    assert backend.now() < 2.5


JUDGES = {
    "pairs": {},
    "reasoned": {"read": "reasoned", "max_tokens": 4},
    "principles": {"mode": "constitution", "constitution": "one", "repeats": 2},
    "panel": {"panel": [{"criterion": "Which is longer?"}, {"criterion": "Which is kinder?"}]},
}


@pytest.mark.parametrize("name", JUDGES)
def test_a_judge_apart_judges_while_others_answer_bit_for_bit(name, tiny, folder, tmp_path, monkeypatch):
    own, model = {"mode": "pairwise", "min_mass": 0.0, "canary": False} | JUDGES[name], {"model": str(tiny)}
    feedback = own | ({"panel": [model | one for one in own["panel"]]} if "panel" in own else model)
    fields = {
        "feedback": {"judge": feedback},
        "cluster": {"rollout": {"place": "apart", "engines": 2}, "reward": {"place": "apart"}},
        "sampler": {"samples": 2, "max_new_tokens": 6},
        "steps": 2,
    }

    def latency(role, number, method, arguments):
        # What the first engine answers is judged while the second one is at work.
        return 1.0 if role == "reward" else 30.0 * (1 + number) * (method == "generate")

    backends = [InlineBackend(latency), InlineBackend(latency)]
    ahead = run(tiny, folder, tmp_path / "ahead", backend=backends[0], **fields)
    monkeypatch.setattr(Weighted, "begin", lambda self, groups: None)
    in_turn = run(tiny, folder, tmp_path / "in-turn", backend=backends[1], **fields)
    assert ahead[1] == in_turn[1]
    assert [[r[n] for n in NUMBERS] for r in ahead[0]] == [[r[n] for n in NUMBERS] for r in in_turn[0]]
    assert any(r["reward"] for r in ahead[0])
    # Each step saves the verdicts on two groups of four, in each judge's calls.
    assert backends[1].now() - backends[0].now() >= 2 * 2


def test_a_judge_apart_with_a_limit_of_cost_begins_nothing(tiny):
    from kilter.feedback.context import Context
    from kilter.feedback.judge.build import build, parse_spec
    from kilter.feedback.judge.verdict import Comparison
    from kilter.types import Choice, SamplerFacts, Usage

    class Sampler:
        facts, asked = SamplerFacts(chooses=True, begins=True), []

        def begin_choice(self, prompts, options):
            self.asked.append(len(prompts))
            return lambda: self.choose(prompts, options)

        def choose(self, prompts, options):
            return [Choice(tuple(options), (0.25, 0.75), 1.0, Usage(9, 1)) for _ in prompts]

    pairs = [Comparison(Prompt(text=f"Say {n}"), "a", "b") for n in range(3)]
    for limit, begun in ((None, [2, 2]), (1.0, [])):
        sampler = Sampler()
        sampler.asked = []
        settings = {"model": str(tiny), "price": {"prompt": 1.0, "completion": 1.0}, "max_cost": limit}
        judge = build(parse_spec(settings), Context(sampler=lambda kind, opening, where: sampler))
        for pair in pairs[:2]:
            judge.begin_compare([pair])
            judge.begin_compare([pair])
        assert sampler.asked == begun
        assert [j.p for j in judge.compare(pairs)] == [0.5] * 3
        assert judge.chat.bill.calls == 6
        assert judge.chat.bill.cost == pytest.approx(6 * 10 / 1e6)
        assert not judge.chat._begun


def test_scores_that_nobody_can_give_end_the_run_by_name(tiny, folder, tmp_path):
    backend = InlineBackend(lambda role, n, method, a: 1.0 if method == "scores" else 0.0)
    backend.at(5.5, lambda: backend.handles[0].kill())
    cluster = apart("reward", restarts=0)
    with pytest.raises(RunFailed, match=r"No reward worker is left \(reward 0 is lost: it was killed"):
        run(tiny, folder, tmp_path / "run", cluster=cluster, backend=backend)
    # A new run of the same command goes on.
    metrics, tokens = run(tiny, folder, tmp_path / "run", cluster=cluster)
    assert [r["step"] for r in metrics] == [1, 2, 3, 4, 5, 6]
    assert len(tokens) == 96


KL = {"name": "grpo", "beta": 0.1}


@pytest.fixture(scope="module")
def here(tiny, folder, tmp_path_factory):
    """A run in one process, by its settings; made once."""
    made = {}

    def found(**settings):
        key = json.dumps(settings, sort_keys=True)
        if key not in made:
            made[key] = run(tiny, folder, tmp_path_factory.mktemp("here") / "run", **settings)
        return made[key]

    return found


REFERENCES = {
    "frozen": {"method": KL},
    "moving": {"method": KL, "refresh_reference_every": 2},
    "base": {"method": KL, "adapter": {"kind": "lora", "r": 4}, "steps": 3},
}


@pytest.mark.parametrize(("name", "copies"), [("frozen", 2), ("moving", 2), ("base", 1)])
def test_a_reference_apart_is_that_of_here(name, copies, tiny, folder, here, tmp_path):
    backend, settings = InlineBackend(), {"feedback": {"regex": "[a-m]"}} | REFERENCES[name]
    cluster = {"reference": {"place": "apart", "copies": copies}}
    there = run(tiny, folder, tmp_path / "run", cluster=cluster, backend=backend, **settings)
    same(here(**settings), there)
    assert [r["kl"] for r in there[0]] == pytest.approx([r["kl"] for r in here(**settings)[0]], abs=1e-6)
    assert len(backend.handles) == copies


def test_a_reference_that_has_moved_survives_its_workers(tiny, folder, here, tmp_path):
    settings = {"feedback": {"regex": "[a-m]"}} | REFERENCES["moving"]
    # After the second move the only worker dies, then the run itself: its successor goes on from the checkpoint.
    backend = InlineBackend(lambda role, n, method, a: 1.0 if method == "logps" else 0.0)
    backend.at(2.5, lambda: backend.handles[0].kill())
    backend.at(4.5, lambda: backend.handles[1].kill())
    cluster = apart("reference", restarts=1)
    with pytest.raises(RunFailed, match="No reference worker is left"):
        run(tiny, folder, tmp_path / "run", cluster=cluster, backend=backend, **settings, save_every=1)
    same(here(**settings), run(tiny, folder, tmp_path / "run", cluster=cluster, **settings, save_every=1))


def test_a_reference_of_fixed_data_is_asked_in_workers(tiny, pairs_file, tmp_path, monkeypatch):
    data = load(DataSpec(path=str(pairs_file), heldout=0.0), "preference")
    losses, backend = [], InlineBackend()
    for name, cluster in (("here", None), ("apart", {"reference": {"place": "apart", "copies": 2}})):
        monkeypatch.setenv("KILTER_CACHE", str(tmp_path / f"cache-{name}"))
        fields = {"method": "dpo", "max_steps": 2, "batch_size": 4} | (
            {"cluster": cluster} if cluster else {}
        )
        spec = TrainSpec.model_validate(fields)
        Trainer(spec, tiny, data.train, [], tmp_path / name, connect=lambda spec: backend).run()
        lines = (tmp_path / name / "metrics.jsonl").read_text().splitlines()
        losses.append([json.loads(line)["loss"] for line in lines])
    assert losses[1] == pytest.approx(losses[0], rel=1e-6)
    assert [h.role for h in backend.handles] == ["reference"] * 2
    assert all(h.dead for h in backend.handles)


@pytest.fixture(scope="module")
def teacher(folder):
    """Another model of the same vocabulary, wider than the student."""
    return folder / "teacher"


DISTILL = {"method": {"name": "distill", "beta": 0.3}, "tokens_per_microbatch": 50, "feedback": None}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_teacher_apart_teaches_sampled_answers_bit_for_bit(dtype, tiny, folder, tmp_path):
    settings = DISTILL | {"teacher": "teacher", "dtype": dtype, "steps": 3}
    here = run(tiny, folder, tmp_path / "here", **settings)
    backend = InlineBackend(lambda role, n, method, a: 1.0 if method == "states" else 0.0)
    # One dies on the way: the other is asked again.
    backend.at(4.5, lambda: next(h for h in backend.handles if h.role == "teacher").kill())
    cluster = apart("rollout") | {"teacher": {"place": "apart", "copies": 2}}
    there = run(tiny, folder, tmp_path / "there", cluster=cluster, backend=backend, **settings)
    assert [h.role for h in backend.handles].count("teacher") == 3
    assert there[1] == here[1]
    for name in (*NUMBERS[:2], "divergence"):
        assert [r[name] for r in there[0]] == [r[name] for r in here[0]]
    assert len({r["divergence"] for r in here[0]}) == 3
    ours, theirs = (model_of(tmp_path / name) for name in ("here", "there"))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def model_of(folder):
    from safetensors.torch import load_file

    return load_file(folder / "model" / "model.safetensors")


def test_a_teacher_apart_reads_ahead_and_every_micro_batch_once(tiny, teacher, pairs_file, tmp_path):
    data, asked = load(DataSpec(path=str(pairs_file), heldout=0.0), "demonstrations"), []

    def latency(role, number, method, arguments):
        if method == "states":
            asked.append(arguments[0].rows())
            return 1.0
        return 0.0

    losses, backend = [], InlineBackend(latency)
    for name, place in (("here", {}), ("apart", {"cluster": {"teacher": {"place": "apart", "copies": 2}}})):
        fields = {"method": "distill", "teacher": str(teacher), "max_steps": 2, "batch_size": 4}
        spec = TrainSpec.model_validate(fields | {"tokens_per_microbatch": 16} | place)
        Trainer(spec, tiny, data.train, [], tmp_path / name, connect=lambda spec: backend).run()
        lines = (tmp_path / name / "metrics.jsonl").read_text().splitlines()
        losses.append([(json.loads(line)["loss"], json.loads(line)["divergence"]) for line in lines])
    assert losses[1] == losses[0]
    # Two workers read the four micro-batches of each step in the time of two.
    assert asked == [1] * 8
    assert backend.now() == 4.0


def test_a_run_with_a_teacher_apart_stops_early_where_one_with_a_teacher_here_does(
    tiny, teacher, pairs_file, tmp_path
):
    """Held-out rows are read by the same workers between two steps, whose micro-batches wait."""
    data, ends = load(DataSpec(path=str(pairs_file), heldout=0.3), "demonstrations"), []
    for name, place in (("here", {}), ("apart", {"cluster": {"teacher": {"place": "apart", "copies": 3}}})):
        fields = {
            "method": "distill",
            "teacher": str(teacher),
            "max_steps": 8,
            "batch_size": 4,
            "eval_every": 1,
        }
        # Steps so long that the held-out loss rises.
        fields |= {"learning_rate": 0.1, "tokens_per_microbatch": 16, "early_stopping": {"patience": 1}}
        spec = TrainSpec.model_validate(fields | place)
        out = tmp_path / name
        Trainer(spec, tiny, data.train, data.heldout, out, connect=lambda spec: InlineBackend()).run()
        lines = list(map(json.loads, (out / "metrics.jsonl").read_text().splitlines()))
        ends.append([(line["step"], line["loss"], line.get("eval_loss")) for line in lines])
    assert ends[1] == ends[0]
    assert 1 < len(ends[0]) < 8
    assert None not in {shown for _, _, shown in ends[0]}


def test_a_teacher_that_is_lost_on_fixed_data_stands_in_the_events(tiny, teacher, pairs_file, tmp_path):
    """Fixed data has no monitors, and yet the page promises every loss; the numbers are those of a teacher here."""
    data, losses = load(DataSpec(path=str(pairs_file), heldout=0.0), "demonstrations"), []
    backend = InlineBackend(lambda role, n, method, a: 1.0 if method == "states" else 0.0)
    backend.at(2.5, lambda: next(h for h in backend.handles if h.role == "teacher").kill())
    for name, place in (("here", {}), ("apart", {"cluster": {"teacher": {"place": "apart", "copies": 2}}})):
        fields = {"method": "distill", "teacher": str(teacher), "max_steps": 3, "batch_size": 4}
        spec = TrainSpec.model_validate(fields | {"tokens_per_microbatch": 16} | place)
        Trainer(spec, tiny, data.train, [], tmp_path / name, connect=lambda spec: backend).run()
        lines = (tmp_path / name / "metrics.jsonl").read_text().splitlines()
        losses.append([json.loads(line)["loss"] for line in lines])
    assert losses[1] == losses[0]
    assert not (tmp_path / "here" / "events.jsonl").exists()
    (event,) = map(json.loads, (tmp_path / "apart" / "events.jsonl").read_text().splitlines())
    assert (event["monitor"], event["step"]) == ("lost worker", 2)


class Follows(TeacherWorker):
    """A teacher whose forward goes another way."""

    def __init__(self, opening, way):
        super().__init__(opening)
        self.scorer.follow(way)


@pytest.mark.parametrize(
    "way",
    [Way("rows", scale=0.5, softcap=3.0), Way("shared", scale=1.0), Way("own")],
    ids=lambda way: f"{way.path}-{way.softcap}",
)
def test_whatever_a_teacher_sends_its_distributions_are_its_own(way, tiny, teacher, pair_batch):
    opening, student = OpenSpec(teacher), open_model(OpenSpec(tiny)).scorer
    own = open_model(opening).scorer
    own.follow(way)
    pool = Pool(InlineBackend(), "teacher", 1, Follows, {"opening": opening, "way": way})
    found = []
    for one in (own, PooledTeacher(pool)):
        student.teach(one, 0.3)
        found.append(student(pair_batch, frozenset({"divergence"})).divergence_BT)
    assert torch.equal(*found)
    assert found[0].max() > 0


PPO = {
    "method": {"name": "ppo", "beta": 0.05},
    "inner_epochs": 2,
    "minibatches": 2,
    "tokens_per_microbatch": 80,
    "critic": {"learning_rate": 3e-3, "warmup_steps": 4},
    "schedule": "linear",
    "steps": 5,
}


def weights(folder):
    from safetensors.torch import load_file

    return {
        f"{name}/{key}": value
        for name in ("model", "critic")
        for key, value in load_file(folder / name / "model.safetensors").items()
    }


@pytest.mark.parametrize("feedback", ["reward_model", "regex"])
def test_a_critic_apart_learns_as_beside_the_policy(feedback, tiny, folder, tmp_path):
    settings = PPO | {"feedback": {feedback: str(folder / "rm") if feedback == "reward_model" else "[a-m]"}}
    metrics, found = [], []
    for name, cluster in (("here", None), ("apart", apart("critic"))):
        metrics.append(run(tiny, folder, tmp_path / name, cluster=cluster, **settings))
        found.append(weights(tmp_path / name))
    same(*metrics)
    for name in ("val/mean", "loss/value"):
        values = [[r[name] for r in rows] for rows, _ in metrics]
        assert values[1] == pytest.approx(values[0], rel=1e-5, abs=1e-5)
    assert found[0].keys() == found[1].keys()
    for name, value in found[0].items():
        torch.testing.assert_close(
            found[1][name], value, atol=1e-5, rtol=1e-5, msg=lambda m, n=name: f"{n}: {m}"
        )
    # The critic has moved, and its scale is not that of its start.
    start = weights_of_critic(tiny, folder, feedback)
    assert (found[1]["critic/score.weight"] - start).abs().max() > 1e-3


def weights_of_critic(tiny, folder, feedback):
    from safetensors.torch import load_file

    if feedback == "regex":
        return torch.zeros(1, 32)
    return load_file(folder / "rm" / "model.safetensors")["score.weight"]


@pytest.mark.parametrize("restarts", [0, 1])
def test_a_run_that_loses_its_critic_begins_anew_and_is_bit_for_bit_the_same(
    restarts, tiny, folder, tmp_path, capsys
):
    settings = PPO | {"save_every": 1, "cluster": apart("critic", restarts=restarts)}
    whole = run(tiny, folder, tmp_path / "whole", **settings)
    backend = InlineBackend(lambda role, n, method, a: 1.0 if method == "step" else 0.0)
    backend.at(9.5, lambda: backend.handles[0].kill())
    again = functools.partial(run, tiny, folder, tmp_path / "run", **settings)
    if restarts:
        assert again(backend=backend)[1] == whole[1]
        events = [json.loads(line) for line in (tmp_path / "run" / "events.jsonl").read_text().splitlines()]
        (event,) = [e for e in events if e["monitor"] == "learner restarted"]
        assert "critic 0 is lost: it was killed" in event["message"]
        assert event["action"] == "resumed after step 2; the run goes on"
        assert "resumed after step 2" in capsys.readouterr().err
    else:
        with pytest.raises(RunFailed, match=r"No critic worker is left \(critic 0 is lost: it was killed"):
            again(backend=backend)
        assert again()[1] == whole[1]
    ours, theirs = weights(tmp_path / "run"), weights(tmp_path / "whole")
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_to_begin_anew_is_one_of_the_replacements_of_a_run(tiny, folder, tmp_path):
    """A critic's loss takes the only one; the reward's, in the next attempt, finds none left."""
    backend = InlineBackend(lambda role, n, method, a: 1.0 if method in ("step", "scores") else 0.0)
    lost = lambda role: [h for h in backend.handles if h.role == role and not h.dead][-1].kill()
    backend.at(9.5, lambda: lost("critic"))
    backend.at(16.5, lambda: lost("reward"))
    cluster = apart("critic", "reward", restarts=1)
    with pytest.raises(RunFailed, match=r"No reward worker is left"):
        run(tiny, folder, tmp_path / "run", backend=backend, **PPO | {"save_every": 1, "cluster": cluster})
    events = [json.loads(line) for line in (tmp_path / "run" / "events.jsonl").read_text().splitlines()]
    assert [e["monitor"] for e in events if e["monitor"] == "learner restarted"] == ["learner restarted"]


def test_a_run_begins_anew_when_the_models_of_the_attempt_before_are_gone(
    tiny, folder, tmp_path, monkeypatch
):
    """Two learners would need twice the memory, which a GPU has not."""
    init, learners, alive = LocalLearner.__init__, [], []

    def seen(learner, *arguments, **fields):
        alive.append([found for ref in learners if (found := ref()) is not None])
        init(learner, *arguments, **fields)
        learners.append(weakref.ref(learner))

    monkeypatch.setattr(LocalLearner, "__init__", seen)
    backend = InlineBackend(lambda role, n, method, a: 1.0 if method == "step" else 0.0)
    backend.at(9.5, lambda: backend.handles[0].kill())
    settings = PPO | {"save_every": 1, "steps": 3, "cluster": apart("critic", restarts=1)}
    run(tiny, folder, tmp_path / "run", backend=backend, **settings)
    assert alive == [[], []]


def test_a_run_that_was_asked_to_stop_does_not_begin_anew(tiny, folder, tmp_path):
    backend = InlineBackend(lambda role, n, method, a: 1.0 if method == "step" else 0.0)

    def both():
        signal.raise_signal(signal.SIGTERM)
        backend.handles[0].kill()

    backend.at(9.5, both)
    settings = PPO | {"save_every": 1, "steps": 3, "cluster": apart("critic", restarts=1)}
    with pytest.raises(Interrupted, match="Stopped; the steps up to the last checkpoint are saved"):
        run(tiny, folder, tmp_path / "run", backend=backend, **settings)
    metrics, _ = run(tiny, folder, tmp_path / "run", **settings)
    assert [r["step"] for r in metrics] == [1, 2, 3]


@pytest.mark.parametrize("first", ["here", "apart"])
def test_a_run_goes_on_wherever_its_critic_lives_then(first, tiny, folder, tmp_path, monkeypatch):
    """Checkpoints, and the best weights, have both under the names of one module."""
    places = {"here": None, "apart": apart("critic")}
    (second,) = places.keys() - {first}
    watch = {"gold": {"regex": "[a-m]"}, "gold_every": 1, "gold_prompts": 4, "stop": False, "pin": False}
    settings = PPO | {"save_every": 1, "feedback": {"regex": "[a-m]"}, "held": 4}
    settings |= {"monitors": {"allow_truncation": True} | watch, "method": "ppo", "steps": 4}
    whole = run(tiny, folder, tmp_path / "whole", cluster=places[first], **settings)
    update = LocalLearner.update

    def ends(learner, batch, objective, number):
        if number == 3:
            raise RunFailed("it ends here", "run it again")
        return update(learner, batch, objective, number)

    monkeypatch.setattr(LocalLearner, "update", ends)
    with pytest.raises(RunFailed, match="it ends here"):
        run(tiny, folder, tmp_path / "run", cluster=places[first], **settings)
    monkeypatch.undo()
    same(whole, run(tiny, folder, tmp_path / "run", cluster=places[second], **settings))

    # The weights that are left are of step 3, which the move lies before, and step 4 after.
    golds = [json.loads(line)["gold"] for line in (tmp_path / "run" / "gold.jsonl").read_text().splitlines()]
    assert max(golds) == golds[3] > golds[4]
    ours, theirs = weights(tmp_path / "run"), weights(tmp_path / "whole")
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, atol=1e-5, rtol=1e-5, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize(("there", "here"), [("apart", "here"), ("here", "apart")])
def test_a_critic_does_not_move_while_weights_are_divided(there, here):
    """Shards name the weights as they were divided; only a checkpoint of shards says where its critic was."""
    from kilter.training.identity import refuse_another_run

    meta = {"identity": "x", "method": "ppo", "step": 4}
    for left, wrong in ((meta, False), (meta | {"critic": here}, False), (meta | {"critic": there}, True)):
        checkpoints = SimpleNamespace(find=lambda meta=left: ("step-4", meta))
        job = SimpleNamespace(checkpoints=checkpoints, apart=lambda role: here == "apart" or None)
        if not wrong:
            refuse_another_run(job, "x")
            continue
        with pytest.raises(
            UserError, match=rf"(?s)`cluster.critic.place` = '{here}'.*Fix: Use {there} to resume"
        ):
            refuse_another_run(job, "x")


def test_age_splits_the_mismatch_and_weights_give_the_sample_size():
    from kilter.training.stale import drawn_by, moved, sums_by_age
    from kilter.types import Encoded

    answers = (
        Completion("ab", (1, 2), versions=((0, 1, 3), (1, 2, 5))),
        Completion("abc", (1, 2, 3), policy_version=4),
    )
    encoded = Encoded(Group(Prompt(text="q"), answers, (Feedback(1.0),) * 2), (9,), ((1, 2), (1, 2, 3)), ())
    version_BT = drawn_by([encoded], 3)
    assert version_BT[0, :2].tolist() == [3, 5]
    assert version_BT[1].tolist() == [4, 4, 4]
    gap_BT = torch.tensor([[0.3, 0.0, 9.0], [-0.2, 1.5, 0.1]])
    mask_BT = torch.tensor([[1.0, 1.0, 0.0], [1.0, 1.0, 1.0]])
    kl = lambda g: torch.tensor(g).exp().item() - g - 1
    total = sums_by_age(gap_BT * mask_BT, mask_BT, 5 - version_BT)
    # Two ranks with the same rows are one rank with them.
    for found in (moved(total), moved(total * 2)):
        assert found["sampling/mismatch_kl/0"] == pytest.approx(0.0, abs=1e-6)
        assert found["sampling/mismatch_kl/1"] == pytest.approx((kl(-0.2) + kl(1.5) + kl(0.1)) / 3, rel=1e-5)
        assert found["sampling/mismatch_kl/2+"] == pytest.approx(kl(0.3), rel=1e-5)
        w = torch.tensor([0.3, 0.0, -0.2, 1.5, 0.1]).exp().clamp_max(2.0)
        size = float(w.sum() ** 2 / (5 * w.square().sum()))
        assert found["async/effective_sample_size"] == pytest.approx(size, rel=1e-5)
    assert moved(torch.zeros(8)) == {}


def test_a_run_ahead_says_how_old_its_tokens_are_and_one_in_turn_does_not(tiny, folder, tmp_path):
    settings = {"feedback": {"regex": "[a-m]"}, "learning_rate": 3e-3, "steps": 5}
    cluster = apart("rollout", lookahead=2)
    ahead, _ = run(tiny, folder, tmp_path / "ahead", cluster=cluster, **settings)
    ages = [max(int(a[0]) for a in ("0", "1", "2+") if f"sampling/mismatch_kl/{a}" in r) for r in ahead]
    assert ages == [0, 1, 2, 2, 2]
    assert [r["async/staleness_max"] for r in ahead] == ages
    assert ahead[0]["async/effective_sample_size"] == pytest.approx(1.0, abs=1e-5)
    assert all(0 < r["async/effective_sample_size"] < 1 - 1e-6 for r in ahead[1:])
    in_turn, _ = run(tiny, folder, tmp_path / "turn", cluster=apart("rollout"), **settings)
    assert not [k for r in in_turn for k in r if k.startswith(("async/", "sampling/mismatch_kl/"))]


def monitors():
    from kilter.training.config import MonitorSpec
    from kilter.training.monitors import EventLog, GoldHistory, Monitors

    return Monitors(MonitorSpec(), EventLog(None), GoldHistory(None), 100)


@pytest.mark.parametrize(
    ("name", "course", "at"),
    [
        # In its first steps a run has shown no level that it could leave.
        ("async/stale_kl", [0.010, 0.012, 0.014, 0.016], None),
        ("async/stale_kl", [0.010, 0.011] * 8 + [0.012, 0.014, 0.016, 0.019, 0.022, 0.026, 0.03], 20),
        ("async/stale_kl", [0.010, 0.012, 0.011, 0.013, 0.015, 0.012], None),
        ("async/stale_kl", [0.0100, 0.0102, 0.0104, 0.0106, 0.0108], None),
        ("async/effective_sample_size", [0.9] + [0.6] * 10, 10),
        ("async/effective_sample_size", [0.9] + [0.6, 0.75] * 20, None),
        ("async/effective_sample_size", [0.92, 0.88] * 100, None),
    ],
)
def test_staleness_that_hurts_is_named_with_its_remedy(name, course, at):
    watch = monitors()
    for step, value in enumerate(course, start=1):
        # A resumed run counts on.
        kept, watch = json.loads(json.dumps(watch.state())), watch
        watch.restore(kept)
        watch.update(step, {name: value}, [])
    events = [e for e in watch.log.events if e.monitor.startswith("async/")]
    assert [e.step for e in events] == ([] if at is None else [at])
    for event in events:
        assert (event.tier, event.level) == (1, "warn")
        assert "lower cluster.lookahead, or set correction: anchored" in event.message
        assert "error level 5% over the whole run, p = " in event.confidence


ROLES = ("rollout", "reward", "reference", "critic")
METHODS = {
    "grpo": {"method": KL, "steps": 6},
    "ppo": {"method": {"name": "ppo", "beta": 0.05}, "steps": 6},
    "online_dpo": {"method": "online_dpo", "steps": 6},
    "sft": {"method": "sft", "steps": 6},
    "distill": {"method": "distill", "teacher": "teacher", "steps": 6},
}
HAS = {"grpo": ROLES[:3], "ppo": ROLES, "online_dpo": ROLES[:3], "sft": ROLES[:2]}
"""Roles of each method that can live apart."""
PLACEMENTS = [(name, placed) for name, has in HAS.items() for placed in (*((role,) for role in has), has)]
"""Each role alone, twelve, and then all of a method."""


@pytest.mark.parametrize(("method", "roles"), PLACEMENTS)
def test_in_turn_it_does_not_matter_where_roles_live(method, roles, tiny, folder, here, tmp_path):
    backend = InlineBackend()
    cluster = {role: {"place": "apart"} for role in roles} | {"verify_weights": 1}
    there = run(tiny, folder, tmp_path / "run", cluster=cluster, backend=backend, **METHODS[method])
    same(here(**METHODS[method]), there)
    assert {h.role for h in backend.handles} == set(roles)


@pytest.mark.parametrize("seed", range(4))
def test_whatever_dies_a_run_ends_with_the_right_counts_or_names_the_role(seed, tiny, folder, tmp_path):
    draw = random.Random(seed)
    two = ({"copies": 2}, {"engines": 2})
    cluster = {role: {"place": "apart"} | two[role == "rollout"] for role in ROLES[:3]}
    cluster |= {"critic": {"place": "apart"}, "lookahead": 2 * (seed % 2), "restarts": 6, "stall": 20.0}
    busy = ("generate", "scores", "logps", "values", "step")
    backend = InlineBackend(lambda role, n, method, a: draw.uniform(0.1, 1.0) if method in busy else 0.0)
    # Half of the runs lose a critic as well, which nobody can replace.
    spared = "critic" if seed < 2 else ""
    for _ in range(3):
        alive = lambda: [h for h in backend.handles if not h.dead and h.role != spared]
        backend.at(draw.uniform(1, 6), lambda: draw.choice(alive()).kill())
    settings = {"method": {"name": "ppo", "beta": 0.05}, "steps": 3, "cluster": cluster}
    try:
        metrics, tokens = run(tiny, folder, tmp_path / "run", backend=backend, **settings)
    except RunFailed as error:
        if spared or "No critic worker is left" not in str(error):
            raise
        metrics, tokens = run(tiny, folder, tmp_path / "run", **settings)
    assert [r["step"] for r in metrics] == [1, 2, 3]
    assert len(tokens) == 48
    assert any(h.dead for h in backend.handles)


class Kept:
    """What a worker may hold: says whether it serves the next learner."""

    made: ClassVar[list] = []

    def __init__(self, serves):
        self.serves, self.closed = serves, False
        self.made.append(self)

    def again(self):
        return self.serves

    def close(self):
        self.closed = True


@pytest.mark.parametrize(
    ("first", "second", "stays"), [(True, True, True), (False, False, False), (True, False, False)]
)
def test_a_worker_that_is_taken_over_keeps_what_serves_again_and_makes_anew_what_does_not(
    first, second, stays
):
    """(serves, as the next learner builds it, whether the object stays)."""
    Kept.made.clear()
    held = Held("rollout", 0, "node", "127.0.0.1")
    held.build(pickle.dumps((Kept, {"serves": first})))
    assert not Kept.made
    assert held.call("again", ()).value is first
    held.build(pickle.dumps((Kept, {"serves": second})))
    assert held.call("again", ()).value is second
    assert len(Kept.made) == (1 if stays else 2)
    assert Kept.made[0].closed is not stays


def test_what_is_asked_of_a_worker_that_is_taken_over_waits_for_the_next_object():
    """Also while something still loads, such as for the learner that is gone."""
    Kept.made.clear()
    held, said = Held("rollout", 0, "node", "127.0.0.1"), []
    held.build(pickle.dumps((Kept, {"serves": False})))
    held.call("again", ())
    takes = threading.Thread(target=held.build, args=(pickle.dumps((Kept, {"serves": True})),))
    asks = threading.Thread(target=lambda: said.append(held.call("again", ()).value))
    held._first.acquire()
    takes.start()
    waits = not held.read.wait(0.2)
    asks.start()
    held._first.release()
    takes.join(10)
    asks.join(10)
    assert waits
    assert said == [True]


def test_a_worker_says_that_it_goes_on_while_it_closes_what_it_held_and_outlives_a_failure_of_that():
    said = []
    held = Held("rollout", 0, "node", "127.0.0.1")

    def close(_):
        asks = threading.Thread(target=lambda: said.append(held.control("again", ()).value), daemon=True)
        asks.start()
        asks.join(5)
        raise OSError("the engine is gone")

    held.build(pickle.dumps((Kept, {"serves": False})))
    assert held.call("again", ()).value is False
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Kept, "close", close)
        held.build(pickle.dumps((Kept, {"serves": True})))
    assert held.read.is_set()
    assert held.call("again", ()).value is True
    # Seconds of computing, and not an answer of what is gone.
    assert [(what, type(seconds)) for what, seconds in said] == [("", int)]


@pytest.mark.parametrize(
    ("start", "adapter", "stored", "dtype"),
    [
        ("whole", None, "bfloat16", "bfloat16"),
        ("whole", "dora", "float32", "float32"),
        ("whole", "lora", "float32", "bfloat16"),
        ("whole", None, "bfloat16", "float32"),
        ("lora", "dora", "bfloat16", "bfloat16"),
        ("lora", None, "float32", "bfloat16"),
        ("dora", None, "bfloat16", "bfloat16"),
        ("head", "lora", "bfloat16", "bfloat16"),
    ],
)
def test_an_engine_begins_with_the_learner_s_weights_and_nothing_is_computed_for_it(
    adapter, start, stored, dtype, tiny, tmp_path, monkeypatch
):
    """The proof of a forward took more than half of a worker's start."""
    from safetensors.torch import load_file

    from kilter.models import adapters
    from kilter.models.config import AdapterSpec
    from kilter.models.load import load_causal
    from kilter.models.save import save
    from kilter.models.tokenizer import load_tokenizer
    from kilter.progress import under_way
    from kilter.roles import open as roles
    from kilter.roles.open import OpenSpec, open_model
    from kilter.sampling.config import SamplerKind
    from kilter.sampling.vllm_weights import MergedWeights
    from kilter.training.apart import vllm

    folder = tmp_path / "base"
    shutil.copytree(tiny, folder)
    model = load_causal(tiny, dtype=getattr(torch, stored))
    model.save_pretrained(str(folder))
    if start != "whole":
        # As an earlier stage leaves it; its head may be trained as a whole.
        target = ["q_proj", "lm_head"] if start == "head" else "all-linear"
        kind = "lora" if start == "head" else start
        adapted = adapters.attach(load_causal(folder), AdapterSpec(kind=kind, r=2, target=target), False)
        with torch.no_grad():
            for p in adapted.parameters():
                if p.requires_grad:
                    p.add_(0.1 * torch.randn_like(p))
        save(adapted, load_tokenizer(folder), tmp_path / "start")
        folder = tmp_path / "start"
    files = {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in tmp_path.rglob("*.safetensors")}
    adapter = adapter and AdapterSpec(kind=adapter, r=2)
    opening = OpenSpec(folder, device="cpu", max_length=64, adapter=adapter, trains=True)
    learner = open_model(opening).scorer.model
    monkeypatch.setattr(roles, "look", None)
    path = tmp_path / "engine"
    path.mkdir()
    monkeypatch.setattr(vllm, "shared_folder", lambda cleanup: path)
    engine = SimpleNamespace(digests=dict, close=lambda: None)
    linked, began = [], []

    def starts(*_, **__):
        assert under_way() == "the start of vLLM's engine"
        linked.append(any(p.is_symlink() for p in path.iterdir()))
        return engine

    monkeypatch.setattr(vllm, "RunningEngine", starts)
    monkeypatch.setattr(vllm, "Holdings", lambda started, *_: began.append(dict(started)))
    worker = VllmWorker(opening, SamplerKind(name="vllm"), dtype, keep=False)
    sent = MergedWeights(learner, getattr(torch, dtype)).on_cpu()
    assert began[0].keys() == sent.keys()
    assert all(torch.equal(began[0][name], sent[name]) for name in sent)
    assert all(began[0][name].dtype == sent[name].dtype for name in sent)
    # Files that are these weights already are read where they lie. They are never written to.
    assert linked == [start == "whole" and stored == dtype]
    assert not list(path.glob("*.safetensors"))
    worker.folder.put(sent)
    assert load_file(path / "model.safetensors").keys() == sent.keys()
    assert {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in files} == files


def test_an_engines_worker_takes_the_users_share_and_keeps_no_copy_of_what_was_read(
    tiny, tmp_path, monkeypatch
):
    """Beside the learner as well; each version is written anew for the engine, and then removed."""
    from safetensors.torch import load_file

    from kilter.cluster.weights import ObjectTransport, WeightStream
    from kilter.models.load import load_causal
    from kilter.roles import open as roles
    from kilter.roles.open import OpenSpec
    from kilter.sampling.config import SamplerKind
    from kilter.sampling.vllm_weights import MergedWeights
    from kilter.training.apart import vllm

    monkeypatch.setattr(roles, "look", None)
    monkeypatch.setattr(vllm, "shared_folder", lambda cleanup: tmp_path)
    given, read = [], []

    def publish(folder, version, *_):
        read.append(load_file(folder / "model.safetensors"))
        return version

    def starts(*_, **options):
        given.append(options["gpu_memory_utilization"])
        return SimpleNamespace(digests=dict, close=lambda: None, publish=publish, context=None)

    monkeypatch.setattr(vllm, "RunningEngine", starts)
    opening = OpenSpec(tiny, device="cpu", max_length=64, trains=True)
    for memory in (None, 0.5):
        kind = SamplerKind(name="vllm", memory=memory)
        worker = VllmWorker(opening, kind, "float32", keep=False, sleeps=True)
    assert given == [0.3, 0.5]
    sent = MergedWeights(load_causal(tiny), torch.float32).on_cpu()
    for version in (1, 2):
        package = ObjectTransport(InlineBackend()).send(WeightStream(version, sent))
        assert worker.load(package).version == version
        assert read[-1].keys() == sent.keys()
        assert not list(tmp_path.glob("*.safetensors"))
    assert len(read) == 2


def test_an_engine_that_does_not_start_leaves_no_weights(tiny, tmp_path, monkeypatch):
    from kilter.roles.open import OpenSpec
    from kilter.sampling import vllm_weights
    from kilter.sampling.config import SamplerKind
    from kilter.training.apart import vllm

    def fails(folder, *_, **__):
        assert list(folder.glob("*.safetensors"))
        raise RunFailed("vLLM did not start", "free memory")

    monkeypatch.setattr(vllm_weights, "SHARED_MEMORY", tmp_path)
    monkeypatch.setattr(vllm, "RunningEngine", fails)
    with pytest.raises(RunFailed, match="did not start"):
        VllmWorker(
            OpenSpec(tiny, device="cpu", max_length=64), SamplerKind(name="vllm"), "float32", keep=False
        )
    assert list(tmp_path.iterdir()) == []


def test_an_adapter_over_a_base_that_lacks_one_of_its_files_is_refused(tiny, tmp_path):
    """A download that was cut."""
    from kilter.models import adapters
    from kilter.models.config import AdapterSpec
    from kilter.models.load import load_causal
    from kilter.models.save import save
    from kilter.models.tokenizer import load_tokenizer

    base = tmp_path / "base"
    shutil.copytree(tiny, base, ignore=shutil.ignore_patterns("*.safetensors"))
    load_causal(tiny).save_pretrained(str(base), max_shard_size="40KB")
    save(
        adapters.attach(load_causal(base), AdapterSpec(r=2), False),
        load_tokenizer(base),
        tmp_path / "adapter",
    )
    sorted(base.glob("model-*.safetensors"))[1].unlink()
    with pytest.raises(UserError, match=r"model-00002-of-\d+\.safetensors"):
        load_causal(tmp_path / "adapter")


@pytest.mark.parametrize(("start", "kept"), [(True, True), ("gaussian", False), ("pissa", False)])
def test_an_adapter_that_changes_its_base_is_no_layer_alone(tmp_path, start, kept):
    """What pissa takes out of the base is not rounded to the base's own precision."""
    from kilter.models.adapters import layered

    said = {"peft_type": "LORA", "init_lora_weights": start}
    (tmp_path / "adapter_config.json").write_text(json.dumps(said))
    assert layered(tmp_path) is kept


def test_what_takes_its_time_is_told_of_as_long_as_it_does(monkeypatch, capfd):
    from kilter import progress

    monkeypatch.setattr(progress, "AGAIN", 0.05)
    with progress.doing("the start of vLLM's engine"):
        assert progress.under_way() == "the start of vLLM's engine"
        time.sleep(0.2)
    said = capfd.readouterr().err.splitlines()
    assert len(said) >= 2
    assert set(said) == {"  the start of vLLM's engine: 0 s"}
    assert progress.under_way() == ""
    time.sleep(0.1)
    assert capfd.readouterr().err == ""


def test_an_engine_that_is_taken_over_forgets_the_learner_that_is_gone():
    worker = VllmWorker.__new__(VllmWorker)
    worker.way, worker.version, worker.learners = "", 7, 1
    worker._arrived, worker._loads, said = threading.Condition(), threading.Lock(), []

    def waits():
        with pytest.raises(RunFailed, match="that asked is gone") as error:
            worker._wait_for(8)
        said.append(error.value)

    thread = threading.Thread(target=waits)
    thread.start()
    assert worker.again()
    thread.join(10)
    # It answers for no version before the next learner's first weights.
    assert (worker.version, len(said)) == (-1, 1)
    worker.way = "nccl"
    assert not worker.again()


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", "no-such-host.invalid"])
def test_an_address_without_a_head_is_refused_at_once(host):
    from kilter.launch.spec import ClusterSpec
    from kilter.training.apart.placed import connect

    with pytest.raises(UserError, match=rf"`cluster.address` = '{re.escape(host)}:1' leads to no Ray"):
        connect(ClusterSpec.model_validate({"address": f"{host}:1"}))


@pytest.mark.timeout(60)
def test_a_dashboard_is_no_head_and_is_refused_at_once():
    """Ray would ask a server of web pages for twenty minutes, at another of this machine's addresses."""
    from http.server import BaseHTTPRequestHandler, HTTPServer

    from kilter.launch.spec import ClusterSpec
    from kilter.training.apart.placed import connect

    with HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        with pytest.raises(UserError, match="(?s)something else listens there.*8265 is its dashboard's"):
            connect(ClusterSpec.model_validate({"address": f"127.0.0.1:{server.server_port}"}))
