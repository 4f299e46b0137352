"""The words of `cluster:` and what they refuse, before anything is loaded and without Ray."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace

import psutil
import pytest
import yaml
from pydantic import ValidationError

from kilter.errors import UserError
from kilter.launch import started
from kilter.launch.refusals import Facts, check_cluster
from kilter.launch.spec import ClusterSpec
from kilter.objectives import build_objective, objectives
from kilter.training.checks import check_train
from kilter.training.config import TrainSpec
from kilter.training.placing import facts
from kilter.validation import as_user_error

APART = {"rollout": {"place": "apart"}}


def spec(method="grpo", cluster=None, /, **fields):
    feedback = None if method == "dpo" else "math"
    prompts = None if method == "dpo" else "$data"
    return TrainSpec(
        **{"method": method, "feedback": feedback, "prompts": prompts, "cluster": cluster} | fields
    )


REFUSED = {
    "a critic that grpo has not": (spec("grpo", {"critic": {"place": "apart"}}), "cluster.critic"),
    "engines that stay here": (
        spec("grpo", {"rollout": {"engines": 4}, "reference": {"place": "apart"}}),
        "cluster.rollout` = .*stays in the learner's own processes",
    ),
    "a reference without a KL": (
        spec({"name": "grpo", "beta": 0.0}, {"reference": {"copies": 2}}),
        "cluster.reference.*loads no reference",
    ),
    "a reward without a model": (spec("grpo", {"reward": {"place": "apart"}}), "cluster.reward"),
    "a reference where a teacher is": (
        spec("distill", {"reference": {"place": "apart"}}, teacher="big"),
        "cluster.reference.*loads no reference",
    ),
    **{
        f"fewer copies of a {role} than processes that ask them": (
            spec(
                {"name": method, "beta": 0.1},
                {"learner": {"processes": 3}, role: {"place": "apart", "copies": 2}},
                feedback=None if role == "teacher" else {"reward_model": "rm"},
                teacher="big" if role == "teacher" else None,
            ),
            f"cluster.{role}.copies` = 2 are fewer than the 3 processes",
        )
        for role, method in {"reference": "grpo", "reward": "grpo", "teacher": "distill"}.items()
    },
    "a teacher that dpo has not": (
        spec("dpo", {"teacher": {"place": "apart"}}),
        "cluster.teacher.*no teacher",
    ),
    **{
        f"a {role} by turns": (
            spec(
                {"name": method, "beta": 0.1},
                {role: {"place": "beside"}},
                feedback=None if role == "teacher" else {"reward_model": "rm"},
                teacher="big" if role == "teacher" else None,
            ),
            f"cluster.{role}.place.*is for rollouts",
        )
        for role, method in {
            "reference": "ppo",
            "critic": "ppo",
            "reward": "ppo",
            "teacher": "distill",
        }.items()
    },
    "an opponent elsewhere": (spec("xpo", {"reference": {"place": "apart"}}), "cluster.reference.*samples"),
    "rollouts on fixed data": (spec("dpo", APART), "cluster.rollout.*the data is fixed"),
    "lookahead on fixed data": (spec("dpo", {"lookahead": 1}), "cluster.lookahead.*the data is fixed"),
    "lookahead here": (spec("grpo", {"lookahead": 1}), "cluster.lookahead.*rollouts apart"),
    "lookahead by turns": (
        spec("grpo", {"lookahead": 2, "rollout": {"place": "beside"}}),
        "cluster.lookahead.*those beside",
    ),
    "an opponent": (spec("nash_md", APART | {"lookahead": 1}), "cluster.lookahead.*mixture"),
    "a reward that is the policy": (
        spec("grpo", APART | {"lookahead": 1}, feedback="self_reward"),
        "cluster.lookahead.*self_reward",
    ),
    "a reference younger than the answers": (
        spec({"name": "grpo", "beta": 0.1}, APART | {"lookahead": 3}, refresh_reference_every=2),
        "cluster.lookahead.*refresh_reference_every = 2",
    ),
    "no correction": (spec("online_dpo", APART | {"lookahead": 1}), "cluster.lookahead.*corrects"),
    "no ratio to anchor": (
        spec("reinforce", APART | {"lookahead": 1, "correction": "anchored"}),
        "cluster.correction.*ratio",
    ),
    "restarts of nobody": (spec("grpo", {"restarts": 5}), "cluster.restarts.*every role stays"),
    "a correction of what is in turn": (
        spec("grpo", APART | {"correction": "anchored"}),
        "cluster.correction.*no answer is older",
    ),
    "a sampler without a pause": (spec("grpo", {"in_flight": "keep"}), "cluster.in_flight.*local cannot"),
    "two numbers of processes": (spec("grpo", {"learner": {"processes": 2}}, processes=2), "cluster.learner"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_work_is_refused_with_a_fix(name):
    asked, message = REFUSED[name]
    with pytest.raises(UserError, match=f"(?s){message}.*Fix: "):
        check_train(asked)


@pytest.mark.parametrize(
    "asked",
    [
        spec("grpo", {}),
        spec("dpo", {"learner": {"processes": 4, "nodes": 2}}),
        spec("grpo", APART | {"lookahead": 4}),
        spec("reinforce", APART | {"lookahead": 1}),
        spec("ppo", APART | {"lookahead": 1, "correction": "anchored", "critic": {"place": "apart"}}),
        spec(
            cluster=APART | {"lookahead": 2}, method={"name": "grpo", "beta": 0.1}, refresh_reference_every=2
        ),
        spec("nash_md", APART),
        spec("distill", APART | {"teacher": {"place": "apart"}}, teacher="big", feedback=None),
        spec("grpo", APART, feedback="self_reward"),
    ],
)
def test_what_can_work_passes(asked):
    check_train(asked)


@pytest.mark.parametrize(
    ("cluster", "field", "problem"),
    [
        ({"address": "head:99999"}, "address", "should be local, auto, or HOST:PORT"),
        ({"address": "head:0"}, "address", "should be local, auto, or HOST:PORT"),
        ({"rollout": {"place": "apart", "resources": {"big": -1}}}, "rollout.resources", "above 0"),
        ({"reward": {"place": "apart", "resources": {"big": 0}}}, "reward.resources", "above 0"),
        ({"critic": {"resources": {"GPU": 1}}}, "critic.resources", "`gpus`"),
        ({"learner": {"resources": {"CPU": 1}}}, "learner.resources", "`cores`"),
    ],
)
def test_values_that_ray_would_refuse_are_refused_at_once(cluster, field, problem):
    with pytest.raises(ValidationError) as refused:
        ClusterSpec.model_validate(cluster)
    (error,) = refused.value.errors()
    assert ".".join(map(str, error["loc"])) == field
    assert problem in error["msg"]


@pytest.mark.parametrize(
    ("cluster", "said", "fix"),
    [
        ({"rollout": "apart"}, "is not a mapping of a role's keys", "write {place: apart}"),
        ({"rollout": None}, "is not a mapping of a role's keys", "write {place: apart}"),
        ({"actor": {"processes": 2}}, "is not a known key", "write learner"),
        ({"cluster": APART}, "is not a known key", "leave out that line, and indent the others less"),
        (APART | {"lookahead": True}, "should be a number, not yes or no", ""),
    ],
)
def test_what_people_write_instead_is_named(cluster, said, fix):
    for model, written in ((ClusterSpec, cluster), (TrainSpec, {"method": "grpo", "cluster": cluster})):
        with pytest.raises(ValidationError) as refused:
            model.model_validate(written)
        error = as_user_error(refused.value, "", model)
        assert said in error.problem
        assert fix in error.fix


@pytest.mark.parametrize("name", objectives.names())
def test_who_corrects_is_who_weighs_old_answers(name):
    """The rule reads what a method declares. A ratio or weight is what a policy gradient alone has."""
    from kilter.objectives.rl.policy_gradient import PolicyGradient

    objective = build_objective(name)
    expected = set()
    if isinstance(objective, PolicyGradient):
        expected = {"decoupled", "anchored"} if objective.uses_ratio else {"decoupled"}
    assert objective.needs.corrections == expected


def gpus(cluster, count, sampler="vllm"):
    check_cluster(ClusterSpec(**cluster), Facts(sampler=sampler, pauses=True, gpus=count))


@pytest.mark.parametrize(
    ("cluster", "count", "message"),
    [
        (
            {"learner": {"processes": 4}, "rollout": {"place": "apart", "engines": 4}},
            4,
            "wants 8 GPUs .4 learner . 4 rollout., and the cluster has 4",
        ),
        ({"rollout": {"place": "apart", "engines": 2, "gpus": 2}}, 4, "wants 5 GPUs"),
        ({"rollout": {"place": "apart", "gpus": 1}}, 0, "wants 1 GPUs"),
        ({"rollout": {"place": "beside"}}, 0, "rollout.place.*needs a GPU"),
        ({"learner": {"processes": 2}, "rollout": {"place": "beside", "engines": 3}}, 8, "takes 3 GPUs"),
        ({"reward": {"place": "apart", "copies": 8}}, 8, "wants 9 GPUs"),
    ],
)
def test_more_gpus_than_there_are_are_refused(cluster, count, message):
    with pytest.raises(UserError, match=f"(?s){message}.*Fix: "):
        gpus(cluster, count)
    # Nobody knows another machine's before it answers.
    gpus(cluster, None)


def test_each_reward_model_has_copies_of_its_own():
    """As many pools as models: two of two copies are four workers, beside the learner's GPU."""
    two = spec(
        {"name": "grpo", "beta": 0.0},
        {"reward": {"place": "apart", "copies": 2}},
        feedback=[{"reward_model": "one"}, {"reward_model": "other"}],
    )
    known = facts(two, build_objective("grpo").needs, gpus=4)
    with pytest.raises(UserError, match="wants 5 GPUs"):
        check_cluster(two.cluster, known)
    check_cluster(two.cluster, facts(two, build_objective("grpo").needs, gpus=5))


