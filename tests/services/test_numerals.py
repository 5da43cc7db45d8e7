import pytest

from galley.services.numerals import numerals


@pytest.mark.parametrize(
    ("words", "figures"),
    [
        ("zero", "0"),
        ("twenty", "20"),
        ("twenty five", "25"),
        ("twenty thirty", "20 30"),
        ("twenty zero", "20 0"),
        ("nineteen", "19"),
        ("three hundred", "300"),
        ("two hundred forty two", "242"),
        ("one million two thousand three", "1002003"),
        ("nine thousand nine hundred ninety nine", "9999"),
        ("five six", "5 6"),
        ("hundred", "hundred"),
        ("first and twelfth and third", "1st and 12th and 3rd"),
        ("1,000 and 12,345,678 and 1,00", "1000 and 12345678 and 1,00"),
        ("-1,000.5", "-1000.5"),
        ("Three men", "3 men"),
        ("no number at all", "no number at all"),
    ],
)
def test_numbers_in_words_become_figures(words: str, figures: str) -> None:
    assert " ".join(numerals(words.split())) == figures
