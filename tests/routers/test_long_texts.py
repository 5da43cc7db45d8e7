import json

import pytest

from galley.routers.long_texts import LEAST, take_out

LONG = "A" * LEAST
OTHER = "B" * (3 * 1_048_576)  # longer than what is searched in one go


def put_back(body: bytes, name: bytes = b"image") -> tuple[str, int]:
    """Take out and put back again: the body as it was, and how many texts were out of it."""
    taken = take_out(bytearray(body), name)
    whole = bytes(taken.body)
    for words, text in taken.texts.items():
        assert whole.count(words.encode()) == 1
        whole = whole.replace(words.encode(), bytes(text))
    return whole.decode(), len(taken.texts)


@pytest.mark.parametrize(
    ("body", "out"),
    [
        ({"image": LONG}, 1),
        ({"filename": "x", "image": OTHER}, 1),
        ({"images": [{"image": LONG}, {"image": OTHER, "filename": None}], "top_k": 5}, 2),
        ({"images": [{"image": "short"}, {"image": LONG}]}, 1),
        ({"image": LONG[1:]}, 0),
        ({"picture": LONG}, 0),
        ({"filename": LONG, "image": "short"}, 0),
        ({"filename": '"image":"' + LONG, "image": OTHER}, 1),
        ({"image": {"image": LONG}}, 1),
        ({"image": "A\nB" + LONG}, 0),  # it has escapes, and is parsed as ever
        ({}, 0),
    ],
)
@pytest.mark.parametrize("indent", [None, 2])
def test_long_texts_of_a_name_are_out_and_everything_else_is_as_it_was(
    body: object, out: int, indent: int | None
) -> None:
    sent = json.dumps(body, indent=indent)

    assert put_back(sent.encode()) == (sent, out)


def test_what_is_left_parses_to_the_same_shape_with_words_for_the_texts() -> None:
    sent = {"images": [{"image": LONG, "filename": "a"}, {"image": OTHER, "filename": "b"}]}

    taken = take_out(json.dumps(sent).encode(), b"image")

    found = json.loads(taken.body)
    texts = [taken.text(image["image"]) for image in found["images"]]
    assert [bytes(text).decode() for text in texts if isinstance(text, memoryview)] == [LONG, OTHER]
    assert [image["filename"] for image in found["images"]] == ["a", "b"]
    assert len(taken.body) < 300
    assert taken.text("short") == "short"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"no json",
        b'"image"',
        b'"image":',
        b'"image": "' + LONG.encode(),
        b'{"image" ' + LONG.encode(),
        b'{"image": ' + b" " * LEAST + b'"x"}',
        b'"image"' * 10_000,
        b"\xff" * (LEAST + 9),
    ],
)
def test_what_is_no_json_stays_as_it_is(body: bytes) -> None:
    taken = take_out(body, b"image")

    assert (taken.body, taken.texts) == (body, {})


def test_words_that_stand_for_a_text_cannot_be_known_before() -> None:
    body = json.dumps({"image": LONG}).encode()

    first, second = (take_out(body, b"image") for _ in range(2))

    assert not first.texts.keys() & second.texts.keys()
