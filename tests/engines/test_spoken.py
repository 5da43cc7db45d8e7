from collections.abc import Sequence

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from galley.engines.spoken import Spoken


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    """A token for each byte, and one that is not spoken."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(models.BPE({token: number for number, token in enumerate(alphabet)}, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens(["<end>"])
    return made


def speak(tokenizer: Tokenizer, text: str, *, stops: Sequence[str] = (), at_once: int = 1):
    """Give the tokens of `text`, so many at a time; what is said each time, and what stopped it."""
    ids = tokenizer.encode(text).ids
    spoken = Spoken(tokenizer, stops)
    pieces = [spoken.more(ids[at : at + at_once]) for at in range(0, len(ids), at_once)]
    return [*pieces, spoken.rest()], spoken.stop


@pytest.mark.parametrize("at_once", [1, 2, 3, 100])
def test_text_is_whole_however_its_tokens_come(tokenizer: Tokenizer, at_once: int) -> None:
    text = "Grüße, 世界! 🚢 sails at noon"

    pieces, stop = speak(tokenizer, text, at_once=at_once)

    assert "".join(pieces) == text
    assert stop is None


def test_a_character_comes_once_its_last_byte_is_there(tokenizer: Tokenizer) -> None:
    pieces, _ = speak(tokenizer, "a🚢b")

    assert pieces == ["a", "", "", "", "🚢", "b", ""]


def test_bytes_that_never_become_a_character_are_marked_at_the_end(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("ok 🚢").ids[:-1]
    spoken = Spoken(tokenizer, ())

    said = "".join([spoken.more([token]) for token in ids])

    assert said == "ok "
    assert spoken.rest() == "\N{REPLACEMENT CHARACTER}"


def test_special_tokens_are_not_spoken(tokenizer: Tokenizer) -> None:
    assert speak(tokenizer, "one<end>two")[0] == ["o", "n", "e", "", "t", "w", "o", ""]


@pytest.mark.parametrize("at_once", [1, 2, 5, 100])
@pytest.mark.parametrize(
    ("stops", "said", "met"),
    [
        (["three"], "one two ", "three"),
        (["nothing", "two"], "one ", "two"),
        (["three", "o th"], "one tw", "o th"),
        (["one"], "", "one"),
        (["threes"], "one two three", None),
        (["e\n", "three\n"], "one two three", None),
    ],
)
def test_the_first_stop_sequence_ends_it_and_is_not_said(
    tokenizer: Tokenizer, stops: list[str], said: str, met: str | None, at_once: int
) -> None:
    pieces, stop = speak(tokenizer, "one two three", stops=stops, at_once=at_once)

    assert "".join(pieces) == said
    assert stop == met


def test_what_may_be_the_beginning_of_a_stop_sequence_is_held_back(tokenizer: Tokenizer) -> None:
    pieces, _ = speak(tokenizer, "a--b---", stops=["---"])

    assert pieces == ["a", "", "", "--b", "", "", "", ""]


def test_text_goes_on_with_a_space_where_the_prompt_ends_without_one() -> None:
    made = Tokenizer(models.WordLevel({"▁red": 0, "▁sun": 1, "<unk>": 2}, unk_token="<unk>"))
    made.decoder = decoders.Metaspace()

    alone, after = Spoken(made, ()), Spoken(made, (), after=[0])

    assert alone.more([1]) + alone.more([0]) == "sun red"
    assert after.more([1]) + after.more([0]) == " sun red"
