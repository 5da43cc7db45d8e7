"""Anthropic's SDK for Python."""

import base64
import json
from typing import Any, Literal

import anthropic
from pydantic import BaseModel
from report import ANIMAL, CAT, CHAT, CITY_SCHEMA, QUESTION, WEATHER, refused, report

client = anthropic.Anthropic(max_retries=0)
ASKED: dict[str, Any] = {"model": CHAT, "max_tokens": 40, "extra_body": {"temperature": 0}}


class Place(BaseModel):
    """Where it is."""

    city: Literal["Paris", "Oslo"]


def turn(content: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": content}]


def chat() -> Any:
    answer = client.messages.create(**ASKED, messages=turn(QUESTION))
    return {"text": answer.content[0].text, "tokens": answer.usage.output_tokens}


def stream() -> Any:
    with client.messages.stream(**ASKED, messages=turn(QUESTION)) as events:
        return list(events.text_stream)


def tools() -> Any:
    answer = client.messages.create(
        **ASKED,
        messages=turn(WEATHER),
        tools=[{"name": "get_weather", "input_schema": CITY_SCHEMA}],
        tool_choice={"type": "any"},
    )
    (call,) = answer.content
    return {"name": call.name, "arguments": call.input}


def structured() -> Any:
    answer = client.messages.parse(**ASKED, messages=turn(WEATHER), output_format=Place)
    return answer.parsed_output.model_dump()


def image() -> Any:
    data = base64.b64encode(CAT.read_bytes()).decode()
    source = {"type": "base64", "media_type": "image/jpeg", "data": data}
    parts = [{"type": "image", "source": source}, {"type": "text", "text": ANIMAL}]
    return client.messages.create(**ASKED, messages=turn(parts)).content[0].text


def error() -> Any:
    try:
        client.messages.create(model="no-such-model", max_tokens=1, messages=turn(QUESTION))
    except anthropic.NotFoundError as refusal:
        return refused(refusal, json.dumps(refusal.body))


report(
    chat=chat,
    stream=stream,
    tools=tools,
    structured=structured,
    image=image,
    error=error,
)
