"""Images in conversations, by the official SDKs against a live server."""

import base64
from pathlib import Path

import anthropic
import openai
import pytest

from tests.serving import LiveServer

CAT = Path(__file__).parent.parent / "data" / "photos" / "cat.jpg"
DATA = base64.b64encode(CAT.read_bytes()).decode()
URL = f"data:image/jpeg;base64,{DATA}"
QUESTION = "What animal is in this picture?"


def openai_sdk(server: LiveServer) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key=server.key, max_retries=0)


def anthropic_sdk(server: LiveServer) -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=server.url, api_key=server.key, max_retries=0)


def test_openais_chat_takes_images_and_the_header_says_what_came_of_them(
    live_server: LiveServer,
) -> None:
    with openai_sdk(live_server) as sdk:
        raw = sdk.chat.completions.with_raw_response.create(
            model="galley/chat",
            messages=[
                {
                    "role": "user",
                    "content": [
                        {"type": "text", "text": QUESTION},
                        {"type": "image_url", "image_url": {"url": URL, "detail": "low"}},
                    ],
                }
            ],
            max_tokens=24,
            temperature=0,
        )

    assert raw.headers["galley-image-input"] == "described"
    assert "cat" in (raw.parse().choices[0].message.content or "").lower()


def test_openais_responses_take_images(live_server: LiveServer) -> None:
    with openai_sdk(live_server) as sdk:
        answer = sdk.responses.create(
            model="galley/chat",
            input=[
                {
                    "role": "user",
                    "content": [
                        {"type": "input_text", "text": QUESTION},
                        {"type": "input_image", "image_url": URL, "detail": "auto"},
                    ],
                }
            ],
            max_output_tokens=24,
            temperature=0,
        )

    assert "cat" in answer.output_text.lower()


def test_anthropics_messages_take_images(live_server: LiveServer) -> None:
    with (
        anthropic_sdk(live_server) as sdk,
        sdk.messages.stream(
            model="galley/chat",
            messages=[
                {
                    "role": "user",
                    "content": [
                        {"type": "text", "text": QUESTION},
                        {
                            "type": "image",
                            "source": {"type": "base64", "media_type": "image/jpeg", "data": DATA},
                        },
                    ],
                }
            ],
            max_tokens=24,
            extra_body={"temperature": 0},
        ) as stream,
    ):
        text = stream.get_final_text()

    assert "cat" in text.lower()


def test_a_bad_image_is_the_sdks_bad_request_error(live_server: LiveServer) -> None:
    with (
        openai_sdk(live_server) as sdk,
        pytest.raises(openai.BadRequestError, match="Image 1: ") as refused,
    ):
        sdk.chat.completions.create(
            model="galley/chat",
            messages=[
                {
                    "role": "user",
                    "content": [{"type": "image_url", "image_url": {"url": URL[:2000]}}],
                }
            ],
        )

    assert (refused.value.code, refused.value.param) == ("invalid_image", "messages[0].content[0]")
