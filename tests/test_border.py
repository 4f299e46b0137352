"""One rendering, one tokenisation: prompt, answer and end of turn, token by token against transformers and TRL."""

from __future__ import annotations

import copy
import functools
import json
from dataclasses import replace

import pytest
import transformers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from packaging.version import Version
from transformers.utils.chat_template_utils import render_jinja_template

import borders
from borders import APPENDING, DEEPSEEK_R1, REWRITING, TOKENIZERS
from conftest import make_model
from kilter.data import templates
from kilter.data.dataset import DataSpec, load
from kilter.data.encode import ACROSS, STOPS, Encoder
from kilter.data.render import (
    CLOCK,
    CLOSED,
    CONTEXT,
    FOLDED,
    NO_CALLS,
    NO_REASONING,
    NO_TOOLS,
    NO_TURNS,
    SECOND,
    SPLIT,
)
from kilter.errors import UserError
from kilter.refs import TEMPLATE_WORDS
from kilter.roles.open import OpenSpec, open_encoder
from kilter.types import Completion, Feedback, Group, Prompt

cheap = settings(
    max_examples=200,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)

PIECES = [
    *("Yes", "No", "can", "you", "it is", "[INST]", "assistant", "### User:", "Why?", "<think>", "caf\u00e9"),
    *(
        "\u95ee\u9898",
        "\U0001f600",
        " ",
        "  ",
        "\n",
        "\n\n",
        "\t",
        ".",
        ",",
        ":",
        "<|im_end|>",
        "</s>",
        "<0x41>",
        "\u2581",
    ),
]
texts = st.lists(st.sampled_from(PIECES), min_size=1, max_size=6).map("".join)
spoken = texts.filter(lambda t: bool(t.strip()))
in_words = spoken.filter(lambda t: bool(t.replace("<|im_end|>", "").replace("</s>", "").strip()))
names = st.sampled_from(sorted(TOKENIZERS))


@functools.cache
def tokenizer_of(name):
    return (TOKENIZERS | {"slow": borders.slow})[name]()


def encoder_of(name: str, template: str, **changes) -> Encoder:
    tokenizer = tokenizer_of(name)
    tokenizer.chat_template = template
    return Encoder(tokenizer, frozenset({tokenizer.eos_token_id}), 1 << 20, **changes)


def user(text):
    return {"role": "user", "content": text}


def bot(text, **more):
    return {"role": "assistant", "content": text, **more}


def group_of(messages, *answers, **prompt) -> Group:
    """Answers are texts or lists of turns."""
    completions = tuple(
        Completion(a) if isinstance(a, str) else Completion(a[-1]["content"], turns=tuple(a)) for a in answers
    )
    prompt = Prompt(messages=tuple(messages), **prompt)
    return Group(prompt, completions, (Feedback(None),) * len(answers))


def reference(tokenizer, turns, **options):
    """(ids, mask of the assistant's tokens) as transformers has them: every token that overlaps what it said.
    The template PLAIN, which has no end of turn, is read up to the last answer's end.
    """
    if tokenizer.chat_template == borders.PLAIN:
        options["chat_template"] = borders.PLAIN_CUT
    found = tokenizer.apply_chat_template(
        turns, tokenize=True, return_dict=True, return_assistant_tokens_mask=True, **options
    )
    mask = list(found["assistant_masks"])
    if Version(transformers.__version__) < Version("5.24"):
        # Of a last character that several tokens share, it marked the first token alone.
        template = options.pop("chat_template", tokenizer.chat_template)
        options |= tokenizer.special_tokens_map
        (text,), (spans,) = render_jinja_template(
            [turns], chat_template=template, return_assistant_tokens_mask=True, **options
        )
        read = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        overlaps = [[a < end and start < b for start, end in spans] for a, b in read["offset_mapping"]]
        mask = [int(any(own)) for own in overlaps]
    return list(found["input_ids"]), mask


def prompt_ids(tokenizer, turns, **options):
    options = {"add_generation_prompt": True} | options
    return list(tokenizer.apply_chat_template(turns, tokenize=True, return_dict=True, **options)["input_ids"])


def compare(encoder, encoded, prompt, answers, **options):
    """Every row is the one tokenisation up to its last learned token, and the mask is transformers' own."""
    alone = prompt_ids(encoder.tokenizer, prompt, **options)
    size, whole = len(encoded.prompt_ids), []
    for ids, mask, answer in zip(encoded.completion_ids, encoded.masks, answers, strict=True):
        want, learned = reference(encoder.tokenizer, [*prompt, *answer], **options)
        whole.append(want)
        row = [*encoded.prompt_ids, *ids]
        if encoder.renderer.ending.stop is None and len(row) > len(want):
            assert row.pop() == encoder.eos
            mask = mask[:-1]
        assert row == want[: len(row)]
        assert list(mask) == learned[size : len(row)]
        assert not any(learned[len(row) :])

    # The prompt is what the model reads at generation, unless a token lies across its end.
    if all(ids[: len(alone)] == alone for ids in whole):
        assert list(encoded.prompt_ids) == alone
    assert list(encoded.prompt_ids) == whole[0][:size]
    assert size <= len(alone)


@cheap
@given(
    names,
    st.sampled_from(sorted(APPENDING)),
    st.lists(spoken, min_size=1, max_size=3),
    st.lists(texts, max_size=2),
)
def test_single_answers_are_the_reference(name, template, answers, history):
    encoder = encoder_of(name, APPENDING[template])
    prompt = [t for n, text in enumerate(history) for t in (user(text), bot(f"{n}" + text))] + [user("Why? ")]
    answers = list(dict.fromkeys(answers))
    (encoded,) = encoder.encode_rows([group_of(prompt, *answers)])
    compare(encoder, encoded, prompt, [[bot(a)] for a in answers])
    assert encoder.encode(group_of(prompt, *answers)) == encoded


