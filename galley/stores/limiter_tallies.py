"""How a limiter in memory counts: a minute that slides, a day, a month or ever, and what runs now.

`used` is what is taken. A limiter adds to it first and looks whether that was too much, so that
several demands on one tally add up; `place` then says when it was taken. Times are microseconds.
A minute goes by the steady clock: setting the other one makes it neither shorter nor longer.
"""

from collections import deque
from dataclasses import dataclass
from typing import Protocol

from galley.stores.limiter_calendar import MINUTE_US, SECOND_US, Moment


@dataclass(slots=True, eq=False)
class Bucket:
    """What was taken within one second, and when the last of it was."""

    second: int
    last_us: int
    amount: int = 0
    counts: bool = True


class Tally(Protocol):
    """One counter."""

    used: int

    def place(self, amount: int, now: Moment) -> Bucket | None:
        """Say when an amount was taken that `used` has already; returns where that is kept."""
        ...

    def replace(self, amount: int, used: int, bucket: Bucket | None) -> None:
        """Put what was used in the place of what was taken."""
        ...

    def wait_us(self, excess: int, now: Moment) -> float:
        """How long until `excess`, which is not more than `used`, is free again."""
        ...

    def reset_us(self, now: Moment) -> float:
        """How long until everything is free again."""
        ...


class Window:
    """Any 60 seconds. A bucket counts until its youngest part is that old, so never too short."""

    __slots__ = ("_buckets", "used")

    def __init__(self) -> None:
        self.used = 0
        self._buckets: deque[Bucket] = deque()

    def drop_old(self, now: Moment) -> None:
        """Bring `used` up to date."""
        buckets = self._buckets
        # Either way: a clock that was set back must not keep a bucket for longer.
        while buckets and abs(now.steady - buckets[0].last_us) >= MINUTE_US:
            bucket = buckets.popleft()
            bucket.counts = False
            self.used -= bucket.amount

    def place(self, amount: int, now: Moment) -> Bucket:
        second = now.steady // SECOND_US
        buckets = self._buckets
        if buckets and buckets[-1].second == second:
            bucket = buckets[-1]
            bucket.last_us = now.steady
        else:
            bucket = Bucket(second, now.steady)
            buckets.append(bucket)
        bucket.amount += amount
        return bucket

    def replace(self, amount: int, used: int, bucket: Bucket | None) -> None:
        if bucket is not None and bucket.counts:
            bucket.amount += used - amount
            self.used += used - amount

    def wait_us(self, excess: int, now: Moment) -> int:
        for bucket in self._buckets:
            excess -= bucket.amount
            if excess <= 0:
                return bucket.last_us + MINUTE_US - now.steady
        return MINUTE_US

    def reset_us(self, now: Moment) -> int:
        for bucket in reversed(self._buckets):
            if bucket.amount:
                return bucket.last_us + MINUTE_US - now.steady
        return 0


class Total:
    """A day or a month, until its end; or ever, which has none."""

    __slots__ = ("_end_us", "used")

    def __init__(self, used: int, end_us: float) -> None:
        self.used = used
        self._end_us = end_us

    def place(self, amount: int, now: Moment) -> None:
        """Any time of the period is the same."""

    def replace(self, amount: int, used: int, bucket: Bucket | None) -> None:
        self.used += used - amount

    def wait_us(self, excess: int, now: Moment) -> float:
        return self._end_us - now.wall

    def reset_us(self, now: Moment) -> float:
        return self._end_us - now.wall if self.used else 0


class Gauge:
    """What runs now. When it ends nobody knows, so the advice is to come back in a second."""

    __slots__ = ("used",)

    def __init__(self) -> None:
        self.used = 0

    def place(self, amount: int, now: Moment) -> None:
        """It counts from now on until it is settled."""

    def replace(self, amount: int, used: int, bucket: Bucket | None) -> None:
        self.used += used - amount

    def wait_us(self, excess: int, now: Moment) -> int:
        return SECOND_US

    def reset_us(self, now: Moment) -> int:
        return SECOND_US if self.used else 0
