"""Formats, splits, tokenisation, the store."""

import gzip
import json

import pytest

from conftest import make_model, pair_rows
from kilter.data import store
from kilter.data.dataset import DataSpec, load, prompt_key, split_by_prompt
from kilter.data.encode import Encoder
from kilter.data.formats import detect, formats, reader
from kilter.data.read import rows
from kilter.data.templates import DEFAULT_TEMPLATE
from kilter.errors import UserError
from kilter.models.tokenizer import load_tokenizer, stop_ids
from kilter.types import Completion, Feedback, Group, Prompt

USER, BOT = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}
ROWS = {
    "red_team": {"goal": "Do something bad", "target": "Sure"},
    "question_answer": {"question": "2 + 3?", "answer": "Two and three make five.\n#### 5"},
    "hh": {"chosen": "\n\nHuman: Hi\n\nAssistant: Hello", "rejected": "\n\nHuman: Hi\n\nAssistant: Go away"},
    "preference": {"prompt": "Hi", "chosen": "Hello", "rejected": "No"},
    "sharegpt_preference": {
        "conversations": [{"from": "human", "value": "Hi"}],
        "chosen": {"from": "gpt", "value": "Hello"},
        "rejected": {"from": "gpt", "value": "No"},
    },
    "implicit_preference": {
        "chosen": [USER, BOT],
        "rejected": [USER, {"role": "assistant", "content": "No"}],
    },
    "stepwise": {"prompt": "Hi", "completions": ["a", "b"], "labels": [True, False]},
    "ratings": {
        "instruction": "Hi",
        "completions": [
            {"response": "a", "overall_score": 7, "model": "m"},
            {"response": "b", "overall_score": None},
        ],
    },
    "oasst": {
        "message_tree_id": "t",
        "prompt": {
            "text": "Hi",
            "role": "prompter",
            "replies": [
                {"text": "a", "role": "assistant", "rank": 1, "replies": []},
                {"text": "b", "role": "assistant", "rank": 0, "replies": []},
            ],
        },
    },
    "unpaired": {"prompt": "Hi", "completion": "Hello", "label": False},
    "scored": {"prompt": "Hi", "response": "Hello", "rating": 4},
    "prompt_completion": {"prompt": [USER], "completion": [BOT]},
    "conversations": {"messages": [USER, BOT, USER, BOT]},
    "alpaca": {"instruction": "Say", "input": "hi", "output": "hi"},
    "prompt_only": {"prompt": [USER]},
    "language_modeling": {"text": "once upon a time"},
}


@pytest.mark.parametrize("name", formats.names())
def test_each_format_is_detected_and_read(name):
    for row in filter(None, [ROWS.get(name), formats.get(name).example]):
        assert detect(row).name == name
        assert list(reader(name)(row))


def test_read_values():
    read = {n: next(reader(n)(r)) for n, r in ROWS.items()}
    assert [c.text for c in read["hh"].completions] == ["Hello", "Go away"]
    assert read["hh"].prompt.messages == ({"role": "user", "content": "Hi"},)
    assert [f.score for f in read["ratings"].feedback] == [7.0, None]
    assert [c.text for c in read["oasst"].completions] == ["b", "a"]
    assert read["unpaired"].feedback[0].score == 0.0
    assert read["stepwise"].feedback[0].steps == (1.0, 0.0)
    assert len(read["conversations"].completions[0].turns) == 3
    assert read["alpaca"].prompt.messages[0]["content"] == "Say\n\nhi"