@cheap
@given(
    names,
    st.sampled_from(sorted(APPENDING)),
    st.lists(st.tuples(texts, spoken, st.booleans()), min_size=1, max_size=3),
    spoken,
)
def test_conversations_are_the_reference(name, template, rounds, last):
    encoder = encoder_of(name, APPENDING[template])
    turns = [t for asked, said, _ in rounds for t in (bot(said), user(asked))] + [bot(last)]
    encoded = encoder.encode(group_of([user("Hi")], turns))
    compare(encoder, encoded, [user("Hi")], [turns])

    # A turn that is not to be learned is context: nothing else changes.
    marked = [bot(said, train=keep) for _, said, keep in rounds]
    quiet = [t for own, (asked, _, _) in zip(marked, rounds) for t in (own, user(asked))] + [bot(last)]
    other = encoder.encode(group_of([user("Hi")], quiet))
    assert other.completion_ids == encoded.completion_ids
    spans = _runs(encoded.masks[0])
    if len(spans) == len(rounds) + 1:  # two answers may share a token, and then are one run
        want = [0] * len(encoded.masks[0])
        for (start, end), keep in zip(spans, [*(k for _, _, k in rounds), True]):
            want[start:end] = [int(keep)] * (end - start)
        assert list(other.masks[0]) == want


def _runs(mask):
    edges = [
        n for n in range(len(mask) + 1) if (mask[n - 1] if n else 0) != (mask[n] if n < len(mask) else 0)
    ]
    return list(zip(edges[::2], edges[1::2]))


@cheap
@given(names, st.sampled_from(sorted(REWRITING)), st.lists(spoken, min_size=1, max_size=3), st.booleans())
def test_templates_that_rewrite_history_give_a_row_per_answer(name, template, answers, reason):
    encoder = encoder_of(name, REWRITING[template])
    more = {"reasoning_content": "I see."} if reason else {}
    turns = [t for a in answers for t in (bot(a, **more), user("Sure?"))][:-1]
    rows = encoder.encode_rows([group_of([user("Hi")], turns)])
    assert len(rows) == len(answers)
    assert encoder.counts[SPLIT] == (len(answers) if len(answers) > 1 else 0)
    for n, row in enumerate(rows):
        before = [user("Hi"), *turns[: 2 * n]]
        compare(encoder, row, before, [[turns[2 * n]]])


@cheap
@given(names, spoken, in_words, st.sampled_from(["", "\n", " "]))
def test_a_block_that_the_generation_prompt_opens_is_gone_on_with(name, thought, said, gap):
    encoder = encoder_of(name, DEEPSEEK_R1)
    tokenizer, asked = encoder.tokenizer, [user("Why?")]
    answer = f"<think>\n{thought}</think>{gap}{said}"
    (row,) = encoder.encode_rows([group_of(asked, answer)])
    opening = tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
    if "</think>" not in thought and "<think>" not in said:
        text = f"{opening}{thought}</think>{gap}{said}</s>"
        want = tokenizer(text, add_special_tokens=False)
        assert [*row.prompt_ids, *row.completion_ids[0]] == want["input_ids"]
        assert all(row.masks[0])
    alone = prompt_ids(tokenizer, asked)
    assert list(row.prompt_ids) == alone[: len(row.prompt_ids)]


@cheap
@given(names, st.sampled_from(["chatml", "llama3", "mistral", "zephyr", "plain"]), spoken, spoken)
def test_a_begun_answer_is_gone_on_with(name, template, begun, rest):
    encoder = encoder_of(name, APPENDING[template])
    prompt = [user("Hi"), bot(begun)]
    row = encoder.encode(group_of(prompt, rest))
    text = encoder.tokenizer.apply_chat_template(prompt, tokenize=False, continue_final_message=True)
    whole = encoder.tokenizer.apply_chat_template([user("Hi"), bot(begun + rest)], tokenize=False)
    read = encoder.tokenizer(whole, add_special_tokens=False, return_offsets_mapping=True)
    ids = [*row.prompt_ids, *row.completion_ids[0]]
    if template == "plain":
        ids = ids if ids[-1] != encoder.eos else ids[:-1]
        whole = whole[: len(whole) - 2]
        read = encoder.tokenizer(whole, add_special_tokens=False, return_offsets_mapping=True)
    assert ids == read["input_ids"][: len(ids)]
    if whole.startswith(text):
        learned = [n for n, (_, end) in enumerate(read["offset_mapping"]) if end > len(text)]
        assert len(row.prompt_ids) == learned[0]
    assert all(row.masks[0])


@cheap
@given(st.lists(spoken, min_size=1, max_size=3), st.sampled_from(["chatml", "llama3", "mistral", "zephyr"]))
def test_a_tokenizer_without_offsets_has_the_same_tokens(answers, template):
    encoder = encoder_of("slow", APPENDING[template])
    assert not encoder.tokenizer.is_fast
    answers, tokenizer = list(dict.fromkeys(answers)), encoder.tokenizer
    row = encoder.encode(group_of([user("Hi")], *answers))
    alone = prompt_ids(tokenizer, [user("Hi")])
    for ids, mask, answer in zip(row.completion_ids, row.masks, answers):
        want = prompt_ids(tokenizer, [user("Hi"), bot(answer)], add_generation_prompt=False)
        got = [*row.prompt_ids, *ids]
        assert got == want[: len(got)]
        assert ids[-1] == encoder.renderer.ending.stop
        same = next((n for n, (a, b) in enumerate(zip(alone, want)) if a != b), min(len(alone), len(want)))
        learned = [n for n, m in enumerate(mask, len(row.prompt_ids)) if m]
        assert learned == list(range(same, len(got)))


@cheap
@given(names, spoken, in_words, st.booleans())
def test_raw_text_is_one_tokenisation(name, prompt, answer, special):
    encoder = encoder_of(name, APPENDING["chatml"])
    tokenizer = encoder.tokenizer
    answer = answer.replace("</s>", "")
    row = encoder.encode(Group(Prompt(text=prompt), (Completion(answer),), (Feedback(1.0),)))
    read = tokenizer(prompt + answer, return_offsets_mapping=True)
    whole, ends = read["input_ids"], [end for _, end in read["offset_mapping"]]
    size = sum(end <= len(prompt) for end in ends)
    learned = list(row.completion_ids[0])
    assert learned[-1] in encoder.stop_ids
    learned = learned[: len(whole) - size]
    if size:
        assert list(row.prompt_ids) == whole[:size]
        assert learned == whole[size:]
    else:
        assert row.prompt_ids == (tokenizer.bos_token_id,)
        assert learned == whole


