"""The fused head against a plain log-softmax in float64: values, gradients, entropy, scale, soft cap, bias, temperature."""

import pytest
import torch

from kilter.models import logprobs
from kilter.models.logprobs import Head, token_logps


def reference(hidden, weight, bias, targets, scale, cap, temperature):
    z = hidden @ weight.T
    if bias is not None:
        z = z + bias
    z = z * scale
    if cap is not None:
        z = cap * torch.tanh(z / cap)
    logp = (z / temperature).log_softmax(-1)
    return logp.gather(1, targets[:, None])[:, 0], -(logp.exp() * logp).sum(-1)


@pytest.mark.parametrize("kept", [0, logprobs.KEPT_BYTES])
@pytest.mark.parametrize("with_entropy", [True, False])
@pytest.mark.parametrize(
    ("scale", "cap", "temperature", "with_bias"),
    [(1.0, None, 1.0, False), (0.5, None, 0.7, True), (1.0, 3.0, 1.0, False), (2.0, 4.0, 1.3, True)],
)
def test_matches_log_softmax(monkeypatch, scale, cap, temperature, with_bias, with_entropy, kept):
    monkeypatch.setattr(
        logprobs, "CHUNK_ELEMENTS", 16 * 141
    )  # several chunks of rows, several blocks of the vocabulary
    monkeypatch.setattr(logprobs, "KEPT_BYTES", kept)
    monkeypatch.setattr(logprobs, "logits", _double_logits)
    g = torch.Generator().manual_seed(1)
    hidden = torch.randn(53, 8, generator=g, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(141, 8, generator=g, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(141, generator=g, dtype=torch.float64, requires_grad=True) if with_bias else None
    targets = torch.randint(141, (53,), generator=g)
    a, b = (
        torch.randn(53, generator=g, dtype=torch.float64),
        torch.randn(53, generator=g, dtype=torch.float64),
    )
    got, entropy, _ = token_logps(
        hidden, Head(weight, bias, scale, cap), targets, temperature, entropy=with_entropy
    )
    want, want_entropy = reference(hidden, weight, bias, targets, scale, cap, temperature)
    torch.testing.assert_close(got, want, atol=1e-12, rtol=1e-12)
    if entropy is None:
        entropy, b = torch.zeros(()), b * 0
    else:
        torch.testing.assert_close(entropy, want_entropy, atol=1e-11, rtol=1e-11)
    leaves = [hidden, weight] + ([bias] if bias is not None else [])
    mine = torch.autograd.grad((got * a).sum() + (entropy * b).sum(), leaves)
    theirs = torch.autograd.grad((want * a).sum() + (want_entropy * b).sum(), leaves)
    for x, y in zip(mine, theirs, strict=True):
        torch.testing.assert_close(x, y, atol=1e-10, rtol=1e-10)


def _double_logits(hidden, head):
    z = hidden @ head.weight.T
    if head.bias is not None:
        z = z + head.bias
    z = z * head.scale
    return z if head.softcap is None else head.softcap * torch.tanh(z / head.softcap)


def test_without_entropy_gradients_are_the_same():
    hidden = torch.randn(9, 8, requires_grad=True)
    weight = torch.randn(30, 8, requires_grad=True)
    targets = torch.randint(30, (9,))
    got, none, _ = token_logps(hidden, Head(weight), targets)
    assert none is None
    want = (hidden @ weight.T).log_softmax(-1).gather(1, targets[:, None])[:, 0]
    for x, y in zip(
        torch.autograd.grad(got.sum(), [hidden, weight]),
        torch.autograd.grad(want.sum(), [hidden, weight]),
        strict=True,
    ):
        torch.testing.assert_close(x, y, atol=1e-5, rtol=1e-5)


def test_frozen_head_gets_no_gradient():
    hidden = torch.randn(4, 8, requires_grad=True)
    weight = torch.randn(30, 8)
    token_logps(hidden, Head(weight), torch.zeros(4, dtype=torch.long))[0].sum().backward()
    assert weight.grad is None
    assert hidden.grad is not None


@pytest.mark.parametrize(("kept", "passes"), [(300 * 5000 * 4 - 1, 2), (300 * 5000 * 4, 1)])
def test_logits_stay_at_the_chunk_and_are_recomputed_where_they_are_too_many_to_keep(
    monkeypatch, kept, passes
):
    """The largest allocation of logits in forward and backward stays at the chunk, whatever the number of tokens."""
    monkeypatch.setattr(logprobs, "KEPT_BYTES", kept)
    monkeypatch.setattr(logprobs, "CHUNK_ELEMENTS", 16 * 5000)
    sizes = []
    original = logprobs.logits

    def spy(*args):
        out = original(*args)
        sizes.append(out.numel())
        return out

    monkeypatch.setattr(logprobs, "logits", spy)
    hidden = torch.randn(300, 8, requires_grad=True)
    weight = torch.randn(5000, 8, requires_grad=True)
    token_logps(hidden, Head(weight), torch.zeros(300, dtype=torch.long))[0].sum().backward()
    assert max(sizes) == 16 * 5000
    assert sum(sizes) == passes * 300 * 5000
