"""vLLM as a sampler, in process or as a server: the same protocol, weights pushed after every update.

Weights travel through vLLM's own reload (`reload_weights` over collective_rpc): the learner writes them to
shared memory, every worker reads them in place, and the prefix cache is reset. Sampled log-probs are vLLM's
processed ones, at the sampling temperature; they differ a little from the learner's, which is measured
(mismatch KL) and corrected (truncated importance sampling) by the objectives.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import queue
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from kilter.data.encode import Encoder
from kilter.errors import RunFailed, UserError
from kilter.models.forward import Scorer
from kilter.models.load import quiet_transformers
from kilter.progress import NOBODY
from kilter.sampling.build import SamplerContext
from kilter.sampling.choices import from_scorer
from kilter.sampling.config import SamplerKind
from kilter.sampling.params import check_params, request_seed
from kilter.sampling.registry import samplers
from kilter.sampling.rollout import Item, as_items
from kilter.sampling.text import answer_text, first_cut
from kilter.seams import Listener
from kilter.types import Choice, Completion, Prompt, Request, Sample, SamplerFacts, Usage, Weights

Answer = tuple[list[int], list[float], Literal["stop", "length"]]


class Client(Protocol):
    """An engine, wherever it runs.

    context: tokens of prompt and answer that it holds, None where it does not say.
    """

    context: int | None

    def generate(
        self, items: Sequence[Item], stop_ids: Sequence[int]
    ) -> Iterator[tuple[Item, list[Answer] | str]]:
        """Yields each item when it is done, with its answers or with its problem.

        An answer has token ids, their log-probs, and why it ended.
        """
        ...

    def reload(self, folder: Path, timeout: float) -> None:
        """Takes the weights in `folder`, then forgets cached prefixes."""
        ...


class VllmSampler:
    """Sampler over a vLLM engine that follows `scorer`'s weights.

    Raises RunFailed, with the cause, when the engine dies or stalls.
    """

    def __init__(self, scorer: Scorer, encoder: Encoder, spec: SamplerKind, dtype: str) -> None:
        self.scorer, self.encoder, self.spec, self.version = scorer, encoder, spec, 0
        memory = Path("/dev/shm")
        self._folder = Path(
            tempfile.mkdtemp(
                prefix="kilter-vllm-", dir=memory if memory.is_dir() and os.access(memory, os.W_OK) else None
            )
        )
        self._cleanup = contextlib.ExitStack()
        self._cleanup.callback(shutil.rmtree, self._folder, ignore_errors=True)
        self._dtype = torch.bfloat16 if dtype == "bfloat16" else torch.float32
        self.client: Client
        try:
            server = None if spec.url is None else Server(spec.url, spec.timeout, tied(scorer.model))
            if server is not None:
                self._cleanup.callback(server.close)
            self._own_head = not torch.cuda.is_available() if server is None else server.on_cpu
            self._write()
            encoder.tokenizer.save_pretrained(str(self._folder))
            if server is None:
                self.client = InProcess(self._folder, dtype, spec)
            else:
                self.client = server
                self.client.reload(self._folder, spec.timeout)
        except BaseException:
            self.close()
            raise

    @property
    def facts(self) -> SamplerFacts:
        """A copy of the learner's weights in an engine with its own arithmetic."""
        context = self.client.context
        return SamplerFacts(version=self.version, context=context, continues=True, chooses=True)

    def choose(self, prompts: Sequence[Prompt], options: Sequence[str]) -> list[Choice | None]:
        """Takes the probabilities from the learner's own model.

        The learner's own model answers: vLLM tells no log-probs of tokens that it did not draw.
        """
        return from_scorer(self.scorer, self.encoder, prompts, options, amp=self._dtype == torch.bfloat16)

    def run(self, requests: Sequence[Request], listener: Listener = NOBODY) -> Iterator[Sample]:
        """Yields samples as vLLM finishes them. Text comes whole, not in pieces."""
        for params in {r.params for r in requests}:
            check_params(params)
        begin, tokens, done = time.perf_counter(), 0, 0
        ready: list[Request] = []
        ids: list[tuple[int, ...]] = []
        for request in requests:
            problem, own = self._ids(request)
            if problem:
                yield from (Sample(request, i, None, problem) for i in range(request.k))
            else:
                ready.append(request)
                ids.append(own)
        for item, found in self.client.generate(as_items(ready, ids), sorted(self.encoder.stop_ids)):
            if isinstance(found, str):
                samples = [Sample(item.request, i, None, found) for i in range(item.request.k)]
            else:
                samples = [self._sample(item, i, answer) for i, answer in enumerate(found)]
            done, tokens = done + len(samples), tokens + sum(s.usage.tokens for s in samples)
            listener.finished(done, tokens / max(time.perf_counter() - begin, 1e-9))
            yield from samples

    def _ids(self, request: Request) -> tuple[str, tuple[int, ...]]:
        """(what is wrong with the prompt, prompt and prefix as tokens)."""
        try:
            ids = (request.prompt_ids or self.encoder.prompt(request.prompt)) + request.prefix_ids
        except UserError as error:
            return f"{error.field} = {error.value}: {error.problem}", ()
        context = self.client.context
        if context is not None and len(ids) >= context:
            return f"the prompt has {len(ids)} tokens, and vLLM holds {context} with the answer", ()
        return "", ids

    def _sample(self, item: Item, index: int, answer: Answer) -> Sample:
        tokens, logps, reason = answer
        request, prefix = item.request, item.request.prefix_ids
        whole = answer_text(self.encoder, prefix, tokens)
        new = answer_text(self.encoder, (), tokens)
        text = whole[: len(whole) - (len(new) - len(first_cut(new, request.params.stop)))]
        completion = Completion(
            text=text.strip(),
            token_ids=(*prefix, *tokens),
            mask=(0,) * len(prefix) + (1,) * len(tokens),
            sampling_logps=(0.0,) * len(prefix) + tuple(logps),
            finish_reason=reason,
            policy_version=self.version,
            prompt_ids=item.ids[: len(item.ids) - len(prefix)],
        )
        return Sample(request, index, completion, usage=Usage(len(item.ids), len(tokens)))

    def sync(self, weights: Weights) -> int:
        """Pushes the policy's present weights."""
        self.scorer = weights.model or self.scorer
        self._write()
        self.client.reload(self._folder, self.spec.timeout)
        self.version = weights.version
        return self.version

    def _write(self) -> None:
        try:
            with quiet_transformers():
                base, state = merged_state(self.scorer.model, self._dtype)
                base.save_pretrained(str(self._folder), state_dict=state, max_shard_size="1000GB")
            if self._own_head:
                untie(base, state, self._folder)
        except (OSError, SafetensorError) as error:
            raise RunFailed(
                f"Weights for vLLM could not be written to {self._folder} ({_last_line(error)})",
                "free memory in /dev/shm, or use sampler.name: local",
            ) from error

    def close(self) -> None:
        """Removes the weights from shared memory and hangs up."""
        self._cleanup.close()

    def __del__(self) -> None:
        if shutil is not None:  # the interpreter may be on its way out
            self.close()