def test_a_token_across_the_border_is_learned_and_said():
    encoder = encoder_of("byte_level_across", APPENDING["chatml"])
    tokenizer = encoder.tokenizer
    row = encoder.encode(group_of([user("Hi")], "Yes", "Maybe"))
    pieces = [tokenizer.convert_ids_to_tokens(list(ids)) for ids in row.completion_ids]
    assert tokenizer.decode(row.prompt_ids).endswith("assistant") or pieces[0][0].startswith("\u010a")
    assert pieces[0][0] == "\u010aYes", "the corpus has this merge"
    assert pieces[1][0] == "\u010a" or pieces[1][0].startswith("\u010a")
    assert row.masks[0][0] == 1
    assert encoder.counts[ACROSS] == 1


def test_sampled_tokens_stay_and_what_a_text_does_not_share_is_context():
    encoder = encoder_of("byte_level_across", APPENDING["chatml"])
    group = group_of([user("Hi")], "Yes", "No")
    prompt = encoder.prompt(group.prompt)
    sampled = replace(group, completions=(Completion("", token_ids=(40, 41), mask=(0, 1)), Completion("Yes")))
    row = encoder.tokens(sampled)
    assert [*row.prompt_ids, *row.completion_ids[0]] == [*prompt, 40, 41]
    assert row.masks[0] == (*(0,) * (len(prompt) - len(row.prompt_ids)), 0, 1)
    assert row.completion_ids[1] == encoder.tokens(group).completion_ids[0]
    only = encoder.tokens(replace(group, completions=sampled.completions[:1], feedback=group.feedback[:1]))
    assert (only.prompt_ids, only.completion_ids) == (prompt, ((40, 41),))
    assert only.completion_ids[0] is sampled.completions[0].token_ids


def test_sides_of_several_turns_keep_one_prompt_where_history_is_rewritten():
    encoder = encoder_of("byte_level", REWRITING["qwen3"])
    sides = [[bot(a), user("Sure?"), bot(b)] for a, b in (("Paris", "Yes"), ("Lyon", "No"))]
    row = encoder.encode(group_of([user("Capital?")], *sides))
    for ids, mask, side in zip(row.completion_ids, row.masks, sides):
        whole = encoder.tokenizer.apply_chat_template([user("Capital?"), *side], tokenize=True)["input_ids"]
        got = [*row.prompt_ids, *ids]
        assert got == whole[: len(got)]
        learned = encoder.tokenizer.decode([t for t, m in zip(ids, mask) if m])
        assert learned == f"<think>\n\n</think>\n\n{side[-1]['content']}<|im_end|>"
    assert encoder.counts[CONTEXT] == 2


def test_a_plain_answer_closes_the_block_that_is_open():
    encoder = encoder_of("byte_level", DEEPSEEK_R1)
    row = encoder.encode(group_of([user("Capital?")], "Paris.", "Lyon."))
    assert encoder.tokenizer.decode(row.prompt_ids) == "<s><|User|>Capital?<|Assistant|><think>\n"
    answers = [encoder.tokenizer.decode(ids) for ids in row.completion_ids]
    assert answers == [f"\n</think>\n\n{a}</s>" for a in ("Paris.", "Lyon.")]
    assert encoder.counts[CLOSED] == 2


@pytest.mark.parametrize(
    ("answer", "more"),
    [
        ("<think>\nI recall.\n</think>\n\nParis", {}),
        ("I recall.\n</think>\n\nParis", {}),
        ("Paris", {"reasoning_content": "I recall."}),
    ],
)
def test_reasoning_stands_in_the_block_in_every_spelling(answer, more):
    encoder = encoder_of("byte_level", DEEPSEEK_R1)
    row = encoder.encode(group_of([user("Capital?")], [bot(answer, **more)]))
    assert encoder.tokenizer.decode(row.completion_ids[0]) == "I recall.\n</think>\n\nParis</s>"
    assert not encoder.counts


def test_a_plain_answer_closes_the_block_as_the_template_does():
    encoder = encoder_of("byte_level", borders.NEMOTRON)
    for turn, want in (
        (bot("Yes"), "</think>Yes<|im_end|>"),
        (bot("Yes", reasoning_content="I see."), "I see.</think>Yes<|im_end|>"),
    ):
        row = encoder.encode(group_of([user("Hi")], [turn]))
        assert encoder.tokenizer.decode(row.prompt_ids).endswith("assistant\n<think>\n")
        assert encoder.tokenizer.decode(row.completion_ids[0]) == want
        assert all(row.masks[0])
    assert encoder.counts == {CLOSED: 1}


def test_a_closed_block_of_the_generation_prompt_stays_in_the_prompt():
    """As in Gemma 4: the prompt ends in an empty thought that the finished conversation leaves out."""
    opened = "'<|im_start|>assistant\n<think>\n\n</think>\n\n'"
    template = borders.CHATML.replace("{{ '<|im_start|>assistant\n' }}", "{{ " + opened + " }}")
    assert template != borders.CHATML
    encoder = encoder_of("byte_level", template)
    row = encoder.encode(group_of([user("Capital?")], "<b>Rome</b>", "Lyon"))
    assert row.prompt_ids == encoder.prompt(row.group.prompt)
    assert encoder.tokenizer.decode(row.prompt_ids).endswith("assistant\n<think>\n\n</think>\n\n")
    assert [encoder.tokenizer.decode(ids) for ids in row.completion_ids] == [
        "<b>Rome</b><|im_end|>",
        "Lyon<|im_end|>",
    ]


def test_answers_behind_a_closed_block_are_rows_of_their_own():
    """The finished conversation shows neither answer as it was asked for."""
    opened = "'<|im_start|>assistant\n<think>\n\n</think>\n\n'"
    template = borders.CHATML.replace("{{ '<|im_start|>assistant\n' }}", "{{ " + opened + " }}")
    encoder = encoder_of("byte_level", template)
    rows = encoder.encode_rows([group_of([user("Capital?")], [bot("Rome."), user("Sure?"), bot("Yes.")])])
    said = [encoder.tokenizer.decode(r.completion_ids[0]) for r in rows]
    assert said == ["Rome.<|im_end|>", "Yes.<|im_end|>"]
    assert all(m for r in rows for m in r.masks[0])


def test_a_template_that_asks_unasked_ends_a_turn_where_others_do():
    """It writes the header of the next answer whatever it is told, and that header is not learned."""
    asking = "{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\n' }}{%- endif -%}"
    template = borders.CHATML.replace(asking, asking.partition("-%}")[2].removesuffix("{%- endif -%}"))
    assert template != borders.CHATML
    encoder = encoder_of("byte_level", template)
    row = encoder.encode(group_of([user("Capital?")], [bot("Rome."), user("Sure?"), bot("Yes.")]))
    learned = [t for t, m in zip(row.completion_ids[0], row.masks[0]) if m]
    assert encoder.tokenizer.decode(learned) == "Rome.<|im_end|>Yes.<|im_end|>"
    assert encoder.renderer.ending.stop == encoder.tokenizer.convert_tokens_to_ids("<|im_end|>")


