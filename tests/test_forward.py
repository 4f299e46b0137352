"""Shared prefix against plain rows: log-probs, scores, gradients; the start-up check and its fallback."""

import itertools
import logging

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from conftest import make_model
from kilter.batch import Batch
from kilter.models import attention
from kilter.models.forward import Scorer, times_read
from kilter.models.load import load_causal, load_reward
from kilter.models.microbatch import split
from kilter.models.packing import Segment, pack, root_tokens
from kilter.models.proof import observe, prove, tell


def proven(scorer, max_length=None):
    """The proof of a scorer's own model."""
    return prove(scorer, observe(scorer._base(), max_length))


def grads(scorer, batch):
    scorer.zero_grad()
    out = scorer(batch)
    (out.logps_BT * torch.linspace(-1, 1, out.logps_BT.numel()).view_as(out.logps_BT)).sum().backward()
    return out.logps_BT.detach(), {n: p.grad.clone() for n, p in scorer.named_parameters()}


def test_shared_equals_rows(scorer, pair_batch):
    shared, g_shared = grads(scorer, pair_batch)
    scorer.shared = False
    rows, g_rows = grads(scorer, pair_batch)
    torch.testing.assert_close(shared, rows, atol=1e-5, rtol=1e-5)
    for name in g_rows:
        torch.testing.assert_close(g_shared[name], g_rows[name], atol=1e-5, rtol=1e-4)


def test_matches_transformers_logits(scorer, pair_batch):
    """An independent road: the model's own forward on one row at a time."""
    got = scorer(pair_batch).logps_BT
    for row in range(pair_batch.rows()):
        n = int(pair_batch.length_B[row])
        prompt = pair_batch.prompts_N[int(pair_batch.group_B[row])]
        ids = torch.cat([prompt, pair_batch.tokens_BT[row, :n]])
        logp = scorer.model(input_ids=ids[None]).logits[0].log_softmax(-1)
        want = logp[len(prompt) - 1 : -1].gather(1, ids[len(prompt) :, None])[:, 0]
        torch.testing.assert_close(got[row, :n], want, atol=1e-4, rtol=1e-4)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("dense", [4096, 0])
def test_both_forms_for_a_gpu_equal_the_segment_form(dense, monkeypatch):
    """All scores at once and flex attention, run on a CPU."""
    monkeypatch.setattr(attention, "DENSE", dense)
    torch.manual_seed(0)
    plain = (Segment(0, 7, (5, 3)), Segment(15, 4, (2, 6, 1)))
    rooted = (Segment(0, 5, ()), Segment(5, 2, (5, 3), root=5), Segment(15, 4, (2, 6, 1), root=5))
    q, k, v = torch.randn(1, 4, 28, 8), torch.randn(1, 2, 28, 8), torch.randn(1, 2, 28, 8)
    for segments, window in itertools.product((plain, rooted), (None, 4)):
        want = attention._segments_cpu(q, k, v, segments, None, window)
        got = attention._segments_gpu(q, k, v, segments, None, window)
        torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("window", [None, 5, 12])
@pytest.mark.parametrize("root", [0, 9])
def test_segment_attention_and_its_gradients_equal_dense_attention(window, root):
    """Runs of equal and of unequal completions, a completion alone, and one too long to share a run's padding."""
    sizes = (7, (5, 5, 4, 5, 30, 1)), (3, (6,)), (4, ())
    starts = root, root + 57, root + 66
    segments = tuple(Segment(at, *size, root) for at, size in zip(starts, sizes, strict=True))
    segments = (Segment(0, root, ()), *segments) if root else segments
    length, generator = root + 70, torch.Generator().manual_seed(0)
    q, k, v, grad = (
        torch.randn(1, n, length, 8, dtype=torch.float64, generator=generator) for n in (6, 2, 2, 6)
    )
    assert len(attention._runs(segments, 6)) == 3 + 3 + 1 + (root > 0)
    seen = torch.full((length, length), -torch.inf, dtype=torch.float64)
    for seg in segments:
        at = seg.start + seg.prompt
        own = [(seg.start, seg.prompt, 0)] + [
            (at + sum(seg.completions[:i]), size, seg.prompt) for i, size in enumerate(seg.completions)
        ]
        for start, size, before in own:
            keys = [*range(seg.root), *range(seg.start, seg.start + before), *range(start, start + size)]
            for i in range(size):
                reach = keys[: seg.root + before + i + 1][-window if window else None :]
                seen[start + i, reach] = 0.0
    results = []
    for compute in (
        lambda *x: attention._segments_cpu(*x, segments, None, window),
        lambda *x: torch.nn.functional.scaled_dot_product_attention(*x, attn_mask=seen, enable_gqa=True),
    ):
        leaves = [x.clone().requires_grad_() for x in (q, k, v)]
        out = compute(*leaves)
        results.append([out.detach(), *torch.autograd.grad(out, leaves, grad)])
    for own, dense in zip(*results, strict=True):
        torch.testing.assert_close(own, dense, atol=1e-12, rtol=1e-12)


