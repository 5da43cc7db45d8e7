"""Who is asking."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Caller:
    """The authenticated owner of one request."""

    user_id: str
    key_id: str
