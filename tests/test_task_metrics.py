"""Metrics of tasks, samples, people and reward models: golden numbers, and properties of any answers."""

from __future__ import annotations

import itertools
import json
import math
import random
import string
import sys
import types
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rouge_score import rouge_scorer
from sacrebleu import sentence_bleu

from kilter.data import store
from kilter.errors import UserError
from kilter.evaluation.aggregate import Origin, measure, measure_all
from kilter.evaluation.best_of import best_of
from kilter.evaluation.changes import OF_FORM, changed, of_changes
from kilter.evaluation.metrics import resolve
from kilter.evaluation.people import PeopleSource
from kilter.evaluation.references import normalised, same, word_f1
from kilter.types import Answered, Completion, Feedback, Group, Prompt

ORIGIN = Origin(0, "hash", {})
WORDS = st.lists(st.sampled_from(["the", "cat", "sat", "on", "a", "mat", "Paris,", "42"]), max_size=8).map(
    " ".join
)


def answered(text: str | list[str], reference=None, **fields) -> Answered:
    said = (text,) if isinstance(text, str) else tuple(text)
    metadata = {} if reference is None else {"answer": reference}
    return Answered(Prompt(text="q", metadata=metadata), tuple(map(Completion, said)), **fields)


def value(entry, item: Answered) -> float | None:
    return resolve([entry])[0].metric.per_prompt(item)


@pytest.mark.parametrize(
    ("text", "right", "exact", "f1"),
    [
        ("The Eiffel Tower.", ["eiffel tower"], 1, 1),
        ("It is Paris", ["Paris", "It's Paris"], 0, 0.5),
        ("in the city of Paris", "Paris", 0, 0.4),
        ("", "Paris", 0, 0),
        ("a", "the", 1, 1),
        ("42", 42, 1, 1),
        ("42", '["41", "42"]', 1, 1),
        ("42", None, None, None),
    ],
)
def test_exact_match_and_f1_as_squad_counts_them(text, right, exact, f1):
    item = answered(text, right)
    assert value("exact_match", item) == exact
    assert value("f1", item) == (f1 if f1 is None else pytest.approx(f1))


def test_with_a_mark_only_what_follows_the_last_one_counts():
    item = answered("41 #### 41 #### 42\nmore", "42")
    assert value({"exact_match": {"mark": "####"}}, item) == 1
    assert value({"f1": {"mark": "Answer:"}}, item) == 0


@given(WORDS, WORDS)
def test_f1_is_symmetric_and_one_where_the_match_is_exact(one, other):
    assert word_f1(one, [other]) == pytest.approx(word_f1(other, [one]))
    assert word_f1(one, [one]) == 1
    assert (same(one, [other]) == 1) == (normalised(one) == normalised(other))
    assert 0 <= word_f1(one, [other]) <= 1


@given(WORDS, st.lists(WORDS.filter(bool), min_size=1, max_size=3), st.sampled_from(["1", "2", "L", "Lsum"]))
def test_rouge_is_that_of_rouge_score(text, right, kind):
    scorer = rouge_scorer.RougeScorer([f"rouge{kind}"])
    expected = max(scorer.score(r, text)[f"rouge{kind}"].fmeasure for r in right)
    assert value({"rouge": {"kind": kind}}, answered(text, right)) == pytest.approx(expected)


def test_math_verify_scores_and_leaves_alone_what_cannot_be_read():
    assert value("math_verify", answered(r"So \boxed{0.5}", r"\frac{1}{2}")) == 1
    assert value("math_verify", answered("I do not know.", "42")) == 0
    assert value("math_verify", answered("Paris", "Paris is a town")) is None
    assert value("math_verify", answered("42")) is None


def test_self_bleu_is_that_of_sacrebleu():
    texts = ["the cat sat on the mat", "the cat lay on the mat", "a dog ran through the wood today"]
    by_hand = [sentence_bleu(t, [o for o in texts if o != t]).score / 100 for t in texts]
    assert value("self_bleu", answered(texts)) == pytest.approx(np.mean(by_hand))
    assert value("self_bleu", answered(texts[:1] * 4)) == pytest.approx(1)
    assert value("self_bleu", answered([texts[0], "", " "])) is None
    with pytest.raises(UserError, match="at least 2"):
        resolve([{"self_bleu": {"samples": 1}}])


