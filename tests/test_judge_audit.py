"""The audit of judges whose biases are dialled: each is named, and its interval covers the dial."""

from __future__ import annotations

import datetime as dt
import io
import json
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

from kilter.errors import UserError
from kilter.evaluation.judge_audit import run as audits
from kilter.evaluation.judge_audit.cases import Case, Triple, cases_of, triples_of
from kilter.evaluation.judge_audit.probes import ASKS, PROBES, Material
from kilter.evaluation.judge_audit.sheet import Sheet
from kilter.feedback.judge import certificate
from kilter.feedback.judge.dials import DIALS, Dialled, decide, known, traits
from kilter.statistics import Estimate
from kilter.types import Completion, Feedback, Group, Prompt

N = 400


def make_cases(n: int) -> list[Case]:
    """Answers of random lengths; nothing but the table of the truth says which is better."""
    rng = np.random.default_rng(0)
    words = ["time", "light", "under", "every", "paper", "stone", "river", "quick", "seven"]

    def answer() -> str:
        sentences = (" ".join(rng.choice(words, rng.integers(3, 9))) for _ in range(rng.integers(1, 4)))
        return ". ".join(sentences).capitalize() + f". Number {rng.integers(1e9)}."

    return [Case(Prompt(text=f"Question {i}?"), answer(), answer(), f"pair-{i}", i) for i in range(n)]


CASES = make_cases(N)
TRIPLES = [
    Triple(c.prompt, (c.better, c.worse, f"A third answer, number {i}."), f"triple-{i}", i, True)
    for i, c in enumerate(CASES[:100])
]
TRUTH = known(
    {c.id: [(c.better, 2.0), (c.worse, 1.0)] for c in CASES}
    | {t.id: [(text, float(2 - k)) for k, text in enumerate(t.answers)] for t in TRIPLES}
)
PLAN = audits.Plan(Material(CASES, TRIPLES))


def audit(judge, folder, plan=PLAN, **options):
    quiet = Console(file=io.StringIO())
    return audits.Audit(judge, judge.fingerprint, plan, folder, quiet, **options)


def certified(judge, folder, **options):
    found = audits.certificate(audit(judge, folder, **options), {"name": judge.name}, "pairs")
    return certificate.Certificate.model_validate(json.loads(json.dumps(found)))


def test_a_perfect_judge_passes_everything(tmp_path):
    found = certified(Dialled("perfect", 1.0, TRUTH), tmp_path)
    metrics = found.metrics
    assert {n: m.value for n, m in metrics.items() if n in ("consistency", "kappa", "sensitivity")} == {
        "consistency": 1,
        "kappa": 1,
        "sensitivity": 1,
    }
    states = {n: m.state for n, m in metrics.items()}
    assert {n for n, s in states.items() if s not in ("pass", "reported")} == {"self", "language", "leak"}
    assert (found.verdict, found.failures, found.undecided) == ("pass", [], [])


@pytest.mark.parametrize(
    ("kind", "strength"),
    [
        ("position", 0.8),
        ("longer", 0.9),
        ("bullets", 0.8),
        ("injected", 0.7),
        ("random", 1.0),
        ("constant", 1.0),
        ("tie", 1.0),
        ("abstaining", 0.3),
    ],
)
def test_every_known_bias_is_named(kind, strength, tmp_path):
    found = certified(Dialled(kind, strength, TRUTH), tmp_path)
    assert found.verdict == "refused"
    assert set(DIALS[kind].names) <= set(found.failures), found.failures


def test_the_first_position_is_estimated_within_four_points(tmp_path):
    found = certified(Dialled("position", 0.8, TRUTH), tmp_path).metrics
    assert found["position"].value == pytest.approx(0.8, abs=0.04)
    assert found["consistency"].value == pytest.approx(2 * 0.8 * 0.2, abs=0.06)


DIALLED = [
    ("perfect", 0.0, "consistency", 1.0),
    ("perfect", 0.0, "kappa", 1.0),
    ("position", 0.8, "position", 0.8),
    ("position", 0.8, "consistency", 0.32),
    ("longer", 0.9, "verbosity", 0.9),
    ("bullets", 0.8, "bullets", 0.8),
    ("injected", 0.7, "injection", 0.7),
    ("random", 1.0, "position", 0.5),
    ("random", 1.0, "kappa", 0.0),
    ("random", 0.3, "consistency", 1 - 0.3 * (1 - 0.15)),
    ("constant", 1.0, "ties", 1.0),
    ("tie", 0.4, "ties", 0.4),
    ("abstaining", 0.3, "unscored", 0.3),
]


