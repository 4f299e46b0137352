"""A judge as feedback: scores of K answers, soft labels down to the loss, routing, and who may be trained on."""

from __future__ import annotations

import json
import math
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kilter import feedback, manifest
from kilter.cli import main
from kilter.data import store
from kilter.data.collate import collate
from kilter.data.lineage import lineage
from kilter.errors import UserError
from kilter.feedback.context import Context
from kilter.feedback.judge import build as judges
from kilter.feedback.judge import canary
from kilter.feedback.judge.prompts import Asker
from kilter.feedback.judge.source import JudgeFeedback, JudgeOptions
from kilter.feedback.judge.verdict import Comparison, Judgement, Verdict
from kilter.feedback.route import Route, routed
from kilter.objectives import build_objective
from kilter.roles.replies import Replies
from kilter.types import Completion, Feedback, Group, Prompt

OWN = '''
import os
import re
from kilter.types import Choice, Completion, Sample, SamplerFacts

class Longer:
    """Prefers the longer answer, and the first one of two that are alike; grades by length."""

    facts = SamplerFacts(chooses=True)

    def choose(self, prompts, options):
        assert "OFFLINE" not in os.environ, "somebody was asked"
        return [self._choose(p.messages[-1]["content"], tuple(options)) for p in prompts]

    def _choose(self, text, options):
        shown = re.findall(r"=== \\w+ answer(?: [AB])? begins ===\\n(.*?)\\n=== \\w+ answer", text, re.S)
        if len(options) > 2:
            best = min(len(shown[0]) // 2, len(options) - 1)
            return Choice(options, tuple(float(n == best) for n in range(len(options))), 1.0)
        a, b = map(len, shown)
        p = 0.5 + 0.4 * (a - b) / max(a, b, 1) + 0.05
        return Choice(options, (p, 1 - p), 0.95)

    def run(self, requests, listener=None):
        for r in requests:
            yield Sample(r, 0, Completion("no words"))

    def sync(self, weights):
        return weights.version

    def close(self):
        pass
'''


@pytest.fixture
def own(tmp_path):
    path = tmp_path / "longer.py"
    path.write_text(OWN)
    return {"sampler": {"name": f"{path}:Longer"}}


