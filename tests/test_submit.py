"""Jobs of a Ray cluster: what is sent, what is refused before, and the run's own exit code."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from conftest import make_model, pair_rows
from kilter import cli
from kilter.errors import UserError
from kilter.launch import jobs
from kilter.launch import versions as alike


class Client:
    """Ray's client of jobs, which runs the entry point here when its log is asked for."""

    def __init__(self) -> None:
        self.jobs: dict[str, SimpleNamespace] = {}
        self.interrupt = False

    def submit_job(self, *, entrypoint, submission_id, runtime_env, metadata):
        folder = Path(runtime_env["working_dir"])
        sent = {str(p.relative_to(folder)): p.read_text() for p in folder.rglob("*") if p.is_file()}
        self.jobs[submission_id] = SimpleNamespace(
            submission_id=submission_id,
            metadata=metadata,
            start_time=len(self.jobs),
            entrypoint=entrypoint,
            sent=sent,
            variables=runtime_env["env_vars"],
            status=SimpleNamespace(value="RUNNING"),
            driver_exit_code=None,
            log="",
        )
        return submission_id

    def finish(self, job, code, file=None):
        found = self.jobs[job]
        found.status = SimpleNamespace(value="FAILED" if code else "SUCCEEDED")
        found.driver_exit_code = code
        if file is not None:
            path = Path(found.metadata["exit"])
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps({"code": file}))

    def list_jobs(self):
        return list(self.jobs.values())

    def get_job_status(self, job):
        return self.jobs[job].status

    def get_job_info(self, job):
        return self.jobs[job]

    def get_job_logs(self, job):
        return self.jobs[job].log

    async def tail_job_logs(self, job):
        yield "step 1\n"
        if self.interrupt:
            raise KeyboardInterrupt
        self.finish(job, 1, 3)
        yield "step 2\n"

    def stop_job(self, job):
        self.jobs[job].status = SimpleNamespace(value="STOPPED")
        return True


