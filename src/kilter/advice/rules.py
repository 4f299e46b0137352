"""Facts to methods. A rule names the method, the reason, and what the reason rests on: a measured fact, a paper, or our own comparison."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from kilter.advice.facts import Facts
from kilter.objectives.pages import results


@dataclass(frozen=True, slots=True)
class Reason:
    """A sentence of advice and its evidence."""

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
    """Signs of wrong labels."""
    if f.contradictions and f.contradictions > 0.01:
        return Reason(
            "some labels are wrong for certain",
            f"measured: {percent(f.contradictions)} of the pairs stand in the data both ways",
        )
    return None


def length_of(f: Facts) -> Reason | None:
    """Length bias, with its sign."""
    if (
        f.longer_low is not None
        and f.longer_low > 0.5
        and f.longer_chosen is not None
        and f.longer_chosen > 0.6
    ):
        return Reason(
            "length alone would win",
            f"measured: the chosen answer is the longer one in {percent(f.longer_chosen)} [{percent(f.longer_low)}, {percent(f.longer_high or 1.0)}] of the pairs",
        )
    return None


def measured(method: str) -> tuple[Reason, ...]:
    """What the project's own comparison says of a method, if it was in it."""
    return tuple(
        Reason("it has been compared here", f"our comparison: {found}") for found in results().get(method, ())
    )


def pairs(f: Facts) -> list[Suggestion]:
    """Preference pairs."""
    count = Reason(
        "the standard method for preference pairs", f"measured: {f.groups} pairs; paper: Rafailov et al. 2023"
    )
    out = [Suggestion("dpo", (count, *measured("dpo")), {"beta": 0.1})]
    noise, length = noise_of(f), length_of(f)
    if length is not None:
        out.insert(
            0,
            Suggestion(
                "r_dpo",
                (
                    length,
                    Reason(
                        "length is part of its reward, so the policy need not learn it",
                        "paper: Park et al. 2024",
                    ),
                    *measured("r_dpo"),
                ),
                {"alpha": 0.02},
            ),
        )
        out.append(
            Suggestion(
                "simpo",
                (
                    Reason(
                        "its reward is the mean log-prob, which length does not raise",
                        "paper: Meng et al. 2024",
                    ),
                    *measured("simpo"),
                ),
                {},
            )
        )
    if noise is not None:
        out.insert(
            0,
            Suggestion(
                "dr_dpo",
                (
                    noise,
                    Reason("pairs of high loss weigh less", "paper: Wu et al. 2024"),
                    *measured("dr_dpo"),
                ),
                {"b": 1.0},
            ),
        )
        least = round(
            max(0.01, (f.contradictions or 0.0) / 2), 2
        )  # of a pair that stands both ways, one label is wrong
        robust = Reason(
            f"its loss is unbiased when a share of the labels is flipped, here at least {percent(least)}",
            "paper: Chowdhury et al. 2024",
        )
        out.insert(1, Suggestion("robust_dpo", (robust, *measured("robust_dpo")), {"label_smoothing": least}))
    if f.groups < 300:
        out.append(
            Suggestion(
                "orpo",
                (
                    Reason(
                        "few pairs teach more when they are imitated as well",
                        f"measured: {f.groups} pairs; paper: Hong et al. 2024",
                    ),
                    *measured("orpo"),
                ),
                {},
            )
        )
    if f.verifiable > f.groups / 2:
        out.insert(
            1,
            Suggestion(
                "grpo",
                (
                    Reason(
                        "a program can check the answers, so the policy can learn beyond what was written down",
                        f"measured: {f.verifiable} of {f.groups} prompts carry an answer or a gold verifier; paper: Shao et al. 2024",
                    ),
                    *measured("grpo"),
                ),
                {},
            ),
        )
    out.append(
        Suggestion(
            "ipo",
            (
                Reason("a finite margin guards against overfitting", "paper: Azar et al. 2023"),
                *measured("ipo"),
            ),
            {},
        )
    )
    return out


def thumbs(f: Facts) -> list[Suggestion]:
    """Single answers judged good or bad."""
    good, bad = f.desirable or 0, f.undesirable or 0
    shape = f"measured: {good} desirable and {bad} undesirable single answers"
    if good == 0:
        return [
            Suggestion(
                "npo",
                (
                    Reason("there is nothing to raise, only answers to unlearn", shape),
                    Reason("it levels off where gradient ascent collapses", "paper: Zhang et al. 2024"),
                ),
                {},
            )
        ]
    return [
        Suggestion(
            "kto",
            (
                Reason(
                    "it learns from thumbs that do not come in pairs, and balances both kinds",
                    f"{shape}; paper: Ethayarajh et al. 2024",
                ),
                *measured("kto"),
            ),
            {},
        ),
        Suggestion(
            "bco",
            (Reason("the same data with fewer settings", "paper: Jung et al. 2024"), *measured("bco")),
            {},
        ),
        Suggestion(
            "sft",
            (
                Reason(
                    "the desirable answers alone, as the baseline that the others must beat",
                    f"measured: {good} desirable answers",
                ),
                *measured("sft"),
            ),
            {},
        ),
    ]


