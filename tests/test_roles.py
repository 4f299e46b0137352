"""Models are opened one way: the device rule, the limits, and who asks for them."""

import json

import pytest
import torch

from conftest import make_model, make_tokenizer
from kilter import feedback
from kilter.errors import UserError
from kilter.models.fingerprint import model_hash
from kilter.models.load import load_causal
from kilter.models.tokenizer import load_tokenizer, stop_ids
from kilter.roles import open as roles
from kilter.roles.open import OpenSpec, open_encoder, open_model


@pytest.fixture
def elsewhere(monkeypatch):
    """A machine whose every model goes to the `meta` device, which computes nothing: what lands there asked for it."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 3)
    assert roles.choose_device() == torch.device("cuda", 3)
    monkeypatch.setattr(
        roles, "choose_device", lambda wanted=None: torch.device("meta" if wanted is None else wanted)
    )
    monkeypatch.setattr(roles, "look", lambda spec, model: None)
    monkeypatch.setattr(roles, "prove", lambda spec, scorer, known: None)


def make_steps(folder):
    """A token classifier with the tiny model's tokenizer."""
    from transformers import LlamaConfig, LlamaForTokenClassification

    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    LlamaForTokenClassification(LlamaConfig(vocab_size=264, num_labels=2, **sizes)).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


def test_a_gpu_is_taken_where_there_is_one_and_a_wish_comes_first(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert roles.choose_device() == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    assert roles.choose_device() == torch.device("cuda", 1)
    assert roles.choose_device("cpu") == torch.device("cpu")


def test_every_role_lands_on_the_chosen_device(elsewhere, tiny, tmp_path, encoder, scorer):
    from kilter.cli.chat import opened

    with opened(str(tiny), {}) as sampler:  # kilter chat
        assert sampler.scorer.device.type == "meta"
    steps = make_steps(tmp_path / "steps")
    source = feedback.build({"process_reward": str(steps)}, feedback.Context(policy=(scorer, encoder)))
    assert source.parts[0][2].model.device.type == "meta"
    fresh = open_model(OpenSpec(tiny, "fresh_reward"))
    assert fresh.scorer.device.type == fresh.device.type == "meta"


def test_an_opened_policy_has_the_weights_the_stop_ids_and_the_hash_of_its_folder(tiny):
    ready = open_model(OpenSpec(str(tiny), max_length=300, max_prompt=200))
    want = load_causal(tiny).state_dict()
    assert all(torch.equal(v, want[k]) for k, v in ready.model.state_dict().items())
    assert ready.encoder.stop_ids == stop_ids(tiny, load_tokenizer(tiny))
    assert (ready.encoder.max_length, ready.encoder.max_prompt) == (300, 200)
    assert (ready.folder, ready.hash) == (tiny, model_hash(tiny))
    assert ready.scorer.shared
    assert not ready.scorer.training
    assert not any(p.requires_grad for p in ready.scorer.parameters())


def test_what_trains_keeps_its_gradients_and_loses_its_dropout(tmp_path):
    folder = make_model(tmp_path / "m", attention_dropout=0.3)
    scorer = open_model(OpenSpec(folder, trains=True)).scorer
    assert all(p.requires_grad for p in scorer.parameters())
    assert {m.attention_dropout for m in scorer.modules() if hasattr(m, "attention_dropout")} == {0.0}


def test_a_reward_model_must_have_been_trained(tiny):
    with pytest.raises(UserError, match="reward model"):
        open_model(OpenSpec(tiny, "reward"))
    head = open_model(OpenSpec(tiny, "fresh_reward")).model.score.weight
    assert float(head.abs().max()) == 0


def test_changing_positions_are_refused_or_cut(tmp_path):
    rope = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}
    folder = make_model(tmp_path / "m")
    path = folder / "config.json"
    config = json.loads(path.read_text()) | {"rope_parameters": rope, "max_position_embeddings": 64}
    path.write_text(json.dumps(config))
    with pytest.raises(UserError, match="max_length` = 65"):
        open_model(OpenSpec(folder, max_length=65))
    assert open_model(OpenSpec(folder, max_length=64)).encoder.max_length == 64
    assert open_model(OpenSpec(folder, max_length=65, long_rows="cut")).encoder.max_length == 64
    assert open_encoder(OpenSpec(folder)).max_length == roles.UNCUT


def test_rounded_weights_carry_only_policies(tiny):
    from kilter.models.config import AdapterSpec

    with pytest.raises(UserError, match="qlora"):
        open_model(OpenSpec(tiny, "fresh_reward", adapter=AdapterSpec(kind="qlora"), trains=True))
