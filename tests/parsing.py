"""Request bodies read without a server around them."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from galley.dialects.base import Dialect
from galley.routers.parsing import BIG, parse
from galley.schemas.base import Request

R = TypeVar("R", bound=Request)

_HEAVY = ThreadPoolExecutor(1)


def parse_now(shape: type[R], body: bytes, dialect: Dialect) -> R:
    """Parse `body`; what is not big without an event loop, which takes longer than the parser."""
    parsing = parse(shape, body, dialect, _HEAVY)
    if len(body) > BIG:
        return asyncio.run(parsing)
    try:
        parsing.send(None)
    except StopIteration as done:
        return done.value
    raise AssertionError("it waits for something")