def beginnings(vocabulary):
    """Prompts of one to three groups that begin alike, or not, and two completions to each."""
    tokens = st.lists(st.integers(0, vocabulary - 1), min_size=1, max_size=9)
    root = st.lists(st.integers(0, vocabulary - 1), max_size=12)
    group = st.tuples(tokens, tokens, tokens)
    return st.tuples(root, st.lists(group, min_size=1, max_size=3))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(beginnings(264))
@pytest.mark.parametrize("window", [None, 6])
def test_what_all_prompts_begin_with_is_read_once_and_every_number_is_that_of_plain_rows(
    window, tiny_models, drawn
):
    """Log-probs and gradients, against transformers' own forward of each row; positions read are counted."""
    scorer = tiny_models[window]
    root, groups = drawn
    prompts = tuple(torch.tensor(root + p) for p, *_ in groups)
    rows = [completion for _, *both in groups for completion in both]
    batch = _batch(prompts, rows)
    layout = pack(batch, True, rooted=True)
    common = root_tokens(prompts)
    assert common >= len(root) - 1 or len(prompts) == 1
    plain = sum(map(len, prompts)) + sum(map(len, rows))
    assert layout.input_ids.numel() == plain - common * (len(prompts) - 1)

    states = [scorer.predicting(batch, rooted=True), scorer.predicting(batch)]
    wanted = []
    for n, completion in enumerate(rows):
        ids = torch.cat([prompts[n // 2], torch.tensor(completion)])
        own = scorer._base().model(input_ids=ids[None], use_cache=False).last_hidden_state[0]
        wanted.append(own[-len(completion) - 1 : -1])
    want = torch.cat(wanted)
    weights = torch.linspace(-1, 1, want.numel()).view_as(want)
    slopes = [
        torch.autograd.grad((s * weights).sum(), list(scorer.parameters()), allow_unused=True)
        for s in (*states, want)
    ]
    for found, slope in zip(states, slopes, strict=False):
        torch.testing.assert_close(found, want, atol=1e-5, rtol=1e-4)
        for a, b in zip(slope, slopes[-1], strict=True):
            if b is not None:
                torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-3)


def test_a_root_counts_for_the_routers_as_often_as_plain_rows_hold_it():
    prompts = tuple(torch.tensor([1, 2, 3, *own]) for own in ([4], [5, 6]))
    batch = _batch(prompts, [[7], [8, 9], [7], [7]])
    layout = pack(batch, True, rooted=True)
    assert times_read(layout)[0].tolist() == [4, 4, 4, 2, 1, 1, 1, 2, 2, 1, 1]


def _batch(prompts, rows):
    """A batch with two completions to each prompt, all of whose tokens are trained."""
    lengths, width = torch.tensor([len(r) for r in rows]), max(map(len, rows))
    tokens = torch.tensor([r + [0] * (width - len(r)) for r in rows])
    mask = (torch.arange(width)[None] < lengths[:, None]).float()
    empty, one = torch.zeros(len(rows)), torch.tensor(1.0)
    counts = mask.sum(), one * len(rows), one * len(prompts)
    group = torch.arange(len(rows)) // 2
    return Batch(prompts, tokens, mask, lengths, group, empty, torch.zeros(len(prompts)), *counts)


@pytest.fixture(scope="module")
def tiny_models():
    """By window: models of two layers, the second with sliding attention."""
    from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM

    sizes = dict(
        vocab_size=264, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4
    )
    torch.manual_seed(0)
    llama = LlamaForCausalLM(LlamaConfig(**sizes, num_key_value_heads=2))
    mistral = MistralForCausalLM(MistralConfig(**sizes, num_key_value_heads=2, head_dim=8, sliding_window=6))
    return {None: Scorer(llama).eval(), 6: Scorer(mistral).eval()}


def test_large_scores_in_bfloat16_are_not_rounded_before_the_softmax():
    segments = (Segment(0, 40, (30, 25, 30, 28)),)
    generator = torch.Generator().manual_seed(0)
    q, k, v = (
        torch.randn(1, n, 153, 64, generator=generator) * size for n, size in ((4, 4.0), (2, 4.0), (2, 1.0))
    )
    q, k, v = q.bfloat16(), k.bfloat16(), v.bfloat16()
    exact = attention._segments_cpu(q.double(), k.double(), v.double(), segments, None, None)
    found = attention._segments_cpu(q, k, v, segments, None, None).double()
    assert float((found - exact).norm() / exact.norm()) < 4e-3


def test_probe_accepts_llama(scorer):
    assert proven(scorer).way.path == "shared"
    assert scorer.shared


def test_probe_accepts_reward_models(tiny):
    scorer = Scorer(load_reward(tiny, 0, fresh=True))
    torch.nn.init.normal_(scorer.model.score.weight)
    assert proven(scorer).way.path == "shared"


def test_sliding_window_is_exact(tmp_path, pair_batch):
    from transformers import MistralConfig, MistralForCausalLM

    torch.manual_seed(0)
    config = MistralConfig(
        vocab_size=264,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        sliding_window=6,
        head_dim=8,
    )
    scorer = Scorer(MistralForCausalLM(config))
    assert proven(scorer).way.path == "shared"
    shared = scorer(pair_batch).logps_BT
    scorer.shared = False
    torch.testing.assert_close(shared, scorer(pair_batch).logps_BT, atol=1e-5, rtol=1e-5)


def test_state_space_model_falls_back_with_a_warning(caplog, pair_batch):
    from transformers import MambaConfig, MambaForCausalLM

    torch.manual_seed(0)
    model = MambaForCausalLM(
        MambaConfig(vocab_size=264, hidden_size=32, num_hidden_layers=2, state_size=4, time_step_rank=4)
    )
    scorer = Scorer(model, shared=False)
    with caplog.at_level(logging.WARNING, logger="kilter"):
        tell(proven(scorer), "Mamba")
    assert "cannot share prompts" in caplog.text
    assert not scorer.shared


def test_reward_scores_read_the_last_token(tiny, pair_batch):
    scorer = Scorer(load_reward(tiny, 0, fresh=True)).eval()
    torch.nn.init.normal_(scorer.model.score.weight)
    got = scorer(pair_batch, frozenset({"scores"})).scores_B
    for row in range(pair_batch.rows()):
        ids = torch.cat(
            [
                pair_batch.prompts_N[int(pair_batch.group_B[row])],
                pair_batch.tokens_BT[row, : int(pair_batch.length_B[row])],
            ]
        )
        want = scorer.model(input_ids=ids[None]).logits[0, 0]
        torch.testing.assert_close(got[row], want, atol=1e-4, rtol=1e-4)


def test_padding_garbage_changes_nothing(scorer, pair_batch):
    clean = scorer(pair_batch).logps_BT
    dirty = pair_batch.tokens_BT.clone()
    dirty[torch.arange(dirty.shape[1])[None] >= pair_batch.length_B[:, None]] = 77
    torch.testing.assert_close(scorer(pair_batch.with_(tokens_BT=dirty)).logps_BT, clean)


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("budget", [1, 60, 10_000])
def test_split_keeps_every_group_once(pair_batch, budget, shared):
    parts = split(pair_batch, budget, shared)
    assert sum(p.groups() for p in parts) == pair_batch.groups()
    assert sorted(id(t) for p in parts for t in p.prompts_N) == sorted(id(t) for t in pair_batch.prompts_N)
    for p in parts:
        layout = pack(p, shared)
        assert p.groups() == 1 or layout.input_ids.numel() <= budget


def test_gqa_and_untied_head(tmp_path, pair_batch):
    scorer = Scorer(load_causal(make_model(tmp_path / "m")))
    assert scorer.head().bias is None
    assert scorer.head().scale == 1.0
