"""Any OpenAI-compatible endpoint as a sampler: OpenAI, vLLM, llama.cpp, Ollama, and gateways.

Each sample is one HTTP request of the official client, because not every server takes `n`. So each has
a seed, a stream and a failure of its own. The client repeats requests whose failure may pass (429, 5xx,
a lost connection) and waits as long as the server says.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast
from urllib.parse import parse_qsl, urlsplit

from kilter.errors import RunFailed, UserError
from kilter.progress import NOBODY
from kilter.redaction import HIDDEN, SHORTEST, Pieces, redact, secrets_of
from kilter.sampling.build import SamplerContext
from kilter.sampling.choices import ROUNDED, from_first_tokens
from kilter.sampling.config import address_of
from kilter.sampling.params import check_params
from kilter.sampling.registry import samplers
from kilter.seams import Listener
from kilter.types import (
    Choice,
    Completion,
    Message,
    Prompt,
    Request,
    Sample,
    SamplerFacts,
    Usage,
    Weights,
)

if TYPE_CHECKING:
    import openai

T = TypeVar("T")

log = logging.getLogger("kilter")

OPTIONAL = frozenset({"logprobs", "top_logprobs", "seed", "stream_options"})
"""Parameters that change no answer's distribution: an endpoint that refuses one is asked without it."""

RENAMED = {"max_tokens": "max_completion_tokens"}
"""Newer models refuse the old name; most other servers know no other."""

USUAL = {"temperature": 1.0, "top_p": 1.0}
"""Values that an endpoint takes where nobody names one."""

TOP, FEW = 20, 5
"""Alternatives of a first token that endpoints give at most, and that those give which refuse so many."""

CUT = frozenset({"length", "max_tokens", "model_length", "content_filter"})
"""Reasons for which an answer ends before its end."""

ECHOES = frozenset({"input", "ctx"})
"""Keys of an error under which a server sends back what it was asked."""

LEAST = -9999.0
"""The log-prob that servers give to a token which cannot be."""

MOST = 10_000_000
"""Tokens that one request can take: the longest context on sale.

Not `max_tokens`, for servers that think beyond it count their thoughts, and those are owed.
"""

UNLIKE = (AttributeError, IndexError, KeyError, TypeError)
"""What reading a reply raises that is not shaped like one."""


class _Row(dict[str, Any]):
    """An object of a reply, as it was sent; what it lacks is None.

    The client's own objects are not: there `true` has become 1, and "3" a number.
    """

    def __getattr__(self, name: str) -> Any:
        return self.get(name)


@dataclass(frozen=True, slots=True)
class _Lost:
    """An item without an answer. usage: what the endpoint counted nevertheless."""

    problem: str
    usage: Usage = Usage()


class _Unread(Exception):  # noqa: N818
    """A reply that cannot be read, and what the endpoint counted for it."""

    def __init__(self, usage: Usage, why: str) -> None:
        super().__init__(why)
        self.usage, self.why = usage, why


