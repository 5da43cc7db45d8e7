"""Passwords: hashed with argon2id, on threads of their own."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Self

from pwdlib import PasswordHash

AT_ONCE = 2
"""A hash takes 64 MiB of memory and a core for 50 ms: that is on purpose, so not many at once."""


class Passwords:
    """Hashes passwords and checks them, a few at a time; the event loop only waits.

    Args:
        hasher: None is argon2id as recommended.

    Source: RFC 9106, Argon2, section 4 (second recommended option).
    """

    def __init__(self, hasher: PasswordHash | None = None) -> None:
        self._hasher = hasher or PasswordHash.recommended()
        self._threads = ThreadPoolExecutor(AT_ONCE, "passwords")

    async def hash(self, password: str) -> str:
        """Return what is stored in place of `password`."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, self._hasher.hash, password)

    async def verify(self, password: str, stored: str | None) -> bool:
        """Tell whether `stored` was made of `password`.

        Where nothing is stored the answer is no, after the same work: the time it takes does not
        tell who has a password here.
        """
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, self._verify, password, stored)

    def close(self) -> None:
        """End the threads, and what still waits for them."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _verify(self, password: str, stored: str | None) -> bool:
        if stored is None:
            self._hasher.hash(password)
            return False
        return self._hasher.verify(password, stored)
