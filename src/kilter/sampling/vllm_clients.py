"""vLLM's engine, in a child of this process or behind a server: tokens in, tokens and log-probs out."""

from __future__ import annotations

import contextlib
import json
import math
import multiprocessing
import os
import queue
import re
import stat
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import torch

from kilter.errors import RunFailed, UserError
from kilter.progress import doing
from kilter.sampling.choices import ROUNDED
from kilter.sampling.config import SamplerKind
from kilter.sampling.items import Item
from kilter.sampling.params import request_seed
from kilter.sampling.vllm_ends import started_for


class Answer(NamedTuple):
    """One completion of a prompt.

    Args:
        tokens: ids of the new ones.
        logps: of these tokens, nats.
        reason: why they end.
        versions: spans (start, end, version) of them, where weights may change under way.
    """

    tokens: list[int]
    logps: list[float]
    reason: Literal["stop", "length"]
    versions: tuple[tuple[int, int, int], ...] = ()


Answered = Iterator[tuple[Item, list[Answer] | str]]
"""Each item as it finishes, with its answers (one for all, if greedy) or with what is wrong with it."""

AGAIN = "run the same command again to resume"

REFUSALS = (400, 413, 422)
"""HTTP statuses that concern one request: malformed, too large, not to be processed."""


LOGS = (2, 1)
"""Standard error and output: an engine's processes write there why they end."""

LOG_END = 1 << 16
"""Bytes at the end of a log in which an error is looked for."""

RAISED = re.compile(
    r"^(?:\([^)]* pid=\d+\) )?(?:ERROR [^\]\n]*\] )?"
    r"((?:\w+\.)*\w*(?:Error|Exception): (?!.*root cause).+)$",
    re.MULTILINE,
)
"""The line with which Python ends what it says of an error, and what vLLM writes before it."""


class Generates(Protocol):
    """An engine, wherever it runs. context: tokens of prompt and answer; None where it does not say."""

    context: int | None

    def generate(self, items: Sequence[Item], stop_ids: Sequence[int]) -> Answered:
        """Yields each item when it is done, with its answers or with its problem."""
        ...


class Client(Generates, Protocol):
    """An engine that takes new weights between two calls."""

    def reload(self, folder: Path, timeout: float) -> None:
        """Takes the weights in `folder`, then forgets cached prefixes."""
        ...


def engine_settings(folder: Path, dtype: str, spec: SamplerKind, share: float = 0.3) -> dict[str, Any]:
    """Settings of any engine that is started here. To be called before vLLM is imported.

    Args:
        folder: of the model.
        dtype: of weights and products.
        spec: of the sampler.
        share: of a GPU's memory, where the settings name none.

    Raises:
        UserError: vLLM is not installed.
    """
    # vLLM reads these when it is imported; what the user has set stays.
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    gpu, extra = torch.cuda.is_available(), {}
    if gpu:
        extra["gpu_memory_utilization"] = spec.memory or share
    else:
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", str(max(1, round(spec.memory or 2))))
        # A prompt that is read in parts takes back a draw of its seed, which vLLM 0.32 can on a GPU alone.
        extra["enable_chunked_prefill"] = False
    try:
        import vllm  # noqa: F401
    except ImportError as error:
        raise UserError(
            "sampler.name",
            "vllm",
            f"is not installed ({error})",
            "run: make setup-vllm, or use sampler: {name: local}",
        ) from error
    return {
        "model": str(folder),
        "dtype": dtype,
        "enforce_eager": not gpu,
        # At the sampling temperature, which is what the learner recomputes.
        "logprobs_mode": "processed_logprobs",
        "enable_prefix_caching": True,
        "disable_log_stats": True,
        "use_tqdm_on_load": False,
        **extra,
    }


def start_failed(error: BaseException, before: Sequence[int]) -> RunFailed:
    """What to say of an engine that does not start.

    Args:
        error: vLLM's, which says of an engine's process only that it ended.
        before: lengths of the logs when the engine began.
    """
    cause = _raised_below(before) or last_line(error)
    return RunFailed(f"vLLM did not start ({cause})", "free memory, or use sampler: {name: local}")


