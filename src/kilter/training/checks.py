"""Settings of a train stage that cannot work together: a table of rules, read before any work.

A rule is a function of what was asked for. It returns without a word, or raises UserError with the field to
change.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from pydantic import BaseModel

from kilter import feedback as feedbacks
from kilter.batch import Needs
from kilter.errors import UserError
from kilter.feedback.registry import model_references
from kilter.launch.refusals import check_cluster
from kilter.models.config import check_adapter
from kilter.objectives import build_objective
from kilter.sampling.build import check_sampler
from kilter.sampling.config import FILTERS_BIAS, FOLLOWS, idle_fields
from kilter.training.config import TrainSpec, check_zero
from kilter.training.placing import facts
from kilter.training.sources.select import choose_select
from kilter.validation import refuse_idle

SHORTEST_PROMPT = 16
"""Tokens that max_length leaves for a prompt at least, beside the answer."""


@dataclass(frozen=True)
class Asked:
    """What the rules read. `where`: prefix of field names in errors, such as "stages.dpo.train."."""

    spec: TrainSpec
    needs: Needs
    where: str = ""

    @property
    def reference(self) -> bool:
        """Whether the reference's log-probs are computed."""
        return "ref_logps" in self.needs.annotations

    @property
    def single(self) -> bool:
        """Whether one process trains; accelerate and torchrun start others themselves."""
        started = int(os.environ.get("WORLD_SIZE", "1"))
        return self.spec.processes == 1 and started == 1 and self.spec.cluster is None

    @property
    def select(self) -> str:
        """The rule of selection, "auto" resolved."""
        return choose_select(self.spec.select, self.needs)

    @property
    def samples(self) -> int:
        """Completions per prompt."""
        return self.spec.sampler.samples

    @property
    def alone(self) -> bool:
        """Whether all answers to a prompt are the policy's."""
        return self.needs.opponent is None

    def refuse(self, field: str, value: Any, problem: str, fix: str) -> NoReturn:
        """Raises UserError with the field's full name."""
        raise UserError(f"{self.where}{field}", value, problem, fix)

    def unread(self, fields: Sequence[str], why: str, fix: str, part: str = "") -> None:
        """Raises UserError where one of these fields is set, for it would have no effect.

        `part`: "sampler." or nothing.
        """
        spec: BaseModel = self.spec.sampler if part else self.spec
        refuse_idle(spec, f"{self.where}{part}", [(field, why, fix) for field in fields])


Rule = Callable[[Asked], None]


def check_train(spec: TrainSpec, where: str = "") -> None:
    """Raises UserError where the method does not build, or its settings cannot work together."""
    asked = Asked(spec, build_objective(spec.method).needs, where)
    for rule in (*ALWAYS, *(ON_ROLLOUTS if spec.prompts is not None else ON_DATA)):
        rule(asked)


def check_rollouts(spec: TrainSpec, needs: Needs, where: str = "") -> None:
    """The rules for fresh rollouts alone."""
    for rule in ON_ROLLOUTS:
        rule(Asked(spec, needs, where))


# Rules for every run.


def adapter_is_installed(a: Asked) -> None:
    """Some kinds of adapters come with a library of their own."""
    if a.spec.adapter is not None:
        check_adapter(a.spec.adapter, f"{a.where}adapter")


def annotations_are_known(a: Asked) -> None:
    """What the method asks to be put on a batch, by a user's own functions too."""
    from kilter.training.annotate import chosen

    chosen(a.needs, f"{a.where}method")


def offloading_has_a_gpu(a: Asked) -> None:
    """On a CPU the activations are in host memory already."""
    # Settings are checked before torch is needed for anything else.
    import torch

    if a.spec.activation_offloading and not torch.cuda.is_available():
        a.refuse(
            "activation_offloading",
            True,
            "needs a GPU to move activations from, and there is none",
            "leave it out. Use gradient_checkpointing to save memory here",
        )


def second_derivatives_have_a_plain_graph(a: Asked) -> None:
    """What is computed again, or gathered, in the backward has no gradient of its own."""
    # Only methods that differentiate their own gradient read embeddings.
    if "embeddings" not in a.needs.outputs:
        return
    divided = a.spec.fsdp is not None
    for field, value in (("gradient_checkpointing", a.spec.gradient_checkpointing), ("fsdp", divided)):
        if value:
            a.refuse(
                field,
                True,
                "does not go with this method: its backward is differentiated again",
                "leave it out",
            )


