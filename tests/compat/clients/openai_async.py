"""OpenAI's asynchronous SDK for Python, by its Responses."""

import asyncio
import base64
import json
from collections.abc import Awaitable, Callable
from functools import partial
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

ASKED: dict[str, Any] = {"model": CHAT, "temperature": 0, "max_output_tokens": 40, "store": False}


class Place(BaseModel):
    """Where it is."""

    city: Literal["Paris", "Oslo"]


async def chat(client: openai.AsyncOpenAI) -> Any:
    answer = await client.responses.create(**ASKED, input=QUESTION)
    return {"text": answer.output_text, "tokens": answer.usage.output_tokens}


async def stream(client: openai.AsyncOpenAI) -> Any:
    async with client.responses.stream(**ASKED, input=QUESTION) as events:
        found = [event async for event in events]
    pieces = [event.delta for event in found if event.type == "response.output_text.delta"]
    assert found[-1].type in {"response.completed", "response.incomplete"}
    assert found[-1].response.output_text == "".join(pieces)
    return pieces


async def tools(client: openai.AsyncOpenAI) -> Any:
    answer = await client.responses.create(
        **ASKED,
        input=WEATHER,
        tools=[{"type": "function", "name": "get_weather", "parameters": CITY_SCHEMA}],
        tool_choice="required",
    )
    (call,) = answer.output
    return {"name": call.name, "arguments": json.loads(call.arguments)}


async def structured(client: openai.AsyncOpenAI) -> Any:
    answer = await client.responses.parse(**ASKED, input=WEATHER, text_format=Place)
    return answer.output_parsed.model_dump()


async def image(client: openai.AsyncOpenAI) -> Any:
    url = f"data:image/jpeg;base64,{base64.b64encode(CAT.read_bytes()).decode()}"
    parts = [
        {"type": "input_text", "text": ANIMAL},
        {"type": "input_image", "image_url": url, "detail": "auto"},
    ]
    answer = await client.responses.create(**ASKED, input=[{"role": "user", "content": parts}])
    return answer.output_text


async def embeddings(client: openai.AsyncOpenAI) -> Any:
    answer = await client.embeddings.create(model=EMBEDDINGS, input=TEXTS)
    return compared([item.embedding for item in answer.data])


async def error(client: openai.AsyncOpenAI) -> Any:
    try:
        await client.responses.create(model="no-such-model", input=QUESTION)
    except openai.NotFoundError as refusal:
        return refused(refusal)


async def connected(ask: Callable[[openai.AsyncOpenAI], Awaitable[Any]]) -> Any:
    async with openai.AsyncOpenAI(max_retries=0) as client:
        return await ask(client)


asked = (chat, stream, tools, structured, image, embeddings, error)
report(**{ask.__name__: partial(asyncio.run, connected(ask)) for ask in asked})
