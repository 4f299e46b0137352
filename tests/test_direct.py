"""Weights straight into engines: the order of calls, against a recorded stand-in of vLLM's interface; on a GPU against vLLM itself."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import os
import signal
import subprocess
import sys
import tempfile
import time
import types
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

from kilter.cluster.inline import InlineBackend
from kilter.cluster.pool import Pool, Restarts
from kilter.cluster.weights import Taken
from kilter.errors import RunFailed, UserError
from kilter.launch.refusals import Facts, check_cluster
from kilter.launch.spec import ClusterSpec
from kilter.models import adapters
from kilter.models.config import AdapterSpec
from kilter.models.load import load_causal
from kilter.sampling import vllm_ends, vllm_weights
from kilter.sampling.config import SamplerKind
from kilter.sampling.vllm_transfer import Reach
from kilter.sampling.vllm_weights import EngineFolder, Holdings, MergedWeights
from kilter.training.apart.beside import BesideSampler, Moments
from kilter.training.apart.direct import DirectTransport
from kilter.training.apart.placed import Cluster
from kilter.training.apart.rollouts import PooledSampler
from kilter.training.apart.vllm import AT_ONCE
from kilter.types import Completion, Prompt, Request, Sample, SamplerFacts, Weights


def digest(tensor):
    return hashlib.sha256(tensor.contiguous().view(-1).view(torch.uint8).numpy()).hexdigest()


class Engine:
    """What VllmWorker answers, with the memory of an engine: asleep it has no weights, awake first none of use."""

    corrupts = False

    def __init__(self, log, start):
        self.log, self.held, self.cache, self.version = log, dict(start), True, -1

    def ready(self):
        pass

    def pulse(self):
        return 0

    def facts(self):
        return SamplerFacts(context=512, continues=True)

    def digests(self):
        self.log.append("digests")
        return {name: digest(t) for name, t in self.held.items()}

    def transfer(self, step, info):
        self.log.append(step)
        if step == "init":
            self.info = info
        if step == "update":
            assert self.held is not None
            self.held = dict(zip(info["names"], info["tensors"], strict=True))
            if self.corrupts:
                name = info["names"][0]
                self.held[name] = self.held[name] + 1

    def hold(self, version):
        assert self.version >= version
        self.log.append("hold")

    def load(self, package):
        self.log.append("commit")
        self.version = package.version
        return Taken(package.version, self.digests() if package.verify else {})

    def generate(self, requests, version):
        assert self.held is not None
        assert self.cache
        assert self.version >= version
        self.log.append("sample")
        answer = Completion("ab", (1, 2), (1, 1), (-0.5, -0.5), "stop", self.version, prompt_ids=(3,))
        return [Sample(r, i, answer) for r in requests for i in range(r.k)]

    def sleep(self):
        self.log.append("sleep")
        self.held, self.cache = None, False

    def wake(self, tag):
        self.log.append(f"wake {tag}")
        if tag == "weights":
            self.held = {}
        else:
            assert self.held, "its cache woke before its weights had come"
            self.cache = True


@pytest.fixture
def vllm(monkeypatch):
    """vLLM's factory as far as it is used: recorded from 0.32, whose trainer side makes these calls in this order."""

    @dataclass
    class Meta:
        name: str
        dtype: torch.dtype
        shape: tuple

    @dataclass
    class Init:
        master_address: str = ""
        master_port: int = 0
        world_size: int = 0
        packed: bool = False
        rank: int = 0

    class Trainer:
        def __init__(self, client, source):
            self.client, self.source = client, source

        def send_weights(self):
            meta = self.source.metadata()
            self.client.start_weight_update()
            pairs = list(self.source)
            assert [(m.name, m.dtype, m.shape) for m in meta] == [
                (n, t.dtype, tuple(t.shape)) for n, t in pairs
            ]
            self.client.update_weights(
                {"names": [n for n, _ in pairs], "tensors": [t.clone() for _, t in pairs]}
            )
            self.client.finish_weight_update()

    class Factory:
        @staticmethod
        def trainer_init(info, *, client, source):
            nccl = (
                {"rank_offset": 1, "world_size": info.world_size}
                if info.world_size
                else {"packed": info.packed}
            )
            client.init_weight_transfer_engine(nccl)
            return Trainer(client, source)

    root = "vllm.distributed.weight_transfer"
    found = {
        "base": {"ParamMeta": Meta},
        "factory": {"WeightTransferTrainerFactory": Factory},
        "ipc_engine": {"IPCTrainerInitInfo": lambda **given: Init(**given)},
        "nccl_engine": {"NCCLTrainerInitInfo": lambda a, p, w, rank: Init(a, p, w, rank=rank)},
    }
    for name in ("vllm", "vllm.distributed", root):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    for name, members in found.items():
        module = types.ModuleType(f"{root}.{name}")
        vars(module).update(members)
        monkeypatch.setitem(sys.modules, f"{root}.{name}", module)


