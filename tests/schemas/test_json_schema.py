import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from galley.schemas.json_schema import (
    MAX_CHOICES,
    MAX_DEPTH,
    MAX_PATTERN,
    MAX_PROPERTIES,
    check_schema,
)
from tests.schemas.bodies import json_values

REFERENCES = st.sampled_from(
    ["#", "#/$defs/a", "#/$defs/b", "#/anyOf/0", "#/x/999", "#/~0~1~", "#a", "", "http://a/b"]
)
KEYWORDS = [
    "type", "properties", "items", "anyOf", "oneOf", "allOf", "enum", "const", "pattern", "$ref",
    "$defs", "a", "b", "minLength", "$dynamicRef",
]  # fmt: skip
# As a client writes them, with values of every type where a keyword wants another.
schemas = st.dictionaries(
    st.sampled_from(KEYWORDS) | st.text(max_size=5),
    st.recursive(
        json_values | REFERENCES,
        lambda inner: st.one_of(
            st.lists(inner, max_size=4),
            st.dictionaries(st.sampled_from(KEYWORDS), inner, max_size=4),
        ),
        max_leaves=30,
    ),
    max_size=6,
)


def nested(depth: int, keyword: str = "items") -> dict[str, Any]:
    """A schema of `depth` objects, one inside the other."""
    schema: dict[str, Any] = {}
    for _ in range(depth - 1):
        schema = {keyword: schema}
    return schema


def wide(names: int) -> dict[str, Any]:
    """An object of `names` properties."""
    return {"properties": {f"p{i}": {"type": "string"} for i in range(names)}}


def doubling(levels: int) -> dict[str, Any]:
    """References that each stand for two of the next: 2 ** `levels` ways to begin."""
    definitions: dict[str, Any] = {f"d{levels}": {"const": 1}}
    for i in range(levels):
        definitions[f"d{i}"] = {"anyOf": [{"$ref": f"#/$defs/d{i + 1}"}] * 2}
    return {"$ref": "#/$defs/d0", "$defs": definitions}


def pattern(text: str) -> dict[str, Any]:
    return {"properties": {"a": {"type": "string", "pattern": text}}}


def refusal(schema: dict[str, Any]) -> str | None:
    """Why `schema` is refused, or nothing where it is returned as it came."""
    try:
        returned = check_schema(schema)
    except ValueError as error:
        return str(error)
    assert returned is schema
    return None


@given(schema=schemas)
def test_any_object_is_returned_as_it_is_or_refused(schema: dict[str, Any]) -> None:
    before = repr(schema)

    reason = refusal(schema)

    assert reason != ""
    assert len(reason or "") < 200
    assert repr(schema) == before


@given(text=st.text(max_size=300) | st.from_regex(r"[ab.*+?{}()|\[\]\\^-]{0,300}", fullmatch=True))
def test_any_pattern_is_judged_at_once(text: str) -> None:
    start = time.perf_counter()

    reason = refusal(pattern(text))

    assert reason is None or "pattern" in reason
    assert time.perf_counter() - start < 0.25


@pytest.mark.parametrize(
    "schema",
    [
        {},
        nested(MAX_DEPTH),
        wide(MAX_PROPERTIES),
        {"enum": [*range(MAX_CHOICES)]},
        doubling(8),
        pattern("a" * MAX_PATTERN),
        pattern(r"^[\w.+-]+@[\w-]+\.[\w.]+$"),
        pattern(r"^\d{4}-\d{2}-\d{2}$"),
        pattern(r"^(?:red|green|blue)$"),
        pattern(r"[*+?{]\*\+"),
        {"$ref": "#"},
        {"properties": {"next": {"$ref": "#"}}},
        {"$ref": "#/$defs/missing"},
        {"$ref": "#/anyOf/0", "anyOf": [{"const": 1}]},
        {"$ref": "#/anyOf/first", "anyOf": [{"const": 1}]},
        {"$ref": "#/anyOf/7/x", "anyOf": [{"const": 1}]},
        {"$ref": "#/$ref/x"},
        {"const": {"$comment": 1.5, "pattern": 7, "anyOf": "x", "properties": None}},
    ],
    ids=lambda schema: str(schema)[:40],
)
def test_an_ordinary_schema_is_taken(schema: dict[str, Any]) -> None:
    assert check_schema(schema) is schema


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        (nested(MAX_DEPTH + 1), "nested deeper than 32"),
        (nested(200, "allOf"), "nested deeper than 32"),
        (nested(50_000), "nested deeper than 32"),
        (wide(MAX_PROPERTIES + 1), "more than 500 properties"),
        ({"$defs": {"a": wide(300), "b": wide(300)}}, "more than 500 properties"),
        ({"enum": [*range(MAX_CHOICES + 1)]}, "more than 500 choices"),
        ({"anyOf": [{"const": i} for i in range(MAX_CHOICES + 1)]}, "more than 500 choices"),
        (doubling(10), "more than 500 choices"),
        ({"const": "x" * 70_000}, "larger than 65536 bytes"),
        ({"minimum": 2**64}, "more than 64 bits"),
        ({"$dynamicRef": "#a"}, "uses $dynamicRef"),
        ({"$ref": "http://example.com/schema"}, "point into the schema itself"),
        (pattern("a" * (MAX_PATTERN + 1)), "longer than 256"),
        (pattern("(a+)+"), "nests quantifiers"),
        (pattern("((a*))*"), "nests quantifiers"),
        (pattern("(a{1,9}){1,9}"), "nests quantifiers"),
        (pattern("(?:x?)+"), "nests quantifiers"),
        (pattern("a?b" * 17), "too many quantifiers"),
        (pattern("|".join("a" * 128) + "?"), "too many quantifiers and alternatives"),
        (pattern("(?:a|b|c)+x" * 8), "too many quantifiers and alternatives"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_hostile_schema_is_refused_with_the_reason(schema: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason.replace("$", r"\$")):
        check_schema(schema)
