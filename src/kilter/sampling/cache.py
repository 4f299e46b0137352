"""The key-value cache of the sampler: each prompt is stored once, with each row's own tokens beside it.

Everything is preallocated. Layout, per layer, G key-value heads of width d:

    prompt  [S, G, P, d]   one slot per prompt in flight, shared by all its rows
    own     [R, G, T, d]   one slot per row (sample) in flight; live rows are always the first ones

A decode step attends from every live row to its prompt (one batched product per prompt, over all its
rows at once) and to its own tokens, and takes one softmax over both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kilter.models.packing import Segment


@dataclass(frozen=True, slots=True)
class Plan:
    """Who attends to what in one decode step.

    Args:
        rows: rows in flight.
        prompts: prompts in flight.
        index_NK: rows of each prompt, padded with row 0.
        back_R: where row r stands in the flattened index.
        ages_R: own tokens already stored.
        lengths_R: tokens of the row's prompt.
        age: all ages, where they are one number.
        bias_RS: 0 or -inf over a prompt's p tokens and then the row's own t, the new one included; None
            where nothing needs hiding.
        p: tokens of the longest prompt.
        t: own tokens of the longest row, the new one included.
    """

    rows: int
    prompts: int
    index_NK: Tensor
    back_R: Tensor
    ages_R: Tensor
    lengths_R: Tensor
    age: int | None
    bias_RS: Tensor | None
    p: int
    t: int


class DecodeCache:
    """Keys and values of `prompts` slots of `max_prompt` tokens and `rows` slots of `max_new` tokens.

    They are float32 on a CPU. The cache takes the place of attention: kilter.models.attention hands
    over every layer's new queries, keys and values, prompts to `store_prompt` and rows to `decode`.
    `fixed` keeps all shapes the same from step to step, as CUDA graphs need.
    """

    def __init__(
        self, layers: int, prompts: int, rows: int, max_prompt: int, max_new: int, fixed: bool = False
    ) -> None:
        self.size = prompts, rows, max_prompt, max_new
        self.fixed = fixed
        self.prompt_length = [0] * prompts
        self._prompt: list[tuple[Tensor, Tensor] | None] = [None] * layers
        self._own: list[tuple[Tensor, Tensor] | None] = [None] * layers
        self._filling: tuple[tuple[Segment, ...], tuple[int, ...]] | None = None
        self._plan: Plan | None = None
        self._order: dict[int, tuple[Tensor, Tensor]] = {}

    def fill(self, segments: tuple[Segment, ...], slots: Sequence[int]) -> None:
        """The next forward is a prefill: these prompts, into these slots."""
        self._filling = segments, tuple(slots)
        for segment, slot in zip(segments, slots, strict=True):
            self.prompt_length[slot] = segment.prompt

    def plan(self, plan: Plan) -> None:
        """The next forward is a decode step."""
        self._filling, self._plan = None, plan
        self._order.clear()

    def store_prompt(self, layer: int, k: Tensor, v: Tensor) -> tuple[Segment, ...]:
        """Keeps keys and values [1, G, L, d] of new prompts; returns the segments to attend over."""
        assert self._filling is not None
        segments, slots = self._filling
        stored_k, stored_v = self._prompt[layer] or self._allocate(
            self._prompt, layer, k, self.size[0], self.size[2]
        )
        for segment, slot in zip(segments, slots, strict=True):
            here = slice(segment.start, segment.start + segment.prompt)
            stored_k[slot, :, : segment.prompt] = k[0, :, here]
            stored_v[slot, :, : segment.prompt] = v[0, :, here]
        return segments

    @property
    def filling(self) -> bool:
        """Whether the forward under way is a prefill."""
        return self._filling is not None

    def _allocate(
        self, where: list[tuple[Tensor, Tensor] | None], layer: int, like: Tensor, slots: int, length: int
    ) -> tuple[Tensor, Tensor]:
        # A CPU multiplies bfloat16 more slowly than float32, unless it has instructions for it.
        dtype = torch.promote_types(like.dtype, torch.float32) if like.device.type == "cpu" else like.dtype
        shape = slots, like.shape[1], length, like.shape[3]
        pair = (
            torch.zeros(shape, dtype=dtype, device=like.device),
            torch.zeros(shape, dtype=dtype, device=like.device),
        )
        where[layer] = pair
        return pair

    def decode(self, layer: int, q: Tensor, k: Tensor, v: Tensor, scale: float, window: int | None) -> Tensor:
        """q [1, H, r, d], k and v [1, G, r, d] of the newest token of each live row -> [1, H, r, d]."""
        plan = self._plan
        assert plan is not None
        # Autocast would cast the whole cache at every step.
        with torch.autocast(q.device.type, enabled=False):
            return self._attend(plan, layer, q, k, v, scale, window)

    def _attend(
        self, plan: Plan, layer: int, q: Tensor, k: Tensor, v: Tensor, scale: float, window: int | None
    ) -> Tensor:
        r, heads, d = plan.rows, k.shape[1], q.shape[3]
        own_k, own_v = self._own[layer] or self._allocate(self._own, layer, k, self.size[1], self.size[3])
        prompts = self._prompt[layer]
        assert prompts is not None

        # The new token is stored before it is attended to: a row sees itself.
        new_k, new_v = k[0].transpose(0, 1), v[0].transpose(0, 1)
        if plan.age is not None and not self.fixed:
            own_k[:r, :, plan.age] = new_k
            own_v[:r, :, plan.age] = new_v
        else:
            where = torch.arange(r, device=q.device)
            own_k[where, :, plan.ages_R] = new_k.to(own_k.dtype)
            own_v[where, :, plan.ages_R] = new_v.to(own_v.dtype)

        # Live rows are the first ones and live prompts too, so that slices, not gathers, pick what is needed.
        wide = own_k.dtype
        query = q[0].transpose(0, 1).to(wide).mul(scale).reshape(r * heads, -1, d)  # [r * G, h, d]
        h = query.shape[1]
        own_k, own_v = (x.view(-1, x.shape[2], d)[: r * heads, : plan.t] for x in (own_k, own_v))
        prompt_k, prompt_v = (x.view(-1, x.shape[2], d)[: plan.prompts * heads, : plan.p] for x in prompts)
        to_prompts, to_rows = self._orders(plan, heads)

        def by_prompt(x: Tensor) -> Tensor:
            """[r * G, h, w] by row to [N * G, K * h, w] by prompt."""
            return (
                x.reshape(r * heads, -1)
                .index_select(0, to_prompts)
                .view(plan.prompts * heads, -1, x.shape[2])
            )

        def by_row(x: Tensor) -> Tensor:
            """Undoes `by_prompt`: from prompts back to rows."""
            return x.reshape(len(to_prompts), -1).index_select(0, to_rows).view(r * heads, h, -1)

        # One product per prompt for all its rows: that is what sharing it saves.
        own_s = torch.bmm(query, own_k.transpose(1, 2))
        scores = torch.cat([by_row(torch.bmm(by_prompt(query), prompt_k.transpose(1, 2))), own_s], -1)
        of_row = scores.view(r, heads * h, -1)
        if plan.bias_RS is not None:
            of_row += plan.bias_RS[:, None]
        if window is not None and window < plan.p + plan.t:
            of_row += self._window(plan, window, q.device)[:, None]
        # One softmax over prompt and own tokens, then the two parts of the sum.
        weights = torch.softmax(scores, -1)
        out = by_row(torch.bmm(by_prompt(weights)[..., : plan.p], prompt_v)) + torch.bmm(
            weights[..., plan.p :], own_v
        )
        return out.view(r, heads * h, d).transpose(0, 1)[None].to(q.dtype)

    def _orders(self, plan: Plan, heads: int) -> tuple[Tensor, Tensor]:
        """Index from rows and heads [r, G] to prompts [N, G, K], and its inverse; made once per step."""
        # The same for all layers of a step.
        found = self._order.get(heads)
        if found is None:
            head = torch.arange(heads, device=plan.back_R.device)
            k = plan.index_NK.shape[1]
            to_prompts = plan.index_NK[:, None] * heads + head[:, None]
            to_rows = (plan.back_R // k)[:, None] * (heads * k) + head * k + (plan.back_R % k)[:, None]
            found = self._order[heads] = to_prompts.view(-1), to_rows.view(-1)
        return found

    def _window(self, plan: Plan, window: int, device: torch.device) -> Tensor:
        """[r, p + t]: -inf on keys further back than `window`."""
        lengths = plan.lengths_R
        now = (lengths + plan.ages_R)[:, None]
        place = torch.cat(
            [
                torch.arange(plan.p, device=device).expand(plan.rows, -1),
                lengths[:, None] + torch.arange(plan.t, device=device),
            ],
            1,
        )
        return torch.zeros(place.shape, device=device).masked_fill_(now - place >= window, float("-inf"))

    def move_row(self, source: int, target: int) -> None:
        """Copies the own tokens of one row into another slot."""
        for pair in self._own:
            for x in pair or ():
                x[target].copy_(x[source])

    def move_prompt(self, source: int, target: int) -> None:
        """Copies one prompt into another slot."""
        self.prompt_length[target] = self.prompt_length[source]
        for pair in self._prompt:
            for x in pair or ():
                x[target].copy_(x[source])


def make_plan(
    groups: Sequence[Sequence[int]],
    ages: Sequence[int],
    lengths: Sequence[int],
    device: torch.device,
    size: tuple[int, int, int, int] | None = None,
    k: int = 0,
) -> Plan:
    """The Plan of one step.

    Args:
        groups: the rows of each prompt's slot.
        ages: own tokens of each row. Those beyond the rows in `groups` are of padding rows, which read
            prompt 0 and whose output nobody uses.
        lengths: tokens of each prompt.
        device: where the plan is read.
        size: (prompts, rows, max_prompt, max_new) gives the plan the shapes of a full cache, whatever is in
            flight.
        k: rows per prompt of such a plan.
    """
    rows = len(ages)
    wide = max(map(len, groups)) if size is None else k
    count = len(groups) if size is None else size[0]
    index = torch.zeros(count, wide, dtype=torch.long)
    back = torch.zeros(rows, dtype=torch.long)
    for n, own in enumerate(groups):
        for j, row in enumerate(own):
            index[n, j], back[row] = row, n * wide + j

    # Where all ages and lengths are equal nothing needs hiding, and a whole tensor is saved per step.
    ages_R = torch.tensor(ages)
    same_age = ages[0] if len(set(ages)) == 1 else None
    p = max(lengths) if size is None else size[2]
    t = max(ages) + 1 if size is None else size[3]
    mine = torch.tensor([lengths[b // wide] for b in back.tolist()])
    bias = None
    if size is not None or same_age is None or len(set(lengths)) > 1:
        hidden = torch.cat(
            [torch.arange(p)[None] >= mine[:, None], torch.arange(t)[None] > ages_R[:, None]], 1
        )
        bias = torch.zeros(rows, p + t).masked_fill_(hidden, float("-inf")).to(device)
    # Built on the CPU, in small pieces, then moved whole.
    return Plan(
        rows,
        count,
        index.to(device),
        back.to(device),
        ages_R.to(device),
        mine.to(device),
        same_age,
        bias,
        p,
        t,
    )
