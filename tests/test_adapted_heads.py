"""Adapters on the output projection and the embeddings: they train, count, merge and export as one model."""

import json
import warnings

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from conftest import make_model
from kilter.errors import UserError
from kilter.models import adapters
from kilter.models.config import AdapterSpec
from kilter.models.load import load_causal, load_reward, vocabulary_of
from kilter.models.merge import merge
from kilter.models.tokenizer import load_tokenizer
from kilter.roles.open import OpenSpec, open_model


@pytest.fixture(scope="module", params=["tied", "untied"])
def base(request, tmp_path_factory):
    """A tiny model whose ends share their weight, or do not."""
    folder = make_model(tmp_path_factory.mktemp("base") / request.param)
    model, tokenizer = load_causal(folder), load_tokenizer(folder)
    if request.param == "untied":
        adapters.untie(model)
    with torch.no_grad():
        model.lm_head.weight.add_(0.05 * torch.randn_like(model.lm_head.weight))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_dora_on_a_row_of_zeros_is_refused(tiny):
    with pytest.raises(UserError, match="row of zeros"):
        open_model(OpenSpec(tiny, adapter=AdapterSpec(kind="dora", target=["lm_head"]), trains=True))


def own(model, batch):
    """Log-probs of the first row under the whole model."""
    prompt, size = batch.prompts_N[0], int(batch.length_B[0])
    ids = torch.cat([prompt, batch.tokens_BT[0, :size]])
    log_p = model(input_ids=ids[None]).logits[0].log_softmax(-1)[len(prompt) - 1 : -1]
    return log_p.gather(1, ids[len(prompt) :, None])[:, 0]


KINDS = [
    {"target": ["lm_head"]},
    {"target": ["q_proj", "lm_head"], "kind": "rslora"},
    {"target": ["lm_head"], "kind": "dora"},
    {"target": ["lm_head"], "dropout": 0.5},
    {"target": ["embed_tokens"]},
    {"target": ["embed_tokens", "lm_head"]},
]


@pytest.mark.parametrize(
    "settings", KINDS, ids=lambda s: "-".join([*s["target"], *map(str, list(s.values())[1:])])
)
def test_an_adapter_on_either_end_counts_and_survives_its_merge(settings, base, pair_batch, tmp_path):
    scorer = open_model(OpenSpec(base, adapter=AdapterSpec(r=4, **settings), trains=True)).scorer
    assert scorer.way.path == (
        "own" if {"kind", "dropout"} & set(settings) and "q_proj" not in settings["target"] else "shared"
    )
    before = scorer(pair_batch).logps_BT.detach()

    # One step of gradient ascent moves every adapter.
    optimizer = torch.optim.SGD([p for p in scorer.parameters() if p.requires_grad], lr=0.05)
    for _ in range(3):
        optimizer.zero_grad()
        (-scorer.train()(pair_batch).logps_BT).mean().backward()
        optimizer.step()
    moved = {
        n: float(p.detach().abs().max())
        for n, p in scorer.named_parameters()
        if "lora_B" in n or "embedding_B" in n
    }
    assert moved and all(value > 0 for value in moved.values())

    scorer.eval()
    found = scorer(pair_batch).logps_BT.detach()
    assert float((found - before).abs().max()) > 1e-3
    size = int(pair_batch.length_B[0])
    torch.testing.assert_close(found[0, :size], own(scorer.model, pair_batch).detach(), atol=1e-5, rtol=3e-5)
    with scorer.model.disable_adapter():
        torch.testing.assert_close(scorer(pair_batch).logps_BT.detach(), before, atol=1e-5, rtol=3e-5)

    # The adapter on disk, what Kilter loads from it, and what a merge leaves are the same model.
    scorer.model.save_pretrained(tmp_path / "adapter", save_embedding_layers=False)
    config = tmp_path / "adapter" / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"base_model_name_or_path": str(base)}))
    load_tokenizer(base).save_pretrained(tmp_path / "adapter")
    merge(tmp_path / "adapter", tmp_path / "merged")
    for folder in (tmp_path / "adapter", tmp_path / "merged"):
        again = open_model(OpenSpec(folder)).scorer(pair_batch).logps_BT
        torch.testing.assert_close(again, found, atol=1e-5, rtol=3e-5)


