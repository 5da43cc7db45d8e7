"""What the rules of a tier let in and out, in every dialect, whole and streamed."""

import asyncio
import json
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from typing import Any

import httpx2
import pytest

from galley.core.catalogue import ModelSettings
from tests.routers.office import Client, Office, Person, open_app
from tests.serving import make_settings
from tests.upstream import Call, Upstream, misbehaving

pytestmark = pytest.mark.anyio

KEY = "sk-proj-0123456789abcdefABCDEF"
MAIL = "ada@example.org"
SAID = f"Write to {MAIL}, with the key {KEY}; bye."
MASKED = "Write to [email], with the key [api_key]; bye."

MASK = {"name": "hide", "detect": ["personal_data", "secrets"], "action": "mask", "on": "output"}
STOP = {"name": "stop", "detect": ["secrets"], "action": "refuse", "on": "output"}

ASK = {"role": "user", "content": "Say it."}
ROUTES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"model": "far", "messages": [ASK]},
    "/v1/completions": {"model": "far", "prompt": "Say it.", "max_tokens": 100},
    "/v1/responses": {"model": "far", "input": "Say it."},
    "/v1/messages": {"model": "far", "messages": [ASK], "max_tokens": 100},
}
REFUSED = {"/v1/messages": "refusal"}
SIMPLE = {"messages": [ASK], "model": "far"}


class Saying:
    """A model's server that says the same to everybody, in these pieces."""

    def __init__(self, pieces: Sequence[str | dict[str, Any]]) -> None:
        self.pieces = pieces
        self.left_early = 0

    async def __call__(self, call: Call) -> None:
        await call.begin()
        try:
            for piece in self.pieces:
                delta = {"content": piece} if isinstance(piece, str) else piece
                choice: dict[str, Any] = {"index": 0, "delta": delta}
                if not call.path.endswith("/chat/completions"):
                    choice = {"index": 0, "text": piece}
                await call.events(json.dumps({"choices": [choice]}), end=False)
                await asyncio.sleep(0)
        except OSError:
            self.left_early += 1
            raise
        ended = {"index": 0, "delta": {}, "text": "", "finish_reason": "stop"}
        usage = {"prompt_tokens": 9, "completion_tokens": len(self.pieces)}
        ends = ({"choices": [ended]}, {"choices": [], "usage": usage})
        await call.events(*map(json.dumps, ends), "[DONE]")


@pytest.fixture
def upstream() -> Any:
    with misbehaving(Saying(SAID)) as upstream:
        yield upstream


@pytest.fixture
async def office(upstream: Upstream, tmp_path: Path) -> AsyncGenerator[Office]:
    model = ModelSettings(kind="chat", source=upstream.url, default=True)
    settings = make_settings(
        tmp_path, tmp_path, models={"far": model}, embedded_models=False, cache_bytes=1_000_000
    )
    async with open_app(settings) as office:
        price = {"prompt": 1_000_000, "completion": 1_000_000}
        await office.admin.put("/v1/admin/prices/far", json=price)
        while "loading" in (await office.admin.get("/health")).text:  # noqa: ASYNC110 - it tells nobody
            await asyncio.sleep(0.01)
        yield office


@pytest.fixture
async def ada(office: Office) -> Person:
    return await office.hire("ada@example.org", tier="free")


async def rule(office: Office, *rules: dict[str, Any]) -> None:
    """Give ada's tier these rules."""
    made = await office.admin.put("/v1/admin/tiers/free", json={"filters": rules})
    assert made.status_code == 200, made.text


async def receipt(client: Client, answer: httpx2.Response) -> dict[str, Any]:
    path = f"/v1/requests/{answer.headers['request-id']}"
    async with asyncio.timeout(5):  # nobody waits for that of a refusal
        while "timings" not in (found := await client.get(path)).text:  # noqa: ASYNC110 - it tells nobody
            await asyncio.sleep(0.01)
    return found.json()


def events(answer: httpx2.Response) -> list[dict[str, Any]]:
    lines = [line.removeprefix("data: ") for line in answer.text.splitlines()]
    return [json.loads(line) for line in lines if line.startswith("{")]


