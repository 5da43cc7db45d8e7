"""JSON schemas from strangers: refused before the engine sees them, or answered in time."""

import time
from typing import Any

import httpx2
import pytest

from tests.serving import LiveServer

LONGEST_S = 10.0  # four tokens with the heaviest schema that is let in; it takes half a second


def nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(depth):
        schema = {"type": "array", "items": schema}
    return schema


def doubling(levels: int) -> dict[str, Any]:
    """Two ways at every level: small to write, and 2 to the power of `levels` ways to begin."""
    definitions: dict[str, Any] = {f"d{levels}": {"type": "string"}}
    for level in range(levels):
        following = {"$ref": f"#/$defs/d{level + 1}"}
        definitions[f"d{level}"] = {"anyOf": [following, following]}
    return {"$defs": definitions, "$ref": "#/$defs/d0"}


def pattern(text: str) -> dict[str, Any]:
    return {"type": "string", "pattern": f"^{text}$"}


REFUSED: dict[str, dict[str, Any]] = {
    "nested 60 deep": nested(60),
    "501 properties": {"properties": {f"p{n}": {} for n in range(501)}},
    "501 values": {"enum": list(range(501))},
    "501 alternatives": {"anyOf": [{"const": n} for n in range(501)]},
    "a thousand ways to begin": doubling(10),
    "more ways to begin than there are atoms": doubling(300),
    "100 KB": {"const": "x" * 100_000},
    "a number of 100 bits": {"type": "integer", "minimum": 2**100},
    "a pattern of 300 letters": pattern("a" * 300),
    "nested quantifiers": pattern("(a+)+"),
    "quantifiers for a hundred": pattern("a?" * 100),
    "many alternatives, many times": pattern("(a|b|c|d|e|f|g|h|i|j|k)*" * 12),
    "an address": {"$ref": "https://example.org/schema.json"},
    "a file": {"$ref": "file:///etc/passwd"},
    "a type that is none": {"type": "nonsense"},
    "properties that are a list": {"type": "object", "properties": []},
    "a definition that is not there": {"$ref": "#/$defs/nowhere"},
    "a circle that says nothing": {"$defs": {"a": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"},
    "a billion letters": {"type": "string", "minLength": 10**9},
}
TAKEN: dict[str, dict[str, Any]] = {
    "nothing": {},
    "nested 30 deep": nested(30),
    "500 properties": {"type": "object", "properties": {f"p{n}": {} for n in range(500)}},
    "200 values": {"enum": [f"value {n}" for n in range(200)]},
    "a tree": {
        "$defs": {
            "node": {
                "type": "object",
                "properties": {"next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]}},
            }
        },
        "$ref": "#/$defs/node",
    },
    "an address of mail": pattern(r"[\w.+-]+@[\w-]+\.[\w.-]+"),
    "signs that are quantifiers elsewhere": pattern(r"[+*?{]\+\*"),
    "a property that is named like a keyword": {
        "type": "object",
        "properties": {"pattern": {"type": "string"}, "$ref": {"type": "string"}},
    },
}


def ask(server: LiveServer, schema: dict[str, Any]) -> httpx2.Response:
    return server.post(
        "/v1/chat/completions",
        model="galley/chat",
        messages=[{"role": "user", "content": "Hello"}],
        max_tokens=4,
        temperature=0,
        response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": schema}},
    )


@pytest.mark.parametrize("schema", REFUSED.values(), ids=REFUSED)
def test_a_hostile_schema_is_refused(live_server: LiveServer, schema: dict[str, Any]) -> None:
    began = time.monotonic()
    refused = ask(live_server, schema)

    assert refused.status_code == 400, refused.text
    assert refused.json()["error"]["type"] == "invalid_request_error"
    assert time.monotonic() - began < LONGEST_S
    assert "x" * 100 not in refused.text


@pytest.mark.parametrize("schema", REFUSED.values(), ids=REFUSED)
def test_a_hostile_schema_is_refused_as_a_tools_parameters(
    live_server: LiveServer, schema: dict[str, Any]
) -> None:
    refused = live_server.post(
        "/v1/chat/completions",
        model="galley/chat",
        messages=[{"role": "user", "content": "Hello"}],
        max_tokens=4,
        tool_choice="required",
        tools=[{"type": "function", "function": {"name": "f", "parameters": schema}}],
    )

    assert refused.status_code == 400, refused.text


@pytest.mark.parametrize("schema", TAKEN.values(), ids=TAKEN)
def test_an_honest_schema_is_answered(live_server: LiveServer, schema: dict[str, Any]) -> None:
    began = time.monotonic()
    answer = ask(live_server, schema)

    assert answer.status_code == 200, answer.text
    assert time.monotonic() - began < LONGEST_S
