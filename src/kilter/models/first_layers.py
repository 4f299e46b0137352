"""The first layers of a built-in model, read straight from its file: no copy of it is made in the cache."""

from __future__ import annotations

from typing import Any

import torch

from kilter.models.resolve import builtin_file


def first_layers(reference: str, field: str, n: int, dtype: torch.dtype) -> tuple[Any, Any]:
    """The tokenizer, which adds no tokens of its own, and a model that ends with the states of layer n.

    Args:
        reference: `builtin:NAME`, a Llama by its shape.
        field: the option that names it, for messages.
        n: how many layers are read.
        dtype: of the weights.

    Raises:
        UserError: if its package is missing, or holds another file.
    """
    from gguf import MODEL_ARCH, GGUFReader, get_tensor_name_map
    from gguf.quants import dequantize
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaModel

    held = GGUFReader(builtin_file(reference, field))

    def value(name: str) -> Any:
        return held.fields[name].contents()

    # Transformers would parse the whole file once for each part, and dequantise all layers.
    parts = (line.split(" ") for line in value("tokenizer.ggml.merges"))
    vocabulary = {token: i for i, token in enumerate(value("tokenizer.ggml.tokens"))}
    tokenizer = Tokenizer(models.BPE(vocabulary, [(a, b) for a, b in parts]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    config = LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=value("llama.embedding_length"),
        intermediate_size=value("llama.feed_forward_length"),
        num_hidden_layers=n,
        num_attention_heads=value("llama.attention.head_count"),
        num_key_value_heads=value("llama.attention.head_count_kv"),
        max_position_embeddings=value("llama.context_length"),
        rms_norm_eps=value("llama.attention.layer_norm_rms_epsilon"),
        rope_parameters={"rope_type": "default", "rope_theta": value("llama.rope.freq_base")},
    )
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    with torch.device("meta"):
        model = LlamaModel(config)
    tensors = {tensor.name: tensor for tensor in held.tensors}
    names = get_tensor_name_map(MODEL_ARCH.LLAMA, n)
    weights = {}
    for key in model.state_dict():
        tensor = tensors[names.get_name(f"model.{key}", (".weight",))]
        weight = torch.tensor(dequantize(tensor.data, tensor.tensor_type))
        # A GGUF interleaves the two halves that a rotary embedding turns.
        if head := heads.get(key.split(".")[-2]):
            rows, width = weight.shape
            weight = weight.view(head, rows // head // 2, 2, width).transpose(1, 2).reshape(rows, width)
        weights[key] = weight.to(dtype)
    model.load_state_dict(weights, assign=True)
    model.rotary_emb = type(model.rotary_emb)(config)
    model.norm = torch.nn.Identity()
    return tokenizer, model.eval()
