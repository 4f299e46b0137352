"""Engines decode: prompts in, next-token logits out, for a set of rows that come and go.

`SharedEngine` uses Kilter's own attention and preallocated cache. `StandardEngine` uses the model's own
transformers cache. It is slower and works in waves, but it serves any causal language model that has one.
`MixtureEngine` combines two engines.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from kilter.errors import UserError
from kilter.models.forward import Scorer
from kilter.models.packing import Segment
from kilter.models.positions import windows
from kilter.models.proof import FAULTS, TOLERANCE
from kilter.models.transformers_names import CACHE
from kilter.sampling.cache import DecodeCache, Plan, make_plan

log = logging.getLogger("kilter")

PREFILL_TOKENS = 2048
"""Prompt tokens that go through the model at once."""


class Engine(Protocol):
    """Rows are numbered 0, 1, ... in the order in which they are attached; `keep` renumbers them."""

    midway: bool
    """Whether rows may be attached while others are decoding."""

    def prefill(self, prompts: Sequence[tuple[int, ...]]) -> tuple[list[int], Tensor]:
        """(a handle per prompt, next-token logits [n, V])."""
        ...

    def attach(self, handles: Sequence[int]) -> None:
        """One new row per handle."""
        ...

    def decode(self, tokens_R: Tensor) -> Tensor:
        """Appends one token to every row; next-token logits [r, V]."""
        ...

    def keep(self, order: Sequence[int]) -> None:
        """The rows become these, in this order."""
        ...

    def release(self, handle: int) -> None:
        """The prompt gets no more rows; its slot is free when its last row leaves."""
        ...


class SharedEngine:
    """Each prompt prefilled once, packed with others; its rows attend to one copy. See sampling/cache.py."""

    midway = True

    def __init__(
        self,
        scorer: Scorer,
        prompts: int,
        rows: int,
        max_prompt: int,
        max_new: int,
        k: int,
        fixed: bool = False,
    ) -> None:
        self.scorer, self.device, self.k = scorer, scorer.device, k
        layers = scorer._base().config.get_text_config().num_hidden_layers
        self.cache = DecodeCache(layers, prompts, rows, max_prompt, max_new, fixed)
        self.fixed = fixed
        self._graphs: dict[int, Any] = {}
        self._slot: dict[int, int] = {}
        self._open: set[int] = set()
        self._next = 0
        self._row_prompt: list[int] = []
        self._age: list[int] = []

    def prefill(self, prompts: Sequence[tuple[int, ...]]) -> tuple[list[int], Tensor]:
        """Packs prompts end to end, without padding, `PREFILL_TOKENS` at a time."""
        handles: list[int] = []
        logits: list[Tensor] = []
        part: list[tuple[int, ...]] = []
        for prompt in prompts:
            # A prompt longer than the limit goes through alone.
            if part and sum(map(len, part)) + len(prompt) > PREFILL_TOKENS:
                logits.append(self._prefill(part, handles))
                part = []
            part.append(prompt)
        logits.append(self._prefill(part, handles))
        return handles, torch.cat(logits)

    def _prefill(self, prompts: Sequence[tuple[int, ...]], handles: list[int]) -> Tensor:
        """One forward over prompts end to end; adds their handles and returns their next-token logits."""
        segments: list[Segment] = []
        slots: list[int] = []
        start = 0
        for prompt in prompts:
            segments.append(Segment(start, len(prompt), ()))
            start += len(prompt)
            # Handles are never used again; slots are, so that the cache stays dense.
            handle, self._next = self._next, self._next + 1
            slots.append(len(self._slot))
            self._slot[handle] = slots[-1]
            self._open.add(handle)
            handles.append(handle)

        # Only the last token of each prompt is asked for logits: the head is the dearest product of all.
        self.cache.fill(tuple(segments), slots)
        ids = torch.tensor([t for p in prompts for t in p], device=self.device)
        positions = torch.cat([torch.arange(len(p), device=self.device) for p in prompts])
        last = torch.tensor([s.start + s.prompt - 1 for s in segments], device=self.device)
        return self._forward(ids, positions, last)

    def attach(self, handles: Sequence[int]) -> None:
        """New rows start with no own token."""
        self._row_prompt += handles
        self._age += [0] * len(handles)

    def decode(self, tokens_R: Tensor) -> Tensor:
        """One token for every row."""
        lengths = [self.cache.prompt_length[self._slot[h]] for h in self._row_prompt]
        groups: list[list[int]] = [[] for _ in self._slot]
        for row, handle in enumerate(self._row_prompt):
            groups[self._slot[handle]].append(row)
        ages, self._age = self._age, [a + 1 for a in self._age]
        positions = torch.tensor([n + a for n, a in zip(lengths, ages, strict=True)], device=self.device)
        if not self.fixed:
            self.cache.plan(make_plan(groups, ages, self.cache.prompt_length[: len(groups)], self.device))
            return self._forward(tokens_R.to(self.device), positions, None)
        # Graphs are captured for powers of two: few of them serve all numbers of rows.
        size, rows = self.cache.size, len(ages)
        padding = min(size[1], 1 << (rows - 1).bit_length()) - rows
        groups += [[] for _ in range(size[0] - len(groups))]
        plan = make_plan(groups, ages + [0] * padding, self.cache.prompt_length, self.device, size, self.k)
        pad = torch.zeros(padding, dtype=torch.long, device=self.device)
        ids_R = torch.cat([tokens_R.to(self.device), pad])
        return self._replay(ids_R, torch.cat([positions, pad]), plan)[:rows]

    def _replay(self, ids: Tensor, positions: Tensor, plan: Plan) -> Tensor:
        """One decode step of fixed shape: on a GPU a CUDA graph for each number of rows, elsewhere eager."""
        # Elsewhere the same step runs eagerly, which tests use.
        if self.device.type != "cuda":
            self.cache.plan(plan)
            return self._forward(ids, positions, None)
        names = [f.name for f in fields(Plan) if isinstance(getattr(plan, f.name), Tensor)]
        if plan.rows not in self._graphs:
            self._graphs[plan.rows] = self._capture(ids, positions, plan, names)

        # A graph reads and writes the very tensors that it was captured with.
        graph, static_ids, static_positions, still, out = self._graphs[plan.rows]
        static_ids.copy_(ids)
        static_positions.copy_(positions)
        for n in names:
            getattr(still, n).copy_(getattr(plan, n))
        graph.replay()
        result: Tensor = out.clone()
        return result

    def _capture(self, ids: Tensor, positions: Tensor, plan: Plan, names: Sequence[str]) -> Any:
        """(graph, its ids, its positions, its plan, its output) for steps of this many rows."""
        still = replace(plan, **{n: getattr(plan, n).clone() for n in names})
        static_ids, static_positions = ids.clone(), positions.clone()
        self.cache.plan(still)

        # Warm-up: kernels are chosen and the cache is allocated outside the capture.
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(2):
                self._forward(static_ids, static_positions, None)
        torch.cuda.current_stream().wait_stream(stream)

        # The plan is set anew, to forget what the warm-up derived from it: a replay must make that itself.
        self.cache.plan(still)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            out = self._forward(static_ids, static_positions, None)
        return graph, static_ids, static_positions, still, out

    def keep(self, order: Sequence[int]) -> None:
        """Copies only the rows that change place; prompts without rows and without claim leave."""
        for target, source in enumerate(order):
            if target != source:
                self.cache.move_row(source, target)
        self._row_prompt = [self._row_prompt[i] for i in order]
        self._age = [self._age[i] for i in order]
        self._collect()

    def release(self, handle: int) -> None:
        """Closes the prompt to further rows; its slot is freed when its last row leaves."""
        self._open.discard(handle)
        self._collect()

    def _collect(self) -> None:
        """Prompts that nobody needs any more leave, and the last ones take their slots."""
        used = set(self._row_prompt) | self._open
        for handle in [h for h in self._slot if h not in used]:
            hole, last = self._slot.pop(handle), len(self._slot)
            if hole != last:
                mover = next(h for h, s in self._slot.items() if s == last)
                self.cache.move_prompt(last, hole)
                self._slot[mover] = hole

    def _forward(self, ids: Tensor, positions: Tensor, last: Tensor | None) -> Tensor:
        # A mask of four dimensions passes through transformers untouched, and nothing of Kilter reads it.
        base = self.scorer._base()
        mask = torch.ones(1, 1, 1, 1, dtype=torch.bool, device=self.device)
        out = base.get_decoder()(
            input_ids=ids[None],
            attention_mask=mask,
            position_ids=positions[None],
            use_cache=False,
            kilter_cache=self.cache,
        ).last_hidden_state[0]
        return _logits(self.scorer, out if last is None else out.index_select(0, last))


class StandardEngine:
    """The model's own cache: left-padded prompts, all rows attached at once, rows that finish leave."""

    midway = False

    def __init__(self, scorer: Scorer) -> None:
        self.scorer, self.device = scorer, scorer.device
        self._handles: list[int] = []
        self._cache: Any = None

    def prefill(self, prompts: Sequence[tuple[int, ...]]) -> tuple[list[int], Tensor]:
        """Prefills all prompts in one left-padded forward."""
        # Padded on the left, so that the next token stands at the same place in all rows.
        width = max(map(len, prompts))
        tokens = torch.zeros(len(prompts), width, dtype=torch.long)
        mask = torch.zeros_like(tokens)
        for i, own in enumerate(prompts):
            tokens[i, width - len(own) :] = torch.tensor(own)
            mask[i, width - len(own) :] = 1
        position = (mask.cumsum(-1) - 1).clamp_min(0)
        model = self.scorer.model
        out = model(
            input_ids=tokens.to(self.device),
            attention_mask=mask.to(self.device),
            position_ids=position.to(self.device),
            use_cache=True,
            logits_to_keep=1,
        )

        # State-space models and their hybrids keep caches from which rows cannot be taken.
        self._cache = out.get(CACHE)
        if not hasattr(self._cache, "batch_select_indices"):
            raise UserError(
                "model",
                type(model).__name__,
                "has no standard key-value cache to sample with",
                "use an attention model",
            )
        self._mask = mask.to(self.device)
        self._handles = list(range(len(prompts)))
        return self._handles, out.logits[:, -1]

    def attach(self, handles: Sequence[int]) -> None:
        """Expands the prompts to their rows; once per wave."""
        self.keep(handles)

    def decode(self, tokens_R: Tensor) -> Tensor:
        """One token for every row."""
        self._mask = torch.cat([self._mask, self._mask.new_ones(self._mask.shape[0], 1)], 1)
        position = (self._mask.sum(-1) - 1)[:, None]
        out = self.scorer.model(
            input_ids=tokens_R.to(self.device)[:, None],
            attention_mask=self._mask,
            position_ids=position,
            use_cache=True,
            **{CACHE: self._cache},
        )
        self._cache = out[CACHE]
        return out.logits[:, -1]  # type: ignore[no-any-return]

    def keep(self, order: Sequence[int]) -> None:
        """Selects these rows of the model's own cache."""
        index = torch.tensor(list(order), dtype=torch.long, device=self.device)
        # When the last row leaves, the cache goes with its engine.
        if len(order):
            self._cache.batch_select_indices(index)
        self._mask = self._mask.index_select(0, index)

    def release(self, handle: int) -> None:
        """Nothing to free before the wave ends."""


