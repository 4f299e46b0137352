"""The loop: exact gradients whatever the micro-batch, resumption after any kill, clear stops."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import kilter
from kilter.batch import Batch, Loss, Needs, Outputs
from kilter.data.dataset import DataSpec, load
from kilter.data.lineage import REACHED
from kilter.errors import Interrupted, RunFailed
from kilter.models.forward import Scorer
from kilter.models.load import load_causal, load_reward
from kilter.objectives import DPO, build_objective
from kilter.objectives.ops import sequence_logps
from kilter.seams import Step
from kilter.training import checkpoint, scorers, trainer
from kilter.training.config import TrainSpec
from kilter.training.hooks.reached import Reached
from kilter.training.learner import LocalLearner
from kilter.training.optim import schedule_factor
from kilter.training.parallel.engine import Engine
from kilter.training.sources.fixed import FixedSource
from kilter.training.trainer import Trainer
from kilter.types import Encoded, Group, Prompt

FAST = {"learning_rate": 1e-3, "batch_size": 4, "warmup_ratio": 0.0}


def gradients(tiny, batch, objective, budget, shared=True):
    scorer = Scorer(load_causal(tiny))
    scorer.shared = shared
    spec = TrainSpec(method="dpo", tokens_per_microbatch=budget, max_grad_norm=0)
    own = LocalLearner(scorer, objective.needs, spec, 10, Engine())
    grabbed = {}
    own.optimizer.step = lambda: grabbed.update({n: p.grad.clone() for n, p in scorer.named_parameters()})
    metrics = own.step(objective.prepare(batch), objective)
    return metrics, grabbed


def test_gradients_do_not_depend_on_micro_batches_padding_or_order(tiny, pair_batch):
    batch = pair_batch.with_(ref_logps_BT=-torch.ones_like(pair_batch.mask_BT))
    objective = DPO(beta=0.2)
    base_metrics, base = gradients(tiny, batch, objective, 10_000)
    wide = batch.with_(
        **{
            f: torch.nn.functional.pad(getattr(batch, f), (0, 9))
            for f in ("tokens_BT", "mask_BT", "ref_logps_BT")
        }
    )
    variants = {
        "one group at a time": gradients(tiny, batch, objective, 16),
        "three parts": gradients(tiny, batch, objective, 150),
        "plain rows": gradients(tiny, batch, objective, 200, shared=False),
        "more padding": gradients(tiny, wide, objective, 10_000),
        "reversed": gradients(tiny, batch.select_groups(range(batch.groups())[::-1]), objective, 10_000),
    }
    for name, (metrics, got) in variants.items():
        assert metrics["loss"] == pytest.approx(base_metrics["loss"], abs=1e-5), name
        assert metrics["rewards/margins"] == pytest.approx(base_metrics["rewards/margins"], abs=1e-5), name
        for key in base:
            torch.testing.assert_close(
                got[key], base[key], atol=1e-5, rtol=1e-4, msg=lambda m, n=name, k=key: f"{n} {k}: {m}"
            )


class WholeBatch(DPO):
    """-log mean exp over the pairs of the batch: couples all of them (Dr. DPO's shape)."""

    @property
    def needs(self):
        return Needs(shape="pairs", unit="batch")

    def loss(self, out: Outputs, batch: Batch) -> Loss:
        z = sequence_logps(out.logps_BT, batch.mask_BT).view(-1, 2)
        return Loss(-((z[:, 0] - z[:, 1]) / 10).exp().mean().log())


@pytest.mark.parametrize("name", ["kldpo", "dr_dpo", "aot", "aot_unpaired", "bco", "wpo"])
def test_registered_objectives_over_the_batch_or_with_more_outputs_are_exact_in_micro_batches(
    tiny, pair_batch, name
):
    objective = build_objective(name)
    batch = pair_batch.with_(ref_logps_BT=-torch.ones_like(pair_batch.mask_BT))
    scorer = Scorer(load_causal(tiny))
    prepared = objective.prepare(batch)
    loss = objective.loss(scorer(prepared, objective.needs.outputs), prepared)
    loss.value.backward()
    want = {n: p.grad for n, p in scorer.named_parameters()}
    for budget in (16, 150):
        metrics, got = gradients(tiny, batch, objective, budget)
        assert metrics["loss"] == pytest.approx(float(loss.value.detach()), abs=1e-5)
        for key, value in want.items():
            torch.testing.assert_close(got[key], value, atol=1e-5, rtol=1e-4)


def test_wdpo_has_the_true_second_derivative(tiny, pair_batch):
    """The gradient of loss plus penalty in the weights, against finite differences of the same sum in float64."""
    objective = build_objective({"name": "wdpo", "rho": 3.0})
    batch = pair_batch.select_groups([0, 1])
    batch = objective.prepare(batch.counted().with_(ref_logps_BT=-torch.ones_like(batch.mask_BT)))
    scorer = Scorer(load_causal(tiny)).double()
    loss = lambda: objective.loss(scorer(batch, objective.needs.outputs), batch).value
    loss().backward()
    names = (
        "model.model.layers.0.mlp.down_proj.weight",
        "model.model.layers.1.self_attn.q_proj.weight",
        "model.model.embed_tokens.weight",
    )
    weights = dict(scorer.named_parameters())
    for name in names:
        flat, grad = weights[name].data.view(-1), weights[name].grad.view(-1)
        i = int(grad.abs().argmax())
        values = []
        for sign in (1e-3, -1e-3):  # the model's norms are float32 whatever the weights are
            flat[i] += sign
            values.append(float(loss().detach()))
            flat[i] -= sign
        assert float(grad[i]) == pytest.approx((values[0] - values[1]) / 2e-3, rel=1e-2), name
    plain = build_objective("dpo")
    assert float(loss().detach()) > float(
        plain.loss(scorer(batch), batch).value.detach()
    )  # the penalty is there


def test_distillation_falls_to_zero_against_oneself_and_compares_with_trl(tiny, pair_batch):
    from kilter.models.divergence import divergence, token_divergence
    from kilter.models.logprobs import Head

    student, teacher = Scorer(load_causal(tiny)), Scorer(load_causal(tiny))
    student.teach(teacher, 0.5)
    out = student(pair_batch, frozenset({"logps", "divergence"}))
    assert out.divergence_BT.abs().max() < 1e-5
    with torch.no_grad():
        for p in teacher.parameters():
            p.mul_(0.9)
    out = student(pair_batch, frozenset({"logps", "divergence"}))
    assert (out.divergence_BT[pair_batch.mask_BT > 0] > 0).all()
    if os.environ.get("KILTER_PARITY") != "required":
        pytest.importorskip("trl")
    from trl.experimental.gkd.gkd_trainer import GKDTrainer

    g = torch.Generator().manual_seed(0)
    s, t = (3 * torch.randn(1, 7, 50, generator=g, dtype=torch.float64) for _ in range(2))
    s.requires_grad_()
    for beta in (0.0, 0.3, 1.0):
        want, found = (
            GKDTrainer.generalized_jsd_loss(s, t, beta=beta, reduction="sum"),
            divergence(s[0], t[0], beta).sum(),
        )
        torch.testing.assert_close(found, want, atol=1e-9, rtol=0)
        torch.testing.assert_close(
            torch.autograd.grad(found, s)[0], torch.autograd.grad(want, s)[0], atol=1e-9, rtol=0
        )
    hidden = torch.randn(40, 8, generator=g, requires_grad=True)
    weight, other = torch.randn(30, 8, generator=g, requires_grad=True), torch.randn(30, 6, generator=g)
    theirs = torch.randn(40, 6, generator=g)
    found = token_divergence(hidden, Head(weight), theirs, Head(other), 0.3, 0.7)
    want = divergence(hidden @ weight.T / 0.7, theirs @ other.T / 0.7, 0.3)
    torch.testing.assert_close(found, want)
    for leaf in (hidden, weight):
        torch.testing.assert_close(
            torch.autograd.grad(found.sum(), leaf, retain_graph=True)[0],
            torch.autograd.grad(want.sum(), leaf, retain_graph=True)[0],
        )


@pytest.mark.parametrize(("student_rows", "teacher_rows"), [(30, 37), (37, 30)])
def test_a_teacher_whose_matrix_is_filled_up_otherwise_is_compared_over_the_rows_of_both(
    student_rows, teacher_rows
):
    """Qwen2.5-0.5B has 151,936 rows, its teacher of 7B 152,064, and both one tokenizer."""
    from kilter.models.divergence import divergence, token_divergence
    from kilter.models.logprobs import Head

    g = torch.Generator().manual_seed(0)
    hidden, theirs = torch.randn(40, 8, generator=g), torch.randn(40, 6, generator=g)
    weight = torch.randn(student_rows, 8, generator=g, requires_grad=True)
    other = torch.randn(teacher_rows, 6, generator=g)
    found = token_divergence(hidden, Head(weight), theirs, Head(other), 0.3)
    want = divergence(hidden @ weight[:30].T, theirs @ other[:30].T, 0.3)
    torch.testing.assert_close(found, want)
    torch.testing.assert_close(
        torch.autograd.grad(found.sum(), weight)[0], torch.autograd.grad(want.sum(), weight)[0]
    )


def test_activation_offloading_changes_nothing(tiny, pair_batch):
    batch = pair_batch.with_(ref_logps_BT=-torch.ones_like(pair_batch.mask_BT))
    _, want = gradients(tiny, batch, DPO(), 200)
    scorer = Scorer(load_causal(tiny))
    own = LocalLearner(
        scorer,
        DPO().needs,
        TrainSpec(method="dpo", tokens_per_microbatch=200, max_grad_norm=0, activation_offloading=True),
        10,
        Engine(),
    )
    own.optimizer.step = lambda: None
    own.optimizer.zero_grad = lambda set_to_none: None
    own.step(DPO().prepare(batch), DPO())
    for name, p in scorer.named_parameters():
        torch.testing.assert_close(p.grad, want[name])


@pytest.mark.parametrize("kind", ["lora", "rslora", "dora"])
def test_adapters_of_each_kind_train_merge_and_load(tiny, tmp_path, pairs_file, kind, capsys):
    data = load(DataSpec(path=str(pairs_file), heldout=0), "pairs")
    spec = TrainSpec.model_validate(
        FAST | {"method": "dpo", "adapter": {"kind": kind, "r": 4, "merge": kind == "dora"}, "max_steps": 3}
    )
    out = tmp_path / kind
    Trainer(spec, tiny, data.train, [], out).run()
    assert "q_proj x2" in capsys.readouterr().err
    assert (out / "model" / "adapter_config.json").exists() != (kind == "dora")
    changed = load_causal(out / "model").state_dict()
    base = load_causal(tiny).state_dict()
    assert set(changed) == set(base)
    assert any(not torch.equal(changed[n], base[n]) for n in base)


def test_batch_objectives_are_exact_in_micro_batches(tiny, pair_batch):
    objective = WholeBatch()
    scorer = Scorer(load_causal(tiny))
    objective.loss(scorer(pair_batch), pair_batch).value.backward()
    want = {n: p.grad for n, p in scorer.named_parameters()}
    for budget in (16, 150, 10_000):
        _, got = gradients(tiny, pair_batch, objective, budget)
        for key, value in want.items():
            torch.testing.assert_close(got[key], value, atol=1e-5, rtol=1e-4)


def run(tiny, out, pairs_file, method="dpo", **options):
    spec = TrainSpec(method=method, **(FAST | options))
    data = load(DataSpec(path=str(pairs_file), heldout=0.2), build_objective(method).needs.shape)
    return Trainer(spec, tiny, data.train, data.heldout, out).run()


def read_metrics(out: Path) -> list[dict]:
    return [
        {k: v for k, v in json.loads(line).items() if k not in ("tokens_per_second", "step_time")}
        for line in (out / "metrics.jsonl").read_text().splitlines()
    ]


@pytest.mark.parametrize(
    ("method", "falls"), [("sft", "eval_loss"), ("dpo", "eval_loss"), ("bradley_terry", "eval_loss")]
)
@pytest.mark.parametrize("adapter", [None, {"r": 4}])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_every_method_learns(tiny, tmp_path, pairs_file, method, falls, adapter, dtype):
    result = run(
        tiny,
        tmp_path / "a",
        pairs_file,
        method,
        epochs=4,
        adapter=adapter,
        dtype=dtype,
        learning_rate=3e-3,
        eval_every=1,
    )
    records = read_metrics(tmp_path / "a")
    first = next(r[falls] for r in records if falls in r)
    assert result.heldout[falls] < first
    assert [r["step"] for r in records] == list(range(1, result.steps + 1))
    wanted = {"loss", "grad_norm", "learning_rate", "num_tokens", "tokens_per_second"}
    wanted |= (
        {"rewards/chosen", "rewards/rejected", "rewards/accuracies", "rewards/margins"}
        if method != "sft"
        else set()
    )
    wanted |= {"logps/chosen", "logps/rejected"} if method == "dpo" else set()
    assert wanted <= json.loads((tmp_path / "a" / "metrics.jsonl").read_text().splitlines()[0]).keys()


def test_eval_limit_evaluates_on_the_first_held_out_groups_alone(tiny, tmp_path, pairs_file, monkeypatch):
    from kilter.training import assemble

    seen = []

    class Counted(assemble.HeldOut):
        def __init__(self, groups, *args):
            seen.append(len(groups))
            super().__init__(groups, *args)

    monkeypatch.setattr(assemble, "HeldOut", Counted)
    whole = run(tiny, tmp_path / "whole", pairs_file, max_steps=1)
    limited = run(tiny, tmp_path / "limited", pairs_file, max_steps=1, eval_limit=2)
    assert seen[0] > seen[1] == 2
    assert whole.heldout["eval_loss"] == pytest.approx(limited.heldout["eval_loss"], abs=0.1)


def test_saved_models_load_in_transformers(tiny, tmp_path, pairs_file, encoder):
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

    full = run(tiny, tmp_path / "dpo", pairs_file)
    AutoModelForCausalLM.from_pretrained(full.model)
    reward = run(tiny, tmp_path / "rm", pairs_file, "bradley_terry", epochs=3)
    model, tok = (
        AutoModelForSequenceClassification.from_pretrained(reward.model),
        AutoTokenizer.from_pretrained(reward.model),
    )
    data = load(DataSpec(path=str(pairs_file), heldout=0), "pairs").train[:6]
    from kilter.feedback.classifier import RewardModel

    mine = [f.score for fs in RewardModel(reward.model)(data) for f in fs]
    encoded = [encoder.encode(g) for g in data]
    rows = [[*e.prompt_ids, *c] for e in encoded for c in e.completion_ids]
    batch = tok.pad({"input_ids": rows}, return_tensors="pt", padding_side="right")
    with torch.no_grad():
        theirs = model(**{k: batch[k] for k in ("input_ids", "attention_mask")}).logits[:, 0]
    torch.testing.assert_close(torch.tensor(mine), theirs, atol=1e-5, rtol=1e-4)


def test_adapter_is_saved_alone_and_merges_to_the_same_numbers(tiny, tmp_path, pairs_file, pair_batch):
    result = run(tiny, tmp_path / "lora", pairs_file, adapter={"r": 4}, epochs=2, learning_rate=1e-2)
    assert (result.model / "adapter_config.json").exists()
    assert not (result.model / "model.safetensors").exists()
    merged = Scorer(load_causal(result.model))
    base = Scorer(load_causal(tiny))
    assert not torch.allclose(merged(pair_batch).logps_BT, base(pair_batch).logps_BT, atol=1e-3)
    again = Trainer(
        TrainSpec(method="dpo", **FAST, adapter={"r": 2}),
        result.model,
        load(DataSpec(path=str(pairs_file)), "pairs").train,
        [],
        tmp_path / "second",
    ).run()
    assert (again.model / "model.safetensors").exists()


def test_gradient_checkpointing_changes_nothing(tiny, tmp_path, pairs_file):
    a, b = (
        run(tiny, tmp_path / "a", pairs_file),
        run(tiny, tmp_path / "b", pairs_file, gradient_checkpointing=True),
    )
    assert a.metrics["loss"] == pytest.approx(b.metrics["loss"], abs=1e-5)


def test_reference_is_cached_by_content(tiny, tmp_path, pairs_file, monkeypatch):
    from rich.console import Console

    run(tiny, tmp_path / "a", pairs_file)
    first = read_metrics(tmp_path / "a")
    console = Console(file=(tmp_path / "log").open("w"), force_terminal=False)
    data = load(DataSpec(path=str(pairs_file), heldout=0.2), "pairs")
    Trainer(
        TrainSpec(method="dpo", **FAST), tiny, data.train, data.heldout, tmp_path / "b", console=console
    ).run()
    console.file.close()
    assert "found in the cache" in (tmp_path / "log").read_text()
    assert read_metrics(tmp_path / "b") == first


def long_run(tiny, pairs_file, out):
    """Two hundred short steps, with a checkpoint after every seventh."""
    groups = load(DataSpec(path=str(pairs_file), heldout=0.2), "pairs")
    spec = TrainSpec(
        method="dpo", learning_rate=1e-3, batch_size=2, warmup_ratio=0.0, epochs=20, save_every=7
    )
    Trainer(spec, tiny, groups.train, groups.heldout, out).run()


LONG_RUN = "import sys; from pathlib import Path; from test_training import long_run; long_run(*map(Path, sys.argv[1:]))"


def wait_for_lines(path: Path, count: int, process) -> None:
    end = time.monotonic() + 90
    while time.monotonic() < end and process.poll() is None:
        if path.exists() and path.read_bytes().count(b"\n") >= count:
            return
        time.sleep(0.02)
    raise AssertionError(f"no {count} steps: {process.stderr.read().decode()[-2000:]}")


def test_kill_9_then_resume_gives_the_same_metrics(tiny, tmp_path, pairs_file):
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    process = subprocess.Popen(
        [sys.executable, "-c", LONG_RUN, str(tiny), str(pairs_file), str(broken)],
        stderr=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
    )
    wait_for_lines(broken / "metrics.jsonl", 30, process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stderr.close()
    done = len((broken / "metrics.jsonl").read_text().splitlines())
    assert 30 <= done < 200

    # The killed run needs a process of its own; what never stops, and what goes on, need none.
    for folder in (straight, broken):
        long_run(tiny, pairs_file, folder)
    assert len(read_metrics(straight)) == 200
    assert read_metrics(broken) == read_metrics(straight)
    rows = (straight / REACHED).read_bytes()
    assert (broken / REACHED).read_bytes() == rows != b""


@pytest.mark.parametrize("lost", [(0,), (1, 2, 3), (2,), (0, 1, 2, 3, 4, 5)])
def test_a_resumed_run_knows_the_rows_of_every_step_whatever_of_their_record_is_lost(tmp_path, lost):
    """A checkpoint of before that record was kept has none; rows that taught the model are not denied."""
    groups = [Encoded(Group(Prompt(text=f"q{n}"), (), ()), (), (), ()) for n in range(23)]

    def taken(folder, *parts):
        for done, steps in parts:
            hook = Reached(folder, FixedSource(groups, 4, epochs=2, seed=3))
            hook.before_run(done)
            for n in steps:
                hook.after_step(Step(n, 0.0, 0.0, ()), None, {})
        return (folder / REACHED).read_text().splitlines()

    whole = taken(tmp_path / "straight", (None, range(1, 13)))
    assert [json.loads(line)["step"] for line in whole] == [1, 2, 3, 4, 5, 6]
    for done in (5, 6, 9):
        folder = tmp_path / f"{done}"
        first = taken(folder, (None, range(1, done + 3)))
        left = [line for n, line in enumerate(first) if n not in lost]
        (folder / REACHED).write_text("".join(f"{line}\n" for line in left))
        assert taken(folder, (done, range(done + 1, 13))) == whole


def test_a_checkpoint_of_another_run_is_refused(tiny, tmp_path, pairs_file, monkeypatch):
    from kilter.errors import UserError

    original = LocalLearner.step

    def step(self, *args):
        if self.step_index == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return original(self, *args)

    with monkeypatch.context() as once:
        once.setattr(LocalLearner, "step", step)
        with pytest.raises(Interrupted):
            run(tiny, tmp_path / "a", pairs_file, epochs=3)
    monkeypatch.setattr(
        scorers,
        "fill_reference_cache",
        lambda *args: pytest.fail("the reference was computed for a run that is refused"),
    )
    with pytest.raises(UserError, match="checkpoint of another run"):
        run(tiny, tmp_path / "a", pairs_file, "sft", epochs=3)
    with pytest.raises(UserError, match="checkpoint of another run"):
        run(tiny, tmp_path / "a", pairs_file, epochs=3, learning_rate=5e-3)


def given(source):
    """The groups of every step that a source hands out."""
    return [step.groups for step in iter(source.next, None)]


@pytest.mark.parametrize("shuffle", [False, True])
def test_the_groups_that_a_short_run_visits_are_those_it_yields(encoder, shuffle):
    groups = list(range(23))
    for steps, world in ((1, 1), (3, 1), (3, 2), (8, 1)):
        seen = {
            g
            for rank in range(world)
            for part in given(
                FixedSource(groups, 4, max_steps=steps, shuffle=shuffle, seed=3, rank=rank, world=world)
            )
            for g in part
        }
        assert FixedSource(
            groups, 4, max_steps=steps, shuffle=shuffle, seed=3, world=world
        ).visited() == sorted(seen)


def test_a_short_run_computes_the_reference_of_what_it_reads_alone(tiny, tmp_path, pairs_file, monkeypatch):
    asked = []
    fill = scorers.fill_reference_cache
    monkeypatch.setattr(
        scorers, "fill_reference_cache", lambda *args: (asked.append(len(args[3])), fill(*args))[1]
    )
    run(tiny, tmp_path / "a", pairs_file, max_steps=1, batch_size=2)
    assert asked == [2 + len(load(DataSpec(path=str(pairs_file), heldout=0.2), "pairs").heldout)]


def test_a_mean_over_nothing_is_missing_not_zero(tiny, tmp_path):
    rows = [{"prompt": f"p{i}", "completion": "yes " * (i + 1), "label": True} for i in range(4)]
    (tmp_path / "good.jsonl").write_text("\n".join(map(json.dumps, rows)))
    data = load(DataSpec(path=str(tmp_path / "good.jsonl"), heldout=0), "unpaired")
    Trainer(TrainSpec(method="bco", **FAST), tiny, data.train, [], tmp_path / "a").run()
    for record in read_metrics(tmp_path / "a"):
        assert "rewards/chosen" in record
        assert "rewards/rejected" not in record


def test_what_a_method_leaves_out_is_said(tiny, tmp_path, capsys):
    import kilter

    rows = [{"prompt": f"p{i}", "completion": "yes " * (i + 1), "label": i % 2 == 0} for i in range(6)]
    rows.append({"prompt": "p9", "completion": "", "label": True})
    (tmp_path / "d.jsonl").write_text("\n".join(map(json.dumps, rows)))
    console = trainer.Console(stderr=True, width=300)
    data = {"path": str(tmp_path / "d.jsonl"), "heldout": 0, "on_bad_row": "skip"}
    kilter.train(str(tiny), data, "npo", tmp_path / "a", console, max_steps=1, batch_size=2)
    said = capsys.readouterr().err
    assert "data: left out: 1 bad row: completion is empty" in said
    assert "3 of 6 answers left out" in said


def test_a_reward_model_starts_from_an_adapted_policy(tiny, tmp_path, pairs_file):
    sft = run(tiny, tmp_path / "sft", pairs_file, "sft", adapter={"r": 4})
    data = load(DataSpec(path=str(pairs_file), heldout=0), "pairs")
    reward = Trainer(
        TrainSpec(method="bradley_terry", **FAST), sft.model, data.train, [], tmp_path / "rm"
    ).run()
    assert (reward.model / "model.safetensors").exists()


def test_missing_weights_and_wrong_kinds_of_model_are_refused(tiny, tmp_path, pairs_file):
    import shutil

    from safetensors.torch import load_file, save_file

    from kilter.errors import UserError

    broken = tmp_path / "broken"
    shutil.copytree(tiny, broken)
    weights = load_file(broken / "model.safetensors")
    save_file(
        {k: v for k, v in weights.items() if "layers.1." not in k},
        broken / "model.safetensors",
        metadata={"format": "pt"},
    )
    with pytest.raises(UserError, match=r"lacks \d+ weights"):
        load_causal(broken)
    with pytest.raises(UserError, match="is not a reward model"):
        load_reward(tiny, 0)
    reward = run(tiny, tmp_path / "rm", pairs_file, "bradley_terry", max_steps=1)
    with pytest.raises(UserError, match="is a reward model"):
        load_causal(reward.model)


def test_model_dropout_is_switched_off(tiny, tmp_path, pairs_file):
    import shutil

    folder = tmp_path / "dropping"
    shutil.copytree(tiny, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"attention_dropout": 0.5}))
    run(folder, tmp_path / "out", pairs_file, max_steps=1)
    first = read_metrics(tmp_path / "out")[0]
    assert first["rewards/margins"] == pytest.approx(0.0, abs=1e-5)


