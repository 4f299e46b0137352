"""Evaluates several models on the same held-out prompts: sample, score, compare, write evaluation.json."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from kilter import feedback as feedbacks
from kilter.artifacts import write_json
from kilter.data import store
from kilter.data.collate import collate
from kilter.data.dataset import Dataset, prompt_key
from kilter.data.encode import Encoder
from kilter.data.worlds.support_desk import GoldFeedback
from kilter.errors import UserError
from kilter.evaluation import classifiers, metrics
from kilter.evaluation.config import EvaluateSpec
from kilter.feedback.registry import Context
from kilter.feedback.reward_model import RewardModel
from kilter.models.forward import Scorer
from kilter.models.load import model_hash
from kilter.models.microbatch import split
from kilter.progress import Display
from kilter.roles.open import OpenSpec, open_model
from kilter.sampling.local import LocalSampler
from kilter.seams import FeedbackSource
from kilter.statistics import Metric, mean, paired_difference, proportion, win_rate
from kilter.types import Completion, Feedback, Group, Prompt, SamplingParams

SCHEMA = 1


@dataclass
class Evaluation:
    """One evaluate stage. `models` maps names to folders, the baseline first; `pairs` are held-out pairs for the reward model."""

    spec: EvaluateSpec
    models: dict[str, Path]
    reward_model: tuple[str, Path] | None
    prompts: Dataset
    pairs: Sequence[Group]
    trained_prompts: frozenset[str]
    out: Path
    console: Console
    name: str = "eval"
    probes: Sequence[Prompt] = ()
    tax: Sequence[Group] = ()

    def run(self) -> dict[str, Any]:
        """Returns and writes evaluation.json; answers go to groups.jsonl as they are made, so a killed run keeps them."""
        prompts = self._unique_prompts()
        answers: dict[str, list[Completion]] = {}
        policy_logps: dict[str, list[Sequence[float]]] = {}
        baseline = next(iter(self.models))
        reference: Scorer | None = None
        vocabulary: dict[str, int] = {}
        reference_logps: dict[str, list[Sequence[float]]] = {}
        probed: dict[str, list[Completion]] = {}
        taxes: dict[str, list[float | None]] = {}
        for name, folder in self.models.items():
            scorer, encoder = self._load(folder)
            answers[name] = self._answers(name, folder, scorer, encoder, prompts)
            if self.probes:
                probed[name] = self._answers(name, folder, scorer, encoder, self.probes)
            policy_logps[name] = self._own_logps(answers[name], scorer, encoder, prompts)
            if self.tax:
                taxes[name] = self._token_nll(scorer, encoder, name)
            if name == baseline:
                reference, vocabulary = scorer, encoder.tokenizer.get_vocab()
            else:
                assert reference is not None
                if encoder.tokenizer.get_vocab() != vocabulary:
                    self.console.print(
                        f"  no KL for {name}: its vocabulary is not that of {baseline}", highlight=False
                    )
                    continue
                reference_logps[name] = self._logps(
                    answers[name], reference, encoder, prompts, f"{self.name}: KL of {name}"
                )
        scores = self._scores(prompts, answers)
        data_hash = self.prompts.content_hash()[:16]
        extra: dict[str, Any] = {"data_hash": data_hash}
        result: dict[str, Any] = {
            "schema": SCHEMA,
            "n_probes": len(self.probes),
            "baseline": baseline,
            "n_prompts": len(prompts),
            "data_hash": data_hash,
            "prompts_found_in_training_data": sum(
                prompt_key(p)[:16] in self.trained_prompts for p in prompts
            ),
            "sampling": {
                "temperature": self.spec.temperature,
                "top_p": self.spec.top_p,
                "top_k": self.spec.top_k,
                "max_new_tokens": self.spec.max_new_tokens,
                "seed": self.spec.seed,
            },
            "models": {},
        }
        per_prompt = {name: self._per_prompt(prompts, answers[name], scores[name]) for name in answers}
        for name, nll in taxes.items():
            per_prompt[name]["tax_nll"] = nll
        for name, found_answers in probed.items():
            more = self._per_prompt(self.probes, found_answers, {})
            for key in ("over_refusal", "violation_unsafe"):
                per_prompt[name][key] = [*per_prompt[name][key], *more[key]]
        for name in answers:
            found = self._metrics(prompts, answers[name], per_prompt[name], extra)
            if name in reference_logps:
                for key, estimate in (("kl", metrics.kl_k1), ("kl_token_k3", metrics.kl_k3)):
                    found[key] = replace(
                        m := estimate(policy_logps[name], reference_logps[name], self.spec.seed, **extra),
                        method=m.method + self._kl_note(),
                    )
            entry: dict[str, Any] = {
                "path": str(self.models[name].resolve()),
                "model_hash": model_hash(self.models[name])[:16],
            }
            if name != baseline:
                for measure in ("gold", "reward"):
                    if per_prompt[name].get(measure):
                        other = per_prompt[baseline][measure]
                        found[f"win_rate_{measure}"] = win_rate(
                            per_prompt[name][measure],
                            other,
                            self.spec.seed,
                            judge=measure,
                            unit="share",
                            higher_is_better=True,
                            **extra,
                        )
                entry["difference"] = {
                    key: paired_difference(
                        values,
                        per_prompt[baseline][key],
                        self.spec.seed,
                        unit=found[key].unit,
                        higher_is_better=found[key].higher_is_better,
                        **extra,
                    ).to_json()
                    for key, values in per_prompt[name].items()
                    if values and key in found
                }
            entry["metrics"] = {k: m.to_json() for k, m in found.items()}
            result["models"][name] = entry
        if self.reward_model is not None and self.pairs:
            result["reward_model"] = self._reward_accuracy(extra)
        kl = {
            n: [sum(a) - sum(b) for a, b in zip(policy_logps[n], reference_logps[n], strict=True)]
            for n in reference_logps
        }
        everything = {n: values | ({"kl": kl[n]} if n in kl else {}) for n, values in per_prompt.items()}
        write_json(self.out / "per_prompt.json", everything)
        self._write(result, prompts, answers, scores)
        return result

    def _kl_note(self) -> str:
        """Sampled otherwise than from the policy itself, the estimate is biased, and says so."""
        s = self.spec
        plain = s.temperature == 1.0 and s.top_p == 1.0 and s.top_k == 0
        return (
            ""
            if plain
            else f"; biased: answers sampled at temperature {s.temperature}, top_p {s.top_p}, top_k {s.top_k}"
        )

    def _unique_prompts(self) -> list[Prompt]:
        seen: dict[str, Prompt] = {}
        for group in self.prompts.heldout:
            seen.setdefault(prompt_key(group.prompt), group.prompt)
        prompts = list(seen.values())[: self.spec.limit]
        if not prompts:
            raise UserError(
                "data.heldout",
                self.prompts.spec.heldout,
                "leaves no prompts to evaluate on",
                "set data.heldout above 0 or give more data",
            )
        return prompts

    def _load(self, folder: Path) -> tuple[Scorer, Encoder]:
        ready = open_model(
            OpenSpec(
                folder,
                dtype=self.spec.dtype,
                template=self.spec.template,
                max_length=self.spec.max_length,
                max_prompt=max(1, self.spec.max_length - self.spec.max_new_tokens),
            )
        )
        return ready.scorer, ready.encoder

    def _answers(
        self, name: str, folder: Path, scorer: Scorer, encoder: Encoder, prompts: Sequence[Prompt]
    ) -> list[Completion]:
        """Sampled answers; those of an earlier, killed attempt with the same weights and settings are taken from disk."""
        params = SamplingParams(
            self.spec.max_new_tokens,
            self.spec.temperature,
            self.spec.top_p,
            self.spec.top_k,
            seed=self.spec.seed,
        )
        settings = f"{model_hash(folder)}|{params}|{self.spec.dtype}|{self.spec.max_length}|{encoder.tokenizer.chat_template}"
        stamp = hashlib.sha256(settings.encode()).hexdigest()[:16]
        path = self.out / "answers" / f"{re.sub(r'[^A-Za-z0-9-]+', '_', name)[-60:]}-{stamp}.jsonl"
        known = {g.prompt.metadata["key"]: g.completions[0] for g in store.read(path)}
        todo = [p for p in prompts if prompt_key(p) not in known]
        display = Display(self.console, f"{self.name}: answers of {name}", len(todo))
        sampler = LocalSampler(scorer, encoder, amp=self.spec.dtype == "bfloat16")
        for first in range(0, len(todo), 128):
            part = todo[first : first + 128]

            def report(done: int, first: int = first) -> None:
                display.update(first + done, f"answers  {sampler.last.tokens_per_second:.0f} tok/s")

            made = sampler.generate(part, 1, params, report)
            pairs = [(p, c[0]) for p, c in zip(part, made, strict=True)]
            store.append(
                path,
                [
                    Group(Prompt(id=p.id, metadata={"key": prompt_key(p)}), (c,), (Feedback(None),))
                    for p, c in pairs
                ],
            )
            known |= {prompt_key(p): c for p, c in pairs}
        display.close()
        return [known[prompt_key(p)] for p in prompts]

    def _own_logps(
        self, answers: Sequence[Completion], scorer: Scorer, encoder: Encoder, prompts: Sequence[Prompt]
    ) -> list[Sequence[float]]:
        """The policy's log-probs at temperature 1: those of the sampler when it sampled at 1, else recomputed."""
        if self.spec.temperature == 1.0 and self.spec.dtype == "float32":
            return [a.sampling_logps or () for a in answers]
        return self._logps(answers, scorer, encoder, prompts, f"{self.name}: log-probs")

    def _logps(
        self,
        answers: Sequence[Completion],
        scorer: Scorer,
        encoder: Encoder,
        prompts: Sequence[Prompt],
        title: str,
    ) -> list[Sequence[float]]:
        """Token log-probs (nats, temperature 1) of given answers under a model."""
        groups = [Group(p, (a,), (Feedback(None),)) for p, a in zip(prompts, answers, strict=True)]
        keep = replace(encoder, max_length=1 << 30)  # the answers are as long as they are
        out: list[Sequence[float]] = [()] * len(groups)
        display = Display(self.console, title, len(groups))
        done = 0
        for first in range(0, len(groups), 64):
            encoded = keep.encode_all(groups[first : first + 64])
            batch = collate(encoded)
            where = {id(p): first + i for i, p in enumerate(batch.prompts_N)}
            for part in split(batch, self.spec.tokens_per_microbatch, scorer.shared):
                with torch.no_grad():
                    logps = scorer(part).logps_BT.cpu()
                for n, prompt in enumerate(part.prompts_N):
                    out[where[id(prompt)]] = logps[n, : int(part.length_B[n])].tolist()
                done += part.groups()
                display.update(done, "answers")
        display.close()
        return out

    def _token_nll(self, scorer: Scorer, encoder: Encoder, name: str) -> list[float | None]:
        """Negative log-likelihood per token of each demonstration of the tax set; None where it cannot be encoded."""
        full = replace(encoder, max_prompt=None)
        encoded = [full.encode(g) for g in self.tax]
        kept = [(i, e) for i, e in enumerate(encoded) if e is not None]
        out: list[float | None] = [None] * len(self.tax)
        display = Display(self.console, f"{self.name}: tax of {name}", len(kept))
        batch = collate([e for _, e in kept])
        where = {id(p): i for p, (i, _) in zip(batch.prompts_N, kept, strict=True)}
        for part in split(batch, self.spec.tokens_per_microbatch, scorer.shared):
            with torch.no_grad():
                logps_BT = scorer(part, amp=self.spec.dtype == "bfloat16").logps_BT.cpu()
            per_row = -(logps_BT * part.mask_BT).sum(-1) / part.mask_BT.sum(-1)
            for row, group in enumerate(part.group_B.tolist()):
                out[where[id(part.prompts_N[group])]] = float(per_row[row])
            display.update(sum(v is not None for v in out), "demonstrations")
        display.close()
        return out

    def _scores(
        self, prompts: Sequence[Prompt], answers: dict[str, list[Completion]]
    ) -> dict[str, dict[str, list[Feedback]]]:
        """model -> measure -> one Feedback per prompt. A prompt's answers of all models are one group for the reward model."""
        names = list(answers)
        groups = [
            Group(p, tuple(answers[n][i] for n in names), (Feedback(None),) * len(names))
            for i, p in enumerate(prompts)
        ]
        judge: FeedbackSource = (
            GoldFeedback() if self.spec.gold is None else feedbacks.build(self.spec.gold, Context(), "gold")
        )
        by_measure = {"gold": judge(groups)}
        if self.reward_model is not None:
            model = RewardModel(
                self.reward_model[1],
                self.spec.max_length + self.spec.max_new_tokens,
                self.spec.tokens_per_microbatch,
                self.spec.template,
            )
            display = Display(self.console, f"{self.name}: reward of {', '.join(names)}", len(groups))
            text_only = [
                replace(g, completions=tuple(Completion(c.text or " ") for c in g.completions))
                for g in groups
            ]  # another tokenizer may apply
            by_measure["reward"] = model(text_only, lambda n: display.update(n, "prompts"))
            display.close()
            self._reward = model
        return {n: {m: [f[k] for f in rows] for m, rows in by_measure.items()} for k, n in enumerate(names)}

    def _per_prompt(
        self, prompts: Sequence[Prompt], answers: Sequence[Completion], scores: dict[str, list[Feedback]]
    ) -> dict[str, list[float | None]]:
        """Values that can be paired between models, one per prompt; a measure without any score is left out."""
        out: dict[str, list[float | None]] = {m: [f.score for f in rows] for m, rows in scores.items()}
        out = {m: v for m, v in out.items() if any(x is not None for x in v)}
        out["length"] = [float(len(a.token_ids or ())) for a in answers]
        out["refusal"] = [float(classifiers.refuses(a.text)) for a in answers]
        out["violation"] = [
            float(classifiers.violates(p, a.text)) for p, a in zip(prompts, answers, strict=True)
        ]
        # Shares of a subset of the prompts: the same subset for every model, so they pair as well.
        grant = [bool(classifiers.should_comply(p)) for p in prompts]
        unsafe = [classifiers.safety_label(p) == "unsafe" for p in prompts]
        out["over_refusal"] = [v for v, keep in zip(out["refusal"], grant, strict=True) if keep]
        out["violation_unsafe"] = [v for v, keep in zip(out["violation"], unsafe, strict=True) if keep]
        return out

    def _metrics(
        self,
        prompts: Sequence[Prompt],
        answers: Sequence[Completion],
        values: dict[str, list[float | None]],
        extra: dict[str, Any],
    ) -> dict[str, Metric]:
        seed = self.spec.seed
        found: dict[str, Metric] = {}
        if "gold" in values:
            found["gold"] = mean(
                values["gold"],
                seed,
                judge="support_desk verifier" if self.spec.gold is None else json.dumps(self.spec.gold),
                unit="score 0-1",
                higher_is_better=True,
                **extra,
            )
        if "reward" in values and self.reward_model is not None:
            found["reward"] = mean(
                values["reward"],
                seed,
                judge=self.reward_model[0],
                unit="reward",
                higher_is_better=True,
                **extra,
            )
        found["length"] = mean(values["length"], seed, unit="tokens", **extra)
        judge = "rules of evaluation/classifiers.py"
        for key, unit, better in (
            ("refusal", "share", None),
            ("over_refusal", "share of requests to grant", False),
            ("violation", "share", False),
            ("violation_unsafe", "share of unsafe requests", False),
        ):
            if values[key]:
                found[key] = proportion(
                    [bool(v) for v in values[key]], judge=judge, unit=unit, higher_is_better=better, **extra
                )
        if "tax_nll" in values:
            found["tax_nll"] = mean(
                values["tax_nll"], seed, unit="nats per token", higher_is_better=False, **extra
            )
        found["truncated"] = proportion(
            metrics.truncated(answers), unit="share", higher_is_better=False, **extra
        )
        for n in (1, 2):
            found[f"distinct_{n}"] = metrics.distinct_n([a.text for a in answers], n)
        return found

    def _reward_accuracy(self, extra: dict[str, Any]) -> dict[str, Any]:
        """Accuracy on held-out pairs: P(reward of chosen > reward of rejected); a tie is not a success."""
        assert self.reward_model is not None
        display = Display(self.console, f"{self.name}: reward model on held-out pairs", len(self.pairs))
        feedback = self._reward(list(self.pairs), lambda n: display.update(n, "pairs"))
        display.close()
        right = [None if a.score is None or b.score is None else a.score > b.score for a, b in feedback]
        metric = proportion(
            right, judge=self.reward_model[0], unit="share of pairs", higher_is_better=True, **extra
        )
        return {"name": self.reward_model[0], "metrics": {"accuracy": metric.to_json()}}

    def _write(
        self,
        result: dict[str, Any],
        prompts: Sequence[Prompt],
        answers: dict[str, list[Completion]],
        scores: dict[str, dict[str, list[Feedback]]],
    ) -> None:
        rows = []
        for i, p in enumerate(prompts):
            feedback = tuple(_combined(n, {m: rows[i] for m, rows in scores[n].items()}) for n in answers)
            rows.append(Group(p, tuple(answers[n][i] for n in answers), feedback))
        store.write(self.out / "groups.jsonl", rows)
        write_json(self.out / "evaluation.json", result, indent=1)


def _combined(model: str, scores: dict[str, Feedback]) -> Feedback:
    """One Feedback for the record: the gold score where there is one, else the reward; all of them in the rationale."""
    known = {m: f for m, f in scores.items() if f.score is not None}
    primary = known.get("gold") or known.get("reward") or Feedback(None)
    notes = [f"{m} {f.score:.2f}" + (f" ({f.rationale})" if f.rationale else "") for m, f in known.items()]
    return replace(primary, source=model, rationale="; ".join(notes))