def text_of(path: str, answer: httpx2.Response) -> str:
    """The text of a whole answer, or of a stream's pieces."""
    if "event-stream" not in answer.headers["content-type"]:
        found = answer.json()
        if path == "/v1/responses":
            return "".join(p["text"] for item in found["output"] for p in item["content"])
        if path == "/v1/messages":
            return "".join(block["text"] for block in found["content"])
        choice = found["choices"][0]
        return choice["text"] if "text" in choice else choice["message"]["content"]
    said = ""
    for event in events(answer):
        if event.get("type") in ("content_block_delta", "response.output_text.delta"):
            delta = event["delta"]
            said += delta if isinstance(delta, str) else delta["text"]
        for choice in event.get("choices", []):
            said += choice.get("text") or choice.get("delta", {}).get("content") or ""
    return said


def ending_of(path: str, answer: httpx2.Response) -> str | None:
    """Why an answer ended, in the words of its route."""
    streamed = "event-stream" in answer.headers["content-type"]
    found = events(answer) if streamed else [answer.json()]
    if path == "/v1/messages":
        told = [one["delta"] for one in found if one["type"] == "message_delta"] or found
        return told[-1]["stop_reason"]
    if path == "/v1/responses":
        whole = found[-1]["response"] if streamed else found[-1]
        return (whole["incomplete_details"] or {}).get("reason")
    return [c["finish_reason"] for one in found for c in one["choices"] if c["finish_reason"]][-1]


@pytest.mark.parametrize("stream", [False, True])
async def test_what_is_masked_leaves_in_no_dialect(
    office: Office, ada: Person, stream: bool
) -> None:
    await rule(office, MASK)

    for path, body in ROUTES.items():
        answer = await ada.client.post(path, json=body | {"stream": stream})

        assert answer.status_code == 200
        assert text_of(path, answer) == MASKED
        assert KEY not in answer.text
        found = await receipt(ada.client, answer)
        assert found["detail"]["filters"] == [
            {"rule": "hide", "found": "email", "action": "mask", "on": "output", "count": 1},
            {"rule": "hide", "found": "api_key", "action": "mask", "on": "output", "count": 1},
        ]
        assert found["completion_tokens"] == len(SAID)


@pytest.mark.parametrize("stream", [False, True])
async def test_what_is_refused_ends_the_answer_and_what_was_made_is_billed(
    office: Office, ada: Person, upstream: Upstream, stream: bool
) -> None:
    await rule(office, STOP)
    upstream.behaviour = Saying(list(SAID) + ["And so on. "] * 5000)

    for path, body in ROUTES.items():
        answer = await ada.client.post(path, json=body | {"stream": stream})

        found = await receipt(ada.client, answer)
        assert answer.status_code == 200
        assert text_of(path, answer) == f"Write to {MAIL}, with the key "
        assert ending_of(path, answer) == REFUSED.get(path, "content_filter")
        assert found["state"] == "completed"
        assert found["detail"]["filters"][0]["action"] == "refuse"
        until = SAID.index(KEY) + len(KEY)
        assert until <= found["completion_tokens"] < 4000, "nothing more was made for it"
        assert found["prompt_tokens"] > 0
        assert found["cost"] == found["prompt_tokens"] + found["completion_tokens"]


async def test_the_simple_chat_has_what_is_masked_and_an_error_for_what_is_refused(
    office: Office, ada: Person
) -> None:
    await rule(office, MASK)
    masked = [await ada.client.post(path, json=SIMPLE) for path in ("/chat", "/chat/stream")]
    await rule(office, STOP)
    refused, broken_off = [
        await ada.client.post(path, json=SIMPLE) for path in ("/chat", "/chat/stream")
    ]

    assert masked[0].json() == {"response": MASKED}
    assert "".join(event["delta"] for event in events(masked[1])) == MASKED
    assert (refused.status_code, "filter" in refused.json()["detail"]) == (403, True)
    *_, last = events(broken_off)
    assert last == refused.json()
    assert "[DONE]" not in broken_off.text
    assert KEY not in refused.text + broken_off.text
    assert (await receipt(ada.client, refused))["completion_tokens"] > 0


