"""kilter sample and kilter chat with every sampler, as a person or a pipe meets them."""

from __future__ import annotations

import io
import json
import sys
import tempfile

import pytest

from kilter import cli
from kilter.data import store
from kilter.types import Completion, Sample

SCRIPT = [
    {"prompt": "Hello", "answer": "Good day"},
    {"prompt": "And?", "answers": ["More of it", "And more"]},
    {"prompt": "Question 1 x", "answer": "one"},
]

OWN = '''
from kilter.types import Completion, Sample, SamplerFacts

class Counting:
    """Says how many turns it has been shown, and what came last."""

    facts = SamplerFacts()

    def __init__(self, context, mark="."):
        self.mark = mark

    def run(self, requests, listener=None):
        for request in requests:
            for i in range(request.k):
                turns = request.prompt.messages
                text = f"{len(turns)}:{turns[-1]['content']}{self.mark}"
                if turns[-1]["content"] == "fail":
                    yield Sample(request, i, None, "nobody is in")
                    continue
                if listener is not None and listener.wants_text:
                    listener.text(request, i, text)
                yield Sample(request, i, Completion(text))

    def sync(self, weights):
        return weights.version

    def close(self):
        pass
'''


@pytest.fixture
def kilter(monkeypatch, capsys):
    """Runs a command; (exit code, standard output, standard error)."""

    def run(*args, stdin=""):
        monkeypatch.setattr(sys, "argv", ["kilter", *map(str, args)])
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        with pytest.raises(SystemExit) as stop:
            cli.main()
        said = capsys.readouterr()
        return stop.value.code, said.out, said.err

    return run


@pytest.fixture
def script(tmp_path):
    path = tmp_path / "script.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in SCRIPT))
    return path


