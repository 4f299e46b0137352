"""Layers that keep less for the backward: the model's own numbers, once and twice differentiated, and less memory."""

import copy

import pytest
import torch
from torch import nn
from transformers import GemmaConfig, GemmaForCausalLM, LlamaConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaMLP, LlamaRMSNorm

from kilter.models import adapters, slim

SIZES = {
    "vocab_size": 99,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


@pytest.fixture
def llama():
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**SIZES))
    for p in model.parameters():
        torch.nn.init.normal_(p, 1.0 if p.ndim == 1 else 0.0, 0.3)
    return model


def test_norm_equals_its_formula_in_float64_twice_differentiated():
    g = torch.Generator().manual_seed(0)
    x, w = (
        torch.randn(*shape, dtype=torch.float64, generator=g).requires_grad_() for shape in ((3, 5), (5,))
    )
    plain = w * x * (x.square().mean(-1, keepdim=True) + 1e-5).rsqrt()
    torch.testing.assert_close(slim._RMSNorm.apply(x, w, 1e-5), plain, atol=1e-14, rtol=1e-14)
    assert torch.autograd.gradcheck(lambda a, b: slim._RMSNorm.apply(a, b, 1e-5), (x, w))
    assert torch.autograd.gradgradcheck(lambda a, b: slim._RMSNorm.apply(a, b, 1e-5), (x, w))


def test_gated_unit_equals_its_formula_in_float64_twice_differentiated():
    g = torch.Generator().manual_seed(0)
    gate, up = (torch.randn(3, 5, dtype=torch.float64, generator=g).requires_grad_() for _ in range(2))
    torch.testing.assert_close(
        slim._SwiGLU.apply(gate, up), gate * gate.sigmoid() * up, atol=1e-14, rtol=1e-14
    )
    assert torch.autograd.gradcheck(slim._SwiGLU.apply, (gate, up))
    assert torch.autograd.gradgradcheck(slim._SwiGLU.apply, (gate, up))


@pytest.mark.parametrize("amp", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_model_keeps_its_numbers_and_its_gradients(llama, dtype, amp):
    own = llama.to(dtype)
    ours = copy.deepcopy(own)
    assert slim.slim(ours) == 7
    assert slim.slim(ours) == 0  # once is enough
    assert list(ours.state_dict()) == list(own.state_dict())
    ids = torch.randint(0, 99, (2, 9), generator=torch.Generator().manual_seed(1))
    found = []
    for model in (own, ours, copy.deepcopy(ours)):
        with torch.autocast("cpu", torch.bfloat16, enabled=amp):
            loss = model(ids, labels=ids).loss
        loss.backward()
        found.append([loss.detach(), *(p.grad for p in model.parameters())])
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=amp):
            torch.testing.assert_close(model(ids, labels=ids).loss, loss.detach(), atol=1e-6, rtol=1e-6)
    narrow = amp or dtype == torch.bfloat16
    for other in found[1:]:
        for a, b in zip(found[0], other, strict=True):
            assert float((a.float() - b.float()).norm()) <= (3e-2 if narrow else 1e-5) * float(
                a.float().norm()
            )


def test_what_is_kept_for_the_backward_shrinks(llama):
    ours = copy.deepcopy(llama)
    slim.slim(ours)
    ids = torch.randint(0, 99, (2, 40), generator=torch.Generator().manual_seed(1))

    def kept(model):
        sizes = {}
        with torch.autograd.graph.saved_tensors_hooks(
            lambda x: sizes.update({x.untyped_storage().data_ptr(): x.untyped_storage().nbytes()}) or x,
            lambda x: x,
        ):
            hidden = model.model(ids).last_hidden_state
        weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
        del hidden
        return sum(n for at, n in sizes.items() if at not in weights)

    assert kept(ours) < 0.85 * kept(llama)


def test_a_norm_of_another_formula_and_another_gate_stay_as_they_are():
    torch.manual_seed(0)
    gemma = GemmaForCausalLM(GemmaConfig(**SIZES, head_dim=8))  # 1 + w, and GELU
    classes = [type(x) for x in gemma.modules()]
    assert slim.slim(gemma) == 0
    assert [type(x) for x in gemma.modules()] == classes


def test_a_slim_layer_is_still_the_models_own_class(llama):
    slim.slim(llama)
    norm = llama.model.norm
    assert isinstance(norm, LlamaRMSNorm)
    assert isinstance(norm, nn.Module)
    assert type(norm).__name__ == "LlamaRMSNorm"


class _Clamped(LlamaMLP):
    def forward(self, x):
        return self.down_proj(self.act_fn(self.gate_proj(x)).clamp(max=10) * self.up_proj(x).clamp(-10, 10))


class _WithResidual(LlamaRMSNorm):
    def forward(self, x, residual=None):
        return super().forward(x if residual is None else x + residual)


def test_what_only_looks_alike_stays_as_it_is(llama):
    config = llama.config
    zero = LlamaMLP(config)
    nn.init.zeros_(zero.down_proj.weight)
    weightless = nn.RMSNorm(32, elementwise_affine=False)
    for layer in (_Clamped(config), _WithResidual(32), zero, weightless):
        assert slim.slim(nn.Sequential(layer)) == 0
    with_gelu = LlamaMLP(LlamaConfig(**SIZES, hidden_act="gelu"))
    nn.init.normal_(with_gelu.gate_proj.weight, 0, 1e-4)  # where GELU and SiLU are nearly the same line
    assert slim.slim(nn.Sequential(with_gelu)) == 0


def test_adapted_projections_keep_the_slim_layer_and_their_dropout(llama):
    adapted = adapters.attach(llama, adapters.AdapterSpec(r=2, dropout=0.5), classifier=False).train()
    assert slim.slim(adapted) == 7
    assert all(m.training for m in adapted.modules())
