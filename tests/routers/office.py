"""A server without models, its admin, and people who come in."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
from fastapi import FastAPI

from galley.core.settings import Settings
from galley.main import create_app
from galley.routers import side_door
from galley.runtime import Runtime, open_runtime
from tests.serving import make_settings
from tests.sqlite_file import put_sqlite

Client = httpx2.AsyncClient
_closed: list[FastAPI] = []  # apps that were, and may be again


@dataclass
class Person:
    """A user and their first key."""

    id: str
    key_id: str
    client: Client


class Office:
    """A running app, and whoever knocks."""

    def __init__(self, app: FastAPI) -> None:
        self._app = app
        self.runtime: Runtime = app.state.runtime
        bootstrap_key = self.runtime.settings.bootstrap_key
        assert bootstrap_key is not None
        self.admin = self.knock(bootstrap_key.get_secret_value())

    def knock(self, key: str) -> Client:
        """A client that comes with `key`."""
        return httpx2.AsyncClient(
            transport=httpx2.ASGITransport(self._app),
            base_url="http://galley",
            headers={"authorization": f"Bearer {key}"},
        )

    async def hire(self, email: str, **fields: Any) -> Person:
        """Add a user with a key that may do all that they may."""
        body = {"email": email, "name": "Someone"} | fields
        user = (await self.admin.post("/v1/admin/users", json=body)).json()
        made = await self.admin.post(f"/v1/admin/users/{user['id']}/keys", json={"name": "first"})
        assert made.status_code == 200, made.text
        return Person(user["id"], made.json()["id"], self.knock(made.json()["key"]))

    async def narrow(self, person: Client, *scopes: str) -> Client:
        """A client with another key of the same user, which has `scopes` alone."""
        made = await person.post("/v1/keys", json={"name": "narrow", "scopes": scopes})
        assert made.status_code == 200, made.text
        return self.knock(made.json()["key"])

    async def audit(self) -> list[dict[str, Any]]:
        """What admins did, the latest first."""
        return (await self.admin.get("/v1/admin/audit")).json()["data"]


@asynccontextmanager
async def open_office(folder: Path) -> AsyncGenerator[Office]:
    """Run an app without models."""
    async with open_app(make_settings(folder, folder, embedded_models=False)) as office:
        yield office


@asynccontextmanager
async def open_app(settings: Settings) -> AsyncGenerator[Office]:
    """Run an app as `settings` say.

    It may have run before: FastAPI prepares a route when it is asked for first, which takes longer
    than most tests, and all that an app knows is in its runtime.
    """
    put_sqlite(settings.database_url.get_secret_value())
    app = _closed.pop() if _closed else create_app(settings)
    async with open_runtime(settings, side_door.answer) as app.state.runtime:
        yield Office(app)
    del app.state.runtime
    _closed.append(app)
