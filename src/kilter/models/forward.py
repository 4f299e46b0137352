"""The model as the loop sees it: a Layout in, log-probs (or scores) of the completions out.

There are three ways to the same numbers, which proof.py compares with the model's own:

    shared   a group's prompt is encoded once for all its completions
    rows     one row per completion, its states through Kilter's head
    own      one row at a time through the whole model, whose logits are taken as they are
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from inspect import Parameter, signature
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from kilter.batch import Batch, Outputs
from kilter.models import attention
from kilter.models.adapters import projection_weights
from kilter.models.divergence import Teacher, token_divergence
from kilter.models.logprobs import Head, plain_token_logps, token_logps
from kilter.models.packing import Layout, pack
from kilter.models.products import take_over
from kilter.models.slim import slim, slimmed
from kilter.runtime import keep_freed_memory

keep_freed_memory()

Path = Literal["shared", "rows", "own"]
Still = Literal["nothing", "inner", "all"]


@dataclass(frozen=True, slots=True)
class Way:
    """How a model is run so that its numbers are its own."""

    path: Path = "shared"
    attention: str | None = None
    """transformers' name of the attention of plain rows; None: the one that the model was loaded with."""
    scale: float | None = None
    """Factor of the logits; None: what the configuration declares."""
    softcap: float | None = None
    """Bound of the logits, beside a `scale` that is not None."""
    still: Still = "nothing"
    """Modules that stay in evaluation mode while the model trains, for they draw random numbers or change."""


@dataclass(frozen=True, slots=True)
class Routed:
    """What the routers of a mixture of experts said of some tokens.

    logits: of each layer, [tokens, experts]. times_1L: how often each token is read, 0 for padding.
    """

    logits: tuple[Tensor, ...]
    times_1L: Tensor


