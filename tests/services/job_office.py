"""An office of jobs over one database: users, kinds of jobs made by the test, and who does them."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from galley.core.caller import Caller
from galley.core.security import hash_key, make_key
from galley.db.keys import create_key, find_holders
from galley.db.session import Database
from galley.db.tables import utc_now
from galley.db.users import create_user
from galley.schemas.base import Request
from galley.schemas.jobs import JobReply, WebhookTarget
from galley.services.accounts import Accounts, caller_of
from galley.services.job_attempt import Desk
from galley.services.job_bell import JobBell
from galley.services.job_feed import JobFeed
from galley.services.job_keeper import JobKeeper
from galley.services.job_kinds import JobRun, Kind
from galley.services.job_runner import JobRunner
from galley.services.jobs import Accepted, JobService
from galley.services.webhooks import WebhookGuard

NOW = datetime(2026, 11, 21, 12, 30, tzinfo=UTC)

Work = Callable[[JobRun], Awaitable[dict[str, Any]]]


class Params(Request):
    """What the jobs of tests are told."""

    name: str = ""
    count: int = 0


class JobOffice:
    """Jobs whose one kind, `export`, is done by `work`; `now` is what time it is."""

    def __init__(self, database: Database, work: Work, **more: Any) -> None:
        self.now = NOW
        self.database = database
        self.accounts = Accounts(database.sessions)
        self.bell = JobBell()
        self.keeper = JobKeeper(database.sessions, clock=self._tell)
        self.finished: list[tuple[str, str]] = []
        self.kinds: Mapping[str, Kind] = {"export": Kind(work, Params, **more)}
        self.runner = self.new_runner()
        self.service = self.new_service()
        self.feed = JobFeed(self.service, self.bell)

    def _tell(self) -> datetime:
        return self.now

    def new_runner(self, **settings: int) -> JobRunner:
        """Somebody else who does jobs; the pauses between attempts are the longest."""
        desk = Desk(
            self.database.sessions, self.accounts, self.bell,
            lambda kind, status: self.finished.append((kind, status)),
            clock=self._tell, draw=lambda: 1.0,
        )  # fmt: skip
        known = {"concurrency": 4, "most_running": 4} | settings
        return JobRunner(
            self.database.sessions, self.kinds, desk, self.keeper, clock=self._tell, **known
        )

    def new_service(self, *, most_queued: int = 100) -> JobService:
        """Whom users ask."""
        return JobService(
            self.database.sessions, self.kinds, self.runner, WebhookGuard(), self.bell,
            most_queued=most_queued, clock=self._tell,
        )  # fmt: skip

    async def hire(self, name: str = "ada") -> Caller:
        """Add a user with a key."""
        key = make_key()
        async with self.database.sessions.begin() as session:
            user = await create_user(
                session, email=f"{name}@example.org", name=name, tier="enterprise"
            )
            await create_key(session, user_id=user.id, name="first", key=key)
        async with self.database.sessions() as session:
            found = await find_holders(session, [hash_key(key)], now=utc_now())
        row, user, tier = found[hash_key(key)]
        return caller_of(user, tier, row)

    async def submit(
        self, caller: Caller, webhook: WebhookTarget | None = None, **params: Any
    ) -> str:
        """Ask for a job; return its id. The clock goes on, so that later ones are due later."""
        made = await self.accept(caller, params, webhook=webhook)
        self.now += timedelta(milliseconds=1)
        return made.id

    async def accept(self, caller: Caller, params: Mapping[str, Any], **more: Any) -> Accepted:
        return await self.service.accept(caller, "export", params, **more)

    async def look(self, caller: Caller, job_id: str) -> JobReply:
        return await self.service.find(caller, job_id)


class Gate:
    """Work that waits to be let go on, and says when it began."""

    def __init__(self) -> None:
        self.begun = asyncio.Semaphore(0)
        self.opened = asyncio.Event()
        self.stopped = 0

    async def __call__(self, run: JobRun) -> dict[str, Any]:
        self.begun.release()
        try:
            await self.opened.wait()
        except asyncio.CancelledError:
            self.stopped += 1
            raise
        return {"attempt": run.attempt}