class OpenAISampler:
    """Sampler over an endpoint.

    Args:
        model: the endpoint's name of it.
        url: base address, such as http://localhost:8000/v1; None reads $OPENAI_BASE_URL.
        key: None reads $OPENAI_API_KEY. It is sent, and shown nowhere.
        timeout: seconds for one request.
        concurrency: requests under way at once.
        retries: further attempts after a failure that may pass.
        where: the setting that holds `url` and `model`, for messages; "" where they are arguments alone.
    """

    def __init__(
        self,
        model: str,
        url: str | None = None,
        key: str | None = None,
        timeout: float = 120.0,
        concurrency: int = 8,
        retries: int = 4,
        where: str = "",
    ) -> None:
        import openai

        self.model, self.concurrency, self.usage = model, concurrency, Usage()
        inside = f"{where}." if where else ""
        url, self._url_field = address_of(url, f"{inside}url")
        self._model_field, self._key_field = f"{inside}model", "key" if key else "OPENAI_API_KEY"
        self._key = key or os.environ.get("OPENAI_API_KEY") or ""
        if not (self._key.isascii() and self._key.isprintable()):
            problem = "holds a character that no header can carry, such as the end of a line"
            raise UserError(self._key_field, "(hidden)", problem, "set it to the key alone")
        self._parts = urlsplit(url or "")
        self._secrets = secrets_of(self._key, url or "")
        # A key of a few letters, such as EMPTY, is a word that a reply may rightly hold.
        self._hidden_in_replies = [secret for secret in self._secrets if len(secret) >= SHORTEST]
        if not self._key and url is None:
            raise UserError(
                "OPENAI_API_KEY",
                "(absent)",
                "is needed to ask api.openai.com",
                f"set it in the environment, or name another endpoint with {self._url_field}",
            )
        # A server of one's own asks for no key, but the client wants one. It puts the path behind a query.
        self._client = openai.OpenAI(
            api_key=self._key or "none",
            base_url=url and self._parts._replace(query="", fragment="").geturl(),
            default_query=dict(parse_qsl(self._parts.query)),
            timeout=timeout,
            max_retries=retries,
        )
        self._lock = threading.Lock()
        self._refused: set[str | tuple[str, Any]] = set()
        self._lost = 0

    facts = SamplerFacts(chooses=True, skips=True)

    def run(self, requests: Sequence[Request], listener: Listener = NOBODY) -> Iterator[Sample]:
        """Yields the samples as the endpoint answers, one HTTP request each.

        Raises:
            UserError: the endpoint refuses the key or does not know the model.
            RunFailed: nothing answers at the address.
        """
        for params in {r.params for r in requests}:
            check_params(params)

        # Samples come as they finish, so that a slow one holds up no other.
        begin, done, tokens = time.perf_counter(), 0, 0
        wanted = ((r, i) for r in requests for i in r.wanted)
        pool = ThreadPoolExecutor(self.concurrency)
        jobs = {pool.submit(self._sample, r, i, listener) for r, i in islice(wanted, self.concurrency)}
        try:
            while jobs:
                ended, jobs = wait(jobs, return_when=FIRST_COMPLETED)
                for job in ended:
                    sample = job.result()
                    self.usage += sample.usage
                    done, tokens = done + 1, tokens + sample.usage.tokens
                    listener.finished(done, tokens / max(time.perf_counter() - begin, 1e-9))
                    yield sample
                    # Only now has the caller written it down: a kill costs no more than the calls under way.
                    jobs |= {pool.submit(self._sample, r, i, listener) for r, i in islice(wanted, 1)}
        finally:
            # After a failure, or when nobody wants the rest, what has not begun never begins.
            pool.shutdown(wait=False, cancel_futures=True)

    def choose(self, prompts: Sequence[Prompt], options: Sequence[str]) -> list[Choice]:
        """Takes the probabilities from the first token of an answer."""

        # A failure is unknown, not undecided: it gives no probabilities either.
        def ask(prompt: Prompt) -> Choice:
            found = self._guarded(lambda: self._first_tokens(prompt))
            if isinstance(found, _Lost):
                return Choice(tuple(options), usage=found.usage, problem=found.problem)
            logps, usage = found
            if not logps:
                problem = self._hidden(f"{self._client.base_url} reports no alternatives of the first token")
                return Choice(tuple(options), usage=usage, problem=problem)
            return replace(from_first_tokens(options, logps), usage=usage)

        with ThreadPoolExecutor(self.concurrency) as pool:
            return list(pool.map(ask, prompts))

    def sync(self, weights: Weights) -> int:
        """An endpoint takes no weights."""
        raise UserError(
            "sampler.name", "openai", "cannot take the weights of a training run", "use local or vllm"
        )

    def close(self) -> None:
        """Closes the connections to the endpoint."""
        self._client.close()

    def _sample(self, request: Request, index: int, listener: Listener) -> Sample:
        """One sample, or what kept it from being made."""
        if request.prefix_ids:
            return Sample(request, index, None, "an endpoint cannot go on from token ids")
        ask = self._ask_chat if request.prompt.text is None else self._ask_text
        found = self._guarded(lambda: ask(request, index, listener))
        return Sample(request, index, None, found.problem, found.usage) if isinstance(found, _Lost) else found

    def _guarded(self, ask: Callable[[], T]) -> T | _Lost:
        """What `ask` gives, or the problem of this one item. What concerns all items is raised."""
        import openai

        try:
            found = ask()
        except (openai.AuthenticationError, openai.NotFoundError) as error:
            # Without its cause, which would show the key's beginning.
            raise self._refusal(error) from None
        except openai.APIConnectionError as error:
            self._count_loss(error)
            return _Lost(self._hidden(f"no answer from {self._client.base_url} ({self._reason(error)})"))
        except openai.APIStatusError as error:
            said = f"status {error.status_code} ({self._reason(error)})"
            return _Lost(self._hidden(f"the endpoint answered with {said}"))
        except _Unread as error:
            return _Lost(self._hidden(error.why), error.usage)
        except (openai.OpenAIError, ValueError, RecursionError) as error:
            return _Lost(self._hidden(f"the endpoint's answer cannot be read ({self._reason(error)})"))
        self._lost = 0
        return found

    @contextlib.contextmanager
    def _reading(self, reply: Any) -> Iterator[None]:
        """What the endpoint counts is owed, also where its reply cannot be read."""
        try:
            yield
        except UNLIKE as error:
            # The client hands on whatever comes with status 200: HTML, or an object without choices.
            # Gateways send their own failures so as well, such as a quota that is spent.
            told = getattr(reply, "error", None)
            said = told.get("message") if isinstance(told, Mapping) else None
            why = f" ({self._one_line(said)})" if isinstance(said, str) else ""
            problem = f"{self._client.base_url} answered, but not with a completion{why}"
            raise _Unread(_usage(reply), problem) from error
        except ValueError as error:
            problem = f"the endpoint's answer cannot be read ({self._reason(error)})"
            raise _Unread(_usage(reply), problem) from error

    def _refusal(self, error: openai.APIStatusError) -> UserError:
        """A refused key or an unknown model: the next item would fare no better."""
        if error.status_code == 401 and self._parts.username is not None:
            problem = "holds a user and a password that the endpoint refuses"
            fix = "correct them, or leave them out: beside them OPENAI_API_KEY is not sent"
            return UserError(self._url_field, "(hidden)", problem, fix)
        if error.status_code == 401:
            fix = f"set it to a key of {self._client.base_url}"
            return UserError(self._key_field, "(hidden)", "is refused by the endpoint", fix)
        problem = self._hidden(f"is not to be had at {self._client.base_url} ({self._reason(error)})")
        fix = f"check the model's name and {self._url_field}"
        return UserError(self._model_field, self.model, problem, fix)

    def _count_loss(self, error: Exception) -> None:
        """Ends the run when nobody is there."""
        # Twice as many losses in a row as requests are under way: by then every connection has failed anew.
        with self._lock:
            self._lost += 1
            if self._lost > 2 * self.concurrency:
                raise RunFailed(
                    f"Nothing answers at {self._client.base_url} ({self._reason(error)})",
                    f"start the endpoint, or correct {self._url_field}, then run the same command again",
                )

    def _reason(self, error: Exception) -> str:
        """What an error says, in one line."""
        # The client shows the messages of OpenAI's own layout alone.
        silent = isinstance(getattr(error, "body", None), Mapping) and " - " not in str(error)
        said = _said(cast("openai.APIStatusError", error)) if silent else str(error)
        return self._one_line(said) or type(error).__name__

    def _one_line(self, said: str) -> str:
        """The beginning of it. Secrets go before it is cut, for half a key is one too."""
        return " ".join(self._hidden(said).split())[:200]

    def _hidden(self, text: str) -> str:
        """The text without the key, and without what else of an address or a header is secret."""
        for secret in self._secrets:
            text = text.replace(secret, HIDDEN)
        return redact(text)

    def _clean(self, text: str | None) -> str | None:
        """A reply as it came, but for what no file may hold: the key, and halves of characters."""
        if text is None:
            return None
        # JSON can escape half of a pair, which servers send that cut text by UTF-16 units; UTF-8 has none.
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        for secret in self._hidden_in_replies:
            text = text.replace(secret, HIDDEN)
        return text

    def _call(self, create: Callable[..., Any], **parameters: Any) -> Any:
        """Calls the endpoint; parameters that it refused before are left out or have their other name."""
        import openai

        while True:
            sent = dict(pair for k, v in parameters.items() for pair in self._sent(k, v))
            try:
                return create(model=self.model, **sent)
            except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
                # The message names the parameter; whatever else is refused is this request's own problem.
                said = _said(error)
                named = {k for k, v in sent.items() if _yields(k, v) and re.search(rf"\b{k}\b", said)}
                if not named:
                    raise
                self._refuse(named, sent)

    def _whole(self, endpoint: Any, **parameters: Any) -> Any:
        """The reply to a call, as it was sent; its text where it is not JSON and does not say that it is."""
        sent = self._call(endpoint.with_raw_response.create, **parameters).http_response
        try:
            return _rows(sent.json())
        except ValueError:
            if "json" in sent.headers.get("content-type", ""):
                raise
            return sent.text

    def _refuse(self, named: set[str], sent: Mapping[str, Any]) -> None:
        """Notes what an endpoint refuses."""
        with self._lock:
            drawn = "temperature" in named - self._refused and sent["temperature"] == 0
            self._refused |= named
            if sent.get("top_logprobs") == FEW:
                self._refused |= {(name, FEW) for name in named & {"top_logprobs"}}
        if drawn:
            what = "its replies are drawn, where the most likely ones are asked for"
            log.warning("%s takes no temperature: %s", self.model, what)

    def _sent(self, name: str, value: Any) -> Iterator[tuple[str, Any]]:
        """A parameter as the endpoint takes it, after what it refused before."""
        if name not in self._refused or not _yields(name, value):
            yield name, value
        elif name in RENAMED:
            yield RENAMED[name], value
        elif name == "top_logprobs" and (name, FEW) not in self._refused:
            yield name, FEW

    def _parameters(self, request: Request, index: int) -> dict[str, Any]:
        # top_k is not part of the API, but most servers that know it read it from the body.
        params = request.params
        extra = {"top_k": params.top_k} if params.top_k else {}
        return {
            "temperature": params.temperature,
            "top_p": params.top_p,
            "max_tokens": params.max_new_tokens,
            "seed": _seed(request, index),
            **({"stop": list(params.stop)} if params.stop else {}),
            **({"extra_body": extra} if extra else {}),
        }

    def _ask_chat(self, request: Request, index: int, listener: Listener) -> Sample:
        """One chat completion; in pieces where somebody listens."""
        parameters = self._parameters(request, index)
        extra = parameters.pop("extra_body", {})
        parameters |= _conversation(request.prompt, extra)
        if listener.wants_text and (found := self._stream(request, index, listener, parameters)) is not None:
            return found
        reply = self._whole(self._client.chat.completions, **parameters, logprobs=True)
        with self._reading(reply):
            chosen = reply.choices[0]
            text = _written(chosen.message.content)
            text = chosen.message.refusal if text is None else text
            calls = [_call(c, self._clean) for c in chosen.message.tool_calls or ()]
            tokens = _tokens(lambda: ((t.token, t.logprob) for t in chosen.logprobs.content))
            clean = self._clean(text)
            found = _made(request, index, clean, chosen.finish_reason, _usage(reply), tokens, calls)
        if listener.wants_text and found.completion is not None:
            listener.text(request, index, found.completion.text)
        return found

    def _stream(
        self, request: Request, index: int, listener: Listener, parameters: dict[str, Any]
    ) -> Sample | None:
        """The answer in pieces; None from an endpoint that gives no pieces."""
        import openai

        try:
            stream = self._call(
                self._client.chat.completions.with_raw_response.create,
                **parameters,
                stream=True,
                stream_options={"include_usage": True},
            ).parse(to=openai.Stream[object])
        except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
            if re.search(r"\bstream(?:ing)?\b", _said(error), re.I):
                return None
            raise
        text, reason, usage, pieces, shown = "", None, Usage(), 0, Pieces(self._hidden_in_replies)
        try:
            with contextlib.closing(stream):
                for chunk in map(_rows, stream):
                    pieces += 1
                    usage = _usage(chunk) if chunk.usage is not None else usage
                    # The last chunk has usage alone.
                    for chosen in chunk.choices[:1]:
                        piece = chosen.delta.content or ""
                        text, reason = text + piece, chosen.finish_reason or reason
                        if now := shown(piece):
                            listener.text(request, index, self._clean(now) or "")
        except UNLIKE as error:
            problem = f"{self._client.base_url} answered, but not with pieces of a completion"
            raise _Unread(usage, problem) from error
        # A connection that closes early looks like an end: only a reason makes it one.
        if not pieces:
            return None
        if reason is None:
            raise _Unread(usage, "the endpoint's answer cannot be read (the stream broke off)")
        if now := shown("", last=True):
            listener.text(request, index, self._clean(now) or "")
        return _made(request, index, self._clean(text), reason, usage)

    def _ask_text(self, request: Request, index: int, listener: Listener) -> Sample:
        """The continuation of a raw text, which no template touches."""
        parameters = self._parameters(request, index) | {"prompt": request.prompt.text}
        reply = self._whole(self._client.completions, **parameters, logprobs=1)
        with self._reading(reply):
            chosen = reply.choices[0]
            told = chosen.logprobs
            tokens = _tokens(lambda: zip(told.tokens, told.token_logprobs, strict=True))
            text = self._clean(chosen.text)
            return _made(request, index, text, chosen.finish_reason, _usage(reply), tokens)

    def _first_tokens(self, prompt: Prompt) -> tuple[dict[str, float], Usage]:
        """The text and log-prob of each likely first token, and what they cost."""
        if prompt.text is not None:
            endpoint = self._client.completions
            reply = self._whole(endpoint, prompt=prompt.text, max_tokens=1, temperature=1.0, logprobs=5)
            with self._reading(reply):
                told = reply.choices[0].logprobs
                most = {} if told is None else (told.top_logprobs or [{}])[0]
                return dict(map(_token, most.keys(), most.values())), _usage(reply)
        reply = self._whole(
            self._client.chat.completions,
            **_conversation(prompt, {}),
            max_tokens=1,
            temperature=1.0,
            logprobs=True,
            top_logprobs=TOP,
        )
        with self._reading(reply):
            told = reply.choices[0].logprobs
            first = (told.content or []) if told is not None else []
            top = (first[0].top_logprobs or ()) if first else ()
            return dict(_token(t.token, t.logprob) for t in top), _usage(reply)


