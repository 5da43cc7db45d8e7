"""Traces by OpenTelemetry, sent to a collector over OTLP. Imported only where one is set."""

import time
from collections.abc import Mapping
from typing import Self

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from galley import __version__
from galley.core.errors import GalleyError
from galley.core.tracing import Attributes

_OPERATIONS = {"messages": "chat", "responses": "chat", "completions": "text_completion"}
"""Endpoints by the names that the conventions have for what they do; others are called as here."""

_PROPAGATOR = TraceContextTextMapPropagator()


class OtlpTracer:
    """Sends spans in batches, from a thread of its own; while nobody takes them they are dropped.

    Which traces are kept, headers and more are OpenTelemetry's own settings (`OTEL_...`).

    Args:
        endpoint: the base URL of a collector.
    """

    def __init__(self, endpoint: str) -> None:
        named = OTELResourceDetector().detect().attributes
        own = {"service.name": "galley", "service.version": __version__}
        self._provider = TracerProvider(
            resource=Resource.create({**own, **named}), shutdown_on_exit=False
        )
        exporter = OTLPSpanExporter(endpoint=f"{endpoint.rstrip('/')}/v1/traces")
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("galley", __version__)

    def trace(self, endpoint: str, *, elapsed_ms: float, parent: str | None) -> "OtlpTrace":
        operation = _OPERATIONS.get(endpoint, endpoint)
        root = self._tracer.start_span(
            endpoint,
            _PROPAGATOR.extract({"traceparent": parent}, Context()) if parent else Context(),
            kind=SpanKind.SERVER,
            attributes={"gen_ai.operation.name": operation},
            start_time=time.time_ns() - int(elapsed_ms * 1e6),
        )
        return OtlpTrace(self._tracer, root, operation)

    def close(self) -> None:
        """Send what is left; a collector that is not there is waited for some seconds."""
        self._provider.shutdown()


class OtlpTrace:
    """The spans of one request."""

    def __init__(self, tracer: Tracer, root: Span, operation: str) -> None:
        self._tracer, self._root, self._operation = tracer, root, operation
        self._answered: tuple[Span, int] | None = None
        self.within(root)

    def within(self, span: Span) -> None:
        """What comes is part of `span`."""
        self._context = set_span_in_context(span, Context())
        self.headers = _headers(span)

    def step(self, name: str) -> "_Step":
        return _Step(self._tracer.start_span(name, self._context))

    def attempt(self, model: str, provider: str) -> "_Attempt":
        span = self._tracer.start_span(
            f"{self._operation} {model}",
            set_span_in_context(self._root, Context()),
            kind=SpanKind.CLIENT,
            attributes={
                "gen_ai.operation.name": self._operation,
                "gen_ai.provider.name": provider,
                "gen_ai.request.model": model,
            },
        )
        self.within(span)
        return _Attempt(self, span)

    def attempted(self, span: Span, outcome: str) -> None:
        """An attempt has ended; what the answer took is known once the request ends."""
        self.within(self._root)
        if outcome == "ok":
            self._answered = (span, time.time_ns())
        else:
            _fail(span, outcome)
            span.end()

    def end(self, told: Attributes, usage: Attributes, error: str | None) -> None:
        if self._answered is not None:
            span, ended_ns = self._answered
            span.set_attributes(usage)
            span.end(ended_ns)
        self._root.set_attributes({**told, **usage})
        if error is not None:
            _fail(self._root, error)
        self._root.end()


class _Attempt:
    def __init__(self, trace: OtlpTrace, span: Span) -> None:
        self._trace, self._span = trace, span

    def end(self, outcome: str) -> None:
        self._trace.attempted(self._span, outcome)


class _Step:
    """A block; not by OpenTelemetry's own context, which generators would leave in another one."""

    def __init__(self, span: Span) -> None:
        self._span = span

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, _: object) -> None:
        if kind is not None and issubclass(kind, Exception):
            code = error.code if isinstance(error, GalleyError) else None
            _fail(self._span, code or kind.__name__)
        self._span.end()


def _fail(span: Span, why: str) -> None:
    span.set_attribute("error.type", why)
    span.set_status(Status(StatusCode.ERROR))


def _headers(span: Span) -> Mapping[str, str]:
    """Say whose request it is. Source: W3C Trace Context, section 3.2."""
    own = span.get_span_context()
    return {"traceparent": f"00-{own.trace_id:032x}-{own.span_id:016x}-{own.trace_flags:02x}"}
