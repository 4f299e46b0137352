"""The forward pass against transformers alone: each architecture in the way that its own numbers allow."""

import json

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from conftest import TEMPLATE, make_model, make_tokenizer
from kilter.errors import UserError
from kilter.models import proof
from kilter.models.folder import quiet_transformers
from kilter.models.forward import Scorer, Way
from kilter.models.noise import switch_off_dropout
from kilter.roles.open import OpenSpec, open_model

SIZES = {
    "vocab_size": 264,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "initializer_range": 0.15,
    "eos_token_id": 1,
    "pad_token_id": 0,
    "bos_token_id": None,
}
EXPERTS = SIZES | {"num_local_experts": 4, "num_experts_per_tok": 2}

ARCHITECTURES = {
    # Attention has a soft cap that SDPA leaves out.
    "gemma2": (
        SIZES | {"head_dim": 8, "attn_logit_softcapping": 2.0, "final_logit_softcapping": 5.0},
        ("rows", "eager"),
    ),
    # Attention has sinks.
    "gpt_oss": (EXPERTS | {"head_dim": 8, "sliding_window": 12}, ("rows", "eager")),
    # Dropout rates bear other names in the modules than in the configuration.
    "gpt_bigcode": (
        {
            "vocab_size": 264,
            "n_embd": 32,
            "n_head": 4,
            "n_layer": 2,
            "n_positions": 256,
            "initializer_range": 0.15,
            "attn_pdrop": 0.4,
            "resid_pdrop": 0.4,
            "embd_pdrop": 0.4,
            "eos_token_id": 1,
            "bos_token_id": None,
        },
        ("shared", None),
    ),
    # The decoder stands under another name, and attends in chunks that only a mask knows.
    "llama4_text": (
        EXPERTS | {"head_dim": 8, "intermediate_size_mlp": 48, "attention_chunk_size": 16},
        ("rows", "sdpa"),
    ),
    # The router draws experts in training; a window is known to the mask alone.
    "phimoe": (EXPERTS | {"router_jitter_noise": 0.01, "sliding_window": 24}, ("rows", "sdpa")),
}


def build(name, folder, **changes):
    """A tiny random model of an architecture, with the tests' tokenizer."""
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    fields, _ = ARCHITECTURES.get(name, (SIZES, None))
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(name, **fields | changes))
    model.generation_config.eos_token_id = 1
    with quiet_transformers():
        model.save_pretrained(folder)
    make_tokenizer(TEMPLATE).save_pretrained(folder)
    return folder


def own_logps(folder, batch):
    """Log-probs of each row's completion by transformers alone: eager attention, one row at a time."""
    from transformers import AutoModelForCausalLM

    with quiet_transformers():
        model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()
    found = torch.zeros(batch.tokens_BT.shape)
    for row in range(batch.rows()):
        size, prompt = int(batch.length_B[row]), batch.prompts_N[int(batch.group_B[row])]
        ids = torch.cat([prompt, batch.tokens_BT[row, :size]])
        with torch.no_grad():
            log_p = model(input_ids=ids[None], use_cache=False).logits[0].float().log_softmax(-1)
        at = torch.arange(len(prompt) - 1, len(ids) - 1)
        found[row, :size] = log_p[at, ids[len(prompt) :]]
    return found * batch.mask_BT


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_log_probs_are_the_models_own_while_it_trains(name, tmp_path, pair_batch):
    folder = build(name, tmp_path / name)
    ready = open_model(OpenSpec(folder, trains=True, max_length=256))
    path, attention = ARCHITECTURES[name][1]
    assert (ready.finding.way.path, ready.finding.way.attention) == (path, attention)
    want = own_logps(folder, pair_batch)
    for training in (False, True):
        found = ready.scorer.train(training)(pair_batch).logps_BT
        torch.testing.assert_close(found.detach().cpu(), want, atol=2e-4, rtol=1e-4)