@samplers.register("vllm")
def open_vllm(context: SamplerContext) -> VllmSampler:
    """An engine of its own, or a running server, with the weights in memory pushed to it."""
    scorer, encoder = context.policy()
    return VllmSampler(scorer, encoder, context.spec, context.dtype)


@torch.no_grad()
def merged_state(model: Any, dtype: torch.dtype) -> tuple[Any, dict[str, torch.Tensor]]:
    """(the plain transformers model, its weights with any LoRA added in).

    The trained model is left exactly as it is.
    """
    if not hasattr(model, "peft_config"):
        return model, {k: v.detach().to(dtype) for k, v in model.state_dict().items()}
    from peft.tuners.lora import LoraLayer

    base = model.get_base_model()
    deltas = {}
    for name, module in base.named_modules():
        if isinstance(module, LoraLayer):
            deltas[f"{name}.weight"] = sum(
                module.get_delta_weight(a) for a in module.active_adapters if a in module.lora_A
            )
    state = {}
    for name, value in base.state_dict().items():
        if "lora_" in name:
            continue
        plain = name.replace(".base_layer.", ".")
        value = value.detach()
        state[plain] = (value + deltas[plain] if plain in deltas else value).to(dtype)
    return base, state


def tied(model: Any) -> bool:
    """Whether input embedding and output projection share one matrix."""
    return bool(model.config.get_text_config().tie_word_embeddings)