def test_calls_and_tools_are_written_by_the_template():
    encoder = encoder_of("byte_level", APPENDING["tools"])
    call = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Paris"}}}
    tool = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
    turns = [bot("", tool_calls=[call]), {"role": "tool", "content": "sunny"}, bot("It is sunny.")]
    row = encoder.encode(group_of([user("Weather?")], turns, tools=(tool,)))
    compare(encoder, row, [user("Weather?")], [turns], tools=[tool])
    learned = encoder.tokenizer.decode([t for t, m in zip(row.completion_ids[0], row.masks[0]) if m])
    assert learned == f"<tool_call>{json.dumps(call['function'])}</tool_call><|im_end|>It is sunny.<|im_end|>"
    assert "Tools: " in encoder.tokenizer.decode(row.prompt_ids)
    assert encoder.prompt(group_of([user("Weather?")], tools=(tool,)).prompt) == row.prompt_ids

    # What a template does not write is refused where it is an answer, and said where it is a context.
    plain = encoder_of("byte_level", APPENDING["chatml"])
    with pytest.raises(UserError, match="weather.*is a call that the chat template does not write"):
        plain.encode(group_of([user("Weather?")], turns))
    plain.encode(group_of([user("Weather?")], [bot("Sunny.", reasoning_content="I looked.")], tools=(tool,)))
    assert plain.counts == {NO_TOOLS: 1, NO_REASONING: 1}
    plain.prompt(Prompt(messages=(user("Weather?"), *turns[:2])))
    assert plain.counts[NO_CALLS] == 1


LOOK = {"type": "function", "function": {"name": "look", "arguments": {"at": "map"}}}
FOUND = {"role": "tool", "content": "Rome", "name": "look"}


@cheap
@given(names, spoken, st.sampled_from(["", "Look it up.", "No"]), st.sampled_from(["", "It is there.", "No"]))
def test_a_header_that_the_generation_prompt_only_begins_is_learned(name, said, before, after):
    """The finished conversation drops the reasoning before the call, which is there when it is answered."""
    encoder = encoder_of(name, borders.CHANNELS)
    prompt, turns = [user("Hi")], [bot("", tool_calls=[LOOK]), FOUND, bot(said)]
    for turn, thought in ((turns[0], before), (turns[2], after)):
        if thought:
            turn["reasoning_content"] = thought
    (row,) = encoder.encode_rows([group_of(prompt, turns)])
    call = f"<|channel|>call<|message|>{json.dumps(LOOK['function'])}<|end|>"
    head = lambda thought: (
        f"<|channel|>analysis<|message|>{thought}<|end|><|start|>assistant" if thought else ""
    )
    want = [head(before) + call, f"{head(after)}<|channel|>final<|message|>{said}<|return|>"]
    between = "<|start|>tool<|message|>Rome<|end|><|start|>assistant"
    text = f"<|start|>user<|message|>Hi<|end|><|start|>assistant{want[0]}{between}{want[1]}"
    ids = encoder.tokenizer(text, add_special_tokens=False)["input_ids"]
    assert [*row.prompt_ids, *row.completion_ids[0]] == ids
    learned = [row.completion_ids[0][a:b] for a, b in _runs(row.masks[0])]
    joint = encoder.tokenizer(between, add_special_tokens=False)["input_ids"]
    assert sum(map(len, learned)) == len(row.completion_ids[0]) - len(joint)
    assert not encoder.counts.keys() - {STOPS, ACROSS}


def test_a_call_beside_the_one_that_the_template_writes_is_refused():
    encoder = encoder_of("byte_level", borders.CHANNELS)
    other = {"type": "function", "function": {"name": "look", "arguments": {"at": "sky"}}}
    with pytest.raises(UserError, match="look.*is a call that the chat template does not write"):
        encoder.encode(group_of([user("Hi")], [bot("", tool_calls=[LOOK, other])]))
    encoder.encode(group_of([user("Hi"), bot("", tool_calls=[LOOK, other]), FOUND], "Rome."))
    assert encoder.counts == {NO_CALLS: 1}


@pytest.mark.parametrize("kind", ["prompt", "answer"])
@pytest.mark.parametrize(
    ("template", "turns", "role"),
    [
        ("channels", [{"role": "system", "content": "Be brief."}, user("And?")], "system"),
        ("chatml_only", [{"role": "tool", "content": "sunny"}], "tool"),
        ("calls_only", [{"role": "tool", "content": "sunny"}], "tool"),
        ("chatml", [{"role": "tool", "content": "sunny"}], None),
        ("chatml", [{"role": "system", "content": "Be brief."}, user("And?")], None),
    ],
)
def test_a_turn_of_the_context_that_the_template_leaves_out_is_said(kind, template, turns, role):
    known = "for m in messages if m['role'] in ['user', 'assistant']"
    loose = "{%- if m['role'] == 'tool' and not loop.previtem['tool_calls'] -%}{%- continue -%}{%- endif -%}"
    text = {
        "channels": borders.CHANNELS,
        "chatml_only": borders.CHATML.replace("for m in messages", known),
        "calls_only": borders.CHATML.replace(
            "{{ '<|im_start|>' + m['role']", f"{loose}{{{{ '<|im_start|>' + m['role']"
        ),
        "chatml": borders.CHATML,
    }[template]
    encoder = encoder_of("byte_level", text)
    begin, answer = [user("Weather?"), bot("Let me look.")], bot("It is sunny.")
    group = (
        group_of([*begin, *turns], [answer])
        if kind == "prompt"
        else group_of(begin[:1], [begin[1], *turns, answer])
    )
    encoder.encode(group)
    assert [c for c in encoder.counts if c != CONTEXT] == ([NO_TURNS.format(role=role)] if role else [])


def test_arguments_are_text_where_the_template_joins_them():
    template = borders.TOOLS.replace(
        "t['function']|tojson", "t['function']['name'] + t['function']['arguments']"
    )
    encoder = encoder_of("byte_level", template)
    call = {"type": "function", "function": {"name": "f", "arguments": {"city": "Paris"}}}
    row = encoder.encode(group_of([user("?")], [bot("", tool_calls=[call])]))
    want = '<tool_call>f{"city": "Paris"}</tool_call><|im_end|>'
    assert encoder.tokenizer.decode(row.completion_ids[0]) == want


