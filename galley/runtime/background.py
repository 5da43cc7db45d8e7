"""Work that goes on beside requests, and ends with the runtime."""

import asyncio
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from typing import Any


def run(work: Coroutine[Any, Any, None], stack: AsyncExitStack) -> None:
    """Start background work that ends with the runtime."""
    stack.push_async_callback(_cancel, asyncio.create_task(work))


async def _cancel(task: "asyncio.Task[None]") -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
