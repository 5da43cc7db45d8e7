"""LlamaIndex, by its model and embeddings for servers like OpenAI's."""

import json
from typing import Any, Literal

from connected import chat as model
from connected import embeddings as embedder
from llama_index.core.llms import ChatMessage, ImageBlock, TextBlock
from llama_index.core.tools import FunctionTool
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


def turn(*blocks: Any) -> list[ChatMessage]:
    return [ChatMessage(role="user", blocks=list(blocks))]


def chat() -> Any:
    answer = model.chat(turn(TextBlock(text=QUESTION)))
    return {"text": answer.message.content, "tokens": answer.raw.usage.completion_tokens}


def stream() -> Any:
    return [a.delta for a in model.stream_chat(turn(TextBlock(text=QUESTION))) if a.delta]


def tools() -> Any:
    function = FunctionTool.from_defaults(get_weather)
    answer = model.chat_with_tools([function], WEATHER, tool_required=True)
    (call,) = model.get_tool_calls_from_response(answer)
    return {"name": call.tool_name, "arguments": call.tool_kwargs}


def structured() -> Any:
    answer = model.as_structured_llm(Place).chat(turn(TextBlock(text=WEATHER)))
    return json.loads(answer.message.content)


def image() -> Any:
    return model.chat(turn(TextBlock(text=ANIMAL), ImageBlock(path=CAT))).message.content


def embeddings() -> Any:
    return compared(embedder.get_text_embedding_batch(TEXTS))


def error() -> Any:
    try:
        model.model_copy(update={"model": "no-such-model"}).chat(turn(TextBlock(text=QUESTION)))
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