def test_ctrl_c_saves_and_says_how_to_resume(tiny, tmp_path, pairs_file, monkeypatch):
    original = LocalLearner.step

    def step(self, *args):
        if self.step_index == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return original(self, *args)

    with monkeypatch.context() as once:
        once.setattr(LocalLearner, "step", step)
        with pytest.raises(Interrupted, match="To resume: run the same command again"):
            run(tiny, tmp_path / "a", pairs_file, save_every=1000, epochs=3)
    assert (tmp_path / "a" / "checkpoints" / "step-3").is_dir()
    run(tiny, tmp_path / "a", pairs_file, save_every=1000, epochs=3)
    run(tiny, tmp_path / "b", pairs_file, epochs=3)
    assert read_metrics(tmp_path / "a") == read_metrics(tmp_path / "b")


def test_nan_stops_with_the_last_good_checkpoint_named(tiny, tmp_path, pairs_file, monkeypatch):
    original = Scorer.forward

    def forward(self, *args, **kwargs):
        out = original(self, *args, **kwargs)
        if self.training and (tmp_path / "a" / "checkpoints" / "step-2").exists():
            out = Outputs(logps_BT=out.logps_BT * float("nan"))
        return out

    monkeypatch.setattr(Scorer, "forward", forward)
    with pytest.raises(RunFailed, match=r"Last good checkpoint: .*step-2"):
        run(tiny, tmp_path / "a", pairs_file, save_every=2, epochs=3)