@pytest.mark.parametrize("template", ["gemma", "mistral", "dropping"])
def test_a_system_turn_is_folded_where_the_template_has_none(template):
    dropping = borders.CHATML.replace("for m in messages", "for m in messages if m['role'] != 'system'")
    encoder = encoder_of("byte_level", (APPENDING | {"dropping": dropping})[template])
    system = {"role": "system", "content": "Be brief."}
    row = encoder.encode(group_of([system, user("Hi")], "Yes"))
    compare(encoder, row, [user("Be brief.\n\nHi")], [[bot("Yes")]])
    assert encoder.counts == {FOLDED: 1}
    if template == "dropping":
        return
    developer = {"role": "developer", "content": "Be brief."}
    assert encoder.encode(group_of([developer, user("Hi")], "Yes")).prompt_ids == row.prompt_ids


def test_the_template_says_what_ends_a_turn_and_a_stop_token_in_an_answer_does_not():
    encoder = encoder_of("byte_level", APPENDING["chatml"])
    end = encoder.tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert encoder.stop_ids == {encoder.eos, end}
    row = encoder.encode(group_of([user("x")], "write </s> at the end"))
    assert encoder.tokenizer.decode(row.completion_ids[0]) == "write </s> at the end<|im_end|>"
    assert all(row.masks[0])
    assert encoder.counts == {STOPS: 1}
    assert encoder_of("byte_level", REWRITING["gpt_oss"]).renderer.ending.tail == "<|return|>"
    phi = encoder_of("byte_level", APPENDING["phi3"])
    assert phi.tokenizer.convert_tokens_to_ids("<|end|>") in phi.stop_ids
    row = phi.encode(group_of([user("x")], [bot("Yes"), user("y"), bot("No")]))
    assert phi.tokenizer.decode(row.completion_ids[0]).endswith("No<|end|>")
    assert "</s>" not in phi.tokenizer.decode(row.completion_ids[0])


def test_no_end_of_text_stands_inside_a_history():
    encoder = encoder_of("byte_level", APPENDING["plain"])
    turns = [bot("Yes"), user("Sure?"), bot("No")]
    row = encoder.encode(group_of([user("x")], turns))
    assert (
        encoder.tokenizer.decode(row.completion_ids[0]) == "Yes\n\n### User:\nSure?\n\n### Assistant:\nNo</s>"
    )
    assert row.completion_ids[0].count(encoder.eos) == 1


def test_a_special_token_that_swallows_white_space_stays_in_the_prompt():
    from tokenizers import AddedToken

    tokenizer = borders.byte_level()
    tokenizer.add_tokens([AddedToken("<|assistant|>", rstrip=True, special=True)], special_tokens=True)
    tokenizer.chat_template = APPENDING["phi3"]
    encoder = Encoder(tokenizer, frozenset(tokenizer.convert_tokens_to_ids(["</s>", "<|end|>"])))
    row = encoder.encode(group_of([user("x")], "\n Yes", "No"))
    assert row.prompt_ids == encoder.prompt(group_of([user("x")]).prompt)
    assert [tokenizer.decode(ids) for ids in row.completion_ids] == ["Yes<|end|>", "No<|end|>"]


def test_options_are_read_behind_the_prompt():
    encoder = encoder_of("sentencepiece", APPENDING["chatml"])
    tokenizer = encoder.tokenizer
    found = encoder.beginnings(Prompt(messages=(user("1 or 2?"),)), ("Yes", "No"))
    text = tokenizer.apply_chat_template([user("1 or 2?")], tokenize=False, add_generation_prompt=True)
    for option, ids in zip(("Yes", "No"), found.completion_ids):
        assert [*found.prompt_ids, *ids] == tokenizer(text + option, add_special_tokens=False)["input_ids"]
        assert not tokenizer.convert_ids_to_tokens(ids[0]).startswith("\u2581")


def test_templates_have_names():
    assert ("auto", "model", *templates.TEMPLATES) == TEMPLATE_WORDS
    want = {
        "chatml": ("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n", "Yes<|im_end|>"),
        "llama3": ("<|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"
                   "<|start_header_id|>assistant<|end_header_id|>\n\n", "Yes<|eot_id|>"),
        "gemma": ("<start_of_turn>user\nHi<end_of_turn>\n<start_of_turn>model\n", "Yes<end_of_turn>"),
        "mistral": ("[INST] Hi [/INST]", " Yes</s>"),
        "zephyr": ("<|user|>\nHi</s>\n<|assistant|>\n", "Yes</s>"),
        "plain": ("### User:\nHi\n\n### Assistant:\n", "Yes</s>"),
    }  # fmt: off
    for name, (prompt, answer) in want.items():
        encoder = Encoder(borders.byte_level(), frozenset(), template=name)
        row = encoder.encode(group_of([user("Hi")], "Yes"))
        decoded = [encoder.tokenizer.decode(ids) for ids in (row.prompt_ids, row.completion_ids[0])]
        assert decoded == [prompt, answer]
    several = borders.byte_level()
    several.chat_template = {"default": APPENDING["chatml"], "rag": APPENDING["zephyr"]}
    assert Encoder(several, frozenset(), template="rag").tokenizer.chat_template == APPENDING["zephyr"]
    with pytest.raises(UserError, match=r"names no chat template and no file.*\n.*chatml"):
        Encoder(borders.byte_level(), frozenset(), template="chatlm")
    several.chat_template = {"a": APPENDING["chatml"], "b": APPENDING["zephyr"]}
    with pytest.raises(UserError, match="does not say which"):
        Encoder(several, frozenset())


