"""Float32 products by the other library: the same numbers, once and twice differentiated, in every module that multiplies."""

import copy

import pytest
import torch
from torch import nn

from kilter.models import products
from kilter.models.logprobs import Head, plain_token_logps, token_logps


@pytest.fixture
def onednn(monkeypatch):
    """As on a processor where oneDNN is the faster one, whatever this one is; every product, however small."""
    if not torch.backends.mkldnn.is_available():
        pytest.skip("this build of PyTorch has no oneDNN")
    monkeypatch.setattr(products, "onednn_multiplies_faster", lambda: True)
    monkeypatch.setattr(products, "SMALLEST", 1)
    seen = []
    multiply = products._multiply
    monkeypatch.setattr(products, "_multiply", lambda *args: (seen.append(args[0].shape), multiply(*args))[1])
    return seen


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("layout", ["plain", "transposed", "block"])
def test_a_product_and_its_gradients_equal_those_of_float64(onednn, layout):
    a, b = random(7, 12), random(12, 5, seed=1)
    if layout == "transposed":
        a, b = random(12, 7).T, random(5, 12, seed=1).T
    elif layout == "block":
        a, b = random(20, 30)[3:10, 4:16], random(12, 9, seed=1)[:, 2:7]
    a, b = a.detach().requires_grad_(), b.detach().requires_grad_()
    wide = [x.detach().double().requires_grad_() for x in (a, b)]
    ours, exact = products.matmul(a, b), wide[0] @ wide[1]
    torch.testing.assert_close(ours.double(), exact, atol=1e-5, rtol=1e-5)
    for found, expected in zip(
        torch.autograd.grad(ours.square().sum(), (a, b)),
        torch.autograd.grad(exact.square().sum(), wide),
        strict=True,
    ):
        torch.testing.assert_close(found.double(), expected, atol=1e-4, rtol=1e-5)
    assert len(onednn) == 3  # forward, and one product for each gradient


def test_twice_differentiated(onednn):
    def slope_of_slope(multiply, dtype):
        a, b = random(3, 4).to(dtype).requires_grad_(), random(4, 2, seed=1).to(dtype).requires_grad_()
        (first,) = torch.autograd.grad(multiply(a, b).pow(3).sum(), a, create_graph=True)
        return [x.double() for x in torch.autograd.grad(first.square().sum(), (a, b))]

    for found, expected in zip(
        slope_of_slope(products.matmul, torch.float32),
        slope_of_slope(torch.matmul, torch.float64),
        strict=True,
    ):
        torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-5)


@pytest.mark.parametrize("bias", [False, True])
def test_a_linear_layer_keeps_its_numbers_its_gradients_and_its_state(onednn, bias):
    own = nn.Sequential(nn.Linear(12, 8, bias=bias), nn.Tanh(), nn.Linear(8, 3, bias=bias))
    ours = copy.deepcopy(own)
    assert products.take_over(ours) == 2
    assert products.take_over(ours) == 0
    assert list(ours.state_dict()) == list(own.state_dict())
    x = random(2, 5, 12)
    found = []
    for model in (own, ours, copy.deepcopy(ours)):
        y = model(x)
        y.square().sum().backward()
        found.append([y.detach(), *(p.grad for p in model.parameters())])
    for other in found[1:]:
        for a, b in zip(found[0], other, strict=True):
            torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)
    assert onednn


def test_only_what_gains_goes_to_onednn(onednn, monkeypatch):
    layer = nn.Linear(12, 8)
    products.take_over(layer)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(random(2, 12)).dtype == torch.bfloat16
    assert layer.double()(random(2, 12).double()).dtype == torch.float64
    layer.float()(random(0, 12))  # nothing to multiply
    assert not onednn
    monkeypatch.setattr(products, "SMALLEST", 1 << 21)
    layer(random(2, 12))
    assert not onednn


@pytest.mark.parametrize(
    ("capability", "maker", "expected"),
    [
        ("AVX512", "AuthenticAMD", True),
        ("AVX512", "GenuineIntel", False),
        ("AVX2", "AuthenticAMD", False),
        ("AVX512", "", False),
    ],
)
def test_the_processor_decides_not_a_measurement(monkeypatch, capability, maker, expected):
    monkeypatch.setattr(products.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    monkeypatch.setattr(products, "_maker", lambda: maker)
    assert products.onednn_multiplies_faster.__wrapped__() is expected


def test_the_fused_head_multiplies_there_too(onednn):
    hidden, weight, targets = (
        random(6, 16).requires_grad_(),
        random(50, 16, seed=1).requires_grad_(),
        torch.arange(6),
    )
    ours, _, _ = token_logps(hidden, Head(weight), targets)
    plain = (hidden.double() @ weight.double().T).log_softmax(-1).gather(1, targets[:, None])[:, 0]
    torch.testing.assert_close(ours.double(), plain, atol=1e-5, rtol=1e-5)
    found = torch.autograd.grad(ours.sum(), (hidden, weight))
    expected = torch.autograd.grad(plain.sum(), (hidden, weight))
    twice = torch.autograd.grad(plain_token_logps(hidden, Head(weight), targets).sum(), (hidden, weight))
    for a, b, c in zip(found, expected, twice, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(c, b, atol=1e-5, rtol=1e-5)
    assert len(onednn) >= 6
