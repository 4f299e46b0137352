"""Samplers that ask somebody else: an OpenAI-compatible endpoint over real HTTP, a script, and one's own file."""

from __future__ import annotations

import json
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pytest

from kilter.errors import RunFailed, UserError
from kilter.progress import Nobody
from kilter.redaction import Pieces
from kilter.roles.chat import SamplerChat
from kilter.roles.open import OpenSpec
from kilter.roles.sampler import open_sampler
from kilter.sampling.choices import from_first_tokens
from kilter.sampling.collect import answers, collect, requests
from kilter.sampling.config import SamplerKind, SamplerSpec
from kilter.sampling.items import Item
from kilter.sampling.openai import OpenAISampler
from kilter.sampling.scripted import ScriptedSampler
from kilter.sampling.vllm_clients import Server
from kilter.types import Ask, Completion, Prompt, Request, Sample, SamplerFacts, SamplingParams, Usage

KEY = "sk-kilter-secret-1234"
PARAMS = SamplingParams(max_new_tokens=9, temperature=0.5, top_p=0.9, seed=3)


def prompt(text):
    return Prompt(messages=({"role": "user", "content": text},))


def chat_reply(text, logprobs=None, reason="stop"):
    message = {"role": "assistant", "content": text}
    return {
        "id": "x",
        "object": "chat.completion",
        "created": 1,
        "model": "m",
        "choices": [{"index": 0, "message": message, "finish_reason": reason, "logprobs": logprobs}],
        "usage": {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9},
    }


def refusal(message):
    return {"error": {"message": message, "type": "invalid_request_error", "param": None, "code": None}}


class Endpoint:
    """Answers by what is asked: each entry of `plan` is (status, body, headers) or a function of the request body."""

    def __init__(self):
        self.plan, self.seen, self.under_way, self.most = {}, [], 0, 0
        lock = threading.Lock()
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with lock:
                    endpoint.seen.append((self.path, self.headers.get("Authorization"), body))
                    endpoint.under_way += 1
                    endpoint.most = max(endpoint.most, endpoint.under_way)
                asked = body.get("prompt") or body["messages"][-1]["content"]
                steps = endpoint.plan.get(asked, [lambda b: chat_reply(f"re: {asked}")])
                with lock:
                    step = steps.pop(0) if len(steps) > 1 else steps[0]
                step = step(body) if callable(step) else step
                status, data, headers = step if isinstance(step, tuple) else (200, step, {})
                with lock:
                    endpoint.under_way -= 1
                if isinstance(data, dict):
                    data, headers = json.dumps(data), {"Content-Type": "application/json", **headers}
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(data.encode())))
                self.end_headers()
                self.wfile.write(data.encode())

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def endpoint():
    made = Endpoint()
    yield made
    made.server.shutdown()
    made.server.server_close()


@pytest.fixture
def sampler(endpoint, monkeypatch):
    monkeypatch.setenv("OPENAI_BASE_URL", endpoint.url)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    made = OpenAISampler("some-model", timeout=10, concurrency=3, retries=2)
    yield made
    made.close()


NOW = {"Retry-After": "0", "retry-after-ms": "1"}


def test_a_good_answer_carries_text_usage_and_what_the_endpoint_says_of_its_tokens(endpoint, sampler):
    told = {"content": [{"token": "Hi", "logprob": -0.25, "bytes": None, "top_logprobs": []}]}
    endpoint.plan["Hello"] = [chat_reply(" Hi ", told, "length")]
    found = collect(sampler, requests([prompt("Hello")], 1, PARAMS))
    ((completion,),) = found.made
    assert (completion.text, completion.finish_reason, completion.token_ids) == ("Hi", "length", None)
    assert completion.sampling_logps is None  # without token ids they would fit no tokens of ours
    assert found.samples[0][0].token_texts == (("Hi", -0.25),)
    assert found.usage == sampler.usage == Usage(7, 2)
    path, key, body = endpoint.seen[0]
    assert (path, key) == ("/v1/chat/completions", f"Bearer {KEY}")
    sent = {k: body[k] for k in ("model", "temperature", "top_p", "max_tokens", "messages")}
    assert sent == {
        "model": "some-model",
        "temperature": 0.5,
        "top_p": 0.9,
        "max_tokens": 9,
        "messages": [{"role": "user", "content": "Hello"}],
    }
    assert not sampler.facts.exact