@pytest.mark.parametrize("role", ["reference", "teacher"])
def test_gpus_that_a_copy_would_not_use_are_refused(role):
    with pytest.raises(UserError, match=f"cluster.{role}.gpus.*one GPU"):
        gpus({role: {"place": "apart", "gpus": 2}}, 8)


def test_enough_gpus_pass():
    gpus({"learner": {"processes": 3}, "rollout": {"place": "apart", "engines": 3}}, 6)
    gpus({"learner": {"processes": 4}, "rollout": {"place": "beside", "engines": 4}}, 4)
    gpus(APART | {"rollout": {"place": "apart", "engines": 9}}, 0)


@pytest.mark.parametrize("address", ["auto", "head:6379"])
def test_relative_files_are_refused_away_from_here(address):
    for path, fails in (("runs/x", True), ("/shared/runs/x", False)):
        facts = Facts(paths={"out": path})
        check_cluster(ClusterSpec(address="local"), facts)
        if fails:
            with pytest.raises(
                UserError, match="(?s)`out` = 'runs/x' is relative.*Fix: Give an absolute path"
            ):
                check_cluster(ClusterSpec(address=address), facts)
        else:
            check_cluster(ClusterSpec(address=address), facts)


@pytest.mark.parametrize(
    "cluster",
    [
        {"adress": "auto"},
        {"address": "somewhere"},
        {"address": "head:port"},
        {"rollout": {"copies": 2}},
        {"reward": {"engines": 2}},
        {"reward": {"workers": 2}},
        {"rollout": {"engines": 0}},
        {"rollout": {"place": "away"}},
        {"learner": {"place": "apart"}},
        {"learner": {"processes": 3, "nodes": 2}},
        {"lookahead": -1},
        {"stall": 0},
        {"stall": float("inf")},
    ],
)
def test_words_are_strict(cluster):
    with pytest.raises(ValidationError):
        ClusterSpec(**cluster)


