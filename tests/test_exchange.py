"""Results in the formats of inspect_ai and lm-eval: what is written is read by us and by their readers."""

from __future__ import annotations

import hashlib
import json
import math
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kilter import manifest
from kilter.errors import UserError
from kilter.evaluation.exchange import exchanges
from kilter.evaluation.exchange import inspect as inspect_logs
from kilter.evaluation.exchange import lm_eval as lm_eval_results
from kilter.evaluation.exchange.imported import Given, import_results
from kilter.evaluation.exchange.kilter import outcomes_of, write_evaluation
from kilter.evaluation.exchange.outcome import Asked, Number, Outcome
from kilter.release import gate as gates
from kilter.release.verify import verify
from test_chain import kilter

FORMATS = ("inspect", "lm-eval")
TEXT = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=20)
VALUE = st.none() | st.sampled_from([0.0, 0.5, 1.0])


def outcome(model: str = "dpo", values=(1.0, 0.0, None), task: str = "sums") -> Outcome:
    known = [v for v in values if v is not None]
    number = Number(
        sum(known) / len(known) if known else None,
        len(known),
        len(values) - len(known),
        None,
        (0.1, 0.9),
        "higher",
        "Wilson",
    )
    # Questions that share their words are one observation, here as in an evaluation of Kilter's own.
    words = [hashlib.sha256(str(i).encode()).hexdigest()[:20] for i in range(len(values))]
    asked = [Asked(str(i), f"What is {word}?", f"answer {i}", "42") for i, word in enumerate(words)]
    return Outcome(
        model, task, {"exact_match": number}, asked, {"exact_match": list(values)}, {"path": model}
    )


def again(name: str, made: Outcome, folder) -> Outcome:
    exchange = exchanges.get(name, "--to")
    files = [f for f in exchange.write([made], folder) if f.suffix == ".json"]
    assert all(exchange.fits(f) for f in files)
    assert not any(other.fits(files[0]) for key, other in exchanges if key != name)
    return exchange.read(files[0])[0]


@pytest.mark.parametrize("name", FORMATS)
@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(TEXT, TEXT, VALUE), min_size=1, max_size=5))
def test_what_is_written_is_read_again(name, tmp_path_factory, rows):
    made = Outcome(
        "a/b c",
        "sums",
        outcome().numbers,
        [Asked(str(i), prompt, answer) for i, (prompt, answer, _) in enumerate(rows)],
        {"exact_match": [v for _, _, v in rows]},
        {"path": "x"},
    )
    found = again(name, made, tmp_path_factory.mktemp("out"))
    assert (found.model, found.task) == (made.model, made.task)
    assert list(found.values["exact_match"]) == made.values["exact_match"]
    assert [(a.prompt, a.answer) for a in found.asked] == [(a.prompt, a.answer) for a in made.asked]
    assert found.numbers["exact_match"].value == 0.5


