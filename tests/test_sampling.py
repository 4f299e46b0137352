"""The sampler: log-probs equal the learner's, seeds hold whatever the batch, filters and stops do what they say."""

import pytest
import torch

from kilter.data.collate import collate
from kilter.errors import RunFailed, UserError
from kilter.models.forward import Scorer, Way
from kilter.progress import Nobody
from kilter.sampling.choose import choose
from kilter.sampling.collect import answers as answers_of
from kilter.sampling.collect import collect, requests
from kilter.sampling.engine import supports_shared_decoding
from kilter.sampling.local import LocalSampler
from kilter.sampling.packed import _groups, packed_linears
from kilter.types import Feedback, Group, Prompt, Request, SamplingParams

PROMPTS = [
    Prompt(messages=({"role": "user", "content": text},))
    for text in ("Hi", "What is the time?", "A much longer question about nothing at all")
]


@pytest.fixture
def sampler(scorer, encoder):
    return LocalSampler(scorer.eval(), encoder)


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_log_probs_equal_the_learners(sampler, scorer, encoder, temperature):
    answers = answers_of(
        sampler, PROMPTS, 3, SamplingParams(max_new_tokens=20, temperature=temperature, seed=1)
    )
    groups = [Group(p, tuple(a), (Feedback(None),) * 3) for p, a in zip(PROMPTS, answers)]
    batch = collate([encoder.encode(g) for g in groups])
    got = scorer(batch, temperature=temperature).logps_BT
    row = 0
    for a in answers:
        for c in a:
            torch.testing.assert_close(
                got[row, : len(c.token_ids)], torch.tensor(c.sampling_logps), atol=1e-4, rtol=1e-4
            )
            row += 1


def test_seeds_hold_whatever_else_is_in_the_batch(sampler):
    params = SamplingParams(max_new_tokens=12, seed=4)
    together = answers_of(sampler, PROMPTS, 2, params)
    alone = [answers_of(sampler, [p], 2, params)[0] for p in PROMPTS]
    assert [[c.token_ids for c in a] for a in together] == [[c.token_ids for c in a] for a in alone]
    other = answers_of(sampler, PROMPTS, 2, SamplingParams(max_new_tokens=12, seed=5))
    assert [c.token_ids for c in other[0]] != [c.token_ids for c in together[0]]
    sampler.tokens_per_batch = 40
    assert [[c.token_ids for c in a] for a in answers_of(sampler, PROMPTS, 2, params)] == [
        [c.token_ids for c in a] for a in together
    ]


def test_greedy_equals_generate(sampler, encoder):
    """transformers' own generate as an independent reference."""
    answer = answers_of(sampler, PROMPTS[:1], 1, SamplingParams(max_new_tokens=10, temperature=0))[0][0]
    ids = torch.tensor([encoder.prompt(PROMPTS[0])])
    want = sampler.scorer.model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=10, do_sample=False, pad_token_id=0
    )[0, ids.shape[1] :]
    assert list(answer.token_ids) == want.tolist()[: len(answer.token_ids)]


def test_finish_reasons_and_limits(sampler):
    for a in answers_of(sampler, PROMPTS, 4, SamplingParams(max_new_tokens=6, seed=2)):
        for c in a:
            assert 1 <= len(c.token_ids) <= 6
            assert len(c.token_ids) == len(c.sampling_logps)
            assert c.finish_reason == ("stop" if c.token_ids[-1] in sampler.encoder.stop_ids else "length")


def test_stop_strings_end_the_answer_before_them(sampler):
    free = answers_of(sampler, PROMPTS[:1], 1, SamplingParams(max_new_tokens=30, seed=3))[0][0]
    middle = free.text[4]
    stopped = answers_of(sampler, PROMPTS[:1], 1, SamplingParams(max_new_tokens=30, seed=3, stop=(middle,)))[
        0
    ][0]
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
    tokens, logps, _ = choose(
        p.log().repeat(20000, 1),
        torch.rand(20000, generator=torch.Generator().manual_seed(1)),
        SamplingParams(),
    )
    torch.testing.assert_close(torch.bincount(tokens, minlength=4) / 20000, p, atol=0.012, rtol=0)
    torch.testing.assert_close(logps, p.log()[tokens])


