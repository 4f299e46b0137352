"""An engine whose weights are divided, as over several GPUs, in an actor of Ray: here over two processes of a CPU."""

from __future__ import annotations

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from conftest import make_tokenizer

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(600), pytest.mark.filterwarnings("default")]


@pytest.fixture
def folder(tmp_path):
    """A tiny Llama with a head of keys for each half of the engine."""
    torch.manual_seed(0)
    shape = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "head_dim": 32}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "initializer_range": 0.15}
    ends = {"eos_token_id": 1, "pad_token_id": 0, "bos_token_id": None}
    config = LlamaConfig(
        vocab_size=264, max_position_embeddings=512, tie_word_embeddings=True, **shape, **heads, **ends
    )
    LlamaForCausalLM(config).save_pretrained(tmp_path / "model")
    make_tokenizer().save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_a_divided_engine_in_an_actor_follows_the_learner(folder, monkeypatch):
    """Left to itself, vLLM would divide it over actors of Ray's, in a place that has room for one process."""
    from kilter.cluster.pool import Pool
    from kilter.cluster.ray import RayBackend
    from kilter.cluster.weights import ObjectTransport
    from kilter.data.collate import collate
    from kilter.launch.spec import ClusterSpec
    from kilter.roles.open import OpenSpec, open_encoder, open_model
    from kilter.sampling.collect import answers
    from kilter.sampling.config import SamplerKind
    from kilter.sampling.vllm_weights import MergedWeights
    from kilter.training.apart.rollouts import PooledSampler
    from kilter.training.apart.vllm import VllmWorker
    from kilter.types import Feedback, Group, Prompt, SamplingParams, Weights

    # Each half has cores of its own, which vLLM finds by itself only on machines of several sockets.
    monkeypatch.setenv("VLLM_CPU_OMP_THREADS_BIND", "0|1")
    opening = OpenSpec(folder, max_length=512, max_prompt=100, trains=True)
    encoder = open_encoder(opening)
    scorer = open_model(opening, encoder).scorer.eval()
    asked = Prompt(messages=({"role": "user", "content": "What is the time?"},))
    backend, said = RayBackend(ClusterSpec()), []
    kind = {
        "opening": opening,
        "sampler": SamplerKind(name="vllm", memory=1),
        "dtype": "float32",
        "keep": True,
    }
    pool = Pool(backend, "rollout", 1, VllmWorker, kind | {"gpus": 2}, 600.0)
    gathered = MergedWeights(scorer.model, torch.float32).on_cpu
    note = lambda what, detail: said.append((what, detail))
    sampler = PooledSampler(pool, ObjectTransport(backend), gathered, verify=1, note=note)

    def gap():
        """The largest difference between the engine's log-probs and the learner's."""
        (answer,) = answers(sampler, [asked], 1, SamplingParams(max_new_tokens=12, temperature=0.0))[0]
        batch = collate([encoder.encode(Group(asked, (answer,), (Feedback(0.0),)))])
        with torch.no_grad():
            own = scorer(batch, temperature=1.0).logps_BT[0]
        own = own[own != 0]
        return float((own - torch.tensor(answer.sampling_logps)).abs().max()), answer.token_ids

    before, first = gap()
    with torch.no_grad():
        for p in scorer.parameters():
            p.mul_(1.1)
    sampler.sync(Weights(1))
    sampler.settle()
    after, second = gap()
    assert max(before, after) < 1e-4
    assert first != second
    # What both halves have whole is compared as they hold it.
    assert said[0][0] == "weights compared"
    pool.close()
    backend.close()
