"""Which way each architecture of transformers is run, found by the proof: writes the table of docs/models.md.

    python -m bench.architectures                    # every name of AutoModelForCausalLM
    python -m bench.architectures gemma2 mamba       # some of them
    python -m bench.architectures --write            # into docs/models.md

Each model is built tiny and random from its own configuration class. What the proof settles on is checked
once more against a copy that Kilter never touched, on other rows.
"""

from __future__ import annotations

import argparse
import copy
import gc
import signal
import sys
import time
import warnings
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

DOCS = Path(__file__).resolve().parents[1] / "docs" / "models.md"
BEGIN, END = "<!-- table -->", "<!-- /table -->"
SECONDS = 150
"""What one architecture may take."""

SMALL: dict[str, Any] = {
    "vocab_size": 264,
    "hidden_size": 32,
    "d_model": 32,
    "n_embd": 32,
    "dim": 32,
    "embed_dim": 32,
    "word_embed_proj_dim": 32,
    "embedding_size": 32,
    "embedding_dim": 32,
    "input_hidden_size": 32,
    "intermediate_size": 48,
    "intermediate_size_mlp": 48,
    "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 16,
    "moe_shared_expert_intermediate_size": 16,
    "shared_intermediate_size": 16,
    "expert_ffn_hidden_size": 16,
    "ffn_hidden_size": 48,
    "ffn_dim": 48,
    "n_inner": 48,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "attention_hidden_size": 32,
    "num_hidden_layers": 2,
    "n_layer": 2,
    "n_layers": 2,
    "num_layers": 2,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "num_attention_heads": 4,
    "n_head": 4,
    "n_heads": 4,
    "num_heads": 4,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_kv_heads": 2,
    "head_dim": 8,
    "attention_head_dim": 8,
    "v_head_dim": 8,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 8,
    "qk_head_dim": 16,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "o_lora_rank": 16,
    "num_experts": 4,
    "num_local_experts": 4,
    "n_routed_experts": 4,
    "moe_num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_k": 2,
    "moe_topk": 2,
    "rotary_dim": 4,
    "n_group": 1,
    "topk_group": 1,
    "n_shared_experts": 1,
    "first_k_dense_replace": 1,
    "state_size": 8,
    "time_step_rank": 4,
    "mamba_d_state": 8,
    "mamba_d_ssm": 64,
    "mamba_d_head": 16,
    "mamba_n_heads": 4,
    "mamba_num_heads": 4,
    "mamba_head_dim": 16,
    "mamba_n_groups": 1,
    "mamba_dt_rank": 4,
    "ssm_state_size": 8,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "lru_width": 32,
    "max_position_embeddings": 256,
    "n_positions": 256,
    "max_sequence_length": 256,
    "sliding_window": 12,
    "attention_window_size": 12,
    "attention_chunk_size": 12,
    "window_size": 12,
    "mamba_chunk_size": 16,
    "chunk_size": 16,
    "hidden_size_per_layer_input": 8,
    "vocab_size_per_layer_input": 264,
    "moe_layer_start_index": 1,
    "num_nextn_predict_layers": 0,
    "num_mtp_layers": 0,
    "index_n_heads": 2,
    "index_head_dim": 16,
    "index_topk": 64,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "bos_token_id": 2,
}
"""What a field becomes where a configuration has it, so that any architecture is small."""

OWN: dict[str, dict[str, Any]] = {
    "deepseek_v2": {"num_experts_per_tok": 2, "topk_method": "greedy", "num_key_value_heads": 4},
    "dots1": {"n_shared_experts": 1, "n_routed_experts": 4, "num_experts_per_tok": 2},
    "gemma3n_text": {"num_kv_shared_layers": 0},
    "prophetnet": {"num_encoder_layers": 2, "num_decoder_layers": 2, "num_hidden_layers": None},
    "qwen4_exp_text": {"num_experts_per_tok": 2, "num_experts": 4},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "mamba2": {"num_heads": 8, "head_dim": 8, "expand": 2, "n_groups": 1, "state_size": 8},
    "nemotron": {"head_dim": 8},
    "reformer": {"is_decoder": True, "axial_pos_embds": False},
    "kimi_linear": {"head_dim": 8},
}
"""Fields of single architectures that the table above makes impossible."""

