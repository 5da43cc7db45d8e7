"""JSON schemas from clients, bounded.

A deep one crashes llama.cpp's grammar builder; one that can begin in very many ways keeps it busy
for minutes, with every other answer waiting.
"""

import re
from collections.abc import Iterator
from typing import Annotated, Any

import orjson
from pydantic import AfterValidator

MAX_BYTES = 65_536
MAX_DEPTH = 32
MAX_PROPERTIES = 500
MAX_PATTERN = 256
MAX_CHOICES = 500
MAX_QUANTIFIERS = 16
MAX_BRANCHES = 128
# Quantifiers and bars stand for themselves in an escape and in a character class.
_LITERAL = re.compile(r"\\.|\[\^?\]?(?:\\.|[^]\\])*\]|\(\?", re.DOTALL)
_NESTED_QUANTIFIER = re.compile(r"[*+}?]\)*[*+{]")
_QUANTIFIER = re.compile(r"[*+?{]")
_UNSUPPORTED = ("$dynamicRef", "$recursiveRef", "unevaluatedProperties")


def check_schema(schema: dict[str, Any]) -> dict[str, Any]:
    """Return `schema` if it is small, shallow and harmless.

    Raises:
        ValueError: it is larger than 64 KB, nested deeper than 32, has more than 500 properties
            or choices, or a `pattern` of more than 256 characters or too many branches.
    """
    _check_size(schema)
    properties = choices = 0
    for node in _nodes(schema):
        properties += _length(node.get("properties"))
        choices += sum(_length(node.get(name)) for name in ("enum", "anyOf", "oneOf", "allOf"))
        if unknown := next((key for key in _UNSUPPORTED if key in node), None):
            raise ValueError(f"the schema uses {unknown}, which is not supported")
        _check_pattern(node.get("pattern"))
        _check_reference(node.get("$ref"))
    if properties > MAX_PROPERTIES:
        raise ValueError(f"the schema has more than {MAX_PROPERTIES} properties")
    known: dict[str, int] = {}
    if choices > MAX_CHOICES or any(
        _beginnings(node, schema, known) > MAX_CHOICES for node in _nodes(schema)
    ):
        raise ValueError(f"the schema has more than {MAX_CHOICES} choices")
    return schema


def _check_size(schema: dict[str, Any]) -> None:
    try:
        size = len(orjson.dumps(schema))
    except orjson.JSONEncodeError as error:
        deep = "Recursion" in str(error)
        fault = (
            f"is nested deeper than {MAX_DEPTH}" if deep else "has a number of more than 64 bits"
        )
        raise ValueError(f"the schema {fault}") from error
    if size > MAX_BYTES:
        raise ValueError(f"the schema is larger than {MAX_BYTES} bytes")


def _nodes(schema: dict[str, Any]) -> Iterator[dict[str, Any]]:
    waiting: list[tuple[Any, int]] = [(schema, 1)]
    while waiting:
        node, depth = waiting.pop()
        if depth > MAX_DEPTH:
            raise ValueError(f"the schema is nested deeper than {MAX_DEPTH}")
        if isinstance(node, dict):
            yield node
            waiting += [(child, depth + 1) for child in node.values()]
        elif isinstance(node, list):
            waiting += [(child, depth + 1) for child in node]


def _length(value: object) -> int:
    return len(value) if isinstance(value, list | dict) else 0


def _check_pattern(pattern: object) -> None:
    if not isinstance(pattern, str):
        return
    if len(pattern) > MAX_PATTERN:
        raise ValueError(f"a pattern is longer than {MAX_PATTERN} characters")
    plain = _LITERAL.sub("x", pattern)
    if _NESTED_QUANTIFIER.search(plain):
        raise ValueError("a pattern nests quantifiers")
    quantifiers = len(_QUANTIFIER.findall(plain))
    if quantifiers > MAX_QUANTIFIERS or (quantifiers + 1) * (plain.count("|") + 1) > MAX_BRANCHES:
        raise ValueError("a pattern has too many quantifiers and alternatives")


def _check_reference(reference: object) -> None:
    if isinstance(reference, str) and not reference.startswith("#"):
        raise ValueError("$ref may only point into the schema itself")


def _beginnings(node: Any, schema: dict[str, Any], known: dict[str, int]) -> int:
    """Count the ways in which what `node` describes can begin; `known` has those of references."""
    if not isinstance(node, dict):
        return 1
    reference = node.get("$ref")
    if isinstance(reference, str):
        if reference not in known:
            known[reference] = 1  # a circle ends here
            known[reference] = _beginnings(_target(schema, reference), schema, known)
        return known[reference]
    members = [m for name in ("anyOf", "oneOf", "allOf") for m in _items(node.get(name))]
    return sum(_beginnings(member, schema, known) for member in members) or 1


def _items(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _target(schema: dict[str, Any], reference: str) -> Any:
    found: Any = schema
    for part in reference.removeprefix("#").split("/")[1:]:
        if isinstance(found, dict):
            found = found.get(part.replace("~1", "/").replace("~0", "~"))
        elif isinstance(found, list) and part.isdecimal() and int(part) < len(found):
            found = found[int(part)]
        else:
            return None
    return found


JsonSchema = Annotated[dict[str, Any], AfterValidator(check_schema)]
