"""vLLM for real, on a CPU: log-probs, weight pushes, a whole training run, an engine that dies. Runs in the environment of `make setup-vllm`."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
import torch

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(600), pytest.mark.filterwarnings("default")]


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """A tiny Llama whose heads are wide enough for vLLM's CPU attention."""
    pytest.importorskip("vllm")
    from transformers import LlamaConfig, LlamaForCausalLM

    from conftest import make_tokenizer

    folder = tmp_path_factory.mktemp("models") / "wide"
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=264,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=32,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        eos_token_id=1,
        pad_token_id=0,
        bos_token_id=None,
        initializer_range=0.15,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def parts(model):
    from kilter.data.encode import Encoder
    from kilter.models.forward import Scorer
    from kilter.models.load import load_causal
    from kilter.models.tokenizer import load_tokenizer, stop_ids
    from kilter.sampling.config import SamplerSpec
    from kilter.sampling.vllm import VllmSampler

    tokenizer = load_tokenizer(model)
    encoder = Encoder(tokenizer, stop_ids(model, tokenizer), max_length=256)
    scorer = Scorer(load_causal(model)).eval()
    return scorer, encoder, VllmSampler(scorer, encoder, SamplerSpec(name="vllm", memory=1), "float32")


def gap(scorer, encoder, sampler, temperature=1.0) -> float:
    """Largest difference between vLLM's log-probs and the learner's."""
    from kilter.data.collate import collate
    from kilter.sampling.collect import answers as answers_of
    from kilter.types import Feedback, Group, Prompt, SamplingParams

    prompts = [Prompt(messages=({"role": "user", "content": t},)) for t in ("Hi", "What is the time?")]
    answers = answers_of(
        sampler, prompts, 3, SamplingParams(max_new_tokens=12, temperature=temperature, seed=3)
    )
    batch = collate(
        [encoder.encode(Group(p, tuple(a), (Feedback(0.0),) * 3)) for p, a in zip(prompts, answers)]
    )
    with torch.no_grad():
        own = scorer(batch, temperature=temperature).logps_BT * batch.mask_BT
    assert [len(a) for a in answers] == [3, 3]
    return float((own - batch.sampling_logps_BT).abs().max())


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_processed_log_probs_equal_the_learners(parts, temperature):
    assert gap(*parts, temperature) < 1e-3


def test_weights_are_pushed_and_the_prefix_cache_is_reset(parts):
    from kilter.types import Weights

    scorer, _, sampler = parts
    with torch.no_grad():
        for p in scorer.parameters():
            p.mul_(1.2)
    assert gap(*parts) > 1e-2
    version = sampler.facts.version
    assert sampler.sync(Weights(version + 1)) == sampler.facts.version == version + 1
    assert gap(*parts) < 1e-3


def test_a_prefix_is_gone_on_from_and_a_prompt_that_does_not_fit_ends_no_other(parts):
    from kilter.roles.chat import SamplerChat
    from kilter.sampling.collect import collect
    from kilter.types import Ask, Prompt, Request, SamplingParams

    _, encoder, sampler = parts
    prompt = Prompt(messages=({"role": "user", "content": "What is the time?"},))
    greedy = SamplingParams(max_new_tokens=10, temperature=0.0)
    ((whole,),) = collect(sampler, [Request("a", prompt, 1, greedy)]).made
    long = Prompt(text="x" * (sampler.facts.context + 1))
    rest = SamplingParams(max_new_tokens=6, temperature=0.0)
    wanted = [Request("a", prompt, 2, rest, whole.token_ids[:4]), Request("b", long, 1, rest)]
    found = collect(sampler, wanted)
    assert [c.token_ids for c in found.made[0]] == [whole.token_ids] * 2
    assert found.made[0][0].mask == (0,) * 4 + (1,) * (len(whole.token_ids) - 4)
    assert found.made[0][0].text == whole.text
    assert found.made[1] == []
    assert "fills the" in found.problems[0]
    choice = SamplerChat(sampler).choose([Ask(prompt.messages)], ("A", "B"))[0]
    assert sum(choice.probabilities) == pytest.approx(1)