@pytest.mark.parametrize("bad", [{"temperature": -1}, {"top_p": 0}, {"top_k": -2}, {"max_new_tokens": 0}])
def test_values_without_meaning_are_refused(sampler, bad):
    with pytest.raises(UserError, match="Fix:"):
        answers_of(sampler, PROMPTS, 1, SamplingParams(**bad))


@pytest.fixture
def model_logps(scorer, encoder):
    """Checks sampled log-probs of every answer against the learner's forward."""

    def check(prompts, answers, tolerance=1e-4):
        groups = [Group(p, tuple(a), (Feedback(None),) * len(a)) for p, a in zip(prompts, answers)]
        with torch.no_grad():
            got = scorer(collate([encoder.encode(g) for g in groups])).logps_BT
        want = [c.sampling_logps for a in answers for c in a]
        for row, own in zip(got, want):
            torch.testing.assert_close(row[: len(own)], torch.tensor(own), atol=tolerance, rtol=tolerance)

    return check


MANY = [Prompt(messages=({"role": "user", "content": "q" * n},)) for n in (3, 40, 11, 27, 5, 33, 18)]


def test_rows_enter_and_leave_midway_and_stay_exact(sampler, model_logps):
    """A small budget and unequal lengths: slots are reused, rows of different ages share a step."""
    params = [SamplingParams(max_new_tokens=n, seed=7) for n in (3, 14, 9, 1, 20, 6, 11)]
    sampler.tokens_per_batch = 220
    answers = answers_of(sampler, MANY, 3, params)
    assert [max(len(c.token_ids) for c in a) <= p.max_new_tokens for a, p in zip(answers, params)] == [
        True
    ] * 7
    model_logps(MANY, answers)
    roomy = answers_of(LocalSampler(sampler.scorer, sampler.encoder), MANY, 3, params)
    assert [[c.token_ids for c in a] for a in answers] == [[c.token_ids for c in a] for a in roomy]
    assert sampler.last.steps > 20  # really in several turns


def test_a_model_with_its_own_cache_gives_the_same_answers(sampler):
    params = SamplingParams(max_new_tokens=10, seed=2)
    fast = answers_of(sampler, MANY, 2, params)
    sampler.scorer.decodes_shared = False
    sampler.tokens_per_batch = 200
    slow = answers_of(sampler, MANY, 2, params)
    assert [[c.token_ids for c in a] for a in fast] == [[c.token_ids for c in a] for a in slow]


def test_fixed_shapes_for_graphs_give_the_same_logits(scorer):
    """What a CUDA graph replays, run eagerly: full-size plans with masks instead of trimmed ones."""
    from kilter.sampling.engine import SharedEngine

    prompts = [(9, 10, 11, 12, 13), (20, 21)]

    def run(fixed):
        engine = SharedEngine(scorer, 3, 4, 8, 6, 2, fixed)
        handles, _ = engine.prefill(prompts)
        engine.attach([handles[0], handles[1], handles[1]])
        found = [engine.decode(torch.tensor([5, 6, 7]))]
        engine.keep([0, 2])
        found.append(engine.decode(torch.tensor([8, 9])))
        return torch.cat(found)

    with torch.no_grad():
        torch.testing.assert_close(run(True), run(False), atol=1e-5, rtol=1e-5)


def test_sliding_window_attention(tmp_path, encoder):
    """Keys further back than the window are hidden, in the prompt and among a row's own tokens."""
    from transformers import MistralConfig, MistralForCausalLM

    from kilter.models.forward import Scorer

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
    scorer = Scorer(MistralForCausalLM(config)).eval()
    answers = answers_of(LocalSampler(scorer, encoder), PROMPTS, 2, SamplingParams(max_new_tokens=15))
    assert scorer.decodes_shared
    groups = [Group(p, tuple(a), (Feedback(None),) * 2) for p, a in zip(PROMPTS, answers)]
    with torch.no_grad():
        got = scorer(collate([encoder.encode(g) for g in groups])).logps_BT
    for row, own in zip(got, [c.sampling_logps for a in answers for c in a]):
        torch.testing.assert_close(row[: len(own)], torch.tensor(own), atol=1e-4, rtol=1e-4)


def test_weights_are_the_learners_own(sampler, scorer):
    """An update is seen by the next call without any copying, and training still works after a rollout."""
    before = answers_of(sampler, PROMPTS, 1, SamplingParams(max_new_tokens=8, temperature=0))
    with torch.no_grad():
        for p in scorer.parameters():
            p.mul_(-1.3)
    after = answers_of(sampler, PROMPTS, 1, SamplingParams(max_new_tokens=8, temperature=0))
    assert [a[0].token_ids for a in before] != [a[0].token_ids for a in after]
    assert not any("forward" in vars(m) for m in scorer.modules())


