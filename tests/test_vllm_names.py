"""vLLM's interfaces as Kilter calls them, read off vLLM itself: a name that changes is noticed without a GPU."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import re
from pathlib import Path
from types import SimpleNamespace
from typing import get_args

import pytest

pytestmark = [pytest.mark.vllm, pytest.mark.filterwarnings("default")]

CALLS = {
    "generate": ((None, None), {"request_id": ""}),
    "pause_generation": ((), {"mode": "keep", "clear_cache": True}),
    "resume_generation": ((), {}),
    "update_weight_version": (("1",), {}),
    "get_weight_version": ((), {}),
    "collective_rpc": (("reload_weights",), {"kwargs": {}}),
    "init_weight_transfer_engine": ((None,), {}),
    "start_weight_update": ((), {}),
    "update_weights": ((None,), {}),
    "finish_weight_update": ((), {}),
    "sleep": ((), {"level": 2}),
    "wake_up": ((["weights"],), {}),
    "shutdown": ((), {}),
}
"""Methods of the engine, and how sampling/vllm_running.py calls them."""


@pytest.fixture(scope="module", autouse=True)
def vllm():
    return pytest.importorskip("vllm", reason="vLLM is not installed (make test-vllm)")


def fields(kind):
    return {field.name for field in dataclasses.fields(kind)}


def takes(function, *given, **named):
    """Whether a call fits; `given` stands for self as well."""
    return inspect.signature(function).bind(*given, **named)


@pytest.mark.parametrize("name", CALLS)
def test_the_engine_takes_what_it_is_asked(name):
    from vllm.v1.engine.async_llm import AsyncLLM

    given, named = CALLS[name]
    takes(getattr(AsyncLLM, name), None, *given, **named)
    # Every method that is awaited must be one that can be.
    called = getattr(AsyncLLM, name)
    later = inspect.iscoroutinefunction(called) or inspect.isasyncgenfunction(called)
    assert later == (name != "shutdown")


def test_the_table_is_of_all_calls():
    """A call that is added to the code has to be added here."""
    from kilter.sampling import vllm_running

    text = Path(vllm_running.__file__).read_text()
    called = set(re.findall(r"self\.engine\.(\w+)", text)) - {"errored", "model_config"}
    assert called == set(CALLS)


def test_words_and_fields_are_there():
    from vllm import SamplingParams
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.outputs import CompletionOutput, WeightVersionSpan
    from vllm.sampling_params import RequestOutputKind
    from vllm.v1.engine import PauseMode
    from vllm.v1.worker.gpu_model_runner import GPUModelRunner

    from kilter.sampling.config import SamplerKind
    from kilter.sampling.items import Item
    from kilter.sampling.vllm_clients import engine_settings, parameters
    from kilter.sampling.vllm_running import own_transfer
    from kilter.types import Prompt, Request
    from kilter.types import SamplingParams as Ours

    settings = engine_settings(Path("m"), "float32", SamplerKind(name="vllm")) | own_transfer("ipc", True)
    assert set(settings) | {"tensor_parallel_size", "gpu_memory_utilization"} <= fields(AsyncEngineArgs)
    item = Item(Request("a", Prompt(text="Hi"), 2, Ours(max_new_tokens=4)), (1, 2), 0, (0, 1))
    SamplingParams(**parameters(item, [0]), seed=1, output_kind=RequestOutputKind.DELTA)
    assert {"keep", "wait"} <= set(get_args(PauseMode))
    assert {"index", "token_ids", "logprobs", "finish_reason", "weight_versions"} <= fields(CompletionOutput)
    assert {"start", "end", "version"} <= fields(WeightVersionSpan)
    takes(GPUModelRunner.reload_weights, None, weights_path="m")


def test_digests_in_threads_are_vllms_own_and_of_all_weights():
    import torch
    from vllm.model_executor.model_loader.weight_checksum import compute_tensor_digests
    from vllm.utils.import_utils import resolve_obj_by_qualname
    from vllm.v1.worker.gpu_worker import Worker

    from kilter.sampling.vllm_digests import ADDED

    made = resolve_obj_by_qualname(ADDED)
    assert not [name for name in vars(made) if name[:2] != "__" and hasattr(Worker, name)]
    model = torch.nn.Sequential(*(torch.nn.Linear(3, n, dtype=torch.bfloat16) for n in range(1, 9)))
    model.append(model[0])  # a weight that two modules share counts once
    worker = made()
    worker.model_runner = SimpleNamespace(get_model=lambda: model)
    assert worker.kilter_digests() == compute_tensor_digests(model)
    assert len(worker.kilter_digests()) == 16


@pytest.mark.parametrize("way", ["ipc", "nccl"])
def test_weights_between_gpus_meet_vllms_own_protocols(way):
    from vllm.config.weight_transfer import WeightTransferConfig
    from vllm.distributed.weight_transfer import base, factory

    from kilter.sampling.vllm_transfer import WAYS, EnginesClient, Reach
    from kilter.sampling.vllm_weights import MergedWeights

    WeightTransferConfig(backend=way)
    info = WAYS[way](Reach(2, gpus=2, rank=1, address="10.0.0.1"))
    assert (info.backend, info.rank) == (way, 1)
    assert way == "ipc" or (info.master_address, info.world_size) == ("10.0.0.1", 5)
    takes(factory.WeightTransferTrainerFactory.trainer_init, info, client=None, source=None)
    assert way in factory.WeightTransferTrainerFactory._registry
    base.WeightTransferInitRequest(init_info={}), base.WeightTransferUpdateRequest(update_info={})
    base.ParamMeta("a", None, (1,))

    # What vLLM calls on our side has the names and the parameters of its protocols. Of a source these two ways
    # read what no class can leave out; further methods are for others.
    flat = {n for n, member in vars(base.VLLMWeightSyncClient).items() if callable(member) and n[0] != "_"}
    assert len(flat) == 4
    source = base.WeightSource.__abstractmethods__
    read = re.findall(r"source\.(\w+)\(", inspect.getsource(importlib.import_module(info.__module__)))
    assert set(read) <= source
    for ours, theirs, names in (
        (EnginesClient, base.VLLMWeightSyncClient, flat),
        (MergedWeights, base.WeightSource, source),
    ):
        for name in names:
            own = list(inspect.signature(getattr(ours, name)).parameters)
            assert own == list(inspect.signature(vars(theirs)[name]).parameters), (name, own)
