"""Who is next: fair queueing over users, charged by how long each held a slot.

Every user has a clock that runs while they are served, the slower the more weight they have, and
the one whose clock shows least is next. A turn is charged as a usual one when it begins, and as
what it was when it ends. Who was away begins where the others are: time is not saved up.

Source: Goyal, Vin & Cheng 1996, Start-time Fair Queuing; Sheng et al. 2024, Fairness in Serving
Large Language Models, for charging afterwards what nobody knows before.
"""

from collections import deque
from heapq import heappop, heappush
from math import ceil
from typing import Generic, TypeVar

T = TypeVar("T")

MOST_AT_REST = 1024
"""Of how many users who are neither served nor waiting the clocks are kept, or twice as many."""


class Flow(Generic[T]):
    """One user's turns: those that run, and those that wait, in their order."""

    __slots__ = ("clock", "entry", "owner", "running", "waiting", "weight")

    def __init__(self, owner: str, weight: float, clock: float) -> None:
        self.owner = owner
        self.weight = weight
        self.clock = clock
        self.running = 0
        self.waiting: deque[tuple[int, T]] = deque()
        self.entry: tuple[float, int, Flow[T]] | None = None

    def __lt__(self, _: object) -> bool:
        return False  # in a heap, of entries that are alike either may come first


class FairLine(Generic[T]):
    """Users who wait; it knows no clock but theirs, and costs are in any one unit."""

    def __init__(self) -> None:
        self.waiting = 0
        self.running = 0
        self._now = 0.0  # what the clock of the one served last showed
        self._flows: dict[str, Flow[T]] = {}
        self._order: list[tuple[float, int, Flow[T]]] = []
        self._count = 0
        self._sweep_at = MOST_AT_REST

    def flow(self, owner: str, weight: float) -> Flow[T]:
        """Return the turns of `owner`, who comes for one more."""
        flow = self._flows.get(owner)
        if flow is None:
            if len(self._flows) >= self._sweep_at:
                self._sweep()
            flow = self._flows[owner] = Flow(owner, weight, self._now)
        elif not flow.waiting and flow.clock < self._now:
            flow.clock = self._now
        flow.weight = weight
        return flow

    def begin(self, flow: Flow[T], cost: float) -> None:
        """Charge a turn that begins with what such turns usually cost."""
        if flow.clock > self._now:
            self._now = flow.clock
        flow.clock += cost / flow.weight
        flow.running += 1
        self.running += 1

    def end(self, flow: Flow[T], charged: float, cost: float) -> None:
        """Charge a turn that has ended with what it cost, less what it was charged with."""
        flow.clock += (cost - charged) / flow.weight
        flow.running -= 1
        self.running -= 1
        if flow.waiting:
            self._place(flow)
        else:
            self._rest(flow)

    def join(self, flow: Flow[T], item: T) -> None:
        """Let an item wait behind the others of its owner."""
        self._count += 1
        self.waiting += 1
        flow.waiting.append((self._count, item))
        if len(flow.waiting) == 1:
            self._place(flow)

    def leave(self, flow: Flow[T], item: T) -> None:
        """Take out an item that waits no more; one that is not there is none."""
        for place, (_, other) in enumerate(flow.waiting):
            if other is item:
                del flow.waiting[place]
                self.waiting -= 1
                break
        if flow.waiting:
            self._place(flow)
        else:
            flow.entry = None
            self._rest(flow)

    def next(self, cost: float) -> T:
        """Take out the item whose turn it is, and begin with it; somebody must wait."""
        while True:
            entry = heappop(self._order)
            flow = entry[2]
            if flow.entry is entry:  # else it was overtaken by a newer one
                break
        _, item = flow.waiting.popleft()
        self.waiting -= 1
        flow.entry = None
        self.begin(flow, cost)
        if flow.waiting:
            self._place(flow)
        return item

    def ahead(self, flow: Flow[T], item: T, cost: float) -> int:
        """How many will be served before `item`, if all turns cost this and nobody else comes."""
        place, number = next(
            (place, number) for place, (number, other) in enumerate(flow.waiting) if other is item
        )
        begins = flow.clock + place * cost / flow.weight
        return place + sum(
            _before(other, begins, number, cost)
            for other in self._flows.values()
            if other.waiting and other is not flow
        )

    def _place(self, flow: Flow[T]) -> None:
        flow.entry = (flow.clock, flow.waiting[0][0], flow)
        heappush(self._order, flow.entry)

    def _rest(self, flow: Flow[T]) -> None:
        """Forget whose clock says nothing any more."""
        if not self.running and not self.waiting:
            self._flows.clear()
            self._order.clear()
            self._now = 0.0
        elif not flow.running and flow.clock <= self._now and self._is_known(flow):
            del self._flows[flow.owner]

    def _is_known(self, flow: Flow[T]) -> bool:
        return self._flows.get(flow.owner) is flow

    def _sweep(self) -> None:
        at_rest = [
            flow
            for flow in self._flows.values()
            if not (flow.running or flow.waiting) and flow.clock <= self._now
        ]
        for flow in at_rest:
            del self._flows[flow.owner]
        self._sweep_at = max(MOST_AT_REST, 2 * len(self._flows))


def _before(other: Flow[T], begins: float, number: int, cost: float) -> int:
    """How many of another's items begin before one that begins at `begins`."""
    turns = max(0, ceil((begins - other.clock) * other.weight / cost))
    if turns < len(other.waiting) and other.clock + turns * cost / other.weight <= begins:
        turns += other.waiting[turns][0] < number  # at the same time: who came first
    return min(turns, len(other.waiting))
