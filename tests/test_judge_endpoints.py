"""Judges over a real endpoint on loopback: failures, kills, replays, cost, and where the key does not go."""

from __future__ import annotations

import base64
import gc
import json
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from kilter import feedback
from kilter.errors import RunFailed, UserError
from kilter.feedback.context import Context
from kilter.feedback.judge.build import CACHE, build, parse_spec
from kilter.feedback.judge.verdict import Comparison
from kilter.roles.paid import Bill
from kilter.roles.replies import Replies, finish
from kilter.roles.talk import public_url
from kilter.sampling.openai import OpenAISampler
from kilter.types import Completion, Feedback, Group, Prompt

KEY = "sk-kilter-judge-secret-98765"
NOW = {"Retry-After": "0", "retry-after-ms": "1"}


def completion(content, alternatives=None, usage=True, **more):
    told = None
    if alternatives is not None:
        top = [{"token": t, "logprob": p, "bytes": None} for t, p in alternatives.items()]
        told = {"content": [{"token": "A", "logprob": -0.1, "bytes": None, "top_logprobs": top}]}
    message = {"role": "assistant", "content": content}
    row = {
        "id": "x",
        "object": "chat.completion",
        "created": 1,
        "model": "m",
        "choices": [{"index": 0, "message": message, "finish_reason": "stop", "logprobs": told}],
    }
    if usage:
        row["usage"] = {"prompt_tokens": 200, "completion_tokens": 1, "total_tokens": 201}
    return row | more


def longer_wins(body, n):
    """By log-probs where they are asked for, else in words."""
    text = body["messages"][0]["content"]
    shown = re.findall(r"=== \w+ answer [AB] begins ===\n(.*?)\n=== \w+ answer", text, re.S)
    best = "A" if len(shown[0]) > len(shown[1]) else "B"
    if body.get("logprobs"):
        other = "B" if best == "A" else "A"
        if body.get("top_logprobs"):
            return completion(best, {best: -0.1, other: -2.5})
    mark = re.search(r"=== ([a-z]{8}) request", text)[1]
    return completion(f"VERDICT {mark} = {best}")


class Endpoint:
    """answer(body, number of the request) gives a reply, (status, text, headers), or an action on the socket."""

    def __init__(self, answer=longer_wins):
        self.answer, self.bodies, self.answered = answer, [], 0
        lock, endpoint = threading.Lock(), self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with lock:
                    body["asked by"] = self.headers.get("OpenAI-Organization")
                    body["asked at"] = self.path
                    endpoint.bodies.append(body)
                    number = len(endpoint.bodies)
                step = endpoint.answer(body, number)
                if callable(step):
                    step(self)
                    return
                status, text, headers = step if isinstance(step, tuple) else (200, json.dumps(step), {})
                data = text.encode()
                with lock:
                    endpoint.answered += status == 200
                self.send_response(status)
                for name, value in ({"Content-Type": "application/json"} | headers).items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_):
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, request, address):
                """A client that was killed is expected here."""

        self.server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def endpoint(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    opened = []
    first = OpenAISampler.__init__

    def noted(self, *args, **more):
        first(self, *args, **more)
        opened.append(self)

    monkeypatch.setattr(OpenAISampler, "__init__", noted)
    made = Endpoint()
    yield made
    # Connections that stay open would disturb whichever test runs when they are collected.
    for sampler in opened:
        sampler.close()
    made.server.shutdown()
    made.server.server_close()


def judge(endpoint, tmp_path, bill=None, **more):
    sampler = {
        "name": "openai",
        "model": "m",
        "url": endpoint.url,
        "timeout": 10,
        "retries": 3,
        "concurrency": 4,
    }
    sampler |= more.pop("sampler", {})
    return build(parse_spec({"sampler": sampler} | more), Context(folder=tmp_path), bill=bill)


def pairs(n):
    ask = Prompt(messages=({"role": "user", "content": "Which is the longest?"},))
    return [Comparison(ask, f"answer {k}", f"a longer answer {k}") for k in range(n)]


def kept(folder):
    return sqlite3.connect(folder / CACHE).execute("SELECT COUNT(*) FROM replies").fetchone()[0]


def half_closed(handler):
    """A promise of a body, half of it, and no more."""
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b'{"id": ')
    handler.wfile.flush()
    handler.connection.shutdown(socket.SHUT_WR)
    handler.close_connection = True


HTML = (200, "<html><body>It works!</body></html>", {"Content-Type": "text/html"})
FAILURES = {
    "500": (500, '{"error": {"message": "out of order"}}', NOW),
    "half-closed": half_closed,
    "html": HTML,
    "truncated": (200, '{"id": "x", "choices": [{"index"', {}),
    "empty": (200, '{"id": "x", "object": "chat.completion", "choices": []}', {}),
}


def test_a_storm_of_429_passes(endpoint, tmp_path):
    storm = (429, '{"error": {"message": "slow down"}}', NOW)
    endpoint.answer = lambda body, n: storm if n % 3 else longer_wins(body, n)
    found = judge(endpoint, tmp_path, sampler={"retries": 20}).compare(pairs(6))
    assert [round(j.p, 3) for j in found] == [round(1 - 1 / (1 + 2.718281828**-2.4), 3)] * 6
    assert kept(tmp_path) == endpoint.answered == 12