def test_samples_that_are_not_skipped_are_those_of_the_whole(parts):
    from kilter.sampling.collect import answers, collect, requests
    from kilter.types import Prompt, SamplingParams

    prompts, params = (
        [Prompt(text="Once upon"), Prompt(text="Hello")],
        SamplingParams(max_new_tokens=8, seed=3),
    )
    whole = answers(parts[2], prompts, 5, params)
    found = collect(parts[2], requests(prompts, 5, params, skip=[(0, 2), (0, 1, 2, 3)])).completions
    want = [
        [None if i in skip else c.token_ids for i, c in enumerate(row)]
        for row, skip in zip(whole, [(0, 2), (0, 1, 2, 3)])
    ]
    assert [[c and c.token_ids for c in row] for row in found] == want


def test_merged_weights_of_an_adapter(model):
    """What vLLM gets is base plus adapter; the trained model keeps both apart, bit for bit."""
    from kilter.models import adapters
    from kilter.models.config import AdapterSpec
    from kilter.models.load import load_causal
    from kilter.sampling.vllm_weights import merged_state

    adapted = adapters.attach(load_causal(model), AdapterSpec(r=4), False)
    with torch.no_grad():
        for name, p in adapted.named_parameters():
            if "lora_B" in name:
                p.normal_(std=0.2)
    before = {k: v.clone() for k, v in adapted.state_dict().items()}
    base, state = merged_state(adapted, torch.float32)
    assert all(torch.equal(v, before[k]) for k, v in adapted.state_dict().items())
    plain = load_causal(model)
    assert set(state) == set(plain.state_dict())
    plain.load_state_dict(state)
    ids = torch.arange(5, 25)[None]
    with torch.no_grad():
        torch.testing.assert_close(plain(ids).logits, adapted(ids).logits, atol=1e-4, rtol=1e-4)


def test_an_exported_folder_answers(model, tmp_path):
    """The folder alone is enough: the engine's greedy answer is that of transformers from the same folder."""
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from vllm import LLM, SamplingParams

    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    out = tmp_path / "exported"
    export = [
        sys.executable,
        "-m",
        "kilter.cli",
        "export",
        str(model),
        "--to",
        str(out),
        "--dtype",
        "float32",
    ]
    subprocess.run(export, check=True, capture_output=True, env=os.environ | {"HF_HUB_OFFLINE": "1"})
    tokenizer = AutoTokenizer.from_pretrained(out)
    turns = [{"role": "user", "content": "What is the time?"}]
    ids = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_dict=False)
    with torch.no_grad():
        plain = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32)
        want = plain.generate(torch.tensor([ids]), max_new_tokens=8, do_sample=False)[0, len(ids) :].tolist()
    engine = LLM(str(out), dtype="float32", enforce_eager=True, max_model_len=256, max_num_seqs=4)
    said = engine.generate([{"prompt_token_ids": ids}], SamplingParams(temperature=0.0, max_tokens=8))
    engine.llm_engine.engine_core.shutdown()  # its process would outlive the test
    assert list(said[0].outputs[0].token_ids) == want


def command(model, out, steps):
    prompts = out.parent / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": f"Question {i}"}) + "\n" for i in range(12)))
    # counts rather than hits: answers to one prompt hardly ever tie, so that every step has something to learn from
    reward = out.parent / "reward.py"
    reward.write_text(
        "def reward(completions, **_):\n    return [sum(map(ord, c)) / 1000 for c in completions]\n"
    )
    options = [
        "sampler.name=vllm",
        "sampler.memory=1",
        "sampler.samples=4",
        "sampler.max_new_tokens=12",
        "monitors.enabled=false",
        "data.heldout=0",
    ]
    return [
        sys.executable,
        "-m",
        "kilter.cli",
        "train",
        "--method",
        "grpo",
        "--model",
        str(model),
        "--data",
        str(prompts),
        "--feedback",
        f"{reward}:reward",
        "--max-steps",
        str(steps),
        "--batch-size",
        "4",
        "--learning-rate",
        "1e-3",
        "--save-every",
        "1",
        "--out",
        str(out),
        *[x for o in options for x in ("--set", o)],
    ]


