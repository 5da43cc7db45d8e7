"""What a caller's requests came to."""

from galley.core.caller import Caller
from galley.db.session import Sessions
from galley.db.usage import usage_of
from galley.schemas.account import UsageSummary


class UsageService:
    """Reads the hourly sums, so that the cost of asking does not grow with the ledger."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions

    async def summary(self, caller: Caller) -> UsageSummary:
        """Sum up the caller's own requests."""
        async with self._sessions() as session:
            found = await usage_of(session, user_id=caller.user_id)
        total = found.requests
        return UsageSummary(
            total_requests=total,
            successful_requests=found.successes,
            success_rate=round(100 * found.successes / total, 2) if total else 0.0,
            avg_response_time_ms=round(found.response_time_ms / total, 2) if total else 0.0,
            prompt_tokens=found.prompt_tokens,
            completion_tokens=found.completion_tokens,
            by_endpoint=found.by_endpoint,
        )
