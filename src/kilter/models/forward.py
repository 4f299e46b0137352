"""The model as the loop sees it: a Layout in, log-probs (or scores) of the completions out.

A group's prompt is encoded once for all its completions. `supports_shared_prefix` proves at start-up, on the
loaded model itself, that this gives the numbers of plain rows. Where it does not, the model runs plain rows
and says so: state-space layers, or attention with features that the shared form lacks.
"""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import Tensor, nn

from kilter.batch import Batch, Outputs
from kilter.models import attention
from kilter.models.divergence import token_divergence
from kilter.models.logprobs import Head, plain_token_logps, token_logps
from kilter.models.packing import Layout, pack
from kilter.models.products import take_over
from kilter.models.slim import slim
from kilter.runtime import keep_freed_memory

keep_freed_memory()

log = logging.getLogger("kilter")


class Scorer(nn.Module):
    """Wraps a transformers causal LM or sequence classifier, adapted or not, for training and scoring.

    `forward` is the one entry point, so that DDP and FSDP hooks see every call. Output float32, [B, T] or
    [B].
    """

    def __init__(self, model: Any, shared: bool = True) -> None:
        super().__init__()
        self.model = model
        self.shared = shared
        self.decodes_shared: bool | None = None
        # In a list, so that its weights are not among this module's parameters.
        self._teacher: list[tuple[Scorer, float]] = []
        if shared:
            self._base().set_attn_implementation(attention.NAME)
        slim(self._base())
        take_over(self._base())

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

    def head(self) -> Head:
        """The output projection with the model's own scale and soft cap."""
        base = self._base()
        projection, config = base.get_output_embeddings(), base.config.get_text_config()
        scale = getattr(config, "logit_scale", None) or 1.0
        scale /= getattr(config, "logits_scaling", None) or 1.0
        return Head(
            projection.weight,
            getattr(projection, "bias", None),
            scale,
            getattr(config, "final_logit_softcapping", None),
        )

    def teach(self, teacher: Scorer, beta: float) -> None:
        """Makes "divergence" an output: from `teacher`, with share beta of it in the mixture."""
        # One layout serves both models, so both must be able to read it.
        teacher.shared = self.shared = teacher.shared and self.shared
        self._teacher = [(teacher.requires_grad_(False).eval(), beta)]

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        """Moves and casts (to, cuda, double) take the teacher along, although it is not a submodule."""
        for teacher, _ in self._teacher:
            teacher._apply(fn, recurse)
        return super()._apply(fn, recurse)  # type: ignore[no-untyped-call]

    def hidden(self, layout: Layout, embeddings: Tensor | None = None) -> Tensor:
        """Last hidden states of the decoder, flattened to [positions, D].

        Args:
            layout: tokens, positions and who attends to whom.
            embeddings: [rows, width, D], which take the place of the token ids.
        """
        base = self._base()
        # A classifier has no output embeddings, and transformers gives it no get_decoder.
        causal = base.get_output_embeddings() is not None
        decoder = base.get_decoder() if causal else getattr(base, base.base_model_prefix)

        extra: dict[str, Any] = {}
        mask = layout.attention_mask
        if layout.segments is not None:
            # A 4-D mask passes through transformers untouched, and the shared attention ignores it.
            extra["kilter_segments"] = layout.segments
            mask = torch.ones(1, 1, 1, 1, dtype=torch.bool, device=layout.input_ids.device)
        source = {"input_ids": layout.input_ids} if embeddings is None else {"inputs_embeds": embeddings}
        out = decoder(
            **source, attention_mask=mask, position_ids=layout.position_ids, use_cache=False, **extra
        ).last_hidden_state
        return out.reshape(-1, out.shape[-1])  # type: ignore[no-any-return]

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
        with torch.autocast(self.device.type, torch.bfloat16, enabled=amp):
            states = self.hidden(layout)

        # All that the language-model head gives comes from the states that predict a trained token.
        made: dict[str, Tensor | None] = {}
        if outputs & {"logps", "entropy", "collision", "divergence"}:
            picked_SD = states.index_select(0, layout.predict_S)
            picked_SD = picked_SD.to(torch.bfloat16) if amp else picked_SD
            entropy, collision = "entropy" in outputs, "collision" in outputs
            logps_S, entropy_S, collision_S = token_logps(
                picked_SD, self.head(), layout.targets_S, temperature, entropy, collision
            )
            made["logps_BT"] = _spread(logps_S, layout)
            made["entropy_BT"] = None if entropy_S is None else _spread(entropy_S, layout)
            made["collision_BT"] = None if collision_S is None else _spread(collision_S, layout)
            if "divergence" in outputs:
                made["divergence_BT"] = self._divergence(layout, picked_SD, temperature, amp)

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

    def _divergence(self, layout: Layout, picked_SD: Tensor, temperature: float, amp: bool) -> Tensor:
        """Divergence from the teacher at each trained token, [B, T]."""
        teacher, beta = self._teacher[0]
        with torch.no_grad(), torch.autocast(self.device.type, torch.bfloat16, enabled=amp):
            theirs_SE = teacher.hidden(layout).index_select(0, layout.predict_S).to(picked_SD.dtype)
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
                states = self.hidden(layout, embeddings_BLD)
        finally:
            base.set_attn_implementation(before)

        picked_SD = states.index_select(0, layout.predict_S)
        picked_SD = picked_SD.to(torch.bfloat16) if amp else picked_SD
        logps_S = plain_token_logps(picked_SD, self.head(), layout.targets_S, temperature)
        return Outputs(logps_BT=_spread(logps_S, layout), embeddings_BLD=embeddings_BLD)