def fsdp_divides(a: Asked) -> None:
    """Groups of equal size, and a forward that takes weights as they are gathered."""
    if a.spec.fsdp is None:
        return
    if a.spec.processes > 1 and (found := a.spec.fsdp.uneven(a.spec.processes)) is not None:
        a.refuse("fsdp.shard", a.spec.fsdp.shard, *found)
    if a.spec.fsdp.gathers == "bfloat16" and a.spec.dtype != "bfloat16":
        problem = f"cannot be multiplied with activations in {a.spec.dtype}"
        a.refuse("fsdp.gathers", "bfloat16", problem, "set dtype: bfloat16, or leave gathers out")


def zero_fits(a: Asked) -> None:
    """DeepSpeed is installed, alone, and steps a module that does not sample."""
    if a.spec.zero is None:
        return
    check_zero(a.spec.zero, a.where)
    if a.spec.fsdp:
        a.refuse(
            "zero",
            a.spec.zero,
            "cannot be combined with fsdp: both divide the optimizer",
            "remove one of them",
        )
    if a.spec.prompts is not None:
        a.refuse(
            "zero",
            a.spec.zero,
            "is for training on fixed data",
            "leave it out: several processes then train online with DDP",
        )


def local_is_one_process(a: Asked) -> None:
    """The engine and the number of processes say the same."""
    if a.spec.engine == "local" and a.spec.processes > 1:
        problem = f"is one process, and processes is {a.spec.processes}"
        a.refuse("engine", "local", problem, "leave engine out")


def several_processes_divide(a: Asked) -> None:
    """What is divided over processes needs more than one."""
    if a.spec.fsdp is not None and a.single:
        fix = "give --processes N, or start with accelerate launch or torchrun"
        a.refuse("fsdp", True, "shards over several processes, and there is one", fix)
    if a.spec.zero is not None and a.single:
        problem = "divides the optimizer over several processes, and there is one"
        a.refuse("zero", a.spec.zero, problem, "give --processes N")


def teacher_is_named_where_one_teaches(a: Asked) -> None:
    """A teacher is needed, or would be loaded for nothing."""
    # Found here and not after the policy was loaded.
    if a.needs.teacher and a.spec.teacher is None:
        a.refuse("teacher", None, "is required by this method", "name a stage or a model to learn from")
    if a.spec.teacher is not None and not a.needs.teacher:
        problem, fix = "is not used by this method", "leave it out, or use a method that distills"
        a.refuse("teacher", a.spec.teacher, problem, fix)


def feedback_can_be_built(a: Asked) -> None:
    """Refuses a feedback source with an unknown name or option."""
    for field, source in (("feedback", a.spec.feedback), ("monitors.gold", a.spec.monitors.gold)):
        if source is not None:
            feedbacks.check(source, f"{a.where}{field}", policy=field == "feedback")


def cluster_fits(a: Asked) -> None:
    """Every role that is placed exists, and nothing that is asked of it excludes something else."""
    if a.spec.cluster is not None:
        check_cluster(a.spec.cluster, facts(a.spec, a.needs, a.where))


def minimum_has_a_decay(a: Asked) -> None:
    """A constant rate never comes to its minimum."""
    if a.spec.schedule == "constant" and a.spec.min_lr_rate:
        problem = "has no effect: schedule constant does not decay"
        a.refuse("min_lr_rate", a.spec.min_lr_rate, problem, "leave it out, or set schedule: cosine")


def warmup_leaves_steps(a: Asked) -> None:
    """A warm-up as long as the run never reaches the peak, and its length is given once."""
    warmup, steps = a.spec.warmup_steps, a.spec.max_steps
    if warmup is not None:
        a.unread(["warmup_ratio"], "warmup_steps says how long the warm-up is", "leave one of the two out")
    if warmup and steps is not None and warmup >= steps:
        problem = f"is as long as the run of {steps} steps: the peak is never reached"
        a.refuse("warmup_steps", warmup, problem, "lower warmup_steps, or raise max_steps")


# Rules for fixed data.


