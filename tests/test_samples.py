"""A killed `generate` with several samples a prompt: what has ended stays, and only the rest is asked again."""

from __future__ import annotations

import contextlib
import json
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import kilter
from conftest import pair_rows
from kilter.data import store
from kilter.data.dataset import prompt_key
from kilter.sampling import samples
from kilter.sampling.collect import answers, collect, requests
from kilter.sampling.items import Item
from kilter.sampling.local import LocalSampler
from kilter.sampling.scripted import ScriptedSampler
from kilter.sampling.vllm import runs
from kilter.sampling.vllm_clients import parameters, seed_of
from kilter.stages import failures, generate
from kilter.training.apart.answers import _whole_prompts
from kilter.types import Completion, Prompt, Request, Sample, SamplerFacts, SamplingParams
from test_endpoints import Endpoint, chat_reply

K, PROMPTS = 4, 7


class KilledError(BaseException):
    """Ends a run at once, wherever it is."""


@pytest.fixture
def lives(monkeypatch):
    """Sets how many samples or rows are written before the process is killed, and whether the last one is."""
    left, whole = [10**9], [True]

    def dying(write):
        def once(path, *given, **named):
            left[0] -= 1
            if left[0] >= 0 or whole[0]:
                write(path, *given, **named)
            if left[0] < 0:
                raise KilledError

        return once

    monkeypatch.setattr(samples, "append_lines", dying(samples.append_lines))
    monkeypatch.setattr(failures, "append_lines", dying(failures.append_lines))
    monkeypatch.setattr(failures, "write_text", dying(failures.write_text))
    monkeypatch.setattr(store, "append", dying(store.append))
    monkeypatch.setattr(generate, "CHUNK", 3 * K)

    def live(writes: int = 10**9, last: bool = True) -> None:
        left[0], whole[0] = writes, last

    return live


@pytest.fixture
def asked(monkeypatch):
    """Every (prompt, sample) that a script is asked for."""
    found, sample = [], ScriptedSampler._sample
    monkeypatch.setattr(
        ScriptedSampler,
        "_sample",
        lambda self, r, i: found.append((r.prompt.messages[-1]["content"], i)) or sample(self, r, i),
    )
    return found


@pytest.fixture
def made(tmp_path):
    """Runs the stage in a folder; returns the bytes of its rows."""
    rows = pair_rows(PROMPTS)
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps({"prompt": r["prompt"]}) + "\n" for r in rows))
    lines = [{"prompt": r["prompt"], "answers": [f"{r['prompt']}: {i}" for i in range(K)]} for r in rows]
    (tmp_path / "script.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    scripted = {"name": "scripted", "script": str(tmp_path / "script.jsonl")}

    def run(folder, model="builtin:nothing", sampler=scripted, rows=PROMPTS, **fields):
        out = tmp_path / folder
        data = str(tmp_path / "prompts.jsonl")
        found = kilter.generate(model, data, out=out, k=K, sampler=sampler, **fields)
        assert found.facts["rows"] == rows and not (out / "samples.jsonl").exists()
        return found.path.read_bytes()

    return run


def test_wherever_it_is_killed_nothing_that_ended_is_asked_again(made, lives, asked):
    want = made("whole")
    assert len(asked) == len(set(asked)) == K * PROMPTS
    attempts = [0]

    @settings(max_examples=40)
    @given(st.lists(st.tuples(st.integers(0, 12), st.booleans()), min_size=1, max_size=8))
    def held(kills):
        asked.clear()
        attempts[0] += 1
        folder, lost = f"run-{attempts[0]}", 0
        for writes, last in kills:
            lives(writes, last)
            try:
                made(folder)
            except KilledError:
                lost += not last
        lives()
        assert made(folder) == want
        # A kill before a write costs that sample; what was a row is in the file of samples.
        assert len(asked) - K * PROMPTS <= lost

    held()


def test_wherever_it_is_killed_what_failed_is_on_record_once(made, lives, monkeypatch, tmp_path):
    """A row that lacks an answer is not asked again; a prompt that has no row is."""
    sample, gaps = ScriptedSampler._sample, {2: range(K), 3: (1,), 5: (0, 3)}
    lost = {(pair_rows(PROMPTS)[n]["prompt"], i) for n, numbers in gaps.items() for i in numbers}

    def failing(self, r, i):
        failed = (r.prompt.messages[-1]["content"], i) in lost
        return Sample(r, i, None, f"no answer {i}") if failed else sample(self, r, i)

    monkeypatch.setattr(ScriptedSampler, "_sample", failing)

    def named(folder):
        lines = (tmp_path / folder / "failures.jsonl").read_text().splitlines()
        facts = json.loads((tmp_path / folder / "manifest.json").read_text())["facts"]
        return lines, facts["failed"], facts["problems"], facts["answers"]

    want = made("whole", rows=PROMPTS - 1), named("whole")
    assert want[1][1] == len(want[1][0]) == 7 and want[1][3] == K * PROMPTS - 7
    for seed in range(8):
        draw, folder = random.Random(seed), f"run-{seed}"
        for _ in range(draw.randrange(1, 5)):
            lives(draw.randrange(20), draw.random() < 0.5)
            with contextlib.suppress(KilledError):
                made(folder, rows=PROMPTS - 1)
        lives()
        assert (made(folder, rows=PROMPTS - 1), named(folder)) == want


def test_samples_of_a_prompt_that_has_its_row_are_forgotten(tmp_path):
    first, second = Prompt(text="first"), Prompt(text="second")
    kept = samples.Samples(tmp_path / "samples.jsonl")
    for prompt in (first, second):
        kept.add(prompt, 0, Completion("yes"))
    # The process was killed between the row of the first prompt and the end of its chunk.
    again = samples.Samples(tmp_path / "samples.jsonl", {prompt_key(first)})
    assert (again.count([first], 1), again.count([second], 1)) == (0, 1)
    again.end([second])
    assert not (tmp_path / "samples.jsonl").exists()


def test_a_model_in_memory_draws_the_same_tokens_whatever_is_there(made, lives, tiny, tmp_path):
    """Two prompts are cut to the same tokens, and count their samples together."""
    rows = [f"{'ab'[i % 2] * (40 + i)} {'same end ' * 8}{i // 2}" for i in range(PROMPTS)]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps({"prompt": row}) + "\n" for row in rows))
    fields = {"model": str(tiny), "sampler": {"max_new_tokens": 6}, "max_length": 48}
    made("whole", **fields)

    def tokens(folder):
        groups = store.read(tmp_path / folder / "groups.jsonl")
        return [[(c.text, c.token_ids, c.finish_reason) for c in g.completions] for g in groups]

    want = tokens("whole")
    assert want[0] != want[1], "twins draw numbers of their own"
    for seed in range(6):
        draw, folder = random.Random(seed), f"run-{seed}"
        for _ in range(3):
            lives(draw.randrange(16), draw.random() < 0.5)
            with contextlib.suppress(KilledError):
                made(folder, **fields)
        lives()
        made(folder, **fields)
        assert tokens(folder) == want


