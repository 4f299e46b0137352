"""Chat over the local sampler: choices are the model's own probabilities."""

from __future__ import annotations

import pytest
import torch

from kilter.errors import UserError
from kilter.roles.chat import SamplerChat
from kilter.sampling.local import LocalSampler
from kilter.types import Ask, SamplingParams

ASKS = [Ask(({"role": "user", "content": text},)) for text in ("Is it so?", "A or B? Say a letter.")]


@pytest.fixture
def chat(scorer, encoder):
    return SamplerChat(LocalSampler(scorer.eval(), encoder), SamplingParams(8, 0.0))


def probability(model, prompt_ids, option_ids):
    """P(the answer begins with these tokens), by transformers' own forward on plain rows."""
    ids = torch.tensor([[*prompt_ids, *option_ids]])
    with torch.no_grad():
        logps = model(ids).logits.double().log_softmax(-1)[0]
    return float(sum(logps[len(prompt_ids) - 1 + n, t] for n, t in enumerate(option_ids)).exp())


@pytest.mark.parametrize("options", [("A", "B", "C"), ("yes", "no"), ("1", "10", "2"), ("A", "Because")])
def test_a_choice_is_the_softmax_of_the_models_own_logits(chat, encoder, tiny, options):
    from transformers import AutoModelForCausalLM

    plain = AutoModelForCausalLM.from_pretrained(str(tiny), attn_implementation="eager").eval()
    for ask, found in zip(ASKS, chat.choose(ASKS, options)):
        prompt = encoder.tokenizer.apply_chat_template(
            list(ask.messages), tokenize=False, add_generation_prompt=True
        )
        ids = encoder.tokenizer(prompt, add_special_tokens=False)["input_ids"]
        want = [
            probability(plain, ids, encoder.tokenizer(o, add_special_tokens=False)["input_ids"])
            for o in options
        ]
        if options[1] == "10":  # an answer that begins with 10 begins with 1 too, and counts once
            want[0] -= want[1]
        assert found.mass == pytest.approx(sum(want), rel=1e-4)
        assert found.probabilities == pytest.approx([w / sum(want) for w in want], rel=1e-4)
        assert sum(found.probabilities) == pytest.approx(1)


def test_single_tokens_are_the_softmax_over_the_options(chat, encoder, tiny):
    """The same number by another road: one forward, the logits of the options, a softmax."""
    from transformers import AutoModelForCausalLM

    plain = AutoModelForCausalLM.from_pretrained(str(tiny), attn_implementation="eager").eval()
    options = ("A", "B", "C")
    for ask, found in zip(ASKS, chat.choose(ASKS, options)):
        text = encoder.tokenizer.apply_chat_template(
            list(ask.messages), tokenize=False, add_generation_prompt=True
        )
        ids = torch.tensor([encoder.tokenizer(text, add_special_tokens=False)["input_ids"]])
        with torch.no_grad():
            logits = plain(ids).logits[0, -1]
        picked = logits[[encoder.tokenizer(o)["input_ids"][0] for o in options]]
        assert found.probabilities == pytest.approx(picked.softmax(-1).tolist(), rel=1e-4)


