"""The server of `dragoman local`: the native model API's paths over the models of a registry."""

from __future__ import annotations

import asyncio
import re
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from types import MappingProxyType
from typing import Any

import msgspec
import uvicorn
from litestar import Litestar, Request, Response, get, post
from litestar.params import FromPath

from adapters.local.delivery import (
    problem_response,
    stream_response,
    while_connected,
    whole_response,
)
from adapters.local.packaged import PackageMissing
from adapters.local.problems import (
    LoadFailed,
    Loading,
    NotInstalled,
    Problem,
    TooLarge,
    Unhealthy,
    WrongTask,
)
from adapters.local.registry import Model, Operation, Question, Registry, Streamed, Whole
from adapters.local.replay import Replay, key
from adapters.local.warmup import State
from adapters.local.weights import WeightsMissing
from adapters.local.wishes import Wishes, parse_wishes

_SHUTDOWN_SECONDS = 1
_CLIENT_CLOSED_REQUEST = 499  # nginx's status; nobody is there to read it

_OPERATIONS = MappingProxyType(
    {
        "": Operation.PREDICT,
        "generate": Operation.GENERATE,
        "generate_stream": Operation.GENERATE_STREAM,
        "tokenize": Operation.TOKENIZE,
    }
)


_PIPELINE_ENDING = re.compile("(?P<id>.+)/pipeline/(?P<task>[^/]+)")


def create_app(models: Sequence[Model]) -> Litestar:
    """Return the app that serves `models`; the first one also answers at the root paths.

    The models load behind it, some when it starts and some when they are first asked for: until
    one is ready, it answers 503 with an estimate.
    """
    registry = Registry(models)
    desk = Desk(Replay())

    @post(["/", "/generate", "/generate_stream", "/tokenize"], status_code=200)
    async def ask_default(request: Request[Any, Any, Any]) -> Response[Any]:
        operation = _OPERATIONS[request.url.path.strip("/")]
        return await desk.ask(request, registry.default, operation)

    @post("/models/{path:path}", status_code=200)
    async def ask_model(request: Request[Any, Any, Any], path: FromPath[str]) -> Response[Any]:
        if named := _PIPELINE_ENDING.fullmatch(path.strip("/")):
            return await ask_pipeline(request, task=named["task"], model_id=named["id"])
        model_id, operation = _split(path, _OPERATIONS)
        return await desk.ask(request, registry.find(model_id), _OPERATIONS[operation])

    @post("/pipeline/{task:str}/{path:path}", status_code=200)
    async def ask_task(
        request: Request[Any, Any, Any], task: FromPath[str], path: FromPath[str]
    ) -> Response[Any]:
        return await ask_pipeline(request, task=task, model_id=path.strip("/"))

    async def ask_pipeline(
        request: Request[Any, Any, Any], *, task: str, model_id: str
    ) -> Response[Any]:
        model = registry.find(model_id)
        if task != model.task:
            raise WrongTask(model.id, task=model.task, asked=task)
        return await desk.ask(request, model, Operation.PREDICT)

    @get(["/info", "/health"])
    async def look_at_default(request: Request[Any, Any, Any]) -> Response[bytes]:
        return whole_response(_VIEWS[request.url.path.strip("/")](registry.default))

    @get("/models/{path:path}")
    async def look_at_model(path: FromPath[str]) -> Response[bytes]:
        model_id, view = _split(path, _VIEWS)
        return whole_response(_VIEWS[view](registry.find(model_id)))

    @get("/status/{path:path}")
    async def status(path: FromPath[str]) -> Response[bytes]:
        return whole_response(_status(registry.find(path.strip("/"))))

    return Litestar(
        [ask_default, ask_model, ask_task, look_at_default, look_at_model, status],
        lifespan=[_lifespan(registry)],
        exception_handlers={Problem: problem_response},
        request_max_body_size=max(model.body_limit_bytes for model in models),
        logging_config=None,
        openapi_config=None,
    )


def run(
    models: Sequence[Model], *, host: str = "127.0.0.1", port: int = 8090, fd: int | None = None
) -> None:
    """Serve until SIGTERM or SIGINT. `fd` is an inherited socket that listens already."""
    listener = socket.create_server((host, port)) if fd is None else socket.socket(fileno=fd)
    config = uvicorn.Config(
        create_app(models),
        log_config=None,
        access_log=False,
        lifespan="on",
        timeout_graceful_shutdown=_SHUTDOWN_SECONDS,
    )
    # uvicorn raises the signal again once it has shut down; with this handler that is an
    # ordinary end, with exit status 0.
    signal.signal(signal.SIGTERM, lambda *_: None)
    place = ":".join(map(str, listener.getsockname()[:2]))
    print(f"dragoman local listens on http://{place}", file=sys.stderr, flush=True)
    _Server(config, models).run(sockets=[listener])