@pytest.mark.parametrize("read", ["logprob", "text", "reasoned"])
@pytest.mark.parametrize("failure", FAILURES)
def test_a_failure_leaves_its_verdict_unscored_and_is_asked_again(endpoint, tmp_path, failure, read):
    endpoint.answer = lambda body, n: FAILURES[failure]
    broken = judge(endpoint, tmp_path, read=read, sampler={"retries": 0}).compare(pairs(1))
    assert broken[0].p is None
    assert broken[0].reason
    assert kept(tmp_path) == 0
    endpoint.answer = longer_wins
    assert judge(endpoint, tmp_path, read=read).compare(pairs(1))[0].p < 0.5


def test_a_refused_key_and_a_wrong_model_end_the_run_and_show_no_key(endpoint, tmp_path):
    message = json.dumps({"error": {"message": f"Incorrect API key provided: {KEY}"}})
    endpoint.answer = lambda body, n: (401, message, NOW)
    with pytest.raises(UserError, match="OPENAI_API_KEY") as refused:
        judge(endpoint, tmp_path).compare(pairs(3))
    assert KEY not in str(refused.value)
    endpoint.answer = lambda body, n: (404, '{"error": {"message": "The model `m` does not exist"}}', NOW)
    with pytest.raises(UserError, match=r"sampler\.model"):
        judge(endpoint, tmp_path).compare(pairs(3))
    assert kept(tmp_path) == 0


def test_missing_usage_is_estimated_and_never_free(endpoint, tmp_path):
    endpoint.answer = lambda body, n: longer_wins(body, n) | {"usage": None}
    bill = Bill()
    mine = judge(endpoint, tmp_path, bill, price={"prompt": 1.0}, max_cost=1.0)
    mine.compare(pairs(2))
    assert bill.uncounted == 4
    assert bill.cost > 0
    assert "tokens of 4 estimated" in bill.line()


def without_text(body, n):
    """All tokens went into thoughts, which an endpoint counts and does not send."""
    row = longer_wins(body, n) | {"usage": {"prompt_tokens": 200, "completion_tokens": 512}}
    row["choices"][0] |= {"message": {"role": "assistant", "content": None}, "finish_reason": "length"}
    return row


def test_what_an_endpoint_counts_is_owed_also_where_it_sent_nothing(endpoint, tmp_path):
    endpoint.answer = without_text
    bill = Bill()
    more = {"read": "text", "price": {"prompt": 1e4}, "max_cost": 30.0, "sampler": {"concurrency": 1}}
    with pytest.raises(RunFailed, match="max_cost 30"):
        judge(endpoint, tmp_path, bill, **more).compare(pairs(30))
    assert bill.cost == pytest.approx(2.0 * len(endpoint.bodies))
    assert bill.cost <= 30.0
    assert (bill.calls, kept(tmp_path)) == (0, 0)


@pytest.mark.parametrize("counts", ["-5", '"many"', "1e999", "null", "1.5"])
def test_counts_that_are_none_are_estimated_and_never_lower_the_bill(counts, endpoint, tmp_path):
    row = f'{{"prompt_tokens": {counts}, "completion_tokens": 1}}'
    told = lambda body, n: json.dumps(longer_wins(body, n) | {"usage": "HERE"}).replace('"HERE"', row)
    endpoint.answer = lambda body, n: (200, told(body, n), {})
    bill = Bill()
    found = judge(endpoint, tmp_path, bill, price={"prompt": 1.0}, max_cost=1.0).compare(pairs(2))
    assert found[0].p < 0.5
    assert (bill.uncounted, bill.cost > 0) == (4, True)


@pytest.mark.parametrize("number", ["1e999", "1000", "5.0", "0.0", "NaN", '"high"', "null"])
def test_numbers_that_are_no_log_probs_decide_nothing(number, endpoint, tmp_path):
    row = completion("A", {"A": -0.1, "B": "HERE"})
    endpoint.answer = lambda body, n: (200, json.dumps(row).replace('"HERE"', number), {})
    found = judge(endpoint, tmp_path).compare(pairs(1))[0]
    assert found.p is None
    assert found.reason
    assert kept(tmp_path) == 0


def test_a_reply_that_was_cut_off_holds_no_verdict(endpoint, tmp_path):
    """Its last line may stand in a thought or a quotation whose end was never written."""

    def cut(body, n):
        row = longer_wins(body, n)
        row["choices"][0]["finish_reason"] = "length" if "holds no verdict" not in str(body) else "stop"
        return row

    endpoint.answer = cut
    found = judge(endpoint, tmp_path, read="text").compare(pairs(1))[0]
    assert found.p == 0.0
    assert len(endpoint.bodies) == 4
    again = judge(endpoint, tmp_path, read="text").compare(pairs(1))[0]
    assert (again, len(endpoint.bodies)) == (found, 4)
    endpoint.answer = lambda body, n: cut({"messages": body["messages"][:1]}, n)
    found = judge(endpoint, tmp_path, read="text").compare([pairs(2)[1]])[0]
    assert (found.p, found.reason) == (None, "the reply was cut off, at max_tokens or by the endpoint")


