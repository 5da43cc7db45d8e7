"""Request bodies: bytes in, a validated shape out, or a clear no."""

import asyncio
import json
from typing import Any, NoReturn, TypeVar

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from galley.core.errors import BadRequestError, UnprocessableError
from galley.dialects import native
from galley.dialects.base import Dialect
from galley.schemas.base import Request

R = TypeVar("R", bound=Request)

BIG = 262_144  # bytes; what is larger is parsed on another thread
_OPENAI_WORDS = {
    "missing": "Missing required parameter: '{param}'.",
    "extra_forbidden": "Unrecognized request argument supplied: {param}.",
    "json_invalid": "The body is not valid JSON: {msg}.",
}


async def parse(shape: type[R], body: bytes, dialect: Dialect) -> R:
    """Validate `body`.

    Raises:
        BadRequestError: it does not fit (OpenAI's routes); `param` names the field.
        UnprocessableError: it does not fit (native routes).
    """
    if len(body) > BIG:
        return await asyncio.to_thread(_parse, shape, body, dialect)
    return _parse(shape, body, dialect)


def validate(shape: type[R], values: dict[str, Any], dialect: Dialect) -> R:
    """Validate form fields, which are all text; raises as `parse`."""
    try:
        return shape.model_validate(values)
    except ValidationError as error:
        refuse(_details(error), dialect)


def _parse(shape: type[R], body: bytes, dialect: Dialect) -> R:
    try:
        _check(body)
        return shape.__pydantic_validator__.validate_json(body)
    except ValidationError as error:
        refuse(_details(error), dialect)
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        refuse([ErrorDetails(type="json_invalid", loc=(), msg=reason, input=None)], dialect)


def _details(error: ValidationError) -> list[ErrorDetails]:
    return error.errors(include_url=False, include_input=False, include_context=False)


def _check(body: bytes) -> None:
    """Refuse what parsers read differently: repeated names, NaN and Infinity, bad UTF-8."""
    json.loads(body.decode(), object_pairs_hook=_once, parse_constant=_no_constant)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the name {twice[:64]!r} is given twice")
    return found


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def refuse(details: list[ErrorDetails], dialect: Dialect) -> NoReturn:
    """Raise what `dialect` says to input that does not fit its schema."""
    if dialect is native:
        listed = [{"type": d["type"], "loc": ["body", *d["loc"]], "msg": d["msg"]} for d in details]
        raise UnprocessableError("The request does not fit its schema.", details=listed)
    first = details[0]
    param = param_of(first["loc"])
    words = _OPENAI_WORDS.get(first["type"], "Invalid value for '{param}': {msg}.")
    if not param and first["type"] != "json_invalid":
        words = "{msg}."
    msg = first["msg"].removeprefix("Value error, ").removeprefix("Invalid JSON: ").rstrip(".")
    raise BadRequestError(
        words.format(param=param, msg=msg), code="invalid_request", param=param or None
    )


def param_of(loc: tuple[int | str, ...]) -> str:
    """Write a location as OpenAI does: `messages[0].content`.

    Names of union members, which pydantic adds, are left out.
    """
    param = ""
    for part in loc:
        if isinstance(part, int):
            param += f"[{part}]"
        elif part.isidentifier() and part.islower() and part not in _UNION_MEMBERS:
            param += f".{part}" if param else part
    return param


_UNION_MEMBERS = frozenset({"str", "int", "float", "bool", "none", "text", "image_url", "function"})