def foreign_adapter(base, folder, new_tokens=0, **settings):
    """An adapter as peft alone makes and saves it, and its model."""
    from peft import LoraConfig, get_peft_model

    from kilter.models.transformers_names import old_names_allowed

    config = LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM", **settings)
    model, tokenizer = load_causal(base), load_tokenizer(base)
    if new_tokens:
        tokenizer.add_tokens([f"<new{i}>" for i in range(new_tokens)])
        model.resize_token_embeddings(model.config.vocab_size + new_tokens)
    with old_names_allowed(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = get_peft_model(model, config).eval()
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if parameter.requires_grad and "lora_A" not in name:
                    parameter.add_(0.05 * torch.randn_like(parameter))
        model.save_pretrained(folder)
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"base_model_name_or_path": str(base)}))
    tokenizer.save_pretrained(folder)
    return model


BOTH = ["embed_tokens", "lm_head"]


@pytest.mark.parametrize(
    "settings",
    [
        {"modules_to_save": ["lm_head"]},
        {"modules_to_save": ["embed_tokens"]},
        {"modules_to_save": ["embed_tokens"], "ensure_weight_tying": True},
        {"trainable_token_indices": [20, 263]},
        {"modules_to_save": BOTH, "new_tokens": 3},
        {"trainable_token_indices": [30, 264, 265], "new_tokens": 2},
        {"new_tokens": 70},
    ],
    ids=lambda s: "-".join(s),
)
def test_an_adapter_that_brings_rows_of_the_ends_is_loaded_as_it_is(settings, base, tmp_path):
    """As other toolkits save it: whole ends, single tokens, tokens that the base has not."""
    if settings.get("ensure_weight_tying") and not load_causal(base).config.tie_word_embeddings:
        pytest.skip("the ends of this base are two weights")
    model = foreign_adapter(base, tmp_path / "adapter", **settings)
    size = model.get_base_model().get_input_embeddings().weight.shape[0]
    assert vocabulary_of(tmp_path / "adapter") == size
    ids = torch.tensor([[*range(20, 40), *range(size - 3, size)]])
    want = model(input_ids=ids).logits
    torch.testing.assert_close(
        load_causal(tmp_path / "adapter")(input_ids=ids).logits, want, atol=1e-5, rtol=1e-5
    )
    merge(tmp_path / "adapter", tmp_path / "merged")
    torch.testing.assert_close(
        load_causal(tmp_path / "merged")(input_ids=ids).logits, want, atol=1e-5, rtol=1e-5
    )
    head = load_causal(tmp_path / "adapter").lm_head
    assert (head.out_features, head.in_features) == head.weight.shape
    # transformers reads the same from the files alone.
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32)
    torch.testing.assert_close(again(input_ids=ids).logits, want, atol=1e-5, rtol=1e-5)
    reward = load_reward(tmp_path / "adapter", 0, fresh=True)
    assert reward.get_input_embeddings().weight.shape[0] == size


def test_new_tokens_without_rows_are_refused(base, tmp_path):
    foreign_adapter(base, tmp_path / "adapter", new_tokens=2, modules_to_save=BOTH)
    path = tmp_path / "adapter" / "adapter_model.safetensors"
    kept = {k: v for k, v in load_file(path).items() if "embed_tokens" not in k}
    if load_causal(base).config.tie_word_embeddings:
        pytest.skip("one weight is all that is needed")
    save_file(kept, path)
    with pytest.raises(UserError, match=r"has 2 tokens more than its base, and brings no rows of .*embed"):
        load_causal(tmp_path / "adapter")