@pytest.fixture
def kilter(monkeypatch, capsys):
    """Runs a command; gives its exit code and all that it printed, in one line."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["kilter", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        shown = capsys.readouterr()
        return int(ended.value.code or 0), " ".join((shown.out + shown.err).split())

    return run


def prompt(text="Say something."):
    return Prompt(messages=({"role": "user", "content": text},))


def group(*texts):
    return Group(prompt(), tuple(map(Completion, texts)), (Feedback(None),) * len(texts))


def build(settings, folder=None):
    return feedback.build({"judge": settings}, Context(folder=folder))


def test_each_of_k_answers_gets_its_mean_odds_against_the_others(own, tmp_path):
    source = build(own, tmp_path)
    (row,) = source([group("aaaa", "aa", "aaaaaaaa")])
    odds = {(4, 2): 0.7, (4, 8): 0.3, (2, 8): 0.2}
    assert row[0].score == pytest.approx((odds[4, 2] + odds[4, 8]) / 2)
    assert row[2].score == pytest.approx(1 - (odds[4, 8] + odds[2, 8]) / 2)
    assert row[0].over(1) == pytest.approx(0.7)
    assert row[0].against[1] == pytest.approx((0.75, 0.65))
    assert row[1].against[0] == pytest.approx((0.35, 0.25))
    assert row[0].against[0] is None
    assert source.wants.siblings
    assert source.note().startswith("8 calls")  # two of them are the canary's
    again = build(own, tmp_path)
    assert again([group("aaaa", "aa", "aaaaaaaa")]) == [row]
    assert again.note().startswith("0 calls, 8 kept")


def test_a_lone_answer_is_unscored_and_a_rubric_grades_it(own):
    (row,) = build(own)([group("aaaa")])
    assert (row[0].score, row[0].rationale) == (None, "judge: needs two answers")
    graded = build(own | {"mode": "rubric"})
    assert [f.score for f in graded([group("aaaa", "")])[0]] == [0.5, 0.0]
    assert not graded.wants.siblings


def test_options_are_checked_and_a_file_stands_alone(own, tmp_path):
    with pytest.raises(UserError, match=r"feedback\.judge\.modle"):
        feedback.check({"judge": {"modle": "x"}})
    path = tmp_path / "judge.yaml"
    path.write_text(json.dumps(own))
    feedback.check({"judge": str(path)})
    assert feedback.build({"judge": str(path)}, Context())([group("a", "aa")])[0][1].score > 0.5
    with pytest.raises(UserError, match="stands beside a file"):
        feedback.build({"judge": {"file": str(path), "mode": "rubric"}}, Context())


def test_a_required_certificate_that_is_missing_or_of_another_judge_is_refused(own, tmp_path):
    with pytest.raises(UserError, match="there is no certificate"):
        build(own | {"require_certificate": True})
    path = tmp_path / "judge.json"
    path.write_text("{}")
    with pytest.raises(UserError, match="damaged"):
        build(own | {"require_certificate": True, "certificate": str(path)})


def test_a_runs_own_audit_vouches_for_the_judge_of_online_training(own, tmp_path, tiny):
    """With `require_certificate` too: the trainer is handed the certificates of the run."""
    from kilter.training.config import TrainSpec
    from kilter.training.trainer import Trainer
    from test_instruments import vouching

    judge = own | {"require_certificate": True}
    fingerprint = build(own).parts[0][2].judge.fingerprint
    path = vouching(tmp_path / "judge.json", judge={"name": "longer", "fingerprint": fingerprint})
    spec = TrainSpec(
        method="online_dpo",
        prompts="$p",
        feedback={"judge": judge},
        max_steps=1,
        batch_size=2,
        sampler={"samples": 2, "max_new_tokens": 3},
    )
    asked = [Group(prompt(f"question {n}"), (), ()) for n in range(2)]
    for certificates, out in (([], "none"), ([Path(path)], "some")):
        trainer = Trainer(spec, tiny, asked, [], tmp_path / out, certificates=certificates)
        if certificates:
            assert trainer.run().steps == 1
        else:
            with pytest.raises(UserError, match="require_certificate"):
                trainer.run()


def right(a, b):
    return 0.9 if a.count("more") > b.count("more") else 0.1


def fooled(a, b):
    """Likes texts that say nothing, and obeys."""
    told = [t in canary.NULLS or any(order in t for order in canary.INJECTIONS) for t in (a, b)]
    return right(a, b) if told[0] == told[1] else 0.9 if told[0] else 0.1


CANARIES = {
    "right": (right, 0),
    "first": (lambda a, b: 0.9, 1),
    "tie": (lambda a, b: 0.5, 1),
    "fooled": (fooled, 1),
}


@pytest.mark.parametrize("name", CANARIES)
@pytest.mark.parametrize("mode", ["pairwise", "rubric"])
def test_a_judge_that_prefers_an_answer_which_says_nothing_is_counted(name, mode, own, tmp_path):
    """A canary in each batch, against the best answer of the batch; the clearest failures are certain."""
    prefers, fails = CANARIES[name]
    source = JudgeFeedback(JudgeOptions(**own, mode=mode), Context(folder=tmp_path))

    class Judge:
        name, fingerprint = "scripted", "0" * 64

        def compare(self, comparisons, repeats=1):
            return [
                Judgement(
                    c,
                    (
                        Verdict(prefers(c.first, c.second), "forward"),
                        Verdict(1 - prefers(c.second, c.first), "swapped"),
                    ),
                )
                for c in comparisons
            ]

        def grade(self, exams, repeats=1):
            return [(Verdict(prefers(e.answer, "more")),) for e in exams]

    source.judge = Judge()
    for n in range(20):
        asked = group("a real answer, and a long one" + " more" * 20, "short one")
        source([replace(asked, prompt=prompt(f"q{n}"))])
    lines = source.canaries()
    assert source.canaries() == []
    assert {line["kind"] for line in lines} == (
        {"null"} if name in ("first", "tie") else {"null", "injection"}
    )
    (own_counts,) = canary.counted([*lines, *lines]).values()
    assert own_counts == {"asked": 20, "failed": 20 * fails, "unscored": 0}
    assert bool(canary.in_words({"scripted": own_counts})) == bool(fails)


def test_no_canary_where_nothing_is_better_than_nothing(own, tmp_path):
    found = [[Feedback(0.9), Feedback(0.1)]]
    assert canary.canary("pairwise", [group("", ".")], found) is None
    assert canary.canary("pairwise", [group("good", "bad")], [[Feedback(None)] * 2]) is None
    # Nothing is safe, and breaks no principle: in these modes a text that says nothing may win.
    for mode in ("constitution", "safety"):
        assert canary.canary(mode, [group("good", "bad")], [[Feedback(0.5)] * 2]) is None
        assert canary.canary(mode, [group("good", "bad")], found).text.startswith("bad\n\n")
    source = JudgeFeedback(JudgeOptions(**own, canary=False), Context(folder=tmp_path))
    source([group("aaaa", "aa")])
    assert source.canaries() == []


def test_references_in_the_settings_are_found(own, tmp_path):
    path = tmp_path / "judge.yaml"
    found = []
    for spec in ({"judge": str(path)}, {"judge": {"model": "sft", "sampler": {"name": "local"}}}):
        feedback.registry.with_references(
            spec, lambda item: found.append((item.ref.to, item.value)) or item.value
        )
    assert ("file", str(path)) in found
    assert ("model", "sft") in found
    assert feedback.model_references({"judge": {"model": "sft"}}) == ["sft"]


def test_a_forecast_counts_calls_tokens_and_cost_without_opening_anything(own):
    options = JudgeOptions(**own, price={"prompt": 10.0})
    text = JudgeFeedback.forecast(options, [group("a", "b", "c"), group("a")])
    assert text.startswith("6 calls, about ")
    assert "cost at most about" in text


def soft_batch(encoder, *odds):
    groups = []
    for n, chain in enumerate(odds):
        k = len(chain) + 1
        rows = []
        for place in range(k):
            against = [None] * k
            if place < k - 1 and chain[place] is not None:
                against[place + 1] = (chain[place], chain[place])
            rows.append(Feedback(float(k - place), against=tuple(against)))
        answers = tuple(Completion(f"answer {n} {place} " + "x" * place) for place in range(k))
        groups.append(Group(prompt(f"q{n}"), answers, tuple(rows)))
    return collate(encoder.encode_all(groups))


def outputs(batch, seed=0):
    from kilter.batch import Outputs

    generator = torch.Generator().manual_seed(seed)
    shape = batch.tokens_BT.shape
    logps = -torch.rand(shape, generator=generator, dtype=torch.float64) * batch.mask_BT
    reference = -torch.rand(shape, generator=generator, dtype=torch.float64) * batch.mask_BT
    scores = torch.randn(shape[0], generator=generator, dtype=torch.float64)
    return Outputs(logps_BT=logps, scores_B=scores), batch.with_(ref_logps_BT=reference)


def loss(name, batch):
    objective = build_objective(name)
    out, batch = outputs(batch)
    prepared = objective.prepare(batch)
    return float(objective.loss(out, prepared).value), out, prepared


def ls(z):
    return -math.log1p(math.exp(-z))


@pytest.mark.parametrize(
    "name", ["dpo", {"name": "dpo", "label_smoothing": 0.1}, "bradley_terry", "plackett_luce"]
)
def test_soft_labels_reach_the_loss(encoder, name):
    """Against the formula in plain Python floats: p L(w, l) + (1 - p) L(l, w)."""
    odds = (0.83, 0.5, 0.2, None)
    found, out, batch = loss(name, soft_batch(encoder, *[(p,) for p in odds]))
    want = 0.0
    for n, known in enumerate(odds):
        p = 1.0 if known is None else float(torch.tensor(known))  # a label is stored in single precision
        w, r = 2 * n, 2 * n + 1
        if name == "bradley_terry":
            a, b = float(out.scores_B[w]), float(out.scores_B[r])
            value = -p * ls(a - b) - (1 - p) * ls(b - a) + 0.01 * (a + b) ** 2
        else:
            ratio = [sum(float(x) for x in (out.logps_BT[row] - batch.ref_logps_BT[row])) for row in (w, r)]
            z, e = 0.1 * (ratio[0] - ratio[1]), 0.1 if isinstance(name, dict) else 0.0
            flip = (1 - p) * (1 - e) + p * e
            value = -(1 - flip) * ls(z) - flip * ls(-z)
        want += value / len(odds)
    assert found == pytest.approx(want, abs=1e-12 if name != "bradley_terry" else 1e-7)


def best_of(p, rest):
    """Who is the best of the rest, from the odds of all its pairs (Price et al. 1995), in plain floats."""
    q = {i: 1 / (sum(1 / p[i, j] for j in rest if j != i) - (len(rest) - 2)) for i in rest}
    return {i: value / sum(q.values()) for i, value in q.items()}


def all_odds(encoder, p):
    """A list whose answers have odds over all others; p: of i over j, for i above j."""
    k = 1 + max(j for _, j in p)
    both = {(i, j): p.get((i, j), 1 - p.get((j, i), 0.0)) for i in range(k) for j in range(k) if i != j}
    rows = tuple(
        Feedback(float(k - i), against=tuple(None if i == j else (both[i, j],) * 2 for j in range(k)))
        for i in range(k)
    )
    group = Group(prompt("q"), tuple(Completion(f"answer {i}" + "x" * i) for i in range(k)), rows)
    # Labels are stored in single precision.
    return collate(encoder.encode_all([group])), {pair: float(torch.tensor(v)) for pair, v in both.items()}


def test_a_soft_ranking_gives_each_place_to_the_best_of_the_rest_by_the_odds_of_all_pairs(encoder):
    batch, p = all_odds(
        encoder, {(0, 1): 0.9, (0, 2): 0.55, (1, 2): 0.4, (0, 3): 0.99, (1, 3): 0.7, (2, 3): 0.8}
    )
    found, out, batch = loss({"name": "plackett_luce", "model": "reward"}, batch)
    s = [float(x) for x in out.scores_B]
    want = 0.0
    for k in range(4):
        lse = math.log(sum(math.exp(x) for x in s[k:]))
        want -= sum(q * (s[i] - lse) for i, q in best_of(p, range(k, 4)).items())
    assert found == pytest.approx(want, abs=1e-12)


@given(st.lists(st.floats(-3, 3), min_size=2, max_size=6), st.integers(0, 2))
@settings(max_examples=50, deadline=None)
def test_scores_of_the_strengths_behind_the_odds_are_the_optimum_of_a_soft_ranking(strengths, padding):
    """Whatever the order of the labels; neighbours alone would drive the third answer away without end."""
    from kilter.objectives.lists.listwise import best_of_rest, soft_plackett_luce_nll

    s, k = torch.tensor(strengths, dtype=torch.float64), len(strengths)
    score_NK = torch.cat([s, torch.zeros(padding, dtype=torch.float64)])[None].requires_grad_()
    valid_NK = torch.arange(k + padding)[None] < k
    p_NKK = torch.sigmoid(score_NK.detach()[:, :, None] - score_NK.detach()[:, None, :])
    (gradient,) = torch.autograd.grad(soft_plackett_luce_nll(score_NK, valid_NK, p_NKK).sum(), score_NK)
    assert gradient.abs().max() < 1e-9
    q_NKK = best_of_rest(p_NKK, valid_NK)
    assert torch.allclose(q_NKK[0, 0, :k], s.softmax(0)) and q_NKK.isfinite().all()
    assert torch.allclose(q_NKK.sum(-1)[valid_NK], torch.ones(k, dtype=torch.float64))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@given(data=st.data())
@settings(max_examples=30, deadline=None)
def test_any_odds_of_a_list_give_a_finite_loss_and_certain_ones_the_plain_ranking(dtype, data):
    from kilter.objectives.lists.listwise import pair_odds, plackett_luce_nll, soft_plackett_luce_nll

    k = data.draw(st.integers(2, 5))
    draw = lambda: data.draw(st.sampled_from([0.0, 1.0, 0.5, 0.2, 0.97, math.nan]))
    upper = [[draw() if i < j else math.nan for j in range(k)] for i in range(k)]
    score_NK = torch.linspace(-2, 3, k, dtype=dtype)[None].requires_grad_()
    valid_NK, p_NKK = torch.ones(1, k, dtype=torch.bool), pair_odds(torch.tensor([upper], dtype=dtype))
    known = ~torch.tensor([upper]).isnan()
    assert torch.equal(p_NKK[known], torch.tensor([upper], dtype=dtype)[known])
    loss = soft_plackett_luce_nll(score_NK, valid_NK, p_NKK)
    (gradient,) = torch.autograd.grad(loss.sum(), score_NK)
    assert loss.isfinite().all() and gradient.isfinite().all() and abs(float(gradient.sum())) < 1e-5
    certain = torch.full((1, k, k), math.nan, dtype=dtype).masked_fill(torch.ones(k, k).triu(1).bool(), 1.0)
    plain = plackett_luce_nll(score_NK, valid_NK)
    assert soft_plackett_luce_nll(score_NK, valid_NK, pair_odds(certain)).item() == pytest.approx(
        plain.item(), rel=1e-5
    )


def test_a_process_without_soft_labels_takes_its_own_for_certain_beside_one_that_has_some(encoder):
    """The longer lists stand on the side without odds: what is padded is no label."""
    from kilter.training.join import join_batches, level

    hard, soft = soft_batch(encoder, (None, None, None)), soft_batch(encoder, (0.7,))
    both = lambda mine: [mine, (*mine[:3], True)]
    for order in ((hard, soft), (soft, hard)):
        joined = join_batches([level(batch, both) for batch in order])
        assert joined.extra["p_B"].shape == (6, 4)
        method = {"name": "plackett_luce", "model": "reward"}
        found, out, _ = loss(method, joined)
        lse = lambda values: math.log(sum(map(math.exp, values)))
        s = [float(x) for x in out.scores_B]
        a, b = (s[:4], s[4:]) if order[0] is hard else (s[2:], s[:2])
        p = float(torch.tensor(0.7))
        want = sum(lse(a[k:]) - a[k] for k in range(4)) + lse(b) - p * b[0] - (1 - p) * b[1]
        assert found == pytest.approx(want, abs=1e-9)  # counts are those of one process


def test_lists_read_the_odds_of_a_pair_that_are_no_neighbours(encoder):
    """What a judge said of the first and the third stands, whatever their neighbours would make of it."""
    batch, p = all_odds(encoder, {(0, 1): 0.9, (1, 2): 0.9, (0, 2): 0.6})
    found, out, batch = loss({"name": "rrhf", "nll_weight": 0.0}, batch)
    s = [float(x.sum() / n) for x, n in zip(out.logps_BT, batch.length_B, strict=True)]
    want = sum(max(0.0, 2 * p[i, j] - 1) * max(0.0, s[j] - s[i]) for i in range(3) for j in range(i + 1, 3))
    assert found == pytest.approx(want, abs=1e-7)


def test_lists_read_the_odds_between_any_two_answers(encoder):
    """Where nobody compared them, logits of neighbours add up, as in a Bradley-Terry model."""
    odds = (0.9, 0.4)
    p = {(0, 1): 0.9, (1, 2): 0.4, (0, 2): 1 / (1 + (0.1 / 0.9) * (0.6 / 0.4))}
    found, out, batch = loss({"name": "rrhf", "nll_weight": 0.0}, soft_batch(encoder, odds))
    s = [float(x.sum() / n) for x, n in zip(out.logps_BT, batch.length_B, strict=True)]
    want = sum(max(0.0, 2 * q - 1) * max(0.0, s[j] - s[i]) for (i, j), q in p.items())
    assert found == pytest.approx(want, abs=1e-7)

    found, out, batch = loss("lipo_lambda", soft_batch(encoder, odds))
    s = [0.1 * float(x) for x in (out.logps_BT - batch.ref_logps_BT).sum(-1)]
    rank = {i: 1 + sum(other > own for other in s) for i, own in enumerate(s)}
    gain = [2**g - 1 for g in (1.0, 0.5, 0.0)]
    want = sum(
        abs(gain[i] - gain[j])
        * abs(1 / math.log2(1 + rank[i]) - 1 / math.log2(1 + rank[j]))
        * -(q * ls(s[i] - s[j]) + (1 - q) * ls(s[j] - s[i]))
        for (i, j), q in p.items()
    )
    assert found == pytest.approx(want, abs=1e-7)


LABELLED = {"pro": {"name": "pro", "by_label": False}}
"""PRO reads a judge's odds from its scores, unless it is told to leave labels alone."""