class Scorer(nn.Module):
    """Wraps a transformers causal LM or sequence classifier, adapted or not, for training and scoring.

    `forward` is the one entry point, so that DDP and FSDP hooks see every call. Output float32, [B, T] or
    [B].
    """

    def __init__(self, model: Any, shared: bool = True, known: Collection[str] | None = None) -> None:
        """known: see slim."""
        super().__init__()
        self.model = model
        self.shared = shared
        self.way = Way("shared" if shared else "rows")
        self.decodes_shared: bool | None = None
        self.decodes_cached = True
        # In lists, so that their weights are not among this module's parameters.
        self._teacher: list[tuple[Teacher, float]] = []
        self._still: list[nn.Module] = []
        self.loaded_attention: str = self._base().config._attn_implementation
        if shared:
            self._base().set_attn_implementation(attention.NAME)
        slim(self._base(), known)
        take_over(self._base())

    @property
    def slimmed(self) -> list[str]:
        """Names of the layers that keep less for the backward than the model's own."""
        return slimmed(self._base())

    def follow(self, way: Way) -> None:
        """Runs the model this way from now on."""
        self.way, self.shared = way, way.path == "shared"
        name = attention.NAME if self.shared else way.attention or self.loaded_attention
        if self._base().config._attn_implementation != name:
            self._base().set_attn_implementation(name)
        self._still = list(_kept_still(self._base(), way.still))
        self.train(self.training)

    def train(self, mode: bool = True) -> Scorer:
        """As of any module, but for those that have to stay as they are in evaluation."""
        super().train(mode)
        for module in self._still:
            module.training = False
        return self

    def _base(self) -> Any:
        """The transformers model under a peft wrapper, if there is one."""
        return self.model.get_base_model() if hasattr(self.model, "peft_config") else self.model

    @property
    def policy(self) -> Scorer:
        """The model that answers: this one, where no critic trains beside it."""
        return self

    @property
    def critic(self) -> Scorer | None:
        """None: see ActorCritic."""
        return None

    @property
    def device(self) -> torch.device:
        """Where the parameters live."""
        device: torch.device = next(self.model.parameters()).device
        return device

    @property
    def classifies(self) -> bool:
        """Whether the model scores a row instead of predicting tokens."""
        base = self._base()
        return base.get_output_embeddings() is None and hasattr(base, "score")

    @property
    def vocabulary(self) -> int:
        """Token ids that have an embedding; a tokenizer may have more."""
        base = self._base()
        weight = getattr(base.get_input_embeddings(), "weight", None)
        return int(base.config.get_text_config().vocab_size if weight is None else weight.shape[0])

    def head(self) -> Head:
        """The output projection with the model's own scale and soft cap; adapters on it included."""
        if self.way.path == "own":
            return Head(None)
        base = self._base()
        projection = base.get_output_embeddings()
        weight, bias = projection_weights(projection)
        if self.way.scale is not None:
            return Head(weight, bias, self.way.scale, self.way.softcap)
        scale, softcap = declared_head(base.config.get_text_config())
        return Head(weight, bias, scale, softcap)

    def teach(self, teacher: Teacher, beta: float) -> None:
        """Makes "divergence" an output: from `teacher`, which is frozen, with share beta in the mixture."""
        self._teacher = [(teacher, beta)]

    def begin(self, batches: Sequence[Batch], amp: bool = False) -> None:
        """Tells the teacher of the micro-batches that come next: one elsewhere reads them meanwhile."""
        for teacher, _ in self._teacher:
            teacher.begin(batches, amp)

    def copy(self) -> Scorer:
        """The same model in memory of its own. A teacher is frozen, and shared."""
        return copy.deepcopy(self, {id(teacher): teacher for teacher, _ in self._teacher})

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        """Moves and casts (to, cuda, double) take the teacher along, although it is not a submodule."""
        for teacher, _ in self._teacher:
            teacher._apply(fn, recurse)
        return super()._apply(fn, recurse)  # type: ignore[no-untyped-call]

    def hidden(
        self, layout: Layout, embeddings: Tensor | None = None, routed: list[Routed] | None = None
    ) -> Tensor:
        """Last hidden states of the decoder, flattened to [positions, D].

        Args:
            layout: tokens, positions and who attends to whom.
            embeddings: [rows, width, D], which take the place of the token ids.
            routed: takes what the routers of a mixture of experts said; None: they are not asked.
        """
        decoder = decoder_of(self._base(), self.classifies)
        extra: dict[str, Any] = {}
        mask = layout.attention_mask
        if layout.segments is not None:
            # A 4-D mask passes through transformers untouched, and the shared attention ignores it.
            extra["kilter_segments"] = layout.segments
            mask = torch.ones(1, 1, 1, 1, dtype=torch.bool, device=layout.input_ids.device)

        # Plain rows count from 0, which is what a model without this argument does by itself.
        if layout.segments is not None or takes(decoder, "position_ids"):
            extra["position_ids"] = layout.position_ids
        source = {"input_ids": layout.input_ids} if embeddings is None else {"inputs_embeds": embeddings}
        if routed is not None:
            extra["output_router_logits"] = True
        out = decoder(**source, attention_mask=mask, use_cache=False, **extra)
        if routed is not None:
            routed.append(Routed(out.router_logits, times_read(layout)))
        states = out.last_hidden_state
        return states.reshape(-1, states.shape[-1])  # type: ignore[no-any-return]

    def own_logits(
        self, layout: Layout, embeddings: Tensor | None = None, routed: list[Routed] | None = None
    ) -> Tensor:
        """What the model itself makes of each row, read alone and without padding: [S, V] logits.

        Args:
            layout: plain rows.
            embeddings: [rows, width, D], which take the place of the token ids.
            routed: takes what the routers of a mixture of experts said; None: they are not asked.
        """
        base, width = self._base(), layout.input_ids.shape[1]
        assert layout.attention_mask is not None
        lengths, row_S = layout.attention_mask.sum(1).tolist(), layout.predict_S // width
        keeps = takes(base, "logits_to_keep")
        found = []
        for row, length in enumerate(lengths):
            place_S = layout.predict_S[row_S == row] - row * width
            if not len(place_S):
                continue
            # Logits of the prompt are not needed. They would be most of the memory.
            first = int(place_S.min()) if keeps else 0
            extra: dict[str, Any] = {"logits_to_keep": length - first} if first else {}
            extra |= {} if routed is None else {"output_router_logits": True}
            source = (
                {"input_ids": layout.input_ids[row : row + 1, :length]}
                if embeddings is None
                else {"inputs_embeds": embeddings[row : row + 1, :length]}
            )
            out = base(**source, use_cache=False, **extra)
            # A model that takes any argument may not know this one, and keep them all.
            left_out = length - out.logits.shape[1]
            found.append(out.logits[0].index_select(0, place_S - left_out))
            if routed is not None:
                ones = torch.ones(1, length, device=layout.input_ids.device)
                routed.append(Routed(out.router_logits, ones))
        return torch.cat(found)

    def predicting(self, batch: Batch, amp: bool = False, rooted: bool = False) -> Tensor:
        """The states that predict the trained tokens, [S, D]; on the model's own path its logits [S, V].

        Their order is that of rows and tokens, whatever the path. rooted: see pack.
        """
        return self._read(pack(batch, self.shared, rooted).to(self.device), amp)[0]

    def _read(self, layout: Layout, amp: bool, routed: list[Routed] | None = None) -> tuple[Tensor, Tensor]:
        """(what predicts the trained tokens [S, D], all states [positions, D]); see `predicting`."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=amp):
            if self.way.path == "own":
                logits_SV = self.own_logits(layout, routed=routed)
                return logits_SV, logits_SV
            states = self.hidden(layout, routed=routed)
        picked_SD = states.index_select(0, layout.predict_S)
        return picked_SD.to(torch.bfloat16) if amp else picked_SD, states

    def forward(
        self,
        batch: Batch,
        outputs: frozenset[str] = frozenset({"logps"}),
        temperature: float = 1.0,
        amp: bool = False,
    ) -> Outputs:
        """Runs one micro-batch.

        Args:
            batch: groups of prompt and completions.
            outputs: which fields of Outputs to compute, without their suffixes.
            temperature: divides the logits, so that log-probs are those of a sampler at that temperature.
            amp: whether to compute in bfloat16 where autocast allows it.

        Returns:
            What was asked for, float32: [B, T] per token, or [B] for scores. A value belongs to the state
                before its token, so it is read where the token is predicted.
        """
        if "embeddings" in outputs:
            return self._twice_differentiable(batch, temperature, amp)

        layout = pack(batch, self.shared).to(self.device)
        routed: list[Routed] | None = [] if "aux_loss" in outputs else None
        picked_SD, states = self._read(layout, amp, routed)

        # All that the language-model head gives comes from the states that predict a trained token.
        made: dict[str, Tensor | None] = {}
        if routed is not None:
            made["aux_loss"] = balance(self._base(), routed)
        if outputs & {"logps", "entropy", "collision", "divergence"}:
            entropy, collision = "entropy" in outputs, "collision" in outputs
            logps_S, entropy_S, collision_S = token_logps(
                picked_SD, self.head(), layout.targets_S, temperature, entropy, collision
            )
            made["logps_BT"] = _spread(logps_S, layout)
            made["entropy_BT"] = None if entropy_S is None else _spread(entropy_S, layout)
            made["collision_BT"] = None if collision_S is None else _spread(collision_S, layout)
            if "divergence" in outputs:
                made["divergence_BT"] = self._divergence(batch, layout, picked_SD, temperature, amp)

        # A reward model's head gives one number: of a whole answer at its last token, or of the state before
        # each token.
        if "scores" in outputs:
            made["scores_B"] = self._score(states.index_select(0, layout.last_B))
        if "values" in outputs:
            made["values_BT"] = _spread(self._score(states.index_select(0, layout.predict_S)), layout)
        return Outputs(**made)

    def _score(self, states_SD: Tensor) -> Tensor:
        """What the score head makes of states, [S] float32."""
        score = self._base().score
        scores_S: Tensor = score(states_SD.to(next(score.parameters()).dtype))[:, 0].float()
        return scores_S

    def _divergence(
        self, batch: Batch, layout: Layout, picked_SD: Tensor, temperature: float, amp: bool
    ) -> Tensor:
        """Divergence from the teacher at each trained token, [B, T]."""
        teacher, beta = self._teacher[0]
        with torch.no_grad():
            theirs_SE = teacher.predicting(batch, amp).to(picked_SD)
        found_S = token_divergence(picked_SD, self.head(), theirs_SE, teacher.head(), beta, temperature)
        return _spread(found_S, layout)

    def _twice_differentiable(self, batch: Batch, temperature: float, amp: bool) -> Outputs:
        """Log-probs and input embeddings on one graph that can be differentiated twice.

        It holds ordinary operations only: plain rows, eager attention, no fused head.
        """
        layout = pack(batch, False).to(self.device)
        base = self._base()
        before = base.config._attn_implementation
        base.set_attn_implementation("eager")
        try:
            with torch.autocast(self.device.type, torch.bfloat16, enabled=amp):
                embeddings_BLD = base.get_input_embeddings()(layout.input_ids)
                # Where the embedding is frozen they would not be a part of the graph.
                if torch.is_grad_enabled() and not embeddings_BLD.requires_grad:
                    embeddings_BLD.requires_grad_()
                own = self.way.path == "own"
                states = (self.own_logits if own else self.hidden)(layout, embeddings_BLD)
        finally:
            base.set_attn_implementation(before)

        picked_SD = states if own else states.index_select(0, layout.predict_S)
        picked_SD = picked_SD.to(torch.bfloat16) if amp else picked_SD
        logps_S = plain_token_logps(picked_SD, self.head(), layout.targets_S, temperature)
        return Outputs(logps_BT=_spread(logps_S, layout), embeddings_BLD=embeddings_BLD)


def _spread(values_S: Tensor, layout: Layout) -> Tensor:
    """One value per trained token to [B, T], 0 elsewhere."""
    return values_S.new_zeros(layout.shape_BT).index_put((layout.row_S, layout.column_S), values_S)


def takes(module: Any, name: str) -> bool:
    """Whether a module's forward has this argument, or passes on what it does not know."""
    parameters = signature(module.forward).parameters
    return name in parameters or any(p.kind is Parameter.VAR_KEYWORD for p in parameters.values())


