"""The semantic cache on questions written for it, half of which it was never tuned on."""

from pathlib import Path

import pytest

from galley.engines.onnx_embedder import OnnxEmbedder
from galley.services.cache_eval import Judged, Pair, PairError, judge, rates, read_pairs
from tests.services.minilm import minilm

__all__ = ["minilm"]

pytestmark = pytest.mark.anyio

DATA = Path(__file__).parent.parent / "data"


def pairs_of(half: str) -> list[Pair]:
    return list(read_pairs((DATA / f"cache_pairs_{half}.jsonl").read_text().splitlines()))


@pytest.mark.parametrize("half", [pytest.param("tune", marks=pytest.mark.slow), "held_out"])
async def test_no_other_question_is_a_hit_and_two_in_five_paraphrases_are(
    half: str, minilm: OnnxEmbedder
):
    judged = await judge(pairs_of(half), minilm, lambda _: None)

    found = rates(judged)

    assert found.others >= 330
    assert found.paraphrases >= 200
    assert [each.pair for each in judged if each.hit() and not each.pair.same] == []
    assert found.hit_rate >= 0.4


async def test_vectors_alone_would_answer_many_questions_wrongly(minilm: OnnxEmbedder):
    judged = await judge(pairs_of("held_out"), minilm, lambda _: None)

    assert rates(judged, words=False).false_hit_rate > 0.5


def test_the_halves_share_no_question():
    halves = [
        {text for pair in pairs_of(h) for text in (pair.a, pair.b)} for h in ("tune", "held_out")
    ]

    assert not halves[0] & halves[1]


async def test_progress_ends_with_the_number_of_pairs(minilm: OnnxEmbedder):
    told: list[int] = []

    await judge([Pair(a="one", b="two", same=False)] * 40, minilm, told.append)

    assert told == [32, 40]


def test_rates_count_hits_by_what_the_pairs_are():
    same, other = Pair(a="a", b="b", same=True), Pair(a="a", b="c", same=False)
    judged = [
        Judged(same, 0.9, True), Judged(same, 0.9, False), Judged(same, 0.7, True),
        Judged(other, 0.9, False), Judged(other, 0.9, True),
    ]  # fmt: skip

    found = rates(judged, 0.8)

    assert (found.hits, found.paraphrases, found.false_hits, found.others) == (1, 3, 1, 2)
    assert (found.hit_rate, found.false_hit_rate) == (1 / 3, 1 / 2)
    assert rates(judged, 0.8, words=False).hits == 2
    assert rates([]).hit_rate == 0


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("nonsense", "line 2: JSON: Invalid JSON"),
        ('{"a": "x", "b": "y"}', "line 2: same: Field required"),
        ('{"a": "", "b": "y", "same": true}', "line 2: a: String should have at least 1"),
        ('{"a": "x", "b": "y", "same": "yes"}', "line 2: same: Input should be a valid boolean"),
    ],
)
def test_a_line_that_is_no_pair_is_named(line: str, why: str):
    good = '{"a": "x", "b": "y", "same": true, "note": "ignored"}'

    with pytest.raises(PairError, match=why):
        list(read_pairs([good, line]))


def test_empty_lines_are_no_pairs():
    assert list(read_pairs(["", "  \n"])) == []