def rollouts_come_from_somewhere(a: Asked) -> None:
    """A method of rollouts samples them, unless it is told to take those of an earlier run."""
    if a.needs.shape == "rollouts" and not a.spec.replay:
        a.refuse(
            "feedback",
            a.spec.feedback,
            "is missing: this method learns from fresh answers, which something has to score",
            "write feedback: math, {reward_model: rm} or my_file.py:reward, with prompts: $data in a recipe. "
            "Set replay: true (--replay) to learn from the scored answers of an earlier run",
        )
    if a.spec.replay and a.needs.shape != "rollouts":
        problem = "is for methods that learn from rollouts, and this one reads any data as it is"
        a.refuse("replay", True, problem, "leave it out")


def early_stopping_can_see(a: Asked) -> None:
    """It decides by evaluations on held-out groups, which recorded rollouts do not have."""
    if a.spec.early_stopping is None:
        return
    if a.spec.replay:
        a.refuse(
            "early_stopping",
            a.spec.early_stopping.metric,
            "does not go with replay, which holds no rows out",
            "leave it out",
        )
    metric, known = a.spec.early_stopping.metric, sorted({"loss", *a.needs.metrics})
    if metric.removeprefix("eval_") not in known:
        problem = "is not measured on held-out data by this method"
        a.refuse("early_stopping.metric", metric, problem, f"use one of {', '.join(known)}")
    if a.spec.eval_every is None:
        problem = "needs evaluations during the run, and eval_every is not set"
        a.refuse("early_stopping", a.spec.early_stopping.metric, problem, "set eval_every, such as 20")


def feedback_has_prompts(a: Asked) -> None:
    """Data that is fixed is scored already."""
    if a.spec.feedback is not None:
        a.refuse("feedback", a.spec.feedback, "is given, but no prompts to sample", "add prompts: $data")


def data_reads_no_setting_of_rollouts(a: Asked) -> None:
    """Whatever belongs to sampling would have no effect."""
    # Replayed rollouts are still rollouts: their temperature and passes are read.
    fields = ["select", "refill", "kl_control", "monitors", "refresh_reference_every"]
    if a.needs.shape != "rollouts":
        # Without rollouts there is no temperature to train at, and one pass per batch.
        fields += ["sampler", "minibatches", "inner_epochs"]
    if "critic" not in a.needs.models:
        fields += ["critic"]
    fix = "leave it out, or add prompts: $data to train on fresh answers"
    a.unread(fields, "the data is fixed", fix)


def replay_samples_nothing(a: Asked) -> None:
    """Recorded answers were sampled elsewhere, and none of them is held out."""
    if not a.spec.replay:
        return
    fix = "leave it out, or add prompts: $data to train on fresh answers"
    a.unread(["eval_every", "eval_limit"], "replay holds no rows out", "leave it out")
    read = ("temperature", "max_new_tokens")
    names = [name for name in type(a.spec.sampler).model_fields if name not in read]
    a.unread(names, "replay samples nothing", fix, "sampler.")


# Rules for fresh rollouts.


def method_takes_fresh_answers(a: Asked) -> None:
    """Labels of single answers, and both answers in one row, come from data."""
    if a.needs.shape == "unpaired" or a.needs.rows == "joint":
        a.refuse(
            "method",
            a.spec.method,
            "learns from judged data, not from fresh answers",
            "leave prompts and feedback out, or use a method for rollouts (kilter methods lists them)",
        )


def processes_have_prompts(a: Asked) -> None:
    """A process without a prompt would have nothing to forward, and collectives would wait for it."""
    if a.spec.processes > a.spec.batch_size:
        problem = f"is less than the {a.spec.processes} processes"
        a.refuse("batch_size", a.spec.batch_size, problem, "give every process a prompt per step")


def prompts_have_room(a: Asked) -> None:
    """Prompt and answer share max_length."""
    answer = a.spec.sampler.max_new_tokens
    # The prompt loses its beginning where it is too long, so that some of it must be left.
    room = a.spec.max_length - answer
    if room < SHORTEST_PROMPT:
        problem = f"leaves {max(0, room)} tokens for prompts beside {answer} of the answer"
        a.refuse(
            "max_length", a.spec.max_length, problem, "raise max_length, or lower sampler.max_new_tokens"
        )


def reference_is_read(a: Asked) -> None:
    """A reference that no method and no opponent reads would be opened for nothing."""
    if a.spec.reference is not None and not a.reference and a.alone:
        fix = "leave it out, or give the method a beta above 0 where it has one"
        a.refuse("reference", a.spec.reference, "has no effect: the method reads no reference", fix)