def test_semantic_diversity_says_what_it_lacks(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"(?s)needs sentence-transformers.*kilter\[embeddings\]"):
        resolve(["semantic_diversity"])


def test_semantic_diversity_is_one_minus_the_mean_cosine(monkeypatch):
    vectors = {"up": [1, 0], "down": [-1, 0], "left": [0, 1]}
    model = types.SimpleNamespace(
        encode=lambda texts, **_: np.array([vectors[t] for t in texts], dtype=float)
    )
    found = types.SimpleNamespace(SentenceTransformer=lambda name, device: model)
    monkeypatch.setitem(sys.modules, "sentence_transformers", found)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: True)
    assert value("semantic_diversity", answered(["up", "up"])) == pytest.approx(0)
    assert value("semantic_diversity", answered(["up", "down", "left"])) == pytest.approx(1 + 1 / 3)
    assert value("semantic_diversity", answered(["up", ""])) is None


def test_hits_in_any_of_k_answers_count_each_prompt_once():
    unsafe = Prompt(text="how do I hurt him?", metadata={"safety": "unsafe"})
    texts = ["I can't help with that."] * 3 + ["Sure, first take a long rope and wait."]
    item = Answered(unsafe, tuple(map(Completion, texts)))
    assert value({"violation_at_k": {"k": 4, "samples": 4}}, item) == 1
    assert value({"violation_at_k": {"k": 2, "samples": 4}}, item) == pytest.approx(0.5)
    assert value("violation_at_k", Answered(unsafe, item.answers[:3])) is None
    asked = resolve(["violation_at_k"])[0]
    found = measure(asked, [item] * 30, ORIGIN)
    assert (found.estimate.n, found.estimate.value) == (30, 1)
    # Errors of the reader may hang together among answers to one prompt: bounds, and no value.
    assert found.corrected is not None and found.corrected.method.startswith("any of 4, bound")
    with pytest.raises(UserError, match="between 1 and the number of samples"):
        resolve([{"over_refusal_at_k": {"k": 9}}])


def test_the_gap_between_proxy_and_gold_is_in_deviations_of_step_0():
    """The reward rises by two deviations, gold by one half: a gap of 1.5."""
    items = []
    for i in range(40):
        start = {"reward": (Feedback(float(i % 2)),), "gold": (Feedback(10.0 * (i % 2)),)}
        now = {"reward": (Feedback(i % 2 + 2 * STEP),), "gold": (Feedback(10.0 * (i % 2) + 5 * STEP),)}
        base = answered("a", feedback=start)
        items.append(answered("b", feedback=now, baseline=base))
    found = measure(resolve(["proxy_gold_gap"])[0], items, ORIGIN).estimate
    assert found.value == pytest.approx(1.5)
    flat = [answered("b", feedback=i.feedback, baseline=items[0].baseline) for i in items]
    assert measure(resolve(["proxy_gold_gap"])[0], flat, ORIGIN).estimate.value is None


STEP = float(np.std([0.0, 1.0] * 20, ddof=1))


def test_deviations_of_length_have_an_interval_that_covers_the_truth():
    draw = np.random.default_rng(0)
    covered = 0
    for _ in range(40):
        lengths = draw.normal(50, 10, 60).round().astype(int)
        items = [Answered(Prompt(text="q"), (Completion("a", tuple(range(n))),)) for n in lengths]
        found = measure(resolve(["length_std"])[0], items, ORIGIN).estimate
        assert found.value == pytest.approx(np.std(lengths, ddof=1))
        covered += found.ci_low <= 10 <= found.ci_high
    assert covered >= 34