def test_the_page_of_the_design_is_read():
    text = """
    address: 10.0.0.1:6379
    learner:   {processes: 4, nodes: 1}
    rollout:   {place: apart, engines: 2, gpus: 1}
    reference: {place: here}
    reward:    {place: apart, copies: 2}
    critic:    {place: apart, processes: 2}
    lookahead: 1
    in_flight: keep
    correction: decoupled
    weights: auto
    verify_weights: 20
    restarts: 3
    stall: 300
    wait_for_resources: 600
    """
    read = ClusterSpec(**yaml.safe_load(text))
    assert {name: role.workers for name, role in read.roles().items()} == {
        "learner": 4,
        "rollout": 2,
        "reference": 1,
        "teacher": 1,
        "reward": 2,
        "critic": 2,
    }
    again = ClusterSpec(**read.model_dump(mode="json", by_alias=True))
    assert again == read


def test_in_turn_is_the_run_that_it_is_without_a_cluster():
    """Its numbers are no part of what a run is; those of a lookahead are."""
    assert ClusterSpec(rollout={"place": "apart"}).numbers() == ""
    assert ClusterSpec(lookahead=1).numbers() != ClusterSpec(lookahead=2).numbers() != ""
    assert ClusterSpec().keeps(True)
    assert not ClusterSpec().keeps(False)
    assert not ClusterSpec(in_flight="finish").keeps(True)


