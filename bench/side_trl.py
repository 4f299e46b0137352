"""One TRL DPOTrainer run on the same token ids in a process of its own; prints one JSON object on standard output.

TRL's best settings for these rows: precision set explicitly, no gradient checkpointing, reference log-probs precomputed
(timed and added, as on Kilter's side), no saving, no evaluation, sequential order.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time


def main() -> None:
    """Trains `steps` optimizer steps on rows in order."""
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("rows")
    p.add_argument("model")
    p.add_argument("--dtype", default="float32")
    p.add_argument("--pure", action="store_true", help="bfloat16 weights instead of autocast")
    p.add_argument("--batch-size", type=int, default=4)
    p.add_argument("--steps", type=int, default=8)
    p.add_argument("--lr", type=float, default=1e-6)
    a = p.parse_args()
    os.environ.update(HF_HUB_OFFLINE="1", TQDM_DISABLE="1", TOKENIZERS_PARALLELISM="false")
    out, sys.stdout = sys.stdout, sys.stderr
    import datasets
    import torch
    from transformers import AutoTokenizer, PrinterCallback, TrainerCallback
    from trl import DPOConfig, DPOTrainer

    from bench.side_kilter import peak_mb

    datasets.disable_progress_bars()
    keys = ("prompt_ids", "chosen_ids", "rejected_ids")
    with open(a.rows) as f:
        rows = [json.loads(line) for line in f][: a.steps * a.batch_size]
    table = datasets.Dataset.from_list([{k: r[k] for k in keys} for r in rows])
    reference_s = 0.0

    class OnTokenIds(DPOTrainer):
        """Takes rows that are tokenised already, and times the reference pass."""

        def _prepare_dataset(self, dataset, *args, **kwargs):
            return dataset

        def _precompute_ref_logps(self, *args, **kwargs):
            nonlocal reference_s
            clock = time.perf_counter()
            found = super()._precompute_ref_logps(*args, **kwargs)
            reference_s += time.perf_counter() - clock
            return found

    class Clock(TrainerCallback):
        """Wall time of each step."""

        def __init__(self):
            self.steps = []

        def on_step_begin(self, *args, **kwargs):
            self.begin = time.perf_counter()

        def on_step_end(self, *args, **kwargs):
            self.steps.append(time.perf_counter() - self.begin)

    gpu = torch.cuda.is_available()
    with tempfile.TemporaryDirectory() as folder:
        config = DPOConfig(
            output_dir=folder,
            use_cpu=not gpu,
            report_to="none",
            disable_tqdm=True,
            save_strategy="no",
            eval_strategy="no",
            logging_strategy="steps",
            logging_steps=1,
            max_steps=a.steps,
            per_device_train_batch_size=a.batch_size,
            gradient_accumulation_steps=1,
            train_sampling_strategy="sequential",
            learning_rate=a.lr,
            lr_scheduler_type="constant",
            warmup_steps=0,
            optim="adamw_torch_fused",
            weight_decay=0.0,
            max_grad_norm=1.0,
            bf16=a.dtype == "bfloat16" and not a.pure,
            gradient_checkpointing=False,
            beta=0.1,
            max_length=None,
            precompute_ref_log_probs=True,
            model_init_kwargs={"dtype": "bfloat16" if a.pure else "float32"},
            seed=0,
        )
        clock = Clock()
        trainer = OnTokenIds(
            model=a.model,
            args=config,
            train_dataset=table,
            callbacks=[clock],
            processing_class=AutoTokenizer.from_pretrained(a.model),
        )
        trainer.remove_callback(PrinterCallback)
        begin = time.perf_counter()
        trainer.train()
        train_s = time.perf_counter() - begin
    steps = [h for h in trainer.state.log_history if "loss" in h]
    pairs = len(rows)
    json.dump(
        {
            "side": "trl",
            "steps": steps,
            "train_s": train_s,
            "reference_s": reference_s,
            "pairs_per_s": pairs / (train_s + reference_s),
            "train_pairs_per_s": pairs / train_s,
            "peak_mb": peak_mb(),
        },
        out,
    )


if __name__ == "__main__":
    main()
