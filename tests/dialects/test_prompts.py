"""System prompts that follow each other."""

import pytest

from galley.dialects.prompts import join_prompts
from galley.schemas.chat import ImagePart, ImageUrl, Message

QUESTION = Message(role="user", content="Hi")
PICTURE = ImagePart(type="image_url", image_url=ImageUrl(url="data:image/png;base64,AAAA"))


@pytest.mark.parametrize("role", ["system", "developer"])
def test_prompts_that_follow_each_other_are_one(role: str) -> None:
    more = Message.model_validate({"role": role, "content": "b"})

    joined = list(join_prompts([Message(role="system", content="a"), more, QUESTION]))

    assert joined == [Message(role="system", content="a\nb"), QUESTION]


def test_a_prompt_later_on_stays_where_it_is() -> None:
    rule = Message(role="system", content="In French.")

    assert list(join_prompts([QUESTION, rule, QUESTION])) == [QUESTION, rule, QUESTION]


def test_a_prompt_with_a_picture_stays_as_it_is() -> None:
    shown = Message(role="developer", content=[PICTURE])

    assert list(join_prompts([shown, QUESTION])) == [shown, QUESTION]
