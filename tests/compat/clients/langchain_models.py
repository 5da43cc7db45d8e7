"""LangChain, by its chat model and embeddings for OpenAI."""

import base64
from typing import Any, Literal

from connected import chat as model
from connected import embeddings as embedder
from langchain_core.messages import HumanMessage
from openai import NotFoundError
from pydantic import BaseModel
from report import ANIMAL, CAT, QUESTION, TEXTS, WEATHER, compared, refused, report

model = model.model_copy(update={"temperature": 0, "max_tokens": 40, "max_retries": 0})


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
    (call,) = model.bind_tools([get_weather], tool_choice="required").invoke(WEATHER).tool_calls
    return {"name": call["name"], "arguments": call["args"]}


def structured() -> Any:
    return model.with_structured_output(Place).invoke(WEATHER).model_dump()


def image() -> Any:
    data = base64.b64encode(CAT.read_bytes()).decode()
    picture = {"type": "image", "base64": data, "mime_type": "image/jpeg"}
    return model.invoke([HumanMessage([{"type": "text", "text": ANIMAL}, picture])]).text


def embeddings() -> Any:
    return compared(embedder.embed_documents(TEXTS))


def error() -> Any:
    try:
        model.model_copy(update={"model_name": "no-such-model"}).invoke(QUESTION)
    except NotFoundError as refusal:
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