def test_lora_attached_or_not(tiny, encoder):
    from kilter.models import adapters
    from kilter.models.config import AdapterSpec
    from kilter.models.forward import Scorer
    from kilter.models.load import load_causal

    scorer = Scorer(adapters.attach(load_causal(tiny), AdapterSpec(r=4), False)).eval()
    with torch.no_grad():
        for name, p in scorer.named_parameters():
            if "lora_B" in name:
                p.normal_(std=0.3)
    answers = answers_of(LocalSampler(scorer, encoder), PROMPTS, 2, SamplingParams(max_new_tokens=9))
    assert scorer.decodes_shared
    groups = [Group(p, tuple(a), (Feedback(None),) * 2) for p, a in zip(PROMPTS, answers)]
    with torch.no_grad():
        got = scorer(collate([encoder.encode(g) for g in groups])).logps_BT
    for row, own in zip(got, [c.sampling_logps for a in answers for c in a]):
        torch.testing.assert_close(row[: len(own)], torch.tensor(own), atol=1e-4, rtol=1e-4)


def test_geometric_mixture_of_policy_and_reference(tiny, scorer, encoder):
    """Share 0 is the policy, share 1 the reference, and between them the log-probs are the normalised mixture's."""
    from kilter.models.forward import Scorer
    from kilter.models.load import load_causal

    other = Scorer(load_causal(tiny)).eval()
    with torch.no_grad():
        for p in other.parameters():
            p.add_(0.05 * torch.randn_like(p))
    params = SamplingParams(max_new_tokens=6, seed=3)
    plain = answers_of(LocalSampler(scorer.eval(), encoder), PROMPTS, 2, params)
    same = answers_of(LocalSampler(scorer, encoder, mixture=(other, 0.0)), PROMPTS, 2, params)
    assert [[c.token_ids for c in a] for a in plain] == [[c.token_ids for c in a] for a in same]
    mixed = answers_of(LocalSampler(scorer, encoder, mixture=(other, 0.4)), PROMPTS, 2, params)
    ids = torch.tensor([encoder.prompt(PROMPTS[0])])
    with torch.no_grad():
        own, ref = (s.model(ids).logits[0, -1].log_softmax(-1) for s in (scorer, other))
    want = (0.6 * own + 0.4 * ref).log_softmax(-1)
    first = mixed[0][0]
    assert first.sampling_logps[0] == pytest.approx(float(want[first.token_ids[0]]), abs=1e-4)


def test_nucleus_without_a_full_sort_is_the_nucleus():
    """Candidates grow until they hold the nucleus: the support equals that of a sorted reference."""
    logits = torch.randn(3, 5000, generator=torch.Generator().manual_seed(0)) * 0.1
    p, order = logits.softmax(-1).sort(-1, descending=True)
    inside = (p.cumsum(-1) - p) < 0.9
    for u in torch.linspace(0, 0.9999, 40):
        picked, *_ = choose(logits, u.repeat(3), SamplingParams(top_p=0.9))
        for row in range(3):
            assert int(picked[row]) in set(order[row][inside[row]].tolist())


def test_throughput_is_known_while_sampling(sampler):
    class Watch(Nobody):
        def finished(self, samples, tokens_per_second):
            seen.append((samples, sampler.last.tokens, tokens_per_second))

    seen = []
    answers = answers_of(sampler, PROMPTS, 2, SamplingParams(max_new_tokens=6), Watch())
    assert seen[-1][0] == 6
    assert sampler.last.tokens == sum(len(c.token_ids) for a in answers for c in a)
    assert all(rate > 0 for _, _, rate in seen)
    assert [t for _, t, _ in seen] == sorted(t for _, t, _ in seen)


