"""The audit of data: every planted defect is found, and clean rows have none."""

import itertools
import json
import random

import numpy as np
import pytest
from bench.plants import DEFECTS, SUITE_SEED, clean_rows, suite_of, write_lines
from hypothesis import given, settings
from hypothesis import strategies as st

import kilter
from kilter.artifacts import sha256_file
from kilter.data import near, store
from kilter.data.audit import extras
from kilter.data.audit.checks import annotators, leakage, schema
from kilter.data.audit.files import filtered
from kilter.data.audit.run import Settings, audit, rules
from kilter.data.dataset import DataSpec, load
from kilter.data.lineage import lineage
from kilter.errors import UserError
from kilter.hashes import number
from kilter.roles.open import OpenSpec, open_encoder

COUNT = 240


def look(tmp_path, rows, heldout=0.0, only=(), **more):
    spec = DataSpec(path=str(write_lines(tmp_path / "rows.jsonl", rows)), heldout=heldout)
    return audit(spec, Settings(only=frozenset(only), **more))


def by_name(found):
    return {f.check: f for f in found.findings}


def needs(defect, tmp_path, tiny):
    """What a defect's check needs: a suite, a tokenizer, an extra."""
    more = {"look_for": frozenset(defect.look_for)}
    if defect.suite:
        suite = write_lines(tmp_path / "suite.jsonl", suite_of(clean_rows(COUNT), random.Random(SUITE_SEED)))
        more["suites"] = {"suite": DataSpec(path=str(suite), heldout=0)}
    if defect.max_length:
        more["encoder"] = open_encoder(OpenSpec(tiny, max_length=defect.max_length))
    return more


@pytest.mark.parametrize("name", list(DEFECTS))
def test_a_planted_defect_is_found(name, tmp_path, tiny):
    defect = DEFECTS[name]
    try:
        extras.require(defect.look_for, "look_for")
    except UserError as error:
        pytest.skip(str(error))
    rows = defect.plant(clean_rows(COUNT), random.Random(1))
    found = look(tmp_path, rows, defect.heldout, defect.checks, **needs(defect, tmp_path, tiny))
    levels = {f.check: f.level for f in found.findings}
    assert {"warn", "error"} & set(levels.values()), [(f.check, f.level, f.value) for f in found.findings]


def test_clean_rows_have_neither_errors_nor_warnings(tmp_path, tiny):
    suite = write_lines(tmp_path / "suite.jsonl", suite_of(clean_rows(COUNT), random.Random(SUITE_SEED)))
    found = look(
        tmp_path,
        clean_rows(COUNT),
        0.2,
        suites={"suite": DataSpec(path=str(suite), heldout=0)},
        encoder=open_encoder(OpenSpec(tiny, max_length=900)),
    )
    assert {f.check for f in found.findings} == set(rules())
    assert [f for f in found.findings if f.level in ("warn", "error")] == []
    assert found.verdict == "ok"
    assert found.rows_flagged() == {}


def test_there_are_forty_kinds_of_defects_and_all_checks_have_one():
    assert len(DEFECTS) >= 40
    assert {name for d in DEFECTS.values() for name in d.checks} == set(rules())


@pytest.mark.parametrize("missing", ["", None, "nan", "None"])
def test_a_side_without_a_writer_is_no_writer_called_none(tmp_path, missing):
    rows = [r | {"chosen_model": "large", "rejected_model": missing} for r in clean_rows(40)]
    found = by_name(look(tmp_path, rows, only=("source_confound",)))["source_confound"]
    assert found.level == "warn"
    assert {row[0] for row in found.table} == {"large", "(not named)"}


def test_a_check_that_was_not_made_says_why(tmp_path):
    found = by_name(look(tmp_path, clean_rows(60)))
    for name, why in {
        "truncation": "--model",
        "evaluation_leakage": "--against",
        "personal_data": "--look-for pii",
        "toxicity": "--look-for toxicity",
        "agreement": "annotator",
        "position": "better side",
        "grouped_split": "heldout is 0",
    }.items():
        assert (found[name].level, why in found[name].value) == ("not checked", True), found[name]