def test_a_template_of_ours_begins_with_the_mark_that_the_tokenizer_puts_before_texts():
    from tokenizers import processors

    tokenizer = borders.byte_level()
    raw = tokenizer.backend_tokenizer
    raw.post_processor = processors.Sequence(
        [
            raw.post_processor,
            processors.TemplateProcessing("<s> $A </s>", special_tokens=[("<s>", 2), ("</s>", 3)]),
        ]
    )
    encoder = Encoder(tokenizer, frozenset({3}))
    row = encoder.encode(group_of([user("Hi")], "Yes"))
    assert tokenizer.decode(row.prompt_ids) == "<s>### User:\nHi\n\n### Assistant:\n"
    raw_row = encoder.encode(Group(Prompt(text="Once"), (Completion(" upon"),), (Feedback(1.0),)))
    assert tokenizer.decode([*raw_row.prompt_ids, *raw_row.completion_ids[0]]) == "<s>Once upon</s>"
    free = encoder.encode(Group(Prompt(text=""), (Completion("Once"),), (Feedback(1.0),)))
    assert (free.prompt_ids, tokenizer.decode(free.completion_ids[0])) == ((2,), "Once</s>")


@cheap
@given(
    names,
    st.sampled_from(["switched", "quiet"]),
    spoken.filter(lambda t: "<think>" not in t),
    spoken,
    st.sampled_from(["<think>\n{}\n</think>\n\n{}", "{}</think>{}", " <think>{}</think>\n{}", "key"]),
)
def test_reasoning_is_left_out_where_the_generation_prompt_has_closed_its_block(
    name, kind, thought, said, form
):
    template, more = {
        "switched": (borders.QWEN3_SWITCHED, {"enable_thinking": False}),
        "quiet": (borders.QWEN35, {}),
    }[kind]
    encoder = encoder_of(name, template)
    asked, write = [user("Why?")], encoder.tokenizer.apply_chat_template
    turn = bot(said, reasoning_content=thought) if form == "key" else bot(form.format(thought, said))
    (row,) = encoder.encode_rows([group_of(asked, [turn], template_kwargs=more)])
    opening = write(asked, tokenize=False, add_generation_prompt=True, **more)
    bare = write([*asked, bot(said)], tokenize=False, **more)
    assert bare.startswith(opening)
    end = bare.rindex("<|im_end|>") + len("<|im_end|>")
    ids = encoder.tokenizer(bare[:end], add_special_tokens=False)["input_ids"]
    assert [*row.prompt_ids, *row.completion_ids[0]] == ids
    assert encoder.counts[NO_REASONING] == 1 or thought.strip() in bare


@pytest.mark.parametrize("opening", ["", "<think>\n", "<think>\n\n</think>\n\n"])
def test_a_block_behind_an_empty_one_is_counted(opening):
    """As in templates that read reasoning_content and leave what the words hold as it is."""
    written = "'<think>\n' + (m['reasoning_content'] or '') + '\n</think>\n\n' + m['content']"
    template = APPENDING["chatml"].replace(
        "m['content'] + '<|im_end|>' }}{% endg", f"{written} + '<|im_end|>' }}}}{{% endg"
    )
    template += f"{{%- if add_generation_prompt -%}}{{{{ '{opening}' }}}}{{%- endif -%}}"
    for content, more, count in (
        ("<think>\nT.\n</think>\n\nYes", {}, 1),
        ("Yes", {"reasoning_content": "T."}, 0),
        ("Yes", {}, 0),
    ):
        encoder = encoder_of("byte_level", template)
        encoder.encode(group_of([user("Why?")], [bot(content, **more)]))
        assert encoder.counts.get(SECOND, 0) == count
        assert 0 not in encoder.counts.values()


def test_an_answer_that_stands_behind_no_generation_prompt_is_refused():
    template = borders.QWEN35.replace("thought.strip('\n')", "'(' + said[:2] + ')'")
    assert template != borders.QWEN35
    encoder = encoder_of("byte_level", template)
    with pytest.raises(UserError, match="does not write behind its own generation prompt"):
        encoder.encode(group_of([user("Why?")], "Because."))


@cheap
@given(names, st.sampled_from(sorted(APPENDING)), st.lists(spoken, min_size=1, max_size=2), texts)
def test_a_clock_in_a_template_stands_still(name, template, answers, asked):
    bare = encoder_of(name, APPENDING[template])
    turns = [t for a in answers for t in (bot(a), user("Sure?"))][:-1]
    group = group_of([user(asked)], turns)
    decode = bare.tokenizer.decode
    want = decode([t for t, m in zip(bare.encode(group).completion_ids[0], bare.encode(group).masks[0]) if m])
    encoder = encoder_of(name, borders.CLOCK + APPENDING[template])
    got = encoder.encode(group)
    assert decode([t for t, m in zip(got.completion_ids[0], got.masks[0]) if m]).strip() == want.strip()
    assert "00:00:00.000000" in encoder.renderer.prompt(group.prompt)
    assert encoder.counts[CLOCK] == 1


def test_a_template_that_writes_the_same_turns_in_two_ways_is_refused():
    for chance in ("{{ range(9999) | random }}", "{{ lipsum() }}"):
        encoder = encoder_of("byte_level", chance + APPENDING["chatml"])
        with pytest.raises(UserError, match="written otherwise each time") as refused:
            encoder.encode(group_of([user("Why?")], "Because."))
        assert refused.value.field == "template"


def test_a_stop_token_in_the_words_of_a_turn_is_no_header():
    encoder = encoder_of("byte_level", APPENDING["plain"])
    turns = [bot("Yes"), user("\n\n</s> can"), bot("\n### User:")]
    encoded = encoder.encode(group_of([user("Hi")], turns))
    compare(encoder, encoded, [user("Hi")], [turns])


@functools.cache
def glm4_encoder(name: str) -> Encoder:
    tokenizer = TOKENIZERS[name]()
    tokenizer.add_special_tokens({"additional_special_tokens": [*borders.GLM4_STOPS, "<|assistant|>"]})
    tokenizer.chat_template = borders.GLM4
    stops = frozenset(map(tokenizer.convert_tokens_to_ids, [*borders.GLM4_STOPS, "</s>"]))
    return Encoder(tokenizer, stops, 1 << 20)


