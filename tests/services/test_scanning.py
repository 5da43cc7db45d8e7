"""Secrets and personal data in texts that come in pieces, cut anywhere."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from galley.core.filters import GROUPS, FilterRule, Kind
from galley.services.detectors import Detector, detector_of, detectors_of
from galley.services.scanning import Scanner

KEY = (
    "-----BEGIN RSA PRIVATE KEY-----\nMIIEpAIBAAKCAQEA1c7+9z5Pad\n7Oejq0XZ\n"
    "-----END RSA PRIVATE KEY-----"
)
PGP_KEY = (
    "-----BEGIN PGP PRIVATE KEY BLOCK-----\r\nVersion: GnuPG v2\r\nComment: ours, not yours\r\n"
    "\r\nlQOYBGPQ0rUBCADLQ3\r\n=njU6\r\n-----END PGP PRIVATE KEY BLOCK-----"
)
JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9P"

THINGS: list[tuple[Kind, str]] = [
    ("email", "ada.lovelace+news@mail.example.co.uk"),
    ("email", "a@b.io"),
    ("phone", "+49 (0) 30 1234-5678"),
    ("phone", "+14155552671"),
    ("phone", "(415) 555-2671"),
    ("iban", "DE89 3704 0044 0532 0130 00"),
    ("iban", "GB82WEST12345698765432"),
    ("card", "4111 1111 1111 1111"),
    ("card", "378282246310005"),
    ("card", "5555-5555-5555-4444"),
    ("ip", "192.168.10.254"),
    ("ip", "2001:db8::8a2e:370:7334"),
    ("api_key", "sk-proj-abcDEF0123456789_abcDEF-0123456789"),
    ("api_key", "ghp_" + "a1B2" * 9),
    ("api_key", "AKIAIOSFODNN7EXAMPLE"),
    ("api_key", "xoxb-123456789012-abcdefABCDEF"),
    ("private_key", KEY),
    ("private_key", KEY.replace("\n", "\\n")),
    ("private_key", PGP_KEY),
    ("jwt", JWT),
]

OTHERS: list[tuple[Kind, str]] = [
    ("email", "@ada, a@b, ada@example, 3 @ 5 and x@y.z1"),
    ("phone", "1234567, 2024-01-02, 12 345 678 and +1 2"),
    ("iban", "DE89 3704 0044 0532 0130 01, XX89370400440532013000 and ISO8601"),
    ("card", "4111 1111 1111 1112, 1234567890123456 and 41111111111111111111"),
    ("ip", "1.2.3, 1.2.3.4.5, 256.1.1.1, 12:30:45, std::vector and ::1"),
    ("api_key", "sk-short, task-0123456789012345678901234567 and AKIA"),
    ("private_key", "-----BEGIN PUBLIC KEY-----\nMIIEpAIB\n-----END PUBLIC KEY-----"),
    ("jwt", "eyJ.eyJ.x and eyJhbGciOiJIUzI1NiJ9"),
]

EVERYTHING = [detector_of(kind) for kinds in GROUPS.values() for kind in kinds]
PATTERNS = [
    r"project [a-z]{3,8}\b",
    r"\bab{2,4}c?(?:d|ef){0,2}",
    r"(?:alpha|alphabet) ?soup",
    r"x{2,5}?y",
    r"[^a]\bq",
]


def whole(detector: Detector, text: str) -> str:
    """What becomes of a text when all of it is there, found in the plainest way."""
    said, sent, seen = "", 0, 0
    while found := detector.whole.search(text, seen):
        length = detector.measure(found[0])
        seen = found.start() + (length or 1)
        if length:
            said += f"{text[sent : found.start()]}[{detector.label}]"
            sent = seen
    return said + text[sent:]


def in_pieces(detector: Detector, pieces: list[str], *, stops: bool = False) -> str:
    scanner, said = Scanner(detector, stops=stops), ""
    for piece in pieces:
        said += scanner.feed(piece)
        if scanner.stopped:
            return said
    return said + scanner.flush()


@st.composite
def cut(draw: st.DrawFn, texts: st.SearchStrategy[str]) -> list[str]:
    """A text in pieces; joined, they are the text."""
    text = draw(texts)
    places = sorted(draw(st.sets(st.integers(0, len(text)), max_size=12)))
    return [text[i:j] for i, j in zip([0, *places], [*places, len(text)], strict=True)]


SCRAPS = st.sampled_from(
    [thing for _, thing in THINGS]
    + [text for _, text in OTHERS]
    + [" ", ".", "a", "7", "-", ":", "\n", "sk-", "eyJ", "@", "and", "+4", "DE89", "-----BEGIN "]
)
TEXTS = st.lists(SCRAPS, max_size=6).map("".join)


@pytest.mark.parametrize(("kind", "thing"), THINGS, ids=lambda value: str(value)[:20])
def test_what_has_the_shape_is_replaced_wherever_it_stands(kind: Kind, thing: str) -> None:
    detector = detector_of(kind)

    assert whole(detector, thing) == f"[{kind}]"
    assert whole(detector, f"Take {thing}, please.") == f"Take [{kind}], please."
    assert whole(detector, f"({thing}) und {thing}\n") == f"([{kind}]) und [{kind}]\n"


@pytest.mark.parametrize(("kind", "text"), OTHERS, ids=lambda value: str(value)[:20])
def test_what_only_looks_like_it_is_left_alone(kind: Kind, text: str) -> None:
    assert whole(detector_of(kind), text) == text


@pytest.mark.parametrize(("kind", "thing"), THINGS, ids=lambda value: str(value)[:20])
def test_no_two_pieces_let_it_through(kind: Kind, thing: str) -> None:
    text = f"It is {thing}, or so."

    said = {in_pieces(detector_of(kind), [text[:i], text[i:]]) for i in range(len(text) + 1)}
    by_one = in_pieces(detector_of(kind), list(text))

    assert said == {by_one} == {f"It is [{kind}], or so."}


@given(cut(TEXTS), st.sampled_from(EVERYTHING))
def test_where_a_text_is_cut_makes_no_difference(pieces: list[str], detector: Detector) -> None:
    text = "".join(pieces)

    expected = whole(detector, text)

    assert in_pieces(detector, pieces) == expected
    assert in_pieces(detector, list(text)) == expected
    assert expected.startswith(Scanner(detector).feed(text))


@given(cut(TEXTS), st.sampled_from(EVERYTHING))
def test_where_a_text_is_cut_makes_no_difference_to_where_it_stops(
    pieces: list[str], detector: Detector
) -> None:
    text = "".join(pieces)
    first = whole(detector, text).partition(f"[{detector.label}]")[0]

    assert in_pieces(detector, pieces, stops=True) == first


@given(
    cut(st.text("abcdefqxy soupalphbetrojck", max_size=40)),
    st.sampled_from(PATTERNS),
)
def test_where_a_text_is_cut_makes_no_difference_to_patterns_of_ones_own(
    pieces: list[str], pattern: str
) -> None:
    (detector,) = detectors_of(FilterRule(name="own", pattern=pattern, action="mask"))
    text = "".join(pieces)

    expected = detector.whole.sub("[own]", text)

    assert in_pieces(detector, pieces) == in_pieces(detector, list(text)) == expected


def test_only_what_may_still_become_something_is_held_back() -> None:
    scanner = Scanner(detector_of("email"))

    said = [scanner.feed(piece) for piece in ("Hello", " there, ", "ada", "@exam", "ple.org", " x")]

    assert said == ["", "Hello there, ", "", "", "", "[email] "]
    assert scanner.flush() == "x"


def test_a_key_whose_end_never_comes_does_not_leave() -> None:
    broken_off = KEY[:60]

    assert in_pieces(detector_of("private_key"), list(broken_off)) == "[private_key]"


def test_what_was_let_go_still_counts_for_what_follows() -> None:
    scanner = Scanner(detector_of("api_key"))

    said = [scanner.feed("It is sk-0123456789"), scanner.flush()]
    said += [scanner.feed("0123456789abc and"), scanner.flush()]

    assert said == ["It is ", "sk-0123456789", "[api_key] and", ""]