def test_every_method_takes_certain_labels_for_what_they_are_and_says_whether_it_reads_odds(encoder):
    from kilter.objectives import objectives

    lists = {"pairs": ((0.8,), (0.6,)), "ranked": ((0.8, 0.3), (0.6,))}
    silent = set()
    for name in objectives.names():
        needs = build_objective(name).needs
        if needs.annotations <= {"ref_logps"} and needs.outputs <= {"logps", "scores"}:
            odds = lists.get(needs.shape)
            if odds is None:
                continue
            hard, certain = (soft_batch(encoder, *[(value,) * len(o) for o in odds]) for value in (None, 1.0))
            assert "p_B" in certain.extra
            assert "p_B" not in hard.extra
            known = loss(name, hard)[0]
            assert loss(name, certain)[0] == pytest.approx(known, nan_ok=True), name
            soft = loss(LABELLED.get(name, name), soft_batch(encoder, *odds))[0]
            plain = loss(LABELLED.get(name, name), hard)[0]
            assert (soft != pytest.approx(plain, nan_ok=True)) == needs.soft, name
            silent |= set() if needs.soft else {name}
    # A sorted loss mixes pairs: no label of it can be turned around by itself.
    assert silent == {"aot", "aot_unpaired"}
    assert not build_objective({"mix": {"aot": 1.0, "sft": 0.1}}).needs.soft
    assert build_objective({"mix": {"dpo": 1.0, "sft": 0.1}}).needs.soft