def test_projections_of_one_input_are_one_product_and_another_input_is_never_mistaken(scorer):
    layer = scorer.model.model.layers[0]
    g = torch.Generator().manual_seed(0)
    x, y = (torch.randn(1, 3, layer.self_attn.q_proj.in_features, generator=g) for _ in range(2))
    names = [(layer.self_attn, n) for n in ("q_proj", "k_proj", "v_proj", "o_proj")] + [
        (layer.mlp, n) for n in ("gate_proj", "up_proj")
    ]
    with torch.no_grad():
        wanted = {(n, id(z)): getattr(m, n)(z) for m, n in names for z in (x, y)}
        assert sorted(map(len, _groups(layer))) == [1, 1, 2, 3]
        with packed_linears(scorer, False, 3):
            in_place = x.clone()
            layer.self_attn.q_proj(in_place)
            in_place.copy_(y)
            torch.testing.assert_close(layer.self_attn.k_proj(in_place), wanted["k_proj", id(y)])
            for order in (names, names[::-1], [names[0], names[4], names[1], names[5], names[2]]):
                for z in (x, y, x):
                    for m, n in order:
                        torch.testing.assert_close(getattr(m, n)(z), wanted[n, id(z)])
            layer.self_attn.q_proj(x)
            torch.testing.assert_close(layer.self_attn.v_proj(y), wanted["v_proj", id(y)])
    assert "forward" not in vars(layer.mlp.up_proj)


def test_a_judge_may_read_with_the_model_of_a_rollout_under_way(sampler, encoder, monkeypatch):
    """Both re-arrange weights; whoever comes second takes what is there, and leaves it to the first."""
    monkeypatch.setattr("kilter.sampling.choices.PACKED", 0)
    prompts = [Prompt(text=f"Say {n}") for n in range(3)]
    alone = answers_of(sampler, prompts, 1, SamplingParams(max_new_tokens=4, seed=1))
    odds = sampler.choose(prompts, ("A", "B"))
    params = SamplingParams(max_new_tokens=4, seed=1)
    requests = [Request(str(n), p, 1, params) for n, p in enumerate(prompts)]
    for sample in sampler.run(requests):
        between = sampler.choose(prompts, ("A", "B"))
        assert [o.probabilities for o in between] == [pytest.approx(o.probabilities, abs=1e-5) for o in odds]
        assert sample.completion.token_ids in [a[0].token_ids for a in alone]
    assert not [m for m in sampler.scorer.modules() if "forward" in vars(m)]


def test_one_key_value_head_and_a_partial_rotation_decode_with_the_shared_cache():
    from transformers import Phi3Config, Phi3ForCausalLM

    torch.manual_seed(0)
    sizes = {
        "vocab_size": 264,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 1,
    }
    scorer = Scorer(Phi3ForCausalLM(Phi3Config(**sizes, partial_rotary_factor=0.5, pad_token_id=0)))
    assert supports_shared_decoding(scorer)


def test_a_rollout_inside_inference_mode(sampler):
    with torch.inference_mode():
        (found,) = answers_of(sampler, [Prompt(text="Hello")], 2, SamplingParams(max_new_tokens=3))
    assert len(found) == 2


