"""What a word is, and which words of a question are looked for."""

import re
import unicodedata

MAX_TERMS = 64
"""Words of a question that are looked for, the rest is left to its vector."""

_LONGEST = 48  # a longer run of letters is no word
# Chinese, Japanese and Korean put no spaces between words: there, each character is one.
_UNSPACED = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff"
_WORD = re.compile(rf"[{_UNSPACED}]|[^\W_{_UNSPACED}]+")
_STOP_WORDS = frozenset(
    word
    for line in (
        "a about all also an and any are as at be been but by can could did do does for from had",
        "has have how i if in into is it its me my no not of on or our she should so such than",
        "that the their them then there these they this those to was we were what when where",
        "which who whom whose why will with would you your",
    )
    for word in line.split()
)


def split(text: str) -> list[str]:
    """Return the words of `text` in lower case, without accents."""
    plain = unicodedata.normalize("NFKD", text)
    if not plain.isascii():
        plain = "".join(c for c in plain if not unicodedata.combining(c))
        plain = unicodedata.normalize("NFC", plain)
    return [word[:_LONGEST] for word in _WORD.findall(plain.casefold())]


def asked(text: str) -> list[str]:
    """Return the words to look for: those that mean something, if there are any."""
    words = list(dict.fromkeys(split(text)))
    return ([word for word in words if word not in _STOP_WORDS] or words)[:MAX_TERMS]
