"""pydantic-ai, by its agents."""

import asyncio
from typing import Any, Literal

from connected import chat as model
from connected import embedder
from pydantic import BaseModel
from pydantic_ai import Agent, BinaryContent, NativeOutput, ToolOutput
from pydantic_ai.exceptions import ModelHTTPError
from report import ANIMAL, CAT, QUESTION, TEXTS, WEATHER, compared, refused, report

agent = Agent(model, model_settings={"temperature": 0, "max_tokens": 40})


class Place(BaseModel):
    """Where it is."""

    city: Literal["Paris", "Oslo"]


def chat() -> Any:
    answer = agent.run_sync(QUESTION)
    return {"text": answer.output, "tokens": answer.usage.output_tokens}


def stream() -> Any:
    async def pieces() -> list[str]:
        async with agent.run_stream(QUESTION) as answer:
            return [piece async for piece in answer.stream_text(delta=True, debounce_by=None)]

    return asyncio.run(pieces())


def tools() -> Any:
    answer = agent.run_sync(WEATHER, output_type=ToolOutput(Place, name="get_weather"))
    (call,) = answer.all_messages()[1].tool_calls
    return {"name": call.tool_name, "arguments": call.args_as_dict()}


def structured() -> Any:
    return agent.run_sync(WEATHER, output_type=NativeOutput(Place)).output.model_dump()


def image() -> Any:
    picture = BinaryContent(CAT.read_bytes(), media_type="image/jpeg")
    return agent.run_sync([ANIMAL, picture]).output


def embeddings() -> Any:
    return compared([list(v) for v in embedder.embed_documents_sync(TEXTS).embeddings])


def error() -> Any:
    try:
        Agent(type(model)("no-such-model", provider=model._provider)).run_sync(QUESTION)
    except ModelHTTPError as refusal:
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