class Recorded(Moments):
    def __init__(self, log):
        super().__init__()
        self.log = log

    def offload(self):
        self.log.append("offload")

    def restore(self):
        self.log.append("moments back")


def parts(tiny, way, size=1, holds=True):
    log = []
    model = load_causal(tiny)
    weights = MergedWeights(model, torch.float32)
    backend = InlineBackend()
    start = {n: t.clone() for n, t in weights.on_cpu().items()}
    pool = Pool(
        backend, "rollout", size, Engine, {"log": log, "start": start}, 20.0, Restarts(0), at_once=AT_ONCE
    )
    transport = DirectTransport(pool, weights, way, Reach(size, gpus=2), holds)
    return log, model, backend, PooledSampler(pool, transport, dict)


def asked():
    return [Request("a", Prompt(text="Hi"), 2)]


def moved(model):
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(1.1)


BATCH = [
    "offload",
    "wake weights",
    "start",
    "update",
    "finish",
    "commit",
    "wake kv_cache",
    "sample",
    "sleep",
    "moments back",
]


def test_beside_the_learner_an_engine_wakes_for_a_batch(vllm, tiny):
    log, model, backend, inner = parts(tiny, "ipc", holds=False)
    sampler = BesideSampler(inner, Recorded(log))
    assert log == ["digests", "init", "start", "update", "finish", "commit", "digests", "sleep"]
    engine = backend.handles[0].held
    assert engine.info == {"packed": True}
    for step in range(1, 6):
        moved(model)
        sampler.sync(Weights(step))
        assert engine.held is None
        log.clear()
        assert [s.completion.policy_version for s in sampler.run(asked())] == [step] * 2
        # Bytes are compared after the first three wakes, and then as often as the settings ask for.
        checked = "digests" in log
        assert checked == (step <= 3)
        assert [entry for entry in log if entry != "digests"] == BATCH
    assert sampler.facts.version == 5


def test_memory_comes_back_to_the_learner_if_the_batch_is_left_or_fails(vllm, tiny):
    log, _, backend, inner = parts(tiny, "ipc", holds=False)
    sampler = BesideSampler(inner, Recorded(log))
    samples = sampler.run(asked())
    next(samples)
    samples.close()
    assert log[-2:] == ["sleep", "moments back"]
    Engine.corrupts = True
    try:
        with pytest.raises(
            RunFailed, match=r"rollout 0: it holds other weights than the learner \(1 tensors"
        ):
            list(sampler.run(asked()))
    finally:
        Engine.corrupts = False
    assert log[-1] == "moments back"
    backend.handles[0].kill()
    with pytest.raises(RunFailed, match="No rollout worker is left"):
        list(sampler.run(asked()))


@pytest.mark.parametrize("shown", [0, 1, None])
def test_who_cannot_compare_all_tensors_says_so_once(vllm, tiny, monkeypatch, shown):
    def digests(engine):
        names = list(engine.held)[:shown] if engine.held else []
        return {n: digest(t) if n in names else "re-arranged" for n, t in (engine.held or {}).items()}

    monkeypatch.setattr(Engine, "digests", digests)
    _, model, _, sampler = parts(tiny, "nccl")
    said = []
    sampler.note = lambda *told: said.append(("note", *told))
    sampler.pool.tell = lambda *told: said.append(("warn", *told))
    for step in range(1, 3):
        moved(model)
        sampler.verify = 1
        sampler.settle()
        sampler.sync(Weights(step))
        list(sampler.run(asked()))
    total = len(backend_names(model))
    how = "vLLM divides, fuses or re-arranges"
    assert (
        said
        == {
            0: [
                (
                    "warn",
                    "weights not compared",
                    f"none of {total} tensors: {how} them all, which are not compared",
                )
            ],
            1: [
                (
                    "note",
                    "weights compared",
                    f"1 of {total} tensors: {how} the others, which are not compared",
                )
            ],
            None: [],
        }[shown]
    )