@pytest.mark.parametrize("read", ["text", "reasoned"])
def test_a_key_that_an_endpoint_sends_back_is_kept_nowhere(read, endpoint, tmp_path):
    def echo(body, n):
        row = longer_wins(body, n)
        row["choices"][0]["message"]["content"] = (
            f"You sent {KEY}.\n{row['choices'][0]['message']['content']}"
        )
        return row

    endpoint.answer = echo
    found = judge(endpoint, tmp_path, read=read).compare(pairs(2))
    assert all(v.value is not None for j in found for v in j.verdicts)
    assert not [v for j in found for v in j.verdicts if KEY in v.rationale]
    assert not [p for p in tmp_path.rglob("*") if p.is_file() and KEY.encode() in p.read_bytes()]


def test_half_a_character_of_an_endpoint_reaches_no_file(endpoint, tmp_path):
    """It would end the stage that writes it, and again in each run that reads the paid reply."""

    def broken(body, n):
        row = longer_wins(body, n)
        row["choices"][0]["message"]["content"] = (
            "So \ud83d, \ud83d\ude00.\n" + row["choices"][0]["message"]["content"]
        )
        return row

    endpoint.answer = broken
    found = judge(endpoint, tmp_path, read="text").compare(pairs(1))[0]
    assert found.p == 0.0
    assert found.verdicts[0].rationale.startswith("So \ufffd, \U0001f600.")
    found.verdicts[0].rationale.encode()


def test_max_cost_stops_before_it_is_passed_and_what_was_paid_is_kept(endpoint, tmp_path):
    price = {"prompt": 1e4, "completion": 1e4}  # 2.01 a call by its usage
    bill = Bill()
    mine = judge(endpoint, tmp_path, bill, price=price, max_cost=12.0, sampler={"concurrency": 1})
    with pytest.raises(RunFailed, match="max_cost 12"):
        mine.compare(pairs(10))
    assert bill.cost <= 12.0
    assert kept(tmp_path) == endpoint.answered == bill.calls > 0
    paid = endpoint.answered
    judge(endpoint, tmp_path, price=price, max_cost=100.0).compare(pairs(10))
    assert endpoint.answered == 20
    assert paid < 20


def test_max_cost_is_that_of_all_commands_that_share_the_replies(endpoint, tmp_path):
    """A supervisor that restarts a stopped command must not pay the limit once more each time."""
    more = {"price": {"prompt": 1e4, "completion": 1e4}, "sampler": {"concurrency": 1}}
    for _ in range(3):
        with pytest.raises(RunFailed, match="max_cost 12") as stopped:
            judge(endpoint, tmp_path, max_cost=12.0, **more).compare(pairs(10))
    assert endpoint.answered * 2.01 <= 12.0
    said = str(stopped.value)
    assert f"The cost is {2.01 * endpoint.answered:.6g}, and the next call can take up to " in said
    assert f"Earlier commands paid {2.01 * endpoint.answered:.6g} of it" in said
    judge(endpoint, tmp_path, max_cost=100.0, **more).compare(pairs(10))
    assert endpoint.answered == 20
    # What failed was paid for as well, though there is nothing to keep.
    endpoint.answer = lambda body, n: longer_wins(body, n) | {"choices": []}
    judge(endpoint, tmp_path, max_cost=100.0, **more).compare(pairs(12))
    with pytest.raises(RunFailed, match=r"The cost is 48.24,.*max_cost 48.5"):
        judge(endpoint, tmp_path, max_cost=48.5, **more).compare(pairs(12))


def test_replies_from_before_costs_were_kept_count_by_their_tokens(endpoint, tmp_path, caplog):
    more = {"price": {"prompt": 1e4, "completion": 1e4}, "sampler": {"concurrency": 1}}
    judge(endpoint, tmp_path, **more).compare(pairs(2))
    with sqlite3.connect(tmp_path / CACHE) as base:
        base.execute("DROP TABLE paid")
    base.close()
    for _ in range(2):
        with pytest.raises(RunFailed, match=r"The cost is 8\.04, .*max_cost 8\.5"):
            judge(endpoint, tmp_path, max_cost=8.5, **more).compare(pairs(3))
    assert endpoint.answered == 4
    assert (
        caplog.text.count("an older Kilter noted no costs; by the tokens of its replies they come to 8.04")
        == 1
    )


def test_each_judge_of_a_file_of_replies_has_a_limit_of_its_own(endpoint, tmp_path, monkeypatch):
    """A reward and the gold source, or the ranks of a run, keep their replies in one file."""
    more = {"price": {"prompt": 1e4, "completion": 1e4}, "sampler": {"concurrency": 1}, "max_cost": 8.5}
    other = more | {"sampler": {"concurrency": 1, "model": "n"}}
    for again in (0, 2):
        for settings in (more, other):
            judge(endpoint, tmp_path, **settings).compare(pairs(2))
        monkeypatch.setenv("RANK", "1")
        judge(endpoint, tmp_path, **more).compare([*pairs(4)[2:], *pairs(2)][: 4 - again])
        monkeypatch.delenv("RANK")
    # 2 x 2 calls of either judge and 2 x 2 of the other rank, each 2.01, all of them once.
    assert endpoint.answered == 12
    with pytest.raises(RunFailed, match="The cost is 8.04"):
        judge(endpoint, tmp_path, **more).compare(pairs(6)[4:])


