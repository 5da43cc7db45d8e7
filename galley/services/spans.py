"""What the spans of a request say of it: numbers and names, never a word of a prompt or an answer.

Source: OpenTelemetry, Semantic Conventions for Generative AI.
"""

from galley.core.money import MICRO
from galley.core.tracing import Attributes
from galley.db.record import Record
from galley.services.charge import Charge


def told_of(charge: Charge) -> Attributes:
    """What is said of a request that is over."""
    record = charge.record
    told = {
        "galley.request_id": record.request_id,
        "galley.state": record.state,
        "http.response.status_code": record.status,
        "error.type": record.error_code,
        "gen_ai.request.model": record.model,
        "gen_ai.response.model": record.served_model,
        "gen_ai.request.stream": record.stream,
        "galley.route": record.route,
        "galley.arm": record.arm,
        "galley.cache": record.cache,
        "galley.tier": charge.caller.tier,
        "galley.cost_usd": record.cost / MICRO if record.cost else None,
        "galley.time_to_first_token_ms": record.first_token_ms,
        "galley.attempts": len(charge.attempts),
    }
    return {name: value for name, value in told.items() if value is not None}


def usage_of(record: Record) -> Attributes:
    """What a request has used."""
    told = {
        "gen_ai.usage.input_tokens": record.prompt_tokens,
        "gen_ai.usage.output_tokens": record.completion_tokens,
        "gen_ai.usage.cache_read.input_tokens": record.cached_tokens,
    }
    return {name: value for name, value in told.items() if value}
