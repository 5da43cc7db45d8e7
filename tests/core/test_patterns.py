import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from galley.core.patterns import MAX_PATTERN, bounded, check_filter_pattern


@pytest.mark.parametrize(
    ("pattern", "least", "most"),
    [
        ("falcon", 6, 6),
        (r"\bproject [a-z]{3,8}\b", 11, 16),
        ("(?:a|bcd)e?", 1, 4),
        (r"[^]x-]{2}\x41\u00e9\.", 5, 5),
        ("(ab){1,3}?c", 3, 7),
    ],
)
def test_a_pattern_of_bounded_length_is_taken(pattern: str, least: int, most: int) -> None:
    found = bounded(pattern)
    check_filter_pattern(pattern)

    assert (found.least, found.most) == (least, most)


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        ("a" * (MAX_PATTERN + 1), "longer than 256"),
        ("ab*", r"In place of \* and \+"),
        ("ab+c", r"In place of \* and \+"),
        ("^a", r"not '\^a'"),
        ("a$", r"not '\$'"),
        (r"(a)\1", r"not '\\\\1'"),
        (r"a\Z", "not "),
        ("(?=a)b", "not "),
        ("(?!a)b", "does not look around"),
        ("(?<![a])b", "does not look around"),
        ("(?P<name>a)", "not "),
        ("(?i)a", "not "),
        ("(a", "does not close it"),
        ("a)", "not opened"),
        ("{2}", "nothing can be repeated"),
        ("a{3,2}", "repeats"),
        ("a?", "where there is nothing"),
        ("", "where there is nothing"),
        ("|a", "where there is nothing"),
        ("a{1001}", "more than 1000 characters"),
        (r"\w{1,30}\w{1,30}\w{1,30}x", "more than 1000 ways"),
        ("(?:a{1,9}){1,9}b", "more than 1000 ways"),
        ("(?:a|aa){20}b", "more than 1000 ways"),
        ("(" * 17 + "a" + ")" * 17, "nests more than 16"),
        ("[z-a]", "cannot be read"),
        ("[[a]", "cannot be read"),
        ("a\x00", "cannot be seen"),
        ("a\ud800", "cannot be seen"),
    ],
)
def test_a_pattern_that_cannot_be_looked_for_in_a_stream_is_refused(
    pattern: str, said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        check_filter_pattern(pattern)


@given(st.text("ab(|)[]{1,2}?\\b.d^-", max_size=24))
def test_whatever_is_taken_is_a_pattern_and_so_is_its_beginning(pattern: str) -> None:
    try:
        check_filter_pattern(pattern)
    except ValueError:
        return

    found = bounded(pattern)

    whole, beginning = re.compile(pattern), re.compile(found.beginning)
    for text in ("ab", "aabb1", "b.d-", "1a1b"):
        match = whole.search(text)
        assert match is None or found.least <= len(match[0]) <= found.most
        for end in range(match.start(), match.end()) if match else ():
            assert beginning.fullmatch(text[:end], match.start() if match else 0)