class MixtureEngine:
    """Logits of the geometric mixture pi^(1-a) ref^a of two engines that see the same tokens.

    Paper: Munos et al. 2023.
    """

    def __init__(self, policy: Engine, reference: Engine, share: float) -> None:
        self.parts, self.share = (policy, reference), share
        self.midway = policy.midway and reference.midway

    def prefill(self, prompts: Sequence[tuple[int, ...]]) -> tuple[list[int], Tensor]:
        """Both prefill; handles count up alike in both."""
        handles, own = self.parts[0].prefill(prompts)
        _, other = self.parts[1].prefill(prompts)
        return handles, self._mix(own, other)

    def attach(self, handles: Sequence[int]) -> None:
        """Attaches the rows in both engines."""
        for part in self.parts:
            part.attach(handles)

    def decode(self, tokens_R: Tensor) -> Tensor:
        """Appends the tokens in both engines, and mixes their logits."""
        return self._mix(self.parts[0].decode(tokens_R), self.parts[1].decode(tokens_R))

    def keep(self, order: Sequence[int]) -> None:
        """Keeps the same rows in both engines."""
        for part in self.parts:
            part.keep(order)

    def release(self, handle: int) -> None:
        """Releases the prompt in both engines."""
        for part in self.parts:
            part.release(handle)

    def _mix(self, own: Tensor, other: Tensor) -> Tensor:
        # Whoever draws takes a softmax, which normalises the mixture.
        return (1 - self.share) * own.float().log_softmax(-1) + self.share * other.float().log_softmax(-1)


