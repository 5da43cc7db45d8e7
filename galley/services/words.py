"""The words of a question, each in one form: small letters, one spelling, figures, no plurals."""

import re
import unicodedata
from collections.abc import Iterator, Sequence

from galley.services.numerals import numerals

Words = tuple[str, ...]


def among(words: str) -> frozenset[str]:
    """A set of words, written as a line."""
    return frozenset(words.split())


_ARTICLES = among("a an the")
_PREPOSITIONS = among(
    "in on at for with without during after before as if when under over by from to"
)
_DAYS = among("today tonight tomorrow yesterday now")
_POINTS = among("time date day year place")  # `on what date` is `when`
_FORMS = {
    "am": "be", "is": "be", "are": "be", "were": "was", "does": "do", "has": "have",
    "goes": "go", "going": "go", "being": "being", "cannot": "can not",
    "children": "child", "people": "person", "men": "man", "women": "woman",
    "tuesdays": "tuesday", "mondays": "monday", "wednesdays": "wednesday",
    "thursdays": "thursday", "fridays": "friday", "saturdays": "saturday", "sundays": "sunday",
    "shoes": "shoe", "toes": "toe",
    "feet": "foot", "teeth": "tooth", "mice": "mouse",
    "%": "percent", "°": "degree", "°c": "degree celsius", "°f": "degree fahrenheit",
    "°C": "degree celsius", "°F": "degree fahrenheit",
}  # fmt: skip
_CONTRACTIONS = {
    "won't": "will not", "can't": "can not", "shan't": "shall not", "let's": "let us",
}  # fmt: skip
_ENDINGS = {"re": "are", "ve": "have", "ll": "will", "m": "am", "d": "would"}
_SUBJECTS = among("what who where when why how that there here it he she which")
# Where the ending makes another word.
_WHOLE = among(
    "news glasses goods customs arms damages means meaning building savings training shorts pants "
    "forces manners contents clothes clothing physics series species wedding evening feeling "
    "nothing something anything everything during morning postgres kubernetes"
)
# Words that mean something else in capitals.
_TWO_FACED = among(
    "us it who am will mark bill polish turkey may march apple china java nice reading "
    "mw mb kb gb tb ma mg pa mm"
)
_AMOUNT = re.compile(r"(-?\d[\d.,]*)([^\W\d_]{1,4}|%|°[CFcf]?)")
_SIGNS = str.maketrans(
    "\u2018\u2019\u201c\u201d\u2010\u2011\u2212", "''\"\"---"
)  # typographic quotes, hyphens and the minus sign


def plain_words(question: str) -> Words:
    """The words of `question` in one form each, in the usual order, without articles."""
    return tuple(_words(_in_order(_tokens(question))))


def _tokens(question: str) -> list[str]:
    """Cut into words and commas; signs that mean something stay with their word."""
    text = unicodedata.normalize("NFC", question).translate(_SIGNS)
    found: list[str] = []
    for piece in text.split():
        word = piece.lstrip("\"'([{").rstrip("\"')]}?!.,;:")
        if word:
            found += _opened(word)
        if piece[-1] in ",;:" and found:
            found.append(",")
    return found


def _opened(word: str) -> list[str]:
    """Take apart what is several words: contractions, hyphens, numbers with their unit."""
    low = word.lower()
    if low in _CONTRACTIONS:
        return _CONTRACTIONS[low].split()
    if low.endswith("n't"):
        return [word[:-3], "not"]
    if "'" in word:
        return _without_apostrophe(word)
    if word[0] == "$" and word[1:2].isdigit():
        return [word[1:], "dollar"]
    if amount := _AMOUNT.fullmatch(word):
        ordinal = amount[2].lower() in ("st", "nd", "rd", "th")
        return [word] if ordinal else [amount[1], amount[2]]
    if re.fullmatch(r"\w+(-[^\W\d]+)+", word):
        return word.split("-")
    return [word]


def _without_apostrophe(word: str) -> list[str]:
    stem, _, ending = word.rpartition("'")
    if ending.lower() in _ENDINGS:
        return [stem, _ENDINGS[ending.lower()]]
    if ending.lower() == "s":
        return [stem, "is"] if stem.lower() in _SUBJECTS else [stem, "'s"]
    return [word]


