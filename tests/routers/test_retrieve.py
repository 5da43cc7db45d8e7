"""Query strings of whatever kind become a question, or a refusal that says which part is wrong."""

from urllib.parse import urlencode

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from galley.core.errors import UnprocessableError
from galley.dialects import native
from galley.routers.parsing import parse_query
from galley.schemas.documents import RetrieveRequest

values = st.text(max_size=30) | st.integers().map(str) | st.sampled_from(["true", "a=b", "1e9"])
names = st.sampled_from([*RetrieveRequest.model_fields, "unknown", ""])


def asked(query: bytes) -> RetrieveRequest | None:
    try:
        return parse_query(RetrieveRequest, query, native)
    except UnprocessableError as error:
        refused = error
    if {detail["loc"][0] for detail in refused.details} != {"query"}:
        pytest.fail(f"it does not say where the fault is: {refused.details}")
    return None


@given(st.binary(max_size=200))
@example(b"query=%ed%a0%80")
@example(b"query=%00&limit=9999999999999999999999")
def test_any_bytes_are_a_question_or_refused(query: bytes) -> None:
    asked(query)


@given(st.lists(st.tuples(names, values), max_size=8))
def test_any_pairs_are_a_question_or_refused(pairs: list[tuple[str, str]]) -> None:
    found = asked(urlencode(pairs, errors="replace").encode())

    if found is not None:
        assert found.query.strip()
        assert 1 <= found.limit <= 100
        assert {name for name, _ in pairs} <= RetrieveRequest.model_fields.keys()


def test_what_is_given_several_times_is_a_list_or_counts_by_its_last() -> None:
    found = asked(
        b"query=a&collection=x&collection=y&limit=3&limit=4&detail=true&metadata=k%3Dv%3D"
    )

    assert found is not None
    assert (found.collection, found.limit, found.detail) == (["x", "y"], 4, True)
    assert found.metadata == ["k=v="]


@pytest.mark.parametrize("query", [b"query=%ff", b"query=a&limit=0", b"limit=5", b"query=a&k=v"])
def test_a_bad_question_is_refused(query: bytes) -> None:
    assert asked(query) is None