def untie(base: Any, state: dict[str, torch.Tensor], folder: Path) -> None:
    """Gives a tied output projection in `folder` weights of its own.

    On a CPU, vLLM 0.32 re-arranges them at load and misses them at reload.
    """
    if not tied(base):
        return
    head = next(name for name, module in base.named_modules() if module is base.get_output_embeddings())
    embedding = next(name for name, module in base.named_modules() if module is base.get_input_embeddings())
    save_file(
        {f"{head}.weight": state[f"{embedding}.weight"].contiguous()},
        str(folder / "head.safetensors"),
        metadata={"format": "pt"},
    )
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"tie_word_embeddings": False}))


class InProcess:
    """vLLM's LLM, its engine in a child process of this one."""

    def __init__(self, folder: Path, dtype: str, spec: SamplerKind) -> None:
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
        gpu = torch.cuda.is_available()
        extra: dict[str, Any] = {}
        if gpu:
            extra["gpu_memory_utilization"] = spec.memory or 0.3
        else:
            os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", str(max(1, round(spec.memory or 2))))
        try:
            from vllm import LLM
        except ImportError as error:
            raise UserError(
                "sampler.name",
                "vllm",
                f"is not installed ({error})",
                "run: make setup-vllm, or use sampler: {name: local}",
            ) from error
        self.timeout = spec.timeout
        before = set(multiprocessing.active_children())
        try:
            self.llm = LLM(
                model=str(folder),
                dtype=dtype,
                enforce_eager=not gpu,
                logprobs_mode="processed_logprobs",
                enable_prefix_caching=True,
                disable_log_stats=True,
                use_tqdm_on_load=False,
                **extra,
            )
        except Exception as error:
            raise RunFailed(
                f"vLLM did not start ({_last_line(error)})",
                "free memory, or use sampler: {name: local}",
            ) from error
        self._engine = set(multiprocessing.active_children()) - before
        self.context: int | None = self.llm.llm_engine.model_config.max_model_len

    def _guarded(self, call: Callable[[], Any], limit: float | None, what: str) -> Any:
        """Runs `call` aside, and watches the engine's processes meanwhile.

        Alone, vLLM's wait for a killed engine has no end.
        """
        box: queue.Queue[tuple[Any, BaseException | None]] = queue.Queue()

        def run() -> None:
            try:
                box.put((call(), None))
            except BaseException as error:
                box.put((None, error))

        threading.Thread(target=run, daemon=True).start()
        begin, again = time.monotonic(), "run the same command again to resume"
        while True:
            try:
                value, error = box.get(timeout=0.5)
            except queue.Empty:
                dead = [p for p in self._engine if not p.is_alive()]
                if dead:
                    raise RunFailed(
                        f"The vLLM engine ended with code {dead[0].exitcode} while {what}",
                        again,
                    ) from None
                if limit is not None and time.monotonic() - begin > limit:
                    raise RunFailed(
                        f"vLLM took longer than {limit:g} s {what}",
                        f"raise sampler.timeout, or {again}",
                    ) from None
                continue
            if error is not None:
                raise RunFailed(f"vLLM failed while {what} ({_last_line(error)})", again) from error
            return value

    def generate(
        self, items: Sequence[Item], stop_ids: Sequence[int]
    ) -> Iterator[tuple[Item, list[Answer] | str]]:
        """Yields all answers at the end: vLLM's offline engine gives none before."""
        from vllm import SamplingParams as Params

        if not items:
            return
        own = [
            Params(
                n=item.request.k,
                temperature=params.temperature,
                top_p=params.top_p,
                top_k=params.top_k or -1,
                max_tokens=params.max_new_tokens,
                stop=list(params.stop) or None,
                stop_token_ids=list(stop_ids),
                seed=_seed(item),
                logprobs=0,
                include_stop_str_in_output=True,
            )
            for item in items
            for params in [item.request.params]
        ]
        prompts = [{"prompt_token_ids": list(item.ids)} for item in items]
        outputs = self._guarded(
            lambda: self.llm.generate(prompts, own, use_tqdm=False),
            self.timeout * len(items),
            "sampling",
        )
        for item, output in zip(items, outputs, strict=True):
            yield item, [_answer(o) for o in output.outputs]

    def reload(self, folder: Path, timeout: float) -> None:
        """Reloads the weights inside the engine's workers."""

        def push() -> None:
            self.llm.collective_rpc("reload_weights", timeout=timeout, kwargs={"weights_path": str(folder)})
            if self.llm.reset_prefix_cache() is False:
                raise RuntimeError("the prefix cache could not be reset")

        self._guarded(push, timeout, "taking new weights")