@pytest.mark.parametrize("name", FORMATS)
def test_an_imported_evaluation_pairs_its_models_and_keeps_what_is_unscored(name, tmp_path):
    base = outcome("base", [0.0] * 20 + [None])
    better = outcome("dpo", [1.0] * 20 + [1.0])
    read = [again(name, o, tmp_path / o.model) for o in (base, better)]
    made = write_evaluation(read, tmp_path / "made", [])
    metric = made["models"]["base"]["metrics"]["sums/exact_match"]
    assert (metric["value"], metric["n"], metric["n_unscored"]) == (0, 20, 1)
    difference = made["models"]["dpo"]["difference"]["sums/exact_match"]
    assert (difference["value"], difference["n"]) == (1, 20)
    assert difference["ci_low"] > 0.5
    assert "prompts_found_in_training_data" not in made  # the files do not say it, and unknown is not none
    # A gate reads it all the same, and says what nobody knows.
    from kilter.release import gate

    asked = {"metric": "sums/exact_match", "bound": "diff_ci_low", "op": ">", "value": 0, "max_unscored": 0.1}
    read_back = gate.read(tmp_path / "made" / "evaluation.json")
    verdict = gate.decide(gate.load_policy({"conditions": [asked]}), read_back)
    assert [c["state"] for c in verdict["conditions"]] == ["pass", "inconclusive"]
    assert verdict["verdict"] == "inconclusive"
    exported = outcomes_of(tmp_path / "made")
    assert [o.model for o in exported] == ["base", "dpo"]
    assert exported[1].asked[0].answer == "answer 0"


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("alike", ["named", "worded"])
def test_what_belongs_together_does_so_after_the_journey(name, alike, tmp_path):
    """Forty answers to twenty questions are twenty observations: a cluster says so, or the words do."""
    made = outcome("base", [float(i % 2) for i in range(40)])
    if alike == "named":
        asked = [replace(a, cluster=f"c{i % 20}") for i, a in enumerate(made.asked)]
    else:
        words = [hashlib.sha256(str(i % 20).encode()).hexdigest() for i in range(40)]
        asked = [replace(a, prompt=f"Say {w} {i}") for i, (a, w) in enumerate(zip(made.asked, words))]
    written = replace(made, asked=asked)
    read = [again(name, replace(written, model=model), tmp_path / model) for model in ("base", "dpo")]
    entry = write_evaluation(read, tmp_path / "made", [])["models"]["dpo"]
    assert entry["metrics"]["sums/exact_match"]["n_clusters"] == 20
    assert entry["difference"]["sums/exact_match"]["n_clusters"] == 20
    once_more = [again(name, o, tmp_path / "more" / o.model) for o in outcomes_of(tmp_path / "made")]
    entry = write_evaluation(once_more, tmp_path / "again", [])["models"]["dpo"]
    assert next(iter(entry["metrics"].values()))["n_clusters"] == 20


ASKED = {"metric": "sums/exact_match", "bound": "diff_ci_low", "op": ">", "value": 0, "max_unscored": 0.1}
LEAKAGE = {"owner": "Ada", "reason": "the suite is newer than the data", "expires": "2999-01-01"}


def imported(tmp_path, fmt: str) -> tuple[Path, Path, list[Path]]:
    """A folder that `kilter results import` made, a policy for it, and the files that it read."""
    exchange = exchanges.get(fmt, "--to")
    made = [outcome("base", [0.0] * 40), outcome("dpo", [1.0] * 40)]
    files = [file for o in made for file in exchange.write([o], tmp_path / "theirs" / o.model)]
    (tmp_path / "p.yaml").write_text(json.dumps({"conditions": [ASKED], "unmeasured_leakage": LEAKAGE}))
    results = [Given(f.parent.name, f) for f in files if f.suffix == ".json"]
    if fmt == "inspect":
        results = [Given(f.stem, f) for f in files]
    import_results(results, tmp_path / "made")
    return tmp_path / "made", tmp_path / "p.yaml", files


@pytest.mark.parametrize("name", FORMATS)
def test_an_imported_evaluation_passes_a_gate_that_says_so(name, tmp_path, monkeypatch, capsys):
    folder, policy, _ = imported(tmp_path, name)
    assert not verify(folder).broken
    code, said = kilter(monkeypatch, capsys, "gate", folder, "--policy", policy)
    assert code == 0, said
    assert "imported, and not recomputed" in said
    assert "imported, and not recomputed" in (folder / "gate.json").read_text()
    assert kilter(monkeypatch, capsys, "report", folder)[0] == 0
    assert "imported, and not recomputed" in (folder / "report.html").read_text()
    assert kilter(monkeypatch, capsys, "verify", folder)[0] == 0
    # Without somebody who answers for it, nobody knows whether it was trained on.
    policy.write_text(json.dumps({"conditions": [ASKED]}))
    code, said = kilter(monkeypatch, capsys, "gate", folder, "--policy", policy)
    assert (code, "leakage not measured" in said) == (3, True), said
    # The same command once more replaces what the first one wrote, verdict included.
    imported(tmp_path, name)
    assert not (folder / "gate.json").exists() and not verify(folder).broken


