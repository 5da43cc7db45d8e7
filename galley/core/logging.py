"""Log lines: JSON for machines, colours for a person at a terminal.

Called once by the command line; a library user of `create_app` keeps their own set-up. No line
holds a prompt, an answer or a key; so traces are without the values of variables.
"""

import atexit
import logging
import sys
import threading
import time
from collections import deque
from collections.abc import MutableMapping
from contextlib import suppress
from contextvars import ContextVar
from typing import Any, BinaryIO, Self

import orjson
import structlog
from structlog.tracebacks import ExceptionDictTransformer

from galley.core.settings import Settings

SOON_S = 0.1

answering: ContextVar[str | None] = ContextVar("answering", default=None)
"""The id of the request that is being answered: all lines carry it that are written for it."""


def configure_logging(settings: Settings) -> None:
    """Send structlog's and the standard library's lines to standard error, in one format."""
    pretty = settings.log_format == "pretty" or (
        settings.log_format == "auto" and sys.stderr.isatty()
    )
    shared: list[structlog.typing.Processor] = [
        _name_request,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    if pretty:
        last: list[structlog.typing.Processor] = [
            structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
        ]
        factory: Any = structlog.PrintLoggerFactory(sys.stderr)
    else:
        last = [
            structlog.processors.ExceptionRenderer(ExceptionDictTransformer(show_locals=False)),
            structlog.processors.JSONRenderer(orjson.dumps),
        ]
        factory = _Lines(sys.stderr.buffer)
    level = logging.getLevelNamesMapping()[settings.log_level.upper()]
    structlog.configure(
        processors=[*shared, *last],
        logger_factory=factory,
        wrapper_class=structlog.make_filtering_bound_logger(level),
        cache_logger_on_first_use=True,
    )
    root = logging.getLogger()
    root.handlers = [_Forward()]
    root.setLevel(max(level, logging.WARNING))


def _name_request(_: object, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    if (request_id := answering.get()) is not None:
        event.setdefault("request_id", request_id)
    return event


class _Lines:
    """Writes lines in blocks; a system call for each would cost a third of the whole road.

    Warnings and worse are written at once, with what came before them, and the rest soon.
    """

    def __init__(self, out: BinaryIO) -> None:
        self._out = out
        self._lines: deque[bytes] = deque()
        self._some = threading.Event()
        self._writing = threading.Lock()
        threading.Thread(target=self._write_soon, name="galley-log", daemon=True).start()
        atexit.register(self._write)

    def msg(self, line: bytes) -> None:
        self._lines.append(line)
        if not self._some.is_set():
            self._some.set()

    def urgent(self, line: bytes) -> None:
        self._lines.append(line)
        self._write()

    def __call__(self, *_: Any) -> Self:
        """Be the logger of every name."""
        return self

    debug = info = msg
    warning = error = critical = urgent

    def _write_soon(self) -> None:
        while self._some.wait():
            time.sleep(SOON_S)
            self._some.clear()
            self._write()

    def _write(self) -> None:
        # What a full disk or a closed pipe does not take is lost: whoever said it has work to do.
        with self._writing, suppress(OSError):
            lines = [self._lines.popleft() for _ in range(len(self._lines))]
            self._out.write(b"".join(line + b"\n" for line in lines))
            self._out.flush()


class _Forward(logging.Handler):
    """What libraries log through the standard library, as one of our lines."""

    def emit(self, record: logging.LogRecord) -> None:
        log = structlog.get_logger(record.name)
        log.log(record.levelno, record.getMessage(), logger=record.name, exc_info=record.exc_info)