@cheap
@given(
    names,
    st.lists(st.tuples(spoken, st.booleans()), max_size=3),
    spoken.filter(lambda t: "</s>" not in t and "<|im_end|>" not in t),
)
def test_the_header_of_the_next_turn_ends_an_answer_where_it_is_a_stop_id(name, rounds, last):
    encoder = glm4_encoder(name)
    tokenizer = encoder.tokenizer
    call = {"type": "function", "function": {"name": "look", "arguments": {"at": None}}}
    turns = []
    for said, calls in rounds:
        follows = {"role": "tool", "content": "x"} if calls else user("Sure?")
        turns += [bot(said, tool_calls=[call]) if calls else bot(said), follows]
    (row,) = encoder.encode_rows([group_of([user("Hi")], [*turns, bot(last)])])
    ids, mask = reference(tokenizer, [user("Hi"), *turns, bot(last), user("More?")])

    # The stop id behind each answer is learned beside what the template marks, behind the last one too.
    stops = set(map(tokenizer.convert_tokens_to_ids, borders.GLM4_STOPS))
    for n in range(1, len(ids)):
        if mask[n - 1] and not mask[n] and ids[n] in stops:
            mask[n] = 2
    size, end = len(row.prompt_ids), len(mask) - mask[::-1].index(2)
    assert [*row.prompt_ids, *row.completion_ids[0]] == ids[:end]
    assert list(map(bool, row.masks[0])) == list(map(bool, mask[size:end]))
    assert mask.count(2) == len(rounds) + 1


@cheap
@given(st.lists(spoken, min_size=1, max_size=3), st.booleans(), st.sampled_from(["", "I see.", "No"]))
def test_glm_4_5_learns_what_trl_s_own_training_template_of_it_marks(said, calls, thought):
    pytest.importorskip("trl")
    from trl.chat_template_utils import glm4moe_chat_template, glm4moe_training_chat_template

    encoder = glm4_encoder("byte_level")
    tokenizer = copy.copy(encoder.tokenizer)
    call = {"type": "function", "function": {"name": "look", "arguments": {"at": "x"}}}
    turns = [turn for text in said for turn in (user("Hi"), bot(text.strip() or "a"))]
    if calls:
        turns[-1] = bot(turns[-1]["content"], tool_calls=[call])
    if thought:
        turns[-1]["reasoning_content"] = thought
    tokenizer.chat_template = glm4moe_chat_template
    (row,) = Encoder(tokenizer, encoder.stop_ids, 1 << 20).encode_rows([group_of(turns[:1], turns[1:])])
    tokenizer.chat_template = glm4moe_training_chat_template
    ids, mask = reference(tokenizer, turns)
    size = len(row.prompt_ids)
    assert [*row.prompt_ids, *row.completion_ids[0]] == ids
    assert list(map(bool, row.masks[0])) == list(map(bool, mask[size:]))


@pytest.mark.parametrize(
    "given", [{"a": None, "b": 1, "c": [{"d": None}]}, {"a": None}, {"a": {"b": [None]}}]
)
def test_a_null_in_arguments_and_schemas_is_a_value(tmp_path, given):
    import pyarrow as pa
    import pyarrow.parquet as pq

    encoder = encoder_of("byte_level", APPENDING["tools"])
    schema = {"type": "object", "properties": {"a": {"type": "string", "default": None}}}
    tools = [{"type": "function", "function": {"name": "look", "parameters": schema}}]
    found = []
    for arguments in (given, json.dumps(given)):
        call = {"type": "function", "id": None, "function": {"name": "look", "arguments": arguments}}
        row = {"messages": [user("Where?"), bot("", tool_calls=[call], name=None)], "tools": tools}
        found.append(learned_of(encoder, row, tmp_path))
    assert found[0] == found[1]
    assert json.dumps(given) in found[0][1][0]
    assert '"default": null' in found[0][0]

    # A table gives every mapping the keys of all rows: there a null says nothing.
    calls = [{"function": {"name": "look", "arguments": a}} for a in ({"a": "x"}, {"b": "y"})]
    rows = [{"messages": [user("Where?"), bot("", tool_calls=[c])]} for c in calls]
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path)
    groups = load(DataSpec(path=str(path), heldout=0), "demonstrations").train
    made = [g.completions[0].turns[0]["tool_calls"][0]["function"]["arguments"] for g in groups]
    assert sorted(map(str, made)) == ["{'a': 'x'}", "{'b': 'y'}"]


def learned_of(encoder, row, tmp_path, shape="demonstrations"):
    """(prompt, what is learned of each answer) as text, from a row of a file to its tokens."""
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(row) + "\n", encoding="utf-8")
    (encoded,) = encoder.encode_rows(load(DataSpec(path=str(path), heldout=0), shape).train)
    decode = encoder.tokenizer.decode
    rows = zip(encoded.completion_ids, encoded.masks, strict=True)
    return decode(encoded.prompt_ids), [decode([t for t, m in zip(*r) if m]) for r in rows]


def test_rows_of_files_reach_their_tokens(tmp_path):
    encoder = encoder_of("byte_level", APPENDING["tools"])
    asked = "<|im_start|>user\nCapital?<|im_end|>\n<|im_start|>assistant\n"
    sides = {
        side: [user("Capital?"), bot(text)] for side, text in (("chosen", "Rome."), ("rejected", "Lyon?"))
    }
    for prompt in ("Capital?", [user("Capital?")]):
        found = learned_of(encoder, {"prompt": prompt, **sides, "score_chosen": 8.0}, tmp_path, "pairs")
        assert found == (asked, ["Rome.<|im_end|>", "Lyon?<|im_end|>"])

    # Marks of a turn say what is context alone.
    for mark in ({"weight": 0}, {"train": False}):
        turns = [user("Capital?"), bot("bad", **mark), user("b"), bot("good")]
        prompt, learned = learned_of(encoder, {"messages": turns}, tmp_path)
        assert prompt.startswith(f"{asked}bad" if len(prompt) > len(asked) else asked)
        assert learned == ["good<|im_end|>"]

    # Calls, with the content that OpenAI leaves out and the arguments that it writes as text.
    call = {"type": "function", "function": {"name": "look", "arguments": '{"at": "map"}'}}
    turns = [
        user("Capital?"),
        bot(None, tool_calls=[call]),
        {"role": "tool", "content": "Rome"},
        bot("Rome."),
    ]
    tools = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}]
    prompt, learned = learned_of(encoder, {"messages": turns, "tools": tools}, tmp_path)
    assert learned == [
        '<tool_call>{"name": "look", "arguments": {"at": "map"}}</tool_call><|im_end|>Rome.<|im_end|>'
    ]
    assert prompt == f"<|im_start|>system\nTools: {json.dumps(tools)}<|im_end|>\n{asked}"

    # A begun answer, and tokens of the vocabulary inside an answer.
    begun = [user("Capital?"), bot("It is")]
    pair = {"prompt": begun, "chosen": [bot(" Rome.")], "rejected": [bot(" Lyon.")]}
    assert learned_of(encoder, pair, tmp_path, "pairs") == (
        f"{asked}It is",
        [" Rome.<|im_end|>", " Lyon.<|im_end|>"],
    )
    tagged = borders.byte_level()
    tagged.add_tokens(["<city>", "</city>"])
    tagged.chat_template = APPENDING["chatml"]
    encoder = Encoder(tagged, frozenset({tagged.eos_token_id}))
    row = {"prompt": "Capital?", "completion": "<city>Rome</city>"}
    assert learned_of(encoder, row, tmp_path) == (asked, ["<city>Rome</city><|im_end|>"])
    (encoded,) = encoder.encode_rows([group_of([user("Capital?")], "<city>Rome</city>")])
    assert encoded.completion_ids[0][0] == tagged.convert_tokens_to_ids("<city>")