def test_tools_calls_and_a_begun_answer_reach_the_endpoint_and_calls_come_back(endpoint, sampler):
    call = {"type": "function", "function": {"name": "look", "arguments": {"at": "map"}}}
    tool = {"type": "function", "function": {"name": "look"}}
    told = {"type": "function", "id": "c1", "function": {"name": "look", "arguments": '{"at": "map"}'}}

    def called(body):
        reply = chat_reply(None, reason="tool_calls")
        reply["choices"][0]["message"]["tool_calls"] = [told]
        return reply

    endpoint.plan["which"] = [called]
    turns = (
        {"role": "user", "content": "Capital?"},
        {"role": "assistant", "content": "", "tool_calls": [call], "train": False},
        {"role": "tool", "content": "Rome"},
        {"role": "user", "content": "which"},
    )
    asked = Prompt(messages=turns, tools=(tool,), template_kwargs={"enable_thinking": False})
    found = collect(sampler, requests([asked], 1, PARAMS)).made[0][0]
    body = endpoint.seen[-1][2]
    assert body["tools"] == [tool]
    assert body["chat_template_kwargs"] == {"enable_thinking": False}
    written = {"role": "assistant", "content": "", "tool_calls": [json.loads(json.dumps(call))]}
    written["tool_calls"][0]["function"]["arguments"] = '{"at": "map"}'
    assert body["messages"][1] == written
    assert found.turns[0]["tool_calls"] == [{**call, "id": "c1"}]

    begun = Prompt(
        messages=({"role": "user", "content": "Capital?"}, {"role": "assistant", "content": "It is"})
    )
    endpoint.plan["It is"] = [chat_reply(" Rome. ")]
    assert collect(sampler, requests([begun], 1, PARAMS)).made[0][0].text == " Rome."
    assert endpoint.seen[-1][2]["continue_final_message"] is True
    assert endpoint.seen[-1][2]["add_generation_prompt"] is False


def test_samples_of_one_prompt_have_seeds_of_their_own_that_stay(endpoint, sampler):
    answers(sampler, [prompt("Hello")], 3, PARAMS)
    answers(sampler, [prompt("Hello")], 3, PARAMS)
    seeds = [body["seed"] for _, _, body in endpoint.seen]
    assert len(set(seeds)) == 3
    assert set(seeds[:3]) == set(seeds[3:])


def test_what_may_pass_is_tried_again_and_a_lasting_failure_is_one_items_problem(endpoint, sampler):
    endpoint.plan["busy"] = [(429, refusal("slow down"), NOW), chat_reply("at last")]
    endpoint.plan["broken"] = [(500, refusal("out of order"), NOW)]
    endpoint.plan["page"] = [(200, "<html>Welcome</html>", {"Content-Type": "text/html"})]
    endpoint.plan["silent"] = [chat_reply(None)]
    spent = {"error": {"code": 402, "message": "the quota is spent"}}  # of gateways, with status 200
    endpoint.plan["spent"] = [(200, spent, {})]
    asked = ["fine", "busy", "broken", "page", "silent", "spent", "also fine"]
    found = collect(sampler, requests([prompt(t) for t in asked], 1, PARAMS))
    texts = [row[0].text if row else None for row in found.made]
    assert texts == ["re: fine", "at last", None, None, None, None, "re: also fine"]
    problems = dict(zip(asked, (row[0] for row in found.problems_by_request())))
    assert "status 500" in problems["broken"]
    assert "out of order" in problems["broken"]
    assert "not with a completion" in problems["page"]
    assert "sent no text" in problems["silent"]
    assert "not with a completion (the quota is spent)" in problems["spent"]
    assert (
        sum(b["messages"][-1]["content"] == "broken" for _, _, b in endpoint.seen) == 3
    )  # one and two retries
    assert found.summary().startswith("4 of 7 answers failed: ")


def test_a_refused_key_ends_the_run_and_is_never_shown(endpoint, sampler):
    endpoint.plan["Hello"] = [(401, refusal(f"Incorrect API key provided: {KEY}"), {})]
    with pytest.raises(UserError, match="is refused by the endpoint") as caught:
        answers(sampler, [prompt("Hello")], 1, PARAMS)
    assert caught.value.field == "OPENAI_API_KEY"
    endpoint.plan["Hello"] = [(403, refusal(f"{KEY} may not"), {})]
    found = collect(sampler, requests([prompt("Hello")], 1, PARAMS))
    assert "*** may not" in found.problems[0]
    endpoint.plan["Hello"] = [(404, refusal("no such model"), {})]
    with pytest.raises(UserError, match="no such model") as missing:
        answers(sampler, [prompt("Hello")], 1, PARAMS)
    assert missing.value.field == "model"
    assert all(KEY not in str(e.value) for e in (caught, missing))