def _spread(values_S: Tensor, layout: Layout) -> Tensor:
    """One value per trained token to [B, T], 0 elsewhere."""
    return values_S.new_zeros(layout.shape_BT).index_put((layout.row_S, layout.column_S), values_S)


def _probe(vocab: int) -> Batch:
    """Two groups of unequal shape with random tokens: every kind of boundary occurs once."""
    g = torch.Generator().manual_seed(0)
    prompts = tuple(torch.randint(5, vocab, (n,), generator=g) for n in (7, 4))
    lengths = torch.tensor([5, 3, 2, 6])
    tokens = torch.randint(5, vocab, (4, 6), generator=g)
    mask = (torch.arange(6)[None] < lengths[:, None]).float()
    one = torch.tensor(1.0)
    group = torch.tensor([0, 0, 1, 1])
    return Batch(
        prompts, tokens, mask, lengths, group, torch.zeros(4), torch.zeros(2), mask.sum(), one * 4, one * 2
    )


@torch.no_grad()
def supports_shared_prefix(scorer: Scorer, tolerance: float = 2e-3) -> bool:
    """Whether shared-prefix and plain rows agree on a probe batch.

    If they do not, or the attention is not supported, the scorer is switched to plain rows and a warning says
    why.

    Args:
        scorer: the loaded model; its `shared` becomes the answer.
        tolerance: largest difference, relative to the largest value.
    """
    was_training = scorer.training
    scorer.eval()
    base = scorer._base()
    wanted = frozenset({"logps"} if base.get_output_embeddings() is not None else {"scores"})
    batch = _probe(min(1000, base.config.get_text_config().vocab_size))

    def run(shared: bool) -> Tensor:
        scorer.shared = shared
        out = scorer(batch, wanted)
        value: Tensor | None = out.logps_BT if out.logps_BT is not None else out.scores_B
        assert value is not None
        return value

    # Any model may come here, so what its code raises is an answer too.
    reason = ""
    plain = run(False)
    try:
        gap = float((run(True) - plain).abs().max() / plain.abs().max().clamp_min(1e-6))
        if not gap <= tolerance:
            reason = f"outputs differ by {gap:.1e}"
    except (attention.UnsupportedAttention, TypeError, RuntimeError, ValueError) as error:
        reason = f"{type(error).__name__}: {error}"
    scorer.shared = not reason
    scorer.train(was_training)
    if reason:
        log.warning(
            "%s cannot share prompts (%s); using plain rows, which cost one prompt per completion",
            type(base).__name__,
            reason,
        )
    return scorer.shared