@pytest.fixture
def own(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(OWN)
    return f"{path}:Counting"


def test_sample_asks_a_script_and_names_what_failed(kilter, script, tmp_path):
    code, said, told = kilter("sample", script, "--sampler", "scripted", "--prompt", "And?", "-k", 3)
    assert code == 0
    assert "More of it" in said
    assert "And more" in said
    assert "1 of 3 answers failed: the script has no answer" in told
    code, _, told = kilter("sample", script, "--sampler", "scripted", "--prompt", "Unheard")
    assert code == 4
    assert "1 of 1 answers failed" in told
    data, out = tmp_path / "prompts.jsonl", tmp_path / "out.jsonl"
    data.write_text("".join(json.dumps({"prompt": p}) + "\n" for p in ("Hello", "Unheard", "And?")))
    code, _, told = kilter("sample", script, "--sampler", "scripted", "--data", data, "--out", out)
    assert (code, "2 groups appended" in told) == (0, True)
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [r["completions"][0]["text"] for r in rows] == ["Good day", "More of it"]


def test_sample_is_a_stage_of_its_own_and_leaves_no_folder(kilter, script, tmp_path, monkeypatch):
    """Every field of the stage works from the command line, and a row says who answered."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    data, out = tmp_path / "prompts.jsonl", tmp_path / "out.jsonl"
    data.write_text("".join(json.dumps({"prompt": p}) + "\n" for p in ("Hello", "And?", "And?", "Unheard")))
    options = ("sample", script, "--sampler", "scripted", "--data", data)
    code, said, told = kilter(*options)
    assert (code, said.split("\n")[0::2][:2]) == (0, ["Good day", "More of it"])  # "And?" is asked once
    assert "sample: answers 3/3" in told
    assert "1 of 3 answers failed: the script has no answer" in told
    code, said, _ = kilter(*options, "--part", "2/3", "--k", 2)
    assert (code, "Good day" in said, "And more" in said) == (0, False, True)
    assert kilter(*options, "--limit", 1, "--out", out)[0] == 0
    (row,) = map(json.loads, out.read_text().splitlines())
    (entry,) = row["prompt"]["metadata"]["kilter.lineage"]
    assert (entry["stage"], entry["kind"], entry["model"]) == ("sample", "generate", "scripted")
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        *("out.jsonl", "prompts.jsonl", "script.jsonl", "temporary"),
    ]
    assert list((tmp_path / "temporary").iterdir()) == []
    assert kilter(*options, "--split", "heldout")[0] == 2


def test_a_prompt_is_data_like_any_other_and_long_ones_are_not_cut(kilter, own):
    args = ("sample", "nothing", "--sampler", own, "--prompt")
    assert kilter(*args, "hi", "--data.system", "be brief")[1] == "2:hi.\n"
    assert kilter(*args, "[bold]hi[/]")[1] == "1:[bold]hi[/].\n"
    code, _, told = kilter(*args, "hi", "--sampler.temperature", 0, "-k", 2)
    assert (code, "gives the same greedy answer" in told) == (2, True)


def test_sample_says_what_the_model_says(kilter, tiny):
    """The answer on the screen is the sampler's, also to a prompt that `generate` would cut."""
    from kilter.roles.open import OpenSpec
    from kilter.roles.sampler import open_sampler
    from kilter.sampling.collect import answers
    from kilter.sampling.config import SamplerKind
    from kilter.screen import plain
    from kilter.types import Prompt, SamplingParams

    sampler = open_sampler(SamplerKind(), OpenSpec(str(tiny)))
    for text in ("Hi", "go on " * 200):
        prompt = Prompt(messages=({"role": "user", "content": text},))
        params = SamplingParams(max_new_tokens=6, temperature=0.0)
        ((want,),) = answers(sampler, [prompt], 1, params)
        code, said, told = kilter("sample", tiny, "--prompt", text, "--max-new-tokens", 6, "--temperature", 0)
        assert (code, said, told) == (0, plain(want.text) + "\n", "")


def test_a_sampler_of_ones_own_takes_options_from_the_command_line(kilter, own):
    args = ("sample", "nothing", "--sampler", own, "--prompt", "hi")
    assert kilter(*args)[1] == "1:hi.\n"
    assert kilter(*args, "--sampler.options", "{mark: '!'}")[1] == "1:hi!\n"
    code, _, told = kilter(*args, "--sampler.options", "{mork: 1}")
    assert code == 2
    assert "Did you mean 'mark'" in told


@pytest.mark.parametrize(
    ("options", "field"),
    [
        (["--sampler", "locl"], "sampler.name"),
        (["--sampler.url", "http://localhost:1"], "sampler.url"),
        (["--sampler", "openai", "--sampler.script", "x"], "sampler.script"),
        (["--sampler", "scripted"], "sampler.script"),
        (["--template", "nowhere.jinja"], "template"),
    ],
)
def test_settings_that_do_not_fit_are_named(kilter, tiny, options, field):
    model = tiny if "scripted" not in options else "no-such-file"
    code, _, told = kilter("sample", model, "--prompt", "hi", *options)
    assert code == 2
    assert f"`{field}` = " in told


def test_a_chat_in_a_pipe_remembers_resets_and_exits(kilter, own):
    typed = "one\n\ntwo\n/reset\nthree\n/exit\nfour\n"
    code, said, told = kilter("chat", "nothing", "--sampler", own, stdin=typed)
    assert (code, told) == (0, "")
    assert said == "1:one.\n3:two.\n1:three.\n"  # the second turn is shown the first and its answer
    code, said, _ = kilter(
        "chat", "nothing", "--sampler", own, "--system", "be brief", stdin="one\n/reset\na"
    )
    assert said == "2:one.\n2:a.\n"


def test_a_turn_that_fails_did_not_take_place(kilter, own):
    code, said, told = kilter("chat", "nothing", "--sampler", own, stdin="one\nfail\ntwo\n")
    assert said.replace("\n\n", "\n") == "1:one.\n3:two.\n"
    assert "nobody is in" in told
    assert code == 4


def test_a_chat_with_a_model_streams_what_it_says(kilter, tiny):
    options = ("chat", tiny, "--max-new-tokens", 8, "--temperature", 0)
    code, said, _ = kilter(*options, stdin="Hi\nHi\n")
    assert code == 0
    first, second = said.splitlines()[:2]
    assert first != second  # the second is asked after the first
    assert kilter(*options, stdin="Hi\n/reset\nHi\n")[1] == f"{first}\n{first}\n"


def test_ctrl_c_ends_a_chat_politely(kilter, own, monkeypatch):
    from kilter.roles.chat import SamplerChat

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(SamplerChat, "stream", interrupted)
    code, said, told = kilter("chat", "nothing", "--sampler", own, stdin="one\ntwo\n")
    assert (code, said, told) == (0, "\n", "")


REVERSED = '''
from pathlib import Path
from kilter.types import Completion, Sample, SamplerFacts

class Reversed:
    """Answers the last request first, forgets a sample of the third, and is killed at its fifth prompt."""

    facts = SamplerFacts()
    asked = Path(__file__).with_name("asked")

    def run(self, requests, listener=None):
        for r in reversed(requests):
            with self.asked.open("a") as file:
                file.write(r.prompt.messages[-1]["content"] + " ")
            if len(self.asked.read_text().split()) == 5:
                raise KeyboardInterrupt
            for i in range(r.k):
                if "3" not in r.prompt.messages[-1]["content"] or i:
                    yield Sample(r, i, Completion(f"answer {i} to {r.prompt.messages[-1]['content']}"))

    def sync(self, weights):
        return weights.version

    def close(self):
        pass
'''


def test_answers_are_on_disk_as_they_come_and_end_in_the_order_of_their_prompts(tmp_path):
    from kilter.api import made

    (tmp_path / "own.py").write_text(REVERSED)
    (tmp_path / "prompts.jsonl").write_text("".join(f'{{"prompt": "q{n}"}}\n' for n in range(7)))
    settings = {"sampler": {"name": f"{tmp_path}/own.py:Reversed"}, "k": 2}
    ask = lambda: made("generate", settings, "m", str(tmp_path / "prompts.jsonl"), tmp_path / "out")
    with pytest.raises(KeyboardInterrupt):
        ask()
    path = tmp_path / "out" / "groups.jsonl"
    asked = lambda: [g.prompt.messages[-1]["content"] for g in store.read(path)]
    assert asked() == ["q6", "q5", "q4"]  # of the third one a sample is missing: it is asked again
    ask()
    assert asked() == [f"q{n}" for n in range(7)]
    assert (tmp_path / "asked").read_text().split() == ["q6", "q5", "q4", "q3", "q2", "q3", "q2", "q1", "q0"]
    assert [len(g.completions) for g in store.read(path)] == [2, 2, 2, 1, 2, 2, 2]


@pytest.mark.parametrize(
    ("given", "named"),
    [
        (lambda wanted: None, "its `run` gave a NoneType, and no samples"),
        (lambda wanted: ["text"], "it gave a str where a sample of a request belongs"),
        (lambda wanted: [Sample("0", 0, Completion("a"))], "it gave a Sample where a sample of a request"),
        (lambda wanted: [Sample(wanted[0], 0, Completion(None))], "a completion whose text is a NoneType"),
        (lambda wanted: [Sample(wanted[0], 0, 7)], "it gave a int where a Completion belongs"),
        (lambda wanted: [Sample(wanted[0], 0, "hello")], "it gave a str where a Completion belongs"),
        (lambda wanted: [Sample(wanted[0], 0, Completion("a"), usage=None)], "NoneType where Usage belongs"),
    ],
)
def test_a_sampler_that_gives_something_else_than_samples_is_named(given, named):
    from kilter.errors import RunFailed
    from kilter.sampling.collect import collect, requests
    from kilter.types import Prompt, SamplerFacts, SamplingParams

    class Mine:
        facts = SamplerFacts()

        def run(self, wanted, listener=None):
            return given(wanted)

    with pytest.raises(RunFailed, match=f"The sampler Mine is wrong: .*{named}"):
        collect(Mine(), requests([Prompt(text="q")], 1, SamplingParams(4)))


def test_a_sampler_without_a_method_is_named(tmp_path):
    from kilter.errors import UserError
    from kilter.sampling.build import SamplerContext, build
    from kilter.sampling.config import SamplerKind

    (tmp_path / "own.py").write_text("class Mine:\n    facts = None\n    def run(self, wanted): ...\n")
    with pytest.raises(UserError, match=r"own.py:Mine' has no close"):
        build(SamplerContext(SamplerKind(name=f"{tmp_path}/own.py:Mine"), lambda: None))


@pytest.mark.parametrize("does", ["raise ConnectionError('gone')", "yield next(iter(()))"])
def test_an_error_in_a_file_of_ones_own_names_the_file_and_the_line(does, tmp_path, capsys):
    """An error of the network is an OSError, and the end of an iterator one of Python's own."""
    from kilter.cli import _show_failure
    from kilter.sampling.registry import samplers

    (tmp_path / "own.py").write_text(f"def run():\n    yield 1\n    {does}\n")
    run = samplers.get(f"{tmp_path}/own.py:run", "sampler")
    with pytest.raises((OSError, RuntimeError)) as failed:
        list(run())
    _show_failure(failed.value)
    said = " ".join(capsys.readouterr().err.split())
    assert f"own.py line 3: {failed.type.__name__}: " in said
    assert "Fix: Correct " in said


@pytest.mark.parametrize(
    ("gives", "named"),
    [
        ([("0", 0), ("0", 0)], "it gave sample 0 of request 0 twice"),
        ([("7", 0)], "it gave a sample of request '7', which nobody asked for"),
        ([("0", 1)], "it gave sample 1 of request 0, whose last is 0"),
        ([("0", -1)], "it gave sample -1 of request 0, whose last is 0"),
        ([("0", None)], "it gave sample None of request 0, whose last is 0"),
    ],
)
def test_a_sampler_that_gives_what_nobody_asked_for_is_named(gives, named):
    from dataclasses import replace

    from kilter.errors import RunFailed
    from kilter.sampling.collect import collect, requests
    from kilter.types import Completion, Prompt, Sample, SamplerFacts, SamplingParams

    class Echo:
        facts = SamplerFacts()

        def run(self, wanted, listener=None):
            yield from (Sample(replace(wanted[0], id=i), n, Completion("a")) for i, n in gives)

    wanted = requests([Prompt(text="q")], 1, SamplingParams(4))
    with pytest.raises(RunFailed) as error:
        collect(Echo(), wanted)
    assert f"sampler Echo is wrong: {named}" in str(error.value)
