"""Whether another server answers."""

import asyncio
import socket

import pytest

from galley.engines.lookout import Lookout
from tests.loopback import scripted_server

pytestmark = pytest.mark.anyio


async def test_a_server_that_answers_is_no_problem() -> None:
    with scripted_server() as server:
        lookout = Lookout(f"{server.base_url}/v1")

        await lookout.look()

    assert lookout.problem is None


async def test_a_server_that_is_not_there_is_a_problem_until_it_comes() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    lookout = Lookout(f"http://user:secret@127.0.0.1:{port}/v1", pause_s=0.01)

    await lookout.look()
    missed = lookout.problem
    with socket.create_server(("127.0.0.1", port)):
        async with asyncio.timeout(10):
            while lookout.problem is not None:  # noqa: ASYNC110 - it is nobody's duty to tell
                await asyncio.sleep(0.01)

    assert missed == "its server does not answer"
    await lookout.aclose()


async def test_who_is_closed_looks_no_more() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    lookout = Lookout(f"http://127.0.0.1:{port}", pause_s=0.01)
    before = asyncio.all_tasks()
    await lookout.look()
    looking = asyncio.all_tasks() - before

    await lookout.aclose()

    assert looking
    assert all(task.done() for task in looking)
