"""New ids: UUIDs that begin with the time, as text of 36 characters."""

import time

import uuid_utils

MOST_AHEAD_MS = 1_000


def new_id() -> str:
    """Make an id; later ones sort after earlier ones, unless the clock was set back.

    Then the library would rather tell the old time, for as long as it takes, and the books would
    disagree with the calendar.
    """
    made, now_ns = str(uuid_utils.uuid7()), time.time_ns()
    if int(made[:8] + made[9:13], 16) > now_ns // 1_000_000 + MOST_AHEAD_MS:
        return str(uuid_utils.uuid7(nanoseconds=now_ns))
    return made
