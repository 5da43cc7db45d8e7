"""instructor, by tools and by JSON schema."""

from typing import Any, Literal

import instructor
from connected import client
from instructor.processing.multimodal import Image
from openai import NotFoundError
from pydantic import BaseModel, Field
from report import ANIMAL, CAT, CHAT, QUESTION, WEATHER, refused, report

by_schema = instructor.from_openai(client.client, mode=instructor.Mode.JSON_SCHEMA)
ASKED: dict[str, Any] = {"model": CHAT, "temperature": 0, "max_tokens": 60, "max_retries": 0}


class Place(BaseModel):
    """Where it is."""

    city: Literal["Paris", "Oslo"]


class Said(BaseModel):
    """What is answered."""

    text: str = Field(max_length=160)


class Animal(BaseModel):
    """What is in the picture."""

    animal: Literal["cat", "rocket"]


def turn(content: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": content}]


def chat() -> Any:
    answer = client.create(**ASKED, response_model=None, messages=turn(QUESTION))
    return {"text": answer.choices[0].message.content, "tokens": answer.usage.completion_tokens}


def stream() -> Any:
    pieces: list[str] = []
    for said in by_schema.create_partial(
        **ASKED | {"max_tokens": 100}, response_model=Said, messages=turn(QUESTION)
    ):
        pieces.append((said.text or "").removeprefix("".join(pieces)))
    return [piece for piece in pieces if piece]


def tools() -> Any:
    place, raw = client.create_with_completion(
        **ASKED, response_model=Place, messages=turn(WEATHER)
    )
    return {
        "name": raw.choices[0].message.tool_calls[0].function.name,
        "arguments": place.model_dump(),
    }


def structured() -> Any:
    return by_schema.create(**ASKED, response_model=Place, messages=turn(WEATHER)).model_dump()


def image() -> Any:
    parts = [ANIMAL, Image.from_path(CAT)]
    return by_schema.create(**ASKED, response_model=Animal, messages=turn(parts)).animal


def error() -> Any:
    try:
        client.create(
            **ASKED | {"model": "no-such-model"}, response_model=None, messages=turn(QUESTION)
        )
    except NotFoundError as refusal:
        return refused(refusal)


report(chat=chat, stream=stream, tools=tools, structured=structured, image=image, error=error)