def lists(f: Facts) -> list[Suggestion]:
    """Rankings and ratings."""
    shape = f"measured: {f.answers_per_prompt:g} answers per prompt"
    out = [
        Suggestion(
            "lipo_lambda",
            (
                Reason(
                    "all pairs of a list, weighted by what swapping them costs",
                    f"{shape}; paper: Liu et al. 2024",
                ),
                *measured("lipo_lambda"),
            ),
            {},
        ),
        Suggestion(
            "plackett_luce",
            (
                Reason(
                    "the likelihood of the whole ranking",
                    f"{shape}; paper: Rafailov et al. 2023, appendix A.3",
                ),
                *measured("plackett_luce"),
            ),
            {},
        ),
        Suggestion(
            "dpo",
            (
                Reason(
                    "best against worst, as the baseline that lists must beat",
                    f"measured: {f.groups} lists, {f.ties} of them all tied",
                ),
                *measured("dpo"),
            ),
            {},
        ),
    ]
    noise, length = noise_of(f), length_of(f)
    if length is not None:
        by_mean = Reason(
            "best against worst by the mean log-prob, which length does not raise", "paper: Meng et al. 2024"
        )
        return [Suggestion("simpo", (length, by_mean, *measured("simpo")), {}), out[0], out[2]]
    return out if noise is None else [out[2], out[0]]


def verifiable(f: Facts) -> list[Suggestion]:
    """Answers that a program can check."""
    shape = f"measured: {f.verifiable} of {f.groups} prompts carry an answer to check against"
    return [
        Suggestion(
            "grpo",
            (
                Reason(
                    "the reward is exact, so no reward model can be hacked",
                    f"{shape}; paper: Shao et al. 2024",
                ),
                *measured("grpo"),
            ),
            {},
        ),
        Suggestion(
            "dr_grpo",
            (
                Reason("grpo without its bias towards long wrong answers", "paper: Liu et al. 2025"),
                *measured("dr_grpo"),
            ),
            {},
        ),
        Suggestion(
            "sft",
            (
                Reason(
                    "first, on the worked answers: a policy that is never right learns nothing from being checked",
                    f"{shape}; our runs: grpo-svamp begins with it",
                ),
            ),
            {},
        ),
    ]


def demonstrations(f: Facts) -> list[Suggestion]:
    """Answers without any judgement."""
    shape = f"measured: {f.groups} answers, none of them judged"
    return [
        Suggestion(
            "sft",
            (
                Reason("imitation is what demonstrations allow", f"{shape}; paper: Ouyang et al. 2022"),
                *measured("sft"),
            ),
            {},
        ),
        Suggestion(
            "dft",
            (
                Reason("generalises better where the model half knows the task", "paper: Wu et al. 2025"),
                *measured("dft"),
            ),
            {},
        ),
    ]


def scored(f: Facts) -> list[Suggestion]:
    """Single answers with grades."""
    shape = f"measured: {f.groups} single answers with scores"
    return [
        Suggestion(
            "sft",
            (
                Reason(
                    "conditional SFT: every answer with its level in the prompt, and the best level asked for afterwards",
                    f"{shape}; papers: Lu et al. 2022, Dong et al. 2023",
                ),
                *measured("sft"),
            ),
            {},
            {"condition": {"levels": 3}},
        ),
        Suggestion(
            "kto",
            (
                Reason(
                    "answers above 0 as thumbs up; give labels by a threshold of your own where 0 is not the border",
                    f"{shape}; paper: Ethayarajh et al. 2024",
                ),
                *measured("kto"),
            ),
            {},
        ),
    ]


def prompts(f: Facts) -> list[Suggestion]:
    """Prompts alone."""
    return [
        Suggestion(
            "grpo",
            (
                Reason(
                    "prompts need a source of feedback: the recipe begins with the policy's own judgement, to be replaced by your verifier, reward model or function",
                    f"measured: {f.groups} prompts, no answers; paper: Shao et al. 2024",
                ),
            ),
            {},
        ),
        Suggestion(
            "online_dpo",
            (Reason("when the feedback says only which of two answers is better", "paper: Guo et al. 2024"),),
            {},
        ),
    ]


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
        out.append(
            Reason(
                "brevity alone would win; watch the length of the answers beside their score",
                f"measured: the chosen answer is the longer one in {percent(f.longer_chosen or 0.0)} of the pairs",
            )
        )
    if f.shortcut_auc is not None and f.shortcut_auc > 0.75:
        out.append(
            Reason(
                "which answer was chosen can be told without reading the prompt: a style, or an artefact of how the data was made",
                f"measured: AUC {f.shortcut_auc:.2f} from the words of the answer alone",
            )
        )
    if f.kind in ("demonstrations", "scored") and f.prompts * 10 < f.groups:
        out.append(
            Reason(
                "these look like texts to sort rather than answers to prompts; imitating them teaches their content",
                f"measured: {f.prompts} prompts for {f.groups} rows",
            )
        )
    if f.groups < 200:
        out.append(
            Reason(
                "differences between methods will drown in chance; hold out more, or collect more",
                f"measured: {f.groups} rows",
            )
        )
    return out


def suggest(f: Facts) -> list[Suggestion]:
    """The two or three methods worth trying, best first; a method appears once."""
    seen: dict[str, Suggestion] = {}
    for s in RULES[f.kind](f):
        seen.setdefault(s.method, s)
    return list(seen.values())[:3]