def test_training_with_vllm_a_killed_engine_and_resumption(model, tmp_path):
    out = tmp_path / "run"
    env = os.environ | {"HF_HUB_OFFLINE": "1"}
    process = subprocess.Popen(command(model, out, 400), env=env, stderr=subprocess.PIPE, text=True)
    metrics = out / "metrics.jsonl"
    for _ in range(600):
        if metrics.exists() and len(metrics.read_text().splitlines()) >= 3:
            break
        time.sleep(0.25)
    (engine,) = subprocess.run(
        ["pgrep", "-P", str(process.pid), "-f", "EngineCore"], capture_output=True, text=True
    ).stdout.split()
    os.kill(int(engine), signal.SIGKILL)
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 4, stderr[-2000:]
    assert "vLLM" in stderr
    assert "Fix:" in stderr
    done = [json.loads(line) for line in metrics.read_text().splitlines()]
    learned = [d for d in done if "sampling/mismatch_kl" in d]
    assert learned
    assert all(
        d["sampling/sampling_logp_difference/mean"] < 1e-2 and d["sampling/mismatch_kl"] < 1e-3
        for d in learned
    )
    again = subprocess.Popen(command(model, out, 400), env=env, stderr=subprocess.PIPE, text=True)
    for _ in range(600):
        if len(metrics.read_text().splitlines()) >= len(done) + 2:
            break
        time.sleep(0.25)
    again.send_signal(signal.SIGTERM)
    _, stderr = again.communicate(timeout=120)
    assert "resuming after step" in stderr
    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, len(lines) + 1))
    assert len(lines) > len(done)
    assert all(
        line["sampling/mismatch_kl"] < 1e-3 for line in lines
    )  # a resumed engine has the restored weights