@pytest.mark.parametrize("name", FORMATS)
def test_one_changed_byte_of_an_import_or_of_its_source_is_named(name, tmp_path, monkeypatch, capsys):
    folder, policy, files = imported(tmp_path, name)
    own = [p for p in folder.rglob("*") if p.is_file() and p.name != ".lock"]
    assert {"manifest.json", "chain.json", "evaluation.json", "groups.jsonl"} <= {p.name for p in own}
    for path in (*own, *files):
        before = path.read_bytes()
        middle = len(before) // 2
        path.write_bytes(before[:middle] + bytes([before[middle] ^ 1]) + before[middle + 1 :])
        code, said = kilter(
            monkeypatch, capsys, "gate", folder, "--policy", policy, "--out", tmp_path / "out"
        )
        assert code in (1, 2) and str(path) in said, (path, said)
        assert path in {link.path for link in verify(folder).broken}
        path.write_bytes(before)
    files[0].unlink()
    code, said = kilter(monkeypatch, capsys, "gate", folder, "--policy", policy, "--out", tmp_path / "out")
    assert (code, f"{files[0]} is not here" in said) == (3, True), said


def test_numbers_without_single_values_decide_nothing(tmp_path):
    """A reported standard error of 0 after two prompts would pass whatever it is compared with."""
    from kilter.release import gate

    number = Number(1.0, 2, stderr=0.0, better="higher")
    made = [Outcome(name, "sums", {"exact_match": number}) for name in ("base", "dpo")]
    write_evaluation(made, tmp_path, [tmp_path / "results_1.json"])
    above = {"metric": "sums/exact_match", "bound": "ci_low", "op": ">", "value": 0.9}
    policy = gate.load_policy({"conditions": [above, ASKED]})
    verdict = gate.decide(policy, gate.read(tmp_path / "evaluation.json"))
    assert [c["state"] for c in verdict["conditions"][:2]] == ["inconclusive", "error"]
    assert all("import results with their samples" in c["why"] for c in verdict["conditions"][:2])


def test_other_questions_under_one_id_are_no_pair(tmp_path):
    made = [
        Outcome(name, "sums", {}, [Asked("1", "q", question=f"{name}?")], {"exact_match": [1.0]})
        for name in ("base", "dpo")
    ]
    with pytest.raises(UserError, match=r"dpo.*asked another question of sums under the id 1"):
        write_evaluation(made, tmp_path, [])


def test_an_import_writes_over_nothing_of_others(tmp_path):
    folder, _, files = imported(tmp_path, "inspect")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "evaluation.json").write_text("{}")
    with pytest.raises(UserError, match=r"other.*holds evaluation.json"):
        import_results([Given("", files[0])], tmp_path / "other")
    entry = manifest.read(folder)
    entry.kind = "evaluate"
    entry.write(folder)
    with pytest.raises(UserError, match="holds what a stage of kind evaluate made"):
        import_results([Given("", files[0])], folder)


def test_the_name_of_a_task_leads_to_no_other_folder(tmp_path):
    secret = tmp_path / "secret_1.jsonl"
    secret.write_text(json.dumps({"doc_id": 0, "metrics": ["acc"], "acc": 1, "filter": "none"}))
    path = tmp_path / "theirs" / "results_1.json"
    path.parent.mkdir()
    task = "x/../../secret"
    path.write_text(json.dumps({"results": {task: {"acc,none": 1.0}}, "versions": {}}))
    assert lm_eval_results.beside(path) == []
    made = import_results([Given("", path)], tmp_path / "made")
    (metric,) = next(iter(made["models"].values()))["metrics"].values()
    assert metric["reported"] and metric["ci_low"] is None


def test_two_results_of_one_name_are_refused(tmp_path):
    with pytest.raises(UserError, match="has two results on sums"):
        write_evaluation([outcome(), outcome()], tmp_path, [])


