"""What leaves the house: a folder that others load as it is, with a card that says what is known and what is not."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard

import kilter
from conftest import pair_rows
from evidence_runs import make_run, seal
from kilter.cli import main
from kilter.errors import UserError
from kilter.models.fingerprint import model_hash
from kilter.release import export as exports


@pytest.fixture
def run(tiny, tmp_path):
    """A run whose gate judged the weights that lie in it."""
    folder = make_run(tmp_path / "desk", model_hash=model_hash(tiny)[:16])
    shutil.copytree(tiny, folder / "dpo" / "model")
    (folder / "dpo" / "trained_prompts.txt").write_text("a" * 64 + "\n")
    return seal(folder)


@pytest.fixture
def adapter(tiny, pairs_file, tmp_path):
    options = {"max_steps": 1, "batch_size": 4, "adapter": {"r": 2}}
    return kilter.train(str(tiny), str(pairs_file), "dpo", tmp_path / "lora", **options).model


def logits(folder):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        return model(torch.arange(5, 25)[None]).logits


def test_a_run_is_exported_with_its_verdict_and_keeps_its_hash(run, tiny, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["kilter", "export", str(run), "--to", str(tmp_path / "out")])
    with pytest.raises(SystemExit) as stop:
        main()
    said = capsys.readouterr().out
    assert int(stop.value.code or 0) == 0
    assert "gate verdict: pass" in said
    out = tmp_path / "out"
    assert model_hash(out) == model_hash(tiny)
    assert json.loads((out / "evidence" / "gate.json").read_text())["model_hash"] == model_hash(out)[:16]
    assert (out / "trained_prompts.txt").read_text() == "a" * 64 + "\n"
    assert torch.equal(logits(out), logits(tiny))
    assert {p.suffix for p in out.rglob("*") if p.is_file()} <= {
        ".safetensors",
        ".json",
        ".jinja",
        ".txt",
        ".md",
    }


def test_the_card_reads_back_as_it_was_written(run, tmp_path):
    """huggingface_hub parses the card, and writes the same front matter again."""
    kilter.export(run, tmp_path / "out")
    card = ModelCard.load(tmp_path / "out" / "README.md")
    data = card.data
    assert ModelCard(f"---\n{data.to_yaml()}\n---\n").data.to_dict() == data.to_dict()
    assert (data.base_model, data.datasets) == ("base-owner/base-model", ["owner/desk"])
    assert {"kilter", "dpo"} <= set(data.tags)
    (result,) = data.eval_results
    assert (result.metric_type, result.metric_value, result.metric_args["ci_low"]) == ("gold", 0.6, 0.5)
    assert "## Verdict: May ship" in card.text
    assert "Not measured: " in card.text
    assert "| dpo | dpo | owner/desk (100 rows) | 8 | learning_rate 1e-05, seed 0 |" in card.text


def test_the_card_of_a_reward_model_says_how_it_is_loaded(tiny, pairs_file, tmp_path):
    model = kilter.train(
        str(tiny), str(pairs_file), "bradley_terry", tmp_path / "rm", max_steps=1, batch_size=4
    ).model
    kilter.export(model, tmp_path / "out", dtype="float16")
    card = ModelCard.load(tmp_path / "out" / "README.md")
    assert card.data.pipeline_tag == "text-classification"
    assert "AutoModelForSequenceClassification.from_pretrained" in card.text
    from transformers import AutoModelForSequenceClassification

    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    assert loaded.score.weight.dtype == torch.float16


def test_a_verdict_about_other_weights_is_not_taken_along(run, tmp_path):
    config = run / "dpo" / "model" / "config.json"
    config.write_text(config.read_text().replace("{", '{"note": 1,', 1))
    kilter.export(run, tmp_path / "out")
    assert not (tmp_path / "out" / "evidence" / "gate.json").exists()
    text = (tmp_path / "out" / "README.md").read_text()
    assert "## Verdict: Not judged" in text
    assert "May ship" not in text


@pytest.mark.parametrize("name", ["gate/gate.json", "eval/per_prompt.json", "dpo/manifest.json"])
def test_a_verdict_of_a_run_that_was_changed_is_not_exported(run, tmp_path, name):
    (run / name).write_bytes((run / name).read_bytes() + b" ")
    with pytest.raises(UserError, match=f"is not what its stages wrote.*{name}"):
        kilter.export(run, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_names_from_outside_stay_text_in_the_card(run, tmp_path):
    hostile = "<script>x</script> | y\n# z"
    gate = json.loads((run / "gate" / "gate.json").read_text())
    gate["policy"], gate["conditions"][0]["metric"], gate["notes"] = hostile, hostile, [hostile]
    (run / "gate" / "gate.json").write_text(json.dumps(gate))
    kilter.export(seal(run), tmp_path / "out")
    text = (tmp_path / "out" / "README.md").read_text()
    assert "<script" not in text
    assert "\n# z" not in text
    assert "- **note**: &lt;script>x&lt;/script> \\| y # z" in text


def test_an_adapter_stays_one_or_becomes_the_whole(adapter, tiny, tmp_path, capsys):
    whole = tmp_path / "whole"
    kilter.export(adapter, whole, merge=True, dtype="bfloat16")
    kilter.export(adapter, tmp_path / "adapter")
    assert (tmp_path / "adapter" / "adapter_model.safetensors").is_file()
    assert json.loads((whole / "config.json").read_text())["dtype"] == "bfloat16"
    torch.testing.assert_close(logits(whole), logits(tmp_path / "adapter"), atol=0.05, rtol=0.05)
    record = json.loads((whole / "evidence" / "export.json").read_text())
    assert (record["merged"], record["changed"], record["dtype"]) == (True, True, "bfloat16")
    assert ModelCard.load(tmp_path / "adapter" / "README.md").data.library_name == "peft"


def test_a_pickle_becomes_safetensors_and_code_stays_behind(tiny, tmp_path):
    from safetensors.torch import load_file

    source = Path(shutil.copytree(tiny, tmp_path / "old"))
    torch.save(load_file(source / "model.safetensors"), source / "pytorch_model.bin")
    (source / "model.safetensors").unlink()
    (source / "modeling_own.py").write_text("print('run')")
    kilter.export(source, tmp_path / "out")
    names = {p.name for p in (tmp_path / "out").iterdir()}
    assert "model.safetensors" in names
    assert not [n for n in names if n.endswith((".bin", ".py"))]
    assert torch.equal(logits(tmp_path / "out"), logits(tiny))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stage": "ppo"}, "names no stage that made a model"),
        ({"dtype": "int4"}, "is not a precision of weights"),
        ({"merge": True}, "is not an adapter"),
        ({"push": "nowhere"}, "is not OWNER/NAME"),
    ],
)
def test_what_cannot_be_exported_is_refused_before_any_work(run, tmp_path, options, message):
    with pytest.raises(UserError, match=message):
        kilter.export(run, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_what_the_gate_refuses_is_not_published(run, tmp_path, monkeypatch):
    sent = []
    monkeypatch.setenv("HF_TOKEN", "hf_none")
    monkeypatch.setattr(exports, "push", lambda *a: sent.append(a) or "address")
    gate = json.loads((run / "gate" / "gate.json").read_text())
    for verdict in ("fail", "inconclusive"):
        (run / "gate" / "gate.json").write_text(json.dumps(gate | {"verdict": verdict}))
        seal(run)
        with pytest.raises(UserError, match=f"whose gate says {verdict}"):
            kilter.export(run, tmp_path / "out", push="me/model")
        assert not (tmp_path / "out").exists()
    (run / "gate" / "gate.json").write_text(json.dumps(gate))
    seal(run)
    assert kilter.export(run, tmp_path / "out", push="me/model").address == "address"
    assert sent == [(tmp_path / "out", "me/model", False)]


def test_nobody_publishes_without_a_token_and_nothing_is_written_first(run, tmp_path, monkeypatch):
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.delenv("HUGGING_FACE_HUB_TOKEN", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "absent"))
    with pytest.raises(UserError, match="needs a token of the Hub, and there is none"):
        kilter.export(run, tmp_path / "out", push="me/model")
    assert not (tmp_path / "out").exists()


def test_an_adapter_of_a_local_folder_is_not_published(adapter, tmp_path):
    with pytest.raises(UserError, match="would publish an adapter of a local folder"):
        kilter.export(adapter, tmp_path / "out", push="me/model")


def test_a_push_is_private_and_its_failure_keeps_the_folder(run, tmp_path, monkeypatch):
    import huggingface_hub

    calls = []
    monkeypatch.setenv("HF_TOKEN", "hf_none")

    class Hub:
        def create_repo(self, repo, private, exist_ok):
            calls.append((repo, private))
            return f"https://hub/{repo}"

        def upload_folder(self, **options):
            calls.append(options["repo_id"])
            raise OSError("no network")

    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    monkeypatch.setattr(ModelCard, "validate", lambda self: None)
    with pytest.raises(UserError, match="could not be uploaded"):
        kilter.export(run, tmp_path / "out", push="me/model")
    assert calls == [("me/model", True), "me/model"]
    assert (tmp_path / "out" / "model.safetensors").is_file()


@pytest.mark.filterwarnings("default")
def test_trl_takes_a_step_from_the_exported_folder(adapter, tmp_path):
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import DPOConfig, DPOTrainer

    out = tmp_path / "out"
    kilter.export(adapter, out, merge=True)
    model = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32)
    before = model.get_input_embeddings().weight.detach().clone()
    settings = DPOConfig(
        output_dir=str(tmp_path / "trl"),
        max_steps=1,
        per_device_train_batch_size=2,
        learning_rate=1e-2,
        report_to=[],
        save_strategy="no",
        use_cpu=True,
        bf16=False,
    )
    rows = Dataset.from_list(pair_rows(4))
    trainer = DPOTrainer(
        model, args=settings, train_dataset=rows, processing_class=AutoTokenizer.from_pretrained(out)
    )
    trainer.train()
    assert trainer.state.global_step == 1
    assert not torch.equal(trainer.model.get_input_embeddings().weight.detach().cpu(), before)