@pytest.mark.parametrize(("kind", "strength", "name", "truth"), DIALLED)
def test_intervals_cover_the_dial(kind, strength, name, truth):
    """200 simulated audits of 400 pairs: at least 93 % of the intervals hold what was dialled; of 1,000, .94 to .96."""
    probe = PROBES[name]
    seen, empty = {}, {}
    for ask in probe.asks:
        asked = ASKS[ask].make(Material(CASES))
        seen[ask] = traits([a.comparison for a in asked], TRUTH)
        labels = np.array([a.label for a in asked])
        empty[ask] = (np.arange(len(asked)), labels, np.full(len(asked), np.nan))
    hits = 0
    for seed in range(1000, 1200):
        rng = np.random.default_rng(seed)
        sheets = {}
        for ask, (clusters, labels, writers) in empty.items():
            chance, coin = rng.random((2, N, 2, 1))
            read = decide(DIALS[kind], strength, seen[ask], chance, coin)
            sheets[ask] = Sheet(read, np.full_like(read, np.nan), clusters, labels, writers)
        found = probe.measure(sheets)
        hits += found.ci_low <= truth <= found.ci_high
    assert hits >= 0.93 * 200


class Dying(Dialled):
    """Dies after so many questions."""

    left = 1000

    def compare(self, comparisons, repeats=1):
        Dying.left -= len(comparisons)
        if Dying.left < 0:
            raise KeyboardInterrupt
        return super().compare(comparisons, repeats)


def test_a_killed_audit_pays_no_verdict_twice(tmp_path):
    plan = audits.Plan(Material(CASES[:60], TRIPLES[:20]))
    whole = certified(Dialled("position", 0.8, TRUTH), tmp_path / "whole", plan=plan)
    asked = []

    class Counting(Dying):
        def compare(self, comparisons, repeats=1):
            found = super().compare(comparisons, repeats)
            asked.extend((c.id, repeats) for c in comparisons)
            return found

    for budget in (50, 300, 100000):
        Dying.left = budget
        judge = Counting("position", 0.8, TRUTH)
        try:
            found = certified(judge, tmp_path / "killed", plan=plan)
        except KeyboardInterrupt:
            continue
    assert len(asked) == len(set(asked)) == plan.calls() // 2 - 60, "retests are asked twice each"
    assert {n: m.value for n, m in found.metrics.items()} == {n: m.value for n, m in whole.metrics.items()}


def test_verdicts_without_mass_are_unscored_and_still_show_the_position(tmp_path):
    """As a small model's: it always takes the first answer, with hardly any probability."""
    judge = Dialled("position", 1.0, TRUTH, mass=0.01)
    found = certified(judge, tmp_path, plan=audits.Plan(Material(CASES[:12])), min_mass=0.8)
    assert found.verdict == "refused"
    assert {"unscored", "mass", "position", "consistency"} <= set(found.failures)
    assert found.metrics["mass"].value == pytest.approx(0.01)
    assert found.metrics["position"].value == 1.0
    assert found.metrics["kappa"].state == "not measured"


def test_a_place_is_named_by_position_and_not_by_symmetry(tmp_path):
    """Of identical answers both orders are one question: what is said of it twice is even together."""
    plan = audits.Plan(Material(CASES[:60]), probes=("position", "symmetry"))
    place = certified(Dialled("position", 1.0, TRUTH), tmp_path / "place", plan=plan)
    coin = certified(Dialled("random", 1.0, TRUTH), tmp_path / "coin", plan=plan)
    assert (place.metrics["position"].value, place.metrics["symmetry"].value) == (1.0, 1.0)
    assert coin.metrics["symmetry"].value < 0.8


def test_few_pairs_certify_nobody(tmp_path):
    plan = audits.Plan(Material(CASES[:12], TRIPLES[:5]))
    found = certified(Dialled("perfect", 0.0, TRUTH), tmp_path, plan=plan)
    assert found.verdict == "inconclusive"
    assert {"unscored", "null"} <= set(found.undecided)


