"""Low-rank adapters through peft: attach, list, load, merge."""

from __future__ import annotations

import contextlib
import json
import re
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from kilter.errors import UserError, nearest
from kilter.models.config import AdapterSpec


def quantization(spec: AdapterSpec | None) -> Any:
    """transformers' configuration for qlora (4-bit NF4, quantised twice, bfloat16 products), else None."""
    if spec is None or spec.kind != "qlora":
        return None
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )


def attach(model: Any, spec: AdapterSpec, classifier: bool) -> Any:
    """Wraps `model` with fresh adapters; a reward head is trained in full beside them.

    Args:
        model: a transformers model; its layers are replaced in place.
        spec: which adapters, where.
        classifier: whether the model is a sequence classifier, whose head is trained in full.

    Raises:
        UserError: if `spec.target` names no layer of the model.
    """
    from peft import LoraConfig, TaskType, get_peft_model, prepare_model_for_kbit_training

    from kilter.models.transformers_names import old_names_allowed

    if spec.kind == "qlora":
        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    refuse_unfit_layers(spec, model)
    config = LoraConfig(
        r=spec.r,
        # peft declares an integer. Only an alpha that is a fraction is passed as one.
        lora_alpha=int(spec.alpha) if float(spec.alpha).is_integer() else spec.alpha,
        lora_dropout=spec.dropout,
        target_modules=spec.target,
        use_rslora=spec.kind == "rslora",
        use_dora=spec.kind == "dora",
        task_type=TaskType.SEQ_CLS if classifier else TaskType.CAUSAL_LM,
    )
    try:
        with old_names_allowed(), _tied_allowed():
            adapted = get_peft_model(model, config)
    except ValueError as error:
        reason = f"cannot be adapted ({' '.join(str(error).split())[:200]})"
        raise UserError("adapter.target", spec.target, reason, "use all-linear") from error
    if spec.kind == "dora":
        _refuse_rows_of_zeros(adapted)
    return adapted


def refuse_unfit_layers(spec: AdapterSpec, model: Any, field: str = "adapter") -> None:
    """Raises UserError where a target names no layer that takes an adapter, or the rank is above all widths.

    peft says the first only if no target fits, and the second never.

    Args:
        spec: its `target` is a pattern over whole names, or a list of names or of their ends.
        model: its modules, with or without weights.
        field: the setting that holds the adapter.
    """
    widths = _widths(spec, model, field)
    if widths and spec.r > max(widths.values()):
        widest = max(widths.values())
        problem = f"is above the width of every layer that it is for: no update has a rank above {widest}"
        raise UserError(f"{field}.r", spec.r, problem, f"use at most {widest}; 8 to 64 are usual")


def note_on_rank(spec: AdapterSpec, model: Any) -> str:
    """A sentence on the layers that are narrower than the rank; "" where there are none."""
    widths = _widths(spec, model, "adapter")
    narrow = sorted({name.rpartition(".")[2] for name, width in widths.items() if width < spec.r})
    if not narrow:
        return ""
    return (
        f"adapter.r = {spec.r} is above the width of {', '.join(narrow)}: there it adds weights and no rank"
    )


def _widths(spec: AdapterSpec, model: Any, field: str) -> dict[str, int]:
    """The highest rank of an update, for each layer that the targets name and whose shape is known."""
    modules = dict(model.named_modules())
    layers = [name for name, module in modules.items() if _holds_matrix(module)]
    if spec.target == "all-linear":
        named = [name for name in layers if isinstance(modules[name], torch.nn.Linear)]
    else:
        named = _targeted(spec, list(modules), layers, field)
    return {name: width for name in named if (width := _width(modules[name])) is not None}


def _holds_matrix(module: Any) -> bool:
    """Whether a module has a matrix of its own, as weights or, quantised, as a buffer."""
    own = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
    return any(tensor.dim() > 1 for tensor in own)


def _width(module: Any) -> int | None:
    """The smaller side of a layer's matrix; that of 4 bits is packed, and its tensor has another shape."""
    if isinstance(module, torch.nn.Linear):
        return min(module.in_features, module.out_features)
    if isinstance(module, torch.nn.Embedding):
        return min(module.num_embeddings, module.embedding_dim)
    return None