OTHERWISE: tuple[dict[str, Any], ...] = (
    {},
    {"num_key_value_heads": 4, "num_kv_heads": 4},
    {"head_dim": 8},
    {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}, "head_dim": 8},
    {"head_dim": None, "num_attention_heads": None, "num_key_value_heads": None},
    {"hidden_size_per_layer_input": None, "vocab_size_per_layer_input": None, "layer_types": None},
)
"""What is tried in turn until a model can be built; None leaves a field as it is."""


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    name: str
    model: str
    way: str
    note: str = ""


def names() -> dict[str, str]:
    """Every architecture that AutoModelForCausalLM knows, with its class."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    return {
        name: str(c if isinstance(c, str) else c[0]) for name, c in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.items()
    }


def shrunk(config: Any, own: dict[str, Any]) -> dict[str, Any]:
    """The fields of a configuration that have to be small, its parts included."""
    small = {n: v for n, v in (SMALL | own).items() if v is not None and _has(config, n, n in own)}
    # Latent attention has as many heads of keys as of queries.
    if "kv_lora_rank" in small and "num_key_value_heads" not in own:
        small |= {"num_key_value_heads": 4} if "num_key_value_heads" in small else {}
    layers = next((getattr(config, n) for n in LAYERS if isinstance(getattr(config, n, None), int)), None)
    for name, value in vars(config).items():
        if hasattr(value, "to_dict") and hasattr(value, "model_type"):
            small[name] = type(value)(**shrunk(value, own))
        # One entry per layer; the last two hold the kinds that a pattern ends with.
        elif (
            isinstance(value, list) and layers is not None and len(value) == layers > 2 and name not in small
        ):
            small[name] = [value[0], value[-1]]
    return small


def _has(config: Any, name: str, asked: bool) -> bool:
    """Whether a configuration has this field, as one value that can be set; one that is asked for may be unset."""
    owned = getattr(type(config), name, None)
    if isinstance(owned, property) and owned.fset is None:
        return False
    try:
        return hasattr(config, name) if asked else getattr(config, name, None) is not None
    # A field that differs from layer to layer refuses to be read as one number.
    except Exception:
        return False


LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers")


def build(name: str) -> Any:
    """A tiny random model of an architecture; raises whatever its code raises to the first attempt."""
    problems = []
    for changes in OTHERWISE:
        try:
            return _built(name, changes)
        except TimeoutError:
            raise
        except Exception as error:
            problems.append(error)
    raise problems[0]


def _built(name: str, changes: dict[str, Any]) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM

    kind = type(AutoConfig.for_model(name))
    config = kind(**shrunk(kind(), OWN.get(name, {}) | changes))
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    # From the usual start all logits are nearly alike, and any forward pass would agree with any other.
    with torch.no_grad():
        for p in model.parameters():
            if p.dtype.is_floating_point and p.ndim >= 2:
                p.normal_(0.0, 0.12)
    model.eval()
    loaded = model.config._attn_implementation
    _eager(model)
    with torch.no_grad():
        logits = model(input_ids=torch.randint(5, 200, (1, 40)), use_cache=False).logits
    if not bool(torch.isfinite(logits).all()):
        raise ValueError("its logits are not finite at this size")
    if model.config._attn_implementation != loaded:
        model.set_attn_implementation(loaded)
    return model


def swept(name: str, model_name: str) -> Row:
    """What becomes of one architecture."""
    from kilter.errors import UserError

    try:
        model = build(name)
    except Exception as error:
        return Row(name, model_name, "not built", _short(error))
    try:
        return _proven(name, model_name, model)
    except UserError as error:
        return Row(name, model_name, "refused", error.problem)
    except Exception as error:
        return Row(name, model_name, "failed", _short(error))


def _too_long(*_: object) -> None:
    raise TimeoutError(f"more than {SECONDS} s")


def _short(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:90]}"


def _proven(name: str, model_name: str, model: Any) -> Row:
    """The proof, and a second look by transformers alone at rows that the proof did not see."""
    from kilter.models import proof
    from kilter.models.forward import Scorer
    from kilter.models.noise import switch_off_dropout

    untouched = copy.deepcopy(model)
    seen = proof.observe(model, 256)
    switch_off_dropout(model)
    scorer = Scorer(model)
    finding = proof.prove(scorer, seen)
    gap = check(untouched, scorer)
    note = "" if gap <= 2e-3 else f"WRONG by {gap:.1e}"
    way = {"shared": "shared prompts", "rows": "plain rows", "own": "own logits"}[finding.way.path]
    if finding.way.scale is not None:
        note = f"{note} logits times {finding.way.scale:.4g}".strip()
    if finding.way.still != "nothing":
        note = f"{note} still in training".strip()
    return Row(name, model_name, way, note)


def check(untouched: Any, scorer: Any) -> float:
    """Largest difference to transformers alone, in training mode, on rows of 40 to 60 tokens."""
    from kilter.models import proof

    _eager(untouched)
    g = torch.Generator().manual_seed(7)
    batch = proof.rows(200, 50)
    batch = batch.with_(
        prompts_N=tuple(torch.randint(5, 200, (n,), generator=g) for n in (40, 3, 52)),
        tokens_BT=torch.randint(5, 200, batch.tokens_BT.shape, generator=g),
    )
    found = scorer.train()(batch).logps_BT.detach()
    worst = 0.0
    for row in range(batch.rows()):
        size, prompt = int(batch.length_B[row]), batch.prompts_N[int(batch.group_B[row])]
        ids = torch.cat([prompt, batch.tokens_BT[row, :size]])
        with torch.no_grad():
            log_p = untouched(input_ids=ids[None], use_cache=False).logits[0].float().log_softmax(-1)
        want = log_p[torch.arange(len(prompt) - 1, len(ids) - 1), ids[len(prompt) :]]
        worst = max(worst, float((found[row, :size] - want).abs().max()))
    return worst


def _eager(model: Any) -> None:
    if model.config._attn_implementation != "eager":
        model.set_attn_implementation("eager")


def table(found: list[Row]) -> str:
    """The rows as Markdown, with counts above."""
    import transformers

    counts = Counter(r.way for r in found)
    lines = [
        f"transformers {transformers.__version__}, {len(found)} names: "
        + ", ".join(f"{n} {way}" for way, n in counts.most_common())
        + ".",
        "",
        "| name | class | way | note |",
        "|---|---|---|---|",
    ]
    lines += [f"| {r.name} | {r.model} | {r.way} | {_cell(r.note)} |" for r in found]
    return "\n".join(lines)


def _cell(text: str) -> str:
    text = text.replace("|", "/")
    return text if len(text) <= 90 else text[:87] + "..."


def main() -> None:
    """Sweeps, prints and, if asked, writes."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", help="architectures; default: all")
    parser.add_argument("--write", action="store_true", help="write the table into docs/models.md")
    asked = parser.parse_args()
    warnings.simplefilter("ignore")
    from transformers.utils import logging as hf_logging

    hf_logging.set_verbosity_error()
    signal.signal(signal.SIGALRM, _too_long)
    known = names()
    found = []
    for name in asked.names or sorted(known):
        begin = time.time()
        signal.alarm(SECONDS)
        row = swept(name, known[name])
        signal.alarm(0)
        print(f"{row.name:28} {row.way:15} {time.time() - begin:5.1f} s  {row.note}", flush=True)
        found.append(row)
        gc.collect()
    if asked.write:
        text = DOCS.read_text(encoding="utf-8")
        before, after = text.split(BEGIN)[0], text.split(END)[1]
        DOCS.write_text(f"{before}{BEGIN}\n{table(found)}\n{END}{after}", encoding="utf-8")
    sys.exit(any("WRONG" in r.note for r in found))


if __name__ == "__main__":
    main()
