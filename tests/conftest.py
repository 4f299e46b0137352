"""A tiny model with a byte-level tokenizer, made from a seed: every test that needs a model runs in milliseconds."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # the tests' models are tiny: one thread is faster than two

import pytest
import torch
from hypothesis import settings

# The same examples on every run, so that a green commit stays green; "search" draws new ones and keeps what failed.
settings.register_profile("same", derandomize=True, database=None, deadline=None)
settings.register_profile("search", deadline=None)
settings.load_profile(os.environ.get("KILTER_EXAMPLES", "same"))

TEMPLATE = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] + '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
REAL = Path(__file__).resolve().parents[2] / "shared" / "data"


def make_tokenizer(template: str | None = TEMPLATE):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    specials = ["<|pad|>", "<|end|>", "<|user|>", "<|assistant|>", "<|system|>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: i for i, token in enumerate([*specials, *alphabet])}
    raw = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    raw.add_special_tokens(specials)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="<|end|>", pad_token="<|pad|>")
    tokenizer.chat_template = template
    return tokenizer


def make_model(folder: Path, template: str | None = TEMPLATE, **changes) -> Path:
    from transformers import LlamaConfig, LlamaForCausalLM

    from kilter.models.folder import quiet_transformers

    torch.manual_seed(0)
    shape = {
        "vocab_size": 264,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 2048,
        "tie_word_embeddings": True,
        "eos_token_id": 1,
        "pad_token_id": 0,
        "bos_token_id": None,
        "initializer_range": 0.15,
    }
    config = LlamaConfig(**shape | changes)
    model = LlamaForCausalLM(config)
    model.generation_config.eos_token_id = 1
    with quiet_transformers():
        model.save_pretrained(folder)
    make_tokenizer(template).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> Path:
    """Folder of a 2-layer Llama with 264 tokens."""
    return make_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(autouse=True)
def _isolated_cache(tmp_path_factory, monkeypatch):
    """Reference log-probs of one test must not serve another."""
    if "KILTER_TEST_CACHE" not in os.environ:
        monkeypatch.setenv("KILTER_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(autouse=True)
def _pretended_gpu(request, monkeypatch):
    """KILTER_PRETEND_GPU=1 runs any test on a GPU that is none: what lies on the wrong device fails."""
    if not os.environ.get("KILTER_PRETEND_GPU"):
        yield
        return
    from pretend_gpu import pretended

    with pretended(monkeypatch):
        yield


@pytest.fixture
def encoder(tiny):
    from kilter.data.encode import Encoder
    from kilter.models.tokenizer import load_tokenizer, stop_ids

    tokenizer = load_tokenizer(tiny)
    return Encoder(tokenizer, stop_ids(tiny, tokenizer), max_length=512)


@pytest.fixture
def scorer(tiny):
    from kilter.models.forward import Scorer
    from kilter.models.load import load_causal

    return Scorer(load_causal(tiny))


def pair_rows(n: int = 12) -> list[dict]:
    return [
        {
            "prompt": f"Question {i} " + "x" * (i % 5),
            "chosen": f"good {i} " + "y" * (i % 7),
            "rejected": f"bad answer {i}" + " z" * (i % 3),
        }
        for i in range(n)
    ]


@pytest.fixture
def pairs_file(tmp_path) -> Path:
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in pair_rows(24)))
    return path


@pytest.fixture
def pair_batch(encoder):
    from kilter.data.collate import collate
    from kilter.data.formats import reader
    from kilter.data.formats.ask import as_turn

    groups = [next(reader("preference")(r)) for r in pair_rows(7)]
    groups = [replace(g, prompt=as_turn(g.prompt)) for g in groups]
    return collate(encoder.encode_all(groups))
