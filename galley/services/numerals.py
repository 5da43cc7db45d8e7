"""Numbers in words, as figures."""

from collections.abc import Iterator, Sequence

_SMALL = dict(
    zip(
        (
            "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten",
            "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen",
            "eighteen", "nineteen",
        ),
        range(20),
        strict=True,
    )
)  # fmt: skip
_TENS = {
    "twenty": 20, "thirty": 30, "forty": 40, "fifty": 50, "sixty": 60, "seventy": 70, "eighty": 80,
    "ninety": 90,
}  # fmt: skip
_GROUPS = {"hundred": 100, "thousand": 1_000, "million": 1_000_000, "billion": 1_000_000_000}
_ORDINALS = {
    "first": 1, "second": 2, "third": 3, "fourth": 4, "fifth": 5, "sixth": 6, "seventh": 7,
    "eighth": 8, "ninth": 9, "tenth": 10, "eleventh": 11, "twelfth": 12,
}  # fmt: skip
_ENDINGS = {1: "st", 2: "nd", 3: "rd"}


def numerals(words: Sequence[str]) -> Iterator[str]:
    """Yield `words` with their numbers in figures: `twenty five` as `25`, `1,000` as `1000`."""
    start = 0
    while start < len(words):
        number, length = _number(words[start:])
        if length:
            yield str(number)
            start += length
        else:
            yield _figures(words[start])
            start += 1


def _number(words: Sequence[str]) -> tuple[int, int]:
    """The number that `words` begin with, and how many of them it takes; 0 when there is none."""
    total = part = 0
    before = 0  # the last number's value: after `twenty` comes `five`, but not `thirty`
    for position, word in enumerate(map(str.lower, words)):
        if word in _GROUPS:
            if not position:
                return 0, 0  # `hundred` alone: that many is not said
            part, total, before = _grouped(part, total, _GROUPS[word])
        elif word in _TENS and before in (0, 100):
            part, before = part + _TENS[word], 20
        elif word in _SMALL and (before in (0, 100) or (before == 20 and 0 < _SMALL[word] < 10)):
            part, before = part + _SMALL[word], 1
        else:
            return total + part, position
    return total + part, len(words)


def _grouped(part: int, total: int, group: int) -> tuple[int, int, int]:
    if group == 100:
        return part * 100, total, 100
    return 0, total + part * group, 0


def _figures(word: str) -> str:
    if number := _ORDINALS.get(word.lower()):
        return f"{number}{_ENDINGS.get(number, 'th')}"
    groups = word.lstrip("-").split(",")
    if len(groups) > 1 and all(
        g[:3].isdigit() and len(g.partition(".")[0]) == 3 for g in groups[1:]
    ):
        return word.replace(",", "")
    return word