def backend_names(model):
    return MergedWeights(model, torch.float32).on_cpu()


def test_apart_engines_hold_their_answers_while_weights_come(vllm, tiny):
    log, model, backend, sampler = parts(tiny, "nccl", size=2)
    # Each engine has two GPUs, and ranks of its own in a group with the learner.
    infos = [h.held.info for h in backend.handles]
    assert infos == [{"rank_offset": r, "world_size": 5} for r in (1, 3)]
    sampler.settle()
    log.clear()
    moved(model)
    sampler.sync(Weights(1))
    sampler.settle()
    assert log == [x for step in ("hold", "start", "update", "finish", "commit") for x in (step, step)]
    assert [s.completion.policy_version for s in sampler.run(asked())] == [1, 1]


def test_what_an_engine_holds_byte_for_byte_shows_in_what_it_was_started_with(tiny):
    started = MergedWeights(load_causal(tiny), torch.float32).on_cpu()
    layer = "model.layers.0.self_attn"
    fused = torch.cat([started[f"{layer}.{n}_proj.weight"] for n in "qkv"])
    held = {
        "model.norm.weight": digest(started["model.norm.weight"]),
        f"{layer}.qkv_proj.weight": digest(fused),
        f"{layer}.o_proj.weight": "re-arranged",
        "lm_head.weight": digest(started["model.embed_tokens.weight"]),
        "another.weight": "0",
    }
    holdings = Holdings(started, held, "model.embed_tokens.weight")
    assert set(holdings.expected(started)) == set(held) - {f"{layer}.o_proj.weight", "another.weight"}
    # Of the sent tensors: a norm, three in one, and the embedding, which is the head.
    assert holdings.compared == (5, len(started))
    assert holdings.differing(started, held) == []
    sent = started | {f"{layer}.k_proj.weight": started[f"{layer}.k_proj.weight"] + 1}
    assert holdings.differing(sent, held) == [f"{layer}.{n}_proj.weight" for n in "kqv"]
    assert holdings.differing(started, held | {"lm_head.weight": "0"}) == ["model.embed_tokens.weight"]


@pytest.mark.parametrize("kind", ["lora", "rslora", "dora"])
def test_an_engine_gets_the_weights_that_the_adapter_computes_with(tiny, kind):
    model = adapters.attach(load_causal(tiny), AdapterSpec(kind=kind, r=2), False)
    with torch.no_grad():
        for p in (p for p in model.parameters() if p.requires_grad):
            p.add_(0.1 * torch.randn_like(p))
    sent, before = MergedWeights(model, torch.float32).on_cpu(), copy.deepcopy(model.state_dict())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    folded = adapters.fold(model).state_dict()
    assert all(torch.equal(value, folded[name]) for name, value in sent.items())


@pytest.mark.parametrize("own_head", [True, False])
def test_a_tied_head_is_compared_with_the_embedding_that_was_sent(tiny, tmp_path, own_head):
    model = load_causal(tiny)
    folder = EngineFolder(tmp_path, model, torch.bfloat16, own_head)
    sent = MergedWeights(model, torch.bfloat16).on_cpu()
    assert folder.started.keys() == sent.keys()
    held = {"lm_head.weight": digest(sent["model.embed_tokens.weight"])}
    assert Holdings(folder.started, held, folder.embedding).expected(sent) == held


@pytest.mark.parametrize("file", ["model.safetensors", "head.safetensors"])
def test_a_full_shared_memory_is_named_by_an_engine_s_worker(tiny, tmp_path, monkeypatch, file):
    """Containers often have 64 MB of it."""
    folder = EngineFolder(tmp_path, load_causal(tiny), torch.bfloat16, own_head=True)
    sent, plainly = MergedWeights(load_causal(tiny), torch.bfloat16).on_cpu(), vllm_weights.save_file

    def save_file(tensors, path, metadata):
        if path.endswith(file):
            raise SafetensorError("Error while serializing: No space left on device (os error 28)")
        plainly(tensors, path, metadata)

    monkeypatch.setattr(vllm_weights, "save_file", save_file)
    with pytest.raises(RunFailed, match=r"Weights for vLLM could not be written to .* \(.*No space left.*\)"):
        folder.put(sent)