def _targeted(spec: AdapterSpec, modules: Sequence[str], layers: Sequence[str], field: str) -> list[str]:
    """The layers that the targets name. Raises UserError for a target without one, and for other modules."""
    found: list[str] = []
    for target in [spec.target] if isinstance(spec.target, str) else spec.target:
        named = _named(target, modules, f"{field}.target", isinstance(spec.target, str))
        if not named or not set(named) <= set(layers):
            problem = "names modules that take no adapter" if named else "names no layer of the model"
            ends = sorted({name.rpartition(".")[2] for name in layers} - {""})
            fix = f"use all-linear, or layers of the model: {nearest(target, ends)}"
            raise UserError(f"{field}.target", target, problem, fix)
        found += named
    return found


def _named(target: str, modules: Sequence[str], field: str, pattern: bool) -> list[str]:
    """The modules that a target names, as peft reads it. Raises UserError for a pattern that is none."""
    if not pattern:
        return [name for name in modules if name == target or name.endswith(f".{target}")]
    try:
        return [name for name in modules if re.fullmatch(target, name)]
    except re.error as error:
        fix = "mend the pattern, or give a list of names"
        raise UserError(field, target, f"is no pattern ({error})", fix) from error


def _refuse_rows_of_zeros(model: Any) -> None:
    """Dora divides by the length of each row of a weight. That of padding may be 0."""
    for name, module in model.named_modules():
        if is_adapted(module) and module.get_base_layer().weight.detach().abs().amax(-1).eq(0).any():
            raise UserError(
                "adapter.kind",
                "dora",
                f"divides by the length of weight rows, and {name.rpartition('.')[2]} has a row of zeros",
                "use lora or rslora, or leave this layer out of adapter.target",
            )


def adapted_modules(model: Any) -> str:
    """What the adapters sit on, for a person: 'q_proj x30, v_proj x30; score trained in full'."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import ModulesToSaveWrapper

    named = [(n.rpartition(".")[2], m) for n, m in model.named_modules()]
    # Every layer of a model repeats the same few names, so a count per name says it all.
    layers = Counter(n for n, m in named if isinstance(m, BaseTunerLayer))
    whole = sorted({n for n, m in named if isinstance(m, ModulesToSaveWrapper)})
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    text = ", ".join(f"{n} x{c}" for n, c in sorted(layers.items()))
    return (
        f"adapters on {text}"
        + (f"; {', '.join(whole)} trained in full" if whole else "")
        + f"; {trained:,} weights trained"
    )


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds a peft adapter rather than full weights."""
    return (folder / "adapter_config.json").is_file()


def layered(folder: Path) -> bool:
    """Whether an adapter changes single layers alone: none is replaced, and nothing else is trained.

    Some ways to start, such as pissa, also change the base while the adapter is read.
    """
    config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    further = ("modules_to_save", "trainable_token_indices", "target_parameters", "lora_bias")
    return (
        config.get("peft_type") == "LORA"
        and config.get("bias", "none") == "none"
        and isinstance(config.get("init_lora_weights", True), bool)
        and not any(config.get(name) for name in further)
    )


def load_merged(base: Any, folder: Path, dtype: torch.dtype = torch.float32) -> Any:
    """`base` with the adapter of `folder` folded into its weights: a plain transformers model again.

    Args:
        base: a model.
        folder: of the adapter.
        dtype: of the base. What is folded is computed in float32, and rounded to it once.
    """
    from peft import PeftModel

    from kilter.models.transformers_names import old_names_allowed

    if not any((folder / f"adapter_model.{end}").is_file() for end in ("safetensors", "bin")):
        fix = "copy adapter_model.safetensors into it"
        raise UserError("model", str(folder), "is an adapter without weights", fix)
    make_room(base, folder)
    with old_names_allowed(), _tied_allowed(), warnings.catch_warnings(record=True) as noted:
        warnings.filterwarnings("always", r"Found missing adapter keys")
        adapted = PeftModel.from_pretrained(base, str(folder))
    (config,) = adapted.peft_config.values()
    if config.is_prompt_learning:
        kind = str(getattr(config.peft_type, "value", config.peft_type))
        problem = f"is an adapter of the kind {kind}, which cannot be folded into weights"
        raise UserError("model", str(folder), problem, "start from its base, or from a LoRA adapter")
    # peft only warns, and leaves the adapters that it found nothing for at their random start.
    lost = [str(w.message) for w in noted if "missing adapter keys" in str(w.message)]
    if lost:
        raise UserError(
            "model",
            str(folder),
            f"is an adapter of another model: its files lack weights for this base ({lost[0][:160]})",
            "correct base_model_name_or_path in its adapter_config.json",
        )
    return fold(adapted, dtype)


