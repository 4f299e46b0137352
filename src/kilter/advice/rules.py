"""Facts to methods.

A rule names the method, the reason, and what the reason rests on: a measured fact, a paper, or our own
comparison.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from kilter.advice.facts import Facts
from kilter.objectives.pages import results


@dataclass(frozen=True, slots=True)
class Reason:
    """A sentence of advice, with the measurement or paper that it rests on."""

    text: str
    evidence: str


@dataclass(frozen=True, slots=True)
class Suggestion:
    """A method to try, with its settings, for these reasons."""

    method: str
    reasons: tuple[Reason, ...]
    settings: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    """Fields of its data set beyond the path."""


@dataclass(frozen=True, slots=True)
class Machine:
    """Memory that training may use (GB), and what it is."""

    memory_gb: float
    name: str


def percent(value: float) -> str:
    """0.634 as '63 %'."""
    return f"{value:.0%}".replace("%", " %")


def noise_of(f: Facts) -> Reason | None:
    """A reason, if more than 1 % of the pairs stand in the data both ways."""
    if not f.contradictions or f.contradictions <= 0.01:
        return None
    share = percent(f.contradictions)
    return Reason(
        "some labels are wrong for certain", f"measured: {share} of the pairs stand in the data both ways"
    )


def length_of(f: Facts) -> Reason | None:
    """Signs that long answers were preferred for their length."""
    if f.longer_low is None or f.longer_chosen is None or f.longer_low <= 0.5 or f.longer_chosen <= 0.6:
        return None
    share, low, high = map(percent, (f.longer_chosen, f.longer_low, f.longer_high or 1.0))
    return Reason(
        "length alone would win",
        f"measured: the chosen answer is the longer one in {share} [{low}, {high}] of the pairs",
    )


def measured(method: str) -> tuple[Reason, ...]:
    """What the project's own comparison says of a method, if it was in it."""
    return tuple(
        Reason("it has been compared here", f"our comparison: {found}") for found in results().get(method, ())
    )


def _try(method: str, *reasons: Reason, **settings: Any) -> Suggestion:
    """A method for these reasons, and for what our own comparison says of it."""
    return Suggestion(method, (*reasons, *measured(method)), settings)


def pairs(f: Facts) -> list[Suggestion]:
    """Suggests methods for preference pairs."""
    noise, length = noise_of(f), length_of(f)

    # A measured flaw of the labels comes before the standard method, and wrong labels before long ones.
    first = _for_noise(f, noise) if noise is not None else []
    if length is not None:
        first += [_try("r_dpo", length, LENGTH_REWARDED, alpha=0.02)]

    rafailov = f"measured: {f.groups} pairs; paper: Rafailov et al. 2023"
    out = [*first, _try("dpo", Reason("the standard method for preference pairs", rafailov), beta=0.1)]
    if length is not None:
        out += [_try("simpo", MEAN_REWARDED)]
    if f.groups < 300:
        hong = f"measured: {f.groups} pairs; paper: Hong et al. 2024"
        out += [_try("orpo", Reason("few pairs teach more when they are imitated as well", hong))]

    # A program that checks answers is another kind of evidence, so it stands beside the best of the others.
    if f.verifiable > f.groups / 2:
        why = "a program can check the answers, so the policy can learn beyond what was written down"
        checked = f"{f.verifiable} of {f.groups} prompts carry an answer or a gold verifier"
        out.insert(1, _try("grpo", Reason(why, f"measured: {checked}; paper: Shao et al. 2024")))
    out += [_try("ipo", Reason("a finite margin guards against overfitting", "paper: Azar et al. 2023"))]
    return out


LENGTH_REWARDED = Reason(
    "length is part of its reward, so the policy need not learn it", "paper: Park et al. 2024"
)
MEAN_REWARDED = Reason(
    "its reward is the mean log-prob, which length does not raise", "paper: Meng et al. 2024"
)


def _for_noise(f: Facts, noise: Reason) -> list[Suggestion]:
    """Methods for pairs some of which are labelled the wrong way."""
    weigh = Reason("pairs of high loss weigh less", "paper: Wu et al. 2024")

    # Of a pair that stands both ways, one label is wrong.
    least = round(max(0.01, (f.contradictions or 0.0) / 2), 2)
    robust = Reason(
        f"its loss is unbiased when a share of the labels is flipped, here at least {percent(least)}",
        "paper: Chowdhury et al. 2024",
    )
    return [_try("dr_dpo", noise, weigh, b=1.0), _try("robust_dpo", robust, label_smoothing=least)]


def thumbs(f: Facts) -> list[Suggestion]:
    """Single answers judged good or bad."""
    good, bad = f.desirable or 0, f.undesirable or 0
    shape = f"measured: {good} desirable and {bad} undesirable single answers"
    if good == 0:
        reasons = (
            Reason("there is nothing to raise, only answers to unlearn", shape),
            Reason("it levels off where gradient ascent collapses", "paper: Zhang et al. 2024"),
        )
        return [Suggestion("npo", reasons)]

    both = "it learns from thumbs that do not come in pairs, and balances both kinds"
    alone = "the desirable answers alone, as the baseline that the others must beat"
    return [
        _try("kto", Reason(both, f"{shape}; paper: Ethayarajh et al. 2024")),
        _try("bco", Reason("the same data with fewer settings", "paper: Jung et al. 2024")),
        _try("sft", Reason(alone, f"measured: {good} desirable answers")),
    ]