@pytest.fixture
def client(monkeypatch):
    made = Client()
    monkeypatch.setattr(cli.submit, "connect", lambda address: jobs.Jobs(made))
    return made


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with a recipe, a reward of one's own and shared data."""
    shared = tmp_path / "shared"
    make_model(shared / "model")
    rows = [{"prompt": r["prompt"]} for r in pair_rows(8)]
    (shared / "prompts.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    home = tmp_path / "home"
    (home / "rewards").mkdir(parents=True)
    (home / "rewards" / "mine.py").write_text(
        "def reward(prompt, completion): return float(len(completion))\n"
    )
    (home / "unread.txt").write_text("stays here")
    (home / "r.yaml").write_text(
        f"model: {shared}/model\ndata: {{path: {shared}/prompts.jsonl, heldout: 0}}\nstages:\n"
        "  grpo: {train: {method: grpo, prompts: $data, feedback: rewards/mine.py:reward, max_steps: 1,\n"
        "    batch_size: 2, max_length: 64, sampler: {samples: 2, max_new_tokens: 4},\n"
        "    monitors: {enabled: false}, cluster: {rollout: {place: apart}}}}\n"
    )
    monkeypatch.chdir(home)
    return SimpleNamespace(shared=shared, runs=shared / "runs")


def kilter(monkeypatch, capsys, *words):
    monkeypatch.setattr(sys, "argv", ["kilter", *words])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    said = capsys.readouterr()
    return int(stop.value.code or 0), " ".join((said.out + said.err).split())


def test_only_what_is_read_is_sent(client, here, monkeypatch, capsys):
    code, said = kilter(monkeypatch, capsys, "submit", "r.yaml", "--runs", str(here.runs), "--set", "name=x")
    assert code == 0, said
    (job,) = client.jobs.values()
    assert sorted(job.sent) == ["r.yaml", "rewards/mine.py"]
    assert job.entrypoint == (
        f"exec python -m kilter run r.yaml --runs {here.runs} --set name=x "
        "--set stages.grpo.train.cluster.address=auto"
    )
    assert job.variables["RAY_JOB_STOP_WAIT_TIME_S"] == "600"
    assert json.loads(job.variables[jobs.SENDER])["torch"]
    # Beside the run folders, where no chain looks, and on the file system that all share.
    assert Path(job.variables[jobs.EXIT]).parent == here.runs / ".jobs"
    assert job.metadata["kilter"] == "x"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["r.yaml"], "`--runs` = 'runs' is relative"),
        (["r.yaml", "--runs", "/shared", "--set", "model=m"], "`model` = 'm' is relative"),
        (["r.yaml", "--runs", "/shared", "--set", "data.path=p.jsonl"], "= 'p.jsonl' is relative"),
        (
            ["r.yaml", "--runs", "/shared", "--set", "stages.grpo.train.from=./m"],
            "`stages.grpo.train.from` = './m' is relative",
        ),
        (["--status", "x", "--cluster", "c.yaml"], "`--cluster` = 'c.yaml' goes with a recipe"),
        (["r.yaml", "--runs", "/s", "--cluster", "c.yaml"], "`--cluster` = 'critic' names a role that no"),
        (
            ["r.yaml", "--runs", "/s", "--set", "stages.grpo.train.cluster.lookahead=-1"],
            "greater than or equal",
        ),
        (["r.yaml", "--status", "x"], "`--status` = 'x' cannot be combined with recipe"),
        (["--logs", "x", "--stop", "y"], "`--stop` = 'y' cannot be combined with --logs"),
        ([], "or the name of a job to --status, --logs or --stop"),
        (["--status", "x"], "`job` = 'x' is not known to this cluster"),
        (["r.yaml", "--runs", "/s", "--name", "a/../b"], "`--name` = 'a/../b' is not a name"),
        (["--status", "x", "--address", "head:8265"], "'head:8265' is not the URL of a dashboard"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_sent(
    client, here, monkeypatch, capsys, words, message
):
    Path("m").mkdir()
    Path("p.jsonl").write_text('{"prompt": "q"}\n')
    Path("c.yaml").write_text("critic: {place: apart}\n")
    code, said = kilter(monkeypatch, capsys, "submit", *words)
    assert code == 2
    assert message in said
    assert "Fix: " in said
    assert client.jobs == {}


def test_the_roles_of_a_file_go_along_and_live_where_the_job_runs(client, here, monkeypatch, capsys):
    """In the job `address: local` is the cluster that runs it; any other address is left as it is."""
    stage = "{train: {method: grpo, prompts: $data, feedback: 'rewards/mine.py:reward'}}"
    recipe = Path("r.yaml").read_text().replace("stages:\n", f"stages:\n  plain: {stage}\n")
    Path("r.yaml").write_text(recipe)
    for given, sent in (
        ("", "auto"),
        ("address: local\n", "auto"),
        ("address: 10.0.0.1:6379\n", "10.0.0.1:6379"),
    ):
        file = here.shared / "c.yaml"
        file.write_text(f"{given}rollout: {{place: apart, engines: 3}}\n")
        asked = ["submit", "r.yaml", "--runs", str(here.runs), "--cluster", str(file)]
        code, said = kilter(monkeypatch, capsys, *asked)
        assert code == 0, said
        job = list(client.jobs.values())[-1]
        assert yaml.safe_load(job.sent[cli.submit.CLUSTER]) == {
            "rollout": {"place": "apart", "engines": 3},
            "address": sent,
        }
        # A stage with keys of its own keeps them; its Ray is the job's as well.
        words = shlex.split(job.entrypoint)
        assert words[-4:] == [
            "--set",
            "stages.grpo.train.cluster.address=auto",
            "--cluster",
            cli.submit.CLUSTER,
        ]
        monkeypatch.setattr(time, "strftime", lambda form, n=sent: f"later-{n}-{len(client.jobs)}")
    assert len(client.jobs) == 3


class Here(Client):
    """Runs the entry point in a copy of what was sent, as Ray does, and turns its code into 1."""

    def submit_job(self, *, entrypoint, submission_id, runtime_env, metadata):
        super().submit_job(
            entrypoint=entrypoint, submission_id=submission_id, runtime_env=runtime_env, metadata=metadata
        )
        return shutil.copytree(runtime_env["working_dir"], Path(metadata["exit"]).parent / submission_id)

    async def tail_job_logs(self, job):
        found = self.jobs[job]
        words = shlex.split(found.entrypoint.removeprefix("exec python "))
        done = subprocess.run(
            [sys.executable, *words],
            cwd=Path(found.metadata["exit"]).parent / job,
            env=os.environ | found.variables,
            capture_output=True,
            text=True,
        )
        yield done.stdout + done.stderr
        self.finish(job, int(done.returncode != 0))


def truncated(shared):
    """A recipe whose answers all hit the length limit; its prompts are written to a folder that all share."""
    rows = [{"prompt": f"Say {chr(97 + i % 26)}{i}"} for i in range(40)]
    (shared / "prompts.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    train = (
        "{method: grpo, prompts: $data, feedback: {regex: '[a-m]'}, max_steps: 40, batch_size: 4,\n"
        "    max_length: 64, sampler: {samples: 4, max_new_tokens: 4}, save_every: 100,\n"
        "    monitors: {gold: {regex: '[n-z]'}, gold_every: 100, gold_prompts: 4}}"
    )
    return (
        f"model: {shared}/model\ndata: {{path: {shared}/prompts.jsonl, heldout: 0}}\n"
        f"stages:\n  grpo: {{train: {train}}}\n"
    )


def test_a_job_that_its_monitors_stop_ends_with_3(here, monkeypatch, capsys):
    """No gate looks at the model that is left, so that nobody has settled the doubt."""
    made = Here()
    monkeypatch.setattr(cli.submit, "connect", lambda address: jobs.Jobs(made))
    Path("r.yaml").write_text(truncated(here.shared))
    code, said = kilter(monkeypatch, capsys, "submit", "r.yaml", "--runs", str(here.runs), "--follow")
    assert "stopped by its monitors" in said
    assert "more than half of the answers hit the length limit" in said
    assert code == 3
    assert (here.runs / "r" / "grpo" / "model").is_dir()


def test_to_follow_shows_the_log_and_ends_with_the_runs_own_code(client, here, monkeypatch, capsys):
    """Ray says 1 of every failure."""
    code, said = kilter(monkeypatch, capsys, "submit", "r.yaml", "--runs", str(here.runs), "--follow")
    assert code == 3
    assert "step 1 step 2" in said


def test_ctrl_c_leaves_the_job_running(client, here, monkeypatch, capsys):
    client.interrupt = True
    code, said = kilter(monkeypatch, capsys, "submit", "r.yaml", "--runs", str(here.runs), "--follow")
    assert code == 0
    assert "goes on" in said
    assert next(iter(client.jobs.values())).status.value == "RUNNING"


def test_a_job_is_found_by_its_name_the_newest_first(client, here, monkeypatch, capsys):
    for _ in range(2):
        submitted = kilter(
            monkeypatch, capsys, "submit", "r.yaml", "--runs", str(here.runs), "--name", "mine"
        )
        assert submitted[0] == 0
        monkeypatch.setattr(time, "strftime", lambda form: "later")
    first, second = client.jobs
    client.finish(first, 1, 4)
    assert f"{second}: running" in kilter(monkeypatch, capsys, "submit", "--status", "mine")[1]
    assert f"{first}: failed, exit code 4" in kilter(monkeypatch, capsys, "submit", "--status", first)[1]
    client.jobs[second].log = "all of it\n"
    assert kilter(monkeypatch, capsys, "submit", "--logs", "mine") == (0, "all of it")
    assert "asked to stop" in kilter(monkeypatch, capsys, "submit", "--stop", "mine")[1]
    assert client.jobs[second].status.value == "STOPPED"
    code, said = kilter(monkeypatch, capsys, "submit", "--status", "mone")
    assert code == 2
    assert "Did you mean 'mine'?" in said


@pytest.mark.parametrize(
    ("seen", "file", "code"), [(0, 0, 0), (1, 3, 3), (2, None, 2), (-9, None, 4), (127, None, 4), (1, 2, 2)]
)
def test_the_code_is_the_files_else_what_ray_saw(client, tmp_path, seen, file, code):
    all_ = jobs.Jobs(client)
    job = all_.submit(["run", "r.yaml"], [], "r", tmp_path)
    client.finish(job, seen, file)
    assert all_.code(job) == code


def test_a_head_that_has_just_begun_is_asked_again(client, tmp_path, monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    asked, real = [], client.submit_job

    def early(**given):
        asked.append(1)
        if len(asked) < 3:
            raise RuntimeError("Request failed with status code 500: No available agent to submit job")
        return real(**given)

    monkeypatch.setattr(client, "submit_job", early)
    jobs.Jobs(client).submit(["run", "r.yaml"], [], "r", tmp_path)
    assert len(asked) == 3
    monkeypatch.setattr(client, "submit_job", lambda **given: (_ for _ in ()).throw(RuntimeError("no")))
    with pytest.raises(UserError, match="refuses the job"):
        jobs.Jobs(client).submit(["run", "r.yaml"], [], "r", tmp_path)


# In the job.


def entry(here, tmp_path, *words, **variables):
    run = [sys.executable, "-m", "kilter", *words]
    return subprocess.run(run, env=os.environ | variables, capture_output=True, text=True)


def test_a_job_leaves_its_code_and_compares_versions_first(here, tmp_path):
    left = tmp_path / "shared" / ".jobs" / "x.json"
    good = {jobs.SENDER: json.dumps(jobs.versions()), jobs.EXIT: str(left)}
    assert entry(here, tmp_path, "run", "nothing.yaml", **good).returncode == 2
    assert json.loads(left.read_text()) == {"code": 2}
    left.unlink()
    other = good | {jobs.SENDER: json.dumps(jobs.versions() | {"torch": "1.0"})}
    done = entry(here, tmp_path, "methods", **other)
    assert done.returncode == 2
    assert "and the sender of this job has 1.0" in " ".join(done.stderr.split())
    assert json.loads(left.read_text()) == {"code": 2}
    # What one side has not installed cannot differ.
    alone = good | {jobs.SENDER: json.dumps({"kilter": jobs.versions()["kilter"], "elsewhere": "1"})}
    assert entry(here, tmp_path, "methods", "dpo", **alone).returncode == 0
    assert json.loads(left.read_text()) == {"code": 0}


def test_builds_do_not_count_as_versions(monkeypatch):
    found = {"torch": "2.9.0+cu128", "ray": "2.60.0", "vllm": "0.32.0"}
    monkeypatch.setattr(alike.metadata, "version", lambda name: found[name])
    assert jobs.versions()["torch"] == "2.9.0"
    monkeypatch.setenv(jobs.SENDER, json.dumps({"torch": "2.9.0"}))
    jobs.arrive()
    monkeypatch.setenv(jobs.SENDER, json.dumps({"torch": "2.8.0"}))
    with pytest.raises(UserError, match="install the same torch|Install the same torch"):
        jobs.arrive()


@pytest.mark.parametrize("lies", [True, False])
def test_a_token_is_sent_where_one_lies(tmp_path, monkeypatch, lies):
    """Ray's heads ask for it from then on. Any Ray of one's own leaves one."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("RAY_AUTH_MODE", "")
    monkeypatch.delenv("RAY_AUTH_MODE")
    if lies:
        (tmp_path / ".ray").mkdir()
        (tmp_path / ".ray" / "auth_token").touch()
    jobs.bring_token()
    assert os.environ.get("RAY_AUTH_MODE") == ("token" if lies else None)