def make_room(base: Any, folder: Path) -> None:
    """Gives a base rows for the further tokens of its adapter, whose files bring what stands in them.

    Raises:
        UserError: a row would be random.
    """
    tokens = tokens_of(folder, base)
    inner = base.get_input_embeddings()
    before = int(inner.weight.shape[0])
    if tokens <= before:
        return
    chosen, shapes = _chosen_tokens(folder), _shapes(folder)
    for name, end in _ends(base):
        # A bare list is of the input embedding.
        mine = [ids for key, ids in chosen.items() if (name.endswith(key) if key else end is inner)]
        single = {i for ids in mine for i in ids}
        if _rows(shapes, name) < tokens and not single.issuperset(range(before, tokens)):
            problem = (
                f"has {tokens - before} tokens more than its base, and brings no rows of {name} for them"
            )
            fix = "save it with peft's save_embedding_layers=True, or fold it there into full weights"
            raise UserError("model", str(folder), problem, fix)
    base.resize_token_embeddings(tokens, mean_resizing=False)


def tokens_of(folder: Path, base: Any) -> int:
    """Tokens that have an embedding once an adapter is over its base, with or without weights."""
    shapes = _shapes(folder)
    held = [_rows(shapes, name) for name, _ in _ends(base)]
    chosen = [i + 1 for ids in _chosen_tokens(folder).values() for i in ids]
    return max(int(base.get_input_embeddings().weight.shape[0]), *held, *chosen)


def _ends(base: Any) -> list[tuple[str, Any]]:
    """(name, module) of the input embedding, and of the output projection if its weight is another one."""
    embedding, head = base.get_input_embeddings(), base.get_output_embeddings()
    own = head is not None and not base.config.get_text_config().tie_word_embeddings
    return [(n, m) for n, m in base.named_modules() if m is embedding or (own and m is head)]


def _rows(shapes: dict[str, list[int]], name: str) -> int:
    """Rows of a whole matrix in an adapter's files; 0 where it is not there."""
    begins = f"base_model.model.{name}."
    whole = [k for k in shapes if k.startswith(begins) and k.endswith(".weight") and "lora_" not in k]
    return max((shapes[key][0] for key in whole), default=0)


def _shapes(folder: Path) -> dict[str, list[int]]:
    """Names and shapes of an adapter's weights, which are not read where the file says them by itself."""
    from peft import load_peft_weights

    path = folder / "adapter_model.safetensors"
    if path.is_file():
        with safe_open(str(path), framework="pt") as file:
            names = list(file.keys())
            return {name: list(file.get_slice(name).get_shape()) for name in names}
    found = load_peft_weights(str(folder), device="cpu")
    return {name: list(tensor.shape) for name, tensor in found.items()}


def _chosen_tokens(folder: Path) -> dict[str, list[int]]:
    """End of an embedding's name, "" for the input's, to the tokens whose rows an adapter trains."""
    config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    chosen = config.get("trainable_token_indices") or config.get("token_indices") or []
    return chosen if isinstance(chosen, dict) else {"": chosen}