@pytest.fixture
def serve(tmp_path):
    """Starts `vllm serve` on a free port; at the end of the test it is gone."""
    running = []

    def start(folder: Path, *options: str, port: int | None = None) -> tuple[str, subprocess.Popen]:
        if port is None:
            with socket.socket() as s:
                s.bind(("127.0.0.1", 0))
                port = s.getsockname()[1]
        env = os.environ | {"HF_HUB_OFFLINE": "1", "VLLM_SERVER_DEV_MODE": "1", "VLLM_CPU_KVCACHE_SPACE": "1"}
        log = (tmp_path / "server.log").open("w")
        module = [
            sys.executable,
            "-m",
            "vllm.entrypoints.openai.api_server",
        ]  # the `vllm` command asks for metadata that vllm-cpu does not have
        arguments = [
            "--model",
            str(folder),
            "--dtype",
            "float32",
            "--enforce-eager",
            "--port",
            str(port),
            *options,
        ]
        process = subprocess.Popen(
            [*module, *arguments], env=env, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
        log.close()
        running.append(process)
        url = f"http://127.0.0.1:{port}"
        for _ in range(300):
            assert process.poll() is None, (tmp_path / "server.log").read_text()[-2000:]
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{url}/health"):
                return url, process
            time.sleep(1)
        raise AssertionError("the server did not start")

    yield start
    for process in running:
        kill(process)


def kill(process: subprocess.Popen) -> None:
    """The server with its engine, which would outlive it."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(30)


def test_a_server_takes_weights_and_its_death_is_named(model, tmp_path, serve):
    """Log-probs agree before and after a push; a run ends with the cause when the server dies, and resumes with another one."""
    from kilter.data.encode import Encoder
    from kilter.errors import UserError
    from kilter.models.forward import Scorer
    from kilter.models.load import load_causal
    from kilter.models.tokenizer import load_tokenizer, stop_ids
    from kilter.sampling.config import SamplerSpec
    from kilter.sampling.vllm import VllmSampler
    from kilter.types import Weights

    served = tmp_path / "served"
    export = [sys.executable, "-m", "kilter.cli", "export", str(model), "--to", str(served), "--untie"]
    subprocess.run(export, check=True, capture_output=True, env=os.environ | {"HF_HUB_OFFLINE": "1"})
    url, process = serve(served, "--logprobs-mode", "processed_logprobs")
    tokenizer = load_tokenizer(model)
    encoder = Encoder(tokenizer, stop_ids(model, tokenizer), max_length=256)
    scorer = Scorer(load_causal(model)).eval()
    with torch.no_grad():
        for p in scorer.parameters():
            p.mul_(1.1)
    sampler = VllmSampler(scorer, encoder, SamplerSpec(name="vllm", url=url), "float32")
    assert (
        gap(scorer, encoder, sampler) < 1e-3
    )  # it took the learner's weights, not those that it was started with
    with torch.no_grad():
        for p in scorer.parameters():
            p.mul_(1.1)
    assert gap(scorer, encoder, sampler) > 1e-2
    sampler.sync(Weights(1))
    assert gap(scorer, encoder, sampler, 0.7) < 1e-3
    sampler.close()

    (served / "config.json").write_text(
        (model / "config.json").read_text()
    )  # as if the tied model were served
    with pytest.raises(UserError, match="--untie"):
        VllmSampler(scorer, encoder, SamplerSpec(name="vllm", url=url), "float32")
    config = json.loads((served / "config.json").read_text())
    (served / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": False}))

    out = tmp_path / "run"
    arguments = [*command(model, out, 400), "--set", f"sampler.url={url}"]
    run = subprocess.Popen(
        arguments, env=os.environ | {"HF_HUB_OFFLINE": "1"}, stderr=subprocess.PIPE, text=True
    )
    metrics = out / "metrics.jsonl"
    for _ in range(600):
        if metrics.exists() and len(metrics.read_text().splitlines()) >= 2:
            break
        time.sleep(0.25)
    kill(process)
    _, stderr = run.communicate(timeout=120)
    assert run.returncode == 4, stderr[-2000:]
    assert f"The vLLM server at {url} failed" in stderr
    done = len(metrics.read_text().splitlines())
    gone = subprocess.run(arguments, env=os.environ | {"HF_HUB_OFFLINE": "1"}, capture_output=True, text=True)
    assert gone.returncode == 2
    assert "is not answered by a vLLM server" in gone.stderr
    serve(served, "--logprobs-mode", "processed_logprobs", port=int(url.rpartition(":")[2]))
    run = subprocess.Popen(
        arguments, env=os.environ | {"HF_HUB_OFFLINE": "1"}, stderr=subprocess.PIPE, text=True
    )
    for _ in range(600):
        if len(metrics.read_text().splitlines()) >= done + 2:
            break
        time.sleep(0.25)
    run.send_signal(signal.SIGTERM)
    _, stderr = run.communicate(timeout=120)
    assert "resuming after step" in stderr
    steps = [json.loads(line)["step"] for line in metrics.read_text().splitlines()]
    assert steps == list(range(1, len(steps) + 1))
    assert len(steps) >= done + 1


def test_a_server_that_is_not_there_is_named(model, tmp_path):
    arguments = [*command(model, tmp_path / "run", 2), "--set", "sampler.url=http://127.0.0.1:9"]
    done = subprocess.run(arguments, capture_output=True, text=True, env=os.environ | {"HF_HUB_OFFLINE": "1"})
    assert done.returncode == 2
    assert "sampler.url" in done.stderr
    assert "Fix:" in done.stderr