@samplers.register("openai")
def open_openai(context: SamplerContext) -> OpenAISampler:
    """Opens the endpoint at the address of the settings, or of the environment."""
    # `kilter chat NAME --sampler openai` names the model where other samplers name their weights.
    s = context.spec
    model = s.model or context.model
    if not model:
        fix = "give the endpoint's name of the model"
        raise UserError(f"{context.where}.model", None, "is required by openai", fix)
    return OpenAISampler(model, s.url, None, s.timeout, s.concurrency, s.retries, context.where)


def _made(
    request: Request,
    index: int,
    text: str | None,
    reason: str | None,
    usage: Usage,
    tokens: Sequence[tuple[str, float]] = (),
    calls: Sequence[dict[str, Any]] = (),
) -> Sample:
    """A sample from what the endpoint said."""
    # Its log-probs stand beside the completion, not in it: without token ids they fit no tokens of ours.
    if text is None and not calls:
        return Sample(request, index, None, f"the endpoint sent no text (finish_reason {reason})", usage)
    # The space in front belongs to a begun answer that the text goes on from.
    text = (text or "").rstrip() if request.prompt.begun else (text or "").strip()
    finish: Literal["stop", "length"] = "length" if str(reason) in CUT else "stop"
    turns = (Message(role="assistant", content=text, tool_calls=list(calls)),) if calls else ()
    completion = Completion(text, finish_reason=finish, turns=turns)
    return Sample(request, index, completion, "", usage, tuple(tokens))


