"""A server whose model answers at once: with everything on, or with the bare road alone.

The bare one parses, asks the model and writes the answer by the same code, and hears when a caller
hangs up. It knows no keys, limits, prices, metrics and ledger.

python -m benchmarks.road_server --port 8000 --data-dir folder --key gk_... [--bare]
"""

import argparse
import asyncio
from collections.abc import AsyncGenerator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import uvicorn
from fastapi import FastAPI
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from galley.core.caching import CacheControl
from galley.core.caller import Caller
from galley.core.catalogue import ModelSettings
from galley.core.heap import freeze_heap
from galley.core.logging import configure_logging
from galley.core.settings import Settings
from galley.db.tables import new_id
from galley.dialects import openai
from galley.engines.base import ChatEngine, Engine
from galley.main import create_app
from galley.routers.bodies import BodyRoom, read_body
from galley.routers.chat import create_chat_completion
from galley.routers.front_door import MOST_BODY_BYTES, Call
from galley.routers.hangup import Listening
from galley.routers.middleware import RequestMiddleware
from galley.routers.protocol import make_protocol
from galley.runtime import Runtime
from galley.schemas.chat import ChatRequest
from galley.schemas.completions import CompletionRequest
from galley.schemas.delta import Delta, Usage
from galley.services.caching import AnswerCache
from galley.services.charge import Charge
from galley.services.chat import ChatService
from galley.services.dispatch import Attempt, Dispatch
from galley.services.grounding import GroundingService
from galley.services.metering import Meter
from galley.services.models import Models
from galley.services.pictures import PictureService
from galley.stores.cache_memory import MemoryCache

MODEL = "quick"
ANSWER = "It depends on what you mean by that, but most people would say that it does. " * 4
USED = Usage(prompt_tokens=100, completion_tokens=80)


class QuickEngine:
    """Has the answer before it is asked."""

    hardware = "none"
    problem: str | None = None
    slots = 256

    async def check(self, request: ChatRequest | CompletionRequest) -> int:
        return USED.prompt_tokens

    async def count(self, request: ChatRequest) -> int:
        return USED.prompt_tokens

    async def stream(
        self, request: ChatRequest | CompletionRequest, *, choice: int = 0, cache_salt: str = ""
    ) -> AsyncGenerator[list[Delta]]:
        yield [Delta(index=choice, text=ANSWER, tokens=USED.completion_tokens)]
        yield [Delta(index=choice, finish_reason="stop", usage=USED)]

    async def aclose(self) -> None:
        pass


async def _open_quick(_name: str, _model: ModelSettings) -> Engine:
    engine: ChatEngine = QuickEngine()
    return engine


def whole(settings: Settings) -> FastAPI:
    """Make Galley as it is, and put the quick model where it would have loaded one."""
    app = create_app(settings)
    open_runtime = app.router.lifespan_context

    @asynccontextmanager
    async def lifespan(app: Any) -> AsyncGenerator[None]:
        async with open_runtime(app):
            models: Models = app.state.runtime.models
            while any(model.state == "loading" for model in models.all()):  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(0.01)
            await models.load(_open_quick)
            freeze_heap()
            yield

    app.router.lifespan_context = lifespan
    return app


def bare(settings: Settings) -> FastAPI:
    """Make the least that answers the same request with the same bytes."""
    models = Models(settings.catalogue)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncGenerator[None]:
        await models.load(_open_quick)
        freeze_heap()
        yield

    app = FastAPI(lifespan=lifespan)
    app.add_route("/health/ready", lambda _: Response())
    app.add_middleware(
        _BareDoor,
        settings=settings,
        chat=ChatService(
            models,
            cast("Meter", _NoMeter()),
            Dispatch(),
            PictureService(models, ThreadPoolExecutor(1)),
            AnswerCache(MemoryCache(0), lambda: None, ttl_s=1),
            cast("GroundingService", None),  # nobody asks for documents here
            ThreadPoolExecutor(1),
        ),
    )
    app.add_middleware(RequestMiddleware)
    return app


class _BareDoor:
    def __init__(self, app: ASGIApp, settings: Settings, chat: ChatService) -> None:
        self._app = app
        self._settings = settings
        runtime = SimpleNamespace(
            settings=settings, chat=chat, meter=_NoMeter(), heavy=ThreadPoolExecutor(1)
        )
        self._runtime = cast("Runtime", runtime)
        self._room = BodyRoom(MOST_BODY_BYTES)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        charge = cast("Charge", _NoCharge())
        with self._room.hold() as take:
            body = await read_body(scope, receive, self._settings.body_limit, take)
            with Listening(receive, self._settings.request_timeout) as listening:
                call = Call(self._runtime, charge, openai, body, scope, send, listening)
                await create_chat_completion(call)


class _NoMeter:
    async def admit(self, charge: Charge, *models: str, **most: int) -> None:
        pass

    async def enter(self, charge: Charge, model: str) -> None:
        charge.record.served_model = model

    async def settle(self, charge: Charge) -> None:
        pass


class _NoCharge:
    """Keeps what an answer says of its own tokens, and nothing else."""

    cache_control = CacheControl()
    caller = Caller(user_id=new_id())
    grounding = None
    headers = ()
    image_input = None
    per_prompt = 1

    def __init__(self) -> None:
        self.attempts: list[Attempt] = []
        self.record = _Asked()
        self.usage = Usage()

    def begin(self) -> None:
        pass

    def add(self, delta: Delta) -> None:
        self.usage = delta.usage or self.usage


class _Asked:
    """What the service says of a request."""

    def __init__(self) -> None:
        self.arm: str | None = None
        self.cache: str | None = None
        self.ignored_fields: str | None = None
        self.model: str | None = None
        self.route: str | None = None
        self.served_model: str | None = None
        self.stream = False


def _serve() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--key", required=True)
    parser.add_argument("--bare", action="store_true")
    given = parser.parse_args()
    settings = Settings(
        data_dir=given.data_dir,
        bootstrap_key=given.key,
        embedded_models=False,
        models={MODEL: ModelSettings(kind="chat", source="path:/nowhere", default=True)},
    )
    configure_logging(settings)
    config = uvicorn.Config(
        bare(settings) if given.bare else whole(settings),
        port=given.port,
        http=make_protocol(settings),
        ws="none",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
    )
    uvicorn.Server(config).run()


if __name__ == "__main__":
    _serve()