def log_lengths() -> list[int]:
    """Bytes in the files that both outputs go to, as in a worker; 0 where people read them."""
    found = [os.fstat(output) for output in LOGS]
    return [f.st_size if stat.S_ISREG(f.st_mode) else 0 for f in found]


def _raised_below(before: Sequence[int]) -> str:
    """The last cause that a process wrote to the logs since they had these lengths."""
    raised: list[str] = []
    for output, begin, end in zip(LOGS, before, log_lengths(), strict=True):
        if end > begin:
            with contextlib.suppress(OSError), open(f"/proc/self/fd/{output}", "rb") as log:
                log.seek(max(begin, end - LOG_END))
                raised += RAISED.findall(log.read().decode(errors="replace"))
    return raised[-1][:200] if raised else ""


class InProcess:
    """vLLM's LLM, its engine in a child process of this one."""

    def __init__(self, folder: Path, dtype: str, spec: SamplerKind) -> None:
        settings = engine_settings(folder, dtype, spec)
        from vllm import LLM

        # The engine's processes are those that come while it starts; their life is watched from here on.
        self.timeout = spec.timeout
        before, log = set(multiprocessing.active_children()), log_lengths()
        try:
            with doing("the start of vLLM's engine"), started_for(folder):
                self.llm = LLM(**settings)
        except Exception as error:
            raise start_failed(error, log) from error
        self._engine = set(multiprocessing.active_children()) - before
        self.context: int | None = self.llm.llm_engine.model_config.max_model_len

    def close(self) -> None:
        """Ends the engine's processes."""
        self.llm.llm_engine.engine_core.shutdown()

    def _guarded(self, call: Callable[[], Any], limit: float, what: str) -> Any:
        """Runs `call` aside and watches the engine: vLLM's own wait for a killed engine has no end."""
        box: queue.Queue[tuple[Any, BaseException | None]] = queue.Queue()

        def run() -> None:
            try:
                box.put((call(), None))
            except BaseException as error:
                box.put((None, error))

        # A daemon, so that a call which never returns does not keep the process alive.
        threading.Thread(target=run, daemon=True).start()
        begin = time.monotonic()
        while True:
            try:
                value, error = box.get(timeout=0.5)
                break
            except queue.Empty:
                self._require_life(what)
                if time.monotonic() - begin > limit:
                    raise RunFailed(
                        f"vLLM took longer than {limit:g} s {what}", f"raise sampler.timeout, or {AGAIN}"
                    ) from None
        if error is not None:
            raise RunFailed(f"vLLM failed while {what} ({last_line(error)})", AGAIN) from error
        return value

    def _require_life(self, what: str) -> None:
        """Raises RunFailed where a process of the engine has ended."""
        for process in self._engine:
            if not process.is_alive():
                raise RunFailed(f"The vLLM engine ended with code {process.exitcode} while {what}", AGAIN)

    def generate(self, items: Sequence[Item], stop_ids: Sequence[int]) -> Answered:
        """Yields all answers at the end: vLLM's offline engine gives none before."""
        from vllm import SamplingParams as Params

        if not items:
            return
        # One set of parameters per item, for each has its own seed.
        params = [Params(**parameters(i, stop_ids), seed=seed_of(i)) for i in items]
        prompts = [{"prompt_token_ids": list(item.ids)} for item in items]
        outputs = self._guarded(
            lambda: self.llm.generate(prompts, params, use_tqdm=False), self.timeout * len(items), "sampling"
        )
        for item, output in zip(items, outputs, strict=True):
            yield item, [_answer(o) for o in output.outputs]

    def reload(self, folder: Path, timeout: float) -> None:
        """Reloads the weights inside the engine's workers."""

        def push() -> None:
            self.llm.collective_rpc("reload_weights", timeout=timeout, kwargs={"weights_path": str(folder)})
            # Cached prefixes were computed with the old weights.
            if self.llm.reset_prefix_cache() is False:
                raise RuntimeError("the prefix cache could not be reset")

        self._guarded(push, timeout, "taking new weights")