def _logits(scorer: Scorer, hidden_RD: Tensor) -> Tensor:
    """Head with the model's own scale and soft cap; [R, V] float32."""
    head = scorer.head()
    z: Tensor = scorer._base().get_output_embeddings()(hidden_RD).float()
    if head.scale != 1.0:
        z = z * head.scale
    return z if head.softcap is None else head.softcap * torch.tanh(z / head.softcap)


class RecomputingEngine:
    """Every row as a whole at every step: no cache, no padding, for models whose cache does not give their
    own numbers, or that have none.
    """

    midway = False

    def __init__(self, scorer: Scorer) -> None:
        self.scorer, self.device = scorer, scorer.device
        self._prompts: list[tuple[int, ...]] = []
        self._rows: list[tuple[int, ...]] = []

    def prefill(self, prompts: Sequence[tuple[int, ...]]) -> tuple[list[int], Tensor]:
        """One forward per length."""
        self._prompts = list(prompts)
        return list(range(len(prompts))), self._logits(self._prompts)

    def attach(self, handles: Sequence[int]) -> None:
        """Rows begin as their prompts."""
        self._rows = [self._prompts[h] for h in handles]

    def decode(self, tokens_R: Tensor) -> Tensor:
        """One token more on every row."""
        self._rows = [(*row, int(t)) for row, t in zip(self._rows, tokens_R.tolist(), strict=True)]
        return self._logits(self._rows)

    def keep(self, order: Sequence[int]) -> None:
        """Selects rows."""
        self._rows = [self._rows[i] for i in order]

    def release(self, handle: int) -> None:
        """Nothing is kept of a prompt."""

    def _logits(self, rows: Sequence[tuple[int, ...]]) -> Tensor:
        """Next-token logits [r, V]. Rows of one length go together, so that nothing is padded."""
        found: dict[int, Tensor] = {}
        for length in sorted({len(r) for r in rows}):
            places = [n for n, r in enumerate(rows) if len(r) == length]
            ids = torch.tensor([rows[n] for n in places], device=self.device)
            out = self.scorer.model(input_ids=ids, use_cache=False).logits[:, -1]
            found |= dict(zip(places, out, strict=True))
        return torch.stack([found[n] for n in range(len(rows))])


