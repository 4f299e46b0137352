"""A run that is watched: followed by itself, behind a token, on this machine alone, and never touched."""

from __future__ import annotations

import http.client
import json
import threading

import pytest

from evidence_runs import make_run
from kilter.errors import UserError
from kilter.pipeline import watch


@pytest.fixture
def served(tmp_path, monkeypatch):
    monkeypatch.setattr(watch, "PERIOD", 0.05)
    runs = [make_run(tmp_path / "a" / "run", n=20), make_run(tmp_path / "b" / "run", n=20)]
    server = watch.Server(watch.Watch(runs))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield server, runs
    server.shutdown()
    thread.join()
    server.server_close()


def ask(server, path, method="GET", token=True, host=None):
    link = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=10)
    address = f"{path}?token={server.token}" if token else path
    headers = {} if host is None else {"Host": host}
    link.request(method, address, headers=headers)
    reply = link.getresponse()
    text = reply.read().decode()
    link.close()
    return reply, text


def test_all_runs_stand_on_one_page(served):
    server, _ = served
    reply, page = ask(server, "/")
    assert reply.status == 200
    assert page.count('id="run-run"') == 1
    assert page.count('id="run-run-2"') == 1
    assert "connect-src 'self'" in page
    assert reply.headers["Cache-Control"] == "no-store"
    assert reply.headers["Referrer-Policy"] == "no-referrer"
    assert ask(server, "/run/run-run-2")[1].count('id="run-run-2"') == 1


@pytest.mark.parametrize(
    ("path", "options", "status"),
    [
        ("/", {"token": False}, 403),
        ("/?token=wrong", {"token": False}, 403),
        ("/events", {"token": False}, 403),
        ("/run/run-run", {"token": False}, 403),
        ("/", {"host": "evil.example"}, 403),
        ("/run/../../etc/passwd", {}, 404),
        ("/run/%2e%2e%2frecipe.yaml", {}, 404),
        ("/report.html", {}, 404),
        ("/", {"method": "POST"}, 501),
        ("/", {"method": "DELETE"}, 501),
    ],
)
def test_nothing_else_is_shown(served, path, options, status):
    reply, text = ask(served[0], path, **options)
    assert reply.status == status
    assert "Question 0" not in text


def test_a_change_is_told_by_the_name_of_its_run(served):
    server, runs = served
    link = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=10)
    link.request("GET", f"/events?token={server.token}")
    reply = link.getresponse()
    assert reply.headers["Content-Type"] == "text/event-stream"
    assert reply.readline() == b": still here\n"
    reply.readline()
    with (runs[1] / "dpo" / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": 9, "loss": 0.1}) + "\n")
    assert reply.readline() == b"event: changed\n"
    assert reply.readline() == b'data: "run-run-2"\n'
    link.close()


def test_a_page_is_made_anew_only_when_a_file_changed(served, monkeypatch):
    server, runs = served
    made = []
    fresh = watch.run_body
    monkeypatch.setattr(watch, "run_body", lambda run, *a, **k: made.append(run) or fresh(run, *a, **k))
    for _ in range(3):
        ask(server, "/")
    assert made == runs
    (runs[0] / "gate" / "note.txt").write_text("new")
    ask(server, "/")
    assert made == [*runs, runs[0]]


def test_a_damaged_file_is_named_and_the_other_run_is_shown(served):
    server, runs = served
    (runs[0] / "eval" / "evaluation.json").write_text("{")
    _, page = ask(server, "/")
    assert "unreadable" in page
    assert 'id="run-run-2-verdict"' in page


def test_it_reads_and_writes_nothing(served):
    server, runs = served
    before = {p: p.stat().st_mtime_ns for run in runs for p in run.rglob("*")}
    ask(server, "/")
    assert {p: p.stat().st_mtime_ns for run in runs for p in run.rglob("*")} == before


def test_a_port_that_is_taken_is_an_error_of_the_user(served):
    server, runs = served
    with pytest.raises(UserError, match="cannot be listened on"):
        watch.Server(watch.Watch(runs), server.server_port)


def test_a_folder_without_a_stage_is_refused(tmp_path):
    with pytest.raises(UserError, match="is not a run folder"):
        watch.Watch([tmp_path])
