"""LangChain, by its chat model for Anthropic."""

import base64
import json
from typing import Any, Literal

from anthropic import NotFoundError
from langchain_anthropic import ChatAnthropic
from langchain_core.messages import HumanMessage
from pydantic import BaseModel
from report import ANIMAL, CAT, CHAT, QUESTION, WEATHER, refused, report

model = ChatAnthropic(model=CHAT, temperature=0, max_tokens=40, max_retries=0)


class Place(BaseModel):
    """Where it is."""

    city: Literal["Paris", "Oslo"]


def get_weather(city: Literal["Paris", "Oslo"]) -> str:
    """Look up the weather of a city."""
    return f"It rains in {city}."


def chat() -> Any:
    answer = model.invoke(QUESTION)
    return {"text": answer.text, "tokens": answer.usage_metadata["output_tokens"]}


def stream() -> Any:
    return [chunk.text for chunk in model.stream(QUESTION) if chunk.text]


def tools() -> Any:
    (call,) = model.bind_tools([get_weather], tool_choice="any").invoke(WEATHER).tool_calls
    return {"name": call["name"], "arguments": call["args"]}


def structured() -> Any:
    return model.with_structured_output(Place).invoke(WEATHER).model_dump()


def image() -> Any:
    data = base64.b64encode(CAT.read_bytes()).decode()
    picture = {"type": "image", "base64": data, "mime_type": "image/jpeg"}
    return model.invoke([HumanMessage([{"type": "text", "text": ANIMAL}, picture])]).text


def error() -> Any:
    try:
        ChatAnthropic(model="no-such-model", max_retries=0).invoke(QUESTION)
    except NotFoundError as refusal:
        return refused(refusal, json.dumps(refusal.body))


report(
    chat=chat,
    stream=stream,
    tools=tools,
    structured=structured,
    image=image,
    error=error,
)