class Server:
    """A running `vllm serve` on the same file system.

    It needs VLLM_SERVER_DEV_MODE=1 and --logprobs-mode processed_logprobs.
    """

    def __init__(self, url: str, timeout: float, shared_head: bool = False) -> None:
        """shared_head: the policy's head is its embedding, which a server on a CPU must hold apart."""
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
        try:
            self.model, self.context = self._served(url)
            self.on_cpu = self._inspect(shared_head)
        except BaseException:
            # Nobody else knows of the connection yet.
            self.http.close()
            raise

    def _served(self, url: str) -> tuple[str, int | None]:
        """(name, context) of the model that the server offers."""
        import httpx

        try:
            found = self.http.get(f"{self.url}/v1/models")
            found.raise_for_status()
            card = found.json()["data"][0]
            name, context = str(card["id"]), card.get("max_model_len")
            # True is an int to Python.
            if context is not None and (type(context) is not int or context < 1):
                raise ValueError(f"max_model_len is {str(context)[:20]}")
            return name, context
        except (httpx.HTTPError, AttributeError, KeyError, IndexError, TypeError, ValueError) as error:
            raise UserError(
                "sampler.url",
                url,
                f"is not answered by a vLLM server ({last_line(error)})",
                "start `vllm serve MODEL`, or leave url out to run it in process",
            ) from error

    def _inspect(self, shared_head: bool) -> bool:
        """Whether the server computes on a CPU.

        Raises:
            UserError: a setting of the server would make log-probs or weights silently wrong.
        """
        mode, model, worker = self._settings()
        on_cpu = "cpu" in worker.lower()
        if mode != "processed_logprobs":
            raise UserError(
                "sampler.url",
                self.url,
                f"reports {mode}",
                "start the server with --logprobs-mode processed_logprobs",
            )

        # See untie: on a CPU a head that is the embedding would keep its first weights for ever.
        served = Path(model) / "config.json"
        separate = served.is_file() and json.loads(served.read_text()).get("tie_word_embeddings") is False
        if on_cpu and shared_head and not separate:
            raise UserError(
                "sampler.url",
                self.url,
                "serves on a CPU a model whose head is its embedding, and would miss new weights of it",
                "serve a copy made by `kilter export MODEL --to FOLDER --untie`",
            )
        return on_cpu

    def _settings(self) -> tuple[str, str, str]:
        """(mode of log-probs, model, class of worker) from vLLM's own configuration."""
        import httpx

        try:
            reply = self.http.get(f"{self.url}/server_info", params={"config_format": "json"})
            config = reply.raise_for_status().json()["vllm_config"]
            model = config["model_config"]
            return model["logprobs_mode"], model["model"], config["parallel_config"]["worker_cls"]
        except (httpx.HTTPError, KeyError, TypeError, ValueError) as error:
            problem, fix = f"does not say what it is ({last_line(error)})", "use vLLM 0.11 or later"
            # The page is there only where weights may be changed too.
            if isinstance(error, httpx.HTTPStatusError) and error.response.status_code == 404:
                problem, fix = "takes no weights", "start the server with VLLM_SERVER_DEV_MODE=1 set"
            raise UserError("sampler.url", self.url, problem, fix) from error

    def generate(self, items: Sequence[Item], stop_ids: Sequence[int]) -> Answered:
        """Sends one HTTP request per item, because a request has one seed. The server batches them."""
        with ThreadPoolExecutor(min(64, max(1, len(items)))) as pool:
            asked = {pool.submit(self._ask, item, stop_ids): item for item in items}
            try:
                for future in as_completed(asked):
                    yield asked[future], future.result()
            finally:
                # After a failure, or when nobody wants the rest, what has not begun never begins.
                pool.shutdown(cancel_futures=True)

    def _ask(self, item: Item, stop_ids: Sequence[int]) -> list[Answer] | str:
        """The answers to one item, or why the server refuses it."""
        # Token ids in, token ids out: text would be tokenised a second time, and not always alike.
        body = parameters(item, stop_ids) | {
            "model": self.model,
            "prompt": list(item.ids),
            "seed": seed_of(item),
            "return_token_ids": True,
        }
        try:
            reply = self._post("/v1/completions", body, refusable=True)
        except _RefusedItem as refusal:
            return refusal.problem
        # The run learns from these numbers: others than tokens and log-probs end it.
        try:
            return [_told(c) for c in sorted(reply["choices"], key=lambda c: c["index"])]
        except (KeyError, TypeError, ValueError) as error:
            raise RunFailed(
                f"The vLLM server at {self.url} gives no tokens and log-probs ({last_line(error)})",
                f"check the server, then {AGAIN}",
            ) from error

    def reload(self, folder: Path, timeout: float) -> None:
        """Tells the server to reload its weights from `folder`."""
        self._post(
            "/collective_rpc",
            {"method": "reload_weights", "kwargs": {"weights_path": str(folder)}, "timeout": timeout},
        )
        # Cached prefixes were computed with the old weights.
        self._post("/reset_prefix_cache", None)

    def close(self) -> None:
        """Closes the connection to the server."""
        self.http.close()

    def _post(self, path: str, body: Any, refusable: bool = False) -> Any:
        """What the server answers.

        Raises:
            _RefusedItem: it refuses this request, and `refusable` says that the others can go on.
            RunFailed: it does not answer, or with an error.
        """
        import httpx

        begin = time.monotonic()
        try:
            reply = self.http.post(f"{self.url}{path}", json=body)
            # One bad request must not end a rollout. A server that fails must: the run would learn from less.
            if refusable and reply.status_code in REFUSALS:
                raise _RefusedItem(f"The server refuses it ({reply.text[:200]})", "correct this prompt")
            reply.raise_for_status()
            return reply.json() if reply.content else None
        except (httpx.HTTPError, ValueError) as error:
            answered = isinstance(error, httpx.HTTPStatusError)
            detail = reply.text[:200] if answered else last_line(error)
            seconds = time.monotonic() - begin
            raise RunFailed(
                f"The vLLM server at {self.url} failed at {path} after {seconds:.0f} s ({detail})",
                f"check the server, then {AGAIN}",
            ) from error


