"""JSON schemas from clients, bounded: a deep one crashes llama.cpp's grammar builder."""

import re
from collections.abc import Iterator
from typing import Annotated, Any

import orjson
from pydantic import AfterValidator

MAX_BYTES = 65_536
MAX_DEPTH = 32
MAX_PROPERTIES = 500
MAX_PATTERN = 256
_NESTED_QUANTIFIER = re.compile(r"[*+}?]\)*[*+{]")
_UNSUPPORTED = ("$dynamicRef", "$recursiveRef", "unevaluatedProperties")


def check_schema(schema: dict[str, Any]) -> dict[str, Any]:
    """Return `schema` if it is small, shallow and harmless.

    Raises:
        ValueError: it is larger than 64 KB, nested deeper than 32, has more than 500 properties,
            or a `pattern` that is longer than 256 characters or nests quantifiers.
    """
    properties = 0
    for node in _nodes(schema):
        named = node.get("properties")
        properties += len(named) if isinstance(named, dict) else 0
        if properties > MAX_PROPERTIES:
            raise ValueError(f"the schema has more than {MAX_PROPERTIES} properties")
        if unknown := next((key for key in _UNSUPPORTED if key in node), None):
            raise ValueError(f"the schema uses {unknown}, which is not supported")
        _check_pattern(node.get("pattern"))
        _check_reference(node.get("$ref"))
    if len(orjson.dumps(schema)) > MAX_BYTES:
        raise ValueError(f"the schema is larger than {MAX_BYTES} bytes")
    return schema


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


def _check_pattern(pattern: object) -> None:
    if isinstance(pattern, str):
        if len(pattern) > MAX_PATTERN:
            raise ValueError(f"a pattern is longer than {MAX_PATTERN} characters")
        if _NESTED_QUANTIFIER.search(pattern):
            raise ValueError("a pattern nests quantifiers")


def _check_reference(reference: object) -> None:
    if isinstance(reference, str) and not reference.startswith("#"):
        raise ValueError("$ref may only point into the schema itself")


JsonSchema = Annotated[dict[str, Any], AfterValidator(check_schema)]