def test_no_key_is_needed_where_an_address_is_named_and_is_asked_for_elsewhere(endpoint, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    spec = SamplerKind(name="openai", url=endpoint.url, timeout=5)
    sampler = open_sampler(spec, OpenSpec("gpt-something"))  # no weights are looked for
    assert answers(sampler, [prompt("Hello")], 1, PARAMS)[0][0].text == "re: Hello"
    assert endpoint.seen[0][2]["model"] == "gpt-something"
    with pytest.raises(UserError, match="needed to ask api.openai.com"):
        OpenAISampler("gpt-something")


def test_parameters_that_an_endpoint_refuses_are_left_out_once_and_for_all(endpoint, sampler):
    def picky(body):
        for name in ("logprobs", "seed", "max_tokens"):
            if name in body:
                return 400, refusal(f"Unsupported parameter: '{name}'"), {}
        return chat_reply(f"{body['max_completion_tokens']} at most")

    endpoint.plan["Hello"] = [picky]
    assert answers(sampler, [prompt("Hello")], 1, PARAMS)[0][0].text == "9 at most"
    count = len(endpoint.seen)
    assert answers(sampler, [prompt("Hello")], 1, PARAMS)[0][0].text == "9 at most"
    assert len(endpoint.seen) == count + 1
    endpoint.plan["bad"] = [(400, refusal("the prompt is too long"), {})]
    assert "too long" in collect(sampler, requests([prompt("bad")], 1, PARAMS)).problems[0]


EXTRA = {
    "detail": [{"type": "extra_forbidden", "loc": ["body", "seed"], "msg": "Extra inputs", "input": "top_p"}]
}


@pytest.mark.parametrize(
    ("name", "status", "said"),
    [
        ("seed", 422, EXTRA),
        ("seed", 400, {"object": "error", "message": "seed: unknown field"}),
        ("top_p", 400, refusal("Unsupported parameter: 'top_p' is not supported with this model.")),
        (
            "temperature",
            400,
            refusal("'temperature' does not support 0 with this model, only the default (1)."),
        ),
    ],
)
def test_a_refusal_is_read_in_any_servers_layout(name, status, said, endpoint, sampler, caplog):
    greedy = SamplingParams(max_new_tokens=9, temperature=0.0)
    endpoint.plan["Hello"] = [lambda b: (status, said, {}) if name in b else chat_reply("hi")]
    assert answers(sampler, [prompt("Hello")], 1, greedy)[0][0].text == "hi"
    assert endpoint.seen[-1][2].keys() >= {"seed", "top_p", "temperature"} - {name}
    assert ("takes no temperature" in caplog.text) == (name == "temperature")


def test_a_temperature_that_was_asked_for_is_not_left_out(endpoint, sampler):
    said = refusal("'temperature' does not support 0.5 with this model.")
    endpoint.plan["Hello"] = [lambda b: (400, said, {}) if "temperature" in b else chat_reply("hi")]
    assert "does not support 0.5" in collect(sampler, requests([prompt("Hello")], 1, PARAMS)).problems[0]


def test_what_a_server_says_of_a_request_is_shown_in_any_layout_without_the_request(endpoint, sampler):
    said = {"detail": [{"type": "x", "loc": ["body", "messages"], "msg": "Too many words", "input": "Hello"}]}
    endpoint.plan["Hello"] = [(422, said, {})]
    (problem,) = collect(sampler, requests([prompt("Hello")], 1, PARAMS)).problems
    assert "Too many words" in problem and "Hello" not in problem


@pytest.mark.parametrize("most", [5, 0])
def test_fewer_alternatives_are_asked_for_where_a_server_gives_fewer(most, endpoint, sampler):
    def few(body):
        if body.get("top_logprobs", 0) > most:
            return 400, refusal(f"top_logprobs must be at most {most}"), {}
        top = [{"token": t, "logprob": p, "bytes": None} for t, p in (("A", -0.1), ("B", -2.4))]
        told = {"content": [{"token": "A", "logprob": -0.1, "bytes": None, "top_logprobs": top[:most]}]}
        return chat_reply("A", told)

    endpoint.plan["Which?"] = [few]
    (found,) = sampler.choose([prompt("Which?")], ["A", "B"])
    assert [b.get("top_logprobs") for _, _, b in endpoint.seen] == [20, 5, *([None] if most == 0 else [])]
    assert all(b["logprobs"] for _, _, b in endpoint.seen)
    assert bool(found.problem) == (most == 0)


THOUGHT = {"type": "thinking", "thinking": [{"type": "text", "text": "Hm."}]}


@pytest.mark.parametrize("top", [None, [], "absent"])
def test_a_first_token_without_alternatives_is_named_as_that(top, endpoint, sampler):
    token = {"token": "A", "logprob": -0.1} | ({} if top == "absent" else {"top_logprobs": top})
    endpoint.plan["Which?"] = [chat_reply("A", {"content": [token]})]
    assert "no alternatives of the first token" in sampler.choose([prompt("Which?")], ["A", "B"])[0].problem


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ([THOUGHT, {"type": "text", "text": "Yes."}], "Yes."),
        ([{"type": "text", "text": "Ye"}, {"type": "text", "text": "s."}], "Yes."),
        ([THOUGHT], ""),
    ],
)
def test_an_answer_in_parts_is_its_texts(content, text, endpoint, sampler):
    endpoint.plan["Hello"] = [chat_reply(content)]
    assert answers(sampler, [prompt("Hello")], 1, PARAMS)[0][0].text == text