def test_rows_are_named_by_file_and_line_and_their_text_is_never_shown(tmp_path):
    rows = clean_rows(60)
    secret = "xyzzyplugh"
    rows[4] = {k: v for k, v in rows[4].items() if k != "id"} | {
        "rejected": rows[4]["chosen"] + "",
        "more": secret,
    }
    rows[5] |= {"chosen": [{"role": secret, "content": secret}]}
    found = look(tmp_path, rows)
    assert by_name(found)["identity"].ids == (f"{tmp_path / 'rows.jsonl'}:5",)
    assert f"{tmp_path / 'rows.jsonl'}:6" in by_name(found)["schema"].value
    assert secret not in json.dumps(found.to_json())
    flags = list(found.flag_lines())
    assert [line["flags"] for line in flags if line["row"].endswith(":5")] == [["identity"]]
    assert len(flags) == 59


def test_bad_rows_that_are_skipped_are_a_warning(tmp_path):
    path = write_lines(tmp_path / "rows.jsonl", [*clean_rows(20), "{torn"])
    levels = [
        by_name(audit(DataSpec(path=str(path), heldout=0, on_bad_row=way), Settings()))["schema"].level
        for way in ("error", "skip")
    ]
    assert levels == ["error", "warn"]


def test_a_waived_error_stops_nothing_and_stays_visible(tmp_path):
    rows = clean_rows(30)
    rows[0]["rejected"] = rows[0]["chosen"]
    found = look(tmp_path, rows, waive={"identity": "known since March"})
    assert found.stopping() == []
    assert found.verdict == "warn"
    assert by_name(found)["identity"].level == "error"
    assert by_name(found)["identity"].waived == "known since March"
    with pytest.raises(UserError, match="is not the name of a check"):
        look(tmp_path, rows, waive={"identiti": "x"})


def test_the_hash_is_of_what_the_rows_say_and_not_of_where_they_stand(tmp_path):
    rows = clean_rows(30)
    first = look(tmp_path, rows, only=["identity"])
    (tmp_path / "other").mkdir()
    again = look(tmp_path / "other", rows, only=["ties"])
    assert first.data_hash == again.data_hash
    rows[7]["chosen"] += " So."
    assert look(tmp_path, rows, only=["identity"]).data_hash != first.data_hash


# Near-duplicates


def test_the_hits_are_those_of_datasketch(tmp_path):
    """Every verified hit of datasketch's own MinHashLSH with the same sketches and bands is found."""
    from datasketch import MinHash, MinHashLSH

    rng = random.Random(3)
    texts = [near.normal(r["prompt"][-1]["content"]) for r in clean_rows(150)]
    texts += [t + " " + "ok" * rng.randint(1, 3) for t in texts[:60]] + [t[4:] for t in texts[60:120]]
    lsh = MinHashLSH(threshold=near.THRESHOLD, num_perm=near.PERMUTATIONS, weights=near.RECALL)
    grams = [near.shingles(t) for t in texts]
    hashes = MinHash.bulk([[g.encode() for g in own] for own in grams], num_perm=near.PERMUTATIONS)
    for i, h in enumerate(hashes):
        lsh.insert(i, h)
    expected = near.Union(len(texts))
    for i, h in enumerate(hashes):
        for j in lsh.query(h):
            if near.jaccard(grams[i], grams[j]) >= near.THRESHOLD:
                expected.join(i, j)
    roots = near.clusters(texts)
    exact = near.Union(len(texts))
    for i in range(len(texts)):
        for j in range(i):
            if near.jaccard(grams[i], grams[j]) >= near.THRESHOLD:
                exact.join(i, j)
    true = [exact.root(i) for i in range(len(texts))]
    ours = sum(a == b for a, b in zip(roots, true, strict=True))
    theirs = sum(expected.root(i) == t for i, t in enumerate(true))
    assert ours >= theirs - 2
    assert all(true[i] == true[root] for i, root in enumerate(roots))
    assert len(set(roots)) < 150 + 60


@settings(max_examples=20, deadline=None)
@given(st.lists(st.text(max_size=60), min_size=1, max_size=8))
def test_a_sketch_estimates_jaccard_and_equal_texts_fall_together(texts):
    roots = near.clusters([*texts, *texts])
    assert roots[: len(texts)] == roots[len(texts) :]
    sketches = near.Sketches()
    for text in texts:
        sketches.add(near.normal(text))
    for keys in sketches.bands():
        assert len(keys) == len(texts)