def test_scored_answers_of_one_prompt_become_one_group(tmp_path):
    path = tmp_path / "scored.jsonl"
    rows = [{"prompt": f"p{i % 3}", "completion": f"answer {i}", "score": i} for i in range(6)] + [
        {"prompt": "p0", "completion": "unscored", "score": None}
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    groups = load(DataSpec(path=str(path), heldout=0), "rollouts").train
    assert [g.prompt.messages[0]["content"] for g in groups] == ["p0", "p1", "p2"]
    assert [f.score for f in groups[0].feedback] == [0.0, 3.0, None]
    pairs = load(DataSpec(path=str(path), heldout=0), "pairs").train
    assert [c.text for c in pairs[0].completions] == ["answer 3", "answer 0"]
    alone = tmp_path / "alone.jsonl"
    alone.write_text(json.dumps(rows[1]))
    (judged,) = load(
        DataSpec(path=str(alone), heldout=0), "unpaired"
    ).train  # as advice says: above 0 is a thumb up
    assert judged.feedback[0].score == 1.0
    bad = tmp_path / "bad.jsonl"
    bad.write_text(json.dumps(rows[0] | {"score": "high"}))
    with pytest.raises(UserError, match="score.*should be a number"):
        load(DataSpec(path=str(bad), heldout=0), "pairs")


def test_implicit_prompt_may_part_in_the_middle():
    """HH dialogues sometimes part before the last turn: the differing user turn belongs to the completions."""
    a, b = (
        "\n\nHuman: Hi\n\nAssistant: One\n\nHuman: More\n\nAssistant: A",
        "\n\nHuman: Hi\n\nAssistant: Two\n\nHuman: Less\n\nAssistant: B",
    )
    group = next(reader("hh")({"chosen": a, "rejected": b}))
    assert group.prompt.messages == ({"role": "user", "content": "Hi"},)
    assert [len(c.turns) for c in group.completions] == [3, 3]


@pytest.mark.parametrize("suffix", ["jsonl", "jsonl.gz", "json", "csv", "parquet"])
def test_every_file_type(tmp_path, suffix):
    path, data = (
        tmp_path / f"d.{suffix}",
        [{"prompt": f"p{i}", "chosen": "good", "rejected": "bad"} for i in range(3)],
    )
    if suffix == "jsonl":
        path.write_text("\n".join(map(json.dumps, data)))
    elif suffix == "jsonl.gz":
        path.write_bytes(gzip.compress("\n".join(map(json.dumps, data)).encode()))
    elif suffix == "json":
        path.write_text(json.dumps(data))
    elif suffix == "csv":
        path.write_text("prompt,chosen,rejected\n" + "".join(f"p{i},good,bad\n" for i in range(3)))
    else:
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.Table.from_pylist(data), path)
    assert [r["prompt"] for _, r in rows(str(path))] == ["p0", "p1", "p2"]
    assert len(load(DataSpec(path=str(path), heldout=0), "pairs").train) == 3


def test_split_is_by_prompt_and_survives_reordering():
    groups = [Group(Prompt(text=f"p{i % 40}"), (), ()) for i in range(120)]
    train, held = split_by_prompt(groups, 0.25, seed=3)
    keys = lambda gs: {prompt_key(g.prompt) for g in gs}
    assert not keys(train) & keys(held)
    assert len(keys(held)) == 10
    _, again = split_by_prompt(groups[::-1], 0.25, seed=3)
    assert keys(held) == keys(again)


def test_shapes_share_one_split(pairs_file):
    spec = DataSpec(path=str(pairs_file), heldout=0.3)
    held = [
        {prompt_key(g.prompt) for g in load(spec, shape).heldout}
        for shape in ("demonstrations", "pairs", "prompts")
    ]
    assert held[0] == held[1] == held[2]


def test_ties_and_unscored_are_dropped_and_counted(tmp_path):
    path = tmp_path / "r.jsonl"
    scores = [(1, 2), (3, 3), (None, 2), (5, 1)]
    path.write_text(
        "\n".join(
            json.dumps(
                {
                    "instruction": f"i{k}",
                    "completions": [{"response": "a", "rating": a}, {"response": "b", "rating": b}],
                }
            )
            for k, (a, b) in enumerate(scores)
        )
    )
    data = load(DataSpec(path=str(path), heldout=0), "pairs")
    assert [g.completions[0].text for g in data.train] == ["b", "a"]
    assert dict(data.skipped) == {"tie": 1, "fewer than two scored completions": 1}


def test_boundary_is_the_models_own_and_eos_is_learned(encoder):
    group = Group(Prompt(messages=(USER,)), (Completion("Hello"),), (Feedback(1.0),))
    e = encoder.encode(group)
    tok = encoder.tokenizer
    assert tok.decode(e.prompt_ids) == "<|user|>Hi<|end|>\n<|assistant|>"
    assert tok.decode(e.completion_ids[0]) == "Hello<|end|>"
    assert e.completion_ids[0][-1] == tok.eos_token_id
    raw = encoder.encode(Group(Prompt(text="Once"), (Completion(" upon"),), (Feedback(1.0),)))
    assert tok.decode(raw.prompt_ids) == "Once"
    assert raw.completion_ids[0][-1] == tok.eos_token_id


def test_multi_turn_masks_every_assistant_turn_and_no_user_turn(encoder):
    turns = (BOT, {"role": "user", "content": "More"}, {"role": "assistant", "content": "Sure"})
    e = encoder.encode(Group(Prompt(messages=(USER,)), (Completion("Sure", turns=turns),), (Feedback(1.0),)))
    tok = encoder.tokenizer
    learned = tok.decode([t for t, m in zip(e.completion_ids[0], e.masks[0]) if m])
    assert learned == "Hello<|end|>Sure<|end|>"
    whole = tok.decode([*e.prompt_ids, *e.completion_ids[0]])
    assert whole + "\n" == tok.apply_chat_template([USER, *turns], tokenize=False)