@pytest.mark.parametrize("reason", ["length", "max_tokens", "model_length", "content_filter"])
def test_an_answer_that_was_cut_is_cut_by_whatever_name(reason, endpoint, sampler):
    endpoint.plan["Hello"] = [chat_reply("Yes, but", reason=reason)]
    assert answers(sampler, [prompt("Hello")], 1, PARAMS)[0][0].finish_reason == "length"


def counted(read, written):
    return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": 9}


NO_COUNTS = [True, False, 1.0, "3", -1, 10**30, float("nan"), [1], None]


@pytest.mark.parametrize(
    "usage",
    ["n/a", [], {}, {"total_tokens": 9}, None]
    + [counted(7, count) for count in NO_COUNTS]
    + [counted(count, 2) for count in NO_COUNTS],
    ids=repr,
)
def test_usage_that_is_none_costs_no_answer(usage, endpoint, sampler):
    endpoint.plan["Hello"] = [chat_reply("Yes.") | {"usage": usage}]
    found = collect(sampler, requests([prompt("Hello")], 1, PARAMS))
    assert (found.samples[0][0].completion.text, found.usage) == ("Yes.", Usage())


def test_no_more_requests_are_under_way_than_allowed_and_samples_come_as_they_finish(endpoint, sampler):
    def slow(body):
        time.sleep(0.3 if body["messages"][-1]["content"] == "0" else 0.02)
        return chat_reply("done")

    for n in range(8):
        endpoint.plan[str(n)] = [slow]
    order = [s.request.id for s in sampler.run(requests([prompt(str(n)) for n in range(8)], 1, PARAMS))]
    assert 1 < endpoint.most <= 3
    assert sorted(order) == [str(n) for n in range(8)]
    assert order[-1] == "0"


def test_messages_name_the_field_that_an_address_or_a_key_came_from(endpoint, monkeypatch):
    def refused(reply, text="Hello", **named):
        endpoint.plan["Hello"] = [(*reply, {})]
        made = OpenAISampler("some-model", **named, retries=0)
        try:
            with pytest.raises(UserError) as caught:
                collect(made, requests([prompt(text)], 1, PARAMS))
        finally:
            made.close()
        return str(caught.value)

    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    unknown, no = (404, refusal("there is no such model")), (401, refusal("no"))
    login = endpoint.url.replace("//", "//me:secret@")
    for named, field, of_model in (
        ({"url": endpoint.url}, "url", "model"),
        ({"url": endpoint.url, "where": "judge.sampler"}, "judge.sampler.url", "judge.sampler.model"),
    ):
        said = refused(unknown, **named)
        assert said.startswith(f"`{of_model}` = ") and said.endswith(f"the model's name and {field}.")
        assert refused(no, **named | {"url": login}).startswith(f"`{field}` holds a user and a password")
        with pytest.raises(UserError, match=rf"^`{field}` = .* names no host"):
            OpenAISampler("some-model", **named | {"url": "http:///v1"})
    assert refused(no, url=endpoint.url, key="sk-mine-12345").startswith("`key` is refused")
    assert refused(no, url=endpoint.url).startswith("`OPENAI_API_KEY` is refused")
    with pytest.raises(UserError, match=r"^`key` holds a character"):
        OpenAISampler("some-model", endpoint.url, "two\nlines")

    monkeypatch.setenv("OPENAI_BASE_URL", login)
    assert refused(no).startswith("`OPENAI_BASE_URL` holds a user and a password")
    assert refused(unknown, where="sampler").endswith("the model's name and OPENAI_BASE_URL.")


def test_an_address_where_nobody_is_ends_the_run(endpoint, monkeypatch):
    dead = OpenAISampler("m", "http://127.0.0.1:9/v1", "k", timeout=1, concurrency=1, retries=0)
    with pytest.raises(RunFailed, match="Nothing answers at http://127.0.0.1:9"):
        collect(dead, requests([prompt(str(n)) for n in range(9)], 1, PARAMS))


@pytest.mark.parametrize(
    ("url", "echoed"),
    [
        ("http://h/v1?subscription-key=abcd-efgh-ijkl", ["abcd-efgh-ijkl"]),
        ("http://h/v1?code=abcd%2Fefgh%2Bijkl", ["abcd%2Fefgh%2Bijkl", "abcd/efgh+ijkl"]),
        ("http://abcdefghijkl@h/v1", ["abcdefghijkl", "YWJjZGVmZ2hpamtsOg=="]),
        ("http://me:pass%40word12@h/v1", ["pass@word12", "pass%40word12", "bWU6cGFzc0B3b3JkMTI="]),
        ("http://h/v1?api-version=2024-10-21", []),
    ],
)
def test_secrets_of_an_address_are_known_in_the_forms_that_servers_echo(url, echoed):
    from kilter.redaction import secrets_of

    assert set(echoed) <= set(secrets_of("", url))
    assert bool(echoed) == bool(secrets_of("", url))


