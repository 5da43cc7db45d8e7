"""Pictures in conversations: seen by models that can, described to those that cannot."""

import asyncio
import base64
import io
import json
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
from PIL import Image

from galley.core.catalogue import EMBEDDED_MODELS, ModelSettings, RouteSettings
from galley.core.settings import Settings
from galley.db.session import open_database
from galley.services.pricing import Pricing
from galley.services.sources import fetch
from tests.engines.projectors import TOKENS, write_projector
from tests.routers.test_bad_images import BOMBS, CUT, ELSE
from tests.routers.test_bad_input import LONGEST_SILENCE_S, pinging
from tests.serving import LiveServer, make_settings, serving
from tests.upstream import Call, Upstream, misbehaving

PHOTOS = Path(__file__).parent.parent / "data" / "photos"
CAT, ROCKET = ((PHOTOS / name).read_bytes() for name in ("cat.jpg", "rocket.jpg"))
SMOLLM = EMBEDDED_MODELS["smollm2-135m-instruct"]
QUESTION = "What animal is in this picture?"
SEEN_AS = (
    "[Image 1, described automatically by efficientnet-lite0 because this model cannot see:"
    " 451x300 pixels; mostly brown; likely: Egyptian cat ("
)
SLOWEST_S = 1.0  # a refusal takes milliseconds; this is for a machine that is busy with more


@dataclass
class Gateway:
    """A server with a model elsewhere that reads (`reader`) and one that sees (`seer`).

    `ill` sees and fails, and on the route `either` is followed by `reader`; `eyes` is llama.cpp.
    """

    server: LiveServer
    upstream: Upstream

    def told(self) -> Any:
        """The content of the last message that the model elsewhere was given."""
        return self.upstream.calls[-1].body["messages"][-1]["content"]


async def say(call: Call) -> None:
    said, end = {"content": "A cat."}, {"index": 0, "finish_reason": "stop"}
    if call.body.get("stream"):
        await call.begin()
        await call.events(json.dumps({"choices": [end | {"delta": said}]}), "[DONE]")
    else:
        await call.whole(200, {"choices": [end | {"message": said}]})


async def fail(call: Call) -> None:
    await call.whole(503, {})


async def make_free(settings: Settings, *models: str) -> None:
    async with open_database(settings.database_url.get_secret_value()) as database:
        await Pricing(database.sessions).seed_free(models)