def test_an_endpoint_is_paid_for_no_sample_twice(made, lives, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-none")
    endpoint = Endpoint()
    try:
        for row in pair_rows(PROMPTS):
            endpoint.plan[row["prompt"]] = [lambda body: chat_reply(f"seed {body['seed']}")]
        sampler = {"name": "openai", "url": endpoint.url, "model": "demo", "concurrency": 1}
        want = made("whole", sampler=sampler)
        endpoint.seen.clear()
        for writes in (2, 6, 9):
            lives(writes)
            with pytest.raises(KilledError):
                made("run", sampler=sampler)
        lives()
        assert made("run", sampler=sampler) == want
        seeds = [body["seed"] for _, _, body in endpoint.seen]
        # At most the call that was under way at each kill.
        assert len(set(seeds)) == K * PROMPTS and len(seeds) <= K * PROMPTS + 3
    finally:
        endpoint.server.shutdown()
        endpoint.server.server_close()


class Unaware:
    """A sampler of the user's own that knows nothing of samples that are skipped."""

    facts = SamplerFacts()

    def __init__(self):
        self.given = []

    def run(self, requests, listener=None):
        for request in requests:
            self.given.append(request.prompt.text)
            for i in range(request.k):
                yield Sample(request, i, Completion(f"{request.prompt.text}{i}"))


def test_a_sampler_that_knows_no_skipping_gives_whole_prompts_and_the_surplus_is_left_out():
    prompts, skip = [Prompt(text=t) for t in "abc"], [(), (0, 2), (0, 1, 2)]
    sampler = Unaware()
    found = collect(sampler, requests(prompts, 3, SamplingParams(), skip=skip))
    assert [[c.text for c in row] for row in found.made] == [["a0", "a1", "a2"], ["b1"], []]
    assert sampler.given == ["a", "b"], "nobody is asked for a prompt that is complete"
    assert not found.problems


def test_what_fails_is_counted_among_the_samples_that_are_wanted():
    sampler = ScriptedSampler(lambda prompt, index: None if index == 1 else "yes")
    found = collect(sampler, requests([Prompt(text="a")], 3, SamplingParams(), skip=[(0,)]))
    assert found.summary().startswith("1 of 2 answers failed: the script has no answer")


def test_every_sample_alone_is_the_sample_of_the_whole(scorer, encoder):
    prompts = [Prompt(text=t) for t in ("Hello", "Hello", "Good morning")]
    params = SamplingParams(max_new_tokens=9, seed=3)
    whole = answers(LocalSampler(scorer, encoder), prompts, K, params)
    for seed in range(5):
        draw = random.Random(seed)
        skip = [tuple(i for i in range(K) if draw.random() < 0.6) for _ in prompts]
        found = collect(LocalSampler(scorer, encoder), requests(prompts, K, params, skip=skip))
        for row, all_of, left_out in zip(found.completions, whole, skip, strict=True):
            want = [None if i in left_out else c.token_ids for i, c in enumerate(all_of)]
            assert [c and c.token_ids for c in row] == want


def test_workers_get_what_is_skipped_with_the_prompt_it_counts_on():
    asked = [Request(str(n), Prompt(text=t), 2, skip=(n % 2,)) for n, t in enumerate("aba")]
    assert [[(r.id, r.skip) for r in part] for part in _whole_prompts(asked)] == [
        [("0", (0,)), ("2", (0,))],
        [("1", (1,))],
    ]


def test_vllm_is_asked_for_runs_of_samples_whose_seeds_are_those_of_the_whole():
    request = Request("a", Prompt(text="Hi"), 6, skip=(0, 3))
    whole, item = (Item(request, (1, 2), 2, numbers) for numbers in (tuple(range(6)), request.wanted))
    # vLLM gives sample i of a request the request's seed plus i.
    parts = [(seed_of(part), parameters(part, [0])["n"]) for part in runs(item)]
    assert parts == [(seed_of(whole) + 1, 2), (seed_of(whole) + 4, 2)]
    assert [(seed_of(part), parameters(part, [0])["n"]) for part in runs(whole)] == [(seed_of(whole), 6)]
