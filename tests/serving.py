"""Servers for tests: the real app with real models, on a socket of its own."""

import asyncio
import socket
import sqlite3
import threading
import time
from collections.abc import Awaitable, Callable, Generator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx2
import uvicorn
from fastapi import FastAPI
from sqlalchemy.ext.asyncio import AsyncSession

from galley.core.caller import SCOPES
from galley.core.security import make_key
from galley.core.settings import Settings
from galley.db.keys import create_key
from galley.db.session import visit_database
from galley.db.tables import Tier, id_bytes
from galley.db.users import create_user
from galley.main import create_app
from galley.routers.protocol import make_protocol
from tests.sqlite_file import put_sqlite

LOADING_S = 60.0  # the longest that the embedded models may take


@dataclass
class LiveServer:
    """A running server, its first key, and a client that uses it."""

    url: str
    key: str
    settings: Settings
    app: FastAPI
    client: httpx2.Client = field(init=False)

    def __post_init__(self) -> None:
        headers = {"authorization": f"Bearer {self.key}"}
        self.client = httpx2.Client(base_url=self.url, headers=headers, timeout=60)

    def post(self, path: str, **json: Any) -> httpx2.Response:
        """Post `json` with the server's key."""
        return self.client.post(path, json=json)

    def row(self, answer: httpx2.Response) -> dict[str, Any]:
        """What the ledger says of the request behind `answer`, once it is settled."""
        query = "SELECT * FROM api_requests WHERE request_id = ? AND state != 'open'"
        end = time.monotonic() + 5
        with closing(sqlite3.connect(self.settings.data_dir / "galley.db")) as database:
            database.row_factory = sqlite3.Row
            while True:  # refusals are written without anybody waiting for it
                found = database.execute(query, [id_bytes(answer.headers["request-id"])]).fetchone()
                if found is not None:
                    return dict(found)
                assert time.monotonic() < end, "it was never settled"
                time.sleep(0.01)

    def key_of_new_user(self, *, tier: str = "enterprise", limits: Any = None) -> str:
        """Add a user with a key."""
        key = make_key()

        async def add(session: AsyncSession) -> None:
            user = await create_user(
                session, email=f"{key}@example.org".lower(), name="New", tier=tier
            )
            user.limits = limits or {}
            await create_key(session, user_id=user.id, name="first", key=key)

        self.write(add)
        return key

    def new_tier(self, **fields: Any) -> str:
        """Add a tier without limits, but for what `fields` say."""
        name = f"tier-{uuid4().hex}"
        known = {"scopes": list(SCOPES), "models": None, "limits": {}, "model_limits": {}}

        async def add(session: AsyncSession) -> None:
            session.add(Tier(name=name, **known | fields))

        self.write(add)
        return name

    def write(self, change: Callable[[AsyncSession], Awaitable[None]]) -> None:
        """Change the database beside the server."""

        async def run() -> None:
            url = self.settings.database_url.get_secret_value()
            async with visit_database(url) as sessions, sessions.begin() as session:
                await change(session)

        asyncio.run(run())

    def until_ready(self) -> None:
        """Wait until every model is loaded."""
        end = time.monotonic() + LOADING_S
        while (health := self.client.get("/health")).json()["status"] != "ok":
            assert time.monotonic() < end, health.text
            assert "loading" in health.json()["parts"].values(), health.text
            time.sleep(0.05)


def make_settings(data_dir: Path, models_dir: Path, **changes: Any) -> Settings:
    """Settings of a server that shares nothing but the models' files."""
    given: dict[str, Any] = {
        "data_dir": data_dir,
        "models_dir": models_dir,
        "bootstrap_key": make_key(),
        "cache_bytes": 0,  # or who asks the same again tests nothing
        "embedded_documents": False,  # or every server is busy for its first ten seconds
        **changes,
    }
    return Settings(**given)


@contextmanager
def serving(settings: Settings) -> Generator[LiveServer]:
    """Run a server on a free port, in a thread with an event loop of its own."""
    put_sqlite(settings.database_url.get_secret_value())
    app = create_app(settings)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        config = uvicorn.Config(
            app,
            http=make_protocol(settings),
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,
            timeout_graceful_shutdown=5,
        )
        server = uvicorn.Server(config)
        failures: list[BaseException] = []

        def run() -> None:
            try:
                with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
                    runner.run(server.serve(sockets=[listener]))
            except BaseException as error:
                failures.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        try:
            while not server.started:
                assert thread.is_alive(), failures
                time.sleep(0.01)
            assert settings.bootstrap_key is not None
            live = LiveServer(
                f"http://127.0.0.1:{listener.getsockname()[1]}",
                settings.bootstrap_key.get_secret_value(),
                settings,
                app,
            )
            with live.client:
                yield live
        finally:
            server.should_exit = True
            thread.join()