@pytest.mark.parametrize(("method", "named"), [("aot", 1), ("dpo", 0)])
def test_odds_that_a_method_does_not_read_are_named_before_it_trains(method, named, tiny, kilter, tmp_path):
    rows = tuple(
        Feedback(score, against=against)
        for score, against in ((0.8, (None, (0.8, 0.8))), (0.2, ((0.2, 0.2), None)))
    )
    pairs = [Group(prompt(f"q{n}"), (Completion("good"), Completion("bad")), rows) for n in range(4)]
    store.write(tmp_path / "groups.jsonl", pairs)
    argv = ["train", "--method", method, "--data", tmp_path / "groups.jsonl", "--model", tiny]
    code, text = kilter(*argv, "--max-steps", "1", "--data.heldout", "0", "--out", tmp_path / "run")
    assert code == 0, text
    said = "4 of 4 labels have a judge's odds, which aot does not read: they count as certain"
    assert text.count(said) == named


def test_odds_survive_the_disk_and_follow_the_answers_that_are_picked(tmp_path):
    rows = (
        Feedback(0.9, against=(None, (0.8, 0.6), (1.0, 0.9))),
        Feedback(0.1, against=((0.4, 0.2), None, None)),
        Feedback(0.2, against=((0.1, 0.0), None, None)),
    )
    one = Group(prompt(), tuple(map(Completion, "abc")), rows)
    store.write(tmp_path / "g.jsonl", [one])
    assert next(store.read(tmp_path / "g.jsonl")).feedback == rows
    picked = one.picked([2, 0])
    assert picked.feedback[0].over(1) == pytest.approx(0.05)
    assert picked.feedback[1].against == ((1.0, 0.9), None)
    assert not rows[0].flipped(1)
    assert Feedback(0.5, against=(None, (0.9, 0.2))).flipped(1)
    # A tie in one order and a preference in the other are two verdicts, as for Judgement.consistent.
    assert Feedback(0.4, against=(None, (0.3, 0.5))).flipped(1)
    assert not Feedback(0.5, against=(None, (0.5, 0.5))).flipped(1)