def test_facts_name_who_reads_the_policy():
    said = lambda s: facts(s, build_objective(s.method).needs)
    assert said(spec(feedback={"process_reward": {"model": "rm"}})).reads_policy == ""
    assert said(spec(feedback=["math", "self_reward"])).reads_policy == "self_reward"
    assert "reward" not in said(spec(feedback={"reward_model": "rm"})).missing


def kilter(*arguments, cwd):
    run = [sys.executable, "-m", "kilter", *arguments]
    return subprocess.run(run, cwd=cwd, capture_output=True, text=True)


@pytest.fixture
def folder(tmp_path, tiny):
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "q", "solution": "1"}\n' * 8)
    (tmp_path / "cluster.yaml").write_text("rollout: {place: apart, engines: 2}\n")
    stage = "{train: {method: grpo, prompts: $data, feedback: math, cluster: {address: auto}}}"
    (tmp_path / "r.yaml").write_text(
        f"model: {tiny}\ndata: {{path: prompts.jsonl, heldout: 0}}\nstages: {{grpo: {stage}}}\n"
    )
    return tmp_path


def test_what_is_typed_reaches_the_rules(folder, tiny):
    """One command each for the file, and for a key of it."""
    train = [
        "train",
        "--method",
        "grpo",
        "--model",
        str(tiny),
        "--data",
        "prompts.jsonl",
        "--feedback",
        "math",
    ]
    asked = [*train, "--cluster", "cluster.yaml"]
    done = kilter(*asked, "--set", "cluster.rollout.place=here", "--set", "cluster.lookahead=1", cwd=folder)
    assert done.returncode == 2
    assert "`cluster.lookahead` = 1 needs rollouts apart" in done.stderr
    done = kilter(*asked, "--set", "cluster.rollout.engine=1", cwd=folder)
    assert "`cluster.rollout.engine` = 1 is not a known key.\nFix: Did you mean 'engines'?" in done.stderr


def test_one_file_serves_all_train_stages_of_a_recipe(folder):
    """Each takes what its method has, and nobody loses keys of its own."""
    from kilter.cli.cluster import parsed

    online = "prompts: $data, feedback: math"
    (folder / "several.yaml").write_text(
        "model: builtin:smollm2-135m\ndata: {path: prompts.jsonl, heldout: 0}\nstages:\n"
        "  sft: {train: {method: sft}}\n"
        f"  grpo: {{train: {{method: grpo, {online}}}}}\n"
        f"  ppo: {{train: {{method: ppo, {online}}}}}\n"
        f"  own: {{train: {{method: ppo, {online}, cluster: {{critic: {{place: apart}}}}}}}}\n"
    )
    file = folder / "cluster.yaml"
    file.write_text("rollout: {place: apart, engines: 2}\ncritic: {place: apart}\nlookahead: 1\n")
    found = {name: s.spec.cluster for name, s in parsed(folder / "several.yaml", (), file, "").stages.items()}
    assert found["sft"] is None
    assert (found["grpo"].rollout.workers, found["grpo"].critic.place, found["grpo"].lookahead) == (
        2,
        "here",
        1,
    )
    assert (found["ppo"].rollout.place, found["ppo"].critic.place) == ("apart", "apart")
    assert (found["own"].rollout.place, found["own"].critic.place) == ("here", "apart")

    # The command reads it, and what cannot be is refused by its own name.
    asked = ["several.yaml", "--cluster", "cluster.yaml"]
    done = kilter("cluster", "plan", *asked, "--parameters", "1e9", cwd=folder)
    assert (done.returncode, done.stdout.count("2 x {GPU: 1}")) == (0, 2)
    file.write_text("reward: {place: apart}\n")
    done = kilter("run", *asked, "--dry-run", cwd=folder)
    assert done.returncode == 2
    assert "`--cluster` = 'reward' names a role that no train stage" in done.stderr
    file.write_text("rolout: {place: apart}\n")
    with pytest.raises(UserError, match="cluster.rolout.*not a known key"):
        parsed(folder / "several.yaml", (), file, "")