def test_a_large_bucket_costs_few_comparisons(monkeypatch):
    counted = []
    exact = near.jaccard
    monkeypatch.setattr(near, "jaccard", lambda a, b: counted.append(1) or exact(a, b))
    texts = [f"the very same long prompt about the weather in the town of number {i % 7}" for i in range(400)]
    assert len(set(near.clusters(texts))) == 1
    assert len(counted) < 20 * 400


def test_a_split_by_near_duplicates_leaks_nothing(tmp_path):
    defect = DEFECTS["nearly the same across the split"]
    rows = defect.plant(clean_rows(COUNT), random.Random(1))
    path = write_lines(tmp_path / "rows.jsonl", rows)
    apart = DataSpec(path=str(path), heldout=0.3, split_by="near_duplicates")
    assert by_name(audit(apart, Settings(only=frozenset(["grouped_split"]))))["grouped_split"].level == "ok"
    data = load(apart, "pairs")
    assert 0.15 < len(data.heldout) / len(rows) < 0.45
    assert {g.prompt.id for g in data.train}.isdisjoint(g.prompt.id for g in data.heldout)


# Turns, cycles, annotators, leakage

TURNS = st.lists(st.sampled_from(["user", "assistant"]), min_size=1, max_size=6)


@given(TURNS, st.booleans())
def test_turns_alternate_exactly_where_no_two_neighbours_are_the_same(roles, system):
    turns = [{"role": r, "content": "x"} for r in roles]
    if system:
        turns = [{"role": "system", "content": "s"}, *turns]
    right = roles[0] == "user" and all(a != b for a, b in itertools.pairwise(roles))
    assert schema.alternates(turns) is right


def test_a_tool_answers_a_call_and_nothing_else():
    call = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f"}}]}
    asked, tool = {"role": "user", "content": "q"}, {"role": "tool", "content": "1"}
    said = {"role": "assistant", "content": "a"}
    assert schema.alternates([asked, call, tool, tool, said])
    assert not schema.alternates([asked, said, tool, said])


@settings(max_examples=10, deadline=None)
@given(length=st.integers(3, 12))
def test_a_cycle_of_any_length_is_found_and_a_chain_is_none(length, tmp_path_factory):
    rows = clean_rows(length)
    prompt, answers = rows[0]["prompt"], [r["chosen"] for r in rows]
    ring = [
        {"prompt": prompt, "chosen": answers[i], "rejected": answers[(i + 1) % length]} for i in range(length)
    ]
    folder = tmp_path_factory.mktemp("ring")
    found = by_name(look(folder, ring, only=["preference_cycles", "contradictions"]))
    assert found["preference_cycles"].count == length
    assert found["contradictions"].count == 0
    chain = by_name(look(folder, ring[:-1], only=["preference_cycles"]))
    assert chain["preference_cycles"].count == 0


def test_the_alpha_is_that_of_nltk(tmp_path):
    """Krippendorff's alpha of nltk on the same ratings, nominal."""
    agreement = pytest.importorskip("nltk.metrics.agreement")
    rows = DEFECTS["annotator at random"].plant(clean_rows(80), random.Random(2))
    found = by_name(look(tmp_path, rows, only=["agreement"]))
    first = {r["id"]: min(r["chosen"], r["rejected"], key=number) for r in rows}
    task = agreement.AnnotationTask([(r["annotator"], r["id"], first[r["id"]] == r["chosen"]) for r in rows])
    assert found["agreement"].numbers["alpha"] == pytest.approx(task.alpha(), abs=1e-6)


def test_only_the_bad_annotator_is_named(tmp_path):
    for name, bad in (("annotator at random", "c"), ("annotator against all", "e")):
        rows = DEFECTS[name].plant(clean_rows(200), random.Random(4))
        found = by_name(look(tmp_path, rows, only=["annotators"]))["annotators"]
        assert [line[0] for line in found.table if line[-1]] == [bad]
        assert found.count == sum(r["annotator"] == bad for r in rows)
    assert annotators._majority([1.0, -1.0]) is None


@settings(max_examples=50, deadline=None)
@given(st.lists(st.sampled_from("abcdefgh"), min_size=13, max_size=40))
def test_thirteen_words_in_a_row_are_found_wherever_they_stand(words):
    text = " ".join(words)
    inside = f"Before it {text.upper()}, and after."
    assert np.isin(leakage.grams(text), leakage.grams(inside)).all()


