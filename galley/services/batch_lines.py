"""What the lines of a batch say, and what is wrong with them."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any, NamedTuple

import orjson
from pydantic import ValidationError

from galley.core import strict_json
from galley.schemas.batches import BatchLine
from galley.services.lines import Line

MOST_LINES = 50_000
MOST_FAULTS = 100
"""More than so many are not told."""
LONGEST_MODEL = 256


class Question(NamedTuple):
    """A request of a batch, and the line it stands in."""

    line: int
    custom_id: str
    body: bytes
    model: str | None


class LineError(ValueError):
    """A line is no request of this batch."""

    def __init__(self, code: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.param = param


class Checked(NamedTuple):
    """What a batch was found to be.

    Args:
        lines: how many requests it has.
        model: what all of them ask; None where they differ.
        faults: why it cannot be done, as OpenAI says it.
    """

    lines: int
    model: str | None
    faults: list[dict[str, Any]]


def read_question(line: Line, endpoint: str) -> Question:
    """Read a line of a batch for `endpoint`.

    Raises:
        LineError: it is no request, or one for another route.
    """
    if not line.whole:
        raise LineError("line_too_large", f"The line is longer than {len(line.text)} bytes.")
    try:
        strict_json.check(line.text)
        asked = BatchLine.model_validate(orjson.loads(line.text))
        body = orjson.dumps(asked.body)
    except ValidationError as error:
        raise _misfit(error) from None
    except (ValueError, RecursionError, orjson.JSONEncodeError) as error:
        reason = str(error) if isinstance(error, ValueError) else "nested too deeply"
        raise LineError("invalid_json_line", f"The line is not valid JSON: {reason}.") from None
    if asked.url != endpoint:
        raise LineError("invalid_url", f"The batch is for {endpoint}, this line is not.", "url")
    return Question(line.number, asked.custom_id, body, _model(asked.body.get("model")))


async def check_lines(groups: AsyncGenerator[list[Line]], endpoint: str) -> Checked:
    """Look at all lines of a batch before the first is answered."""
    checking = _Checking(endpoint)
    async with aclosing(groups):
        async for lines in groups:
            await asyncio.to_thread(checking.look, lines)
            if checking.count > MOST_LINES or len(checking.faults) >= MOST_FAULTS:
                break
    return checking.found()


class _Checking:
    def __init__(self, endpoint: str) -> None:
        self.count = 0
        self.faults: list[dict[str, Any]] = []
        self._endpoint = endpoint
        self._ids: dict[str, int] = {}
        self._models: set[str | None] = set()

    def look(self, lines: Sequence[Line]) -> None:
        for line in lines:
            self.count += 1
            if len(self.faults) < MOST_FAULTS:
                self._look(line)

    def found(self) -> Checked:
        if self.count > MOST_LINES:
            self.faults = [_fault("too_many_lines", f"It has more than {MOST_LINES} requests.")]
        if not self.count:
            self.faults = [_fault("empty_file", "The file has no requests.")]
        model = next(iter(self._models)) if len(self._models) == 1 else None
        return Checked(self.count, model, self.faults)

    def _look(self, line: Line) -> None:
        try:
            question = read_question(line, self._endpoint)
        except LineError as error:
            self.faults.append(_fault(error.code, error.message, line.number, error.param))
            return
        first = self._ids.setdefault(question.custom_id, line.number)
        if first != line.number:
            said = f"Line {first} has the same custom_id."
            self.faults.append(_fault("duplicate_custom_id", said, line.number, "custom_id"))
        self._models.add(question.model)


def _model(named: Any) -> str | None:
    """What a line asks, where that can be a model's name; if not, its own answer will say so."""
    is_name = isinstance(named, str) and len(named) <= LONGEST_MODEL and named.isprintable()
    return named if is_name else None


def _misfit(error: ValidationError) -> LineError:
    found = error.errors(include_url=False, include_input=False)[0]
    param = str(found["loc"][0])[: strict_json.SHOWN_NAME] if found["loc"] else None
    code = {
        "missing": "missing_required_parameter",
        "extra_forbidden": "unknown_parameter",
    }.get(found["type"], f"invalid_{param}" if param in BatchLine.model_fields else "invalid_line")
    return LineError(code, f"{param}: {found['msg']}." if param else f"{found['msg']}.", param)


def _fault(
    code: str, message: str, line: int | None = None, param: str | None = None
) -> dict[str, Any]:
    return {"code": code, "line": line, "message": message, "param": param}
