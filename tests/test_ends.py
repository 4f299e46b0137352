"""What must work at the end is tried at the start: exports, tokens, positions, quantised and adapted bases."""

import json
import shutil

import pytest
import torch

from conftest import make_model, make_tokenizer
from kilter import train
from kilter.artifacts import write_text
from kilter.errors import UserError
from kilter.models.fingerprint import numbers_hash
from kilter.models.folder import quiet_transformers
from kilter.models.load import load_causal
from kilter.models.save import mend_generation
from kilter.models.tokenizer import load_tokenizer, stop_ids
from kilter.roles.open import OpenSpec, open_encoder, open_model
from kilter.training import export

DEMONSTRATIONS = [
    {
        "messages": [
            {"role": "user", "content": f"Capital {i}?"},
            {"role": "assistant", "content": f"It is {i}."},
        ]
    }
    for i in range(8)
]


@pytest.fixture
def rows(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in DEMONSTRATIONS))
    return path


def edit(path, **changes):
    """Changes keys of a JSON file."""
    old = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps(old | changes))


def settings(**changes):
    return {"max_steps": 2, "batch_size": 4, "learning_rate": 1e-3} | changes


def short(model, rows, out, method="sft", **changes):
    """A run of two steps."""
    data = {"path": str(rows), "heldout": 0}
    return train(method=method, model=str(model), data=data, out=out, **settings(**changes))


# Generation settings.


@pytest.mark.parametrize("adapter", [None, {"kind": "lora", "r": 2, "merge": True}])
def test_settings_that_cannot_be_saved_are_left_out_and_named(tmp_path, rows, capsys, adapter):
    model = make_model(tmp_path / "m")
    edit(model / "generation_config.json", temperature=0.9, top_p=0.6)
    short(model, rows, tmp_path / "out", **({} if adapter is None else {"adapter": adapter}))
    saved = json.loads((tmp_path / "out" / "model" / "generation_config.json").read_text())
    assert saved["eos_token_id"] == 1
    assert {"temperature", "top_p"}.isdisjoint(saved)
    assert (
        " ".join(capsys.readouterr().err.split()).count("temperature 0.9, top_p 0.6 would have no effect")
        == 1
    )


@pytest.mark.parametrize(
    ("given", "lost"),
    [
        ({"temperature": 0.7, "do_sample": True}, set()),
        ({"temperature": 0.7}, {"temperature"}),
        ({"top_k": 3, "min_p": 0.1, "do_sample": False}, {"top_k", "min_p"}),
        ({"length_penalty": 2.0}, {"length_penalty"}),
        ({"num_return_sequences": 3}, {"num_return_sequences"}),
        ({"early_stopping": "never", "num_beams": 2}, set()),
        ({"suppress_tokens": [5], "forced_eos_token_id": 5}, {"suppress_tokens"}),
    ],
)
def test_only_what_is_refused_is_left_out(tiny, tmp_path, given, lost):
    from transformers import GenerationConfig

    model = load_causal(tiny)
    model.generation_config = GenerationConfig(eos_token_id=[1, 7])
    for name, value in given.items():
        setattr(model.generation_config, name, value)
    assert set(mend_generation(model)) == lost
    model.generation_config.validate(strict=True)
    assert model.generation_config.eos_token_id == [1, 7]
    for name in set(given) - lost:
        assert getattr(model.generation_config, name) == given[name]


# The rehearsal of the export.


def test_the_untrained_model_is_exported_and_read_before_the_first_step(tiny, tmp_path, rows, monkeypatch):
    def broken(*args, **kwargs):
        raise ValueError("this tokenizer cannot be saved")

    monkeypatch.setattr("kilter.training.export.save", broken)
    with pytest.raises(UserError, match="cannot be exported as it is .*tokenizer cannot be saved"):
        short(tiny, rows, tmp_path / "out")
    assert not (tmp_path / "out" / "metrics.jsonl").exists()
    assert not list((tmp_path / "out").glob(".*rehearsal"))


