"""Whether another server answers: learned from what is asked of it, and looked up while it does
not."""

import asyncio
from contextlib import suppress

from yarl import URL

CONNECT_S = 5.0  # the longest that a connection may take
PAUSE_S = 2.0  # between two looks


class Lookout:
    """Watches a server that others run.

    Args:
        url: its address.
        pause_s: between two looks while nothing answers.
    """

    def __init__(self, url: str, pause_s: float = PAUSE_S) -> None:
        address = URL(url)
        self._host, self._port = address.host or "", address.port or 80
        self._pause_s = pause_s
        self._looking: asyncio.Task[None] | None = None
        self.problem: str | None = None
        """That it is not there, without its address, for everybody to read; or None."""

    async def look(self) -> None:
        """Look whether it is there, and while it is not, look again now and then."""
        if not await self._is_there():
            self.missed()

    def missed(self) -> None:
        """Take note that nobody was there."""
        self.problem = "its server does not answer"
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look_again())

    async def aclose(self) -> None:
        """Look no more."""
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)

    async def _look_again(self) -> None:
        while self.problem is not None:
            await asyncio.sleep(self._pause_s)
            if await self._is_there():
                self.problem = None

    async def _is_there(self) -> bool:
        try:
            async with asyncio.timeout(CONNECT_S):
                _, writer = await asyncio.open_connection(self._host, self._port)
        except (OSError, TimeoutError):
            return False
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()
        return True