def test_a_log_of_inspect_with_epochs_grades_parts_and_nan(tmp_path):
    def sample(name, epoch, value):
        message = {"role": "assistant", "content": [{"type": "text", "text": "yes"}]}
        given = [{"role": "system", "content": "s"}, {"role": "user", "content": "q?"}]
        scores = {"match": {"value": value}, "judge": {"value": {"tone": 0.5, "fact": "C"}}}
        output = {"choices": [{"message": message}]}
        return {
            "id": name,
            "epoch": epoch,
            "input": given,
            "target": ["a", "b"],
            "output": output,
            "scores": scores,
        }

    log = {
        "version": 2,
        "status": "success",
        "eval": {"model": "m", "task": "t", "model_generate_config": {"temperature": 0}},
        "results": {
            "scores": [{"name": "match", "metrics": {"accuracy": {"value": 0.25}, "stderr": {"value": 0.1}}}]
        },
        "samples": [sample(1, 1, "C"), sample(1, 2, "I"), sample(2, 1, math.nan), sample(2, 2, math.nan)],
    }
    path = tmp_path / "log.json"
    path.write_text(json.dumps(log))
    with zipfile.ZipFile(tmp_path / "log.eval", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("header.json", json.dumps({k: v for k, v in log.items() if k != "samples"}))
        for one in log["samples"]:
            archive.writestr(f"samples/{one['id']}_epoch_{one['epoch']}.json", json.dumps(one))
    for file in (path, tmp_path / "log.eval"):
        assert inspect_logs.fits(file)
        (found,) = inspect_logs.read(file)
        assert found.values == {"match": [0.5, None], "judge/tone": [0.5, 0.5], "judge/fact": [1.0, 1.0]}
        assert found.asked[0] == Asked("1", "q?", "yes", "a, b")
        assert (found.numbers["match"].value, found.numbers["match"].stderr) == (0.25, 0.1)


def test_a_result_of_lm_eval_with_groups_filters_and_no_samples(tmp_path):
    found = {
        "results": {
            "group": {"alias": "group", "acc,none": 0.5},
            "gsm": {
                "alias": "gsm",
                "sample_len": 4,
                "exact_match,strict": 0.25,
                "exact_match_stderr,strict": 0.2,
                "exact_match,loose": 0.5,
                "exact_match_stderr,loose": "N/A",
            },
        },
        "group_subtasks": {"group": ["gsm"], "gsm": []},
        "versions": {"gsm": 3},
        "n-samples": {"gsm": {"original": 9, "effective": 4}},
        "higher_is_better": {"gsm": {"exact_match": True}},
        "model_name": "my/model",
        "configs": {"gsm": {}},
    }
    path = tmp_path / "results_2026.json"
    path.write_text(json.dumps(found))
    (made,) = lm_eval_results.read(path)
    assert made.numbers["exact_match,strict"] == Number(0.25, 4, 0, 0.2, None, "higher", "lm-eval")
    assert made.numbers["exact_match,loose"].stderr is None
    written = write_evaluation([made], tmp_path / "made", [path])["models"]["my/model"]["metrics"]
    strict = written["gsm/exact_match,strict"]
    assert (strict["n"], round(strict["ci_low"], 3), round(strict["ci_high"], 3)) == (4, -0.142, 0.642)
    assert strict["method"].startswith("as reported") and strict["reported"]
    assert written["gsm/exact_match,loose"]["ci_low"] is None


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("log.json", '{"eval": {}, "status": "success"}'),
        ("log.json", '{"eval": null, "status": "success"}'),
        ("results_1.json", '{"results": {"a": null}, "versions": {}}'),
        ("log.eval", "no archive"),
    ],
)
def test_a_damaged_file_is_refused_with_its_name(name, content, tmp_path):
    (tmp_path / name).write_text(content)
    exchange = next(e for _, e in exchanges if e.fits(tmp_path / name))
    with pytest.raises(UserError, match=rf"(?s){name}.*cannot be read.*Fix:"):
        exchange.read(tmp_path / name)