def _in_order(tokens: list[str]) -> list[str]:
    """Put what was said first (`In Python, how ...`) to the end, where it is usually said."""
    low = [token.lower() for token in tokens]
    if low and low[0] in _PREPOSITIONS | _DAYS:
        if low[1:2] in (["what"], ["which"]):
            if not _POINTS.intersection(low[2:3]):
                tail = [] if low[0] == "at" else [tokens[0]]
                tokens = [*tokens[1:], *tail]
        elif _first_words(low[0]) <= (cut := _end_of_first(low)) <= 8 and len(low) - cut > 2:
            tokens = [*tokens[cut:], *tokens[:cut]]
    if [*low[-4:-3], *low[-2:-1]] == [",", "or"]:  # ..., tea or coffee
        tokens = [*tokens[:-3], *sorted([tokens[-3], tokens[-1]], key=str.lower), "or"]
    return [word for word in tokens if word != ","]


def _first_words(first: str) -> int:
    """How many words such a clause has at least."""
    return 1 if first in _DAYS else 2


def _end_of_first(low: list[str]) -> int:
    """Where the clause ends that a question begins with; 0 when that is not clear."""
    if "," in low:
        cut = low.index(",")
        return cut if "," not in low[cut + 1 :] else 0
    return next((n for n, word in enumerate(low) if n and word in ("how", "why", "what")), 0)


def _words(tokens: Sequence[str]) -> Iterator[str]:
    cased = [_cased(tokens, n) for n in range(len(tokens))]
    forms = " ".join(_FORMS.get(word, word) for word in numerals(cased)).split()
    for number, word in enumerate(forms):
        low = word.lower()
        if low not in _ARTICLES:
            # A name in the plural is another name; in capitals stays what is another word without.
            stays = not word.istitle() or len(word) == 1 or low in _TWO_FACED
            yield _stem(word) if low == word else word if stays else low
        elif low != "the" and number == 2 and forms[0] in ("what", "who"):
            yield "a"  # what is a mortgage, and what is the mortgage


def _cased(tokens: Sequence[str], number: int) -> str:
    """Small letters for the common words, a capital for names; `US`, `5 MW`, `C` as they are."""
    word = tokens[number]
    low = word.lower()
    if low == word or low in ("i", "a") or low in _FORMS:
        return _FORMS.get(word, low)
    if number == 0:
        return word if word.isupper() and low in _TWO_FACED else low
    unit = tokens[number - 1][-1].isdigit() and len(word) <= 4
    return word if unit or len(word) == 1 or low in _TWO_FACED else word.capitalize()


_VOWEL = re.compile("[aeiouy]")


def _stem(word: str) -> str:
    if not word.isalpha() or len(word) < 4 or word in _WHOLE or not _VOWEL.search(word[:-1]):
        return word
    word = _one_spelling(word)
    if word.endswith("ing") and len(word) > 5 and _VOWEL.search(word[:-3]):
        return _without_ing(word[:-3])
    if word.endswith(("ies", "ie")) and len(word) > 4:
        return word.removesuffix("s")[:-2] + "y"  # cities, and movies
    if word.endswith(("ches", "shes", "xes", "sses", "zzes", "oes")):
        return word[:-2]
    if word.endswith("s") and not word.endswith(("ss", "us", "is")):
        return word[:-1]
    return word


def _one_spelling(word: str) -> str:
    """Write it as in America."""
    word = re.sub("is(e|es|ing|ed)$", r"iz\1", word) if len(word) > 6 else word
    word = re.sub("our(s|ed|ing|ite)?$", r"or\1", word) if len(word) > 5 else word
    return re.sub("tre(s?)$", r"ter\1", word)


def _without_ing(stem: str) -> str:
    """From `runn`, `mak`, `solv`, `cook` to the verb."""
    if stem[-1] == stem[-2] and stem[-1] not in "lsfz":
        return stem[:-1]
    short = re.fullmatch("[^aeiou]*[aeiou][^aeiouwxy]", stem)
    if short or re.search("([vzcu]|[aeiou]s|[^aeioun]g)$", stem):
        return stem + "e"
    return stem