def test_moments_are_moved_to_the_cpu_and_back():
    class Elsewhere(torch.Tensor):
        """A tensor of another device, as far as it is asked."""

        home = "cuda:0"

        @property
        def device(self):
            return torch.device(self.home)

        def to(self, device):
            found = self.clone().as_subclass(Elsewhere)
            found.home = str(device)
            return found

    p = torch.nn.Parameter(torch.ones(2))
    moments = Moments()
    moments.offload()
    moments.optimizer = torch.optim.AdamW([p])
    mean, count = torch.ones(2).as_subclass(Elsewhere), torch.tensor(3.0)
    moments.optimizer.state[p] = {"exp_avg": mean, "step": count}
    moments.offload()
    state = moments.optimizer.state[p]
    assert state["exp_avg"].device.type == "cpu"
    assert state["step"] is count
    moments.restore()
    assert state["exp_avg"].device == torch.device("cuda:0")
    moments.restore()
    assert state["exp_avg"].device == torch.device("cuda:0")


@pytest.mark.parametrize(
    ("weights", "place", "sampler", "gpus", "says"),
    [
        ("ipc", "apart", "vllm", 2, "takes weights to vllm engines beside; the rollouts are vllm, apart"),
        ("nccl", "apart", "local", 2, "takes weights to vllm engines apart; the rollouts are local, apart"),
        ("nccl", "apart", "vllm", 0, "goes between GPUs, and there is none"),
    ],
)
def test_ways_between_gpus_are_refused_where_there_are_none(weights, place, sampler, gpus, says):
    spec = ClusterSpec(rollout={"place": place}, weights=weights)
    with pytest.raises(UserError, match=says):
        check_cluster(spec, Facts(sampler=sampler, pauses=sampler == "vllm", gpus=gpus))


@pytest.mark.gpu
@pytest.mark.vllm
@pytest.mark.timeout(600)
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("place", ["beside", "apart"])
def test_engines_on_gpus_answer_with_the_learner_s_weights(place, tmp_path):
    """Beside needs one GPU, apart two. Log-probs agree with the learner's after each update, moments survive."""
    if torch.cuda.device_count() < (1 if place == "beside" else 2):
        pytest.skip("there are not enough GPUs")
    from kilter.data.collate import collate
    from kilter.roles.open import OpenSpec, open_encoder, open_model
    from kilter.sampling.collect import answers
    from kilter.types import Feedback, Group, SamplingParams

    opening = OpenSpec("builtin:smollm2-135m", dtype="bfloat16", max_length=512, max_prompt=256, trains=True)
    encoder = open_encoder(opening)
    scorer = open_model(opening, encoder).scorer
    optimizer = torch.optim.AdamW(scorer.parameters(), lr=1e-4)
    spec = ClusterSpec(
        rollout={"place": place, "gpus": 1}, weights="ipc" if place == "beside" else "nccl", verify_weights=1
    )
    from kilter.cluster.ray import RayBackend

    backend = RayBackend(spec)
    with contextlib.closing(backend), Cluster(spec, backend, tmp_path, print, Restarts(0)) as cluster:
        cluster.moments.optimizer = optimizer
        sampler = cluster.rollouts(opening, SamplerKind(name="vllm"), "bfloat16", scorer, dict)
        prompts = [Prompt(messages=({"role": "user", "content": t},)) for t in ("Hi", "What is the time?")]
        for step in range(5):
            found = answers(sampler, prompts, 4, SamplingParams(max_new_tokens=32, seed=step))
            groups = [
                encoder.encode(Group(p, tuple(a), (Feedback(0.0),) * 4))
                for p, a in zip(prompts, found, strict=True)
            ]
            batch = collate(groups)
            logps = scorer(batch, temperature=1.0, amp=True).logps_BT
            mask, sampled = (x.to(logps.device) for x in (batch.mask_BT, batch.sampling_logps_BT))
            with torch.no_grad():
                gap = (logps - sampled)[mask.bool()]
            assert float((torch.expm1(-gap) + gap).mean()) < 5e-3
            assert {c.policy_version for a in found for c in a} == {step}
            (-(logps * mask).mean()).backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            sampler.sync(Weights(step + 1))