async def test_the_arguments_of_tool_calls_are_filtered_too(
    office: Office, ada: Person, upstream: Upstream
) -> None:
    await rule(office, MASK)
    call = {"index": 0, "id": "c1", "type": "function", "function": {"name": "send"}}
    arguments = [{"index": 0, "function": {"arguments": one}} for one in f'{{"to": "{MAIL}"}}']
    other = {"index": 1, "id": "c2", "type": "function", "function": {"name": KEY}}
    pieces = [call, *arguments, other, {"index": 1, "function": {"arguments": "{}"}}]
    upstream.behaviour = Saying(["On ", "it.", *({"tool_calls": [piece]} for piece in pieces)])
    tools = [{"type": "function", "function": {"name": "send"}}]
    asked = ROUTES["/v1/chat/completions"] | {"tools": tools}

    whole = (await ada.client.post("/v1/chat/completions", json=asked)).json()
    streamed = events(await ada.client.post("/v1/chat/completions", json=asked | {"stream": True}))

    message = whole["choices"][0]["message"]
    assert message["content"] == "On it."
    assert [call["function"] for call in message["tool_calls"]] == [
        {"name": "send", "arguments": '{"to": "[email]"}'},
        {"name": "[api_key]", "arguments": "{}"},
    ]
    deltas = [choice["delta"] for event in streamed for choice in event["choices"]]
    order = ["text" if delta.get("content") else "call" for delta in deltas if len(delta) == 1]
    assert order == sorted(order, reverse=True), "the text before the calls"
    joined = ["", ""]
    for delta in deltas:
        for part in delta.get("tool_calls", []):
            joined[part["index"]] += part["function"]["arguments"]
    assert joined == ['{"to": "[email]"}', "{}"]


async def test_of_several_answers_each_is_filtered_for_itself(
    office: Office, ada: Person, upstream: Upstream
) -> None:
    await rule(office, STOP)
    answers = iter([f"It is {KEY}.", "It is nothing."])

    async def in_turn(call: Call) -> None:
        await Saying([next(answers)])(call)

    upstream.behaviour = in_turn
    asked = ROUTES["/v1/chat/completions"] | {"n": 2}

    answer = (await ada.client.post("/v1/chat/completions", json=asked)).json()

    found = {(c["message"]["content"], c["finish_reason"]) for c in answer["choices"]}
    assert found == {("It is ", "content_filter"), ("It is nothing.", "stop")}


async def test_a_request_that_is_refused_reaches_no_model_and_costs_nothing(
    office: Office, ada: Person, upstream: Upstream
) -> None:
    await rule(office, STOP | {"on": "input"})
    secret = {"role": "user", "content": [{"type": "text", "text": f"My key is {KEY}."}]}

    refused = [
        await ada.client.post("/v1/chat/completions", json={"model": "far", "messages": [secret]}),
        await ada.client.post("/v1/completions", json={"model": "far", "prompt": ["a", KEY]}),
        await ada.client.post("/v1/responses", json={"model": "far", "input": KEY}),
        await ada.client.post("/chat/stream", json={"messages": [secret]}),
    ]
    message = await ada.client.post(
        "/v1/messages", json={"model": "far", "messages": [secret], "max_tokens": 9}
    )

    assert [answer.status_code for answer in (*refused, message)] == [400] * 5
    assert {answer.json()["error"]["code"] for answer in refused[:3]} == {"content_filtered"}
    assert message.json()["error"]["details"]["error_code"] == "content_filtered"
    assert not any(KEY in answer.text for answer in (*refused, message))
    assert upstream.calls == []
    row = await receipt(ada.client, refused[0])
    assert (row["state"], row["cost"]) == ("refused", 0)
    assert row["detail"]["filters"][0]["on"] == "input"