@torch.no_grad()
def supports_shared_decoding(scorer: Scorer) -> bool:
    """Whether the shared engine gives the model's own logits on a probe: two prompts, three rows, two steps.

    Proved once per Scorer, on the loaded model. A model that fails is sampled through its own cache, or
    without one where that has other numbers too, and it is said why.
    """
    if scorer.decodes_shared is not None:
        return scorer.decodes_shared
    probe = _Probe(scorer)
    reason = probe.problem(lambda: SharedEngine(scorer, 2, 3, probe.longest, 3, 2)) if scorer.shared else ""
    scorer.decodes_shared = scorer.shared and not reason
    if scorer.decodes_shared:
        return True

    name = type(scorer._base()).__name__
    reason = reason or "the model does not share prompts"
    other = probe.problem(lambda: StandardEngine(scorer))
    scorer.decodes_cached = not other
    if other:
        log.warning("%s is sampled without a cache, one whole row per token (%s)", name, other)
    else:
        log.warning("%s is sampled through its own cache, without shared prompts (%s)", name, reason)
    return False


class _Probe:
    """Random prompts, one of them longer than the model's windows, and what the model itself says of them."""

    def __init__(self, scorer: Scorer) -> None:
        g = torch.Generator().manual_seed(1)
        config = scorer._base().config
        vocab = min(1000, config.get_text_config().vocab_size)
        reach = max((w for w in windows(config) if w <= PREFILL_TOKENS), default=0)
        sizes = (max(7, reach + 2), 4)
        self.longest = sizes[0]
        self.prompts = [tuple(torch.randint(5, vocab, (n,), generator=g).tolist()) for n in sizes]
        self._tokens = [(5, 6, 7), (6, 6, 7)]
        self._want = self._run(RecomputingEngine(scorer))
        exact = next(scorer.parameters()).dtype in (torch.float32, torch.float64)
        self._tolerance = TOLERANCE if exact else TOLERANCE * float(self._want.abs().max())

    def _run(self, engine: Engine) -> Tensor:
        """Log-probs of every next token, [2 prompts + 2 steps of 3 rows, V]."""
        handles, logits = engine.prefill(self.prompts)
        engine.attach([handles[0], handles[0], handles[1]])
        found = [logits, *(engine.decode(torch.tensor(tokens)) for tokens in self._tokens)]
        return torch.cat([x.float().log_softmax(-1) for x in found])

    def problem(self, make: Callable[[], Engine]) -> str:
        """Why an engine cannot be used; "" where its numbers are the model's own."""
        try:
            gap = float((self._run(make()) - self._want).abs().max())
            return "" if gap <= self._tolerance else f"log-probs differ by {gap:.1e}"
        # The code of any model may come here.
        except FAULTS as error:
            return f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"
