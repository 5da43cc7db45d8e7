import threading
from collections.abc import Iterator

import anyio
import pytest

from galley.services.passwords import AT_ONCE, Passwords

pytestmark = pytest.mark.anyio


@pytest.fixture
def passwords() -> Iterator[Passwords]:
    with Passwords() as passwords:
        yield passwords


def hashing_threads() -> set[threading.Thread]:
    return {t for t in threading.enumerate() if t.name.startswith("passwords")}


async def test_a_password_is_kept_as_argon2id_and_known_again(passwords: Passwords):
    stored = await passwords.hash("correct horse battery")

    assert stored.startswith("$argon2id$")
    assert "horse" not in stored
    assert await passwords.verify("correct horse battery", stored)
    assert not await passwords.verify("correct horse batter", stored)
    assert not await passwords.verify("correct horse battery", None)


async def test_no_two_hashes_of_a_password_are_the_same(passwords: Passwords):
    assert await passwords.hash("twice") != await passwords.hash("twice")


async def test_many_passwords_are_hashed_a_few_at_a_time_while_the_loop_goes_on(
    passwords: Passwords,
):
    ticks, hashed = 0, 0
    others = hashing_threads()

    async def one() -> None:
        nonlocal hashed
        await passwords.hash("many")
        hashed += 1

    async with anyio.create_task_group() as group:
        for _ in range(6):
            group.start_soon(one)
        while hashed < 6:
            ticks += 1
            await anyio.sleep(0.001)
            assert len(hashing_threads() - others) <= AT_ONCE

    assert ticks > 10