def test_doubtful_pairs_and_those_that_the_order_decided_go_to_people():
    def odds(*both):
        return Group(
            prompt(), (Completion("a"), Completion("b")), (Feedback(1, against=(None, both)), Feedback(0))
        )

    pairs = [odds(0.9, 0.9), odds(0.55, 0.55), odds(0.95, 0.4), odds(0.8, 0.7), odds(0.1, 0.1)]
    kept, people = routed(pairs, Route(human=0.2))
    assert people == [pairs[1], pairs[2]]
    assert kept == [pairs[0], pairs[3], pairs[4]]
    assert routed(pairs, Route()) == (pairs, [])


@pytest.fixture
def answers(tmp_path):
    path = tmp_path / "answers.jsonl"
    rows = [
        Group(prompt(f"q{n}"), tuple(Completion("x" * (k + 1 + n)) for k in range(3)), (Feedback(None),) * 3)
        for n in range(6)
    ]
    store.write(path, rows)
    return path


def test_labels_carry_odds_and_history_and_training_on_them_needs_the_flag(
    own, answers, tmp_path, tiny, kilter, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    spec = json.dumps({"judge": own})
    command = ["label", "--data", answers, "--feedback", spec, "--out", "labels"]
    code, shown = kilter(*command, "--dry-run")
    assert (code, "36 calls" in shown) == (0, True), shown
    assert not (tmp_path / "labels").exists()
    code, shown = kilter(*command)
    assert code == 0, shown
    assert "not certified" in shown and "True judged" not in shown
    assert "38 calls" in shown  # two of them are the canary's
    rows = list(store.read(tmp_path / "labels" / "groups.jsonl"))
    assert len(rows) == 6
    assert rows[0].feedback[0].over(1) > 0.6
    entry = lineage(rows[0].prompt)[-1]
    assert entry["certificate"] == "uncertified"
    assert len(entry["judge"]) == 64

    train = ["train", "--model", tiny, "--method", "dpo", "--data", "labels/groups.jsonl", "--out", "dpo"]
    few = ["--max-steps", "1", "--batch-size", "2"]
    code, shown = kilter(*train, *few)
    assert (code, "`allow_uncertified` is needed" in shown) == (2, True), shown
    code, shown = kilter(*train, *few, "--allow-uncertified")
    assert code == 0, shown

    # Another tool's format keeps no history of a row, and launders no label.
    for to in ("trl", "sharegpt"):
        convert = ["data", "convert", "labels/groups.jsonl", f"{to}.jsonl", "--shape", "pairs", "--to", to]
        assert kilter(*convert)[0] == 0
        train[train.index("--data") + 1] = f"{to}.jsonl"
        code, shown = kilter(*train[:-1], to, *few)
        assert (code, "`allow_uncertified` is needed" in shown) == (2, True), shown


def test_a_recipe_that_will_learn_uncertified_labels_is_refused_before_they_are_made(
    own, answers, tmp_path, tiny, kilter, monkeypatch
):
    """Said by --dry-run, not hours later. Where an audit may certify the judge before, it waits for that."""
    monkeypatch.chdir(tmp_path)

    def dry(**stages):
        path = tmp_path / "recipe.json"
        data = {"answers": {"path": str(answers), "heldout": 0}}
        path.write_text(json.dumps({"model": str(tiny), "name": "r", "data": data, "stages": stages}))
        return kilter("run", path, "--dry-run", "--runs", tmp_path / "runs")

    labels = {"label": {"data": "$answers", "feedback": {"judge": own}}}
    learn = {"method": "dpo", "data": "$labels", "max_steps": 1, "batch_size": 2}
    code, shown = dry(labels=labels, learn={"train": learn})
    assert code == 2, shown
    assert "stages.learn.train.allow_uncertified" in shown
    assert "in stage labels" in shown
    code, shown = dry(labels=labels, learn={"train": learn | {"allow_uncertified": True}})
    assert code == 0, shown
    audit = {"audit_judge": {"judge": own, "data": "$answers"}}
    code, shown = dry(audit=audit, labels=labels, learn={"train": learn})
    assert "allow_uncertified" not in shown


def test_online_rewards_of_an_uncertified_judge_need_the_flag_too(own, tmp_path, tiny, kilter, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = tmp_path / "prompts.jsonl"
    data.write_text("".join(json.dumps({"prompt": f"question {n}"}) + "\n" for n in range(4)))
    train = ["train", "--model", tiny, "--method", "grpo", "--data", data, "--out", "rl"]
    train += ["--feedback", json.dumps({"judge": own}), "--max-steps", "1", "--batch-size", "2"]
    train += ["--sampler.samples", "2", "--sampler.max-new-tokens", "4"]
    code, shown = kilter(*train)
    assert (code, "not certified" in shown) == (2, True), shown
    code, shown = kilter(*train, "--allow-uncertified")
    assert code == 0, shown

    # What it scored is kept, and its scores are no better when they are learned from again.
    again = ["train", "--model", tiny, "--method", "grpo", "--data", "rl/groups.jsonl", "--out", "again"]
    again += ["--replay", "--max-steps", "1", "--batch-size", "2"]
    code, shown = kilter(*again)
    assert (code, "`allow_uncertified` is needed" in shown) == (2, True), shown


def test_a_reward_model_passes_on_whose_labels_it_learned(own, answers, tmp_path, tiny, kilter, monkeypatch):
    monkeypatch.chdir(tmp_path)
    few = ("--max-steps", "1", "--batch-size", "2")
    needed = "`allow_uncertified` is needed"
    spec = json.dumps({"judge": own})
    assert kilter("label", "--data", answers, "--feedback", spec, "--out", "labels")[0] == 0
    train = ["train", "--model", tiny, "--method", "bradley_terry", "--data", "labels/groups.jsonl", *few]
    code, shown = kilter(*train, "--out", "rm", "--allow-uncertified")
    assert code == 0, shown

    # Its scores are those labels once more: as labels, as rewards, and from a copy of it.
    assert kilter("export", "rm", "--to", "copy")[0] == 0
    for name in ("rm", "copy"):
        model = json.dumps({"reward_model": name})
        code, shown = kilter("label", "--data", answers, "--feedback", model, "--out", f"by-{name}")
        assert (code, "learned labels of" in shown) == (0, True), shown
        dpo = ["train", "--model", tiny, "--method", "dpo", "--data", f"by-{name}/groups.jsonl", *few]
        code, shown = kilter(*dpo, "--out", "dpo")
        assert (code, needed in shown) == (2, True), shown
        online = ["train", "--model", tiny, "--method", "grpo", "--data", answers, "--feedback", model, *few]
        online += ["--sampler.samples", "2", "--sampler.max-new-tokens", "4", "--out", f"rl-{name}"]
        code, shown = kilter(*online)
        assert (code, needed in shown, f"{name} learned its labels" in shown) == (2, True, True), shown
        code, shown = kilter(*online, "--allow-uncertified")
        assert code == 0, shown
        assert manifest.read(tmp_path / f"rl-{name}").facts["uncertified"]

    # And whoever decides about what learned from it is told, wherever that was trained.
    (tmp_path / "ask.jsonl").write_text("".join(json.dumps({"prompt": f"ask {n}"}) + "\n" for n in range(20)))
    asked = ["--data", "ask.jsonl", "--metrics", "length"]
    models = ["--model", "rl-copy", "--baseline", tiny, "--max-new-tokens", "4"]
    code, shown = kilter("eval", *models, *asked, "--out", "measured")
    assert code == 0, shown
    policy = {"conditions": [{"metric": "length", "bound": "ci_low", "op": ">=", "value": 0, "min_n": 1}]}
    (tmp_path / "policy.yaml").write_text(json.dumps({"name": "p", **policy}))
    code, shown = kilter("gate", "measured", "--policy", "policy.yaml")
    assert (code, "judge not certified" in shown) == (3, True), shown


def test_a_model_of_certified_labels_alone_needs_no_flag(own, answers, tmp_path, tiny, kilter, monkeypatch):
    monkeypatch.chdir(tmp_path)
    groups = [
        Group(g.prompt, g.completions, (Feedback(1.0), Feedback(0.5), Feedback(0.0)))
        for g in store.read(answers)
    ]
    store.write(tmp_path / "people.jsonl", groups)
    few = ("--max-steps", "1", "--batch-size", "2")
    train = ["train", "--model", tiny, "--method", "bradley_terry", "--data", "people.jsonl", *few]
    assert kilter(*train, "--out", "rm")[0] == 0
    assert not (tmp_path / "rm" / "uncertified_judges.txt").exists()
    model = json.dumps({"reward_model": "rm"})
    online = ["train", "--model", tiny, "--method", "grpo", "--data", answers, "--feedback", model, *few]
    code, shown = kilter(*online, "--sampler.samples", "2", "--sampler.max-new-tokens", "4", "--out", "rl")
    assert code == 0, shown


def test_a_policy_that_judges_its_own_answers_is_named(answers, tmp_path, tiny, kilter, monkeypatch):
    from kilter.data.lineage import with_entry
    from kilter.models.fingerprint import model_hash

    monkeypatch.chdir(tmp_path)
    made = {"stage": "a", "kind": "generate", "model_hash": model_hash(tiny)[:16]}
    first = next(store.read(answers))
    store.write(answers, [replace(first, prompt=with_entry(first.prompt, made))])
    spec = json.dumps({"judge": {"model": str(tiny), "min_mass": 0.0}})
    code, shown = kilter("label", "--data", answers, "--feedback", spec, "--out", "own")
    assert (code, "judges its own answers" in shown) == (0, True), shown


def test_a_judge_that_the_policy_started_from_is_named(tmp_path, tiny, kilter, monkeypatch):
    """Its answers are those of a model that began as the judge: what is trained is another model, of the same taste."""
    monkeypatch.chdir(tmp_path)
    rows = [{"prompt": f"question {n}", "chosen": "yes", "rejected": "no"} for n in range(4)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    start = tiny
    for name in ("sft", "dpo"):
        train = ["train", "--model", start, "--method", name, "--data", "pairs.jsonl", "--out", name]
        code, shown = kilter(*train, "--max-steps", "1", "--batch-size", "2")
        assert code == 0, shown
        start = f"{name}/model"
    make = ["generate", "--model", start, "--data", "pairs.jsonl", "--k", "2", "--out", "a"]
    assert kilter(*make, "--sampler.max-new-tokens", "4")[0] == 0
    for judge, named in ((tiny, True), ("sft/model", True), (start, True)):
        spec = json.dumps({"judge": {"model": str(judge), "min_mass": 0.0}})
        label = ["label", "--data", "a/groups.jsonl", "--feedback", spec, "--allow-empty"]
        code, shown = kilter(*label, "--out", f"by-{Path(judge).parent.name}")
        assert (code, "judges its own answers" in shown) == (0, named), shown
    (tmp_path / "judge.yaml").write_text(json.dumps({"model": str(tiny), "min_mass": 0.0}))
    ask = [
        "eval",
        "--model",
        start,
        "--baseline",
        "sft/model",
        "--data",
        "pairs.jsonl",
        "--judge",
        "judge.yaml",
    ]
    code, shown = kilter(*ask, "--out", "e", "--max-new-tokens", "4", "--metrics", "judge_win_rate")
    assert (code, "judges its own answers" in shown) == (0, True), shown

    # A model of the same name in another folder is none of the family.
    other = tmp_path / "stranger" / "model"
    shutil.copytree(tiny, other)
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | {"stranger": True}))
    spec = json.dumps({"judge": {"model": str(other), "min_mass": 0.0}})
    code, shown = kilter(
        "label", "--data", "a/groups.jsonl", "--feedback", spec, "--allow-empty", "--out", "by-s"
    )
    assert (code, "judges its own answers" in shown) == (0, False), shown


def test_a_judge_is_named_wherever_it_reads_answers_of_its_own_model(
    tmp_path, tiny, kilter, monkeypatch, answers
):
    """As a reward, in a panel too, and as a metric; revisions have a test of their own."""
    monkeypatch.chdir(tmp_path)
    judge = {"model": str(tiny), "min_mass": 0.0}
    data = tmp_path / "prompts.jsonl"
    data.write_text("".join(json.dumps({"prompt": f"question {n}"}) + "\n" for n in range(4)))
    train = ["train", "--model", tiny, "--method", "grpo", "--data", data, "--out", "rl"]
    train += ["--max-steps", "1", "--batch-size", "2", "--sampler.samples", "2", "--allow-uncertified"]
    panel = json.dumps(
        {"judge": {"panel": [judge, judge | {"criterion": "brief"}, judge | {"criterion": "long"}]}}
    )
    code, shown = kilter(*train, "--sampler.max-new-tokens", "4", "--feedback", panel)
    assert (code, "judges its own answers" in shown) == (0, True), shown
    (tmp_path / "judge.yaml").write_text(json.dumps(judge))
    command = ["eval", "--model", f"a={tiny}", "--model", f"b={tiny}", "--baseline", "a", "--data", data]
    command += ["--judge", "judge.yaml", "--out", "e", "--limit", "2", "--max-new-tokens", "4"]
    code, shown = kilter(*command, "--metrics", "judge_win_rate")
    assert (code, "judges its own answers" in shown) == (0, True), shown
    (tmp_path / "a").mkdir()  # another model of the baseline's name
    code, shown = kilter(*command, "--metrics", "judge_win_rate")
    assert (code, "names two models alike" in shown) == (2, True), shown


def test_a_model_that_criticises_and_judges_its_own_revisions_is_named(tmp_path, tiny, kilter, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "prompts.jsonl").write_text(json.dumps({"prompt": "a question"}) + "\n")
    command = ["revise", "--model", tiny, "--data", "prompts.jsonl", "--rounds", "1", "--out", "r"]
    command += ["--data.heldout", "0", "--sampler.max-new-tokens", "4", "--critic.max-new-tokens", "8"]
    code, shown = kilter(*command)
    assert (code, "judges its own answers" in shown) == (0, True), shown


def test_a_label_stage_counts_canaries_and_names_the_judge_that_failed(
    own, answers, tmp_path, kilter, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    # Right by the number of x; and one that takes what is shown first.
    (tmp_path / "longer.py").write_text(OWN.replace("map(len, shown)", '(t.count("x") for t in shown)'))
    (tmp_path / "first.py").write_text(OWN.replace("a, b = map(len, shown)", "a, b = 9, 1"))
    for name, failed in (("longer", 0), ("first", 3)):
        spec = json.dumps({"judge": {"sampler": {"name": f"{tmp_path / name}.py:Longer"}}})
        command = ["label", "--data", answers, "--feedback", spec, "--out", name, "--batch-size", "2"]
        code, shown = kilter(*command, "--allow-empty")
        assert code == 0, shown
        assert (f"failed {failed} of 3 canaries" in shown) == bool(failed), shown
        (counts,) = json.loads((tmp_path / name / "manifest.json").read_text())["facts"]["canaries"].values()
        assert counts == {"asked": 3, "failed": failed, "unscored": 0}


def test_all_answers_to_a_request_share_its_beginning():
    asker = Asker("pairwise", "logprob")
    texts = ["one", "two", "three"]
    ids = {
        asker.pair(Comparison(prompt(), a, b), o, 0).ask.id
        for a in texts
        for b in texts
        for o in ("forward", "swapped")
    }
    assert len(ids) == 1


def test_an_evaluation_asks_a_judge_about_model_and_baseline(own, tmp_path, tiny, kilter, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = tmp_path / "prompts.jsonl"
    data.write_text("".join(json.dumps({"prompt": f"question {n}"}) + "\n" for n in range(6)))
    (tmp_path / "pairs.yaml").write_text(json.dumps(own))
    (tmp_path / "grades.yaml").write_text(json.dumps(own | {"mode": "rubric"}))
    command = ["eval", "--model", f"new={tiny}", "--baseline", f"old={tiny}", "--data", data]
    command += ["--max-new-tokens", "4", "--temperature", "0"]
    found = {}
    for name in ("pairs", "grades"):
        code, shown = kilter(*command, "--judge", f"{name}.yaml", "--out", name)
        assert code == 0, shown
        found[name] = json.loads((tmp_path / name / "evaluation.json").read_text())["models"]["new"][
            "metrics"
        ]
    # Both models say the same, and a taste for the first place cancels over both orders.
    assert found["pairs"]["judge_win_rate"]["value"] == pytest.approx(0.5)
    assert "judge_score" not in found["pairs"]
    assert found["grades"]["judge_win_rate"]["value"] == 0.5
    assert 0 < found["grades"]["judge_score"]["value"] <= 1


def test_label_replays_offline_and_a_question_without_a_reply_ends_it(
    own, answers, tmp_path, kilter, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    spec = json.dumps({"judge": own})
    assert kilter("label", "--data", answers, "--feedback", spec, "--out", "paid")[0] == 0
    monkeypatch.setenv("OFFLINE", "1")
    again = ["label", "--feedback", spec, "--replay", "paid/judge.sqlite"]
    code, shown = kilter(*again, "--data", answers, "--out", "again")
    assert code == 0, shown
    scores = [
        [[f.score for f in g.feedback] for g in store.read(tmp_path / f"{name}/groups.jsonl")]
        for name in ("paid", "again")
    ]
    assert scores[0] == scores[1]
    assert len(scores[0]) == 6
    # A folder that is done, or half done, goes on with what was paid for: a replay changes no label.
    code, shown = kilter(*again, "--data", answers, "--out", "paid")
    assert code == 0, shown

    more = [
        *store.read(answers),
        Group(prompt("Where is north?"), (Completion("a"), Completion("bb")), (Feedback(None),) * 2),
    ]
    store.write(tmp_path / "more.jsonl", more)
    code, shown = kilter(*again, "--data", "more.jsonl", "--out", "more")
    assert code == 2, shown
    assert "holds no reply to 2 of 38 questions" in shown
    assert "the first is 'Where is north?' (forward 0)" in shown


def test_a_replay_that_nobody_would_read_is_refused(own, answers, tmp_path, kilter, monkeypatch):
    monkeypatch.chdir(tmp_path)
    label = ["label", "--data", answers, "--out", "l", "--replay"]
    code, shown = kilter(*label, "absent.sqlite", "--feedback", json.dumps({"judge": own}))
    assert (code, "names no file to replay" in shown) == (2, True), shown
    (tmp_path / "there.sqlite").write_bytes(b"")
    code, shown = kilter(*label, "there.sqlite", "--feedback", json.dumps({"judge": own}))
    assert (code, "`replay` = 'there.sqlite' is not a cache of replies" in shown) == (2, True), shown
    assert not (tmp_path / "l").exists()
    Replies(tmp_path / "there.sqlite").close()
    code, shown = kilter(
        *label, "there.sqlite", "--feedback", json.dumps({"length": {"limit": 5, "buffer": 2}})
    )
    assert (code, "read by no judge" in shown) == (2, True), shown
    (tmp_path / "mine.py").write_text("JUDGE = None\n")
    audit = ["audit-judge", "mine.py:JUDGE", "--data", answers, "--replay", "there.sqlite"]
    code, shown = kilter(*audit)
    assert (code, "read by no judge" in shown) == (2, True), shown


def test_replies_that_are_damaged_are_blamed_on_the_setting_that_names_them(own, tmp_path):
    (tmp_path / "old.sqlite").write_bytes(b"no database" * 99)
    asked = [Comparison(prompt("Which?"), "a", "bb")]
    for context, more, field in (
        (Context(replay=tmp_path / "old.sqlite"), {}, "replay"),
        (Context(), {"cache": str(tmp_path / "old.sqlite"), "replay": True}, "judge.cache"),
    ):
        with pytest.raises(UserError, match="not a cache of replies") as caught:
            judges.build(judges.parse_spec(own | more), context).compare(asked)
        assert caught.value.field == field


def test_evaluations_and_audits_replay_too(own, tmp_path, tiny, kilter, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = tmp_path / "pairs.jsonl"
    rows = [{"prompt": f"question {n}", "chosen": "x" * (n + 3), "rejected": "y"} for n in range(6)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "judge.yaml").write_text(json.dumps(own))
    ask = [
        "eval",
        "--model",
        f"new={tiny}",
        "--baseline",
        f"old={tiny}",
        "--data",
        data,
        "--judge",
        "judge.yaml",
    ]
    ask += ["--max-new-tokens", "4", "--temperature", "0", "--metrics", "judge_win_rate"]
    audit = ["audit-judge", "judge.yaml", "--data", data]
    assert kilter(*ask, "--out", "paid")[0] == 0
    first, _ = kilter(*audit, "--out", "paid.json")
    monkeypatch.setenv("OFFLINE", "1")
    code, shown = kilter(*ask, "--out", "again", "--replay", "paid/judge.sqlite")
    assert code == 0, shown
    code, shown = kilter(*audit, "--out", "again.json", "--replay", "paid.audit/judge.sqlite")
    assert code == first, shown
    made = [json.loads((tmp_path / name).read_text())["metrics"] for name in ("paid.json", "again.json")]
    assert made[0] == made[1]
    for command in ([*ask, "--out", "m", "--limit", "3"], [*audit, "--out", "m.json"]):
        code, shown = kilter(*command, "--replay", "m.sqlite")
        assert (code, "names no file to replay" in shown) == (2, True), shown
    Replies(tmp_path / "empty.sqlite").close()
    for command in ([*ask, "--out", "n"], [*audit, "--out", "n.json"]):
        code, shown = kilter(*command, "--replay", "empty.sqlite")
        assert (code, "holds no reply" in shown, "the first is 'question" in shown) == (2, True, True), shown


def test_other_code_of_ones_own_is_another_judge(own, tmp_path):
    before = build(own, tmp_path).parts[0][2].judge.fingerprint
    path = Path(own["sampler"]["name"].rpartition(":")[0])
    path.write_text(path.read_text() + "\n# another one\n")
    assert build(own, tmp_path).parts[0][2].judge.fingerprint != before


def test_a_constitution_is_a_mode_of_judges(own, tmp_path):
    path = tmp_path / "constitution.yaml"
    path.write_text("version: 1\nname: short\nprinciples:\n- {id: long, text: Longer answers are better.}\n")
    source = build(own | {"mode": "constitution", "constitution": str(path)}, tmp_path)
    (row,) = source([group("aaaa", "aaaaaaaa")])
    assert row[1].score == pytest.approx(0.7)
    decided, canarys = map(json.loads, (tmp_path / "decisions.jsonl").read_text().splitlines())
    assert canarys["id"].endswith("#canary")
    assert decided["decided_by"] == ["long"]
    assert "for each principle" in feedback.forecast(
        {"judge": own | {"mode": "constitution", "constitution": str(path)}}, [group("a", "b")]
    )


def test_a_traced_label_names_the_principle_that_decided_and_all_votes(own, tmp_path, kilter, monkeypatch):
    monkeypatch.chdir(tmp_path)
    principles = "- {id: long, text: Longer is better.}\n- {id: late, text: So it is., priority: 2}\n"
    Path("c.yaml").write_text(f"version: 1\nname: two\nprinciples:\n{principles}")
    store.write(Path("answers.jsonl"), [group("aaaa", "aaaaaaaa", "aaaa"), group("b", "bbb")])
    spec = {"judge": own | {"mode": "constitution", "constitution": "c.yaml"}}
    arguments = ("label", "--data", "answers.jsonl", "--feedback", json.dumps(spec), "--out", "labels")
    code, said = kilter(*arguments)
    assert code == 0, said
    code, said = kilter("trace", "labels", "0")
    assert code == 0
    # The better answer stands first in the row; the judge was asked about them the other way round.
    assert "answer 1 better than 0: 0.3, decided by long" in said
    assert "votes: long 0.3, late 0.3" in said
    assert "answer 1 better than 1" not in said
    code, said = kilter("trace", "labels", "0", "--json")
    (decided,) = json.loads(said)["history"][-1]["decisions"][:1]
    votes = {"long": pytest.approx(0.3), "late": pytest.approx(0.3)}
    assert decided == {
        "answer": 1,
        "over": 0,
        "p": pytest.approx(0.3),
        "decided_by": ["long"],
        "votes": votes,
    }