def test_options_must_differ_and_a_refused_prompt_is_unknown(chat, encoder):
    for bad in (("A", "A"), ("A", "")):
        with pytest.raises(UserError, match="options"):
            chat.choose(ASKS, bad)
    encoder.tokenizer.chat_template = (
        "{% if messages[0]['role'] != 'user' %}{{ raise_exception('user first') }}{% endif %}"
        "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    )
    refused = Ask(({"role": "assistant", "content": "Hi"},))
    found = chat.choose([ASKS[0], refused], ("A", "B"))
    assert found[0].probabilities
    assert not found[1].probabilities
    assert "chat template refuses" in found[1].problem
    replies = chat.reply([refused, ASKS[0]])
    assert "chat template refuses" in replies[0].problem
    assert (replies[0].text, replies[1].problem) == ("", "")


@pytest.mark.parametrize("packed", [0, 1 << 30])
@pytest.mark.parametrize("options", [("A", "B"), ("yes", "because of it")])
def test_asks_share_their_beginnings_and_no_number_changes(chat, options, packed, monkeypatch):
    """Those of one id share a prompt, and all of them what they begin with; weights re-arranged or not."""
    monkeypatch.setattr("kilter.sampling.choices.PACKED", packed)
    heads = ("A long beginning that both of them share. " * 4, "Another one, for two others. " * 4)
    tails = ("First this, then that.", "First that, then this: a longer end.", "")
    asks = [Ask(({"role": "user", "content": h + t},), str(n)) for n, h in enumerate(heads) for t in tails]
    alone = [chat.choose([Ask(a.messages)], options)[0] for a in asks]
    for one, many in zip(alone, chat.choose(asks, options), strict=True):
        assert many.probabilities == pytest.approx(one.probabilities, abs=1e-5)
        assert many.mass == pytest.approx(one.mass, rel=1e-4)


def test_a_question_longer_than_the_model_reads_is_not_cut(chat, encoder):
    encoder.max_length = 64
    long = Ask(({"role": "user", "content": "word " * 100},))
    found = chat.choose([ASKS[0], long], ("A", "B"))
    assert found[0].probabilities
    assert "64 are read" in found[1].problem


def test_replies_count_their_tokens_and_stream(chat, encoder):
    whole = chat.reply(ASKS[:1])[0]
    assert whole.usage.tokens == 8
    assert whole.usage.prompt_tokens > 8
    pieces = []
    streamed = chat.stream(ASKS[0].messages, pieces.append)
    assert streamed.text == whole.text == "".join(pieces)
    assert chat.usage.tokens == 16


def test_choosing_leaves_a_training_model_in_training(chat, scorer):
    scorer.train()
    chat.choose(ASKS, ("A", "B"))
    assert scorer.training


def test_the_page_on_samplers_says_what_works(tmp_path, tiny, monkeypatch, capsys):
    """Its sampler of one's own answers, and its conversation is had; with the tests' model in place of the page's."""
    import re
    from pathlib import Path

    from kilter.sampling.build import SamplerContext, build
    from kilter.sampling.collect import answers
    from kilter.sampling.config import SamplerKind
    from kilter.types import Prompt

    page = (Path(__file__).resolve().parents[1] / "docs" / "samplers.md").read_text()
    own, talk = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    (tmp_path / "my_file.py").write_text(own)
    spec = SamplerKind(name=f"{tmp_path}/my_file.py:Parrot", options={"mark": "?"})
    parrot = build(SamplerContext(spec, lambda: (None, None)))
    assert answers(parrot, [Prompt(ASKS[0].messages)], 1, SamplingParams())[0][0].text == "IS IT SO??"
    exec(talk.replace("builtin:smollm2-135m", str(tiny)), {})
    assert "Choice(options=('Yes', 'No')" in capsys.readouterr().out


def test_an_option_has_the_mass_of_all_tokens_that_are_it():
    """Against transformers: tokens with a space or a line end before the same letter count for it."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    from kilter.data.encode import Encoder
    from kilter.models.forward import Scorer

    words = ["<s>", "?", "A", "B", "ĠA", "ĠB", "ĊB", "Ċ", "Ġ"]
    plain = Tokenizer(models.BPE({w: n for n, w in enumerate(words)}, [("Ġ", "A"), ("Ġ", "B"), ("Ċ", "B")]))
    plain.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=plain, eos_token="<s>")
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    torch.manual_seed(0)
    size = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(words), **size)).eval()
    sampler = LocalSampler(Scorer(model), Encoder(tokenizer, frozenset({0}), max_length=64))
    found = SamplerChat(sampler).choose([Ask(({"role": "user", "content": "?"},))], ("A", "B"))[0]
    with torch.no_grad():
        p = model(torch.tensor([[1]])).logits[0, -1].double().softmax(-1)
    want = [float(p[[2, 4]].sum()), float(p[[3, 5, 6]].sum())]
    assert found.mass == pytest.approx(sum(want), rel=1e-5)
    assert found.probabilities == pytest.approx([w / sum(want) for w in want], rel=1e-5)
