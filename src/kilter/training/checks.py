"""Settings of a train stage that cannot work together, found before any work."""

from __future__ import annotations

from typing import Any

from kilter import feedback as feedbacks
from kilter.batch import Needs
from kilter.errors import UserError
from kilter.feedback.registry import model_references
from kilter.models.config import check_adapter
from kilter.objectives import build_objective
from kilter.training.config import TrainSpec, check_zero
from kilter.training.sources.select import choose_select
from kilter.validation import refuse_idle


def check_train(spec: TrainSpec, where: str = "") -> None:
    """Raises UserError where the method does not build, or something that it needs is missing.

    Args:
        where: prefix of field names in errors, such as "stages.dpo.train.".
    """
    needs = build_objective(spec.method).needs
    _check_machine(spec, needs, where)
    _check_processes(spec, where)
    _check_teacher(spec, needs, where)
    for field, source in (("feedback", spec.feedback), ("monitors.gold", spec.monitors.gold)):
        if source is not None:
            feedbacks.check(source, f"{where}{field}")
    if spec.prompts is not None:
        check_online(spec, needs, where)
    else:
        _check_offline(spec, needs, where)


def _check_machine(spec: TrainSpec, needs: Needs, where: str) -> None:
    """What this machine cannot do, and what a second derivative forbids."""
    import torch

    if spec.adapter is not None:
        check_adapter(spec.adapter, f"{where}adapter")
    if spec.activation_offloading and not torch.cuda.is_available():
        raise UserError(
            f"{where}activation_offloading",
            True,
            "moves activations off a GPU, and there is none",
            "leave it out; gradient_checkpointing saves memory here",
        )
    if "embeddings" in needs.outputs and (spec.gradient_checkpointing or spec.fsdp):
        field = "gradient_checkpointing" if spec.gradient_checkpointing else "fsdp"
        raise UserError(
            f"{where}{field}",
            True,
            "does not go with wdpo, whose backward is differentiated again",
            "leave it out",
        )


def _check_processes(spec: TrainSpec, where: str) -> None:
    if spec.zero is not None:
        check_zero(spec.zero, where)
        if spec.fsdp:
            raise UserError(f"{where}zero", spec.zero, "and fsdp both divide the training", "choose one")
        if spec.prompts is not None:
            raise UserError(
                f"{where}zero",
                spec.zero,
                "is for training on fixed data",
                "leave it out: several processes then train online with DDP",
            )
    if spec.engine == "local" and spec.processes > 1:
        raise UserError(
            f"{where}engine",
            "local",
            f"is one process, and processes is {spec.processes}",
            "leave engine out",
        )


def _check_teacher(spec: TrainSpec, needs: Needs, where: str) -> None:
    if needs.teacher is not None and spec.teacher is None:
        raise UserError(
            f"{where}teacher", None, "is required by this method", "name a stage or a model to learn from"
        )
    if spec.teacher is not None and needs.teacher is None:
        raise UserError(
            f"{where}teacher",
            spec.teacher,
            "is not used by this method",
            "leave it out, or use method distill",
        )


def _check_offline(spec: TrainSpec, needs: Needs, where: str) -> None:
    """On fixed data, whatever belongs to sampling would have no effect."""
    if spec.feedback is not None:
        raise UserError(
            f"{where}feedback", spec.feedback, "is given, but no prompts to sample", "add prompts: $data"
        )
    idle = ["select", "refill", "kl_control", "monitors", "refresh_reference_every"]
    idle += [] if needs.shape == "rollouts" else ["sampler", "minibatches", "inner_epochs"]
    idle += [] if "critic" in needs.models else ["critic"]
    fix = "leave it out, or add prompts: $data to train on fresh answers"
    refuse_idle(spec, where, [(name, "the data is fixed", fix) for name in idle])