def kl_budget_has_a_reference(a: Asked) -> None:
    """A distance needs both ends."""
    if a.spec.monitors.kl_budget is not None and not a.reference:
        a.refuse(
            "monitors.kl_budget",
            a.spec.monitors.kl_budget,
            "needs a reference, and this method loads none",
            "set the method's beta above 0, or leave the budget out",
        )


def rollouts_read_every_setting(a: Asked) -> None:
    """What this run would not read."""
    fields = ["eval_every", "eval_limit", "early_stopping"]
    a.unread(fields, "online runs are evaluated on gold", "use monitors.gold_every")
    a.unread(["replay"], "the prompts are answered anew", "leave out either replay or prompts and feedback")
    if "critic" not in a.needs.models:
        a.unread(["critic"], "this method has no critic", "leave it out, or use a method that has one")
    # A reference that only answers, as an opponent, can be moved as well.
    if not a.reference and a.alone:
        fix = "set the method's beta above 0, or leave it out"
        a.unread(["refresh_reference_every"], "this method loads no reference", fix)
    if a.select != "drop_constant":
        fix = "set select: drop_constant, or leave it out"
        a.unread(["refill"], "only select: drop_constant samples again", fix)


def sampler_follows_the_policy(a: Asked) -> None:
    """A built-in sampler takes the weights that training changes; one of the user's own takes its options."""
    sampler = a.spec.sampler
    if ":" not in sampler.name and sampler.name not in FOLLOWS:
        a.refuse(
            "sampler.name",
            sampler.name,
            "cannot sample rollouts: training does not change the model that it asks",
            f"use one of {', '.join(sorted(FOLLOWS))}",
        )
    if sampler.name == "vllm" and a.spec.adapter is not None and a.spec.adapter.kind == "qlora":
        a.refuse(
            "adapter.kind",
            "qlora",
            "has weights of 4 bits, and vLLM takes whole ones",
            "use adapter.kind: lora, or sampler.name: local",
        )
    check_sampler(sampler, f"{a.where}sampler")


def sampler_reads_every_setting(a: Asked) -> None:
    """A field that belongs to another sampler is a mistake."""
    refuse_idle(a.spec.sampler, f"{a.where}sampler.", idle_fields(a.spec.sampler))


def reported_logps_are_of_the_policy(a: Asked) -> None:
    """Another engine reports log-probs after its filters."""
    sampler = a.spec.sampler
    if sampler.name not in FILTERS_BIAS:
        return
    # Filters leave a distribution whose log-probs vLLM reports as if they were the whole one's.
    for field, value, idle in (("top_p", sampler.top_p, 1), ("top_k", sampler.top_k, 0)):
        if value != idle:
            a.refuse(
                f"sampler.{field}",
                value,
                f"makes {sampler.name} report log-probs of the tokens kept, which bias every correction",
                "leave it out, or use sampler.name: local",
            )


def prompts_are_the_data(a: Asked) -> None:
    """Online, nothing reads `data`. A resolved recipe has its default there."""
    if a.spec.data not in ("$data", a.spec.prompts):
        problem = f"has no effect: the prompts are {a.spec.prompts}, and nothing else is read"
        a.refuse("data", a.spec.data, problem, "leave out either data or prompts")


def controller_has_a_coefficient(a: Asked) -> None:
    """A controller moves the weight of a KL, up to its limit."""
    control, start = a.spec.kl_control, a.needs.kl_coefficient
    if control.mode == "fixed":
        why, fix = "kl_control.mode fixed moves no coefficient", "leave it out, or set a mode"
        names = ("target", "horizon", "max_coef")
        refuse_idle(control, f"{a.where}kl_control.", [(name, why, fix) for name in names])
    elif start is not None and start > control.max_coef:
        problem = f"is below the coefficient of {start:g} that the run begins with"
        a.refuse("kl_control.max_coef", control.max_coef, problem, "raise it, or lower the method's beta")
    if a.spec.kl_control.mode != "fixed" and (not a.reference or a.needs.kl_coefficient is None):
        a.refuse(
            "kl_control.mode",
            a.spec.kl_control.mode,
            "has no coefficient to move: this method has no KL term",
            "set the method's beta above 0, or leave kl_control out",
        )


def k_answers_are_sampled(a: Asked) -> None:
    """A method that looks at k answers of a prompt gets as many."""
    # Below two the other rule speaks, which knows more.
    if a.needs.siblings > max(2, a.samples):
        problem = f"is more than the {a.samples} completions of a prompt"
        a.refuse("method.k", a.needs.siblings, problem, "raise sampler.samples, or lower k")


