import pytest

from galley.core.errors import RateLimitError
from galley.services.throttle import Throttle


class Clock:
    """Time that passes when told to."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


def fail(throttle: Throttle, name: str, times: int) -> None:
    for _ in range(times):
        throttle.attempt(name)


def test_the_sixth_attempt_waits_until_the_first_is_five_minutes_ago():
    clock = Clock()
    throttle = Throttle(5, clock=clock)
    for _ in range(5):
        throttle.attempt("alice")
        clock.now += 10

    with pytest.raises(RateLimitError) as refusal:
        throttle.attempt("alice")

    assert refusal.value.retry_after == 250
    clock.now += 250
    throttle.attempt("alice")


def test_refused_attempts_do_not_make_it_longer():
    clock = Clock()
    throttle = Throttle(1, clock=clock)
    throttle.attempt("alice")

    for _ in range(9):
        clock.now += 30
        with pytest.raises(RateLimitError):
            throttle.attempt("alice")

    clock.now += 30
    throttle.attempt("alice")


def test_others_are_not_held_up():
    throttle = Throttle(5)
    fail(throttle, "alice", 5)

    throttle.attempt("bob")


def test_success_forgives_what_went_before():
    throttle = Throttle(5)
    fail(throttle, "alice", 5)

    throttle.forgive("alice")

    fail(throttle, "alice", 5)


def test_an_attempt_that_is_taken_back_does_not_count():
    throttle = Throttle(5)

    for _ in range(20):
        throttle.attempt("router")
        throttle.take_back("router")

    fail(throttle, "router", 5)


def test_only_so_many_names_are_remembered(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("galley.services.throttle.MOST_REMEMBERED", 3)
    throttle = Throttle(1)

    for name in "abcd":
        throttle.attempt(name)

    throttle.attempt("a")
    with pytest.raises(RateLimitError):
        throttle.attempt("d")
