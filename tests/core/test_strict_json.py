"""A long list, an item at a time: what is cut out is JSON if and only if the whole is."""

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from galley.core import strict_json

texts = st.text(st.sampled_from('{}[]",:\\ab \u00e9\n'), max_size=12)
values = st.recursive(
    texts | st.integers() | st.none(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)
objects = st.lists(st.dictionaries(texts, values, max_size=3), max_size=4)


def read(body: bytes) -> list[Any]:
    return [json.loads(item) for item in strict_json.items(body, "requests")]


@given(objects, st.sampled_from([None, 1]), st.booleans())
def test_items_come_as_they_are_in_the_list(
    found: list[Any], indent: int | None, ascii_only: bool
) -> None:
    body = json.dumps({"requests": found}, indent=indent, ensure_ascii=ascii_only).encode()

    assert read(body) == found


@given(objects, st.data())
def test_what_is_no_json_is_not_taken_for_it(found: list[Any], data: st.DataObject) -> None:
    body = bytearray(json.dumps({"requests": found}).encode())
    at = data.draw(st.integers(0, len(body) - 1))
    body[at] = data.draw(st.sampled_from(b'{}[]",:\\x'))
    whole: Any = None
    with suppress(ValueError):
        whole = json.loads(bytes(body))
    is_right = isinstance(whole, dict) and list(whole) == ["requests"]
    is_right = is_right and isinstance(whole["requests"], list)
    is_right = is_right and all(isinstance(item, dict) for item in whole["requests"])

    try:
        cut = read(bytes(body))
    except ValueError:
        assert not is_right
    else:
        assert is_right
        assert cut == whole["requests"]


@pytest.mark.parametrize("piece", ["a", '\\"', "\\\\", "\u00e9"])
def test_texts_may_be_longer_than_what_is_looked_at_at_once(piece: str) -> None:
    found = [{"text": json.loads(f'"{piece}"') * 300_000}, {"text": "}"}]

    assert read(json.dumps({"requests": found}).encode()) == found


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{}", b"[]", b"null", b'{"requests":1}', b'{"requests":[1]}', b'{"requests":[{}]',
        b'{"requests":[{},]}', b'{"requests":[{} {}]}', b'{"requests":[{}],"x":1}',
        b'{"x":1,"requests":[{}]}', b'{"requests":[{}]}{}', b'{"requests":[{"a":"',
        b'{"requests":[{"a":"\\', b'{"requests":[{"a":[', b'\xef\xbb\xbf{"requests":[{}]}',
        b'{"requests":[' + b"{" * 2_000_001,
    ],
)  # fmt: skip
def test_what_is_not_that_list_alone_is_refused(body: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - its words are for people
        read(body)
