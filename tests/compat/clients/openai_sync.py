"""OpenAI's SDK for Python."""

import base64
import json
from typing import Any, Literal

import openai
from pydantic import BaseModel
from report import (
    ANIMAL,
    CAT,
    CHAT,
    CITY_SCHEMA,
    EMBEDDINGS,
    QUESTION,
    TEXTS,
    WEATHER,
    compared,
    refused,
    report,
)

client = openai.OpenAI(max_retries=0)
ASKED: dict[str, Any] = {"model": CHAT, "temperature": 0, "max_tokens": 40}


class Place(BaseModel):
    """Where it is."""

    city: Literal["Paris", "Oslo"]


def turn(content: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": content}]


def chat() -> Any:
    answer = client.chat.completions.create(**ASKED, messages=turn(QUESTION))
    return {"text": answer.choices[0].message.content, "tokens": answer.usage.completion_tokens}


def stream() -> Any:
    chunks = client.chat.completions.create(**ASKED, messages=turn(QUESTION), stream=True)
    return [c.choices[0].delta.content for c in chunks if c.choices and c.choices[0].delta.content]


def tools() -> Any:
    function = {"name": "get_weather", "parameters": CITY_SCHEMA, "strict": True}
    answer = client.chat.completions.create(
        **ASKED,
        messages=turn(WEATHER),
        tools=[{"type": "function", "function": function}],
        tool_choice="required",
    )
    (call,) = answer.choices[0].message.tool_calls
    return {"name": call.function.name, "arguments": json.loads(call.function.arguments)}


def structured() -> Any:
    answer = client.chat.completions.parse(**ASKED, messages=turn(WEATHER), response_format=Place)
    return answer.choices[0].message.parsed.model_dump()


def image() -> Any:
    url = f"data:image/jpeg;base64,{base64.b64encode(CAT.read_bytes()).decode()}"
    parts = [{"type": "text", "text": ANIMAL}, {"type": "image_url", "image_url": {"url": url}}]
    answer = client.chat.completions.create(**ASKED, messages=turn(parts))
    return answer.choices[0].message.content


def embeddings() -> Any:
    answer = client.embeddings.create(model=EMBEDDINGS, input=TEXTS)
    return compared([item.embedding for item in answer.data])


def error() -> Any:
    try:
        client.chat.completions.create(model="no-such-model", messages=turn(QUESTION))
    except openai.NotFoundError as refusal:
        return refused(refusal)


report(
    chat=chat,
    stream=stream,
    tools=tools,
    structured=structured,
    image=image,
    embeddings=embeddings,
    error=error,
)