def test_truncation_keeps_the_end_of_the_prompt(encoder):
    encoder.max_length = 60
    e = encoder.encode(
        Group(
            Prompt(messages=({"role": "user", "content": "a" * 100 + "END"},)),
            (Completion("yes"), Completion("no")),
            (Feedback(1.0), Feedback(0.0)),
        )
    )
    assert len(e.prompt_ids) + max(map(len, e.completion_ids)) <= 60
    assert "END" in encoder.tokenizer.decode(e.prompt_ids)
    assert encoder.counts["prompts cut"] == 1


def test_truncation_never_makes_two_sides_equal(encoder):
    encoder.max_length = 40
    same = "x" * 60
    group = Group(
        Prompt(messages=(USER,)),
        (Completion(same + "A"), Completion(same + "B")),
        (Feedback(1.0), Feedback(0.0)),
    )
    assert encoder.encode(group) is None
    assert encoder.counts["groups dropped: sides equal after the cut"] == 1


def test_model_without_template_gets_the_documented_default(tmp_path):
    folder = make_model(tmp_path / "bare", template=None)
    tok = load_tokenizer(folder)
    encoder = Encoder(tok, stop_ids(folder, tok))
    assert tok.chat_template == DEFAULT_TEMPLATE
    e = encoder.encode(Group(Prompt(messages=(USER,)), (Completion("Hello"),), (Feedback(1.0),)))
    assert tok.decode(e.prompt_ids) == "### User:\nHi\n\n### Assistant:\n"
    assert tok.decode(e.completion_ids[0]) == "Hello<|end|>"
    with pytest.raises(UserError, match="needs a chat template"):
        Encoder(load_tokenizer(folder), stop_ids(folder, tok), template="model")


def test_store_survives_a_torn_line(tmp_path):
    path = tmp_path / "groups.jsonl"
    group = Group(
        Prompt(messages=(USER,), metadata={"k": 1}),
        (Completion("a", token_ids=(1, 2), sampling_logps=(-0.5, -1.0)),),
        (Feedback(None, "gold", rationale="r"),),
    )
    store.append(path, [group, group])
    with path.open("a") as f:
        f.write('{"prompt": {"mess')
    assert list(store.read(path)) == [group, group]
    store.append(path, [group])
    assert list(store.read(path)) == [group] * 3


def test_versions_of_tokens_are_kept_and_the_oldest_names_the_answer(tmp_path):
    spans = ((0, 2, 7), (2, 3, 6), (3, 5, 9))
    mixed = Completion("a", token_ids=(1, 2, 3, 4, 5), policy_version=9, versions=spans)
    plain = Completion("b", token_ids=(1,), policy_version=4)
    assert (mixed.policy_version, plain.policy_version) == (6, 4)
    group = Group(Prompt(messages=(USER,)), (mixed, plain), (Feedback(1.0), Feedback(0.0)))
    store.append(tmp_path / "groups.jsonl", [group])
    assert list(store.read(tmp_path / "groups.jsonl")) == [group]
    assert "versions" not in store.to_json(group)["completions"][1]


def test_groups_file_is_a_format(tmp_path):
    path = tmp_path / "g.jsonl"
    store.append(path, [next(reader("preference")(r)) for r in pair_rows(4)])
    data = load(DataSpec(path=str(path), heldout=0), "pairs")
    assert data.format == "groups"
    assert len(data.train) == 4


def test_a_question_with_its_equation_shows_the_work():
    from kilter.data.formats.demonstrations import _arithmetic

    row = {
        "ID": "1",
        "Body": "A pack holds 8 pens. 3 are red",
        "Question": "How many are not?",
        "Equation": "( 8.0 - 3.0 )",
        "Answer": 5.0,
    }
    (group,) = reader("question_answer")(row)
    assert group.prompt.messages[0]["content"] == "A pack holds 8 pens. 3 are red. How many are not?"
    assert group.completions[0].text == "8 - 3 = 5\n#### 5"
    assert _arithmetic("( ( 8.0 * 2.0 ) - 3.0 )") == "(8 * 2) - 3"
    assert _arithmetic("( 8.0 + 1.0 ) / ( 2.0 + 1.0 )") == "(8 + 1) / (2 + 1)"