@pytest.mark.parametrize("own", [True, False], ids=["own keys", "none"])
@pytest.mark.parametrize("line", ["lookahead: 1", "address: 'head:6379'", "stall: 10"])
def test_a_file_that_changes_no_stage_is_refused(folder, own, line):
    """Else a run that was meant for another machine would go on here, without a word."""
    from kilter.cli.cluster import parsed

    keys = ", cluster: {rollout: {place: apart}}" if own else ""
    (folder / "one.yaml").write_text(
        "model: builtin:smollm2-135m\ndata: {path: prompts.jsonl, heldout: 0}\nstages:\n"
        f"  grpo: {{train: {{method: grpo, prompts: $data, feedback: math{keys}}}}}\n"
    )
    (folder / "keys.yaml").write_text(line + "\n")
    fix = "stages.grpo.train.cluster.lookahead" if own else "Name a role, such as rollout"
    with pytest.raises(UserError, match="(?s)--cluster.*" + fix):
        parsed(folder / "one.yaml", (), folder / "keys.yaml", "")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("stages.r.train.cluster.rollout.copies=2", "has no copies.*Fix: Write engines: 2"),
        ("stages.r.train.cluster.reward.processes=2", "has no processes.*Fix: Write copies: 2"),
        ("cluster.rollout.engines=2", "Fix: Write stages.r.train.cluster: it is a key of a stage"),
        ("learning_rate=1", "Fix: Write stages.r.train.learning_rate"),
        ("stags=1", "Fix: Did you mean 'stages'"),
    ],
)
def test_a_key_in_the_wrong_place_is_led_to_its_own(override, message):
    from kilter.recipe import parse

    train = {"method": "grpo", "prompts": "d", "feedback": "math"}
    raw = {"model": "x", "data": {"d": {"path": "p.jsonl"}}, "stages": {"r": {"train": train}}}
    with pytest.raises(UserError, match=f"(?s){message}"):
        parse(raw, [override])


def test_a_dry_run_refuses_as_well(folder):
    done = kilter("run", "r.yaml", "--dry-run", cwd=folder)
    assert done.returncode == 2
    assert "`--runs` = 'runs/r' is relative" in done.stderr
    assert not (folder / "runs").exists()


def test_ray_is_not_imported():
    code = "import sys, kilter, kilter.api, kilter.cli, kilter.training.config; print('ray' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "False\n"


@pytest.mark.parametrize(
    ("cluster", "field"),
    [
        ({"learner": {"processes": 2, "nodes": 2}}, "cluster.learner.nodes"),
        ({"learner": {"cores": 64}}, "cluster.learner.cores"),
        (APART | {"rollout": {"place": "apart", "cores": 8}}, "cluster.rollout.cores"),
        ({"reward": {"place": "apart", "copies": 2, "cores": 2}}, "cluster.reward.cores"),
        ({"rollout": {"place": "apart", "resources": {"big": 1}}}, "cluster.rollout.resources"),
    ],
)
def test_a_ray_of_its_own_has_this_machine_alone(cluster, field):
    facts = Facts(gpus=0, cores=4)
    with pytest.raises(UserError, match=rf"(?s)`{field}`.*Fix: "):
        check_cluster(ClusterSpec(**cluster), facts)
    # Nobody knows another machine's before it answers.
    check_cluster(ClusterSpec(address="auto", **cluster), facts)