def dialogues(count=24):
    """Rows with prompts of several turns, white space and characters of all kinds."""
    draw = lambda n, *words: " ".join(words[(n * k) % len(words)] for k in (3, 5, 7))
    for n in range(count):
        words = ("Yes", "caf\u00e9", "\n\nNo", "\u95ee\u9898", "it is", "\tcan", "Why?")
        history = (
            [user(f"Q{n} " + draw(n, *words)), bot("It is. " + draw(n + 1, *words))] if n % 3 == 0 else []
        )
        yield (
            [*history, user(draw(n + 2, *words))],
            f"{draw(n + 3, *words)} a{n}",
            f"{draw(n + 4, *words)} b{n}",
        )


TRL_TEMPLATES = ["chatml", "llama3", "gemma", "mistral", "zephyr", "phi3", "qwen3", "gpt_oss"]


@pytest.mark.parametrize("template", TRL_TEMPLATES)
def test_dpo_rows_are_those_of_trl(template):
    """TRL also learns what the template writes after the end of turn; all else is the same."""
    pytest.importorskip("trl")
    from types import SimpleNamespace

    from datasets import Dataset, disable_progress_bars
    from trl import DPOTrainer

    disable_progress_bars()
    for name in ("byte_level_across", "sentencepiece"):
        encoder = encoder_of(name, (APPENDING | REWRITING)[template])
        rows = list(dialogues())
        data = Dataset.from_list(
            [{"prompt": p, "chosen": [bot(a)], "rejected": [bot(b)]} for p, a, b in rows]
        )
        theirs = DPOTrainer._prepare_dataset(
            SimpleNamespace(),
            data,
            encoder.tokenizer,
            SimpleNamespace(dataset_num_proc=None, max_length=None),
            "train",
        )
        ours = encoder.encode_rows([group_of(p, a, b) for p, a, b in rows])
        for want, got in zip(theirs, ours, strict=True):
            assert list(got.prompt_ids) == want["prompt_ids"]
            for ids, side in zip(got.completion_ids, ("chosen_ids", "rejected_ids")):
                assert list(ids) == want[side][: len(ids)]
                rest = encoder.tokenizer.decode(want[side][len(ids) :])
                assert rest.replace("</s>", "").strip() == ""
            for mask in got.masks:  # of a side with a border of its own, the other's token is context
                assert list(mask) == sorted(mask)
                assert mask[-1] == 1


@pytest.mark.parametrize("template", ["chatml", "llama3", "mistral", "zephyr", "tools", "qwen3"])
def test_sft_rows_are_those_of_trl(template):
    """With assistant_only_loss, on the same template."""
    pytest.importorskip("trl")
    from types import SimpleNamespace

    from datasets import Dataset, disable_progress_bars
    from trl import SFTTrainer

    disable_progress_bars()
    encoder = encoder_of("byte_level", (APPENDING | REWRITING)[template])
    turns = [[*p, bot(a)] for p, a, _ in dialogues()]
    if template != "qwen3":
        turns = [[*t, user("More?"), bot("No.")] for t in turns]
    trainer = SimpleNamespace(_tokenizer=encoder.tokenizer, chat_template=None, completion_only_loss=False)
    args = SimpleNamespace(
        dataset_num_proc=None, dataset_text_field="text", assistant_only_loss=True, max_length=None,
        truncation_mode="keep_start", eos_token=None, shuffle_dataset=False, pad_to_multiple_of=None,
    )  # fmt: off
    data = Dataset.from_list([{"messages": t} for t in turns])
    theirs = SFTTrainer._prepare_dataset(trainer, data, encoder.tokenizer, args, False, None, "train")
    for want, own in zip(theirs, turns, strict=True):
        first = next(n for n, t in enumerate(own) if t["role"] == "assistant")
        if template == "qwen3":
            first = len(own) - 1
        got = encoder.encode(group_of(own[:first], own[first:]))
        ids = [*got.prompt_ids, *got.completion_ids[0]]
        assert ids == want["input_ids"][: len(ids)]
        learned = [label != -100 for label in want["labels"]]
        assert list(map(bool, got.masks[0])) == learned[len(got.prompt_ids) : len(ids)]
        assert not any(learned[len(ids) :])


@pytest.mark.parametrize(
    ("template", "field", "problem"),
    [
        # It asks and never shows what was answered; it looks under another key; it is cut.
        (
            "{% for m in messages if m.role != 'assistant' %}<|user|>{{ m.content }}<|end|>{% endfor %}"
            "<|assistant|>",
            "template",
            "does not write",
        ),
        (
            "{% for m in messages %}<|{{ m.role }}|>{{ m.content if m.role == 'user' else m.value }}<|end|>"
            "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}",
            "template",
            "does not write",
        ),
        ("{% for m in messages %}{{ m.content }", "template", "is not Jinja"),
    ],
)
def test_a_template_that_loses_the_answer_is_refused(tmp_path, template, field, problem):
    """The model would learn to say nothing."""
    folder = make_model(tmp_path / "m", template=template)
    encoder = open_encoder(OpenSpec(folder, max_length=99))
    group = Group(
        Prompt(messages=({"role": "user", "content": "Capital?"},)), (Completion("Paris."),), (Feedback(1.0),)
    )
    with pytest.raises(UserError, match=problem) as refused:
        encoder.encode(group)
    assert refused.value.field == field
    loud = template.replace("m.value", "m.content | upper")
    if loud != template:
        upper = open_encoder(OpenSpec(make_model(tmp_path / "upper", template=loud), max_length=99))
        assert "PARIS." in upper.tokenizer.decode(upper.encode(group).completion_ids[0])
