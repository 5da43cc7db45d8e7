"""Moderation by another server, which may answer anything."""

from typing import Any

import pytest

from galley.core.errors import EngineError
from galley.engines.openai_moderator import OpenAIHttpModerator
from galley.schemas.moderations import ModerationRequest
from tests.upstream import Call, misbehaving

pytestmark = pytest.mark.anyio

GOOD = {"flagged": True, "categories": {"hate": True}, "category_scores": {"hate": 1}}


async def judge(*results: Any) -> Any:
    """What becomes of one text when the server says `results`."""

    async def answer(call: Call) -> None:
        await call.whole(200, {"results": list(results)})

    with misbehaving(answer) as server:
        engine = OpenAIHttpModerator(server.url, "theirs", api_key="secret")
        try:
            found = await engine.judge(ModerationRequest(input="a"))
        finally:
            await engine.aclose()
        (call,) = server.calls
    assert (call.path, call.headers["authorization"]) == ("/v1/moderations", "Bearer secret")
    assert call.body == {"model": "theirs", "input": "a"}
    return found


async def test_what_is_not_said_is_not_so() -> None:
    (found,) = await judge(GOOD)

    assert found.flagged
    assert [name for name, is_so in found.categories.items() if is_so] == ["hate"]
    assert found.category_scores["hate"] == 1.0
    assert found.category_scores["violence"] == 0.0
    assert found.category_applied_input_types["hate"] == []


@pytest.mark.parametrize(
    "results",
    [
        [],
        [GOOD, GOOD],
        ["flagged"],
        [GOOD | {"flagged": "yes"}],
        [GOOD | {"categories": [True]}],
        [GOOD | {"category_scores": {"hate": "much"}}],
        [GOOD | {"category_scores": {"hate": True}}],
        [GOOD | {"category_applied_input_types": {"hate": "text"}}],
    ],
    ids=str,
)
async def test_a_judgement_that_is_none_is_the_servers_failure(results: list[Any]) -> None:
    with pytest.raises(EngineError, match="server failed"):
        await judge(*results)