def test_the_rehearsal_is_remembered_by_everything_but_the_weights(tiny, tmp_path, rows, monkeypatch):
    written = []
    write = export._write_and_read
    monkeypatch.setattr(export, "_write_and_read", lambda *a: written.append(a) or write(*a))
    first = short(tiny, rows, tmp_path / "a")
    short(first.model, rows, tmp_path / "b")
    assert len(written) == 1
    short(make_model(tmp_path / "m", attention_bias=True), rows, tmp_path / "c")
    assert len(written) == 2


def test_dropout_rates_survive_a_training_that_switched_them_off(tmp_path, rows):
    model = make_model(tmp_path / "m", attention_dropout=0.25)
    out = short(model, rows, tmp_path / "out").model
    assert json.loads((out / "config.json").read_text())["attention_dropout"] == 0.25


# Tokens and positions.


def test_tokens_without_an_embedding_are_named_with_both_sizes(tmp_path, rows):
    model = make_model(tmp_path / "m")
    tokenizer = make_tokenizer()
    tokenizer.add_tokens(["<city>", "</city>"] * 1 + ["<a>", "<b>"])
    tokenizer.save_pretrained(model)
    size = len(tokenizer)
    assert size > 264
    short(model, rows, tmp_path / "unused")
    rows.write_text(json.dumps({"prompt": "Capital?", "completion": "<a>Paris<b>"}) + "\n")
    for adapter in ({}, {"adapter": {"kind": "lora", "r": 2}}):
        with pytest.raises(UserError, match=f"264 rows of embeddings.*{size} tokens.*<"):
            short(model, rows, tmp_path / f"out{len(adapter)}", **adapter)


def test_rows_longer_than_the_model_are_refused_before_the_first_step(tmp_path, rows):
    model = make_model(tmp_path / "m")
    edit(model / "config.json", max_position_embeddings=20)
    with pytest.raises(UserError, match="8 of 8 rows longer than the 20 positions"):
        short(model, rows, tmp_path / "out")
    short(model, rows, tmp_path / "cut", max_length=20)


def test_an_answer_must_fit_behind_the_longest_prompt(tmp_path):
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(vocab_size=264, n_embd=16, n_layer=1, n_head=2, n_positions=64, eos_token_id=1)
    with quiet_transformers():
        GPT2LMHeadModel(config).save_pretrained(tmp_path / "gpt2")
    make_tokenizer().save_pretrained(tmp_path / "gpt2")
    llama = make_model(tmp_path / "llama")
    edit(llama / "config.json", max_position_embeddings=64)
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": "x" * n}) + "\n" for n in (3, 9)))
    write_text(tmp_path / "reward.py", "def one(prompt, completion):\n    return 1.0\n")
    online = {"prompts": "$data", "feedback": f"{tmp_path}/reward.py:one"}
    for model, tokens in ((tmp_path / "gpt2", 60), (llama, 60), (llama, 63)):
        sampler = {"samples": 2, "max_new_tokens": tokens}
        with pytest.raises(UserError, match="has 13 tokens, and the model 64 positions") as caught:
            short(model, prompts, tmp_path / model.name / "out", "grpo", sampler=sampler, **online)
        assert "51" in caught.value.fix


def test_a_sampler_refuses_what_goes_beyond_the_models_positions(tmp_path):
    from kilter.sampling.collect import collect, requests
    from kilter.sampling.local import LocalSampler
    from kilter.types import Prompt, SamplingParams

    model = make_model(tmp_path / "m")
    edit(model / "config.json", max_position_embeddings=32)
    ready = open_model(OpenSpec(model))
    sampler = LocalSampler(ready.scorer, ready.encoder)
    prompts = [Prompt(messages=({"role": "user", "content": text},)) for text in ("x", "x" * 20)]
    found = collect(sampler, requests(prompts, 1, SamplingParams(max_new_tokens=16)))
    assert found.completions[0][0] is not None
    assert found.completions[1][0] is None
    assert "does not fit into the 32 positions" in found.problems[0]
    assert "lower max_new_tokens to 8" in found.problems[0]
    with pytest.raises(UserError, match="no room for a prompt"):
        collect(sampler, requests(prompts, 1, SamplingParams(max_new_tokens=32)))


