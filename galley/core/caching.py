"""What is kept of answers, by a route's settings and by a request's own wish."""

import re
from dataclasses import dataclass
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field


class CacheSettings(BaseModel):
    """What a route remembers of its answers."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    exact: bool = Field(
        default=True, description="Answer the same request again from memory, where that is asked."
    )
    semantic: Literal["off", "shadow", "on"] = Field(
        default="off",
        description="Answer the same question in other words; `shadow` only counts.",
    )
    shared: bool = Field(
        default=False, description="All users share the answers; otherwise each has their own."
    )


@dataclass(frozen=True, slots=True)
class CacheControl:
    """What a request's `cache-control` asks for.

    Args:
        max_age_s: the oldest answer that is welcome, in seconds; given, it asks for caching.

    Source: RFC 9111, section 5.2.1.
    """

    max_age_s: int | None = None
    no_cache: bool = False
    no_store: bool = False
    only_if_cached: bool = False

    @classmethod
    def parse(cls, header: str | None) -> Self:
        """Read the header's value; what is not known is ignored, as the RFC wants it."""
        if not header:
            return cls()
        wishes = {wish.strip().lower() for wish in header[:1000].split(",")}
        ages = [
            int(found[1]) for w in wishes if (found := re.fullmatch(r'max-age="?(\d{1,9})"?', w))
        ]
        return cls(
            max_age_s=min(ages, default=None),
            no_cache="no-cache" in wishes,
            no_store="no-store" in wishes,
            only_if_cached="only-if-cached" in wishes,
        )
