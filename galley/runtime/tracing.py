"""Where traces go, if anywhere."""

import asyncio
from contextlib import AsyncExitStack

from galley.core.settings import Settings, SettingsError
from galley.core.tracing import Tracer


def open_tracer(settings: Settings, stack: AsyncExitStack) -> Tracer | None:
    """Open the way to the collector; None where none is set.

    Raises:
        SettingsError: OpenTelemetry is not installed.
    """
    if settings.otlp_endpoint is None:
        return None
    try:
        from galley.runtime.otlp import OtlpTracer  # an extra, and 10 MB
    except ModuleNotFoundError as error:
        raise SettingsError(
            "GALLEY_OTLP_ENDPOINT needs OpenTelemetry. Install it: pip install 'galley[otlp]'"
        ) from error
    tracer = OtlpTracer(settings.otlp_endpoint)
    stack.push_async_callback(asyncio.to_thread, tracer.close)
    return tracer
