"""When a server is asked, and when it is given a rest."""

import pytest

from galley.services.breaker import FAILURES, LONGEST_PAUSE_S, Breaker


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def breaker(clock: Clock) -> Breaker:
    return Breaker(clock=clock)


def fail(breaker: Breaker, times: int = FAILURES) -> None:
    for _ in range(times):
        breaker.begin()
        breaker.failed()
        breaker.left()


def succeed(breaker: Breaker, times: int = 1) -> None:
    for _ in range(times):
        breaker.begin()
        breaker.answered()
        breaker.succeeded()


def test_it_opens_when_half_of_the_last_calls_failed(breaker: Breaker) -> None:
    succeed(breaker, FAILURES + 1)
    fail(breaker, FAILURES)
    assert breaker.state == "closed"

    fail(breaker, 1)

    assert breaker.state == "open"
    assert not breaker.admits


def test_a_few_failures_open_nothing(breaker: Breaker) -> None:
    fail(breaker, FAILURES - 1)

    assert breaker.admits


def test_failures_of_long_ago_are_forgotten(breaker: Breaker, clock: Clock) -> None:
    fail(breaker, FAILURES - 1)
    clock.now += 31

    fail(breaker, 1)

    assert breaker.state == "closed"


def test_after_a_pause_one_call_goes_through_and_closes_it_by_answering(
    breaker: Breaker, clock: Clock
) -> None:
    fail(breaker)
    assert breaker.admits_in_s == 1.0
    clock.now += 1

    assert breaker.state == "half_open"
    assert breaker.admits
    breaker.begin()
    assert not breaker.admits  # one at a time
    breaker.answered()

    assert breaker.state == "closed"
    assert breaker.admits


def test_a_probe_that_fails_doubles_the_pause_up_to_a_limit(breaker: Breaker, clock: Clock) -> None:
    fail(breaker)
    pauses: list[float] = []
    for _ in range(6):
        pauses.append(breaker.admits_in_s)
        clock.now += breaker.admits_in_s
        fail(breaker, 1)

    assert pauses == [1, 2, 4, 8, LONGEST_PAUSE_S, LONGEST_PAUSE_S]


def test_a_probe_whose_caller_hangs_up_leaves_the_way_to_the_next(
    breaker: Breaker, clock: Clock
) -> None:
    fail(breaker)
    clock.now += 1
    breaker.begin()

    breaker.left()

    assert breaker.admits
    assert breaker.state == "half_open"


def test_what_began_before_it_opened_and_fails_later_changes_nothing(breaker: Breaker) -> None:
    fail(breaker)
    before = breaker.admits_in_s

    breaker.failed()

    assert breaker.admits_in_s == before
