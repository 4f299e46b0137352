"""Seconds and memory of what a rollout worker does before and beside vLLM's own start, at a 7B's shape.

    python -m bench.engine_start FOLDER --layers 8

FOLDER gets random bfloat16 weights of Qwen2.5-7B's shape with so many layers, and an adapter of rank 16 over
them. The whole model has 28, which need 15 GB of disk and, with the adapter, 31 GB of memory.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file


@dataclass(frozen=True)
class Shape:
    """Of a model; that of Qwen2.5-7B."""

    words: int = 152064
    width: int = 3584
    inner: int = 18944
    keys: int = 512
    heads: int = 28

    def projections(self) -> dict[str, tuple[int, int]]:
        """Rows and columns of a layer's matrices, by name."""
        return {
            "self_attn.q_proj": (self.width, self.width),
            "self_attn.k_proj": (self.keys, self.width),
            "self_attn.v_proj": (self.keys, self.width),
            "self_attn.o_proj": (self.width, self.width),
            "mlp.gate_proj": (self.inner, self.width),
            "mlp.up_proj": (self.inner, self.width),
            "mlp.down_proj": (self.width, self.inner),
        }


def make(folder: Path, layers: int, shape: Shape = Shape(), words_of: str = "builtin:smollm2-135m") -> None:
    """A model in several files with the tokenizer of another, and an adapter beside it."""
    from kilter.models.resolve import resolve
    from kilter.models.tokenizer import load_tokenizer

    folder.mkdir(parents=True)
    tokenizer = load_tokenizer(resolve(words_of))
    config = {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "vocab_size": shape.words,
        "hidden_size": shape.width,
        "intermediate_size": shape.inner,
        "num_hidden_layers": layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": 4,
        "max_position_embeddings": 32768,
        "tie_word_embeddings": False,
        "dtype": "bfloat16",
    }
    (folder / "config.json").write_text(json.dumps(config))
    noise = (torch.randn(1 << 22) * 0.02).bfloat16()

    def drawn(*shape: int) -> torch.Tensor:
        size = torch.Size(shape).numel()
        turned = noise.roll(int(torch.randint(0, 1000, (1,))))
        return turned.repeat(size // len(turned) + 1)[:size].view(shape).clone()

    index, adapter = {}, {}

    def write(number: int, part: dict[str, torch.Tensor]) -> None:
        save_file(part, folder / f"model-{number:05}.safetensors", metadata={"format": "pt"})
        index.update(dict.fromkeys(part, f"model-{number:05}.safetensors"))

    ends, norm_of = (shape.words, shape.width), torch.ones(shape.width).bfloat16()
    write(0, {"model.embed_tokens.weight": drawn(*ends)})
    write(1, {"lm_head.weight": drawn(*ends), "model.norm.weight": norm_of})
    for layer in range(layers):
        at, part = f"model.layers.{layer}", {}
        for norm in ("input_layernorm", "post_attention_layernorm"):
            part[f"{at}.{norm}.weight"] = norm_of.clone()
        for name, (rows, columns) in shape.projections().items():
            part[f"{at}.{name}.weight"] = drawn(rows, columns)
            if name[-6] in "qkv":
                part[f"{at}.{name}.bias"] = drawn(rows)
            adapter[f"base_model.model.{at}.{name}.lora_A.weight"] = torch.randn(16, columns) * 0.01
            adapter[f"base_model.model.{at}.{name}.lora_B.weight"] = torch.randn(rows, 16) * 0.01
        write(2 + layer, part)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    tokenizer.save_pretrained(str(folder))

    over = adapted(folder)
    over.mkdir()
    save_file(adapter, over / "adapter_model.safetensors", metadata={"format": "pt"})
    settings = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": str(folder.resolve()),
        "r": 16,
        "lora_alpha": 32,
        "target_modules": [name.rpartition(".")[2] for name in shape.projections()],
        "inference_mode": True,
    }
    (over / "adapter_config.json").write_text(json.dumps(settings))
    tokenizer.save_pretrained(str(over))


def adapted(folder: Path) -> Path:
    """Folder of the adapter over a model."""
    return folder.with_name(folder.name + "-adapter")


class Meter:
    """Measures steps: wall and CPU seconds, and the most memory of this process and of /dev/shm."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, float, float, float]] = []
        self._most, self._shared, self._ended = 0, self._in_memory(), threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    @staticmethod
    def _in_memory() -> int:
        facts = os.statvfs("/dev/shm")
        return (facts.f_blocks - facts.f_bfree) * facts.f_frsize

    def _now(self) -> int:
        status = Path("/proc/self/status").read_text()
        own = int(status.partition("RssAnon:")[2].split()[0]) * 1024
        return own + self._in_memory() - self._shared

    def _watch(self) -> None:
        while not self._ended.wait(0.02):
            self._most = max(self._most, self._now())

    def close(self) -> None:
        """Looks no more."""
        self._ended.set()
        self._thread.join()

    @contextlib.contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Measures what is done in it."""
        self._most, wall, cpu = self._now(), time.perf_counter(), time.process_time()
        yield
        took = time.perf_counter() - wall, time.process_time() - cpu
        self.rows.append((name, *took, self._most / 1e9))
        print("| {} | {:.1f} | {:.1f} | {:.1f} |".format(*self.rows[-1]), flush=True)


def main() -> None:
    """Makes the model where it is not there, and takes the steps."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--adapter", action="store_true", help="begin from the adapter, as a stage after SFT")
    asked = parser.parse_args()
    if not asked.folder.exists():
        make(asked.folder, asked.layers)
    print("| step | wall s | CPU s | most memory GB |\n|---|---|---|---|")
    meter = Meter()
    with meter.step("import"):
        from transformers import AutoModelForCausalLM  # noqa: F401

        from kilter.cluster.weights import checksums
        from kilter.roles.open import OpenSpec, open_encoder, open_engine_weights
        from kilter.sampling.vllm_weights import EngineFolder, Holdings, shared_folder
    opening = OpenSpec(
        adapted(asked.folder) if asked.adapter else asked.folder, dtype="bfloat16", max_length=1024
    )
    with contextlib.ExitStack() as cleanup:
        cleanup.callback(meter.close)
        with meter.step("tokenizer"):
            encoder = open_encoder(opening)
        with meter.step("open and merge the weights"):
            model, files = open_engine_weights(opening, encoder, torch.bfloat16)
        with meter.step("put them where the engine reads"):
            folder = EngineFolder(shared_folder(cleanup), model, torch.bfloat16, False, files)
        del model
        size = sum(t.numel() * t.element_size() for t in folder.started.values())
        with meter.step("checksums of all"):
            sums = checksums(folder.started)
        with meter.step("compare them with the engine's"):
            assert len(Holdings(folder.started, sums, folder.embedding).expected(folder.started)) == len(sums)
    total = sum(wall for _, wall, _, _ in meter.rows)
    print(f"| all, of {size / 1e9:.3g} GB | {total:.1f} | {sum(r[2] for r in meter.rows):.1f} | |")


if __name__ == "__main__":
    main()
