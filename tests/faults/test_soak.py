"""Three minutes of everything at once: memory and open files stay where they were."""

import statistics
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest

from tests.lone_server import CHAT, HELLO, LoneServer, lone_server

SOAK_S, WARM_UP_S = 180.0, 45.0
MB = 1_000_000


@pytest.mark.slow
def test_three_minutes_of_load_leave_memory_and_open_files_as_they_were(tmp_path: Path) -> None:
    with lone_server(tmp_path) as server:
        process = server.node.running
        memory: list[int] = []
        files: list[int] = []
        with (
            server.load(each=4, pause_s=0.01) as load,
            again_and_again(server, hang_up),
            again_and_again(server, ask_for_what_is_not_there),
        ):
            time.sleep(WARM_UP_S)
            end = time.monotonic() + SOAK_S
            while time.monotonic() < end:
                memory.append(process.memory_info().rss)
                files.append(process.num_fds())
                time.sleep(1)
        states = server.states()

    third = len(memory) // 3
    first, last = statistics.median(memory[:third]), statistics.median(memory[-third:])
    assert load.failed == []
    assert {states[request_id] for request_id in load.whole} == {"completed"}
    assert "open" not in states.values()
    assert last - first <= max(20 * MB, first / 20), (first, last)
    assert statistics.median(files[-third:]) <= statistics.median(files[:third]) + 5


@contextmanager
def again_and_again(server: LoneServer, do: Callable[[httpx2.Client], None]) -> Generator[None]:
    """Do it for as long as the block lasts."""
    stop = threading.Event()

    def run() -> None:
        with server.client() as api:
            while not stop.wait(0.05):
                do(api)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def hang_up(api: httpx2.Client) -> None:
    """Leave in the middle of a stream."""
    with api.stream("POST", CHAT, json=HELLO | {"stream": True}) as answer:
        next(answer.iter_raw())


def ask_for_what_is_not_there(api: httpx2.Client) -> None:
    """Be refused in several ways."""
    api.post(CHAT, json=HELLO | {"model": "none"})
    api.post(CHAT, content=b"{")
    api.get("/v1/models", headers={"authorization": "Bearer none"})