class _Server(uvicorn.Server):
    """Stops the models before it waits for its connections, so that streams end at once."""

    def __init__(self, config: uvicorn.Config, models: Sequence[Model]) -> None:
        super().__init__(config)
        self._models = models

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for model in self._models:
            await asyncio.to_thread(model.close)
        await super().shutdown(sockets)


class Desk:
    """Answers one request: from memory, or by its model for as long as the client stays."""

    def __init__(self, replay: Replay) -> None:
        self._replay = replay

    async def ask(
        self, request: Request[Any, Any, Any], model: Model, operation: Operation
    ) -> Response[Any]:
        """Return the response of one POST. Raises Problem."""
        if operation not in model.operations:
            raise WrongTask(model.id, task=model.task, asked=operation)
        body = await request.body()
        if len(body) > model.body_limit_bytes:
            raise TooLarge(model.body_limit_bytes)
        wishes = parse_wishes(request.headers, body)
        with model.warmup.in_use():
            await _be_ready(model, wishes)
            return await self._answer(request, model, operation, body, wishes)

    async def _answer(
        self,
        request: Request[Any, Any, Any],
        model: Model,
        operation: Operation,
        body: bytes,
        wishes: Wishes,
    ) -> Response[Any]:
        kept_under = key(request.url.path, body) if wishes.use_cache else None
        if kept_under and (kept := self._replay.get(kept_under)):
            return whole_response(kept)
        content_type = request.headers.get("content-type", "")
        question = Question(operation=operation, body=body, content_type=content_type)
        answer = await while_connected(request, model.answer(question))
        return self._deliver(answer, kept_under)

    def _deliver(self, answer: Whole | Streamed | None, kept_under: bytes | None) -> Response[Any]:
        def keep(whole: Whole) -> None:
            if kept_under:
                self._replay.put(kept_under, whole)

        match answer:
            case None:
                return Response(content=b"", status_code=_CLIENT_CLOSED_REQUEST)
            case Streamed():
                return stream_response(answer, keep=keep)
            case Whole():
                keep(answer)
                return whole_response(answer)


async def _be_ready(model: Model, wishes: Wishes) -> None:
    """Return once `model` can answer; a cold one begins to load, unless that is not wished.

    Raises Loading, unless it may be waited for, and LoadFailed.
    """
    warmup = model.warmup
    if warmup.state is State.COLD and wishes.load_model:
        warmup.start()
    if wishes.wait_for_model:
        await warmup.finished()
    match warmup.state:
        case State.COLD | State.LOADING:
            raise Loading(model.id, estimated_seconds=warmup.estimated_seconds)
        case State.FAILED:
            raise _failed(model)


def _failed(model: Model) -> LoadFailed:
    failure = model.warmup.failure
    kind = NotInstalled if isinstance(failure, WeightsMissing | PackageMissing) else LoadFailed
    return kind(f"Model {model.id} could not be loaded: {failure}")


def _lifespan(registry: Registry) -> Callable[[Litestar], Any]:
    @asynccontextmanager
    async def lifespan(_app: Litestar) -> AsyncIterator[None]:
        for model in registry:
            if not model.warmup.is_on_demand:
                model.warmup.start()
        try:
            yield
        finally:
            for model in registry:
                await model.warmup.stop()
                await asyncio.to_thread(model.close)

    return lifespan


def _split(path: str, endings: Collection[str]) -> tuple[str, str]:
    """Return the model id and the ending of `path`, which is empty if it is none of `endings`."""
    head, _, tail = path.strip("/").rpartition("/")
    return (head, tail) if head and tail in endings else (path.strip("/"), "")


def _info(model: Model) -> Whole:
    """Return what text-generation-inference's `/info` tells, as far as the model has it."""
    body = {
        "model_id": model.id,
        "model_pipeline_tag": model.task,
        **model.info(),
        "router": "dragoman-local",
    }
    return Whole(body=msgspec.json.encode(body))


def _health(model: Model) -> Whole:
    if model.warmup.state is not State.READY:
        raise Unhealthy
    return Whole(body=b"", media_type="text/plain")


def _status(model: Model) -> Whole:
    """Return what the hosted service's `/status/{id}` told older clients. Raises LoadFailed."""
    if model.warmup.state is State.FAILED:
        raise _failed(model)
    is_ready = model.warmup.state is State.READY
    body = {
        "loaded": is_ready,
        "state": "Loaded" if is_ready else "Loadable",
        "compute_type": "cpu",
        "framework": model.framework,
    }
    return Whole(body=msgspec.json.encode(body))


_VIEWS: MappingProxyType[str, Callable[[Model], Whole]] = MappingProxyType(
    {"": _info, "info": _info, "health": _health}
)