class _RefusedItem(RunFailed):
    """The server will not answer one request (too long, malformed); it goes on with the others."""


def parameters(item: Item, stop_ids: Sequence[int]) -> dict[str, Any]:
    """How an item is sampled, in the words that vLLM's engine and its server share."""
    params = item.request.params
    return {
        # Greedy answers are all the same, and vLLM refuses to make several.
        "n": 1 if params.temperature == 0 else len(item.numbers),
        "temperature": params.temperature,
        "top_p": params.top_p,
        "top_k": params.top_k or -1,
        "max_tokens": params.max_new_tokens,
        "stop": list(params.stop),
        "stop_token_ids": list(stop_ids),
        # 0 alternatives: the drawn token's own log-prob and no other.
        "logprobs": 0,
        "include_stop_str_in_output": True,
    }


def seed_of(item: Item) -> int:
    """Of the 31 bits that vLLM takes. It adds 1 for each further sample of the request."""
    return request_seed(item.request.params, item.ids, item.first) % (1 << 31) + item.numbers[0]


def ended(reason: str | None) -> Literal["stop", "length"]:
    """Why a completion ends, in our words."""
    return "length" if reason == "length" else "stop"


def _told(choice: Any) -> Answer:
    """One completion as a server tells it. Raises KeyError, TypeError or ValueError for anything else."""
    tokens, logps = choice["token_ids"], choice["logprobs"]["token_logprobs"]
    if len(tokens) != len(logps):
        raise ValueError(f"{len(tokens)} tokens have {len(logps)} log-probs")
    for token, logp in zip(tokens, logps, strict=True):
        # True is an int to Python, and NaN fails the comparison.
        if type(token) is not int or token < 0:
            raise ValueError(f"{str(token)[:20]} is not a token")
        if type(logp) not in (int, float) or not -math.inf < logp <= ROUNDED:
            raise ValueError(f"{str(logp)[:20]} is not a log-prob")
    return Answer(tokens, logps, ended(choice["finish_reason"]))


def _answer(output: Any) -> Answer:
    """One completion of the offline engine."""
    return Answer(list(output.token_ids), drawn_logps(output), ended(output.finish_reason))


def drawn_logps(output: Any) -> list[float]:
    """Log-probs of the tokens that were drawn, of a completion or a piece of one."""
    return [step[t].logprob for step, t in zip(output.logprobs, output.token_ids, strict=True)]


def last_line(error: BaseException) -> str:
    """What an error says in the end, and its type."""
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[-1][:200]}" if text else type(error).__name__
