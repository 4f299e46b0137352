"""The proof, at load: Kilter's log-probs are those of `model(ids).logits`, or the model does not train.

`observe` runs the model as transformers has it: each row alone, in evaluation mode, with the attention that
defines it. `prove` then tries the ways of forward.py, the fastest first, and keeps the first that agrees,
both in evaluation and in training. Nothing is decided by the name of an architecture.

The rows are short ones, with two completions to a prompt, and one that is longer than every window of the
model, if a run's rows can be as long. What was found is kept by the model's content hash.
"""

from __future__ import annotations

import functools
import hashlib
import logging
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kilter.batch import Batch
from kilter.errors import UserError
from kilter.hashes import remember, remembered
from kilter.models import attention
from kilter.models.forward import Scorer, Still, Way, declared_head
from kilter.models.logprobs import Head, logits
from kilter.models.positions import windows
from kilter.version import __version__

log = logging.getLogger("kilter")

TOLERANCE = 2e-3
"""Largest difference of a log-prob, in nats. A quarter of it has to hold on the proof's few rows.

Of weights below float32 it is relative to the largest logit, and holds as a whole.
"""
TIGHT = 2e-4
"""The difference up to which it is rounding. What lies between is used where nothing else is closer."""
ROUNDING = 4e-6
"""What float32 loses on the way through a model, relative to its largest logit."""
FORMAT = 2
"""Counts up when the proof changes, so that what an older one found is not believed."""
LONGEST = 1 << 13
"""Rows of unknown length are taken to be no longer, in tokens."""
SIZES = 45, 4
"""Tokens of the two prompts: enough for what adds up along a row, and little beside reading the weights."""
FIRST = 5
"""Lowest token id of the rows: those below are often padding, or begin and end a text."""


FAULTS = (
    attention.UnsupportedAttention,
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    NotImplementedError,
    RuntimeError,
    TypeError,
    ValueError,
)
"""What the code of any model may raise when it is run in a way that it was not written for."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What the model itself says of the proof's rows."""

    batch: Batch
    values_SE: Tensor
    """Logits that predict the trained tokens; of a classifier the states that its head reads there."""
    repeats: float
    """Largest difference between two looks at the same row, where a second one was needed."""
    looks_ahead: float
    """Largest difference at a prompt's tokens, between two rows that begin with it."""


@dataclass(frozen=True, slots=True)
class Finding:
    """The way that was found, how far it is from the model itself, and why no faster one will do."""

    way: Way
    gap: float
    reason: str = ""


def rows(vocabulary: int, longest: int = 0) -> Batch:
    """Groups of unequal shape with random tokens, so that every kind of boundary occurs once.

    Args:
        vocabulary: token ids are below it.
        longest: tokens of a third prompt, which has one completion; 0: there is none.
    """
    g = torch.Generator().manual_seed(0)
    low = min(FIRST, vocabulary - 1)
    sizes = (*SIZES, longest) if longest else SIZES
    prompts = tuple(torch.randint(low, vocabulary, (n,), generator=g) for n in sizes)
    lengths = torch.tensor([5, 3, 2, 6, 4] if longest else [5, 3, 2, 6])
    group = torch.tensor([0, 0, 1, 1, 2] if longest else [0, 0, 1, 1])
    tokens = torch.randint(low, vocabulary, (len(lengths), 6), generator=g)
    mask = (torch.arange(6)[None] < lengths[:, None]).float()
    empty_B, one = torch.zeros(len(lengths)), torch.tensor(1.0)
    counts = mask.sum(), one * len(lengths), one * len(prompts)
    return Batch(prompts, tokens, mask, lengths, group, empty_B, torch.zeros(len(prompts)), *counts)


def observe(base: Any, max_length: int | None = None) -> Seen:
    """Runs a model that Kilter has not touched, each row alone.

    Args:
        base: a transformers model without adapters, in any mode.
        max_length: tokens of the longest row that will be read; None: unknown.

    Raises:
        UserError: the model cannot read a row.
    """
    config = base.config.get_text_config()
    reach = [w for w in windows(base.config) if w <= (max_length or LONGEST)]
    batch = rows(min(1000, config.vocab_size), max(reach, default=0))
    training, before = base.training, base.config._attn_implementation
    base.eval()
    try:
        _set_attention(base, "eager")
        with torch.no_grad(), torch.random.fork_rng():
            found = [_look(base, ids) for ids in _whole_rows(batch)]
            # Row 0 and row 1 begin with the same prompt, and differ after it.
            size = len(batch.prompts_N[0])
            ahead, repeats = _gap(found[0][:size], found[1][:size]), 0.0
            if not ahead <= TIGHT:
                repeats = _gap(found[0], _look(base, next(_whole_rows(batch))))
    except FAULTS as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            "model",
            type(base).__name__,
            f"cannot read a row by itself ({type(error).__name__}: {reason})",
            "check the model's files and its configuration with transformers alone",
        ) from error
    finally:
        _set_attention(base, before)
        base.train(training)

    return Seen(batch, torch.cat(list(_predicting(batch, found))), repeats, ahead)