@pytest.fixture(scope="module")
def gateway(models_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("gateway")
    weights = fetch("smollm2-135m-instruct", SMOLLM, models_dir)
    eyes = write_projector(folder / "eyes.gguf", embedding=576)
    with misbehaving(say) as upstream:
        upstream.behaviours["ill"] = fail
        far = ModelSettings(kind="chat", source=upstream.url)
        models = {
            "reader": far,
            "seer": far.model_copy(update={"vision": True}),
            "ill": far.model_copy(update={"vision": True}),
            "eyes": SMOLLM.model_copy(
                update={"source": f"path:{weights}", "mmproj": f"path:{eyes}", "slots": 1}
            ),
        }
        settings = make_settings(
            folder,
            models_dir,
            models=models,
            routes={"either": RouteSettings(targets={"ill": 1}, fallbacks=("reader",))},
        )
        asyncio.run(make_free(settings, *models))
        with serving(settings) as server:
            server.until_ready()
            yield Gateway(server, upstream)


def uri(picture: bytes, kind: str = "jpeg") -> str:
    return f"data:image/{kind};base64,{base64.b64encode(picture).decode()}"


def openai_turn(*pictures: bytes, text: str = QUESTION) -> dict[str, Any]:
    parts = [{"type": "image_url", "image_url": {"url": uri(picture)}} for picture in pictures]
    return {"role": "user", "content": [{"type": "text", "text": text}, *parts]}


def block(picture: bytes) -> dict[str, Any]:
    data = base64.b64encode(picture).decode()
    source = {"type": "base64", "media_type": "image/jpeg", "data": data}
    return {"type": "image", "source": source}


def anthropic_turn(*pictures: bytes, text: str = QUESTION) -> dict[str, Any]:
    parts = [{"type": "text", "text": text}, *map(block, pictures)]
    return {"role": "user", "content": parts}


def responses_turn(*pictures: bytes, text: str = QUESTION) -> dict[str, Any]:
    parts = [{"type": "input_image", "image_url": uri(picture)} for picture in pictures]
    return {"role": "user", "content": [{"type": "input_text", "text": text}, *parts]}


def post(server: LiveServer, path: str, *pictures: bytes, **more: Any) -> httpx2.Response:
    body: dict[str, Any]
    if path == "/v1/responses":
        body = {"input": [responses_turn(*pictures)], "max_output_tokens": 16, "store": False}
    else:
        turn = anthropic_turn if path == "/v1/messages" else openai_turn
        body = {"messages": [turn(*pictures)], "max_tokens": 16}
    return server.post(path, **body | more)


PATHS = [
    ("/v1/chat/completions", False),
    ("/v1/chat/completions", True),
    ("/v1/messages", False),
    ("/v1/messages", True),
    ("/v1/responses", False),
    ("/v1/responses", True),
]
EVERY_DIALECT = pytest.mark.parametrize(("path", "stream"), PATHS)


@EVERY_DIALECT
def test_a_model_that_cannot_see_is_told_what_is_in_the_picture(
    gateway: Gateway, path: str, stream: bool
) -> None:
    answer = post(gateway.server, path, CAT, model="reader", stream=stream)

    assert answer.status_code == 200, answer.text
    assert "A cat." in answer.text
    question, description = gateway.told().split("\n")
    assert question == QUESTION
    assert description.startswith(SEEN_AS)
    assert "tabby (" in description
    assert description.endswith(" %)]")


@EVERY_DIALECT
def test_the_answer_and_its_receipt_say_that_pictures_were_described(
    gateway: Gateway, path: str, stream: bool
) -> None:
    answer = post(gateway.server, path, CAT, model="reader", stream=stream)

    assert answer.headers["galley-image-input"] == "described"
    assert gateway.server.row(answer)["ignored_fields"] == "image:described"


def test_that_joins_the_fields_that_were_ignored(gateway: Gateway) -> None:
    answer = post(gateway.server, "/v1/messages", CAT, model="reader", metadata={})

    assert gateway.server.row(answer)["ignored_fields"] == "metadata,image:described"


@EVERY_DIALECT
def test_a_model_that_sees_is_given_the_picture_as_it_is(
    gateway: Gateway, path: str, stream: bool
) -> None:
    answer = post(gateway.server, path, CAT, model="seer", stream=stream)

    text, image = gateway.told()
    assert text == {"type": "text", "text": QUESTION}
    assert image == {"type": "image_url", "image_url": {"url": uri(CAT), "detail": "auto"}}
    assert answer.headers["galley-image-input"] == "seen"
    assert gateway.server.row(answer)["ignored_fields"] is None


@EVERY_DIALECT
def test_llama_cpp_sees_with_a_projector(gateway: Gateway, path: str, stream: bool) -> None:
    plain = post(gateway.server, path, model="eyes", stream=stream)

    answer = post(gateway.server, path, CAT, model="eyes", stream=stream)

    assert answer.status_code == 200, answer.text
    assert answer.headers["galley-image-input"] == "seen"
    seen, blind = gateway.server.row(answer), gateway.server.row(plain)
    assert seen["prompt_tokens"] == blind["prompt_tokens"] + TOKENS
    assert (seen["state"], seen["ignored_fields"]) == ("completed", None)


@EVERY_DIALECT
def test_who_steps_in_is_told_what_the_first_was_shown(
    gateway: Gateway, path: str, stream: bool
) -> None:
    answer = post(gateway.server, path, CAT, model="either", stream=stream)

    assert answer.status_code == 200, answer.text
    assert SEEN_AS in gateway.told()
    assert answer.headers["galley-image-input"] == "described"
    row = gateway.server.row(answer)
    assert (row["served_model"], row["ignored_fields"]) == ("reader", "image:described")


@EVERY_DIALECT
def test_without_pictures_nothing_is_said_of_them(
    gateway: Gateway, path: str, stream: bool
) -> None:
    answer = post(gateway.server, path, model="reader", stream=stream)

    assert "galley-image-input" not in answer.headers
    assert gateway.server.row(answer)["ignored_fields"] is None


@pytest.mark.parametrize("path", ["/v1/chat", "/v1/chat/stream"])
def test_the_simple_chat_takes_pictures_too(gateway: Gateway, path: str) -> None:
    answer = post(gateway.server, path, CAT, model="reader")

    assert answer.status_code == 200, answer.text
    assert "A cat." in answer.text
    assert SEEN_AS in gateway.told()


def test_pictures_are_numbered_and_described_in_their_places(gateway: Gateway) -> None:
    first, second = openai_turn(CAT, text="One:"), openai_turn(ROCKET, text="Two:")
    both = {"role": "user", "content": [*first["content"], *second["content"]]}

    gateway.server.post("/v1/chat/completions", model="reader", messages=[both])

    one, cat, two, rocket = gateway.told().split("\n")
    assert (one, two) == ("One:", "Two:")
    assert cat.startswith(SEEN_AS)
    assert rocket.startswith("[Image 2, described automatically by efficientnet-lite0")
    assert "640x427 pixels; mostly blue; likely: " in rocket


def test_pictures_in_the_results_of_tools_are_described_too(gateway: Gateway) -> None:
    call = {"type": "tool_use", "id": "t1", "name": "camera", "input": {}}
    shown = {"type": "tool_result", "tool_use_id": "t1", "content": [block(CAT)]}
    turns = [
        {"role": "user", "content": "Look."},
        {"role": "assistant", "content": [call]},
        {"role": "user", "content": [shown]},
    ]

    answer = gateway.server.post("/v1/messages", model="reader", max_tokens=8, messages=turns)

    assert answer.status_code == 200, answer.text
    assert gateway.told().startswith(SEEN_AS)


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "GIF"])
def test_every_format_of_classify_is_taken(gateway: Gateway, kind: str) -> None:
    answer = post(gateway.server, "/v1/chat/completions", CUT[kind], model="reader")

    assert answer.status_code == 200, answer.text
    assert SEEN_AS.split(";")[0] in gateway.told()


