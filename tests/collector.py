"""A collector of traces on loopback: it takes OTLP over HTTP and keeps every span."""

import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

PATIENCE_S = 20.0


@dataclass
class Collector:
    """What came, span by span, and as it was sent."""

    url: str
    spans: list[Span] = field(default_factory=list[Span])
    resources: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    bodies: list[bytes] = field(default_factory=list[bytes])

    def trace(self, request_id: str) -> "Traced":
        """Wait for the spans of a request; the request's own is the last to end."""
        end = time.monotonic() + PATIENCE_S
        while True:
            for root in list(self.spans):
                if attributes(root).get("galley.request_id") == request_id:
                    rest = [s for s in self.spans if s.trace_id == root.trace_id and s is not root]
                    return Traced(root, rest)
            assert time.monotonic() < end, [span.name for span in self.spans]
            time.sleep(0.02)


@dataclass
class Traced:
    """The spans of one request."""

    root: Span
    others: list[Span]

    def one(self, true: Callable[[Span], bool]) -> Span:
        """The one that is meant."""
        (found,) = (span for span in self.others if true(span))
        return found

    def named(self, name: str) -> Span:
        """The one of this name."""
        return self.one(lambda span: span.name == name)


def attributes(span: Span) -> dict[str, Any]:
    """What a span says of itself."""
    return {
        pair.key: getattr(pair.value, pair.value.WhichOneof("value") or "")
        for pair in span.attributes
    }


@contextmanager
def collecting() -> Generator[Collector]:
    """Run a collector on a free port."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            assert self.path == "/v1/traces"
            told = ExportTraceServiceRequest.FromString(body)
            for resource in told.resource_spans:
                collector.resources.append(
                    {pair.key: pair.value.string_value for pair in resource.resource.attributes}
                )
                for scope in resource.scope_spans:
                    collector.spans.extend(scope.spans)
            collector.bodies.append(body)
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        collector = Collector(f"http://127.0.0.1:{server.server_address[1]}")
        thread = threading.Thread(target=server.serve_forever, name="collector")
        thread.start()
        try:
            yield collector
        finally:
            server.shutdown()
            thread.join()
