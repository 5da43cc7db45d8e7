"""Bounds of prompts that nobody counts."""

from typing import Any

from galley.engines.bounds import likely_prompt_tokens, most_prompt_tokens
from galley.schemas.chat import ChatRequest


def asking(*details: str) -> ChatRequest:
    parts: list[dict[str, Any]] = [{"type": "text", "text": "What is this?"}]
    for detail in details:
        image = {"url": "data:image/png;base64," + "A" * 100_000, "detail": detail}
        parts.append({"type": "image_url", "image_url": image})
    turn = {"role": "user", "content": parts}
    return ChatRequest.model_validate({"model": "m", "messages": [turn]})


def test_an_image_takes_what_openai_counts_at_most_and_not_its_bytes() -> None:
    (plain,), (large,), (small,) = map(
        most_prompt_tokens, (asking(), asking("auto", "high"), asking("low"))
    )

    assert large == plain + 2 * 1445
    assert small == plain + 85


def test_a_guess_is_less_than_the_bound_with_images_too() -> None:
    request = asking("high")

    assert 0 < likely_prompt_tokens(request, 0) < most_prompt_tokens(request)[0]