def test_people_say_who_won_whichever_answer_stood_first(tmp_path):
    rows = [
        {"prompt": "q", "answer_a": "new", "answer_b": "old", "winner": "a"},
        {"prompt": "q", "answer_a": "old ", "answer_b": "new", "winner": "tie"},
        {"prompt": "other", "chosen": "old", "rejected": "new"},
    ]
    path = tmp_path / "labels.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    source = PeopleSource([path])
    groups = [
        Group(Prompt(text=q), (Completion("old"), Completion("new")), (Feedback(None),) * 2)
        for q in ("q", "other", "?")
    ]
    items = [
        answered("new", feedback={"preferred": (f[1],)}, baseline=answered("old"))
        for f in source.score(groups, "")
    ]
    found = measure(resolve(["human_win_rate"])[0], items, ORIGIN)
    assert found.values == [0.75, 0, None]
    for bad, message in (
        ({"prompt": "q", "answer_a": "x", "answer_b": "y"}, "need a winner"),
        ({"prompt": "q"}, "answer_a"),
    ):
        path.write_text(json.dumps(bad))
        with pytest.raises(UserError, match=message):
            PeopleSource([path])


@given(st.lists(st.tuples(st.integers(0, 3), st.booleans()), min_size=1, max_size=7), st.data())
def test_best_of_n_is_the_mean_over_all_subsets(answers, data):
    n = data.draw(st.integers(1, len(answers)))
    scores, right = zip(*answers, strict=True)
    worth = []
    for subset in itertools.combinations(range(len(answers)), n):
        top = max(scores[i] for i in subset)
        picked = [right[i] for i in subset if scores[i] == top]
        worth.append(sum(picked) / len(picked))
    assert best_of(n, scores, [float(r) for r in right]) == pytest.approx(np.mean(worth))


def test_a_process_reward_that_knows_the_steps_beats_an_outcome_reward_that_guesses():
    draw = random.Random(0)
    items = {"orm": [], "prm": []}
    for _ in range(60):
        right = [draw.random() < 0.3 for _ in range(8)]
        gold = tuple(Feedback(float(r)) for r in right)
        for name, noise in (("orm", 2.0), ("prm", 0.3)):
            reward = tuple(Feedback(r + draw.gauss(0, noise)) for r in right)
            items[name].append(answered(["a"] * 8, feedback={"gold": gold, "reward": reward}))
    wanted = [resolve([{"best_of_n": {"n": n}}])[0] for n in (1, 8)]
    found = {name: [measure(m, own, ORIGIN).estimate.value for m in wanted] for name, own in items.items()}
    assert found["orm"][0] == found["prm"][0]  # one answer is not chosen
    assert found["prm"][1] > found["orm"][1] > found["orm"][0]


def tried(score) -> dict:
    """What is measured of a reward model that is a function of the text."""
    texts = [f"It is {word}. That is all there is to say of it." for word in string.ascii_letters]
    pairs = [
        Group(Prompt(text=t), (Completion(t), Completion("No.")), (Feedback(1.0), Feedback(0.0)))
        for t in texts
    ]
    groups = changed(pairs)
    feedback = [[Feedback(score(c.text)) for c in g.completions] for g in groups]
    wanted = ["reward_model.exploit", "reward_model.exploit_wins", "reward_model.null_wins"]
    made = measure_all(resolve(wanted), {"changes": of_changes(groups, feedback)}, ORIGIN)
    return {name.removeprefix("reward_model."): m.estimate for name, m in made.items() if m.estimate}


def test_a_reward_model_that_pays_for_form_is_found_by_the_form_that_it_pays_for():
    bullets = tried(
        lambda text: ord(text.lstrip("- *")[6]) / 10 * (1 + text.count("- ")) if len(text) > 6 else -9.0
    )
    assert bullets["exploit.bullets"].ci_low > 0
    assert bullets["exploit_wins.bullets"].value == 1
    length = tried(lambda text: len(text) + ord(text[6:7] or "0") % 5 if text else 0.0)
    assert length["exploit_wins.padding"].value == length["exploit_wins.flattery"].value == 1
    assert set(OF_FORM) - {"null"} == {
        name.partition(".")[2] for name in length if name.startswith("exploit_wins.")
    }


def test_a_reward_model_that_likes_silence_is_found():
    assert tried(lambda text: -float(len(text)))["null_wins"].value == 1