@pytest.mark.parametrize(
    ("cluster", "field"),
    [
        ({"rollout": {"place": "apart", "engines": 500}}, "cluster.rollout.engines"),
        ({"rollout": {"place": "apart", "engines": 128}}, "cluster.rollout.engines"),
        ({"learner": {"processes": 500}}, "cluster.learner.processes"),
        ({"reference": {"place": "apart", "copies": 500}}, "cluster.reference.copies"),
        ({"critic": {"place": "apart", "processes": 500}}, "cluster.critic.processes"),
        ({"reward": {"place": "apart", "copies": 70}}, "cluster.reward.copies"),
    ],
)
def test_more_processes_than_a_machine_bears_are_refused(cluster, field):
    facts = Facts(gpus=0, cores=2, rewards=2)
    with pytest.raises(UserError, match=rf"(?s)`{field}`.*2 cores.*Fix: Use at most 64 processes a core"):
        check_cluster(ClusterSpec(**cluster), facts)
    check_cluster(ClusterSpec(**cluster), Facts(gpus=0, cores=64, rewards=2))
    check_cluster(ClusterSpec(address="auto", **cluster), facts)


def test_processes_with_a_gpu_each_are_counted_by_their_gpus():
    check_cluster(ClusterSpec(rollout={"place": "apart", "engines": 40}), Facts(gpus=41, cores=2))
    with pytest.raises(UserError, match=r"cluster.rollout.engines"):
        check_cluster(
            ClusterSpec(rollout={"place": "apart", "engines": 140, "gpus": 0}), Facts(gpus=8, cores=2)
        )


def test_roles_without_a_wish_share_the_cores():
    check_cluster(ClusterSpec(learner={"processes": 8}), Facts(gpus=0, cores=2))
    check_cluster(ClusterSpec(learner={"cores": 2}, rollout={"place": "apart", "cores": 2}), Facts(cores=4))


@pytest.fixture
def rays(tmp_path, monkeypatch):
    """Pretends that Rays run here: (folder, address, whether `ray start` began it) each."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)

    def run(*made):
        processes = [SimpleNamespace(info={"cmdline": words}) for words in (None, [], ["python", "-c", "1"])]
        for name, where, by_hand in made:
            (tmp_path / name).mkdir(exist_ok=True)
            if by_hand:
                (tmp_path / name / "ray_current_cluster").write_text(where)
            worker = f"--python_worker_command=python worker.py --gcs-address={where} --temp-dir=/other"
            words = ["/ray/raylet", worker, f"--temp_dir={tmp_path / name}", f"--gcs-address={where}"]
            processes.append(SimpleNamespace(info={"cmdline": words}))
        monkeypatch.setattr(psutil, "process_iter", lambda names: iter(processes))

    return run


def test_auto_joins_what_was_started_by_hand_and_no_runs_own(rays, monkeypatch):
    mine, theirs, other = "10.0.0.1:6379", "10.0.0.1:40695", "10.0.0.1:6380"
    rays(("ray", mine, True), ("ray", theirs, False))
    assert started.address("auto") == mine
    # Both nodes of one Ray are here.
    rays(("ray", mine, True), ("ray", mine, True))
    assert started.address("auto") == mine
    # What an earlier `ray start` has left says nothing of another Ray.
    rays(("ray", theirs, False))
    said = f"`cluster.address` = 'auto' finds no Ray of `ray start` here, .*{theirs}.*\n.*Fix: Start one"
    with pytest.raises(UserError, match=f"(?s){said}") as found:
        started.address("auto")
    assert found.value.code == 2
    rays(("ray", mine, True), ("elsewhere", other, True))
    with pytest.raises(UserError, match=f"leads to several Rays .{mine}, {other}."):
        started.address("auto")
    # Whoever names one means it, and where none runs Ray itself says so.
    assert started.address(theirs) == theirs
    assert started.address("local") == "local"
    monkeypatch.setenv("RAY_ADDRESS", theirs)
    assert started.address("auto") == "auto"
    monkeypatch.delenv("RAY_ADDRESS")
    rays()
    assert started.address("auto") == "auto"