FAILS = """
import multiprocessing, sys
from kilter.sampling.vllm_clients import log_lengths, start_failed

def core():
    if sys.argv[1]:
        said = "(Worker pid=9) ERROR 11-27 12:12:55 [executor.py:953] ValueError: " + sys.argv[1]
        print(said, file=sys.stderr, flush=True)
        raise Exception("initialization failed. See stack trace for root cause.")

if __name__ == "__main__":
    print("RuntimeError: of an earlier engine", file=sys.stderr, flush=True)
    before = log_lengths()
    process = multiprocessing.get_context("fork").Process(target=core, name="EngineCore")
    process.start()
    process.join()
    print("(EngineCore pid=7) a line that is no error", file=sys.stderr, flush=True)
    seen = RuntimeError("Engine core initialization failed. See root cause above. Failed core proc(s): {}")
    print(start_failed(seen, before))
"""


@pytest.mark.parametrize("in_file", [True, False], ids=["a worker's log", "a pipe"])
@pytest.mark.parametrize("cause", ["No memory is left for the cache", ""], ids=["raised", "killed"])
def test_an_engine_that_does_not_start_says_why(tmp_path, in_file, cause):
    """Its process writes the cause to standard error, which of a worker is a file on another machine."""
    (tmp_path / "fails.py").write_text(FAILS)
    with (tmp_path / "log").open("wb") as log:
        command = [sys.executable, tmp_path / "fails.py", cause]
        end = subprocess.run(command, stdout=subprocess.PIPE, stderr=log if in_file else subprocess.PIPE)
    named = f"ValueError: {cause}" if cause and in_file else "Failed core proc(s): {}"
    said = end.stdout.decode()
    assert "vLLM did not start" in said and named in said and "earlier" not in said