def test_max_cost_waits_for_calls_under_way_before_it_stops_anything(endpoint, tmp_path):
    """What is booked for four calls at once is more than the last of them may cost."""
    bill, price = Bill(), {"prompt": 1e4, "completion": 1e4}
    mine = judge(endpoint, tmp_path, bill, price=price, max_cost=20 * 2.01 + 0.5)
    assert all(found.p is not None for found in mine.compare(pairs(10)))
    assert bill.cost == pytest.approx(20 * 2.01)


def test_a_replay_is_offline_and_fails_on_a_miss(endpoint, tmp_path):
    first = judge(endpoint, tmp_path).compare(pairs(3))
    asked = len(endpoint.bodies)
    again = judge(endpoint, tmp_path, replay=True).compare(pairs(3))
    assert again == first
    assert len(endpoint.bodies) == asked
    with pytest.raises(UserError, match="holds no reply to 2 of 8 questions"):
        judge(endpoint, tmp_path, replay=True).compare(pairs(4))
    with pytest.raises(UserError, match="holds no reply"):
        judge(endpoint, tmp_path, replay=True, criterion="Only brevity counts.", mode="pairwise").compare(
            pairs(1)
        )
    with pytest.raises(UserError, match="names no file to replay"):
        judge(endpoint, tmp_path / "elsewhere", replay=True).compare(pairs(1))
    assert len(endpoint.bodies) == asked


def test_repeats_and_orders_are_calls_of_their_own(endpoint, tmp_path):
    same = [Comparison(pairs(1)[0].prompt, "alike", "alike")]
    found = judge(endpoint, tmp_path).compare(same, repeats=3)
    assert found[0].p == pytest.approx(0.5)
    assert kept(tmp_path) == len(endpoint.bodies) == 6


def test_a_damaged_cache_is_named(endpoint, tmp_path):
    (tmp_path / CACHE).write_bytes(b"not a database at all, but a text of some length" * 40)
    with pytest.raises(UserError, match="not a cache of replies"):
        judge(endpoint, tmp_path).compare(pairs(1))


def changed(folder, column: str) -> str:
    """Changes one letter of a row, as a hand or a bad disk does; returns the row's key."""
    base = sqlite3.connect(folder / CACHE)
    (key, reply, digest) = base.execute(
        "SELECT key, reply, digest FROM replies ORDER BY key LIMIT 1"
    ).fetchone()
    new = {"reply": reply.replace("A", "B", 1), "digest": digest[:-1] + chr(ord(digest[-1]) ^ 1)}[column]
    assert new not in (reply, digest)
    base.execute(f"UPDATE replies SET {column} = ? WHERE key = ?", (new, key))
    base.commit()
    base.close()
    return key


@pytest.mark.parametrize("column", ["reply", "digest"])
def test_a_reply_that_was_changed_is_named_and_asked_anew(endpoint, tmp_path, column, caplog):
    first = judge(endpoint, tmp_path).compare(pairs(2))
    asked, rows = len(endpoint.bodies), kept(tmp_path)
    key = changed(tmp_path, column)
    # A replay asks nobody: it says what is wrong.
    with pytest.raises(UserError, match="1 of its replies were changed since they were kept"):
        judge(endpoint, tmp_path, replay=True).compare(pairs(2))
    assert len(endpoint.bodies) == asked
    caplog.clear()
    again = judge(endpoint, tmp_path).compare(pairs(2))
    assert [v.p for v in again] == [v.p for v in first]
    assert (len(endpoint.bodies), kept(tmp_path)) == (asked + 1, rows)
    assert f"the reply {key[:12]} was changed since it was kept" in caplog.text
    judge(endpoint, tmp_path, replay=True).compare(pairs(2))


def test_a_reply_under_another_question_is_no_reply(tmp_path):
    replies = Replies(tmp_path / CACHE)
    replies.put([("one", {"text": "yes"}), ("two", {"text": "no"})])
    replies._base.execute(
        "UPDATE replies SET (reply, digest) = (SELECT reply, digest FROM replies WHERE key = 'two')"
    )
    assert replies.get("one") is None
    assert replies.get("two") == {"text": "no"}


def test_a_cache_without_checksums_is_not_read(tmp_path):
    base = sqlite3.connect(tmp_path / CACHE)
    base.execute("CREATE TABLE replies (key TEXT PRIMARY KEY, reply TEXT)")
    base.commit()
    base.close()
    with pytest.raises(UserError, match="kept by an older Kilter, without checksums"):
        Replies(tmp_path / CACHE)


def test_kept_replies_are_one_file_once_their_stage_ends(tmp_path):
    """Whoever still holds them changes nothing any more, when they go."""
    held, elsewhere = Replies(tmp_path / "stage" / "r.sqlite"), Replies(tmp_path / "other" / "r.sqlite")
    held.put([("key", {"text": "a"})])
    finish(tmp_path / "stage")
    before = {path.name: path.read_bytes() for path in (tmp_path / "stage").iterdir()}
    assert list(before) == ["r.sqlite"]
    held.close()
    del held
    gc.collect()
    assert {path.name: path.read_bytes() for path in (tmp_path / "stage").iterdir()} == before
    assert len(Replies(tmp_path / "stage" / "r.sqlite")) == 1
    elsewhere.put([("key", {"text": "a"})])


