"""Who is given pictures, and who is given words."""

import asyncio
import base64
from collections.abc import AsyncGenerator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from galley.core.caller import NO_KEY, Caller
from galley.core.catalogue import EMBEDDED_MODELS, ModelSettings
from galley.core.errors import BadRequestError, OverloadedError
from galley.db.record import Record
from galley.db.tables import new_id
from galley.engines.base import ChatEngine, Engine
from galley.engines.bounds import most_prompt_tokens
from galley.engines.onnx_classifier import open_classifier
from galley.schemas.chat import ChatRequest
from galley.schemas.completions import CompletionRequest
from galley.services.charge import Arrival, Charge
from galley.services.models import Loaded, Models
from galley.services.pictures import PictureService
from galley.services.sources import fetch

pytestmark = pytest.mark.anyio

NAME = "efficientnet-lite0"
CLASSIFIER = EMBEDDED_MODELS[NAME]
CAT = Path(__file__).parent.parent / "data" / "photos" / "cat.jpg"


def asked_of(**settings: Any) -> Loaded[ChatEngine]:
    return Loaded("far", (), ModelSettings(kind="chat", source="http://127.0.0.1:9/v1", **settings))


BLIND, SEEING = asked_of(), asked_of(vision=True)


@pytest.fixture
async def pictures(models_dir: Path) -> AsyncGenerator[PictureService]:
    async def open_engine(name: str, model: ModelSettings) -> Engine:
        path = fetch(name, model, models_dir)
        return await asyncio.to_thread(open_classifier, path, 1)

    models = Models({NAME: CLASSIFIER})
    await models.load(open_engine)
    with ThreadPoolExecutor(1) as opening:
        yield PictureService(models, opening)
    await models.aclose()


def charge() -> Charge:
    arrival = Arrival(new_id(), None)
    record = Record(
        request_id=arrival.request_id,
        instance_id=new_id(),
        user_id=new_id(),
        key_id=NO_KEY,
        endpoint="chat/completions",
    )
    return Charge(arrival, Caller(user_id=record.user_id), record)


def conversation(*contents: Any) -> ChatRequest:
    messages = [{"role": "user", "content": content} for content in contents]
    return ChatRequest.model_validate({"model": "m", "messages": messages, "temperature": 0.5})


def picture(file: bytes = CAT.read_bytes()) -> dict[str, Any]:
    url = f"data:image/jpeg;base64,{base64.b64encode(file).decode()}"
    return {"type": "image_url", "image_url": {"url": url}}


async def test_the_same_request_is_shown_to_one_and_told_to_the_other(
    pictures: PictureService,
) -> None:
    request = conversation("Hello", [picture(), {"type": "text", "text": "What is it?"}])
    shown = pictures.of(request)

    seen = await shown.readable_by(SEEING, charge())
    told = await shown.readable_by(BLIND, charge())

    assert seen is request
    assert isinstance(told, ChatRequest)
    assert told.temperature == 0.5
    assert told.messages[0].content == "Hello"
    assert isinstance(told.messages[1].content, str)
    description, question = told.messages[1].content.split("\n")
    assert description.startswith("[Image 1, described automatically by efficientnet-lite0")
    assert question == "What is it?"


async def test_pictures_are_described_once_however_many_models_are_asked(
    pictures: PictureService,
) -> None:
    told, paying = pictures.of(conversation([picture(), picture()])), charge()

    first = await told.readable_by(BLIND, paying)

    assert await told.readable_by(BLIND, paying) is first
    assert paying.record.units == 2


async def test_nothing_is_described_for_a_model_that_sees(pictures: PictureService) -> None:
    shown, paying = pictures.of(conversation([picture()])), charge()

    assert shown.most_described([SEEING]) == 0
    assert shown.most_described([SEEING, BLIND]) == 1
    await shown.readable_by(SEEING, paying)

    assert paying.record.units == 0


async def test_an_outline_is_never_shorter_than_the_descriptions(pictures: PictureService) -> None:
    shown = pictures.of(conversation([picture(), picture()]))
    await shown.measure()

    outlined = shown.outlined_for(BLIND)

    assert shown.outlined_for(SEEING) is shown.request
    described = await shown.readable_by(BLIND, charge())
    (most,), (found,) = most_prompt_tokens(outlined), most_prompt_tokens(described)
    assert found < most < 3 * found
    assert "451x300 pixels" in str(outlined)


async def test_a_picture_that_turns_out_damaged_costs_what_was_done_for_the_others(
    pictures: PictureService,
) -> None:
    cut = CAT.read_bytes()[:9000]
    shown, paying = pictures.of(conversation([picture(), picture(cut)])), charge()
    await shown.measure()

    with pytest.raises(BadRequestError, match="Image 2: ") as refused:
        await shown.readable_by(BLIND, paying)

    assert (refused.value.param, paying.record.units) == ("messages[0].content[1]", 1)


async def test_labels_that_are_hardly_likely_are_left_out(pictures: PictureService) -> None:
    told = await pictures.of(conversation([picture()])).readable_by(BLIND, charge())

    assert isinstance(told, ChatRequest)
    labels = str(told.messages[0].content).partition("likely: ")[2].rstrip("]").split(", ")
    assert 1 <= len(labels) <= 5
    shares = [int(label.rpartition("(")[2].removesuffix(" %)")) for label in labels]
    assert shares == sorted(shares, reverse=True)
    assert min(shares) >= 2


@pytest.mark.parametrize(
    "request_",
    [conversation("Hello"), CompletionRequest(model="m", prompt="Hello")],
    ids=["conversation", "prompt"],
)
async def test_what_has_no_pictures_stays_as_it_is(
    pictures: PictureService, request_: ChatRequest | CompletionRequest
) -> None:
    given = pictures.of(request_)
    await given.measure()

    assert given.outlined_for(BLIND) is request_
    assert given.most_described([BLIND]) == 0
    assert await given.readable_by(BLIND, charge()) is request_


async def test_while_the_classifier_loads_the_caller_is_told_to_come_back() -> None:
    with ThreadPoolExecutor(1) as opening:
        loading = PictureService(Models({NAME: CLASSIFIER}), opening)
        shown = loading.of(conversation([picture()]))

        assert await shown.readable_by(SEEING, charge())
        with pytest.raises(OverloadedError) as refused:
            shown.outlined_for(BLIND)

    assert (refused.value.code, refused.value.retry_after) == ("model_loading", 2)


async def test_a_classifier_that_could_not_be_loaded_is_as_none_at_all() -> None:
    async def fail(name: str, model: ModelSettings) -> Engine:
        raise OSError("no such file")

    models = Models({NAME: CLASSIFIER})
    await models.load(fail)
    with ThreadPoolExecutor(1) as opening:
        shown = PictureService(models, opening).of(conversation([picture()]))

        with pytest.raises(BadRequestError, match="no classifier is loaded") as refused:
            shown.outlined_for(BLIND)

    assert refused.value.code == "unsupported_content"