def test_a_factor_of_the_logits_is_found_whatever_its_name(tiny, pair_batch, monkeypatch):
    """The head of a model that multiplies its logits by a setting of its own."""
    from transformers import LlamaForCausalLM

    class Scaled(LlamaForCausalLM):
        def forward(self, *args, **kwargs):
            out = super().forward(*args, **kwargs)
            out.logits = 7.0 * torch.tanh(out.logits * self.config.mup / 7.0)
            return out

    model = Scaled.from_pretrained(tiny)
    model.config.mup, model.config.logit_cap = 0.37, 7.0
    seen = proof.observe(model)
    scorer = Scorer(model)
    finding = proof.prove(scorer, seen)
    assert finding.way.path == "shared"
    assert finding.way.softcap == 7.0
    assert finding.way.scale == pytest.approx(0.37, abs=1e-5)
    row = torch.cat([pair_batch.prompts_N[0], pair_batch.tokens_BT[0, : int(pair_batch.length_B[0])]])
    want = model(input_ids=row[None]).logits[0].log_softmax(-1)
    at = len(pair_batch.prompts_N[0])
    want = want[torch.arange(at - 1, len(row) - 1), row[at:]]
    torch.testing.assert_close(scorer(pair_batch).logps_BT[0, : len(want)], want, atol=1e-4, rtol=1e-4)


def strange_model(tiny):
    """A model whose head is no product with one matrix."""
    from transformers import LlamaForCausalLM

    class Strange(LlamaForCausalLM):
        def forward(self, *args, **kwargs):
            out = super().forward(*args, **kwargs)
            out.logits = out.logits + 0.5 * out.logits.sin()
            return out

    return Strange.from_pretrained(tiny)


