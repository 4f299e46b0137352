"""What a trained model is used for afterwards: preference models judge, adapters merge, wrong uses are refused."""

from __future__ import annotations

import json
import shutil
import sys

import pytest
import torch

import kilter
from kilter.cli import main
from kilter.errors import UserError
from kilter.feedback.classifier import RewardModel
from kilter.feedback.context import Context
from kilter.feedback.preference_model import PreferenceModel
from kilter.models.load import load_causal, reads_pairs
from kilter.types import Completion, Feedback, Group, Prompt


@pytest.fixture(scope="module")
def preference(tiny, tmp_path_factory):
    """A pairwise preference model that learned 'good' from 'bad'."""
    import json

    from conftest import pair_rows

    folder = tmp_path_factory.mktemp("preference")
    data = folder / "pairs.jsonl"
    data.write_text("".join(json.dumps(r) + "\n" for r in pair_rows(24)))
    kilter.train(
        str(tiny),
        {"path": str(data), "heldout": 0},
        "pairwise_preference",
        folder / "out",
        max_steps=40,
        batch_size=8,
        learning_rate=5e-3,
        max_length=256,
    )
    return folder / "out" / "model"


def group(*texts) -> Group:
    return Group(
        Prompt(messages=({"role": "user", "content": "Question 3"},)),
        tuple(map(Completion, texts)),
        (Feedback(None),) * len(texts),
    )


def test_a_preference_model_scores_by_wins(preference):
    assert reads_pairs(preference)
    judge = PreferenceModel(str(preference), Context())
    (pair,) = judge([group("good 3 yyy", "bad answer 3")])
    assert pair[0].score + pair[1].score == pytest.approx(
        1.0, abs=1e-6
    )  # symmetric in the order, by construction
    assert pair[0].score > 0.6
    (three,) = judge([group("good 3 yyy", "bad answer 3", "bad answer 4")])
    assert sum(f.score for f in three) == pytest.approx(1.5, abs=1e-6)
    assert three[0].score == max(f.score for f in three)
    (alone,) = judge([group("good 3")])
    assert alone[0].score is None
    assert "two answers" in alone[0].rationale


def test_models_are_not_used_for_what_they_are_not(preference, tiny):
    with pytest.raises(UserError, match="reads two answers at once"):
        RewardModel(preference)
    with pytest.raises(UserError, match="scores single answers"):
        PreferenceModel(str(tiny), Context())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "distill"}, "teacher` = None is required"),
        ({"method": "dpo", "teacher": "x"}, "is not used by this method"),
        ({"method": "dpo", "adapter": {"target": ["no_such_layer"]}}, "names no layer"),
        pytest.param(
            {"method": "dpo", "adapter": {"kind": "qlora"}},
            "needs a CUDA GPU",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU"),
        ),
        pytest.param(
            {"method": "dpo", "activation_offloading": True},
            "there is none",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU"),
        ),
        ({"method": "dpo", "fsdp": True}, "there is one"),
    ],
    ids=str,
)
def test_settings_that_cannot_work_are_refused_before_any_work(tiny, pairs_file, tmp_path, options, message):
    with pytest.raises(UserError, match=message):
        kilter.train(str(tiny), str(pairs_file), options.pop("method"), tmp_path / "out", **options)


def test_an_adapter_is_merged_on_its_way_out(tiny, pairs_file, tmp_path, monkeypatch, capsys):
    kilter.train(
        str(tiny),
        str(pairs_file),
        "dpo",
        tmp_path / "out",
        max_steps=2,
        batch_size=4,
        learning_rate=1e-2,
        adapter={"r": 4},
    )

    def export(model, target, *more):
        monkeypatch.setattr(sys, "argv", ["kilter", "export", str(model), "--to", str(target), *more])
        with pytest.raises(SystemExit) as stop:
            main()
        return int(stop.value.code or 0)

    target = tmp_path / "merged"
    for want in (0, 2):  # the second time the folder is there, and nothing is overwritten
        assert export(tmp_path / "out" / "model", target, "--merge") == want
    merged, own = load_causal(target).state_dict(), load_causal(tmp_path / "out" / "model").state_dict()
    assert not (target / "adapter_config.json").exists()
    assert json.loads((target / "evidence" / "export.json").read_text())["merged"] is True
    assert (target / "trained_prompts.txt").read_text() == (
        tmp_path / "out" / "trained_prompts.txt"
    ).read_text()
    for name, value in own.items():
        torch.testing.assert_close(merged[name], value)
    apart = tmp_path / "apart"
    assert export(tiny, apart, "--untie") == 0
    tied, untied = load_causal(tiny), load_causal(apart)
    assert untied.get_output_embeddings().weight.data_ptr() != untied.get_input_embeddings().weight.data_ptr()
    ids = torch.arange(5, 25)[None]
    assert torch.equal(tied(ids).logits, untied(ids).logits)
    with torch.no_grad():
        untied.get_output_embeddings().weight.mul_(2.0)  # a head of its own stays what it is
    louder = shutil.copytree(apart, tmp_path / "louder")
    untied.save_pretrained(louder)
    assert export(louder, tmp_path / "twice", "--untie") == 0
    assert torch.equal(untied(ids).logits, load_causal(tmp_path / "twice")(ids).logits)
    assert export(tiny, tmp_path / "again", "--merge") == 2
    assert "is not an adapter" in capsys.readouterr().err


def test_the_second_method_on_the_same_data_starts_at_once(tiny, pairs_file, tmp_path, capsys):
    """Reference log-probs are found by the content of rows and model, whatever the method."""
    kilter.train(str(tiny), str(pairs_file), "dpo", tmp_path / "one", max_steps=1, batch_size=4)
    assert "found in the cache" not in capsys.readouterr().err
    kilter.train(str(tiny), str(pairs_file), "ipo", tmp_path / "two", max_steps=1, batch_size=4)
    assert "reference log-probs of all 6 groups found in the cache" in capsys.readouterr().err
