"""Request bodies: bytes in, a validated shape out, or a clear no."""

import asyncio
from concurrent.futures import Executor
from typing import Any, NoReturn, TypeVar, get_origin
from urllib.parse import parse_qsl

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from galley.core import strict_json
from galley.core.errors import BadRequestError, UnprocessableError
from galley.core.strict_json import SHOWN_NAME
from galley.dialects import anthropic, native
from galley.dialects.base import Dialect
from galley.schemas.base import Request

R = TypeVar("R", bound=Request)

BIG = 262_144  # bytes; what is larger is parsed on another thread
MOST_FAULTS = 10_000
_LISTED_FAULTS = 20
_OPENAI_WORDS = {
    "missing": "Missing required parameter: '{param}'.",
    "extra_forbidden": "Unrecognized request argument supplied: {param}.",
    "json_invalid": "The body is not valid JSON: {msg}.",
}


async def parse(shape: type[R], body: bytes | bytearray, dialect: Dialect, heavy: Executor) -> R:
    """Validate `body`; a large one on `heavy`'s thread, so that one at a time holds the parser.

    Raises:
        BadRequestError: it does not fit (OpenAI's and Anthropic's routes); `param` names the field.
        UnprocessableError: it does not fit (native routes).
    """
    if len(body) > BIG:
        return await asyncio.get_running_loop().run_in_executor(heavy, _parse, shape, body, dialect)
    return _parse(shape, body, dialect)


def validate(shape: type[R], values: dict[str, Any], dialect: Dialect) -> R:
    """Validate form fields, which are all text; raises as `parse`."""
    try:
        return shape.model_validate(values, strict=False)
    except ValidationError as error:
        refuse(_details(error), dialect)


def parse_query(shape: type[R], query: bytes, dialect: Dialect) -> R:
    """Validate a query string: lists are names that come several times, of others the last counts.

    Raises: as `parse`.
    """
    given: dict[str, Any] = {}
    try:
        pairs = parse_qsl(
            query.decode(), keep_blank_values=True, errors="strict", max_num_fields=500
        )
    except ValueError:  # UnicodeDecodeError is one
        fault = ErrorDetails(type="query_invalid", loc=(), msg="It is no query string", input=None)
        refuse([fault], dialect, ("query",))
    for name, value in pairs:
        field = shape.model_fields.get(name)
        if field is not None and get_origin(field.annotation) is list:
            given.setdefault(name, []).append(value)
        else:
            given[name] = value
    try:
        return shape.model_validate(given, strict=False)
    except ValidationError as error:
        refuse(_details(error), dialect, ("query",))


def check(body: bytes | bytearray, dialect: Dialect) -> None:
    """Refuse a body that is not JSON with one meaning; raises as `parse`."""
    try:
        strict_json.check(body)
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        refuse([ErrorDetails(type="json_invalid", loc=(), msg=reason, input=None)], dialect)


def _parse(shape: type[R], body: bytes | bytearray, dialect: Dialect) -> R:
    check(body, dialect)
    try:
        return shape.__pydantic_validator__.validate_json(body)
    except ValidationError as error:
        refuse(_details(error), dialect)


def _details(error: ValidationError) -> list[ErrorDetails]:
    count = error.error_count()
    if count > MOST_FAULTS:
        return [ErrorDetails(type="too_many", loc=(), msg=f"{count} faults", input=None)]
    return [_without_input(found) for found in error.errors(include_url=False, include_input=False)]


def _without_input(found: ErrorDetails) -> ErrorDetails:
    """Leave out what pydantic quotes from the input, and most of a name that is all its own."""
    if found["type"] == "union_tag_invalid":
        context = found.get("ctx", {})
        tag, expected = context.get("discriminator"), context.get("expected_tags")
        found["msg"] = f"{tag} should be one of {expected}"
    found["loc"] = tuple(p[:SHOWN_NAME] if isinstance(p, str) else p for p in found["loc"])
    return found


def refuse(
    details: list[ErrorDetails], dialect: Dialect, within: tuple[str, ...] = ("body",)
) -> NoReturn:
    """Raise what `dialect` says to input that does not fit its schema.

    Args:
        within: where the locations of `details` begin; FastAPI's name that themselves.
    """
    if dialect is native:
        listed = [
            {"type": d["type"], "loc": [*within, *d["loc"]], "msg": _plain(d["msg"])}
            for d in map(_without_input, details[:_LISTED_FAULTS])
        ]
        raise UnprocessableError("The request does not fit its schema.", details=listed)
    # Of a union, one member is of the right type, and what it says is what is wrong.
    first = next((d for d in details if not _is_of_another_type(d)), details[0])
    if not within:
        first["loc"] = first["loc"][1:]  # the part of the request: here each has one
    param = _param_of(first)
    msg = _plain(first["msg"]).removeprefix("Invalid JSON: ").rstrip(".")
    worded = _for_anthropic if dialect is anthropic else _for_openai
    raise BadRequestError(
        worded(first["type"], param, msg), code="invalid_request", param=param or None
    )


def _plain(msg: str) -> str:
    return msg.removeprefix("Value error, ")


def _for_openai(kind: str, param: str, msg: str) -> str:
    words = _OPENAI_WORDS.get(kind, "Invalid value for '{param}': {msg}.")
    if not param and kind != "json_invalid":
        words = "{msg}."
    return words.format(param=param, msg=msg)


def _for_anthropic(kind: str, param: str, msg: str) -> str:
    if kind == "json_invalid":
        return f"The body is not valid JSON: {msg}"
    return f"{param.replace('[', '.').replace(']', '')}: {msg}" if param else msg


def refuse_form(dialect: Dialect) -> NoReturn:
    """Refuse a form where JSON is wanted; raises as `parse`."""
    said = "This route takes JSON, not a form; pictures as files go to POST /v2/classify"
    refuse([ErrorDetails(type="form_given", loc=(), msg=said, input=None)], dialect)


def _is_of_another_type(detail: ErrorDetails) -> bool:
    literal = detail["type"] == "literal_error" and str(detail["loc"][-1]).startswith("literal[")
    return literal or detail["type"].endswith("_type")


def _param_of(detail: ErrorDetails) -> str:
    """Write a location as OpenAI does: `messages[0].content`."""
    param, loc = "", detail["loc"]
    unknown = len(loc) - 1 if detail["type"] == "extra_forbidden" else -1
    for number, part in enumerate(loc):
        if isinstance(part, int):
            param += f"[{part}]"
        elif number == unknown or _is_field(part, loc[:number]):
            param += f".{part}" if param else part
    return param


def _is_field(part: str, before: tuple[int | str, ...]) -> bool:
    """Tell a field from a union member: a type, a class, or the tag of a tagged union."""
    if before[-1:] == ("response_format",) or "tagged-union" in str(before[-2:-1]):
        return False
    return part.isidentifier() and part.islower() and part not in _TYPES


_FILTERS = {"eq", "ne", "gt", "gte", "lt", "lte", "in", "nin", "and", "or"}
_TYPES = frozenset({"str", "int", "float", "bool", "none"} | _FILTERS)
