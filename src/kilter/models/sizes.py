"""How large a model is, by arithmetic on its config.json: without weights, and without torch."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kilter.models.builtin import BUILTIN

KNOWN = Path(__file__).with_suffix(".json")
"""What config.json says of models that are planned where they are not on disk."""

PLAIN = {"llama": "", "mistral": "", "qwen2": "qkv", "qwen3": "norms"}
"""Families with one layout, and what their attention has besides."""

IN_NAME = re.compile(r"(?<![\w.])(\d+(?:\.\d+)?)([bBmM])(?![\w.])")
EXPERTS = re.compile(r"-A\d+(?:\.\d+)?[bB](?![\w.])")
"""What the names of mixtures say of the parameters that one token passes, as in 30B-A3B."""

UNIT = {"b": 1e9, "m": 1e6}
"""What the letter after the number in a name stands for."""
HEAD = 128
"""Width of a head, and layers are about as many as a large model has heads."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """What estimates have to know of a model.

    `kv`: numbers that one token leaves in a layer's cache; `heads`: of
    queries, and of keys; 0: not known.
    """

    parameters: int
    layers: int
    hidden: int
    inner: int
    vocabulary: int
    kv: int = 0
    heads: tuple[int, int] = (0, 0)

    def adapter(self, rank: int) -> int:
        """Parameters of low-rank adapters on every linear layer."""
        return rank * self.layers * (9 * self.hidden + self.kv + 3 * self.inner)

    def activations(self, tokens: int, half: bool, checkpointing: bool, adapted: bool) -> float:
        """Bytes that the layers keep for the backward.

        Autocast keeps norms' inputs and rotated queries and keys in float32.
        """
        width, wide = (2, 12) if half else (4, 8)
        layer = (wide + 3 * adapted) * self.hidden + (3 + adapted) * self.inner
        kept = self.layers * self.hidden + layer if checkpointing else self.layers * layer
        return width * kept * tokens


def counted(config: Mapping[str, Any]) -> Sizes | None:
    """Sizes of a decoder of a plain family; None for any other, whose layers nobody can count from here."""
    extra = PLAIN.get(config.get("model_type", ""))
    if extra is None:
        return None
    hidden, layers, inner = (config[k] for k in ("hidden_size", "num_hidden_layers", "intermediate_size"))
    heads = config["num_attention_heads"]
    shared = config.get("num_key_value_heads") or heads
    width = config.get("head_dim") or hidden // heads
    biased = bool(config.get("attention_bias"))

    # Queries and output, keys and values, the three matrices of the MLP, two norms.
    attention = 2 * hidden * heads * width + 2 * hidden * shared * width
    attention += (heads + 2 * shared) * width * (extra == "qkv" or biased) + hidden * biased
    attention += 2 * width * (extra == "norms")
    mlp = 3 * hidden * inner + (2 * inner + hidden) * bool(config.get("mlp_bias"))
    tied = bool(config.get("tie_word_embeddings", False))
    total = config["vocab_size"] * hidden * (1 if tied else 2) + layers * (attention + mlp + 2 * hidden)
    return Sizes(
        total + hidden, layers, hidden, inner, config["vocab_size"], 2 * shared * width, (heads, shared)
    )


def guessed(parameters: float) -> Sizes:
    """A usual shape of so many parameters: 12 layers * hidden^2, heads of 128, an eighth of them shared."""
    layers = max(1, round((parameters / (12 * HEAD**2)) ** (1 / 3)))
    hidden = HEAD * layers
    return Sizes(round(parameters), layers, hidden, 3 * hidden, 128_000, hidden // 4)


def sizes_of(model: str) -> tuple[Sizes, str] | None:
    """(sizes, where they are from) of a folder, of a known model, or by the number in a name; else None."""
    folder = Path(model).expanduser()
    for path in (folder / "config.json", folder / "model" / "config.json"):
        if path.is_file() and (found := counted(json.loads(path.read_text(encoding="utf-8")))) is not None:
            return found, str(path)
    # A built-in model is one of the Hub under a short name.
    short = model.removeprefix("builtin:")
    name = BUILTIN[short].upstream if short != model and short in BUILTIN else model
    known = json.loads(KNOWN.read_text(encoding="utf-8"))
    if name in known and (found := counted(known[name])) is not None:
        return found, "its published config.json"
    if (named := IN_NAME.search(model)) is not None:
        dense = ", as if its experts were one dense model" if EXPERTS.search(model) else ""
        return guessed(float(named[1]) * UNIT[named[2].lower()]), f"the number in its name{dense}"
    return None
