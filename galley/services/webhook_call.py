"""One call of a webhook: the name is looked up once, and what was looked at is connected to."""

import asyncio
import socket
from collections.abc import Mapping
from typing import TYPE_CHECKING

from galley import __version__
from galley.services.webhooks import WebhookGuard, literal

if TYPE_CHECKING:
    from aiohttp.abc import AbstractResolver, ResolveResult

TIMEOUT_S = 10.0
READ = 1024
"""Bytes of an answer that are read: its status is all that counts."""


async def post(
    url: str,
    body: bytes,
    headers: Mapping[str, str],
    guard: WebhookGuard,
    *,
    timeout_s: float = TIMEOUT_S,
) -> int:
    """Send `body`, following nothing; return the status of the answer.

    Raises:
        BadRequestError: the URL leads where webhooks may not go.
        OSError: it cannot be reached, or not in time.
    """
    import aiohttp  # with all that it needs, seven megabytes
    from yarl import URL

    try:
        target = URL(url)
    except ValueError as error:
        raise ConnectionError(f"no URL: {error}") from error
    guard.check(str(target))  # as it is asked for, and not only as it was written
    is_tls = target.scheme == "https"
    connector = aiohttp.TCPConnector(
        resolver=_checked(guard, is_tls=is_tls), use_dns_cache=False, force_close=True, limit=1
    )
    timeout = aiohttp.ClientTimeout(total=timeout_s)
    sent = {"content-type": "application/json", "user-agent": f"galley/{__version__}", **headers}
    try:
        async with (
            aiohttp.ClientSession(
                connector=connector, timeout=timeout, cookie_jar=aiohttp.DummyCookieJar(),
                max_line_size=8190, auto_decompress=False,
            ) as session,
            session.post(target, data=body, headers=sent, allow_redirects=False) as answer,
        ):  # fmt: skip
            await answer.content.read(READ)
            return answer.status
    except TimeoutError:
        raise ConnectionError(f"no answer within {timeout_s:g} s") from None
    except aiohttp.ClientResponseError as error:  # in full it has the URL, which may be secret
        raise ConnectionError(f"{type(error).__name__}: {error.message}") from error
    except (aiohttp.ClientError, UnicodeError) as error:  # or a name that cannot be one
        raise ConnectionError(f"{type(error).__name__}: {error}") from error


def _checked(guard: WebhookGuard, *, is_tls: bool) -> "AbstractResolver":
    """Make what looks names up for one call, and refuses those that lead elsewhere."""
    from aiohttp.abc import AbstractResolver

    class Checked(AbstractResolver):
        async def resolve(
            self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
        ) -> "list[ResolveResult]":
            if (known := literal(host)) is not None:
                found = {(_family(str(known)), str(known))}
            else:
                loop = asyncio.get_running_loop()
                infos = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, family=family)
                found = {(info[0], str(info[4][0])) for info in infos}
            guard.permit_all((address for _, address in found), is_tls=is_tls)
            return [
                {
                    "hostname": host, "host": address, "port": port, "family": kind,
                    "proto": 0, "flags": socket.AI_NUMERICHOST,
                }
                for kind, address in sorted(found)
            ]  # fmt: skip

        async def close(self) -> None:
            """Nothing is kept."""

    return Checked()


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET
