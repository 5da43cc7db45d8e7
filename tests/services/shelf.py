"""The services of documents on a runtime with real models, and a job's run to look at."""

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from galley.core.caller import SCOPES, Caller
from galley.core.catalogue import EMBEDDED_MODELS
from galley.db.tables import new_id
from galley.routers import side_door
from galley.runtime import Runtime, open_runtime
from galley.runtime.documents import Documents, open_documents
from galley.services.charge import Arrival
from galley.services.dispatch import Dispatch
from galley.services.documents import Arriving, Put
from galley.services.job_kinds import JobRun
from tests.serving import make_settings

MODEL = "all-minilm-l6-v2"


class Told(list[tuple[int, int | None, str | None]]):
    """What a job told of its progress."""

    async def __call__(self, done: int, total: int | None, message: str | None) -> None:
        self.append((done, total, message))


class Run(JobRun):
    """One attempt at a job, to look at."""

    def __init__(
        self, caller: Caller, params: Mapping[str, Any] | None = None, *, attempt: int = 1
    ) -> None:
        super().__init__(new_id(), caller, params or {}, attempt, Told())

    @property
    def told(self) -> Told:
        assert isinstance(self.report, Told)
        return self.report


@dataclass
class Shelf:
    """Documents whose jobs are made, and left to the test to be done."""

    runtime: Runtime
    documents: Documents
    owner: Caller
    submitted: list[Sequence[str]]
    folder: Path

    async def add(self, content: bytes, name: str, *, background: bool = True) -> Put:
        """Add a file for the owner, as a request of its own."""
        path = self.folder / new_id()
        path.write_bytes(content)
        given = Arriving(path, name, background=background)
        meter = self.runtime.meter
        async with meter.hold(Arrival(new_id(), None), self.owner, "documents") as charge:
            put = await self.documents.service.add(charge, given, None)
            await meter.settle(charge)
        return put


@asynccontextmanager
async def open_shelf(data_dir: Path, models_dir: Path) -> AsyncGenerator[Shelf]:
    """Open one, its models loaded."""
    settings = make_settings(
        data_dir, models_dir, embedded_models=False, models={MODEL: EMBEDDED_MODELS[MODEL]}
    )
    submitted: list[Sequence[str]] = []

    async def submit(caller: Caller, document_ids: Sequence[str]) -> str:
        submitted.append(document_ids)
        return "job"

    async with open_runtime(settings, side_door.answer) as runtime, AsyncExitStack() as stack:
        while runtime.models.find(MODEL).state == "loading":  # noqa: ASYNC110 - it has no event
            await asyncio.sleep(0.02)
        assert settings.bootstrap_key is not None
        admin = await runtime.accounts.authenticate(settings.bootstrap_key.get_secret_value())
        apart = data_dir / "shelf"
        apart.mkdir()
        documents = await open_documents(
            make_settings(apart, models_dir), runtime.database,
            runtime.models, runtime.meter, Dispatch(), stack, submit,
        )  # fmt: skip
        owner = Caller(admin.user_id, admin.key_id, scopes=frozenset(SCOPES))
        yield Shelf(runtime, documents, owner, submitted, apart)