def test_full_disk_stops_with_the_last_good_checkpoint_named(tiny, tmp_path, pairs_file, monkeypatch):
    original, calls = checkpoint.write_values, []

    def save(path, value):
        calls.append(path)
        if len(calls) == 3:
            raise OSError(28, "No space left on device")
        original(path, value)

    with monkeypatch.context() as once:
        once.setattr(checkpoint, "write_values", save)
        with pytest.raises(RunFailed, match=r"Last good checkpoint: .*step-2"):
            run(tiny, tmp_path / "a", pairs_file, save_every=1, epochs=3)
    assert sorted(p.name for p in (tmp_path / "a" / "checkpoints").iterdir()) == ["step-1", "step-2"]
    run(tiny, tmp_path / "a", pairs_file, save_every=1, epochs=3)


def test_a_checkpoint_of_an_older_format_is_refused_before_any_work(tiny, tmp_path, pairs_file):
    """Format 2 was a pickle: it is not opened, let alone run."""
    from kilter.errors import UserError

    out = tmp_path / "a"
    old = out / "checkpoints" / "step-2"
    old.mkdir(parents=True)
    (old / "meta.json").write_text(json.dumps({"step": 2, "method": "dpo", "identity": "x", "rewards": {}}))
    (old / "state.pt").write_bytes(b"cos\nsystem\n(S'touch pwned'\ntR.")
    wanted = (
        r"^`out` = .*/a' holds a checkpoint of format 2 or older, written by an older Kilter: "
        rf"this version reads format {checkpoint.CHECKPOINT_FORMAT}\.\n"
        r"Fix: Finish the run with the version that began it, choose another folder, or remove"
    )
    with pytest.raises(UserError, match=wanted):
        run(tiny, out, pairs_file)
    assert not (out / "metrics.jsonl").exists()