def _conversation(prompt: Prompt, extra: Mapping[str, Any]) -> dict[str, Any]:
    """What a chat endpoint is asked: turns, tools, and what the chat template takes beside them.

    extra: further fields outside OpenAI's own. A begun answer is gone on from, as vLLM calls it.
    """
    turns = [{k: v for k, v in m.items() if k != "train"} for m in prompt.messages]
    for turn in turns:
        if "tool_calls" in turn:
            turn["tool_calls"] = [_as_text(c) for c in cast(list[dict[str, Any]], turn["tool_calls"])]
    fields = dict(extra)
    if prompt.begun:
        fields |= {"add_generation_prompt": False, "continue_final_message": True}
    if prompt.template_kwargs:
        fields["chat_template_kwargs"] = dict(prompt.template_kwargs)
    return {
        "messages": turns,
        **({"tools": [dict(t) for t in prompt.tools]} if prompt.tools else {}),
        **({"extra_body": fields} if fields else {}),
    }


def _as_text(call: Mapping[str, Any]) -> dict[str, Any]:
    """A call with its arguments as JSON text, as OpenAI sends and takes them."""
    function = call["function"]
    return {**call, "function": {**function, "arguments": json.dumps(function["arguments"])}}


def _call(call: Any, clean: Callable[[str | None], str | None]) -> dict[str, Any]:
    """A call that an endpoint made, with its arguments read. Raises ValueError for what is not JSON."""
    arguments = json.loads(clean(call.function.arguments) or "{}")
    made = {"type": "function", "function": {"name": call.function.name, "arguments": arguments}}
    return made | ({"id": call.id} if call.id else {})