def gone(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z"
    except FileNotFoundError:
        return True


ENGINE = """
import os, subprocess, sys, tempfile, time
from _multiprocessing import SemLock
from multiprocessing import resource_tracker
from multiprocessing.shared_memory import SharedMemory

shared = SharedMemory(create=True, size=10)
# As an engine on several processes of a CPU makes it, with the file by which these find each other.
divided = f"/vllm_dist_{os.getpid():x}-tp:0-[0-1]-cpushm_0"
held = SharedMemory(divided[1:], create=True, size=10)
resource_tracker.unregister(held._name, "shared_memory")
met = os.path.join(tempfile.gettempdir(), f"vllm_dist_{os.getpid():x}")
open(met, "w").close()
# Python's own tracker, which would remove it, is often killed as well.
resource_tracker.unregister(shared._name, "shared_memory")
if len(sys.argv) > 1:
    subprocess.Popen([sys.executable, "-c", sys.argv[1]])
# As joblib makes it when vLLM's libraries import it.
lock = SemLock(0, 1, 1, f"/loky-{os.getpid()}-abc", False)
in_memory = shared._name, divided, f"/sem.loky-{os.getpid()}-abc"
print(*(f"/dev/shm{name}" for name in in_memory), met, flush=True)
time.sleep(100)
"""
"""An engine, and its worker where it is given one: they share memory that outlives a kill."""


def starts(told):
    """An engine's owner, for as long as its engine starts."""
    with contextlib.ExitStack() as cleanup, vllm_ends.started_for(vllm_weights.shared_folder(cleanup)):
        code = [sys.executable, "-c", ENGINE, ENGINE]
        engine = subprocess.Popen(code, stdout=subprocess.PIPE)
        names = [name for _ in range(2) for name in engine.stdout.readline().decode().split()]
        (told / "partial").write_text(" ".join([str(engine.pid), *names]))
        (told / "partial").rename(told / "engine")
        signal.pause()


def test_of_a_killed_process_neither_engine_nor_weights_stay(tmp_path, monkeypatch):
    """Killed while the engine starts, without a chance to clean up. The engine has a child."""
    monkeypatch.setattr(vllm_weights, "SHARED_MEMORY", tmp_path / "none")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    owner = os.fork()
    if owner == 0:
        try:
            starts(tmp_path)
        finally:
            os._exit(1)
    until((tmp_path / "engine").exists)
    engine, *names = (tmp_path / "engine").read_text().split()
    engine, names = int(engine), [Path(name) for name in names]
    assert all(name.exists() for name in names)
    # What a living process holds is not taken away.
    with contextlib.ExitStack() as stack:
        vllm_weights.shared_folder(stack)
        assert len(list(tmp_path.glob(f"{vllm_weights.PREFIX}*"))) == 2
    assert not gone(engine)
    os.kill(owner, signal.SIGKILL)
    os.waitpid(owner, 0)
    until(lambda: gone(engine) and not list(tmp_path.glob(f"{vllm_weights.PREFIX}*")))
    assert not any(name.exists() for name in names)


def test_an_engine_that_is_closed_leaves_its_owner_and_the_other_processes_alone(tmp_path, monkeypatch):
    """What a killed engine shared with its worker is gone too, though nobody can ask it."""
    monkeypatch.setattr(vllm_weights, "SHARED_MEMORY", tmp_path)
    with contextlib.ExitStack() as cleanup:
        folder = vllm_weights.shared_folder(cleanup)
        other = subprocess.Popen(["sleep", "100"])
        with vllm_ends.started_for(folder):
            second = subprocess.Popen(["sleep", "100"])
            engine = subprocess.Popen([sys.executable, "-c", ENGINE], stdout=subprocess.PIPE)
            names = [Path(name) for name in engine.stdout.readline().decode().split()]
        engine.kill()
        engine.communicate()
        assert all(name.exists() for name in names)
    assert second.wait() == -signal.SIGKILL
    assert not folder.exists()
    assert not any(name.exists() for name in names)
    assert other.poll() is None
    other.kill()
    other.wait()


def test_a_folder_that_is_taken_for_a_dead_ones_before_it_is_locked_is_given_up(tmp_path, monkeypatch):
    """Another worker of the node begins between the folder and its lock, once before and once while it looks."""
    monkeypatch.setattr(vllm_weights, "SHARED_MEMORY", tmp_path)
    make, lock, made, rivals = tempfile.mkdtemp, vllm_weights._lock, [], []

    def makes(**given):
        made.append(make(**given))
        return made[-1]

    def locks(folder):
        if len(made) == 1:
            folder.rmdir()
        if len(made) == 2:
            rivals.append(lock(folder))
        handle = lock(folder)
        if len(made) == 3:
            folder.rmdir()
        return handle

    monkeypatch.setattr(tempfile, "mkdtemp", makes)
    monkeypatch.setattr(vllm_weights, "_lock", locks)
    with contextlib.ExitStack() as stack:
        folder = vllm_weights.shared_folder(stack)
        assert folder.is_dir()
        assert len(made) == 4
        with pytest.raises(BlockingIOError):
            lock(folder)
    os.close(rivals[0])


def test_a_folder_without_an_owner_is_removed_by_the_next_one(tmp_path, monkeypatch):
    monkeypatch.setattr(vllm_weights, "SHARED_MEMORY", tmp_path)
    (tmp_path / f"{vllm_weights.PREFIX}old").mkdir()
    with contextlib.ExitStack() as stack:
        fresh = vllm_weights.shared_folder(stack)
        assert list(tmp_path.iterdir()) == [fresh]
    assert list(tmp_path.iterdir()) == []


def until(done):
    for _ in range(500):
        if done():
            return
        time.sleep(0.01)
    raise AssertionError("it did not happen in 5 s")


def test_memory_that_was_kept_for_reuse_goes_back_when_a_model_was_needed_once():
    code = """
from pathlib import Path
from kilter.runtime import keep_freed_memory, return_freed_memory

def held():
    return int(Path("/proc/self/status").read_text().partition("RssAnon:")[2].split()[0]) // 1024

keep_freed_memory()
before = held()
blocks = [bytearray(b"x" * (1 << 24)) for _ in range(12)]
del blocks
kept = held() - before
return_freed_memory()
print(kept, held() - before)
"""
    said = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    kept, left = map(int, said.split())
    assert kept > 150
    assert left < 40