def test_a_state_holds_tensors_and_json_and_comes_back_the_same(tmp_path):
    import random

    import numpy as np

    random.gauss(0, 1)
    np.random.standard_normal()
    state = {
        "learner": {
            "step": 3,
            "optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}, "groups": [{"b": (0.9, 1)}]},
        },
        "source": {"position": 3, "scales": [(0.1, float("-inf"))]},
        "rng": checkpoint.rng_state(),
    }
    checkpoint.write_state(tmp_path, state)
    drawn = (
        random.random(),
        random.gauss(0, 1),
        np.random.standard_normal(3).tolist(),
        torch.rand(2).tolist(),
    )
    assert [path.name for path in tmp_path.iterdir()] == ["state.safetensors"]
    found = checkpoint.read_state(tmp_path)
    assert found["source"] == {"position": 3, "scales": [(0.1, float("-inf"))]}
    assert found["learner"]["optimizer"]["groups"] == [{"b": (0.9, 1)}]
    torch.testing.assert_close(found["learner"], state["learner"])
    checkpoint.set_rng_state(found["rng"])
    again = (
        random.random(),
        random.gauss(0, 1),
        np.random.standard_normal(3).tolist(),
        torch.rand(2).tolist(),
    )
    assert again == drawn


def test_no_file_is_unpickled():
    """Feedback's worker is spoken to through a pipe, by its own parent; a shelf's file has no name but in its process.

    A Ray actor gets what makes its worker from the process that started it, as Ray sends all arguments.
    """
    source = Path(kilter.__file__).parent
    found = {
        str(path.relative_to(source))
        for path in source.rglob("*.py")
        if re.search(
            r"weights_only=False|import (c?[pP]ickle|dill|joblib)|from pickle|allow_pickle|torch\.(load|save)\(",
            path.read_text(),
        )
    }
    assert found == {"feedback/isolation.py", "data/shelf.py", "cluster/ray.py", "cluster/held.py"}