# Quantised bases.


@pytest.mark.parametrize(
    ("settings", "package"),
    [
        ({"quant_method": "gptq", "bits": 4, "group_size": 32, "sym": True, "desc_act": False}, "gptqmodel"),
        (
            {"quant_method": "awq", "bits": 4, "group_size": 32, "zero_point": True, "version": "gemm"},
            "gptqmodel",
        ),
        ({"quant_method": "hqq"}, "hqq"),
        ({"load_in_8bit": True, "quant_method": "bitsandbytes"}, "pip install bitsandbytes"),
    ],
)
def test_a_quantised_base_names_what_is_missing(settings, package, tmp_path, rows):
    model = make_model(tmp_path / "m")
    edit(model / "config.json", quantization_config=settings)
    with pytest.raises(UserError, match=f"quantised by {settings['quant_method']}") as caught:
        short(model, rows, tmp_path / "out", adapter={"kind": "lora"})
    assert package in caught.value.fix


@pytest.mark.parametrize(
    ("settings", "method", "fix"),
    [
        ({"load_in_4bit": True}, "bitsandbytes", "run: pip install bitsandbytes. Or give"),
        ({"quant_method": "unheard-of"}, "unheard-of", "give the model's full-precision weights"),
        ({}, "an unknown method", "give the model's full-precision weights"),
    ],
)
def test_a_method_of_quantisation_that_no_package_brings_is_named(settings, method, fix, tmp_path, rows):
    model = make_model(tmp_path / "m")
    edit(model / "config.json", quantization_config=settings)
    with pytest.raises(UserError, match=f"quantised by {method}") as caught:
        short(model, rows, tmp_path / "out")
    assert caught.value.fix.startswith(fix)


def test_a_later_stage_with_such_a_base_is_refused_before_the_first(tiny, tmp_path, rows):
    from rich.console import Console

    from kilter import recipe as recipes
    from kilter.pipeline.runner import Run

    bad = make_model(tmp_path / "m")
    edit(bad / "config.json", quantization_config={"quant_method": "gptq", "bits": 4})
    stages = {
        "one": {"train": {"method": "sft", "max_steps": 1, "batch_size": 2}},
        "two": {"train": {"method": "sft", "from": str(bad), "max_steps": 1, "batch_size": 2}},
    }
    recipe = {"name": "r", "model": str(tiny), "data": {"data": {"path": str(rows)}}, "stages": stages}
    run = Run(recipes.build(recipe), tmp_path / "runs", Console(quiet=True))
    with pytest.raises(UserError, match=r"stages.two.train.from.*quantised by gptq"):
        run.execute()
    assert not (tmp_path / "runs" / "one").exists()


# An adapter is the model that it trained.


@pytest.mark.parametrize("where", ["generation_config.json", "config.json"])
def test_an_adapter_stops_where_its_base_does(where, tmp_path, rows):
    base = make_model(tmp_path / "base")
    (base / "generation_config.json").unlink()
    edit(base / where, eos_token_id=[1, 40, 41])
    adapter = short(base, rows, tmp_path / "out", adapter={"kind": "lora", "r": 2}).model
    (adapter / "generation_config.json").unlink(missing_ok=True)
    for folder in (base, adapter):
        assert stop_ids(folder, load_tokenizer(folder)) == {1, 40, 41}
    assert open_encoder(OpenSpec(adapter)).stop_ids == {1, 40, 41}
    edit(adapter / "generation_config.json", eos_token_id=42)
    assert stop_ids(adapter, load_tokenizer(adapter)) == {1, 40, 41, 42}


