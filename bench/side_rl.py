"""One online trainer (Kilter's or TRL's) over given prompts in a process of its own; prints one JSON object on standard output.

Both sides: the same chat prompts in the same order, K completions of exactly the same number of tokens (end-of-sequence is
not allowed to come early), the same reward function, beta 0, one optimizer step per batch, AdamW at a constant rate. The
first step warms up and is not counted.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

from bench.side_kilter import peak_mb


def score(text: str) -> float:
    """A reward without meaning that differs between texts."""
    return int(hashlib.sha256(text.encode()).hexdigest()[:4], 16) / 65535


def kilter(a, prompts):
    """The Trainer of a train stage, with the clock around its loop."""
    from kilter.feedback.registry import Weighted
    from kilter.training import assemble, scorers
    from kilter.training import trainer as trainers
    from kilter.training.config import TrainSpec
    from kilter.training.hooks.metrics_log import MetricsLog
    from kilter.types import Feedback, Group, Prompt

    monitors = {"enabled": False}
    extra = {"critic": {"learning_rate": a.lr}} if a.method == "ppo" else {}
    method = {"name": a.method, "beta": a.beta} | ({"epochs": 1} if a.method == "ppo" else {})
    spec = TrainSpec.model_validate(
        {
            "method": method,
            "prompts": "$data",
            "feedback": {"regex": "."},
            "sampler": {"samples": a.k, "max_new_tokens": a.tokens},
            "batch_size": a.batch_size,
            "max_steps": a.steps + 1,
            "learning_rate": a.lr,
            "schedule": "constant",
            "warmup_ratio": 0.0,
            "max_length": 1024,
            "dtype": a.dtype,
            "shuffle": False,
            "monitors": monitors,
            "tokens_per_microbatch": a.microbatch,
            "save_every": 10_000,
        }
        | extra
    )
    make_encoder, make_source = scorers.make_encoder, assemble.make_source

    def without_stops(*args):
        encoder = make_encoder(*args)
        encoder.stop_ids, encoder.max_prompt = frozenset(), None
        return encoder

    class Fixed(Weighted):
        def __call__(self, groups):
            return [[Feedback(score(c.text)) for c in g.completions] for g in groups]

    def with_score(*args):
        source = make_source(*args)
        source.feedback = Fixed([])
        return source

    scorers.make_encoder, assemble.make_source = without_stops, with_score
    groups = [Group(Prompt(messages=tuple(p)), (), ()) for p in prompts]
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        marks = []
        after_step = MetricsLog.after_step
        MetricsLog.after_step = lambda self, step, batch, record: (
            marks.append((time.perf_counter(), record)),
            after_step(self, step, batch, record),
        )[1]
        trainers.save_model = lambda *args, **kwargs: None
        trainers.Trainer(spec, Path(a.model), groups, [], out).run()
        records = [r for _, r in marks]
    times = [t for t, _ in marks]
    seconds = [y - x for x, y in itertools.pairwise(times)]
    return (
        seconds,
        records[-1]["completions/mean_length"],
        {"sampling": statistics.mean(r["sampling/seconds"] for r in records[1:])},
    )


def trl(a, prompts):
    """GRPOTrainer or RLOOTrainer with transformers generation, no checkpointing, no saving."""
    import datasets
    from transformers import AutoTokenizer, PrinterCallback, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer

    class Clock(TrainerCallback):
        def __init__(self):
            self.times = []

        def on_step_end(self, *args, **kwargs):
            self.times.append(time.perf_counter())

    datasets.disable_progress_bars()
    config_class, trainer_class = {"grpo": (GRPOConfig, GRPOTrainer), "rloo": (RLOOConfig, RLOOTrainer)}[
        a.method
    ]
    rows = a.batch_size * a.k
    with tempfile.TemporaryDirectory() as folder:
        config = config_class(
            output_dir=folder,
            use_cpu=a.device == "cpu",
            report_to="none",
            disable_tqdm=True,
            save_strategy="no",
            logging_steps=1,
            max_steps=a.steps + 1,
            per_device_train_batch_size=rows // a.accumulate,
            gradient_accumulation_steps=a.accumulate,
            num_generations=a.k,
            max_completion_length=a.tokens,
            beta=a.beta,
            temperature=1.0,
            top_p=1.0,
            top_k=0,
            learning_rate=a.lr,
            lr_scheduler_type="constant",
            warmup_steps=0,
            optim="adamw_torch_fused",
            weight_decay=0.0,
            max_grad_norm=1.0,
            bf16=a.dtype == "bfloat16",
            gradient_checkpointing=False,
            shuffle_dataset=False,
            model_init_kwargs={"dtype": "float32"},
            seed=0,
            generation_kwargs={"min_new_tokens": a.tokens},
        )
        clock = Clock()
        trainer = trainer_class(
            model=a.model,
            reward_funcs=lambda completions, **kwargs: [score(c[0]["content"]) for c in completions],
            args=config,
            train_dataset=datasets.Dataset.from_list([{"prompt": p} for p in prompts]),
            processing_class=AutoTokenizer.from_pretrained(a.model, padding_side="left"),
            callbacks=[clock],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
        length = [
            h["completions/mean_length"] for h in trainer.state.log_history if "completions/mean_length" in h
        ][-1]
    return [y - x for x, y in itertools.pairwise(clock.times)], length, {}


def main() -> None:
    """Runs one warm-up step and `steps` timed ones."""
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("side", choices=["kilter", "trl"])
    p.add_argument("prompts")
    p.add_argument("model")
    p.add_argument("--method", default="grpo")
    p.add_argument("--dtype", default="float32")
    p.add_argument("--k", type=int, default=8)
    p.add_argument("--tokens", type=int, default=64)
    p.add_argument("--batch-size", type=int, default=4)
    p.add_argument("--steps", type=int, default=2)
    p.add_argument("--beta", type=float, default=0.0)
    p.add_argument("--lr", type=float, default=1e-6)
    p.add_argument("--microbatch", type=int, default=1024)
    p.add_argument("--accumulate", type=int, default=1)
    p.add_argument("--device", default="cpu")
    a = p.parse_args()
    os.environ.update(HF_HUB_OFFLINE="1", TQDM_DISABLE="1", TOKENIZERS_PARALLELISM="false")
    out, sys.stdout = sys.stdout, sys.stderr
    prompts = json.loads(Path(a.prompts).read_text())
    seconds, length, extra = {"kilter": kilter, "trl": trl}[a.side](a, prompts)
    rows = a.batch_size * a.k
    json.dump(
        {
            "side": a.side,
            "seconds": seconds,
            "completions_per_s": rows / statistics.median(seconds),
            "mean_length": length,
            "peak_mb": peak_mb(),
        }
        | extra,
        out,
    )


if __name__ == "__main__":
    main()
