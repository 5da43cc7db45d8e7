"""The document: valid, complete, and in the words that the routes really use."""

from pathlib import Path
from typing import Any, NamedTuple

import pytest
import schemathesis

from galley.dialects import anthropic, native, openai
from galley.dialects.base import dialect_of
from galley.main import create_app
from galley.routers.openapi import TAGS
from tests.serving import LiveServer, make_settings

LOGIN = {f"/v1/auth/{name}" for name in ("token", "refresh", "session", "logout")}
OPEN = {"/health", "/health/live", "/health/ready", "/metrics"}


ANTHROPIC = ((b"anthropic-version", b"2023-06-01"),)
SHAPES: dict[Any, str] = {
    openai: "ErrorReply", anthropic: "AnthropicErrorReply", native: "DetailReply",
}  # fmt: skip


class Operation(NamedTuple):
    path: str
    method: str
    said: dict[str, Any]


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder: Path = tmp_path_factory.mktemp("data")
    return create_app(make_settings(folder, folder)).openapi()


@pytest.fixture(scope="module")
def operations(document: dict[str, Any]) -> list[Operation]:
    return [
        Operation(path, method, said)
        for path, methods in document["paths"].items()
        for method, said in methods.items()
    ]


def references(part: Any) -> set[str]:
    """Every `$ref` in `part`, however deep."""
    if isinstance(part, dict):
        own = {part["$ref"]} if isinstance(part.get("$ref"), str) else set[str]()
        return own.union(*map(references, part.values()))
    return set[str]().union(*map(references, part)) if isinstance(part, list) else set()


def test_the_document_is_valid_openapi(document: dict[str, Any]) -> None:
    schemathesis.openapi.from_dict(document).validate()


def test_every_schema_is_there_and_used(document: dict[str, Any]) -> None:
    schemas = {f"#/components/schemas/{name}" for name in document["components"]["schemas"]}

    assert references(document) == schemas


def test_every_operation_has_a_name_of_its_own_a_summary_and_a_tag_that_is_explained(
    operations: list[Operation],
) -> None:
    names = [operation.said["operationId"] for operation in operations]

    assert len(set(names)) == len(names)
    for path, _, said in operations:
        assert said["summary"], path
        assert said["description"], path
        assert len(said["tags"]) == 1, path
        assert said["tags"][0] in TAGS, path


def test_every_operation_that_needs_a_key_says_so(
    operations: list[Operation], live_server: LiveServer
) -> None:
    for path, method, said in operations:
        if path in LOGIN:  # they ask for other things than a key, or for nothing
            assert "security" not in said
            continue
        answer = live_server.client.request(
            method, path, headers={"authorization": ""}, json={} if method == "post" else None
        )

        locked = answer.status_code == 401
        assert said.get("security", []) == ([{"api_key": []}] if locked else []), path
        assert locked == (path not in OPEN)


def test_every_refusal_is_described_in_the_dialect_of_its_route(
    operations: list[Operation],
) -> None:
    for path, _, said in operations:
        refusals = {status: answer for status, answer in said["responses"].items() if status >= "4"}
        shapes = {SHAPES[dialect_of(path, headers)] for headers in ((), ANTHROPIC)}
        if path in OPEN:
            shapes = {"Health"}
        else:
            assert {"401", "500"} <= refusals.keys(), path
        for status, answer in refusals.items():
            schema = answer["content"]["application/json"]["schema"]
            assert references(schema) == {f"#/components/schemas/{s}" for s in shapes}, path
            assert answer["description"], (path, status)


def test_input_that_cannot_be_used_is_422_in_our_own_dialect_and_400_in_others(
    operations: list[Operation], live_server: LiveServer
) -> None:
    posts = [operation for operation in operations if operation.method == "post"]
    for path, _, said in [post for post in posts if not post.path.endswith("/cancel")]:  # no body
        answer = live_server.post(path, nonsense=True)

        assert str(answer.status_code) in said["responses"], path
        assert answer.status_code == (422 if dialect_of(path) is native else 400), path
        assert ("422" in said["responses"]) == (answer.status_code == 422), path


def test_every_body_has_an_example(operations: list[Operation]) -> None:
    for path, _, said in operations:
        if "requestBody" in said:
            content = said["requestBody"]["content"]
            body = content.get("application/json") or content["multipart/form-data"]

            assert [example["value"] for example in body["examples"].values()], path


def test_examples_of_answers_show_no_fields_that_are_not_there(document: dict[str, Any]) -> None:
    for name, schema in document["components"]["schemas"].items():
        assert schema.get("additionalProperties") is not True, name
