"""kilter compare at toy scale: cells, one page, resumption per cell, settings that vary, and honest headlines."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest
import yaml

from kilter.cli import main
from kilter.errors import UserError
from kilter.study import page, study
from kilter.study.table import sign_flip
from kilter.training.parallel import launch


def spec(tiny, **changes) -> dict:
    desk = {"path": "builtin:support-desk", "heldout": 0.3, "world": {"n": 20}}
    return {
        "model": str(tiny),
        "data": {"demos": desk, "pairs": dict(desk)},
        "start": {"data": "$demos", "max_steps": 1, "batch_size": 4, "max_length": 300},
        "methods": {"dpo": "dpo", "flat": {"method": {"name": "ipo", "beta": 0.5}, "learning_rate": 1e-3}},
        "train": {"data": "$pairs", "max_steps": 2, "batch_size": 4, "max_length": 300},
        "seeds": [0, 1],
        "evaluate": {"data": "$pairs", "max_new_tokens": 6, "tax": "$demos", "tax_limit": 4},
    } | changes


def write(tmp_path, content) -> str:
    path = tmp_path / "toy.yaml"
    path.write_text(yaml.safe_dump(content))
    return str(path)


def kilter(monkeypatch, capsys, *args) -> tuple[int, str]:
    monkeypatch.setattr(sys, "argv", ["kilter", *args])
    with pytest.raises(SystemExit) as stop:
        main()
    text = capsys.readouterr()
    return int(stop.value.code or 0), text.out + text.err


def test_cells_and_their_recipe(tiny, tmp_path):
    loaded = study.load(
        _path(
            write(tmp_path, spec(tiny, vary={"pairs.limit": [8, 12], "pairs.world.label_noise": [0.0, 0.5]}))
        )
    )
    found = study.cells(loaded)
    assert len(found) == 16
    assert found[0].stage == "dpo__limit-8__label_noise-0_0__s0"
    expanded = study.expand(loaded)
    assert list(expanded.stages) == ["start", *(c.stage for c in found), "eval"]
    noisy = next(c for c in found if dict(c.setting) == {"pairs.limit": 12, "pairs.world.label_noise": 0.5})
    data = expanded.data[expanded.stages[noisy.stage].spec.data.removeprefix("$")]
    assert (data.limit, data.world.label_noise) == (
        None,
        0.5,
    )  # the limit is the training side's: the held-out prompts stay the same
    assert expanded.stages[noisy.stage].spec.limit == 12
    assert expanded.stages[noisy.stage].spec.seed == noisy.seed


def _path(text):
    from pathlib import Path

    return Path(text)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"methods": {"dpo": "dop"}}, "method"),
        ({"seedz": [1]}, "seedz"),
        ({"vary": {"nothing.limit": [1]}}, "vary.nothing.limit"),
        ({"stages": {}}, "stages"),
        ({"train": {"data": "$pears"}}, "data"),
        ({"methods": {"rm": "bradley_terry"}}, "methods.rm"),
        ({"methods": {"g": "grpo"}}, "methods.g"),
        ({"vary": {"demos.world.demo_skill": [0.1, 0.9]}}, "vary.demos.world.demo_skill"),
        ({"vary": {"pairs.world.n": [10, 20]}}, "vary.pairs.world.n"),
        ({"seeds": [0, 0]}, "seeds"),
        ({"train": {"data": "$pairs", "seed": 3}}, "train.seed"),
        ({"evaluate": {"data": "$pairs", "tax": "$no"}}, "`evaluate.tax"),
        ({"evaluate": {"data": "$pairs", "limit": 0}}, "`evaluate.limit"),
        ({"start": {"data": "$demos", "max_steps": 0}}, "`start.max_steps"),
        ({"train": {"data": "$pairs", "epochs": 0}}, "`train.epochs"),
        ({"methods": {"x": {"method": "ipo", "epochs": 0}}}, "`methods.x.epochs"),
        ({"methods": {"x": {"name": "ipo", "beta": 0}}}, "`methods.x.beta"),
        ({"vary": {"pairs.limit": []}}, "`vary.pairs.limit` = [] has no value"),
        ({"vary": {"pairs.limit": [8, 8]}}, "`vary.pairs.limit` = [8, 8] names a value twice"),
        ({"vary": {"pairs.limit": [8, 0]}}, "`vary.pairs.limit` = 0"),
        ({"vary": {"pairs.world.label_noise": [0.0, 7]}}, "`vary.pairs.world.label_noise` = 7"),
        ({"vary": {"pairs.nope": [1]}}, "`vary.pairs.nope` = 1 is not a known key"),
    ],
)
def test_wrong_studies_are_refused(tiny, tmp_path, change, field):
    with pytest.raises(UserError, match=r"(?s)" + re.escape(field) + r".*Fix:"):
        study.load(_path(write(tmp_path, spec(tiny, **change))))


def test_a_comparison_runs_reports_and_resumes(tiny, tmp_path, monkeypatch, capsys):
    path = write(tmp_path, spec(tiny))
    runs = str(tmp_path / "runs")
    isolated, apart = [], launch.run

    def run(trainer):
        """The first cell in a process of its own, as all are; the others here, for the time that a process takes to start."""
        isolated.append(trainer.out.name)
        return (apart if isolated[-1] == "dpo__s0" else launch.train)(trainer)

    monkeypatch.setattr(launch, "run", run)
    code, text = kilter(monkeypatch, capsys, "compare", path, "--dry-run", "--runs", runs)
    assert code == 0
    assert "4 runs of 2 methods, about" in text
    assert text.split()[:3] == ["stage", "rows", "time"]
    assert not (tmp_path / "runs").exists()
    code, text = kilter(monkeypatch, capsys, "compare", path, "--runs", runs)
    assert code == 0, text
    assert isolated == ["start", "dpo__s0", "dpo__s1", "flat__s0", "flat__s1"]
    folder = tmp_path / "runs" / "toy"
    found = json.loads((folder / "compare.json").read_text())
    assert {r["title"] for r in found["rows"]} == {"dpo", "flat (ipo)"}
    for row in found["rows"]:
        assert row["seeds"] == 2
        seen = row["over_seeds"]["difference"]
        assert len(seen["means"]) == 2
        assert sum(seen["means"]) / 2 == pytest.approx(row["metrics"]["difference"]["value"])
        assert seen["ci_low"] <= min(seen["means"]) <= max(seen["means"]) <= seen["ci_high"]
        # In the table that is printed, in the file for people, and on the page.
        for shown in (text, (folder / "compare.md").read_text(), (folder / "compare.html").read_text()):
            assert page.by_seed(row) in shown
        assert {"score", "difference", "win_rate", "kl", "length", "tax", "diversity"} <= set(row["metrics"])
        assert row["p"] <= row["p_holm"] <= 1
        assert row["peak_memory_gb"] > 0
        assert row["seconds"] > 0
    assert page.of_seeds(found) in text
    html = (folder / "compare.html").read_text()
    assert "<svg" in html
    assert "src=" not in html
    assert any(w in html for w in ("No method beats the start", "gained most", "leads, not alone"))
    code, text = kilter(monkeypatch, capsys, "compare", path, "--runs", runs)  # nothing is trained again
    assert code == 0
    assert text.count("unchanged, taken from") == 6
    (folder / "dpo__s1" / "model" / "model.safetensors").unlink()
    import shutil

    shutil.rmtree(folder / "dpo__s1" / "model")
    code, text = kilter(monkeypatch, capsys, "compare", path, "--runs", runs)  # one cell alone
    assert code == 0
    assert text.count("▶") == 1

    # Labels and values are anybody's: text on the page, and within their cells in Markdown.
    hostile = "</svg><script>alert(1)</script> | a\nb <img src=x onerror=alert(1)>"
    shown = json.loads((folder / "compare.json").read_text())
    shown |= {"name": hostile, "judge": hostile}
    for row in shown["rows"]:
        row |= {"title": hostile, "models": [hostile]}
    loaded = study.load(Path(path))
    written = page.html(loaded, shown)
    assert "alert(1)" in written
    assert not re.search(r"<(script|img)\b", written)
    table = [line for line in page.markdown(shown).splitlines() if line.startswith("|")]
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table}) == 1
    assert "<script" not in page.markdown(shown)


def test_headlines_say_what_the_numbers_say():
    def row(method, value, low, high, p, behind=None):
        apart = None if behind is None else {"value": 0.1, "ci_low": 0.0, "ci_high": 0.2, "p_holm": behind}
        return {
            "method": method,
            "title": method,
            "setting": {},
            "p_holm": p,
            "behind": apart,
            "metrics": {"difference": {"value": value, "ci_low": low, "ci_high": high}},
        }

    base = {
        "compared_on": "50 prompts",
        "measure": "gold",
        "prompts": 50,
        "seeds": [0, 1],
        "rows": [row("a", 0.1, -0.1, 0.3, 0.4), row("b", 0.0, -0.2, 0.2, 1.0, 0.9)],
    }
    headline, _, better = page.verdict(base)
    assert not better
    assert "No method" in headline
    rows = [
        row("a", 0.3, 0.2, 0.4, 0.001),
        row("b", 0.25, 0.1, 0.35, 0.2, 0.4),
        row("c", -0.3, -0.4, -0.2, 0.01, 0.001),
    ]
    headline, line, better = page.verdict(base | {"rows": rows})
    assert better
    assert headline == "a leads, not alone"
    assert "1 is worse" in line
    assert "cannot be told apart from b." in line  # b does not beat the start, and still may be as good as a
    headline, line, _ = page.verdict(base | {"rows": [rows[0], rows[2]]})
    assert headline == "a gained most"
    assert "Beware" not in line
    more = {"value": 0.4, "ci_low": 0.2, "ci_high": 0.6}
    rows[0]["metrics"] |= {"over_refusal": {"value": 0.93}, "over_refusal_change": more}
    start = {"start": {"over_refusal": {"value": 0.5}}}
    _, line, _ = page.verdict(base | start | {"rows": [rows[0], rows[2]]})
    assert "Beware: it declines 93% of the safe requests (the start 50%)." in line


def test_sign_flip_is_exact_where_it_can_be():
    assert sign_flip([1.0] * 3) is None
    assert sign_flip([0.0] * 8) == 1.0
    assert sign_flip([1.0] * 10) == pytest.approx(2 / 1024, abs=1e-9)
    assert sign_flip([1.0, -1.0] * 5) == 1.0


def test_a_published_sentence_names_the_price_and_the_doubt(tmp_path, monkeypatch):
    from types import SimpleNamespace

    from kilter.study import page

    def row(name, p, declined):
        metrics = {
            "difference": {"value": 0.2, "ci_low": 0.1, "ci_high": 0.3},
            "kl": {"value": 5.0},
            "over_refusal": {"value": declined},
        }
        return {
            "name": name,
            "metrics": metrics,
            "setting": {},
            "seeds": 3,
            "behind": None if p is None else {"p_holm": p},
        }

    found = {
        "rows": [row("dpo", None, 0.9), row("ipo", 0.4, 0.6)],
        "prompts": 50,
        "start": {"over_refusal": {"value": 0.5}},
    }
    (tmp_path / "compare.json").write_text(json.dumps(found))
    (tmp_path / "results.json").write_text(json.dumps({"dpo": {"older": "older: kept"}}))
    monkeypatch.setattr(page, "RESULTS", tmp_path / "results.json")
    assert page.publish(SimpleNamespace(name="mine", vary={"pairs.limit": [300]}), tmp_path) == 2
    known = json.loads((tmp_path / "results.json").read_text())
    assert known["dpo"]["older"] == "older: kept"
    text = "mine: score +0.200 [+0.100, +0.300] over the start, KL 5.0 nats, safe requests declined 50% to 90%, 50 prompts, 3 seeds"
    assert known["dpo"]["mine"] == f"{text}; none of the other 1 methods could be told apart from the first"
    found["rows"][1]["behind"]["p_holm"] = 0.01
    (tmp_path / "compare.json").write_text(json.dumps(found))
    page.publish(SimpleNamespace(name="mine", vary={}), tmp_path)
    assert json.loads((tmp_path / "results.json").read_text())["dpo"]["mine"] == text
    with pytest.raises(UserError, match="one value of each"):
        page.publish(SimpleNamespace(name="mine", vary={"pairs.limit": [300, 1000]}), tmp_path)


def test_pairs_of_ones_own_are_compared_without_a_judge(tiny, tmp_path, monkeypatch, capsys):
    """A score without asking: held-out pairs by the policies' own log-probs; and what a judge would add."""
    rows = [{"prompt": f"Say {i}", "chosen": "aaaa" * (1 + i % 2), "rejected": "zz zz"} for i in range(40)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    own = {
        "model": str(tiny),
        "data": {"path": str(tmp_path / "pairs.jsonl"), "heldout": 0.3},
        "start": {"max_steps": 1, "batch_size": 4},
        "methods": {"dpo": "dpo", "slow": {"method": "dpo", "learning_rate": 1e-9}},
        "train": {"max_steps": 4, "batch_size": 4, "learning_rate": 1e-3},
        "seeds": [0],
        "evaluate": {"max_new_tokens": 4},
    }
    # In this process: nobody looks at the memory of each run here.
    monkeypatch.setattr(launch, "run", launch.train)
    code, text = kilter(
        monkeypatch, capsys, "compare", write(tmp_path, own), "--runs", str(tmp_path / "runs")
    )
    assert code == 0, text
    assert "judge: {data: $pairs}" in text
    assert "how good new answers are" in text
    found = json.loads((tmp_path / "runs" / "toy" / "compare.json").read_text())
    assert found["measure"] == "implicit_accuracy"
    assert "held-out pairs" in found["compared_on"]
    best = found["rows"][0]
    assert best["method"] == "dpo"
    assert best["metrics"]["score"]["value"] == 1.0
    assert best["accuracy"] == 1.0  # the method's own reward accuracy agrees
    assert best["p_holm"] < 0.05
    assert found["start"]["score"]["value"] == 0.5


def test_a_judge_or_a_gold_source_decides_where_there_is_one(tiny, tmp_path):
    own = spec(tiny)
    assert study.has_judge(study.Study.model_validate(own | {"name": "x"}))
    own["data"]["pairs"]["path"] = "mine.jsonl"
    assert not study.has_judge(study.Study.model_validate(own))
    assert study.has_judge(study.Study.model_validate(own | {"judge": {}}))
    assert study.has_judge(study.Study.model_validate(own | {"evaluate": own["evaluate"] | {"gold": "math"}}))


def test_a_list_of_methods_names_them_as_they_are(tmp_path, tiny, pairs_file):
    path = tmp_path / "c.yaml"
    path.write_text(
        f"model: {tiny}\ndata: {{path: {pairs_file}, heldout: 0.3}}\nstart: {{method: sft}}\nmethods: [dpo, ipo]\n"
    )
    assert study.load(path).methods == {"dpo": "dpo", "ipo": "ipo"}


def of_seeds(*means):
    """A row whose seeds gained as much."""
    from kilter.study.table import between

    return {"title": "m", "setting": {}, "over_seeds": {"difference": between(list(means))}}


def test_seeds_are_draws():
    """By hand: 1, 2, 3 have the mean 2 and the error 1/sqrt(3); Student's t with 2 degrees is 4.303."""
    from kilter.study.table import between

    found = between([1.0, 2.0, 3.0])
    assert found["ci_low"] == pytest.approx(2 - 4.302653 / 3**0.5)
    assert found["ci_high"] == pytest.approx(2 + 4.302653 / 3**0.5)
    assert between([1.0]) == {"means": [1.0], "ci_low": None, "ci_high": None}


def test_seeds_that_disagree_are_said_in_words():
    split, wide, sure, alone = (
        of_seeds(0.2, -0.1, 0.1),
        of_seeds(0.3, 0.1),
        of_seeds(0.1, 0.1001),
        of_seeds(0.2),
    )
    assert page.disagrees(split)
    assert not page.disagrees(wide)
    assert page.undecided(wide)
    assert not page.undecided(sure)
    assert "-0.100" in page.by_seed(split)
    assert page.by_seed(split).endswith("disagree, 0 is inside")
    assert page.by_seed(wide).endswith("0 is inside")
    assert page.by_seed(alone) == "+0.200 (one seed)"
    said = page.of_seeds({"rows": [split | {"title": "a"}, wide | {"title": "b"}, sure], "seeds": [0, 1, 2]})
    assert "disagree in sign: a. Intervals over seeds that hold 0: a, b." in said
    assert "one seed" in page.of_seeds({"rows": [alone], "seeds": [0]})


def test_the_headline_names_the_doubt_of_its_seeds():
    metric = {"value": 0.1, "ci_low": 0.05, "ci_high": 0.15}
    row = of_seeds(0.3, -0.1, 0.1) | {"metrics": {"difference": metric}, "p_holm": 0.001, "behind": None}
    found = {"rows": [row], "seeds": [4, 5, 6], "compared_on": "60 prompts", "measure": "gold", "start": {}}
    assert "Its seeds disagree: 5 lost. Over seeds the interval is [" in page.verdict(found)[1]
    row |= of_seeds(0.3, 0.1, 0.1)
    assert "and holds 0: another seed may gain nothing." in page.verdict(found)[1]
    assert (
        "1 of 1 beat the start after Holm's correction (0 of them over seeds too)" in page.verdict(found)[1]
    )


def test_what_varies_is_run_and_drawn(tiny, tmp_path, monkeypatch, capsys):
    """Two fields with two values each, as a user would: rows, lines, a page and a sheet."""
    vary = {"pairs.limit": [4, 8], "pairs.world.label_noise": [0.0, 0.5]}
    path = write(tmp_path, spec(tiny, vary=vary, seeds=[0], methods={"dpo": "dpo"}))
    runs = tmp_path / "runs"
    monkeypatch.setattr(launch, "run", launch.train)  # a process for each run is tested above
    code, text = kilter(monkeypatch, capsys, "compare", path, "--runs", str(runs))
    assert code == 0, text
    found = json.loads((runs / "toy" / "compare.json").read_text())
    assert [r["setting"] for r in found["rows"]] == [
        {"pairs.limit": limit, "pairs.world.label_noise": noise} for limit in (4, 8) for noise in (0.0, 0.5)
    ]
    lines = [line for line in text.splitlines() if line.startswith("| dpo |")]
    assert [line.split("|")[2:4] for line in lines] == [
        [f" {limit} ", f" {noise} "] for limit in (4, 8) for noise in (0.0, 0.5)
    ]
    written = (runs / "toy" / "compare.html").read_text()
    assert "With more data, with worse labels" in written
    assert "label noise 0.5" in written
    assert "one seed: nobody knows" in written
    assert (
        (runs / "toy" / "compare.csv").read_text().startswith("method,pairs.limit,pairs.world.label_noise,")
    )
    # The training side alone is cut: all runs answer the same prompts.
    manifest = json.loads((runs / "toy" / "dpo__limit-4__label_noise-0_5__s0" / "manifest.json").read_text())
    assert manifest["config"]["limit"] == 4
    code, text = kilter(monkeypatch, capsys, "compare", path, "--runs", str(runs), "--publish")
    assert code == 2
    assert "`--publish` = 'toy' varies something" in text