def test_several_processes_may_share_a_cache(tmp_path):
    one, other = (Replies(tmp_path / "r.sqlite") for _ in range(2))
    threads = [
        threading.Thread(target=lambda r=r, n=n: [r.put([(f"{k}", {"by": n})]) for k in range(50)])
        for n, r in enumerate((one, other))
    ]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(one) == len(other) == 50
    assert all(one.get(f"{k}") == other.get(f"{k}") for k in range(50))


WORKER = """
import os, sys
from kilter.feedback.context import Context
from kilter.feedback.judge.build import CACHE, build, parse_spec
from kilter.feedback.judge.verdict import Comparison
from kilter.types import Prompt
from pathlib import Path

url, folder, concurrency = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
ask = Prompt(messages=({"role": "user", "content": "Which is the longest?"},))
pairs = [Comparison(ask, f"answer {k}", f"a longer answer {k}") for k in range(250)]
sampler = {"name": "openai", "model": "m", "url": url, "concurrency": concurrency, "retries": 0}

# One process imports, and its children are killed: five of them by the server, the last one ends.
for attempt in range(6):
    child = os.fork()
    if child == 0:
        os.environ["OPENAI_ORG_ID"] = f"{attempt} {os.getpid()}"  # in a header: the server knows who asks
        found = build(parse_spec({"sampler": sampler}), Context(folder=folder)).compare(pairs)
        (folder / "done").write_text(str(sum(j.p is not None for j in found)))
        os._exit(0)
    os.waitpid(child, 0)
"""


@pytest.mark.parametrize("concurrency", [1, 4])
@pytest.mark.parametrize("slow", [0.0, 0.2])
def test_five_hundred_labels_killed_five_times_pay_no_verdict_twice(concurrency, slow, endpoint, tmp_path):
    """Calls are verdicts, also those that were under way when the command died."""
    kills, asked, lock = [3, 97, 1, 230, 120], [0] * 6, threading.Lock()

    def answer(body, n):
        attempt, pid = map(int, body["asked by"].split())
        with lock:
            asked[attempt] += 1
            now = attempt < len(kills) and asked[attempt] == kills[attempt]
        if now:  # before it is answered
            os.kill(pid, signal.SIGKILL)
            time.sleep(slow)
        return longer_wins(body, n)

    endpoint.answer = answer
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OPENAI_API_KEY": KEY}
    arguments = [sys.executable, "-c", WORKER, endpoint.url, str(tmp_path), str(concurrency)]
    subprocess.run(arguments, env=environment, check=True, timeout=120, capture_output=True)
    assert (tmp_path / "done").read_text() == "250"
    assert all(k <= a < k + 2 * concurrency for a, k in zip(asked, kills, strict=False)), asked
    assert len(endpoint.bodies) == kept(tmp_path) == 500, asked


def test_the_key_is_in_no_file_and_no_word(endpoint, tmp_path, capsys, monkeypatch):
    from kilter.cli import main
    from kilter.data import store

    monkeypatch.chdir(tmp_path)
    message = json.dumps({"error": {"message": f"bad request by {KEY}"}})
    endpoint.answer = lambda body, n: (400, message, NOW) if n % 4 == 0 else longer_wins(body, n)
    ask = pairs(1)[0].prompt
    rows = [
        Group(ask, tuple(Completion("x" * (k + 1 + n)) for k in range(2)), (Feedback(None),) * 2)
        for n in range(6)
    ]
    store.write(tmp_path / "answers.jsonl", rows)
    sampler = {
        "name": "openai",
        "model": "m",
        "url": endpoint.url.replace("//", f"//user:{KEY}@"),
        "concurrency": 1,
    }
    (tmp_path / "judge.yaml").write_text(json.dumps({"sampler": sampler | {"url": endpoint.url}}))
    command = [
        "kilter",
        "label",
        "--data",
        "answers.jsonl",
        "--feedback",
        "{judge: judge.yaml}",
        "--out",
        "labels",
    ]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit) as ended:
        main()
    shown = capsys.readouterr()
    assert (ended.value.code or 0) == 0, shown.err
    files = [p for p in tmp_path.rglob("*") if p.is_file()]
    assert any(p.name == CACHE for p in files)
    assert not [p for p in files if KEY.encode() in p.read_bytes()]
    assert KEY not in shown.out + shown.err
    # The client's own log has a line per call, with the address in it.
    assert "HTTP Request" not in shown.out + shown.err
    assert public_url(sampler["url"], "url") == endpoint.url


def test_a_key_in_an_address_is_in_no_row_and_no_certificate(endpoint, tmp_path, monkeypatch, capsys):
    from kilter.cli import main
    from kilter.evaluation.judge_audit import opening

    monkeypatch.chdir(tmp_path)
    secrets = ("user-part-4242", "query-part-5151")
    url = f"{endpoint.url.replace('//', f'//me:{secrets[0]}@')}?api_key={secrets[1]}"
    own = {"sampler": {"name": "openai", "model": "m", "url": url}, "read": "text"}
    (tmp_path / "pairs.jsonl").write_text('{"prompt": "q", "chosen": "long answer", "rejected": "no"}\n')
    feedback = ["--feedback", json.dumps({"judge": own}), "--write", "groups", "--out", "labels"]
    monkeypatch.setattr(sys, "argv", ["kilter", "label", "--data", "pairs.jsonl", *feedback])
    with pytest.raises(SystemExit) as ended:
        main()
    shown = capsys.readouterr()
    assert (ended.value.code or 0) == 0, shown.err
    written = [p for p in tmp_path.rglob("*") if p.is_file()]
    assert "groups.jsonl" in {p.name for p in written}
    texts = [shown.out, shown.err, *(p.read_bytes().decode("utf-8", "replace") for p in written)]
    texts.append(json.dumps(opening.opened(parse_spec(own), Context(folder=tmp_path)).settings))
    assert not [s for s in secrets for text in texts if s in text]
    assert "***" in texts[-1]


