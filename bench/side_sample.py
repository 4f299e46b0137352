"""One engine sampling given prompts in a process of its own; prints one JSON object on standard output.

Every engine makes exactly the same number of tokens (end-of-sequence is ignored), at temperature 1 without filters, after
one short warm-up call. Needs nothing of Kilter unless the engine is kilter, so that a peer may live in its own environment.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from dataclasses import replace
from pathlib import Path

from bench.side_kilter import peak_mb


def kilter(a, prompts):
    """LocalSampler over a Scorer."""
    from kilter.roles.open import OpenSpec, open_model
    from kilter.sampling.collect import answers
    from kilter.sampling.local import LocalSampler
    from kilter.types import Prompt, SamplingParams

    ready = open_model(OpenSpec(Path(a.model), device=a.device))
    scorer, encoder = ready.scorer, replace(ready.encoder, stop_ids=frozenset())
    table = {str(i): tuple(p) for i, p in enumerate(prompts)}
    encoder.prompt = lambda prompt: table[prompt.id]
    sampler = LocalSampler(scorer, encoder, amp=a.dtype == "bfloat16", tokens_per_batch=a.tokens_per_batch)
    requests = [Prompt(id=str(i)) for i in range(len(prompts))]

    def run(seed, n=a.tokens):
        found = answers(sampler, requests, a.k, SamplingParams(max_new_tokens=n, seed=seed))
        return sum(len(c.token_ids) for row in found for c in row)

    return run


def hf(a, prompts):
    """transformers' generate, left-padded, num_return_sequences."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(a.model, dtype=a.dtype).eval().to(a.device)
    tokenizer = AutoTokenizer.from_pretrained(a.model)
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    width = max(map(len, prompts))
    ids = torch.tensor([[pad] * (width - len(p)) + list(p) for p in prompts], device=a.device)
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=a.device)

    def run(seed, n=a.tokens):
        torch.manual_seed(seed)
        with torch.no_grad():
            out = model.generate(
                ids,
                attention_mask=mask,
                do_sample=True,
                temperature=1.0,
                top_k=0,
                top_p=1.0,
                num_return_sequences=a.k,
                min_new_tokens=n,
                max_new_tokens=n,
                pad_token_id=pad,
            )
        return (out.shape[1] - width) * out.shape[0]

    return run


def vllm(a, prompts):
    """vLLM in process, n samples per prompt; --logprobs also asks for the sampled token's log-prob."""
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "2")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    from vllm import LLM, SamplingParams

    llm = LLM(
        model=a.model,
        dtype=a.dtype,
        enforce_eager=a.device == "cpu",
        logprobs_mode="processed_logprobs",
        max_model_len=1024,
    )

    def run(seed, n=a.tokens):
        llm.reset_prefix_cache()
        params = SamplingParams(
            n=a.k,
            temperature=1.0,
            max_tokens=n,
            ignore_eos=True,
            seed=seed if a.seeded else None,
            logprobs=0 if a.logprobs else None,
            detokenize=False,
        )
        out = llm.generate([{"prompt_token_ids": p} for p in prompts], params, use_tqdm=False)
        return sum(len(o.token_ids) for r in out for o in r.outputs)

    return run


def main() -> None:
    """Warms up once, then times `repeats` calls."""
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("engine", choices=["kilter", "hf", "vllm"])
    p.add_argument("prompts")
    p.add_argument("model")
    p.add_argument("--dtype", default="float32")
    p.add_argument("--k", type=int, default=8)
    p.add_argument("--tokens", type=int, default=64)
    p.add_argument("--repeats", type=int, default=1)
    p.add_argument("--device", default="cpu")
    p.add_argument("--logprobs", action="store_true")
    p.add_argument("--seeded", action="store_true")
    p.add_argument("--tokens-per-batch", type=int, default=1 << 14)
    a = p.parse_args()
    os.setpgrp()
    os.environ.update(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints goes to standard error
    with open(a.prompts) as f:
        prompts = json.load(f)
    run = {"kilter": kilter, "hf": hf, "vllm": vllm}[a.engine](a, prompts)
    run(0, 4)
    rates = []
    for seed in range(1, a.repeats + 1):
        begin = time.perf_counter()
        tokens = run(seed)
        rates.append(tokens / (time.perf_counter() - begin))
    json.dump(
        {
            "engine": a.engine,
            "tokens": tokens,
            "tokens_per_s": statistics.median(rates),
            "all": rates,
            "peak_mb": peak_mb(),
        },
        out,
    )
    out.flush()
    sys.stderr.flush()
    os.killpg(0, 9)  # vLLM's engine processes outlive their parent


if __name__ == "__main__":
    main()