def test_self_preference_is_conditional_on_people(tmp_path):
    """A judge that only agrees with people does not prefer itself, however good its own answers are."""
    rng = np.random.default_rng(0)
    wins = rng.random(N) < 0.8
    cases = [
        Case(c.prompt, c.better, c.worse, c.id, c.cluster, ("me", "other") if w else ("other", "me"))
        for c, w in zip(CASES, wins, strict=True)
    ]
    plan = audits.Plan(Material(cases, own="me"), probes=("self",))
    assert (
        certified(Dialled("perfect", 0.0, TRUTH), tmp_path / "a", plan=plan).metrics["self"].state == "pass"
    )
    mine = {c.better: w for c, w in zip(cases, wins, strict=True)}
    mine |= {c.worse: not w for c, w in zip(cases, wins, strict=True)}
    biased = Dialled("perfect", 0.0, lambda _, text: float(mine[text]))
    found = certified(biased, tmp_path / "b", plan=plan).metrics["self"]
    assert (found.value, found.state) == (1.0, "refused")


def desk(view, **dials):
    from kilter.data.worlds.support_desk import SupportDesk

    return SupportDesk(n=60, **dials).groups(view)


def test_the_desk_makes_pairs_and_triples():
    cases, triples = cases_of(desk("pairs")), triples_of(desk("ranked"), 50, 0)
    assert len(cases) == 60
    assert sum(c.flipped for c in cases) == pytest.approx(30, abs=12)
    assert len(triples) >= 30
    assert sum(t.graded for t in triples) >= 5
    assert triples == triples_of(desk("ranked"), 50, 0)


def write(tmp_path, name="judge.json", **changes):
    plan = audits.Plan(Material(CASES, TRIPLES))
    judge = Dialled(changes.pop("kind", "perfect"), changes.pop("strength", 0.0), TRUTH)
    made = audits.certificate(
        audit(judge, tmp_path / "verdicts" / judge.kind, plan), {"name": judge.name}, "pairs"
    )
    path = tmp_path / name
    path.write_text(json.dumps(certificate.sealed(made | changes)))
    return path, judge.fingerprint


def test_a_certificate_vouches_for_one_judge_until_one_day(tmp_path):
    path, own = write(tmp_path)
    today = dt.date.today()
    assert certificate.valid(path, own, today + dt.timedelta(days=90)) == ""
    said = {
        "expired": certificate.valid(path, own, today + dt.timedelta(days=91)),
        "foreign": certificate.valid(path, "f" * 64, today),
        "absent": certificate.valid(tmp_path / "none.json", own, today),
        "none": certificate.valid(None, own, today),
    }
    path.write_text(path.read_text()[:-40])
    said["damaged"] = certificate.valid(path, own, today)
    path.write_text('{"schema": 9}')
    assert "damaged" in certificate.valid(path, own, today)
    refused, theirs = write(tmp_path, "b.json", kind="random", strength=1.0)
    said["refused"] = certificate.valid(refused, theirs, today)
    assert "kappa" in said["refused"]
    assert all(said.values())
    assert len(set(said.values())) == len(said)
    for word, text in (("expired on", "expired"), ("another judge", "foreign"), ("damaged", "damaged")):
        assert word in said[text]


@pytest.mark.parametrize("field", ["verdict", "expires", "judge", "failures", "metrics", "data_hash", "seal"])
def test_a_certificate_that_was_edited_vouches_for_nobody(field, tmp_path):
    path, theirs = write(tmp_path, kind="random", strength=1.0)
    row = json.loads(path.read_text())
    edits = {"verdict": "pass", "expires": "2999-12-31", "failures": [], "data_hash": "", "seal": ""}
    edits["judge"] = row["judge"] | {"fingerprint": "f" * 64}
    edits["metrics"] = {n: m | {"state": "pass"} for n, m in row["metrics"].items()}
    path.write_text(json.dumps(row | {field: edits[field]}))
    said = "has no seal: an older Kilter wrote it" if field == "seal" else "edited since its audit"
    assert said in certificate.valid(path, theirs)
    with pytest.raises(UserError, match=said):
        certificate.read(path)
    # White space and the order of keys say nothing.
    path.write_text(json.dumps(dict(sorted(row.items(), reverse=True)), indent=3))
    assert "refused" in certificate.valid(path, theirs)