def decoder_of(base: Any, classifies: bool) -> Any:
    """The part of a model that ends in hidden states: all of it but the head."""
    # A classifier has no output embeddings, and transformers gives it no get_decoder.
    if classifies:
        return getattr(base, base.base_model_prefix)
    found = base.get_decoder()
    if found is not base:
        return found

    # Some models name another prefix than the attribute that holds their decoder.
    return next((m for m in base.children() if isinstance(m, PreTrainedModel)), found)


def times_read(layout: Layout) -> Tensor:
    """How often plain rows would read each position of a layout, [1, positions]: 0 for padding."""
    if layout.segments is None:
        assert layout.attention_mask is not None
        return layout.attention_mask.reshape(1, -1).float()
    times = torch.ones(layout.input_ids.shape, device=layout.input_ids.device)
    for segment in layout.segments:
        times[0, segment.start : segment.start + segment.prompt] = len(segment.completions)
        # A root stands before its groups and has no completions of its own.
        times[0, : segment.root] += len(segment.completions)
    return times


def balance(base: Any, routed: Sequence[Routed]) -> Tensor:
    """The load-balancing loss of a mixture of experts, by the function of its own module in transformers.

    A shared prompt counts as often as plain rows would hold it, so that the loss is theirs.
    """
    function = vars(sys.modules[type(base).__module__])["load_balancing_loss_func"]
    layers = zip(*(r.logits for r in routed), strict=True)
    logits = tuple(torch.cat([x.reshape(-1, x.shape[-1]) for x in layer]) for layer in layers)
    times_1L = torch.cat([r.times_1L for r in routed], 1)
    found: Tensor = function(logits, base.num_experts, base.num_experts_per_tok, times_1L)
    return found


def balances(base: Any) -> bool:
    """Whether a model is a mixture of experts whose load-balancing loss can be taken."""
    known = "load_balancing_loss_func" in vars(sys.modules[type(base).__module__])
    return known and hasattr(base, "num_experts") and hasattr(base, "num_experts_per_tok")


def declared_head(config: Any) -> tuple[float, float | None]:
    """(scale, soft cap) of the logits in the words of most configurations."""
    scale = getattr(config, "logit_scale", None) or 1.0
    scale /= getattr(config, "logits_scaling", None) or 1.0
    return scale, getattr(config, "final_logit_softcapping", None)


def _kept_still(base: Any, still: Still) -> Iterator[nn.Module]:
    """Modules that do not follow into training; adapters came later and are not among them."""
    if still == "nothing":
        return
    for module in base.modules():
        # A dropout that is left has been asked for: those of the model are at 0. Of the others,
        # a layer that checkpoints its activations looks at its own mode to do so.
        checkpoints = isinstance(module, GradientCheckpointingLayer | PreTrainedModel)
        if not isinstance(module, nn.Dropout) and not (still == "inner" and checkpoints):
            yield module