def test_text_streams_in_pieces(endpoint, sampler):
    def chunk(text, reason=None, usage=None):
        choices = [] if text is None else [{"index": 0, "delta": {"content": text}, "finish_reason": reason}]
        row = {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": choices}
        return f"data: {json.dumps(row | {'usage': usage})}\n\n"

    usage = {"prompt_tokens": 4, "completion_tokens": 3, "total_tokens": 7}
    whole = chunk("One") + chunk(", two") + chunk("", "stop") + chunk(None, usage=usage) + "data: [DONE]\n\n"
    endpoint.plan["Count"] = [(200, whole, {"Content-Type": "text/event-stream"})]
    pieces = []
    reply = SamplerChat(sampler, PARAMS).stream(prompt("Count").messages, pieces.append)
    assert pieces == ["One", ", two"]
    assert (reply.text, reply.usage, reply.problem) == ("One, two", Usage(4, 3), "")
    endpoint.plan["Count"] = [(200, chunk("One"), {"Content-Type": "text/event-stream"})]
    assert "broke off" in SamplerChat(sampler, PARAMS).stream(prompt("Count").messages, pieces.append).problem


def streamed(*pieces):
    """Server-sent events: each piece, then the reason."""

    def event(delta, reason=None):
        choice = {"index": 0, "delta": delta, "finish_reason": reason}
        row = {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}
        return f"data: {json.dumps(row)}\n\n"

    events = "".join(event({"content": piece}) for piece in pieces)
    return 200, f"{events}{event({}, 'stop')}data: [DONE]\n\n", {"Content-Type": "text/event-stream"}


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100])
def test_a_key_that_streams_in_pieces_is_never_shown(size, endpoint, sampler):
    said = f"My key is {KEY}, or {KEY[:9]}, or twice {KEY}{KEY} and {KEY[:5]}"
    endpoint.plan["Count"] = [streamed(*(said[n : n + size] for n in range(0, len(said), size)))]
    pieces = []
    reply = SamplerChat(sampler, PARAMS).stream(prompt("Count").messages, pieces.append)
    hidden = said.replace(KEY, "***")
    assert "".join(pieces) == reply.text == hidden
    assert size > 3 or pieces[0] == said[:size], "what is no secret does not wait"


@pytest.mark.parametrize(
    ("sent", "shown"),
    [
        (["a\ud83d", "\ude00b"], ["a", "\U0001f600b"]),
        (["\ud83d", "", "\ude00"], ["\U0001f600"]),
        (["\ud83d", "\ude00\ud83d", "\ude01"], ["\U0001f600", "\U0001f601"]),
        (["a\ud83d", "b"], ["a", "\ufffdb"]),
        (["a", "\ude00"], ["a", "\ufffd"]),
        (["a\ud83d"], ["a", "\ufffd"]),
    ],
    ids=ascii,
)
def test_a_character_whose_halves_stream_in_two_pieces_is_joined(sent, shown, endpoint, sampler):
    endpoint.plan["Count"] = [streamed(*sent)]
    pieces = []
    reply = SamplerChat(sampler, PARAMS).stream(prompt("Count").messages, pieces.append)
    assert (pieces, reply.text) == (shown, "".join(shown))


def test_a_secret_that_begins_another_one_or_ends_in_its_beginning_is_hidden_in_pieces():
    for secrets in (["abcd1234XYZ", "abcd1234"], ["4XYZ5678", "abcd1234"]):
        for said, want in (
            ("abcd1234XY", "***XY"),
            (secrets[0], "***"),
            ("abcd1234.", "***."),
            ("abcd", "abcd"),
        ):
            pieces = Pieces(secrets)
            assert "".join(map(pieces, said)) + pieces("", last=True) == want