@pytest.mark.parametrize("nested", ["[" * 100_000, '{"a":' * 100_000])
def test_what_is_nested_too_deep_is_refused_as_damaged(nested, tmp_path):
    """An archive, samples beside results, and a file that no format knows."""
    with zipfile.ZipFile(tmp_path / "log.eval", "w") as archive:
        archive.writestr("samples/1.json", nested)
        archive.writestr("header.json", "{}")
    (tmp_path / "results_1.json").write_text('{"results": {"t": {"acc,none": 1}}, "versions": {}}')
    (tmp_path / "samples_t_1.jsonl").write_text(nested + "\n")
    for name in ("log.eval", "results_1.json"):
        exchange = next(e for _, e in exchanges if e.fits(tmp_path / name))
        with pytest.raises(UserError, match=rf"(?s){name}.*cannot be read.*Fix:"):
            exchange.read(tmp_path / name)
    (tmp_path / "log.json").write_text(nested)
    assert not any(e.fits(tmp_path / "log.json") for _, e in exchanges)
    with pytest.raises(UserError, match="is not an evaluation.json"):
        gates.read(tmp_path / "log.json")


def test_a_bomb_is_not_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(inspect_logs, "LARGEST", 1000)
    with zipfile.ZipFile(tmp_path / "log.eval", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("header.json", "0" * 5000)
    with pytest.raises(UserError, match="unpacks to more than"):
        inspect_logs.read(tmp_path / "log.eval")


def test_inspect_itself_reads_what_is_written(tmp_path):
    log = pytest.importorskip("inspect_ai.log")
    (path,) = inspect_logs.write([outcome()], tmp_path)
    found = log.read_eval_log(str(path))
    assert (found.status, found.eval.model, found.eval.task) == ("success", "dpo", "sums")
    assert found.results.scores[0].metrics["mean"].value == 0.5
    assert [s.output.completion for s in found.samples] == ["answer 0", "answer 1", "answer 2"]
    assert math.isnan(found.samples[2].scores["exact_match"].value)
    log.write_eval_log(found, str(tmp_path / "packed.eval"))
    (again_read,) = inspect_logs.read(tmp_path / "packed.eval")
    assert again_read.values == {"exact_match": [1.0, 0.0, None]}
    assert again_read.asked == inspect_logs.read(path)[0].asked
    # What inspect_ai itself wrote is a run that can be verified, and its log is among the sources.
    import_results([Given("", tmp_path / "packed.eval")], tmp_path / "made")
    assert f"file:{tmp_path / 'packed.eval'}" in manifest.read(tmp_path / "made").sources
    assert not verify(tmp_path / "made").broken


def test_lm_eval_itself_reads_what_is_written(tmp_path):
    utils = pytest.importorskip("lm_eval.utils")
    results = next(f for f in lm_eval_results.write([outcome()], tmp_path) if f.suffix == ".json")
    assert "exact_match|↑" in utils.make_table(json.loads(results.read_text())).replace(" ", "")


TASK = """task: kilter_sums
dataset_path: json
dataset_kwargs: {data_files: {test: DATA}}
test_split: test
output_type: generate_until
doc_to_text: "{{prompt}}"
doc_to_target: "{{answer}}"
generation_kwargs: {max_gen_toks: 4, until: ["\\n"], do_sample: false}
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
metadata: {version: 1.0}
"""


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_task_of_lm_eval_runs_on_models_of_kilter(tiny, tmp_path):
    pytest.importorskip("lm_eval")
    from kilter.evaluation.exchange.harness import Harness
    from kilter.screen import Screen

    rows = [{"prompt": f"What is {i} + 1?", "answer": str(i + 1)} for i in range(6)]
    (tmp_path / "sums.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "sums.yaml").write_text(TASK.replace("DATA", str(tmp_path / "sums.jsonl")))
    harness = Harness([str(tmp_path / "sums.yaml")], limit=4)
    made = harness.run({"old": str(tiny), "new": str(tiny)}, tmp_path / "out", Screen(stderr=True))
    estimate = made["models"]["new"]["metrics"]["kilter_sums/exact_match"]
    assert (estimate["n"], estimate["higher_is_better"]) == (4, True)
    assert made["models"]["new"]["difference"]["kilter_sums/exact_match"]["value"] == 0
    assert not verify(tmp_path / "out").broken


def test_without_lm_eval_the_command_says_what_to_install(monkeypatch, tmp_path):
    from kilter.evaluation.exchange.harness import Harness
    from kilter.screen import Screen

    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"(?s)not installed.*kilter\[lm-eval\]"):
        Harness(["arc_easy"]).run({"a": "nowhere"}, tmp_path, Screen(stderr=True))