def test_the_boilerplate_of_a_suite_gives_nothing_away(tmp_path):
    begin = "You are given a question and have to answer it in one short and plain sentence only:"
    questions = [r["prompt"][-1]["content"] for r in clean_rows(60, seed=9)]
    suite = write_lines(tmp_path / "suite.jsonl", [{"prompt": f"{begin} {q}"} for q in questions])
    rows = clean_rows(40)
    rows[0]["prompt"] = [{"role": "user", "content": f"{begin} {rows[0]['prompt'][-1]['content']}"}]
    suites = {"suite": DataSpec(path=str(suite), heldout=0)}
    found = by_name(look(tmp_path, rows, only=["evaluation_leakage"], suites=suites))
    assert found["evaluation_leakage"].level == "ok"


def test_a_missing_extra_is_named_before_anything_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(extras.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"kilter\[pii\]"):
        audit(DataSpec(path=str(tmp_path / "no.jsonl")), Settings(look_for=frozenset(["pii"])))


def test_sensitive_rows_are_counted_by_whatever_finds_them(tmp_path, monkeypatch):
    """The families work with any finder; the packages themselves are tried where they are installed."""
    monkeypatch.setattr(extras, "require", lambda names, field: None)
    monkeypatch.setattr(extras, "personal_data", lambda: lambda text: {"MAIL"} if "@" in text else set())
    monkeypatch.setattr(extras, "toxicity", lambda: lambda texts: [float("idiot" in t) for t in texts])
    rows = clean_rows(40)
    rows[2]["prompt"][-1]["content"] += " a@b"
    rows[3]["chosen"] += " idiot"
    rows[4]["rejected"] += " idiot"
    found = by_name(look(tmp_path, rows, look_for=frozenset(["pii", "toxicity"])))
    assert found["personal_data"].ids == ("r2",)
    assert found["personal_data"].table == (("MAIL", "1"),)
    assert found["toxicity"].ids == ("r3",)
    assert found["toxicity"].numbers["worse"] == 1


def test_a_filter_leaves_out_what_it_names_and_says_so(tmp_path):
    rows = clean_rows(30)
    rows[3]["rejected"] = rows[3]["chosen"]
    rows[5]["chosen"] += " caf\ufffd"
    found = look(tmp_path, [*rows, rows[7]])
    target = tmp_path / "clean.jsonl"
    done = filtered(found, ["identity", "exact_duplicates"], target)
    groups = {g.prompt.id: g for g in store.read(target)}
    assert done.kept == len(groups) == 29
    assert done.dropped == {"identity": 1, "exact_duplicates": 1}
    assert [g.prompt.columns.get("flags") for g in groups.values()].count(["encoding"]) == 1
    (entry,) = lineage(groups["r4"].prompt)
    assert (entry["kind"], entry["row"], entry["data_hash"]) == ("filter", "r4", found.data_hash)
    note = json.loads((tmp_path / "clean.jsonl.filter.json").read_text())
    assert note["sha256"] == sha256_file(target)
    assert [row[1] for row in note["rows"]] == ["r3", "r7"]
    with pytest.raises(UserError, match="was not checked"):
        filtered(found, ["truncation"], tmp_path / "none.jsonl")


def test_an_error_ends_the_run_and_names_the_waiver(tmp_path, tiny, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = clean_rows(30)
    rows[3]["rejected"] = rows[3]["chosen"]
    path = write_lines(tmp_path / "rows.jsonl", rows)
    data = {"path": str(path), "on_bad_row": "skip", "heldout": 0}
    recipe = {"model": str(tiny), "data": data, "stages": {"audit": {"audit": {}}}}
    (tmp_path / "r.yaml").write_text(json.dumps(recipe))
    with pytest.raises(UserError, match=r"fails the audit[^$]*waive: {identity: the reason}"):
        kilter.run(tmp_path / "r.yaml")
    recipe["stages"]["audit"]["audit"] = {"waive": {"identity": "known"}}
    (tmp_path / "r.yaml").write_text(json.dumps(recipe))
    assert kilter.run(tmp_path / "r.yaml") == 0
    assert (tmp_path / "runs" / "r" / "audit" / "audit.html").is_file()
