"""Passages: what they promise holds for every text."""

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from galley.services.chunking import (
    OVERLAP_TOKENS,
    PASSAGE_TOKENS,
    Starts,
    approximate_starts,
    passages,
)
from galley.stores.passages import Passage

words = st.text("ab.! \n#`\u3002\u00e9\ud83d\ude00", max_size=30)
texts = st.lists(words | st.just("a sentence of some words. " * 9), max_size=30).map("".join)


def cut(text: str, *, has_headings: bool = True, title: str = "guide") -> list[Passage]:
    return passages(text, approximate_starts(text), title=title, has_headings=has_headings)


def tokens(text: str, starts: Starts, passage: Passage) -> int:
    return int(np.searchsorted(starts, passage.end) - np.searchsorted(starts, passage.start))


@given(texts, st.booleans())
def test_a_passage_is_what_the_text_says_at_its_place(text: str, has_headings: bool) -> None:
    for passage in cut(text, has_headings=has_headings):
        assert text[passage.start : passage.end] == passage.text
        assert passage.text == passage.text.strip() != ""


@given(texts, st.booleans())
def test_nothing_of_a_text_is_left_out(text: str, has_headings: bool) -> None:
    covered = np.zeros(len(text), bool)

    for passage in cut(text, has_headings=has_headings):
        covered[passage.start : passage.end] = True

    assert all(character.isspace() for character in itertools.compress(text, ~covered))


@given(texts)
def test_passages_come_in_order_and_none_is_longer_than_allowed(text: str) -> None:
    starts = approximate_starts(text)
    made = cut(text)

    assert [p.start for p in made] == sorted({p.start for p in made})
    assert all(tokens(text, starts, p) <= PASSAGE_TOKENS for p in made)


def test_a_long_paragraph_is_cut_at_sentences_and_repeats_the_last_one() -> None:
    text = " ".join(f"Sentence number {n} says one thing and no other." for n in range(60))

    made = cut(text)

    assert len(made) > 2
    assert all(p.text.startswith("Sentence") and p.text.endswith(".") for p in made)
    for before, after in itertools.pairwise(made):
        assert before.start < after.start < before.end
        starts = approximate_starts(text)
        repeated = Passage(after.start, before.end, "")
        assert tokens(text, starts, repeated) <= OVERLAP_TOKENS


def test_a_paragraph_is_kept_together_where_it_fits() -> None:
    paragraph = "One thought takes some words to say, and it is not to be torn. " * 3
    text = "\n\n".join([paragraph.strip()] * 6)

    made = cut(text)

    assert {p.text.split("\n\n")[-1] for p in made} == {paragraph.strip()}


def test_headings_are_the_context_of_what_stands_under_them() -> None:
    body = "Some words about it that make it a section of its own, more than a few. " * 4
    text = (
        f"# Guide\n\n{body}\n\n## Install\n\n{body}\n\n### On `Linux`\n\n{body}\n\n## Use\n\n{body}"
    )

    made = cut(text)

    assert [p.context for p in made] == [
        "guide",
        "guide > Install",
        "guide > Install > On Linux",
        "guide > Use",
    ]
    assert made[1].text.startswith("## Install")


def test_a_comment_within_code_is_no_heading() -> None:
    body = "Some words about it that make it a section of its own, more than a few. " * 4
    text = f"{body}\n\n```sh\n# not a heading\nmake\n```\n\n{body}"

    assert {p.context for p in cut(text)} == {"guide"}


def test_plain_text_has_no_headings() -> None:
    assert {p.context for p in cut("# one\n\nwords\n\n# two\n\nwords", has_headings=False)} == {
        "guide"
    }


def test_a_heading_alone_goes_with_what_follows() -> None:
    text = "# Guide\n\n## Install\n\n" + "Some words about it. " * 20

    (made,) = cut(text)

    assert made.text.startswith("# Guide\n\n## Install")
    assert made.context == "guide > Install"


def test_one_word_without_end_is_cut_all_the_same() -> None:
    text = "x" * 100_000

    made = passages(text, np.zeros(1, np.int32), title="t", has_headings=False)

    assert "".join(p.text for p in made) == text
    assert max(len(p.text) for p in made) <= 2_000


def test_a_long_context_leaves_room_for_a_passage() -> None:
    heading = "word " * 200

    made = passages(
        f"# {heading}\n\n" + "Some words about it. " * 50,
        approximate_starts(f"# {heading}\n\n" + "Some words about it. " * 50),
        title="title " * 100,
        has_headings=True,
        max_tokens=64,
    )

    assert all(len(p.context) <= 160 and p.text for p in made)