def check_online(spec: Any, needs: Needs, where: str = "") -> None:
    """Raises UserError for settings that cannot work together; called before any work."""
    select, samples = choose_select(spec.select, needs), spec.sampler.samples
    pairs = needs.shape == "pairs" or (needs.shape == "rollouts" and needs.unit == "group")
    if needs.shape == "unpaired" or needs.joint:
        raise UserError(
            f"{where}method",
            spec.method,
            "learns from judged data, not from fresh answers",
            "leave prompts and feedback out, or use online_dpo or grpo",
        )
    room = spec.max_length - spec.sampler.max_new_tokens
    if room < 16:
        raise UserError(
            f"{where}max_length",
            spec.max_length,
            f"leaves {max(0, room)} tokens for prompts beside {spec.sampler.max_new_tokens} of the answer",
            "raise max_length, or lower sampler.max_new_tokens",
        )
    reference = "ref_logps" in needs.annotations
    if spec.monitors.kl_budget is not None and not reference:
        raise UserError(
            f"{where}monitors.kl_budget",
            spec.monitors.kl_budget,
            "needs a reference, and this method loads none",
            "set the method's beta above 0, or leave the budget out",
        )
    objective = build_objective(spec.method)
    _check_idle(spec, needs, reference, where)
    if spec.kl_control.mode != "fixed" and (not reference or not hasattr(objective, "kl_in")):
        raise UserError(
            f"{where}kl_control.mode",
            spec.kl_control.mode,
            "has no coefficient to move: this method has no KL term",
            "set the method's beta above 0, or leave kl_control out",
        )
    advantage, k = (getattr(objective, name, None) for name in ("advantage", "k"))
    if advantage == "passk" and isinstance(k, int) and k > samples:
        raise UserError(
            f"{where}method.k",
            k,
            f"is more than the {samples} completions of a prompt",
            "raise sampler.samples, or lower k",
        )
    if (
        advantage == "prm_token"
        and spec.feedback is not None
        and not model_references(spec.feedback, ("process_reward",))
    ):
        raise UserError(
            f"{where}method.advantage",
            "prm_token",
            "needs token rewards",
            "add a process_reward to the feedback",
        )
    if advantage == "prm_token" and isinstance(spec.feedback, list | tuple) and len(spec.feedback) > 1:
        raise UserError(
            f"{where}feedback",
            f"{len(spec.feedback)} sources",
            "cannot be summed: prm_token reads the steps of process_reward alone",
            "leave process_reward as the only source, or use another advantage",
        )
    if needs.shape == "ranked" and select != "all":
        raise UserError(f"{where}select", select, "gives this method no rankings", "use all")
    if spec.feedback is None and needs.teacher is None:
        raise UserError(
            f"{where}feedback",
            None,
            "is required when prompts are sampled",
            "write feedback: support_desk, math, {reward_model: rm} or my_file.py:reward",
        )
    if pairs and needs.opponent is None and select != "best_worst":
        raise UserError(f"{where}select", select, "gives this method no pairs", "use best_worst")
    if needs.shape == "demonstrations" and select not in ("best_of", "all"):
        raise UserError(f"{where}select", select, "gives this method no single answers", "use best_of or all")
    if select in ("best_worst", "drop_constant") and samples < 2 and needs.opponent is None:
        raise UserError(f"{where}sampler.samples", samples, "is too few for groups", "use 2 or more")
    if needs.opponent is not None and spec.adapter is not None and spec.reference is None:
        raise UserError(
            f"{where}adapter",
            spec.adapter.kind,
            f"leaves no second model to sample the {needs.opponent} from",
            "train all weights, or name a reference",
        )
    if samples < 2 and getattr(objective, "compares_siblings", False):
        raise UserError(
            f"{where}sampler.samples",
            samples,
            "leaves an answer without siblings to be compared with: every advantage would be 0",
            "use 2 or more, or reinforce, remax or ppo, which take one answer per prompt",
        )
    if needs.shape == "rollouts" and select == "best_of":
        raise UserError(
            f"{where}select",
            select,
            "leaves one completion per prompt, and a policy gradient needs the others",
            "use all or drop_constant",
        )


def _check_idle(spec: Any, needs: Needs, reference: bool, where: str) -> None:
    """Settings that this run would not read, or that would bias it."""
    idle = [("eval_every", "online runs are evaluated on gold", "use monitors.gold_every")]
    if "critic" not in needs.models:
        idle.append(("critic", "no method but ppo has a critic", "leave it out, or use ppo"))
    if not reference and needs.opponent is None:
        idle.append(
            (
                "refresh_reference_every",
                "this method loads no reference",
                "set the method's beta above 0, or leave it out",
            )
        )
    if choose_select(spec.select, needs) != "drop_constant":
        idle.append(
            (
                "refill",
                "only select: drop_constant samples again",
                "set select: drop_constant, or leave it out",
            )
        )
    refuse_idle(spec, where, idle)
    sampler = spec.sampler
    if sampler.name == "local":
        refuse_idle(
            sampler,
            f"{where}sampler.",
            [
                (
                    n,
                    "the local sampler has no server and no memory of its own",
                    "set sampler.name: vllm, or leave it out",
                )
                for n in ("url", "memory")
            ],
        )
    if sampler.name == "vllm" and (sampler.top_p < 1 or sampler.top_k):
        field = "top_p" if sampler.top_p < 1 else "top_k"
        raise UserError(
            f"{where}sampler.{field}",
            getattr(sampler, field),
            "makes vLLM report log-probs of what was left, which bias every correction",
            "leave it out, or use sampler.name: local",
        )