def _rows(told: Any) -> Any:
    """A reply's JSON, with each object as a _Row."""
    if isinstance(told, list):
        return [_rows(part) for part in told]
    return _Row({k: _rows(v) for k, v in told.items()}) if isinstance(told, dict) else told


def _tokens(told: Callable[[], Iterable[tuple[Any, Any]]]) -> tuple[tuple[str, float], ...]:
    """Tokens of an answer with their log-probs; none where they cannot be read, for the text stands alone."""
    try:
        return tuple(_token(text, logp) for text, logp in told())
    except (AttributeError, TypeError, ValueError):
        return ()


def _token(text: Any, logp: Any) -> tuple[str, float]:
    """A token and its log-prob. Raises ValueError where one of them is something else."""
    # True is an int to Python, and NaN fails the comparison.
    number = isinstance(logp, int | float) and not isinstance(logp, bool)
    if not (isinstance(text, str) and number and logp <= ROUNDED):
        raise ValueError(f"{str(logp)[:20]} is not the log-prob of a token")
    # Of a token that cannot be, some say -inf and some a whole number that no float holds.
    return text, float(max(logp, LEAST))


def _usage(reply: Any) -> Usage:
    """Tokens as the endpoint counts them; 0 where it does not, or not in whole numbers of a likely size."""
    told = getattr(reply, "usage", None)
    counts = (getattr(told, "prompt_tokens", None), getattr(told, "completion_tokens", None))
    # A count that is not one would corrupt the bill: the tokens are then as good as not told.
    read, written = (n if type(n) is int and 0 <= n <= MOST else None for n in counts)
    return Usage() if read is None or written is None else Usage(read, written)