def test_auto_saving_costs_little(tmp_path, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(checkpoint.time, "monotonic", lambda: clock[0])
    saves = checkpoint.Checkpoints(tmp_path)

    def write(path):
        clock[0] += 3.0
        path.write_text("x")

    taken = 0
    for step in range(1, 601):
        clock[0] += 1.0
        if saves.due(step):
            saves.save(step, write, {})
            taken += 1
    assert taken * 3.0 <= 0.06 * clock[0]
    assert taken >= 5


def test_tensorboard_by_one_key(tiny, tmp_path, pairs_file):
    run(tiny, tmp_path / "a", pairs_file, trackers=["tensorboard"])
    assert list((tmp_path / "a" / "trackers").rglob("events.out.tfevents.*"))


def test_sources_cover_every_group_once_and_resume_by_position():
    groups = list(range(23))
    source = FixedSource(groups, 4, epochs=2, seed=1)
    steps = given(source)
    assert len(steps) == source.total_steps == 12
    assert sorted(sum(steps[:6], [])) == groups
    assert steps[:6] != steps[6:]
    later = FixedSource(groups, 4, epochs=2, seed=1, position=5)
    assert given(later) == steps[5:]
    ranks = [given(FixedSource(groups, 4, epochs=2, seed=1, rank=r, world=2)) for r in range(2)]
    assert [sorted(a + b) for a, b in zip(*ranks)] == [sorted(s) for s in steps]
    # The steps are those of one process: the last one has a single group, and a process without work.
    tail = FixedSource(list(range(9)), 4, world=2, rank=1)
    assert [len(groups) for groups in given(tail)] == [2, 2, 0]


def test_schedules():
    linear = schedule_factor(TrainSpec(method="sft", warmup_ratio=0.2), 10)
    assert [round(linear(i), 3) for i in (0, 1, 2, 6, 9)] == [0.333, 0.667, 1.0, 0.5, 0.125]
    cosine = schedule_factor(TrainSpec(method="sft", warmup_ratio=0, schedule="cosine"), 10)
    assert cosine(0) == 1.0
    assert cosine(5) == pytest.approx(0.5)
    constant = schedule_factor(TrainSpec(method="sft", warmup_ratio=0, schedule="constant"), 10)
    assert constant(9) == 1.0


def test_reward_model_with_adapter_scores_alike_after_saving(tiny, tmp_path, pairs_file, pair_batch):
    result = run(
        tiny, tmp_path / "rm", pairs_file, "bradley_terry", adapter={"r": 4}, epochs=2, learning_rate=1e-2
    )
    scorer = Scorer(load_reward(result.model, 0)).eval()
    assert scorer(pair_batch, frozenset({"scores"})).scores_B.std() > 0
