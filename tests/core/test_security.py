"""API keys."""

import string
import zlib

import pytest

from galley.core.security import ALPHABET, hash_key, is_well_formed, make_key


def test_keys_are_well_formed_and_never_the_same() -> None:
    keys = {make_key() for _ in range(200)}

    assert len(keys) == 200
    assert all(is_well_formed(key) and len(key) == 41 for key in keys)


def test_the_last_six_digits_are_the_crc32_of_the_rest() -> None:
    key = make_key()

    value = 0
    for digit in key[-6:]:
        value = value * 62 + ALPHABET.index(digit)

    assert value == zlib.crc32(key[:-6].encode())
    assert string.digits + string.ascii_uppercase + string.ascii_lowercase == ALPHABET


@pytest.mark.parametrize("place", range(3, 41))
def test_one_wrong_character_is_noticed_wherever_it_is(place: int) -> None:
    key = make_key()
    other = "a" if key[place] != "a" else "b"

    assert not is_well_formed(key[:place] + other + key[place + 1 :])


@pytest.mark.parametrize("key", ["", "gk_", "sk-" + "a" * 38, "gk_" + "é" * 38])
def test_what_is_no_key_is_not_well_formed(key: str) -> None:
    assert not is_well_formed(key)


def test_a_key_with_a_line_break_is_not_well_formed() -> None:
    assert not is_well_formed(make_key() + "\n")


def test_the_hash_says_nothing_of_the_key() -> None:
    key = make_key()

    assert len(hash_key(key)) == 32
    assert key.encode() not in hash_key(key)
    assert hash_key(key) == hash_key(key)
    assert hash_key(key) != hash_key(make_key())