def _seed(request: Request, index: int) -> int:
    """31 bits from (seed, prompt, sample) alone, so that a repeated request asks for the same answer."""
    what = f"{request.params.seed}|{index}|{request.prompt.text}|{request.prompt.messages}"
    return int.from_bytes(hashlib.sha256(what.encode()).digest()[:4], "big") >> 1


def _yields(name: str, value: Any) -> bool:
    """Whether an endpoint that refuses a parameter may be asked without it, or by another name or number."""
    # Temperature 0 asks for the most likely answer, which no endpoint promises.
    return (
        name in OPTIONAL or name in RENAMED or value == USUAL.get(name) or (name, value) == ("temperature", 0)
    )


def _written(content: Any) -> str | None:
    """The text of an answer; of one in parts, such as a thought and a text, the texts."""
    if not isinstance(content, list):
        return cast("str | None", content)
    texts = [part["text"] for part in content if isinstance(part, Mapping) and part.get("type") == "text"]
    return "".join(texts)


def _said(error: openai.APIStatusError) -> str:
    """What an endpoint says of a request that it refuses, without what it was asked."""

    def words(value: Any) -> Iterator[str]:
        if isinstance(value, Mapping):
            for key, part in value.items():
                yield from () if key in ECHOES else words(part)
        elif isinstance(value, list):
            for part in value:
                yield from words(part)
        elif isinstance(value, str):
            yield value

    return " ".join([str(error), *words(error.body)])