def lists(f: Facts) -> list[Suggestion]:
    """Suggests methods for rankings and ratings."""
    shape = f"measured: {f.answers_per_prompt:g} answers per prompt"
    swaps = Reason(
        "all pairs of a list, weighted by what swapping them costs", f"{shape}; paper: Liu et al. 2024"
    )
    whole = Reason(
        "the likelihood of the whole ranking", f"{shape}; paper: Rafailov et al. 2023, appendix A.3"
    )
    extremes = Reason(
        "best against worst, as the baseline that lists must beat",
        f"measured: {f.groups} lists, {f.ties} of them all tied",
    )
    by_swaps, by_extremes = _try("lipo_lambda", swaps), _try("dpo", extremes)

    # The best and the worst of a list are the pair least likely to be labelled the wrong way round.
    noise, length = noise_of(f), length_of(f)
    if length is not None:
        by_mean = Reason(
            "best against worst by the mean log-prob, which length does not raise", "paper: Meng et al. 2024"
        )
        return [_try("simpo", length, by_mean), by_swaps, by_extremes]
    if noise is not None:
        return [by_extremes, by_swaps]
    return [by_swaps, _try("plackett_luce", whole), by_extremes]


def verifiable(f: Facts) -> list[Suggestion]:
    """Answers that a program can check."""
    shape = f"measured: {f.verifiable} of {f.groups} prompts carry an answer to check against"
    exact = Reason(
        "the reward is exact, so no reward model can be hacked", f"{shape}; paper: Shao et al. 2024"
    )
    unbiased = Reason("grpo without its bias towards long wrong answers", "paper: Liu et al. 2025")
    worked = Reason(
        "first, on the worked answers: a policy that is never right learns nothing from being checked",
        f"{shape}; our runs: grpo-svamp begins with it",
    )
    return [_try("grpo", exact), _try("dr_grpo", unbiased), Suggestion("sft", (worked,))]


def demonstrations(f: Facts) -> list[Suggestion]:
    """Answers without any judgement."""
    shape = f"measured: {f.groups} answers, none of them judged"
    imitate = Reason("imitation is what demonstrations allow", f"{shape}; paper: Ouyang et al. 2022")
    half = Reason("generalises better where the model half knows the task", "paper: Wu et al. 2025")
    return [_try("sft", imitate), _try("dft", half)]


def scored(f: Facts) -> list[Suggestion]:
    """Suggests methods for single answers with scores."""
    shape = f"measured: {f.groups} single answers with scores"
    levels = Reason(
        "conditional SFT: every answer with its level in the prompt, and the best level asked for afterwards",
        f"{shape}; papers: Lu et al. 2022, Dong et al. 2023",
    )
    first = "above 0" if f.border is None else f"of {f.border:g} or more"
    thumbs = Reason(
        f"answers with a score {first} as thumbs up; data.threshold is the first score that you call good",
        f"{shape}; paper: Ethayarajh et al. 2024",
    )
    graded = {} if f.border is None else {"threshold": f.border}
    kto = replace(_try("kto", thumbs), data=graded)
    return [replace(_try("sft", levels), data={"condition": {"levels": 3}}), kto]


def prompts(f: Facts) -> list[Suggestion]:
    """Suggests online methods for prompts without answers."""
    own = (
        "prompts need a source of feedback: the recipe begins with the policy's own judgement, "
        "to be replaced by your verifier, reward model or function"
    )
    shape = f"measured: {f.groups} prompts, no answers; paper: Shao et al. 2024"
    better = Reason("when the feedback says only which of two answers is better", "paper: Guo et al. 2024")
    return [Suggestion("grpo", (Reason(own, shape),)), Suggestion("online_dpo", (better,))]


RULES: dict[str, Callable[[Facts], list[Suggestion]]] = {
    "pairs": pairs,
    "thumbs": thumbs,
    "rankings": lists,
    "ratings": lists,
    "verifiable": verifiable,
    "demonstrations": demonstrations,
    "prompts": prompts,
    "scored": scored,
}


def cautions(f: Facts) -> list[Reason]:
    """What to look at before believing any of it."""
    out = [r for r in (noise_of(f), length_of(f)) if r is not None]
    if f.longer_high is not None and f.longer_high < 0.4:
        share = percent(f.longer_chosen or 0.0)
        out += [
            Reason(
                "brevity alone would win; watch the length of the answers beside their score",
                f"measured: the chosen answer is the longer one in {share} of the pairs",
            )
        ]
    if f.shortcut_auc is not None and f.shortcut_auc > 0.75:
        out += [
            Reason(
                "which answer was chosen can be told without reading the prompt: a style, "
                "or an artefact of how the data was made",
                f"measured: AUC {f.shortcut_auc:.2f} from the words of the answer alone",
            )
        ]
    if f.kind in ("demonstrations", "scored") and f.prompts * 10 < f.groups:
        out += [
            Reason(
                "these look like texts to sort rather than answers to prompts; "
                "imitating them teaches their content",
                f"measured: {f.prompts} prompts for {f.groups} rows",
            )
        ]
    if f.groups < 200:
        out += [
            Reason(
                "differences between methods will drown in chance; hold out more, or collect more",
                f"measured: {f.groups} rows",
            )
        ]
    return out


def suggest(f: Facts) -> list[Suggestion]:
    """The two or three methods worth trying, best first; a method appears once."""
    seen: dict[str, Suggestion] = {}
    for s in RULES[f.kind](f):
        seen.setdefault(s.method, s)
    return list(seen.values())[:3]