def fold(model: Any, dtype: torch.dtype = torch.float32) -> Any:
    """A peft model's adapters folded into its weights: a plain transformers model that computes the same."""
    base = model.get_base_model()
    head, embedding = base.get_output_embeddings(), base.get_input_embeddings()
    # Folded into a weight that both ends share, an adapter of one of them would change the other.
    apart = head is not None and any(is_adapted(end) or _replaced(end) for end in (head, embedding))
    if apart:
        untie(base)
    if dtype == torch.float32:
        folded = model.merge_and_unload()
    else:
        _fold_exactly(model)
        folded = model.unload()
    # An adapter may bring one weight for both ends. peft then names the head's sides the wrong way round.
    if apart:
        _declare_tied(folded)
        projection = folded.get_output_embeddings()
        projection.out_features, projection.in_features = projection.weight.shape
    return folded


@torch.no_grad()
def _fold_exactly(model: Any) -> None:
    """Layer by layer in float32: peft would round the change, and then the sum."""
    from peft.tuners.lora import LoraLayer

    for layer in model.modules():
        if isinstance(layer, LoraLayer):
            weight = layer.get_base_layer().weight
            weight.data = with_lora(layer, weight.float()).to(weight.dtype)


def with_lora(layer: Any, value: torch.Tensor) -> torch.Tensor:
    """The weight of one layer of peft's with its active adapters added in. The layer stays as it is.

    Args:
        layer: a LoraLayer.
        value: the weight beneath it.
    """
    for name in layer.active_adapters:
        if name in layer.lora_A or name in layer.lora_embedding_A:
            # Dora scales the rows of the sum.
            variant = layer.lora_variant.get(name)
            plain = variant is None
            value = value + layer.get_delta_weight(name) if plain else variant.merge_safe(layer, name, value)
    return value


def untie(base: Any) -> None:
    """Gives the output projection a weight of its own, where it was the input embedding."""
    head, embedding = (_beneath(m) for m in (base.get_output_embeddings(), base.get_input_embeddings()))
    if head.weight is embedding.weight:
        head.weight = torch.nn.Parameter(head.weight.detach().clone(), head.weight.requires_grad)
    _declare_tied(base)


def _declare_tied(base: Any) -> None:
    """The configuration says whether both ends share a weight: the files of a model hold it once or twice."""
    head, embedding = (_beneath(m) for m in (base.get_output_embeddings(), base.get_input_embeddings()))
    tied = head.weight is embedding.weight
    base.config.get_text_config().tie_word_embeddings = base.config.tie_word_embeddings = tied


@contextlib.contextmanager
def _tied_allowed() -> Iterator[None]:
    """Silences peft's advice on tied weights: `fold` unties them."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"Model (has|with) `tie_word_embeddings=True`")
        yield


def is_adapted(module: Any) -> bool:
    """Whether an adapter sits on this layer."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    return isinstance(module, BaseTunerLayer)


def _replaced(module: Any) -> bool:
    """Whether an adapter brings this layer as a whole."""
    from peft.utils.other import ModulesToSaveWrapper

    return isinstance(module, ModulesToSaveWrapper)


def _beneath(module: Any) -> Any:
    """The base model's own layer."""
    if _replaced(module):
        return module.original_module
    return module.get_base_layer() if is_adapted(module) else module


def projection_weights(projection: Any) -> tuple[Tensor, Tensor | None]:
    """(weight [V, D], bias [V] or None) of an output projection, with what its adapters add to the weight."""
    if not is_adapted(projection):
        return projection.weight, getattr(projection, "bias", None)
    layer = projection.get_base_layer()
    weight = layer.weight
    active = () if projection.disable_adapters or projection.merged else projection.active_adapters
    for name in active:
        change = projection.lora_B[name].weight @ projection.lora_A[name].weight
        weight = weight + change * projection.scaling[name]
    return weight, getattr(layer, "bias", None)


def reads_own_logits(model: Any) -> str:
    """Why the logits of an adapted model cannot come from one weight matrix; "" where they can."""
    head = model.get_base_model().get_output_embeddings()
    if head is None or not is_adapted(head):
        return ""
    if any(module.p > 0 for module in head.lora_dropout.values() if isinstance(module, torch.nn.Dropout)):
        return "the adapter on the output projection has a dropout"
    return "the adapter on the output projection is dora" if any(head.lora_variant.values()) else ""
