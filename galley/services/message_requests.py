"""The requests of a message batch, as they come in one body."""

from collections.abc import Generator, Iterator

import orjson
from pydantic import ValidationError

from galley.core import strict_json
from galley.core.errors import BadRequestError
from galley.schemas.message_batches import MessageBatchRequest
from galley.services.batch_lines import MOST_LINES

_AT_ONCE = 1_000_000  # bytes


class MessageRequests:
    """The requests of one body, written as the lines of a batch's file.

    Args:
        longest: of a line, in bytes.
    """

    def __init__(self, body: bytes | bytearray, longest: int) -> None:
        self.count = 0
        self._longest = longest
        self._ids: dict[str, int] = {}
        self._items = self._read(body)

    def some(self) -> bytes:
        """Return the next lines, a megabyte or so; empty after the last. Takes a while.

        Raises:
            BadRequestError: it names the request that cannot be in a batch, and says why.
        """
        lines, size = list[bytes](), 0
        for line in self._items:
            lines.append(line)
            if (size := size + len(line)) >= _AT_ONCE:
                break
        return b"".join(lines)

    def _read(self, body: bytes | bytearray) -> Generator[bytes]:
        for item in _items(body):
            yield self._line(item)
            self.count += 1
            if self.count > MOST_LINES:
                raise _refusal("requests", f"a batch has {MOST_LINES} at most")
        if not self.count:
            raise _refusal("requests", "a batch has one at least")

    def _line(self, item: bytes) -> bytes:
        where = f"requests.{self.count}"
        asked, line = _written(item, where)
        first = self._ids.setdefault(asked.custom_id, self.count)
        if first != self.count:
            raise _refusal(f"{where}.custom_id", f"requests.{first} has the same one")
        if asked.params.get("stream") is True:
            raise _refusal(
                f"{where}.params.stream",
                "what is answered later cannot be streamed: leave it out",
                "stream_not_supported",
            )
        if len(line) > self._longest:
            raise _refusal(where, f"it is longer than {self._longest} bytes")
        return line


def _items(body: bytes | bytearray) -> Iterator[bytes]:
    try:
        yield from strict_json.items(body, "requests")
    except ValueError as error:
        raise _refusal("requests", str(error)) from None


def _written(item: bytes, where: str) -> tuple[MessageBatchRequest, bytes]:
    """Return a request, and how it is written as a line."""
    try:
        strict_json.check(item)
        asked = MessageBatchRequest.model_validate(orjson.loads(item))
        line = {
            "custom_id": asked.custom_id,
            "method": "POST",
            "url": "/v1/messages",
            "body": asked.params,
        }
        return asked, orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE)
    except ValidationError as error:
        fault = error.errors(include_url=False, include_input=False)[0]
        at = [where, *(str(part)[: strict_json.SHOWN_NAME] for part in fault["loc"])]
        raise _refusal(".".join(at), fault["msg"]) from None
    except (ValueError, RecursionError, orjson.JSONEncodeError) as error:
        reason = str(error) if isinstance(error, ValueError) else "nested too deeply"
        raise _refusal(where, f"it is not valid JSON: {reason}") from None


def _refusal(param: str, message: str, code: str = "invalid_request") -> BadRequestError:
    """Name a field as Anthropic does."""
    return BadRequestError(f"{param}: {message}", code=code, param=param)