def steps_are_scored(a: Asked) -> None:
    """Token scores come from a process reward, and are no sum."""
    if "token_scores" not in a.needs.annotations or a.spec.feedback is None:
        return
    # No other source scores the steps of an answer.
    if not model_references(a.spec.feedback, ("process_reward",)):
        fix = "add a process_reward to the feedback"
        a.refuse("method.advantage", a.spec.method, "needs token rewards", fix)
    sources = len(feedbacks.parse(a.spec.feedback))
    if sources > 1:
        a.refuse(
            "feedback",
            f"{sources} sources",
            "cannot be summed: this method reads the steps of process_reward alone",
            "leave process_reward as the only source, or use another advantage",
        )


def answers_are_scored(a: Asked) -> None:
    """Without a teacher a score is the whole signal."""
    if a.spec.feedback is None and not a.needs.teacher:
        a.refuse(
            "feedback",
            None,
            "is required when prompts are sampled",
            "write feedback: math, {reward_model: rm}, my_file.py:reward or the name of a world's judge",
        )


def select_gives_the_shape(a: Asked) -> None:
    """What is left after selection is what the method learns from."""
    shape, select = a.needs.shape, a.select
    # Two fresh answers and no opponent: best against worst is what makes a pair.
    pairs = shape == "pairs" or (shape == "rollouts" and a.needs.unit == "group")
    if shape == "ranked" and select != "all":
        a.refuse("select", select, "gives this method no rankings", "use all")
    if pairs and a.alone and select != "best_worst":
        a.refuse("select", select, "gives this method no pairs", "use best_worst")
    if shape == "demonstrations" and select not in ("best_of", "all"):
        a.refuse("select", select, "gives this method no single answers", "use best_of or all")
    if shape == "rollouts" and select == "best_of":
        problem = "leaves one completion per prompt, and a policy gradient needs the others"
        a.refuse("select", select, problem, "use all or drop_constant")


def groups_have_two_answers(a: Asked) -> None:
    """A comparison needs two answers."""
    if a.samples >= 2:
        return
    # A rule that compares answers of a prompt has nothing to compare.
    if a.select in ("best_worst", "drop_constant") and a.alone:
        a.refuse("sampler.samples", a.samples, "is too few for groups", "use 2 or more")
    if a.needs.siblings > 1:
        a.refuse(
            "sampler.samples",
            a.samples,
            "leaves an answer without siblings to be compared with: every advantage would be 0",
            "use 2 or more, or a method that takes one answer per prompt, such as ppo or reinforce",
        )


def opponent_is_a_second_model(a: Asked) -> None:
    """An adapter that is switched off cannot answer beside the policy."""
    if not a.alone and a.spec.adapter is not None and a.spec.reference is None:
        a.refuse(
            "adapter",
            a.spec.adapter.kind,
            f"leaves no second model to sample the {a.needs.opponent} from",
            "train all weights, or name a reference",
        )


ALWAYS: tuple[Rule, ...] = (
    annotations_are_known,
    adapter_is_installed,
    offloading_has_a_gpu,
    second_derivatives_have_a_plain_graph,
    fsdp_divides,
    zero_fits,
    local_is_one_process,
    teacher_is_named_where_one_teaches,
    feedback_can_be_built,
    minimum_has_a_decay,
    warmup_leaves_steps,
    reference_is_read,
    cluster_fits,
    several_processes_divide,
)
ON_DATA: tuple[Rule, ...] = (
    feedback_has_prompts,
    rollouts_come_from_somewhere,
    data_reads_no_setting_of_rollouts,
    replay_samples_nothing,
    early_stopping_can_see,
)
ON_ROLLOUTS: tuple[Rule, ...] = (
    method_takes_fresh_answers,
    prompts_are_the_data,
    processes_have_prompts,
    prompts_have_room,
    kl_budget_has_a_reference,
    rollouts_read_every_setting,
    sampler_follows_the_policy,
    sampler_reads_every_setting,
    reported_logps_are_of_the_policy,
    controller_has_a_coefficient,
    k_answers_are_sampled,
    steps_are_scored,
    answers_are_scored,
    select_gives_the_shape,
    groups_have_two_answers,
    opponent_is_a_second_model,
)
"""The first rule that refuses is what a person reads, so that the plainer causes stand first."""
