"""Every command that asks a model asks an endpoint by the same words: MODEL or --model is the endpoint's name of it."""

from __future__ import annotations

import io
import json
import sys

import pytest

from conftest import pair_rows
from test_endpoints import Endpoint, chat_reply
from test_wrong_inputs import kilter


@pytest.fixture(scope="module")
def endpoint():
    made = Endpoint()
    yield made
    made.server.shutdown()
    made.server.server_close()


@pytest.fixture
def asks(endpoint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-none")
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(r) + "\n" for r in pair_rows(3)))
    endpoint.seen.clear()
    return ("--sampler", "openai", "--sampler.url", endpoint.url)


DOORS = {
    "sample": ("sample", "demo", "--prompt", "Hello"),
    "generate": ("generate", "--model", "demo", "--data", "pairs.jsonl", "--k", 2, "--out", "g"),
    "eval": ("eval", "--model", "demo", "--data", "pairs.jsonl", "--out", "e"),
    "chat": ("chat", "demo"),
}


PIECE = {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "m"}
PIECES = [{"delta": {"content": "Hi"}, "finish_reason": None}, {"delta": {}, "finish_reason": "stop"}]
LINES = [f"data: {json.dumps(PIECE | {'choices': [{'index': 0} | piece]})}\n\n" for piece in PIECES]
STREAM = (200, "".join([*LINES, "data: [DONE]\n\n"]), {"Content-Type": "text/event-stream"})


@pytest.mark.parametrize("door", DOORS)
def test_an_endpoints_model_is_named_as_any_model_is(endpoint, asks, monkeypatch, capsys, door):
    monkeypatch.setattr(sys, "stdin", io.StringIO("Hello\n"))
    endpoint.plan["Hello"] = [lambda body: STREAM if body.get("stream") else chat_reply("Hi")]
    code, text = kilter(monkeypatch, capsys, *DOORS[door], *asks)
    assert code == 0, text
    assert endpoint.seen and {body["model"] for _, _, body in endpoint.seen} == {"demo"}
    assert door != "eval" or "not scored" in next(line for line in text.splitlines() if "Length" in line)


def test_an_endpoint_without_a_models_name_is_refused_before_any_work(
    endpoint, asks, monkeypatch, capsys, tmp_path
):
    kind = ("generate", "--data", "pairs.jsonl", "--out", "g", *asks)
    code, text = kilter(monkeypatch, capsys, *kind)
    assert code == 2 and "`sampler.model` is required by an endpoint" in text and "--model NAME" in text
    assert not endpoint.seen and not (tmp_path / "g").exists()


JUDGE = "mode: pairwise\nread: text\n"
AT = "{name: openai, model: m, retries: 0, concurrency: 1, url: 'http://127.0.0.1:9/v1'}"
WRONG_FILES = {
    "alone": (f"{JUDGE}sampler: {AT}\n", "correct j.yaml.sampler.url,"),
    "panel": (
        f"{JUDGE}panel: [{{sampler: {AT}}}, {{sampler: {AT}}}]\n",
        "correct j.yaml.panel.0.sampler.url,",
    ),
    "key": (JUDGE + "sampler: {name: openai, model: m, urll: x}\n", "`j.yaml.sampler.urll` ="),
    "folder": ("mode: pairwise\nmodel: nowhere\n", "`j.yaml.model` ="),
}
JUDGED = {
    "audit-judge": ("audit-judge", "j.yaml", "--data", "pairs.jsonl"),
    "label": ("label", "--data", "pairs.jsonl", "--feedback", "{judge: j.yaml}", "--out", "l"),
    "label file": ("label", "--data", "pairs.jsonl", "--feedback", "{judge: {file: j.yaml}}", "--out", "l"),
    "eval": (*DOORS["eval"], "--judge", "j.yaml", "--baseline", "base"),
    "conflicts": ("constitution", "conflicts", "general", "--data", "pairs.jsonl", "--judge", "j.yaml"),
}


@pytest.mark.parametrize("wrong", WRONG_FILES)
@pytest.mark.parametrize("door", JUDGED)
def test_what_is_wrong_in_a_judges_file_is_named_by_the_file(
    endpoint, asks, monkeypatch, capsys, tmp_path, door, wrong
):
    text, named = WRONG_FILES[wrong]
    (tmp_path / "j.yaml").write_text(text)
    sampler = asks if door == "eval" else ()
    code, text = kilter(monkeypatch, capsys, *JUDGED[door], *sampler)
    assert code != 0
    assert named in text


@pytest.mark.parametrize(
    ("text", "named"), [(f"sampler: {AT}\n", "c.yaml.sampler.url"), ("model: nowhere\n", "`c.yaml.model` =")]
)
def test_what_is_wrong_in_a_critics_file_is_named_by_the_file(
    asks, monkeypatch, capsys, tmp_path, text, named
):
    (tmp_path / "c.yaml").write_text(text)
    command = ("constitution", "test", "general", "--data", "pairs.jsonl", "--critic", "c.yaml")
    assert named in kilter(monkeypatch, capsys, *command)[1]


def test_what_stands_beside_a_judges_file_is_named_by_its_own_place(asks, monkeypatch, capsys, tmp_path):
    (tmp_path / "j.yaml").write_text(f"{JUDGE}sampler: {AT}\n")
    beside = "{judge: {file: j.yaml, max_cost: 3}}"
    command = ("label", "--data", "pairs.jsonl", "--feedback", beside, "--out", "l")
    assert "judge.max_cost` = 3" in (text := kilter(monkeypatch, capsys, *command)[1])
    assert "j.yaml" not in text
