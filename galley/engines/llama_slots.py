"""Which of llama.cpp's slots remembers whose prompt.

A slot that remembers a prompt answers the next one that begins alike sooner, and says how much
of it was remembered. Either would tell one user what another has asked, so what a slot remembers
is used again only for the same salt.
"""

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class LlamaSlots:
    """The slots of one child. `idle` is in order of last use."""

    count: int
    _idle: list[int] = field(init=False)
    _salts: dict[int, str] = field(init=False, default_factory=dict[int, str])

    def __post_init__(self) -> None:
        self._idle = list(range(self.count))

    @contextmanager
    def take(self, salt: str) -> Generator[dict[str, Any]]:
        """Yield the fields that send a request to a slot.

        That is the one used last for `salt`, or else the one that has been idle longest. While
        all are busy (a hang-up reaches the child a little later), llama.cpp is left to choose.
        """
        if not self._idle:
            yield {"cache_prompt": False}
            return
        known = [slot for slot in self._idle if self._salts.get(slot) == salt]
        slot = known[-1] if known else self._idle[0]
        self._idle.remove(slot)
        self._salts[slot] = salt
        try:
            yield {"id_slot": slot, "cache_prompt": bool(known)}
        finally:
            self._idle.append(slot)