def test_an_adapter_without_tokenizer_or_template_has_its_bases(tmp_path, rows):
    base = make_model(tmp_path / "base")
    adapter = short(base, rows, tmp_path / "out", adapter={"kind": "lora", "r": 2}).model
    want = load_tokenizer(base).chat_template
    (adapter / "chat_template.jinja").unlink()
    assert load_tokenizer(adapter).chat_template == want
    for path in adapter.glob("*token*"):
        path.unlink()
    assert load_tokenizer(adapter).chat_template == want
    assert load_tokenizer(adapter).get_vocab() == load_tokenizer(base).get_vocab()


def test_a_merged_adapter_has_its_bases_generation_settings(tmp_path, rows):
    from kilter.models.merge import merge

    base = make_model(tmp_path / "base")
    edit(base / "generation_config.json", do_sample=True, temperature=0.3, eos_token_id=[1, 9])
    adapter = short(base, rows, tmp_path / "out", adapter={"kind": "lora", "r": 2}).model
    merge(adapter, tmp_path / "merged")
    saved = json.loads((tmp_path / "merged" / "generation_config.json").read_text())
    assert (saved["temperature"], saved["eos_token_id"]) == (0.3, [1, 9])


@pytest.mark.parametrize("target", [["lm_head"], ["q_proj", "lm_head"]])
def test_an_adapter_on_the_output_projection_trains_and_lowers_the_loss(tmp_path, rows, target):
    base = make_model(tmp_path / "base")
    changes = {"max_steps": 20, "learning_rate": 1e-2, "adapter": {"kind": "lora", "r": 4, "target": target}}
    short(base, rows, tmp_path / "out", **changes)
    losses = [
        json.loads(line)["loss"] for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()
    ]
    assert sum(losses[-4:]) < 0.8 * sum(losses[:4])


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing")
def test_an_adapter_that_cannot_be_folded_says_why(tmp_path):
    from peft import LoraConfig, PromptTuningConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    base = make_model(tmp_path / "base")
    for name, config in (
        ("lora", LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=["q_proj"])),
        ("prompt", PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)),
    ):
        with quiet_transformers():
            get_peft_model(AutoModelForCausalLM.from_pretrained(base), config).save_pretrained(
                tmp_path / name
            )
    for name in ("outer", "empty"):
        shutil.copytree(tmp_path / "lora", tmp_path / name)
    edit(tmp_path / "outer" / "adapter_config.json", base_model_name_or_path=str(tmp_path / "lora"))
    (tmp_path / "empty" / "adapter_model.safetensors").unlink()
    for name, problem in (
        ("prompt", "of the kind PROMPT_TUNING, which cannot be folded"),
        ("outer", "is an adapter over another adapter"),
        ("empty", "is an adapter without weights"),
    ):
        with pytest.raises(UserError, match=problem):
            load_causal(tmp_path / name)


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing")
def test_what_scores_is_no_policy(tmp_path):
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForSequenceClassification

    base = make_model(tmp_path / "base")
    with quiet_transformers():
        scorer = AutoModelForSequenceClassification.from_pretrained(base, num_labels=1)
    adapter = get_peft_model(scorer, LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["q_proj"]))
    adapter.save_pretrained(tmp_path / "adapter")
    steps = make_model(tmp_path / "steps")
    edit(steps / "config.json", architectures=["LlamaForTokenClassification"])
    for folder, problem in (("adapter", "is a reward model"), ("steps", "is a process reward model")):
        with pytest.raises(UserError, match=problem):
            load_causal(tmp_path / folder)


def test_weights_without_a_place_in_the_configuration_are_named(tmp_path, caplog):
    model = make_model(tmp_path / "m")
    load_causal(model)
    assert "has no place for" not in caplog.text
    edit(model / "config.json", num_hidden_layers=1)
    load_causal(model)
    assert "9 weights that its configuration has no place for (model.layers.1." in caplog.text


