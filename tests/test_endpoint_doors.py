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