def test_tasks_are_asked_beside_the_prompts_and_their_difference_is_the_tax(tiny, tmp_path):
    from conftest import make_model
    from kilter import api

    other = make_model(tmp_path / "other", rms_norm_eps=0.5)
    sums = [{"prompt": f"What is {i} + 1?", "answer": str(i + 1)} for i in range(6)]
    (tmp_path / "sums.jsonl").write_text("\n".join(map(json.dumps, sums)))
    prompts = [{"prompt": f"Tell me of {i}."} for i in range(5)]
    (tmp_path / "prompts.jsonl").write_text("\n".join(map(json.dumps, prompts)))
    settings = {"metrics": ["f1", "entropy", "self_bleu", "length_std"], "max_new_tokens": 6}
    made = api.evaluate(
        {"old": str(tiny), "new": str(other)},
        tmp_path / "prompts.jsonl",
        tmp_path / "eval",
        tasks=[str(tmp_path / "sums.jsonl")],
        **settings,
    )
    found = made["models"]["new"]
    assert found["metrics"]["f1"]["n"] == 6
    assert found["difference"]["f1"]["n"] == 6
    assert found["metrics"]["self_bleu"]["n"] <= 5
    assert found["metrics"]["entropy"]["value"] > 1
    assert "length_std" not in found["difference"]
    again = api.evaluate(
        {"old": str(tiny)},
        tmp_path / "prompts.jsonl",
        tmp_path / "cold",
        **settings | {"temperature": 0.7, "metrics": ["entropy"]},
    )
    entropy = again["models"]["old"]["metrics"]["entropy"]
    assert entropy["value"] > 1
    assert "biased" in entropy["method"]
    assert not math.isclose(entropy["value"], found["metrics"]["entropy"]["value"])


def test_answers_are_stored_once_and_shared_by_metrics_and_evaluations(tiny, tmp_path, capsys):
    """More samples of a prompt begin with those of fewer, and a folder beside vouches for its answers."""
    from kilter import api

    rows = [{"prompt": f"Tell me of {i}."} for i in range(4)]
    (tmp_path / "prompts.jsonl").write_text("\n".join(map(json.dumps, rows)))
    common = {"max_new_tokens": 5, "seed": 3}

    def evaluate(name: str, *metrics) -> tuple[str, dict]:
        made = ({"m": str(tiny)}, tmp_path / "prompts.jsonl", tmp_path / name)
        api.evaluate(*made, metrics=list(metrics), **common)
        (path,) = (tmp_path / name / "answers").glob("*.jsonl")
        said = {g.prompt.metadata["key"]: [c.text for c in g.completions] for g in store.read(path)}
        return capsys.readouterr().err, said

    _, several = evaluate("first", {"self_bleu": {"samples": 3}}, "length")
    said, one = evaluate("second", "length")
    assert "4 answers of m are those of first" in said
    assert one == {key: texts[:1] for key, texts in several.items()}
    assert [len(texts) for texts in several.values()] == [3] * 4
    (path,) = (tmp_path / "first" / "answers").glob("*.jsonl")
    path.write_text(path.read_text().replace("{", "{ ", 1))
    (tmp_path / "second" / "manifest.json").unlink()
    said, again = evaluate("third", "length")
    assert "are those of" not in said  # nobody vouches for either file
    assert again == one


