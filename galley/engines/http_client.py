"""How requests reach another server: by a pool of our own, or by aiohttp's (TLS)."""

from typing import Protocol

from galley.engines.http_patience import Exchange


class UnreachableError(OSError):
    """There is no connection to the server."""


class NotHttpError(OSError):
    """What the server says is not HTTP."""


class Answer(Protocol):
    """An answer whose status and headers have come; the body may still be under way."""

    status: int

    def header(self, name: str) -> str | None:
        """Return a header; `name` is in lower case."""
        ...

    async def readany(self) -> bytes:
        """Return what came of the body since the last call, or comes next; nothing at its end.

        Raises:
            OSError: the connection broke off, or nothing came in time (`TimeoutError`).
            NotHttpError: what comes is none of a body.
        """
        ...

    def is_eof(self) -> bool:
        """Whether all of it came and was read."""
        ...

    def set_exception(self, error: Exception) -> None:
        """Let whoever waits for more have `error`."""
        ...

    def close(self) -> None:
        """Keep the connection if the body was read to its end, else hang up."""
        ...


class Client(Protocol):
    """Connections to one server, kept for the next request."""

    @property
    def closed(self) -> bool:
        """Whether it was closed."""
        ...

    async def request(self, method: str, path: str, body: bytes, exchange: Exchange) -> Answer:
        """Send a request and wait for the headers of its answer, as long as `exchange` allows.

        A kept connection that turns out to be dead before anything was answered on it is replaced
        by another.

        Args:
            path: below the server's base URL.
        Raises:
            UnreachableError: there is no connection.
            OSError: it broke off, or nothing came in time (`TimeoutError`).
            NotHttpError: the answer is not HTTP.
        """
        ...

    async def aclose(self) -> None:
        """Close every connection, whatever is under way on it."""
        ...