@pytest.mark.parametrize(
    ("rope", "limit"),
    [
        ({"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}, 64),
        (
            {
                "rope_type": "longrope",
                "original_max_position_embeddings": 32,
                "long_factor": [2.0] * 4,
                "short_factor": [1.0] * 4,
                "rope_theta": 1e4,
            },
            32,
        ),
        ({"full_attention": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}}, 64),
        ({"rope_type": "llama3", "factor": 8.0, "rope_theta": 1e4}, None),
        (None, None),
    ],
)
def test_rows_that_would_change_the_embedding_of_their_neighbours_are_refused(rope, limit):
    from types import SimpleNamespace

    from kilter.models.positions import require_steady, steady_positions

    config = SimpleNamespace(rope_parameters=rope, max_position_embeddings=64)
    assert steady_positions(config) == limit
    require_steady(config, limit or 10_000, "max_length")
    if limit is not None:
        with pytest.raises(UserError, match=f"max_length` = {limit + 1} goes beyond the {limit} positions"):
            require_steady(config, limit + 1, "max_length")


def test_such_a_model_samples_within_its_limit_and_refuses_beyond_it(sampler, scorer):
    scorer._base().config.rope_parameters = {"rope_type": "dynamic", "factor": 2.0}
    scorer._base().config.max_position_embeddings = 40
    answers_of(sampler, PROMPTS[:1], 1, SamplingParams(max_new_tokens=4))
    found = collect(sampler, requests(PROMPTS, 2, SamplingParams(max_new_tokens=20)))
    assert [[c is None for c in row] for row in found.completions] == [[False] * 2, [True] * 2, [True] * 2]
    assert all("goes beyond the 40 positions" in p for p in found.problems)
    alone = answers_of(sampler, PROMPTS[:1], 2, SamplingParams(max_new_tokens=20))
    assert [c.token_ids for c in found.completions[0]] == [c.token_ids for c in alone[0]]
    with pytest.raises(RunFailed, match="4 of 6 answers failed: prompt \\+ max_new_tokens"):
        answers_of(sampler, PROMPTS, 2, SamplingParams(max_new_tokens=20))


def test_an_empty_stop_string_is_refused(sampler):
    with pytest.raises(UserError, match="stop"):
        answers_of(sampler, PROMPTS, 1, SamplingParams(max_new_tokens=4, stop=("",)))


def test_what_was_sampled_leaves_no_inference_tensors_in_the_model(sampler, scorer):
    answers_of(sampler, PROMPTS, 2, SamplingParams(max_new_tokens=4))
    held = [v for m in scorer.modules() for v in vars(m).values() if isinstance(v, torch.Tensor)]
    assert not any(t.is_inference() for t in [*held, *scorer.parameters(), *scorer.buffers()])


def test_samples_come_as_they_finish_and_leave_nothing_behind(sampler, scorer):
    """The caller may compute in between, and may stop early: precision, mode and layers are then as before."""
    sampler.amp, sampler.tokens_per_batch = True, 120
    scorer.train()
    wanted = requests(MANY, 1, [SamplingParams(max_new_tokens=n, seed=1) for n in (3, 9, 5, 7, 9, 1, 4)])
    seen = []
    for sample in sampler.run(wanted):
        assert not torch.is_autocast_enabled("cpu")
        assert not torch.is_inference_mode_enabled()
        seen.append((sampler.last.steps, sample.request.id))
        if len(seen) == 4:
            break
    assert seen[0][0] < seen[-1][0]
    assert scorer.training
    assert not any("forward" in vars(m) for m in scorer.modules())


def test_a_completion_goes_on_from_given_tokens(sampler, scorer, encoder, model_logps):
    """Greedy, the continuation of an answer's beginning is the rest of that answer; log-probs stand on new tokens only."""
    params = SamplingParams(max_new_tokens=12, temperature=0)
    whole = answers_of(sampler, PROMPTS[1:2], 1, params)[0][0]
    prefix = whole.token_ids[:5]
    rest = SamplingParams(max_new_tokens=7, temperature=0)
    wanted = [Request("a", PROMPTS[1], 2, rest, prefix), Request("b", PROMPTS[1], 1, rest)]
    (one, two), (fresh,) = collect(sampler, wanted).made
    assert one.token_ids == two.token_ids == whole.token_ids
    assert fresh.token_ids == whole.token_ids[:7]
    assert one.text == whole.text
    assert one.mask == (0,) * 5 + (1,) * (len(one.token_ids) - 5)
    assert one.sampling_logps[:5] == (0.0,) * 5
    assert one.sampling_logps[5:] == pytest.approx(whole.sampling_logps[5:], abs=1e-4)
    drawn = Request("c", PROMPTS[1], 2, SamplingParams(max_new_tokens=8, seed=1), prefix)
    (samples,) = collect(sampler, [drawn]).made
    assert samples[0].token_ids != samples[1].token_ids  # each has numbers of its own
    group = Group(PROMPTS[1], tuple(samples), (Feedback(None),) * 2)
    batch = collate([encoder.encode(group)])
    with torch.no_grad():
        got = scorer(batch).logps_BT * batch.mask_BT
    torch.testing.assert_close(got, batch.sampling_logps_BT, atol=1e-4, rtol=1e-4)


def test_a_stop_string_in_the_prefix_does_not_end_what_follows(sampler, encoder):
    """The steps of a search end with one; the next step goes on after it and is cut at its own."""
    free = answers_of(sampler, PROMPTS[:1], 1, SamplingParams(max_new_tokens=30, seed=3))[0][0]
    prefix = tuple(encoder.tokenizer(f"step{free.text[4]}")["input_ids"])
    params = SamplingParams(max_new_tokens=9, seed=3, stop=(free.text[4],))
    ((found,),) = collect(sampler, [Request("a", PROMPTS[0], 1, params, prefix)]).made
    assert found.text.startswith(f"step{free.text[4]}")
    assert len(found.token_ids) > len(prefix)


def test_requests_of_unequal_size_share_a_batch(sampler):
    wanted = [
        Request(str(n), p, k, SamplingParams(max_new_tokens=6, seed=9))
        for n, (p, k) in enumerate(zip(MANY, (3, 1, 2, 4, 1, 2, 3)))
    ]
    together = collect(sampler, wanted).made
    sampler.tokens_per_batch = 150
    assert [[c.token_ids for c in row] for row in collect(sampler, wanted).made] == [
        [c.token_ids for c in row] for row in together
    ]
    assert [len(row) for row in together] == [3, 1, 2, 4, 1, 2, 3]
    assert [c.token_ids for c in collect(sampler, wanted[3:4]).made[0]] == [c.token_ids for c in together[3]]


def test_text_comes_in_pieces_that_make_the_whole(sampler):
    class Listen(Nobody):
        wants_text = True

        def text(self, request, index, piece):
            pieces.setdefault((request.id, index), []).append(piece)

    pieces = {}
    params = SamplingParams(max_new_tokens=25, seed=3, stop=("zq", "\n"))
    found = answers_of(sampler, PROMPTS, 2, params, Listen())
    assert {k: "".join(v) for k, v in pieces.items()} == {
        (str(n), i): c.text for n, row in enumerate(found) for i, c in enumerate(row) if c.text
    }
    assert max(map(len, pieces.values())) > 3


def test_one_prompt_that_the_template_refuses_ends_no_other(sampler, encoder):
    encoder.tokenizer.chat_template = (
        "{% if messages[0]['role'] != 'user' %}{{ raise_exception('user first') }}{% endif %}"
        "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    )
    bad = Prompt(messages=({"role": "assistant", "content": "Hi"},))
    found = collect(sampler, requests([PROMPTS[0], bad, PROMPTS[1]], 2, SamplingParams(max_new_tokens=3)))
    assert [len(row) for row in found.made] == [2, 0, 2]
    assert found.summary().startswith("2 of 6 answers failed: messages = ['assistant']")
    assert found.usage.tokens == sum(len(c.token_ids) for row in found.made for c in row)


def test_a_cache_with_other_numbers_is_not_used(tiny, encoder, caplog):
    """A model that forgets its past in decoding is sampled from whole rows, and its log-probs are its own."""
    from transformers import LlamaForCausalLM

    class Forgetful(LlamaForCausalLM):
        def forward(self, input_ids=None, attention_mask=None, **kwargs):
            out = super().forward(input_ids=input_ids, attention_mask=attention_mask, **kwargs)
            if kwargs.get("use_cache"):
                out.logits = out.logits.flip(-1)
            return out

    scorer = Scorer(Forgetful.from_pretrained(tiny).eval())
    scorer.follow(Way("rows"))
    found = answers_of(LocalSampler(scorer, encoder), PROMPTS, 2, SamplingParams(max_new_tokens=5, seed=1))
    assert not scorer.decodes_cached
    assert "without a cache" in caplog.text
    for row in found:
        for c in row:
            ids = torch.tensor([*c.prompt_ids, *c.token_ids])
            log_p = scorer.model(input_ids=ids[None]).logits[0].log_softmax(-1)[len(c.prompt_ids) - 1 : -1]
            want = log_p.gather(1, ids[len(c.prompt_ids) :, None])[:, 0]
            torch.testing.assert_close(torch.tensor(c.sampling_logps), want, atol=1e-4, rtol=1e-4)


def test_a_state_space_model_is_sampled(encoder):
    from transformers import MambaConfig, MambaForCausalLM

    torch.manual_seed(0)
    config = MambaConfig(vocab_size=264, hidden_size=32, num_hidden_layers=2, state_size=4, time_step_rank=4)
    scorer = Scorer(MambaForCausalLM(config).eval())
    scorer.follow(Way("rows"))
    (found,) = answers_of(LocalSampler(scorer, encoder), PROMPTS[:1], 2, SamplingParams(max_new_tokens=4))
    assert all(1 <= len(c.token_ids) <= 4 for c in found)


def test_a_token_without_an_embedding_fails_its_prompt_alone(sampler):
    wanted = [Request("a", PROMPTS[0], 1, SamplingParams(max_new_tokens=2))]
    wanted.append(Request("b", PROMPTS[0], 1, SamplingParams(max_new_tokens=2), prompt_ids=(5, 264)))
    found = collect(sampler, wanted)
    assert [row[0] is None for row in found.completions] == [False, True]
    assert "token 264: has no embedding" in found.problems[0]