def test_a_probe_that_was_left_out_leaves_the_verdict_open(tmp_path):
    """What nobody looked for is not found: a taste for length passes where padding is not tried."""
    needed = tuple(name for name, probe in PROBES.items() if probe.needed)
    plan = audits.Plan(Material(CASES, TRIPLES), needed)
    found = certified(Dialled("perfect", 0.0, TRUTH), tmp_path, plan=plan)
    assert (found.verdict, found.failures) == ("inconclusive", [])
    assert set(found.undecided) == set(PROBES) - set(needed)
    assert "verbosity" in found.problem(found.judge.fingerprint, dt.date.today())


def test_what_grew_between_two_audits_is_named(tmp_path):
    from kilter.evaluation.judge_audit.report import change_rows, changes

    before, _ = write(tmp_path, "before.json", kind="longer", strength=0.6)
    after, _ = write(tmp_path, "after.json", kind="longer", strength=0.95)
    old, new = certificate.read(before), certificate.read(after)
    found = {c["name"]: c for c in changes(old, new)}
    assert found["verbosity"]["worse"]
    assert found["verbosity"]["ci_low"] > 0.15
    assert not found["unscored"]["worse"]
    back = {c["name"]: c for c in changes(new, old)}
    assert not back["verbosity"]["worse"]
    assert all(len(row) == 5 for row in change_rows(list(found.values())))
    with pytest.raises(UserError, match="other rows"):
        changes(old, new.model_copy(update={"data_hash": "x"}))


@pytest.mark.parametrize(("low", "high", "state"), [(0.1, 0.3, "pass"), (-0.3, -0.1, "refused")])
def test_a_limit_of_zero_is_a_limit(low, high, state):
    found = Estimate(0.0, 50, ci_low=low, ci_high=high)
    assert audits.state_of(found, certificate.Limit(low=0.0)) == state


def test_a_judge_that_reads_one_language_alone_is_named(tmp_path):
    words = ("Frage", "gut", "schlecht")
    cases = [
        replace(c, translated=(f"{words[0]} {n}?", f"{words[1]} {n}", words[2])) for n, c in enumerate(CASES)
    ]
    plan = audits.Plan(Material(cases), probes=("language",))
    polyglot = lambda name, text: TRUTH(name, text) if "#language" in name else float("gut" in text)
    deaf = lambda name, text: TRUTH(name, text) if "#language" in name else 0.0
    for truth, state in ((polyglot, "pass"), (deaf, "refused")):
        found = certified(Dialled("perfect", 0.0, truth), tmp_path / state, plan=plan).metrics["language"]
        assert (found.state, found.n) == (state, 200)
    # Without translations there is nothing to measure, and that is said.
    none = audits.Plan(Material(CASES), probes=("language", "leak"))
    metrics = certified(Dialled("perfect", 0.0, TRUTH), tmp_path / "none", plan=none).metrics
    assert {m.state for m in metrics.values()} == {"not measured"}


def test_the_right_answer_of_the_data_is_shown_in_every_comparison(tmp_path):
    """A judge that grades beside a right answer cannot be audited without it."""
    columns = {"answer": "Paris.", "translated_prompt": "Frage?"}
    prompt = Prompt(text="Capital of France?", columns=columns)
    rows = Group(prompt, (Completion("It is Paris."), Completion("Lyon.")), (Feedback(1.0), Feedback(0.0)))
    (case,) = cases_of([rows])
    assert (case.reference, case.translated) == ("Paris.", None)
    plan = audits.Plan(Material([case]))
    asked = [a.comparison for name in plan.asks if name != "triples" for a in plan.asks[name]]
    assert {c.reference for c in asked} == {"Paris."}
    (leak,) = plan.asks["leak"]
    assert (leak.comparison.first, leak.comparison.second) == ("Paris.", "It is Paris.")
    told = audits.Plan(Material([replace(case, reference="")]))
    judge = Dialled("perfect", 0.0, TRUTH)
    one, other = (audit(judge, tmp_path, p)._key(p.asks["pairs"][0], 1) for p in (plan, told))
    assert one != other