@pytest.mark.parametrize("keeps", [True, False], ids=["keeps", "keeps-all"])
def test_a_head_of_its_own_is_read_through_the_models_own_logits(keeps, tiny, pair_batch, caplog):
    model = strange_model(tiny)
    if not keeps:
        # As much code of users' own has it: any argument is taken, and few are read.
        known = model.forward
        model.forward = lambda *args, logits_to_keep=0, **kwargs: known(*args, **kwargs)
    scorer = Scorer(model)
    finding = proof.prove(scorer, proof.observe(model))
    assert finding.way.path == "own"
    proof.tell(finding, f"Strange {keeps}")
    assert "read through its own logits" in caplog.text
    outputs = frozenset({"logps", "entropy", "collision"})
    out = scorer(pair_batch, outputs, temperature=0.7)
    for row in range(3):
        size, prompt = int(pair_batch.length_B[row]), pair_batch.prompts_N[int(pair_batch.group_B[row])]
        ids = torch.cat([prompt, pair_batch.tokens_BT[row, :size]])
        log_p = (model(input_ids=ids[None]).logits[0] / 0.7).log_softmax(-1)[len(prompt) - 1 : -1]
        want = log_p.gather(1, ids[len(prompt) :, None])[:, 0]
        torch.testing.assert_close(out.logps_BT[row, :size], want, atol=1e-4, rtol=1e-4)
        entropy, collision = -(log_p.exp() * log_p).sum(-1), (2 * log_p).logsumexp(-1)
        torch.testing.assert_close(out.entropy_BT[row, :size], entropy, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(out.collision_BT[row, :size], collision, atol=1e-4, rtol=1e-4)


def test_every_way_has_the_same_gradients(scorer, pair_batch):
    found = []
    for path in ("shared", "rows", "own"):
        scorer.follow(Way(path))
        scorer.zero_grad()
        out = scorer(pair_batch, frozenset({"logps", "entropy"}))
        weights = torch.linspace(-1, 1, out.logps_BT.numel()).view_as(out.logps_BT)
        (weights * (out.logps_BT + 0.1 * out.entropy_BT)).sum().backward()
        found.append({n: p.grad.clone() for n, p in scorer.named_parameters()})
    for other in found[1:]:
        for name, grad in found[0].items():
            torch.testing.assert_close(grad, other[name], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("path", ["rows", "own"])
def test_a_teacher_may_be_read_another_way_than_its_student(path, tiny, pair_batch):
    from kilter.models.load import load_causal

    def divergence(student, teacher):
        scorers = [Scorer(load_causal(tiny)) for _ in range(2)]
        with torch.no_grad():
            scorers[1].model.model.layers[0].mlp.down_proj.weight.mul_(1.5)
        for scorer, way in zip(scorers, (student, teacher), strict=True):
            scorer.follow(Way(way))
        scorers[0].teach(scorers[1], 0.3)
        return scorers[0](pair_batch, frozenset({"logps", "divergence"})).divergence_BT.detach()

    want = divergence("shared", "shared")
    assert float(want.abs().max()) > 1e-3
    torch.testing.assert_close(divergence("shared", path), want, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(divergence(path, "shared"), want, atol=1e-5, rtol=1e-4)


def test_what_reads_ahead_is_refused(tmp_path):
    from transformers import BertConfig, BertForMaskedLM

    sizes = {k: v for k, v in SIZES.items() if k not in ("num_key_value_heads", "bos_token_id")}
    torch.manual_seed(0)
    folder = tmp_path / "bert"
    with quiet_transformers():
        BertForMaskedLM(BertConfig(**sizes)).save_pretrained(folder)
    make_tokenizer(TEMPLATE).save_pretrained(folder)
    with pytest.raises(UserError, match="masked-language model"):
        open_model(OpenSpec(folder, trains=True))

    # The same weights under a name that does not give them away.
    config = json.loads((folder / "config.json").read_text()) | {"architectures": ["BertLMHeadModel"]}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="reads the tokens that it should predict"):
        open_model(OpenSpec(folder, trains=True))


def test_noise_without_a_known_name_leaves_its_module_in_evaluation_mode(tiny, pair_batch):
    from transformers import LlamaForCausalLM

    class Noisy(torch.nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, x):
            return self.inner(x) * (1 + 0.3 * torch.randn_like(x) if self.training else 1.0)

    model = LlamaForCausalLM.from_pretrained(tiny)
    seen = proof.observe(model)
    model.model.layers[1].mlp = Noisy(model.model.layers[1].mlp)
    scorer = Scorer(model)
    assert proof.prove(scorer, seen).way.still == "inner"
    assert scorer.train().model.model.layers[1].training
    assert not scorer.model.model.layers[1].mlp.training
    first = scorer(pair_batch).logps_BT
    torch.testing.assert_close(scorer(pair_batch).logps_BT, first, rtol=0, atol=0)


def test_a_model_that_no_way_reproduces_does_not_train(tiny):
    from transformers import LlamaForCausalLM

    model = LlamaForCausalLM.from_pretrained(tiny)
    seen = proof.observe(model)
    with torch.no_grad():
        model.model.layers[0].mlp.down_proj.weight.mul_(3.0)
    with pytest.raises(UserError, match="other numbers in Kilter than by itself"):
        proof.prove(Scorer(model), seen)


def test_weights_that_are_no_numbers_are_named(tiny):
    from transformers import LlamaForCausalLM

    model = LlamaForCausalLM.from_pretrained(tiny)
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight[0, 0] = float("nan")
    with pytest.raises(UserError, match="logits that are no numbers"):
        proof.prove(Scorer(model), proof.observe(model))


def test_a_proof_is_kept_by_content_and_made_once(tiny, tmp_path, monkeypatch):
    looks = []
    observe = proof.observe
    monkeypatch.setattr(proof, "observe", lambda *args: looks.append(args) or observe(*args))
    first = open_model(OpenSpec(tiny, max_length=64)).finding
    again = open_model(OpenSpec(tiny, max_length=64)).finding
    assert (len(looks), again) == (1, first)
    open_model(OpenSpec(make_model(tmp_path / "other", attention_bias=True), max_length=64))
    assert len(looks) == 2


def test_the_proof_leaves_the_random_numbers_alone(tiny):
    torch.manual_seed(3)
    want = torch.rand(3)
    torch.manual_seed(3)
    open_model(OpenSpec(tiny, trains=True))
    torch.testing.assert_close(torch.rand(3), want, rtol=0, atol=0)


def test_windows_are_found_wherever_a_configuration_holds_them():
    from transformers import Gemma3TextConfig, LlamaConfig

    from kilter.models.positions import windows

    assert 24 in windows(Gemma3TextConfig(sliding_window=24))
    assert windows(LlamaConfig()) == []


MIXTURE = EXPERTS | {"router_jitter_noise": 0.0}


@pytest.mark.parametrize("path", ["shared", "rows", "own"])
def test_the_load_balancing_loss_is_that_of_plain_rows(path, tmp_path, pair_batch):
    """Prompts are shared, yet their tokens count once per row, as in transformers and in TRL."""
    from kilter.models.packing import pack

    ARCHITECTURES["mixtral"] = (MIXTURE, None)
    folder = build("mixtral", tmp_path / "m")
    scorer = open_model(OpenSpec(folder, trains=True)).scorer
    scorer.follow(Way(path))
    out = scorer(pair_batch, frozenset({"logps", "aux_loss"}))
    out.aux_loss.backward()
    found = {n: p.grad.clone() for n, p in scorer.model.named_parameters() if p.grad is not None}

    scorer.zero_grad()
    rows = pack(pair_batch, False)
    own = scorer.model(
        input_ids=rows.input_ids, attention_mask=rows.attention_mask, output_router_logits=True
    ).aux_loss
    own.backward()
    torch.testing.assert_close(out.aux_loss, own, atol=1e-5, rtol=1e-5)
    gates = [n for n in found if "gate.weight" in n]
    assert gates
    for name in gates:
        torch.testing.assert_close(
            found[name], dict(scorer.model.named_parameters())[name].grad, atol=1e-5, rtol=1e-3
        )


def test_the_weight_of_the_load_balancing_loss(tiny, tmp_path):
    from kilter.training.balance import advice, balance_weight
    from kilter.training.config import TrainSpec

    ARCHITECTURES["mixtral"] = (MIXTURE | {"router_aux_loss_coef": 0.02}, None)
    mixture = open_model(OpenSpec(build("mixtral", tmp_path / "m"), trains=True)).scorer
    dense = open_model(OpenSpec(tiny, trains=True)).scorer
    specs = {value: TrainSpec(method="sft", router_aux_loss=value) for value in (0.0, 0.5, "auto")}
    assert [balance_weight(mixture, s) for s in specs.values()] == [0.0, 0.5, 0.02]
    assert balance_weight(dense, specs[0.0]) == 0
    with pytest.raises(UserError, match="mixture of experts"):
        balance_weight(dense, specs["auto"])
    assert "0.02" in advice(mixture, specs[0.0])[0]
    assert not advice(mixture, specs["auto"])
    assert not advice(dense, specs[0.0])


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    name=st.sampled_from(["mistral", "gemma2", "granite", "cohere", "qwen3_moe", "gpt_neox"]),
    window=st.sampled_from([3, 20, 512]),
    cap=st.sampled_from([None, 0.5, 30.0]),
    scale=st.sampled_from([0.2, 1.0, 8.0]),
    heads=st.sampled_from([(4, 4), (4, 2), (4, 1)]),
    seed=st.integers(0, 99),
)
def test_any_settings_of_an_architecture_give_its_own_numbers(
    name, window, cap, scale, heads, seed, pair_batch
):
    """Windows, soft caps, factors and shared heads in every combination that the configuration takes."""
    from transformers import AutoConfig, AutoModelForCausalLM

    drawn = {
        "sliding_window": window,
        "use_sliding_window": True,
        "attn_logit_softcapping": cap,
        "final_logit_softcapping": cap,
        "logits_scaling": scale,
        "logit_scale": scale,
        "attention_multiplier": scale / 4,
        "num_attention_heads": heads[0],
        "num_key_value_heads": heads[1],
        "head_dim": 8,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 16,
        "attention_dropout": 0.3,
    }
    kind = AutoConfig.for_model(name)
    torch.manual_seed(seed)
    sizes = SIZES | {"num_hidden_layers": 2}
    config = AutoConfig.for_model(name, **sizes | {k: v for k, v in drawn.items() if hasattr(kind, k)})
    model = AutoModelForCausalLM.from_config(config).eval()
    row = torch.cat([pair_batch.prompts_N[0], pair_batch.tokens_BT[0, : int(pair_batch.length_B[0])]])
    loaded = model.config._attn_implementation
    model.set_attn_implementation("eager")
    with torch.no_grad():
        log_p = model(input_ids=row[None], use_cache=False).logits[0].log_softmax(-1)
    model.set_attn_implementation(loaded)

    seen = proof.observe(model, 256)
    switch_off_dropout(model)
    scorer = Scorer(model)
    proof.prove(scorer, seen)
    first = len(pair_batch.prompts_N[0])
    want = log_p[torch.arange(first - 1, len(row) - 1), row[first:]]
    found = scorer.train()(pair_batch).logps_BT[0, : len(want)].detach()
    torch.testing.assert_close(found, want, atol=5e-4, rtol=1e-4)