@EVERY_DIALECT
def test_the_embedded_model_answers_about_pictures(
    live_server: LiveServer, path: str, stream: bool
) -> None:
    answer = post(live_server, path, CAT, model="galley/chat", stream=stream, temperature=0)

    assert answer.status_code == 200, answer.text
    assert answer.headers["galley-image-input"] == "described"
    row = live_server.row(answer)
    assert (row["state"], row["completion_tokens"] > 0) == ("completed", True)


def test_a_description_is_a_part_of_the_prompt_and_counted_as_such(
    live_server: LiveServer,
) -> None:
    count = "/v1/messages/count_tokens"
    shown = {"model": "galley/chat", "messages": [anthropic_turn(CAT)]}
    plain = {"model": "galley/chat", "messages": [anthropic_turn()]}

    counted = live_server.post(count, **shown)
    answer = post(live_server, "/v1/messages", CAT, model="galley/chat")

    assert counted.headers["galley-image-input"] == "described"
    tokens = counted.json()["input_tokens"]
    assert tokens == live_server.row(answer)["prompt_tokens"]
    assert tokens > live_server.post(count, **plain).json()["input_tokens"] + 40


@pytest.mark.parametrize("model", ["reader", "seer"])
@pytest.mark.parametrize(
    ("picture", "said"),
    [
        *((picture, "megapixels|damaged|cannot be read") for picture in BOMBS.values()),
        *((whole[: len(whole) // 2], "damaged|cannot be read") for whole in CUT.values()),
        *((data, "PNG, JPEG, WebP or GIF") for data in ELSE.values()),
    ],
    ids=[*BOMBS, *CUT, *ELSE],
)
def test_a_bad_picture_is_refused_at_once_and_by_its_place(
    gateway: Gateway, model: str, picture: bytes | Callable[[], bytes], said: str
) -> None:
    picture = picture() if callable(picture) else picture
    asked_before = len(gateway.upstream.calls)
    began = time.monotonic()

    refused = post(gateway.server, "/v1/chat/completions", CAT, picture, model=model)

    assert time.monotonic() - began < SLOWEST_S
    assert refused.status_code == 400, refused.text
    error = refused.json()["error"]
    assert error["code"] == "invalid_image"
    assert error["param"] == "messages[0].content[2]"
    assert error["message"].startswith("Image 2: ")
    assert any(words in error["message"] for words in said.split("|"))
    assert len(gateway.upstream.calls) == asked_before
    row = gateway.server.row(refused)
    assert row["state"] == ("failed" if row["units"] else "refused")
    assert row["units"] <= (model == "reader")  # the other one may have been described by then


@pytest.mark.parametrize("data", ["A", "AAA", "%%%%", "AAAA=AAAA", "😀"])
def test_bad_base64_is_refused_by_its_place(live_server: LiveServer, data: str) -> None:
    part = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}}
    turn = {"role": "user", "content": [part]}

    refused = live_server.post("/v1/chat/completions", model="galley/chat", messages=[turn])

    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == "messages[0].content[0]"
    assert "Invalid base64" in refused.json()["error"]["message"]


@EVERY_DIALECT
def test_every_dialect_numbers_the_bad_picture_in_its_message(
    live_server: LiveServer, path: str, stream: bool
) -> None:
    refused = post(live_server, path, CAT, CAT[:500], model="galley/chat", stream=stream)

    assert refused.status_code == 400
    assert refused.json()["error"]["type"] == "invalid_request_error"
    assert refused.json()["error"]["message"].startswith("Image 2: ")


@pytest.mark.parametrize("model", ["reader", "seer"])
def test_at_most_16_pictures_are_taken(gateway: Gateway, model: str) -> None:
    path = "/v1/chat/completions"

    taken = post(gateway.server, path, *[CAT] * 16, model=model)
    refused = post(gateway.server, path, *[CAT] * 17, model=model)

    assert taken.status_code == 200, taken.text
    assert refused.status_code == 400
    error = refused.json()["error"]
    assert (error["code"], error["param"]) == ("too_many_images", "messages[0].content[17]")
    assert "17 images; at most 16" in error["message"]


@pytest.mark.parametrize("url", ["https://example.org/cat.png", "file:///etc/passwd"])
def test_addresses_are_refused_with_what_to_send_instead(live_server: LiveServer, url: str) -> None:
    part = {"type": "image_url", "image_url": {"url": url}}
    turn = {"role": "user", "content": [part]}

    refused = live_server.post("/v1/chat/completions", model="galley/chat", messages=[turn])

    error = refused.json()["error"]
    assert refused.status_code == 400
    assert error["param"] == "messages[0].content[0].image_url.url"
    assert "addresses are not fetched" in error["message"]
    assert "data:image/...;base64," in error["message"]


@pytest.mark.parametrize(
    "source",
    [{"type": "url", "url": "https://example.org/cat.png"}, {"type": "file", "file_id": "f_1"}],
    ids=["url", "file"],
)
def test_other_sources_are_refused_with_what_to_send_instead(
    live_server: LiveServer, source: dict[str, str]
) -> None:
    turn = {"role": "user", "content": [{"type": "image", "source": source}]}

    refused = live_server.post("/v1/messages", model="galley/chat", max_tokens=8, messages=[turn])

    message = refused.json()["error"]["message"]
    assert refused.status_code == 400
    assert message.startswith("messages.0.content.0.source.type: addresses and uploaded files")
    assert "with the type base64" in message


@contextmanager
def as_user(server: LiveServer, **limits: int) -> Generator[LiveServer]:
    """The same server, used by somebody with such limits."""
    user = replace(server, key=server.key_of_new_user(limits=limits))
    with user.client:
        yield user


def test_described_pictures_count_as_pictures_whatever_describes_them(gateway: Gateway) -> None:
    path = "/v1/chat/completions"

    with as_user(gateway.server, images_per_minute=3) as user:
        described = post(user, path, CAT, ROCKET, model="reader", n=2)
        seen = post(user, path, CAT, CAT, CAT, model="seer")
        too_many = post(user, path, CAT, CAT, model="reader")
        labelled = user.post("/v2/classify", images=[{"image": base64.b64encode(CAT).decode()}])
        one_more = post(user, path, CAT, model="reader")

    answers = (described, seen, too_many, labelled, one_more)
    assert [answer.status_code for answer in answers] == [200, 200, 429, 200, 429], too_many.text
    assert [user.row(answer)["units"] for answer in answers] == [2, 0, 0, 1, 0]
    assert "3 images in any 60 seconds" in one_more.json()["error"]["message"]


def test_who_steps_in_for_a_model_that_sees_makes_pictures_count(gateway: Gateway) -> None:
    with as_user(gateway.server, images_per_minute=1) as user:
        first, second = (post(user, PATHS[0][0], CAT, model="either") for _ in range(2))

    assert (first.status_code, user.row(first)["units"]) == (200, 1)
    assert second.status_code == 429


def test_counting_tokens_counts_the_pictures_that_it_describes(live_server: LiveServer) -> None:
    shown = {"model": "galley/chat", "messages": [anthropic_turn(CAT)]}

    with as_user(live_server, images_per_minute=1) as user:
        counted, refused = (user.post("/v1/messages/count_tokens", **shown) for _ in range(2))

    assert (counted.status_code, refused.status_code) == (200, 429)
    assert user.row(counted)["units"] == 1


@pytest.mark.parametrize("model", ["reader", "seer", "eyes"])
def test_who_is_over_a_limit_has_no_picture_decoded(gateway: Gateway, model: str) -> None:
    damaged = CUT["PNG"][: len(CUT["PNG"]) // 2]

    with as_user(gateway.server, tokens_per_minute=1) as user:
        refused = post(user, "/v1/chat/completions", damaged, model=model)

    assert refused.status_code == 429, refused.text  # decoded, it would be a 400
    assert user.row(refused)["state"] == "refused"


@pytest.mark.parametrize("model", ["reader", "seer"])
def test_all_pictures_together_have_at_most_50_megapixels(gateway: Gateway, model: str) -> None:
    file = io.BytesIO()
    Image.new("L", (5000, 5000)).save(file, "PNG")
    heavy = file.getvalue()
    began = time.monotonic()

    refused = post(gateway.server, "/v1/messages", heavy, heavy, CAT, model=model)

    assert time.monotonic() - began < SLOWEST_S
    assert refused.status_code == 400
    error = refused.json()["error"]
    assert error["message"].startswith("The images of a request have at most 50 megapixels")
    assert "image 3 goes over" in error["message"]


def test_a_picture_that_was_described_is_paid_for_though_the_next_one_is_damaged(
    gateway: Gateway,
) -> None:
    damaged = CUT["JPEG"][: len(CUT["JPEG"]) // 2]

    refused = post(gateway.server, "/v1/chat/completions", CAT, damaged, model="reader")

    row = gateway.server.row(refused)
    assert (refused.status_code, row["state"], row["units"]) == (400, "failed", 1)


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages", "/v1/responses"])
def test_large_pictures_fit_into_a_request(gateway: Gateway, path: str) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (1700, 2000, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).save(file, "PNG", compress_level=0)
    assert len(file.getvalue()) > 10_000_000

    answer = post(gateway.server, path, file.getvalue(), model="reader")

    assert answer.status_code == 200, answer.text
    assert "2000x1700 pixels" in gateway.told()


def test_heavy_pictures_do_not_hold_up_others(gateway: Gateway) -> None:
    file = io.BytesIO()
    Image.new("RGB", (5000, 5000), "navy").save(file, "PNG")

    with pinging(gateway.server) as pulse:
        answer = post(gateway.server, "/v1/messages", *[file.getvalue()] * 2, model="reader")

    assert answer.status_code == 200, answer.text
    assert "[Image 2, described automatically" in gateway.told()
    assert "5000x5000 pixels; mostly blue; " in gateway.told()
    assert pulse.beats
    assert pulse.longest_s < LONGEST_SILENCE_S


def test_without_a_classifier_nothing_can_be_described(tmp_path: Path) -> None:
    with misbehaving(say) as upstream:
        far = ModelSettings(kind="chat", source=upstream.url)
        settings = make_settings(tmp_path, tmp_path, models={"reader": far}, embedded_models=False)
        asyncio.run(make_free(settings, "reader"))
        with serving(settings) as server:
            server.until_ready()
            refused = post(server, "/v1/chat/completions", CAT, model="reader")

    assert refused.status_code == 400
    assert refused.json()["error"]["code"] == "unsupported_content"
    assert "no classifier is loaded" in refused.json()["error"]["message"]