def test_an_adapter_of_another_model_is_refused(tmp_path, rows):
    base = make_model(tmp_path / "base")
    spec = {"kind": "lora", "r": 2, "target": ["q_proj", "up_proj"]}
    adapter = short(base, rows, tmp_path / "out", adapter=spec).model

    def over(folder):
        edit(adapter / "adapter_config.json", base_model_name_or_path=folder and str(folder))
        return open_model(OpenSpec(adapter))

    deeper, wider = (make_model(tmp_path / n) for n in ("deeper", "wider"))
    remake(deeper, num_hidden_layers=3)
    remake(wider, intermediate_size=80)
    with pytest.raises(UserError, match="adapter of another model"):
        over(deeper)
    with pytest.raises(UserError, match="cannot be loaded"):
        over(wider)
    with pytest.raises(UserError, match="does not name its base"):
        over(None)
    with pytest.raises(UserError, match="names no model folder"):
        over(tmp_path / "gone")
    over(base)


def remake(folder, **changes):
    """The model of a folder in other sizes."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(folder)
    for name, value in changes.items():
        setattr(config, name, value)
    if "num_hidden_layers" in changes:
        config.layer_types = None
    with quiet_transformers():
        AutoModelForCausalLM.from_config(config).save_pretrained(folder)


# What makes a run this run.


class Killed(BaseException):
    pass


@pytest.fixture
def begun(tmp_path, rows, monkeypatch):
    """A run that was killed after its first checkpoint."""
    from kilter.training.hooks.checkpoints import SaveCheckpoints

    model = make_model(tmp_path / "base")
    shutil.copytree(model, tmp_path / "other")
    after = SaveCheckpoints.after_step

    def killed(self, *args):
        after(self, *args)
        raise Killed

    monkeypatch.setattr(SaveCheckpoints, "after_step", killed)
    with pytest.raises(Killed):
        short(model, rows, tmp_path / "out", save_every=1)
    monkeypatch.undo()
    assert (tmp_path / "out" / "checkpoints").is_dir()
    return model


def mended_generation(model, changes):
    edit(model / "generation_config.json", temperature=0.5)


def written_by_another_version(model, changes):
    edit(model / "config.json", transformers_version="4.0", dtype="bfloat16")


def named_otherwise(model, changes):
    changes["model"] = model.parent / "other"


def smaller_microbatches(model, changes):
    changes |= {"tokens_per_microbatch": 64, "gradient_checkpointing": True, "save_every": 2}


@pytest.mark.parametrize(
    "change", [mended_generation, written_by_another_version, named_otherwise, smaller_microbatches]
)
def test_what_changes_no_number_does_not_end_a_run(change, begun, rows, tmp_path, capsys, monkeypatch):
    changes = {"save_every": 1}
    change(begun, changes)
    short(changes.pop("model", begun), rows, tmp_path / "out", **changes)
    assert "resuming after step 1" in capsys.readouterr().err


def other_weights(model, changes):
    tensors = load_causal(model)
    with torch.no_grad():
        tensors.model.norm.weight.mul_(1.01)
    tensors.save_pretrained(model)


def another_stop(model, changes):
    edit(model / "generation_config.json", eos_token_id=[1, 50])


def another_rate(model, changes):
    changes["learning_rate"] = 2e-3


@pytest.mark.parametrize("change", [other_weights, another_stop, another_rate])
def test_what_changes_a_number_makes_another_run(change, begun, rows, tmp_path):
    changes = {"save_every": 1}
    change(begun, changes)
    with pytest.raises(UserError, match="checkpoint of another run"):
        short(begun, rows, tmp_path / "out", **changes)


def test_the_hash_of_numbers_sees_every_weight_and_no_note(tiny, tmp_path):
    shutil.copytree(tiny, tmp_path / "m")
    want = numbers_hash(tiny)
    (tmp_path / "m" / "README.md").write_text("a note")
    edit(tmp_path / "m" / "kilter.json", method="sft")
    assert numbers_hash(tmp_path / "m") == want
    edit(tmp_path / "m" / "config.json", rms_norm_eps=1e-4)
    assert numbers_hash(tmp_path / "m") != want