@pytest.mark.parametrize(
    "piece",
    [
        {"choices": None},
        {"choices": [{"index": 0, "delta": None}]},
        {"choices": [{"index": 0, "delta": {"content": ["a"]}}]},
        None,
        [1],
        "x",
    ],
    ids=str,
)
def test_pieces_that_are_none_fail_one_answer_and_what_was_counted_is_owed(piece, endpoint, sampler):
    row = {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    usage = {"prompt_tokens": 4, "completion_tokens": 3, "total_tokens": 7}
    odd = row | piece if isinstance(piece, dict) else piece
    lines = "".join(f"data: {json.dumps(part)}\n\n" for part in (row | {"choices": [], "usage": usage}, odd))
    endpoint.plan["Count"] = [(200, lines, {"Content-Type": "text/event-stream"})]
    reply = SamplerChat(sampler, PARAMS).stream(prompt("Count").messages, lambda text: None)
    assert "not with pieces of a completion" in reply.problem or "broke off" in reply.problem
    assert reply.usage == Usage(4, 3)


@pytest.mark.parametrize("said", [None, "stream: not supported", "Streaming is not supported by this model"])
def test_an_endpoint_that_does_not_stream_is_asked_for_the_whole(said, endpoint, sampler):
    refused = (400, refusal(said), {}) if said else chat_reply("One, two")
    endpoint.plan["Count"] = [lambda b: refused if b.get("stream") else chat_reply("One, two")]
    pieces = []
    reply = SamplerChat(sampler, PARAMS).stream(prompt("Count").messages, pieces.append)
    assert (reply.text, reply.problem, pieces) == ("One, two", "", ["One, two"])


def test_a_raw_text_is_continued_and_a_prefix_is_refused(endpoint, sampler):
    logprobs = {"tokens": [" upon"], "token_logprobs": [-0.5], "top_logprobs": None, "text_offset": [0]}
    choice = {"index": 0, "text": " upon a time", "finish_reason": "stop", "logprobs": logprobs}
    endpoint.plan["Once"] = [
        {"id": "x", "object": "text_completion", "created": 1, "model": "m", "choices": [choice]}
    ]
    wanted = [Request("a", Prompt(text="Once"), 1, PARAMS), Request("b", prompt("x"), 2, PARAMS, (4, 5))]
    found = collect(sampler, wanted)
    assert found.made[0][0].text == "upon a time"
    assert found.samples[0][0].token_texts == ((" upon", -0.5),)
    assert found.problems == ["an endpoint cannot go on from token ids"] * 2
    assert endpoint.seen[0][0] == "/v1/completions"


def test_choices_are_read_from_the_alternatives_of_the_first_token(endpoint, sampler):
    def told(**logps):
        top = [{"token": t, "logprob": p, "bytes": None} for t, p in logps.items()]
        first = {"token": "A", "logprob": -0.1, "bytes": None, "top_logprobs": top}
        return chat_reply("A", {"content": [first]})

    endpoint.plan["which"] = [told(**{"A": -1.0, " A": -2.0, "B": -2.0, "Sorry": -3.0})]
    endpoint.plan["mute"] = [chat_reply("A")]
    endpoint.plan["broken"] = [(500, refusal("out of order"), NOW)]
    asks = [Ask(prompt(t).messages) for t in ("which", "mute", "broken")]
    found = SamplerChat(sampler).choose(asks, ("A", "B"))
    a, b = 2.718281828**-1 + 2.718281828**-2, 2.718281828**-2
    assert found[0].mass == pytest.approx(a + b)
    assert found[0].probabilities == pytest.approx((a / (a + b), b / (a + b)))
    assert (found[0].best, found[1].probabilities, found[2].probabilities) == ("A", (), ())
    assert "no alternatives" in found[1].problem
    assert "status 500" in found[2].problem
    assert endpoint.seen[0][2]["top_logprobs"] == 20


NO_LOGPS = ["-0.5", True, False, float("nan"), float("inf"), 0.5, None, {}, "x"]


@pytest.mark.parametrize(("text", "logp"), [*(("A", logp) for logp in NO_LOGPS), (5, -0.1), (None, -0.1)])
def test_what_is_no_log_prob_of_a_token_is_read_as_none(text, logp, endpoint, sampler):
    one = {"token": text, "logprob": logp, "bytes": None}
    endpoint.plan["Which?"] = [chat_reply("A", {"content": [one | {"top_logprobs": [one]}]})]
    listed = {"tokens": [text], "token_logprobs": [logp], "top_logprobs": [{"A": logp}], "text_offset": [0]}
    choice = {"index": 0, "text": "A", "finish_reason": "stop", "logprobs": listed}
    row = {"id": "x", "object": "text_completion", "created": 1, "model": "m", "choices": [choice]}
    endpoint.plan["Once"] = [row]
    asked = [prompt("Which?"), Prompt(text="Once")]
    for sample in (row[0] for row in collect(sampler, requests(asked, 1, PARAMS)).samples):
        assert (sample.completion.text, sample.token_texts) == ("A", ())
    for found in sampler.choose(asked if text == "A" else asked[:1], ["A", "B"]):
        assert not found.probabilities
        assert "is not the log-prob of a token" in found.problem


def test_a_log_prob_below_all_floats_is_that_of_a_token_that_cannot_be(endpoint, sampler):
    one = {"token": "B", "logprob": -(10**400), "bytes": None}
    first = {"token": "A", "logprob": -0.1, "bytes": None}
    endpoint.plan["Which?"] = [chat_reply("A", {"content": [first | {"top_logprobs": [first, one]}]})]
    assert sampler.choose([prompt("Which?")], ["A", "B"])[0].probabilities == (1.0, 0.0)


@pytest.mark.parametrize("reason", [["stop"], {"a": 1}, 5])
def test_a_reason_that_is_no_word_is_an_end(reason, endpoint, sampler):
    status, events, headers = streamed("Yes.")
    events = events.replace('"finish_reason": "stop"', f'"finish_reason": {json.dumps(reason)}')
    for reply, heard in ((chat_reply("Yes.", reason=reason), Nobody()), ((status, events, headers), Heard())):
        endpoint.plan["Hello"] = [reply]
        found = collect(sampler, requests([prompt("Hello")], 1, PARAMS), heard)
        assert found.samples[0][0].completion.finish_reason == "stop"


@pytest.mark.parametrize(
    ("tokens", "logps"),
    [
        ([5], [None]),
        ([5], [0.5]),
        ([5], [float("nan")]),
        ([5], [float("-inf")]),
        ([5], ["-0.5"]),
        ([5], [True]),
        ([True], [-0.5]),
        (["5"], [-0.5]),
        ([-1], [-0.5]),
        ([5, 6], [-0.5]),
        (5, [-0.5]),
        (None, None),
    ],
    ids=repr,
)
def test_a_vllm_server_that_gives_no_tokens_and_log_probs_ends_the_run(tokens, logps):
    choice = {"index": 0, "token_ids": tokens, "finish_reason": "stop", "logprobs": {"token_logprobs": logps}}
    server = Server.__new__(Server)
    server.url, server.model, server._post = "http://here", "m", lambda *_, **__: {"choices": [choice]}
    item = Item(Request("0", prompt("Hello"), 1, PARAMS), (1, 2), 0, (0,))
    with pytest.raises(RunFailed, match="gives no tokens and log-probs"):
        server._ask(item, [])
    choice |= {"token_ids": [5, 6], "logprobs": {"token_logprobs": [-0.5, 0]}}
    assert [tuple(answer[:2]) for answer in server._ask(item, [])] == [([5, 6], [-0.5, 0])]


@pytest.mark.parametrize(
    "told",
    [[], {}, {"data": None}, {"data": []}, {"data": [5]}, {"data": [{}]}]
    + [{"data": [{"id": "m", "max_model_len": n}]} for n in ("4096", True, 0, -1, 4096.0, [])],
    ids=repr,
)
def test_a_vllm_server_that_does_not_say_what_it_serves_is_refused(told, monkeypatch):
    # vLLM brings httpx, which Kilter alone does without.
    monkeypatch.setitem(sys.modules, "httpx", SimpleNamespace(HTTPError=OSError))

    def at(told):
        server = Server.__new__(Server)
        answer = SimpleNamespace(raise_for_status=lambda: answer, json=lambda: told)
        server.url, server.http = "http://here", SimpleNamespace(get=lambda _: answer)
        return server._served("http://here")

    with pytest.raises(UserError, match="is not answered by a vLLM server"):
        at(told)
    assert at({"data": [{"id": "m", "max_model_len": 4096}]}) == ("m", 4096)
    assert at({"data": [{"id": "m"}]}) == ("m", None)


@pytest.mark.parametrize("usage", [Usage(True, 2), Usage(1, 2.0), Usage(-1, 2), Usage(1, None)], ids=repr)
def test_counts_of_ones_own_sampler_are_whole_numbers(usage):
    class Odd:
        facts = SamplerFacts()

        def run(self, requests, listener=None):
            yield Sample(requests[0], 0, Completion("x"), usage=usage)

    with pytest.raises(RunFailed, match="as counts of tokens"):
        collect(Odd(), requests([prompt("Hello")], 1, PARAMS))


def test_a_token_counts_for_the_option_that_it_is_or_alone_begins():
    options = ("Yes", "No", "10", "1")
    logps = {"Y": -2.0, " Yes": -2.0, "No": -2.0, "1": -2.0, "": -1.0, "Nope": -4.0}
    found = from_first_tokens(options, logps)
    assert found.probabilities == pytest.approx((0.5, 0.25, 0.0, 0.25))
    assert not from_first_tokens(("Yes", "Yet"), {"Ye": -1.0}).probabilities


def test_a_script_answers_by_what_is_asked_in_order_or_by_a_function():
    params = SamplingParams()
    by_prompt = ScriptedSampler({"a": "one", "b": ["first", "second"]})
    found = collect(by_prompt, requests([prompt("a"), prompt("b"), prompt("c")], 2, params))
    assert [[c.text for c in row] for row in found.made] == [["one", "one"], ["first", "second"], []]
    assert found.problems == ["the script has no answer to 'c'"] * 2
    in_order = ScriptedSampler(["x", "y"])
    assert [
        c.text for row in collect(in_order, requests([prompt("a")] * 3, 1, params)).made for c in row
    ] == [
        "x",
        "y",
    ]
    by_function = ScriptedSampler(lambda p, n: f"{p.messages[-1]['content']}{1 // n}")
    found = collect(by_function, requests([prompt("a")], 2, params))
    assert [c.text for c in found.made[0]] == ["a1"]
    assert "ZeroDivisionError" in found.problems[0]


def test_a_script_chooses_as_it_is_told_else_what_its_answer_begins_with(tmp_path):
    path = tmp_path / "script.jsonl"
    rows = [
        {"prompt": "which", "choices": {"A": 0.6, "B": 0.2}},
        {"prompt": "rate", "answer": "10 of 10"},
        {"prompt": "talk", "answers": ["well", "so"]},
    ]
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    sampler = open_sampler(SamplerKind(name="scripted", script=str(path)), OpenSpec("nothing"))
    chat = SamplerChat(sampler)
    told, rated, none = (
        chat.choose([Ask(prompt(t).messages)], o)[0]
        for t, o in (("which", ("A", "B")), ("rate", ("1", "10")), ("talk", ("A", "B")))
    )
    assert told.probabilities == pytest.approx((0.75, 0.25))
    assert told.mass == pytest.approx(0.8)
    assert (rated.best, rated.mass, none.probabilities) == ("10", 1.0, ())
    replies = chat.reply([Ask(prompt("rate").messages), Ask(prompt("unheard").messages)])
    assert [(r.text, r.problem) for r in replies] == [
        ("10 of 10", ""),
        ("", "the script has no answer to 'unheard'"),
    ]
    path.write_text('{"prompt": "a"}\n')
    with pytest.raises(UserError, match="not a line of a script"):
        open_sampler(SamplerKind(name="scripted", script=str(path)), OpenSpec("nothing"))
    with pytest.raises(UserError, match=r"sampler\.script"):
        open_sampler(SamplerKind(name="scripted"), OpenSpec("nothing"))


OWN = '''
from kilter.types import Completion, Sample, SamplerFacts

class Parrot:
    """Says what it hears, louder."""

    facts = SamplerFacts()

    def __init__(self, context, mark="!"):
        self.mark = mark

    def run(self, requests, listener=None):
        for request in requests:
            for i in range(request.k):
                text = request.prompt.messages[-1]["content"].upper() + self.mark * (i + 1)
                yield Sample(request, i, Completion(text))

    def sync(self, weights):
        return weights.version

    def close(self):
        pass
'''


def test_a_sampler_of_ones_own_from_one_file(tmp_path):
    path = tmp_path / "parrot.py"
    path.write_text(OWN)
    spec = SamplerKind(name=f"{path}:Parrot", options={"mark": "?"})
    sampler = open_sampler(spec, OpenSpec("nothing"))
    assert [c.text for c in answers(sampler, [prompt("hi")], 2, PARAMS)[0]] == ["HI?", "HI??"]
    # Nobody has to name what a sampler takes beside its options.
    path.write_text(OWN.replace('context, mark="!"', 'context, mark="!", *others, **more'))
    assert open_sampler(spec, OpenSpec("nothing")).mark == "?"
    with pytest.raises(UserError, match="not an option"):
        open_sampler(spec.model_copy(update={"options": {"marks": "?"}}), OpenSpec("nothing"))
    with pytest.raises(UserError, match="does not tell how probable"):
        SamplerChat(sampler).choose([Ask(prompt("hi").messages)], ("A", "B"))


def test_settings_name_samplers_that_exist_and_training_takes_those_that_follow(tmp_path, monkeypatch):
    from kilter.training import checks
    from kilter.training.checks import check_train
    from kilter.training.config import TrainSpec

    with pytest.raises(ValueError, match="did you mean 'local'"):
        SamplerSpec(name="locl")
    base = {"method": "grpo", "prompts": "$data", "feedback": "support_desk"}
    for sampler, field in (
        ({"name": "openai"}, "sampler.name"),
        ({"name": "local", "url": "http://x"}, "sampler.url"),
        ({"name": "vllm", "script": "x"}, "sampler.script"),
        ({"name": "vllm", "top_k": 5}, "sampler.top_k"),
        ({"name": "nowhere.py:Sampler"}, "sampler.name"),
    ):
        with pytest.raises(UserError) as caught:
            check_train(TrainSpec.model_validate(base | {"sampler": sampler}))
        assert caught.value.field == field
    monkeypatch.setattr(checks, "check_adapter", lambda *_: None)
    rounded = {"sampler": {"name": "vllm"}, "adapter": {"kind": "qlora"}}
    with pytest.raises(UserError, match="vLLM takes whole ones"):
        check_train(TrainSpec.model_validate(base | rounded))


class Heard(Nobody):
    wants_text = True

    def __init__(self):
        self.pieces = []

    def text(self, request, index, piece):
        self.pieces.append(piece)


def test_a_script_streams_words():
    heard = Heard()
    list(ScriptedSampler(["a b  c"]).run([Request("0", prompt("x"))], heard))
    assert "".join(heard.pieces) == "a b  c"
    assert len(heard.pieces) > 2