class Server:
    """A running `vllm serve` on the same file system.

    It needs VLLM_SERVER_DEV_MODE=1 and --logprobs-mode processed_logprobs.
    """

    def __init__(self, url: str, timeout: float, shared_head: bool = False) -> None:
        """shared_head: the policy's head is its embedding; a server on a CPU must hold them apart."""
        try:
            import httpx
        except ImportError as error:
            raise UserError(
                "sampler.url",
                url,
                "needs httpx to talk to a server",
                "run: pip install 'kilter[vllm]', or pip install httpx",
            ) from error

        self.url, self.timeout = url.rstrip("/").removesuffix("/v1"), timeout
        self.http = httpx.Client(timeout=timeout)
        self.context: int | None = None
        try:
            self.model = self._served(url)
            self.on_cpu = self._inspect(shared_head)
        except BaseException:
            self.http.close()
            raise

    def _served(self, url: str) -> str:
        """Name of the model that the server offers."""
        import httpx

        try:
            found = self.http.get(f"{self.url}/v1/models")
            found.raise_for_status()
            card = found.json()["data"][0]
            self.context = card.get("max_model_len")
            return str(card["id"])
        except (httpx.HTTPError, KeyError, IndexError, ValueError) as error:
            raise UserError(
                "sampler.url",
                url,
                f"is not answered by a vLLM server ({_last_line(error)})",
                "start `vllm serve MODEL`, or leave url out to run it in process",
            ) from error

    def _inspect(self, shared_head: bool) -> bool:
        """Whether the server computes on a CPU.

        Raises:
            UserError: its settings would make log-probs or weights wrong in silence.
        """
        import httpx

        try:
            reply = self.http.get(f"{self.url}/server_info", params={"config_format": "json"})
            if reply.status_code == 404:
                raise UserError(
                    "sampler.url",
                    self.url,
                    "takes no weights",
                    "start the server with VLLM_SERVER_DEV_MODE=1 in its environment",
                )
            reply.raise_for_status()
            config = reply.json()["vllm_config"]
            mode, worker, model = (
                config["model_config"]["logprobs_mode"],
                config["parallel_config"]["worker_cls"],
                config["model_config"]["model"],
            )
        except (httpx.HTTPError, KeyError, TypeError, ValueError) as error:
            raise UserError(
                "sampler.url",
                self.url,
                f"does not say what it is ({_last_line(error)})",
                "use vLLM 0.11 or later",
            ) from error
        if mode != "processed_logprobs":
            raise UserError(
                "sampler.url",
                self.url,
                f"reports {mode}",
                "start the server with --logprobs-mode processed_logprobs",
            )
        on_cpu = "cpu" in worker.lower()
        served = Path(model) / "config.json"
        separate = served.is_file() and json.loads(served.read_text()).get("tie_word_embeddings") is False
        if on_cpu and shared_head and not separate:
            raise UserError(
                "sampler.url",
                self.url,
                "serves on a CPU a model whose head is its embedding, "
                "and vLLM would miss new weights of that head",
                "serve a copy made by `kilter merge MODEL FOLDER --untie`",
            )
        return on_cpu

    def generate(
        self, items: Sequence[Item], stop_ids: Sequence[int]
    ) -> Iterator[tuple[Item, list[Answer] | str]]:
        """Sends one HTTP request per item, because a request has one seed. The server batches them."""
        with ThreadPoolExecutor(min(64, max(1, len(items)))) as pool:
            asked = {pool.submit(self._ask, item, stop_ids): item for item in items}
            try:
                for future in as_completed(asked):
                    yield asked[future], future.result()
            finally:  # after a failure, or when nobody wants the rest
                pool.shutdown(cancel_futures=True)

    def _ask(self, item: Item, stop_ids: Sequence[int]) -> list[Answer] | str:
        """The answers to one item, or why the server refuses it."""
        params = item.request.params
        body = {
            "model": self.model,
            "prompt": list(item.ids),
            "seed": _seed(item),
            "n": item.request.k,
            "temperature": params.temperature,
            "top_p": params.top_p,
            "top_k": params.top_k or -1,
            "max_tokens": params.max_new_tokens,
            "stop": list(params.stop),
            "stop_token_ids": list(stop_ids),
            "logprobs": 0,
            "return_token_ids": True,
            "include_stop_str_in_output": True,
        }
        try:
            reply = self._post("/v1/completions", body)
        except _RefusedItem as refusal:
            return refusal.problem
        return [
            (c["token_ids"], c["logprobs"]["token_logprobs"], _reason(c["finish_reason"]))
            for c in sorted(reply["choices"], key=lambda c: c["index"])
        ]

    def close(self) -> None:
        """Closes the connection to the server."""
        self.http.close()

    def reload(self, folder: Path, timeout: float) -> None:
        """Tells the server to reload its weights from `folder`."""
        self._post(
            "/collective_rpc",
            {"method": "reload_weights", "kwargs": {"weights_path": str(folder)}, "timeout": timeout},
        )
        self._post("/reset_prefix_cache", None)

    def _post(self, path: str, body: Any) -> Any:
        import httpx

        begin = time.monotonic()
        try:
            reply = self.http.post(f"{self.url}{path}", json=body)
            reply.raise_for_status()
            return reply.json() if reply.content else None
        except (httpx.HTTPError, ValueError) as error:
            detail = (
                error.response.text[:200] if isinstance(error, httpx.HTTPStatusError) else _last_line(error)
            )
            refused = isinstance(error, httpx.HTTPStatusError) and error.response.status_code in (
                400,
                413,
                422,
            )
            raise (_RefusedItem if refused else RunFailed)(
                f"The vLLM server at {self.url} failed at {path} "
                f"after {time.monotonic() - begin:.0f} s ({detail})",
                "check the server, then run the same command again to resume",
            ) from error


class _RefusedItem(RunFailed):
    """The server will not answer one request (too long, malformed); it goes on with the others."""


def _seed(item: Item) -> int:
    """Of the 31 bits that vLLM takes."""
    return request_seed(item.request.params, item.ids, item.first) % (1 << 31)


def _reason(reason: str | None) -> Literal["stop", "length"]:
    return "length" if reason == "length" else "stop"


def _answer(output: Any) -> Answer:
    """One completion of the offline engine."""
    logps = [step[t].logprob for step, t in zip(output.logprobs, output.token_ids, strict=True)]
    return list(output.token_ids), logps, _reason(output.finish_reason)


def _last_line(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[-1][:200]}" if text else type(error).__name__
