"""The sampler: log-probs equal the learner's, seeds hold whatever the batch, filters and stops do what they say."""

import pytest
import torch

from kilter.data.collate import collate
from kilter.errors import UserError
from kilter.sampling.local import LocalSampler, choose
from kilter.types import Feedback, Group, Prompt, SamplingParams

PROMPTS = [
    Prompt(messages=({"role": "user", "content": text},)) for text in ("Hi", "What is the time?", "A much longer question about nothing at all")
]


@pytest.fixture
def sampler(scorer, encoder):
    return LocalSampler(scorer.eval(), encoder)


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_log_probs_equal_the_learners(sampler, scorer, encoder, temperature):
    answers = sampler.generate(PROMPTS, 3, SamplingParams(max_new_tokens=20, temperature=temperature, seed=1))
    groups = [Group(p, tuple(a), (Feedback(None),) * 3) for p, a in zip(PROMPTS, answers)]
    batch = collate([encoder.encode(g) for g in groups])
    got = scorer(batch, temperature=temperature).logps_BT
    row = 0
    for a in answers:
        for c in a:
            torch.testing.assert_close(got[row, : len(c.token_ids)], torch.tensor(c.sampling_logps), atol=1e-4, rtol=1e-4)
            row += 1


def test_seeds_hold_whatever_else_is_in_the_batch(sampler):
    params = SamplingParams(max_new_tokens=12, seed=4)
    together = sampler.generate(PROMPTS, 2, params)
    alone = [sampler.generate([p], 2, params)[0] for p in PROMPTS]
    assert [[c.token_ids for c in a] for a in together] == [[c.token_ids for c in a] for a in alone]
    other = sampler.generate(PROMPTS, 2, SamplingParams(max_new_tokens=12, seed=5))
    assert [c.token_ids for c in other[0]] != [c.token_ids for c in together[0]]
    sampler.tokens_per_batch = 40
    assert [[c.token_ids for c in a] for a in sampler.generate(PROMPTS, 2, params)] == [[c.token_ids for c in a] for a in together]


def test_greedy_equals_generate(sampler, encoder):
    """transformers' own generate as an independent reference."""
    answer = sampler.generate(PROMPTS[:1], 1, SamplingParams(max_new_tokens=10, temperature=0))[0][0]
    ids = torch.tensor([encoder.prompt(PROMPTS[0])])
    want = sampler.scorer.model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=10, do_sample=False, pad_token_id=0)[
        0, ids.shape[1] :
    ]
    assert list(answer.token_ids) == want.tolist()[: len(answer.token_ids)]


def test_finish_reasons_and_limits(sampler):
    for a in sampler.generate(PROMPTS, 4, SamplingParams(max_new_tokens=6, seed=2)):
        for c in a:
            assert 1 <= len(c.token_ids) <= 6
            assert len(c.token_ids) == len(c.sampling_logps)
            assert c.finish_reason == ("stop" if c.token_ids[-1] in sampler.encoder.stop_ids else "length")


def test_stop_strings_end_the_answer_before_them(sampler):
    free = sampler.generate(PROMPTS[:1], 1, SamplingParams(max_new_tokens=30, seed=3))[0][0]
    middle = free.text[4]
    stopped = sampler.generate(PROMPTS[:1], 1, SamplingParams(max_new_tokens=30, seed=3, stop=(middle,)))[0][0]
    assert middle not in stopped.text
    assert stopped.finish_reason == "stop"


def test_top_k_and_top_p_restrict_the_support():
    logits = torch.log(torch.tensor([[0.5, 0.3, 0.15, 0.05]])).repeat(2000, 1)
    draws = torch.rand(2000, generator=torch.Generator().manual_seed(0))

    def seen(**kw):
        return set(choose(logits, draws, SamplingParams(**kw))[0].tolist())

    assert seen() == {0, 1, 2, 3}
    assert seen(top_k=2) == {0, 1}
    assert seen(top_p=0.6) == {0, 1}
    assert seen(top_p=0.4) == {0}
    assert seen(top_k=3, top_p=0.8) == {0, 1}
    assert seen(temperature=0) == {0}


def test_sampling_frequencies_match_the_distribution():
    p = torch.tensor([0.5, 0.3, 0.15, 0.05])
    tokens, logps = choose(p.log().repeat(20000, 1), torch.rand(20000, generator=torch.Generator().manual_seed(1)), SamplingParams())
    torch.testing.assert_close(torch.bincount(tokens, minlength=4) / 20000, p, atol=0.012, rtol=0)
    torch.testing.assert_close(logps, p.log()[tokens])


@pytest.mark.parametrize("bad", [{"temperature": -1}, {"top_p": 0}, {"top_k": -2}, {"max_new_tokens": 0}])
def test_values_without_meaning_are_refused(sampler, bad):
    with pytest.raises(UserError, match="fix:"):
        sampler.generate(PROMPTS, 1, SamplingParams(**bad))