def refused(status, text):
    """A refusal in OpenAI's own layout."""
    return status, json.dumps({"error": {"message": text}}), NOW


@pytest.mark.parametrize("status", [403, 404])
@pytest.mark.parametrize("before", range(160, 184, 3))
def test_half_a_key_is_a_secret_too(status, before, endpoint, tmp_path):
    """A long message is cut, and may be cut inside the key."""
    endpoint.answer = lambda body, n: refused(status, "p" * before + f" {KEY}")
    try:
        said = judge(endpoint, tmp_path).compare(pairs(1))[0].reason
    except UserError as error:
        said = str(error)
    assert f"{status} " in said
    assert KEY[:6] not in said


@pytest.mark.parametrize("key", ["two  spaces in it", "a'quote\"and\\both", "per%cent/and+plus=="])
def test_a_key_of_an_odd_shape_is_kept_nowhere(key, endpoint, tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", key)
    for text in (f"You sent {key}.", f"You sent {json.dumps(key)}.", f"You sent {key!r}."):
        endpoint.answer = lambda body, n, text=text: refused(400, text)
        found = judge(endpoint, tmp_path).compare(pairs(1))[0]
        assert "You sent " in found.reason
        assert "***" in found.reason
        assert " ".join(key.split()) not in found.reason


@pytest.mark.parametrize("key", ["ends in a line\n", "not-ascii-\u00e9", "a\tb"])
def test_a_key_that_no_header_can_carry_is_refused_at_once(key, endpoint, tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with pytest.raises(UserError, match="no header can carry") as caught:
        judge(endpoint, tmp_path).compare(pairs(1))
    assert key.strip() not in str(caught.value)
    assert not endpoint.bodies


def test_what_an_address_holds_is_hidden_in_all_forms_in_which_a_server_sends_it_back(endpoint, tmp_path):
    password, query = "pass+word 42", "query-part-5151"
    url = endpoint.url.replace("//", "//me:pass%2Bword%2042@") + f"?api_key={query}&version=7"
    coded = base64.b64encode(f"me:{password}".encode()).decode()
    forms = (password, "pass%2Bword%2042", coded, query)
    for text in forms:
        endpoint.answer = lambda body, n, text=text: refused(400, f"no entry with {text}.")
        found = judge(endpoint, tmp_path, sampler={"url": url}).compare(pairs(1))[0]
        assert "no entry with ***" in found.reason, found.reason
    endpoint.answer = lambda body, n: refused(401, f"no entry with {coded}")
    with pytest.raises(UserError, match=r"holds a user and a password that the endpoint refuses") as caught:
        judge(endpoint, tmp_path, sampler={"url": url}).compare(pairs(1))
    assert not [form for form in forms if form in str(caught.value)]


def test_a_query_of_the_address_stands_behind_the_path(endpoint, tmp_path):
    found = judge(endpoint, tmp_path, sampler={"url": f"{endpoint.url}?version=7#x"}).compare(pairs(1))[0]
    assert found.p < 0.5
    assert {body["asked at"] for body in endpoint.bodies} == {"/v1/chat/completions?version=7"}


@pytest.mark.parametrize("host", ["", ":80", "h:99999", "h:port", "[::1"])
def test_an_address_without_a_host_is_refused_before_anything(host, tmp_path, monkeypatch):
    sampler = {"name": "openai", "model": "m"}
    with pytest.raises(UserError, match="should name a host"):
        parse_spec({"sampler": sampler | {"url": f"http://{host}/v1"}})
    monkeypatch.setenv("OPENAI_BASE_URL", f"http://{host}/v1")
    for build_it in (lambda: build(parse_spec({"sampler": sampler}), Context()), lambda: OpenAISampler("m")):
        with pytest.raises(UserError, match=r"`OPENAI_BASE_URL` = .* names no host"):
            build_it()


@pytest.mark.parametrize("name", ["api_key", "key", "token", "headers", "password"])
def test_a_key_that_stands_where_none_is_read_is_not_shown(name):
    value = {"Authorization": "odd-9%shape"} if name == "headers" else "odd-9%shape"
    with pytest.raises(UserError, match="is not a known key") as caught:
        parse_spec({"sampler": {"name": "openai", name: value}})
    assert "odd-9" not in str(caught.value)
    with pytest.raises(UserError, match="should begin with http") as caught:
        parse_spec({"sampler": {"name": "openai", "url": f"ftp://me:{'odd-9' * 40}@host/v1"}})
    assert "odd-9" not in str(caught.value)


def test_a_variable_in_a_setting_is_not_filled_in_and_the_message_says_what_is_read(tmp_path):
    for url in ("${OPENAI_BASE_URL}", "http://${HOST}:8000/v1", "https://h/v1?key=${KEY}"):
        with pytest.raises(
            UserError, match=r"(?s)fills in no \$\{\.\.\.\}.*then reads OPENAI_BASE_URL"
        ) as caught:
            parse_spec({"sampler": {"name": "openai", "model": "m", "url": url}})
        assert caught.value.field == "judge.sampler.url"
    for name in ("api_key", "key", "token"):
        with pytest.raises(UserError, match="is read from OPENAI_API_KEY alone") as caught:
            parse_spec({"sampler": {"name": "openai", "model": "m", name: "${OPENAI_API_KEY}"}})
        assert caught.value.field == f"judge.sampler.{name}"


def test_a_reply_without_end_is_one_items_problem(endpoint, tmp_path):
    endpoint.answer = lambda body, n: (200, "[" * 100_000, {})
    found = judge(endpoint, tmp_path).compare(pairs(1))[0]
    assert (found.p, "cannot be read" in found.reason) == (None, True)


@pytest.mark.parametrize("read", ["text", "logprob"])
@pytest.mark.parametrize("choices", [[], None, [None], [{"index": 0}]])
def test_what_an_endpoint_counts_is_owed_also_where_it_sent_no_choice(choices, read, endpoint, tmp_path):
    endpoint.answer = lambda body, n: longer_wins(body, n) | {"choices": choices}
    bill = Bill()
    found = judge(endpoint, tmp_path, bill, read=read, price={"prompt": 1e4}).compare(pairs(2))
    assert all(j.p is None for j in found)
    assert bill.cost == pytest.approx(2.0 * len(endpoint.bodies))
    assert (bill.calls, kept(tmp_path)) == (0, 0)


@pytest.mark.parametrize("told", [[], "x", {"content": "x"}, {"content": [{"token": None, "logprob": None}]}])
def test_log_probs_that_cannot_be_read_cost_no_written_verdict(told, endpoint, tmp_path):
    def answer(body, n):
        row = longer_wins(body, n)
        row["choices"][0]["logprobs"] = told
        return row

    endpoint.answer = answer
    assert judge(endpoint, tmp_path, read="text").compare(pairs(1))[0].p < 0.5


def test_labels_that_an_endpoint_failed_are_asked_anew_by_the_same_command(
    endpoint, tmp_path, monkeypatch, capsys
):
    """An error is not an opinion: a storm that takes all verdicts leaves nothing that has to be deleted."""
    from kilter.cli import main

    monkeypatch.chdir(tmp_path)
    own = {"sampler": {"name": "openai", "model": "m", "url": endpoint.url, "retries": 0}, "canary": False}
    rows = [{"prompt": f"Q{n}", "chosen": "long answer", "rejected": "no"} for n in range(6)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def label():
        command = ["label", "--data", "pairs.jsonl", "--feedback", json.dumps({"judge": own}), "--out", "l"]
        monkeypatch.setattr(sys, "argv", ["kilter", *command])
        with pytest.raises(SystemExit) as ended:
            main()
        shown = capsys.readouterr()
        return int(ended.value.code or 0), " ".join((shown.out + shown.err).split())

    storm = (429, '{"error": {"message": "slow down"}}', NOW)
    endpoint.answer = lambda body, n: storm if "Q3" in str(body) or n > 6 else longer_wins(body, n)
    monkeypatch.setattr("kilter.stages.label.WRITERS", {"pairs": lambda *_: []})
    code, said = label()
    assert code == 4
    assert "status 429" in said
    assert "run the same command again: they are scored anew" in said
    monkeypatch.undo()
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.chdir(tmp_path)
    paid = endpoint.answered
    endpoint.answer = longer_wins
    code, said = label()
    assert (code, "without a score, and are scored anew" in said) == (0, True), said
    assert endpoint.answered == 12
    assert 0 < paid < 12
    assert len((tmp_path / "l" / "groups.jsonl").read_text().splitlines()) == 6


@pytest.fixture
def audited(endpoint, tmp_path, monkeypatch, capsys):
    """Runs an audit of the judge over the endpoint; returns its exit code and what it said."""
    from kilter.cli import main

    monkeypatch.chdir(tmp_path)
    own = {"sampler": {"name": "openai", "model": "m", "url": endpoint.url, "retries": 0}, "read": "text"}
    (tmp_path / "judge.yaml").write_text(json.dumps(own))
    rows = [{"prompt": f"Q{n}", "chosen": "long answer", "rejected": f"no {n}"} for n in range(40)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    probes = [x for name in ("unscored", "position", "consistency") for x in ("--probes", name)]

    def run():
        monkeypatch.setattr(
            sys, "argv", ["kilter", "audit-judge", "judge.yaml", "--data", "pairs.jsonl", *probes]
        )
        with pytest.raises(SystemExit) as ended:
            main()
        shown = capsys.readouterr()
        return int(ended.value.code or 0), " ".join((shown.out + shown.err).split())

    return run


def test_an_endpoint_that_is_down_is_not_a_bad_judge(endpoint, audited, tmp_path):
    """Nothing is certified or refused, and what was paid before it went down is kept."""
    (tmp_path / "judge.json").write_text("an older certificate")
    down = (500, '{"error": {"message": "out of order"}}', NOW)
    endpoint.answer = lambda body, n: longer_wins(body, n) if n <= 30 else down
    code, said = audited()
    assert code == 4
    assert "of the 80 calls for `pairs` failed already, and at most 5 % may" in said
    assert "The first failure: the endpoint answered with status 500" in said
    assert "run the same command again: its answers are kept" in said
    assert (tmp_path / "judge.json").read_text() == "an older certificate"
    assert not (tmp_path / "judge.audit" / "judge.json").exists()

    endpoint.answer = longer_wins
    assert audited()[0] == 3
    assert endpoint.answered == 80
    assert json.loads((tmp_path / "judge.json").read_text())["failed"] == 0


def test_a_judge_that_abstains_gets_its_certificate(endpoint, audited, tmp_path):
    endpoint.answer = lambda body, n: completion("I would rather not say.")
    assert audited()[0] == 1
    found = json.loads((tmp_path / "judge.json").read_text())
    assert (found["verdict"], found["failures"], found["failed"]) == ("refused", ["unscored"], 0)
    assert found["metrics"]["unscored"]["value"] == 1.0


def test_a_few_failed_calls_are_counted_apart_from_what_a_judge_withholds(endpoint, audited, tmp_path):
    endpoint.answer = lambda body, n: FAILURES["500"] if n in (7, 50) else longer_wins(body, n)
    code, said = audited()
    assert (code, "failed 2 calls of the judge, which no metric counts" in said) == (3, True)
    found = json.loads((tmp_path / "judge.json").read_text())
    assert (found["failed"], list(found["failed_because"].values())) == (2, [2])
    assert (found["unscored_because"], found["metrics"]["unscored"]["n"]) == ({}, 78)
    assert found["metrics"]["unscored"]["value"] == 0.0


def test_a_judge_over_an_endpoint_is_a_source_of_rewards(endpoint, tmp_path):
    sampler = {"name": "openai", "model": "m", "url": endpoint.url}
    source = feedback.build({"judge": {"sampler": sampler, "read": "text"}}, Context(folder=tmp_path))
    ask = pairs(1)[0].prompt
    group = Group(ask, (Completion("short"), Completion("much longer")), (Feedback(None),) * 2)
    assert [f.score for f in source([group])[0]] == [0.0, 1.0]


REVISING = """
import os, sys
from pathlib import Path
from kilter.api import made
from kilter.screen import Screen

url, folder = sys.argv[1], Path(sys.argv[2])
sampler = {"name": "openai", "model": "m", "url": url, "concurrency": 4, "retries": 0}
settings = {
    "constitution": "one", "sampler": sampler | {"max_new_tokens": 32}, "critic": {"sampler": sampler},
    "judge": {"sampler": sampler}, "allow_uncertified": True,
}

# One process imports. The first child is left alone; each later one is killed by the server, but for the last.
import kilter.constitution.opening, kilter.evaluation.evasion, kilter.feedback.judge.build, kilter.statistics
import kilter.sampling.openai, kilter.roles.sampler, openai.resources.chat
kilter.evaluation.evasion.evades = lambda prompt, text: False  # reads a model that each child would open anew

for attempt in range(int(sys.argv[3]) + 2):
    child = os.fork()
    if child == 0:
        os.environ["OPENAI_ORG_ID"] = f"{attempt} {os.getpid()}"
        out = folder / ("whole" if attempt == 0 else "killed")
        made("revise", settings, "m", str(folder / "prompts.jsonl"), out, Screen(quiet=True))
        os._exit(0)
    os.waitpid(child, 0)
"""


def test_a_revise_killed_three_times_pays_no_critique_revision_or_verdict_twice(endpoint, tmp_path):
    """First answers are written as they come, so that a kill costs those under way alone."""
    kills, concurrency, asked, lock = [3, 9, 20], 4, [0] * 5, threading.Lock()

    def said(body):
        text = body["messages"][-1]["content"]
        if "=== " in text and "answer A begins" in text:
            return longer_wins(body, 0)
        if "If nothing goes against it" in text:
            return completion('It says "plain words", which is not kind.')
        if "Write the new answer alone" in text:
            return completion("Kinder than plain words" + " and more" * (1 + text.count("and more")))
        return completion(f"plain words of {len(text)}")

    def answer(body, n):
        attempt, pid = map(int, body["asked by"].split())
        with lock:
            asked[attempt] += 1
            now = attempt and attempt <= len(kills) and asked[attempt] == kills[attempt - 1]
        if now:
            os.kill(pid, signal.SIGKILL)
            time.sleep(0.05)
        return said(body)

    endpoint.answer = answer
    rows = [{"prompt": f"Question {'?' * n}"} for n in range(1, 9)]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OPENAI_API_KEY": KEY}
    arguments = [sys.executable, "-c", REVISING, endpoint.url, str(tmp_path), str(len(kills))]
    subprocess.run(arguments, env=environment, check=True, timeout=120, capture_output=True, text=True)
    whole, again = asked[0], sum(asked[1:])
    assert all(a >= k for a, k in zip(asked[1:], kills, strict=False))
    first = [body for body in endpoint.bodies if body["messages"][-1]["content"].startswith("Question")]
    answered_twice = len(first) - 2 * len(rows)
    assert again == whole + answered_twice, asked
    assert 0 <= answered_twice <= concurrency, asked
    for name in ("answers.jsonl", "chains.jsonl", "groups.jsonl"):
        read = [(tmp_path / folder / name).read_text() for folder in ("whole", "killed")]
        assert read[0] == read[1] != ""