def _set_attention(base: Any, name: str) -> None:
    if base.config._attn_implementation != name:
        base.set_attn_implementation(name)


def _whole_rows(batch: Batch) -> Iterator[Tensor]:
    """Prompt and completion of each row, without padding."""
    for group, tokens, length in zip(batch.group_B, batch.tokens_BT, batch.length_B, strict=True):
        yield torch.cat([batch.prompts_N[int(group)], tokens[: int(length)]])


def _predicting(batch: Batch, values: list[Tensor]) -> Iterator[Tensor]:
    """Of each row the values at the positions that predict its completion."""
    for group, length, value in zip(batch.group_B, batch.length_B, values, strict=True):
        first = len(batch.prompts_N[int(group)]) - 1
        yield value[first : first + int(length)]


def _look(base: Any, ids: Tensor) -> Tensor:
    """[L, V] logits of one row; of a classifier the states [L, D] that its head reads."""
    device = next(base.parameters()).device
    if base.get_output_embeddings() is not None or not hasattr(base, "score"):
        found: Tensor = base(input_ids=ids[None].to(device), use_cache=False).logits[0]
        return found.float().cpu()
    caught: list[Tensor] = []
    hook = base.score.register_forward_pre_hook(lambda _, args: caught.append(args[0]))
    try:
        base(input_ids=ids[None].to(device), use_cache=False)
    finally:
        hook.remove()
    return caught[0][0].float().cpu()


def _gap(a: Tensor, b: Tensor) -> float:
    """Largest difference; endless where one of the two is no number."""
    gap = float((a - b).abs().max())
    return gap if gap == gap else float("inf")


def prove(scorer: Scorer, seen: Seen, field: str = "model", value: object = "") -> Finding:
    """Finds the fastest way whose numbers are the model's own, and sets the scorer on it.

    Args:
        scorer: over the model that was observed, its adapters fresh.
        seen: what `observe` saw.
        field: the setting that named the model, for messages.
        value: its value.

    Raises:
        UserError: the model reads ahead, or no way agrees.
    """
    name = type(scorer._base()).__name__
    _refuse_what_is_not_causal(scorer, seen, name, field, value)
    training, findings = scorer.training, list[Finding]()
    try:
        close = list[Finding]()
        for way in _ways(scorer):
            # Each row alone is what was observed: nothing is closer, and nothing slower.
            if way.path == "own" and close:
                break
            findings.append(_tried(scorer, way, seen))
            close += [findings[-1]] if findings[-1].gap <= _tolerance(scorer, seen) else []
            if findings[-1].gap <= TIGHT:
                break

        # All of them agree. One that is off by no more than rounding is truer than the fastest.
        best = min(close, key=lambda f: f.gap > TIGHT, default=None)
        reasons = "; ".join(dict.fromkeys(f.reason for f in findings if f not in close))
        if best is not None:
            scorer.follow(best.way)
            return replace(best, reason=reasons)
    finally:
        scorer.train(training)
    raise UserError(
        field,
        str(value) or name,
        f"gives other numbers in Kilter than by itself ({reasons})",
        "use another model: this one's forward pass cannot be trained here",
    )


def _refuse_what_is_not_causal(scorer: Scorer, seen: Seen, name: str, field: str, value: object) -> None:
    """A log-prob may depend on what stands before its token, and on nothing else."""
    # A token that is never to be said may have a logit of minus infinity.
    if not bool((seen.values_SE < float("inf")).all()):
        problem = f"gives logits that are no numbers ({name}): its weights hold NaN, or overflow"
        raise UserError(
            field, str(value) or name, problem, "copy the weight files anew, or give an older one"
        )
    if not seen.repeats <= _tolerance(scorer, seen):
        problem = f"answers the same row differently each time ({name}), so that it has no log-probs"
        raise UserError(field, str(value) or name, problem, "use a model without noise in evaluation mode")
    if not seen.looks_ahead <= _tolerance(scorer, seen):
        problem = f"reads the tokens that it should predict: {name} is no causal model as it is configured"
        fix = "use a causal language model; masked-language models such as BERT cannot be trained on answers"
        raise UserError(field, str(value) or name, problem, fix)