async def test_the_model_is_told_what_is_masked_and_the_rest_as_it_was(
    office: Office, ada: Person, upstream: Upstream
) -> None:
    await rule(office, MASK | {"on": "input"})
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": f'["{MAIL}"]'}}
    schema = {"type": "object", "properties": {"to": {"type": "string", "default": MAIL}}}
    asked = {
        "model": "far",
        "messages": [
            {"role": "system", "content": f"You are {MAIL}."},
            {"role": "user", "content": [{"type": "text", "text": f"Hi, {KEY}!"}]},
            {"role": "assistant", "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "c1", "content": f"sent to {MAIL}"},
        ],
        "tools": [
            {"type": "function", "function": {"name": "f", "description": MAIL,
                                              "parameters": schema}}
        ],
    }  # fmt: skip

    answer = await ada.client.post("/v1/chat/completions", json=asked)

    told = upstream.calls[0].body
    assert text_of("/v1/chat/completions", answer) == SAID, "only what is asked is masked"
    assert [turn.get("content") for turn in told["messages"]] == [
        "You are [email].", [{"type": "text", "text": "Hi, [api_key]!"}], None, "sent to [email]",
    ]  # fmt: skip
    assert told["messages"][2]["tool_calls"][0]["function"]["arguments"] == '["[email]"]'
    assert MAIL not in json.dumps(told)


async def test_a_long_text_is_masked_to_its_end(
    office: Office, ada: Person, upstream: Upstream
) -> None:
    await rule(office, MASK | {"on": "input"})
    text = f"{'Lorem ipsum dolor sit amet. ' * 2000}{MAIL} " * 3
    asked = {"model": "far", "messages": [{"role": "user", "content": text}]}

    answer = await ada.client.post("/v1/chat/completions", json=asked)

    assert answer.status_code == 200
    assert upstream.calls[0].body["messages"][0]["content"] == text.replace(MAIL, "[email]")
    assert (await receipt(ada.client, answer))["detail"]["filters"][0]["count"] == 3


@pytest.mark.parametrize("stream", [False, True])
async def test_a_piece_of_an_answer_may_be_long(
    office: Office, ada: Person, upstream: Upstream, stream: bool
) -> None:
    await rule(office, MASK)
    upstream.behaviour = Saying([f"{'Lorem ipsum. ' * 2000}{MAIL} " * 2])
    asked = ROUTES["/v1/chat/completions"] | {"stream": stream}

    answer = await ada.client.post("/v1/chat/completions", json=asked)

    expected = f"{'Lorem ipsum. ' * 2000}[email] " * 2
    assert text_of("/v1/chat/completions", answer) == expected


async def test_what_is_flagged_leaves_as_it_is_and_is_noted(office: Office, ada: Person) -> None:
    await rule(office, MASK | {"action": "flag", "on": "both"})
    asked = ROUTES["/v1/chat/completions"] | {"stream": True, "logprobs": True}

    answer = await ada.client.post("/v1/chat/completions", json=asked)

    assert text_of("/v1/chat/completions", answer) == SAID
    found = (await receipt(ada.client, answer))["detail"]["filters"]
    assert {(one["found"], one["action"], one["on"]) for one in found} == {
        ("email", "flag", "output"), ("api_key", "flag", "output"),
    }  # fmt: skip


async def test_a_pattern_of_ones_own_is_found_whatever_its_case(
    office: Office, ada: Person
) -> None:
    await rule(office, {"name": "letter", "pattern": r"write to [a-z@.]{1,20}", "action": "mask"})

    answer = await ada.client.post("/v1/messages", json=ROUTES["/v1/messages"])

    assert text_of("/v1/messages", answer).startswith("[letter], with the key sk-")


async def test_nothing_leads_around_a_filter(office: Office, ada: Person) -> None:
    await rule(office, MASK | {"on": "both"})
    chat = ROUTES["/v1/chat/completions"] | {"logprobs": True, "top_logprobs": 2}

    refused = [
        await ada.client.post("/v1/chat/completions", json=chat),
        await ada.client.post("/v1/completions", json=ROUTES["/v1/completions"] | {"logprobs": 0}),
        await ada.client.post("/v1/completions", json={"model": "far", "prompt": [1, 2, 3]}),
    ]

    errors = [answer.json()["error"] for answer in refused]
    assert [answer.status_code for answer in refused] == [400, 400, 400]
    assert [error["param"] for error in errors] == ["logprobs", "logprobs", "prompt"]
    assert {error["code"] for error in errors} == {"unsupported_parameter"}


@pytest.mark.parametrize("stream", [False, True])
async def test_neither_thoughts_nor_logprobs_nobody_asked_for_let_it_out(
    office: Office, ada: Person, upstream: Upstream, stream: bool
) -> None:
    await rule(office, MASK)

    async def thinks_aloud(call: Call) -> None:
        await call.begin()
        logprobs = {"content": [{"token": KEY, "logprob": -0.1, "top_logprobs": []}]}
        thoughts = [
            {"index": 0, "delta": {"reasoning_content": part}} for part in (KEY[:9], KEY[9:])
        ]
        said = {"index": 0, "delta": {"content": f"{KEY}."}, "logprobs": logprobs}
        ended = {"index": 0, "delta": {}, "finish_reason": "stop"}
        pieces = [json.dumps({"choices": [choice]}) for choice in (*thoughts, said, ended)]
        await call.events(*pieces, "[DONE]")

    upstream.behaviour = thinks_aloud
    asked = ROUTES["/v1/chat/completions"] | {"stream": stream}

    answer = await ada.client.post("/v1/chat/completions", json=asked)

    assert answer.status_code == 200
    assert KEY not in answer.text
    assert KEY[9:] not in answer.text
    assert answer.text.count("[api_key]") == 2
    assert text_of("/v1/chat/completions", answer) == "[api_key]."


async def test_what_is_cached_goes_through_the_rules_of_whoever_gets_it(
    office: Office, ada: Person, upstream: Upstream
) -> None:
    asked = ROUTES["/v1/chat/completions"] | {"temperature": 0}

    async def ask() -> tuple[str, str | None]:
        answer = await ada.client.post("/v1/chat/completions", json=asked)
        return text_of("/v1/chat/completions", answer), answer.headers.get("galley-cache")

    await rule(office)
    plain = await ask()
    await rule(office, MASK)
    masked = await ask()
    await rule(office, STOP)
    refused = await ask()
    await rule(office)
    again = await ask()

    assert plain == (SAID, None)
    assert masked == (MASKED, "exact")
    assert refused == (f"Write to {MAIL}, with the key ", "exact")
    assert again == (SAID, "exact")
    assert len(upstream.calls) == 1


async def test_an_answer_that_was_refused_is_not_kept(
    office: Office, ada: Person, upstream: Upstream
) -> None:
    asked = ROUTES["/v1/chat/completions"] | {"temperature": 0}
    await rule(office, STOP)
    await ada.client.post("/v1/chat/completions", json=asked)
    await rule(office)

    answer = await ada.client.post("/v1/chat/completions", json=asked)

    assert text_of("/v1/chat/completions", answer) == SAID
    assert len(upstream.calls) == 2


async def test_a_stored_response_is_kept_as_it_left(office: Office, ada: Person) -> None:
    await rule(office, MASK)
    made = (await ada.client.post("/v1/responses", json=ROUTES["/v1/responses"])).json()
    await rule(office)

    found = await ada.client.get(f"/v1/responses/{made['id']}")

    assert found.json()["output"][0]["content"][0]["text"] == MASKED


async def test_other_tiers_are_left_alone(office: Office, ada: Person) -> None:
    await rule(office, MASK)

    answer = await office.admin.post("/v1/chat/completions", json=ROUTES["/v1/chat/completions"])

    assert text_of("/v1/chat/completions", answer) == SAID
    assert (await receipt(office.admin, answer))["detail"]["filters"] == []


async def test_what_was_held_back_when_a_model_breaks_off_does_not_leave(
    office: Office, ada: Person, upstream: Upstream
) -> None:
    await rule(office, MASK)

    async def breaks_off(call: Call) -> None:
        await call.begin()
        await call.events(call.piece("The key: "), call.piece(KEY), end=False)
        call.writer.transport.abort()

    upstream.behaviour = breaks_off
    asked = ROUTES["/v1/chat/completions"] | {"stream": True}

    answer = await ada.client.post("/v1/chat/completions", json=asked)

    assert KEY not in answer.text
    assert events(answer)[-1]["error"]["type"] == "api_error"


BAD_RULES: list[Any] = [
    [{"name": "a", "action": "mask"}],
    [{"name": "a", "action": "mask", "detect": ["email"], "pattern": "b"}],
    [{"name": "a", "action": "mask", "detect": ["emails"]}],
    [{"name": "a", "action": "delete", "detect": ["email"]}],
    [{"name": "a", "action": "mask", "detect": ["email"], "on": "side"}],
    [{"name": "A b", "action": "mask", "detect": ["email"]}],
    [{"name": "a", "action": "mask", "pattern": "(a+)+b"}],
    [{"name": "a", "action": "mask", "pattern": "[z-a]"}],
    [{"name": "a", "action": "mask", "pattern": "a?"}],
    [{"name": "a", "action": "mask", "pattern": "(" * 200}],
    [{"name": "a", "action": "mask", "pattern": "a{1,99999}"}],
    [{"name": "a", "action": "mask", "detect": ["email"], "more": 1}],
    [{"name": "a", "action": "mask", "detect": ["email"]}] * 2,
    [{"name": f"r{n}", "action": "mask", "detect": ["email"]} for n in range(33)],
    {"name": "a"},
]


async def test_a_rule_that_makes_no_sense_is_refused(office: Office) -> None:
    for rules in BAD_RULES:
        refused = await office.admin.put("/v1/admin/tiers/free", json={"filters": rules})

        assert refused.status_code == 422, rules


async def test_rules_are_shown_and_are_kept_in_the_log_of_admins(office: Office) -> None:
    await rule(office, MASK, STOP)

    tiers = (await office.admin.get("/v1/admin/tiers")).json()["data"]
    (event, *_) = await office.audit()

    shown = next(tier["filters"] for tier in tiers if tier["name"] == "free")
    assert [one["name"] for one in shown] == ["hide", "stop"]
    assert [one["name"] for one in event["after"]["filters"]] == ["hide", "stop"]