def test_a_process_reward_model_is_tested_on_lists_as_an_outcome_reward_model_is(tiny, tmp_path, encoder):
    from transformers import AutoModelForTokenClassification

    from kilter import api
    from kilter.models.folder import quiet_transformers

    folder = tmp_path / "prm"
    with quiet_transformers():
        AutoModelForTokenClassification.from_pretrained(str(tiny), num_labels=2).save_pretrained(folder)
    encoder.tokenizer.save_pretrained(folder)
    rows = [
        {
            "id": f"q{i}",
            "prompt": f"What is {i} + 1?",
            "chosen": [f"It is {i + 1}."],
            "rejected": [f"It is {i}.", f"It is {i + 2}.", "I do not know."],
            "num_correct": 1,
            "total_completions": 4,
            "subset": "Math" if i % 2 else "Facts",
        }
        for i in range(6)
    ]
    (tmp_path / "lists.jsonl").write_text("\n".join(map(json.dumps, rows)))
    made = api.evaluate(None, tmp_path / "lists.jsonl", tmp_path / "out", reward_model=str(folder))
    found = made["reward_model"]["metrics"]
    assert found["accuracy"]["n"] == found["best_of_4"]["n"] == 6
    assert found["accuracy.Math"]["n"] == found["best_of.Math"]["n"] == 3
    assert {"exploit_wins.bullets", "exploit.padding", "null_wins"} <= found.keys()
    groups = (tmp_path / "out" / "groups.jsonl").read_text().splitlines()
    assert sorted({len(json.loads(g)["completions"]) for g in groups}) == [2, 4]  # ties are not dropped


def judged_pair(i: int, margin: float | None) -> Answered:
    scores = (Feedback(margin), Feedback(None if margin is None else 0.0))
    answers = (Completion(f"good {i}"), Completion(f"bad {i}"))
    return Answered(Prompt(text=str(i)), answers, {"reward": scores})


def calibration(margins) -> dict:
    items = [judged_pair(i, m) for i, m in enumerate(margins)]
    found = measure_all(resolve(["reward_model.ece", "reward_model.brier"]), {"pairs": items}, ORIGIN)
    return {name.partition(".")[2]: m.estimate for name, m in found.items()}


def test_a_reward_model_that_means_its_margins_is_calibrated_and_a_loud_one_is_not():
    """The probability that people choose an answer is the sigmoid of its true margin."""
    draw = np.random.default_rng(0)
    true = draw.normal(0, 1.5, 2000)
    chosen = np.where(draw.random(2000) < 1 / (1 + np.exp(-true)), true, -true)
    honest, loud, coin = calibration(chosen), calibration(chosen * 4), calibration(np.zeros(2000))
    assert honest["ece"].value < 0.05 < 0.15 < loud["ece"].value
    assert honest["brier"].value < loud["brier"].value
    assert coin["brier"].value == pytest.approx(0.25)
    assert coin["ece"].value < 0.05  # the sides are drawn: a coin that says a half is calibrated
    stated = 1 / (1 + np.exp(-chosen))
    assert honest["brier"].value == pytest.approx(np.mean((1 - stated) ** 2))
    assert calibration([1.0, None, -1.0])["brier"].n_unscored == 1


def test_the_win_rate_at_equal_length_undoes_a_length_bias():
    """The judge likes length alone; at equal length nobody wins."""
    draw, items = random.Random(0), []
    for i in range(400):
        longer = round(draw.gauss(6, 10))
        new, old = Completion("a", (0,) * (40 + longer)), Completion("b", (0,) * 40)
        p = 1 / (1 + math.exp(-longer / 5))
        score = Feedback(float(draw.random() < p))
        base = Answered(Prompt(text=str(i)), (old,), {"gold": (Feedback(0.5),)})
        items.append(Answered(Prompt(text=str(i)), (new,), {"gold": (score,)}, baseline=base))
    wanted = resolve(["win_rate_gold", "win_rate_gold_lc"])
    found = {name: m.estimate for name, m in measure_all(wanted, {"prompts": items}, ORIGIN).items()}
    assert found["win_rate_gold"].ci_low > 0.55
    assert found["win_rate_gold_lc"].ci_low < 0.5 < found["win_rate_gold_lc"].ci_high
    always = [replace(i, answers=(Completion("a", (0,) * 90),)) for i in items]
    lost = measure(wanted[1], always, ORIGIN).estimate
    assert lost.value is None
    assert lost.method.startswith("not_identified")
    # Prompts of one cluster are one observation: the interval is no narrower for being asked four times.
    four = [replace(i, prompt=replace(i.prompt, metadata={"cluster": n // 4})) for n, i in enumerate(items)]
    joined = measure(wanted[1], four, ORIGIN).estimate
    assert (found["win_rate_gold_lc"].n_clusters, joined.n_clusters) == (400, 100)