def _tolerance(scorer: Scorer, seen: Seen) -> float:
    """In nats, or in units of a classifier's states."""
    largest = float(seen.values_SE[seen.values_SE.isfinite()].abs().max())
    exact = next(scorer.parameters()).dtype in (torch.float32, torch.float64)
    if exact and not scorer.classifies:
        # The rows are few, so that others may be further off. A model that has run away has logits whose
        # rounding alone is larger.
        return max(TOLERANCE / 4, ROUNDING * largest)
    return TOLERANCE * max(1e-6, largest)


def _ways(scorer: Scorer) -> Iterator[Way]:
    """Fastest first. The attention that a model is loaded with may leave out what its own definition has."""
    names = dict.fromkeys((scorer.loaded_attention, "eager"))
    yield Way("shared")
    yield from (Way("rows", attention=name) for name in names)
    if not scorer.classifies:
        yield from (Way("own", attention=name) for name in names)


def _tried(scorer: Scorer, way: Way, seen: Seen) -> Finding:
    """One way, with the head and the still modules that it takes; a reason says why it is not this one."""
    # Any model may come here, so what its code raises is an answer too.
    try:
        scorer.follow(way)
        scorer.eval()
        with torch.no_grad(), torch.random.fork_rng():
            way, gap = _with_head(scorer, way, seen)
            if gap <= _tolerance(scorer, seen) and way.path == "shared":
                gap = max(gap, _plain(scorer, way, seen))
        if not gap <= _tolerance(scorer, seen):
            return Finding(way, gap, f"{_called(way)}: log-probs differ by {gap:.1e}")
        return _trained(scorer, way, seen, gap)
    except FAULTS as error:
        text = " ".join(str(error).split())[:120]
        return Finding(way, float("inf"), f"{_called(way)}: {type(error).__name__}: {text}")


CALLED = {"shared": "shared prompts", "rows": "plain rows", "own": "the model's own logits"}
"""The paths for people."""


def _called(way: Way) -> str:
    return CALLED[way.path] + (f" ({way.attention})" if way.path == "rows" and way.attention else "")


def _plain(scorer: Scorer, way: Way, seen: Seen) -> float:
    """How far plain rows are from the model itself while prompts could be shared."""
    scorer.shared = False
    try:
        return _distance(scorer, seen)
    finally:
        scorer.follow(way)


def _trained(scorer: Scorer, way: Way, seen: Seen, gap: float) -> Finding:
    """The same way while the model trains, with as few still modules as agree."""
    levels: tuple[Still, ...] = ("nothing", "inner", "all")
    worst = float("inf")
    for still in levels:
        scorer.follow(replace(way, still=still))
        scorer.train()
        # The model's own rates are 0. An adapter's dropout is asked for, and is not the base model's noise.
        for module in scorer.modules():
            if isinstance(module, torch.nn.Dropout):
                module.training = False
        with torch.enable_grad(), torch.random.fork_rng():
            before = _random_state(scorer)
            worst = _distance(scorer, seen)
            # Few tokens may hide a draw that rarely matters, so that drawing at all counts.
            drew = not torch.equal(before, _random_state(scorer))
        if worst <= _tolerance(scorer, seen) and not drew:
            return Finding(replace(way, still=still), max(gap, worst))
    if worst <= _tolerance(scorer, seen):
        return Finding(way, float("inf"), f"{_called(way)}: random numbers are drawn in training")
    return Finding(way, worst, f"{_called(way)}: log-probs differ by {worst:.1e} in training")


def _random_state(scorer: Scorer) -> Tensor:
    """State of the generator that the model's device draws from."""
    return torch.cuda.get_rng_state() if scorer.device.type == "cuda" else torch.get_rng_state()


def _distance(scorer: Scorer, seen: Seen) -> float:
    """Largest difference between the model's own values and Kilter's, over all trained tokens."""
    if scorer.classifies:
        return _gap(scorer.predicting(seen.batch).float().detach().cpu(), seen.values_SE)
    found = scorer(seen.batch).logps_BT.detach().cpu()
    return _gap(found[seen.batch.mask_BT > 0], _target_logps(seen.values_SE, seen.batch))


def _target_logps(logits_SV: Tensor, batch: Batch) -> Tensor:
    """Log-probs of the trained tokens under the model's own logits, [S]."""
    targets_S = batch.tokens_BT[batch.mask_BT > 0]
    return logits_SV.log_softmax(-1).gather(1, targets_S[:, None])[:, 0]


def _with_head(scorer: Scorer, way: Way, seen: Seen) -> tuple[Way, float]:
    """The way with a head that agrees, if there is one, and how far it is from the model itself."""
    gap = _distance(scorer, seen)
    if gap <= _tolerance(scorer, seen) or scorer.classifies or way.path == "own":
        return way, gap

    # The states may be right and the head another one: a factor or a bound that has an unknown name.
    picked_SD = scorer.predicting(seen.batch)
    head = replace(scorer.head(), scale=1.0, softcap=None)
    z_SV = logits(picked_SD, head).cpu()
    own_SV = seen.values_SE
    for scale, softcap in _heads(z_SV, own_SV, scorer._base().config.get_text_config()):
        # All logits have to agree. A few log-probs would hide a wrong form that fits by chance.
        made_SV = logits(z_SV, Head(None, None, scale, softcap))
        if float((made_SV - own_SV).abs().max()) <= 1e-4 * float(own_SV.abs().max()):
            way = replace(way, scale=scale, softcap=softcap)
            break
    scorer.follow(way)
    return way, gap if way.scale is None else _distance(scorer, seen)


def _heads(z_SV: Tensor, own_SV: Tensor, config: Any) -> Iterator[tuple[float, float | None]]:
    """Scales and soft caps that may lead from W h + b to the model's own logits."""
    declared, _ = declared_head(config)
    yield 1.0, None
    yield _fitted(z_SV, own_SV, config), None
    for name, value in config.to_dict().items():
        if "cap" in name and isinstance(value, int | float) and not isinstance(value, bool) and value > 0:
            # Below its bound the cap is undone, and the factor shows.
            inside = own_SV.abs() < 0.9 * value
            bare = value * torch.atanh(own_SV[inside].double() / value)
            yield 1.0, float(value)
            yield declared, float(value)
            yield _fitted(z_SV[inside], bare, config), float(value)


def _fitted(z: Tensor, own: Tensor, config: Any) -> float:
    """The factor from z to the model's own logits; a number of the configuration, if it is one of them."""
    z, own = z.double(), own.double()
    scale = float((z * own).sum() / (z * z).sum().clamp_min(1e-30)) or 1.0
    for value in config.to_dict().values():
        if isinstance(value, float) and value:
            for exact in (value, 1 / value):
                if abs(exact / scale - 1) < 1e-5:
                    return exact
    return scale


def recall(path: Path) -> Finding | None:
    """What an earlier proof found; None where it left nothing that can be read."""
    try:
        found = remembered(path)
        return Finding(Way(**found["way"]), float(found["gap"]), str(found["reason"]))
    except (ValueError, TypeError, KeyError):
        return None


def keep(path: Path, finding: Finding) -> None:
    """Leaves a finding for the next time that the model is loaded."""
    remember(path, asdict(finding))


def proof_key(model_hash: str, **conditions: object) -> str:
    """Name of a proof: the model's content, the libraries that run it, and what else it depends on."""
    import transformers

    parts = [FORMAT, __version__, torch.__version__, transformers.__version__, model_hash]
    parts += [f"{name}={value}" for name, value in sorted(conditions.items())]
    return hashlib.sha256("|".join(map(str, parts)).encode()).hexdigest()[:40]


@functools.cache
def tell(finding: Finding, name: str) -> None:
    """Says once how a model is run, where that is not the fastest way."""
    if finding.way.path == "rows":
        log.warning(
            "%s cannot share prompts (%s): plain rows are used, which cost one prompt per completion",
            name,
            finding.reason,
        )
    if finding.way.path == "own":
        log.warning("%s is read through its own logits, one row at a time (%s)", name, finding.reason)
    if finding.way.still != "nothing":
        log.warning("%s computes other numbers in training: its modules stay as in evaluation", name)


def describe(finding: Finding) -> str:
    """The proof in one line."""
    return f"forward: {CALLED[finding.way.path]}, within {finding.gap:.0e} nats of the model itself"
