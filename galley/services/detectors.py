"""What is known by its shape: personal data and secrets.

Shapes are conservative, and where there is a checksum it must be right. Sources: RFC 5321 (sizes of
addresses), E.164 (telephone numbers), the SWIFT IBAN registry and ISO 7064 (mod 97), ISO/IEC 7812
(card numbers, Luhn), RFC 7468 (PEM), RFC 7519 (JWT), and what issuers of keys say of their prefixes
(GitHub, "About secret scanning"; gitleaks' rules).
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, lru_cache
from ipaddress import AddressValueError, IPv6Address

from galley.core.filters import FilterRule, Kind
from galley.core.patterns import bounded

MAX_KEY = 16_384

_EMAIL = (
    r"(?<![A-Za-z0-9._%+-])[A-Za-z0-9._%+-]{1,64}@(?:[A-Za-z0-9-]{1,63}\.){1,8}[A-Za-z]{2,24}"
    r"(?![A-Za-z0-9-])"
)
_PHONE = (
    r"(?<![A-Za-z0-9+])\+[1-9](?:[ ().-]{0,2}[0-9]){6,14}(?![0-9])"
    r"|(?<![A-Za-z0-9.+-])(?:\([2-9][0-9]{2}\) ?|[2-9][0-9]{2}[ .-])[0-9]{3}[ .-][0-9]{4}(?![0-9])"
)
_IBAN = r"(?<![A-Za-z0-9])[A-Za-z]{2}[0-9]{2}(?:[ ]?[A-Za-z0-9]){11,32}"
_CARD = r"(?<![0-9])[2-6](?:[ -]?[0-9]){12,18}(?![0-9])"
_IP = (
    r"(?<![0-9.])[0-9]{1,3}(?:\.[0-9]{1,3}){3,5}(?![0-9])"
    r"|(?<![A-Za-z0-9_:.])(?:[0-9A-Fa-f]{0,4}:){2,7}[0-9A-Fa-f]{0,4}(?![A-Za-z0-9_:])"
)
_PRIVATE_KEY = (
    r"-----BEGIN [A-Z ]{0,30}PRIVATE KEY(?: BLOCK)?-----"
    r"(?:(?:\s|\\n|\\r){1,4}[A-Za-z-]{1,30}: [^\r\n\\]{0,200}){0,5}[A-Za-z0-9+/=\r\n\\]{0,MAX}"
    r"(?:-----END [A-Z ]{0,30}PRIVATE KEY(?: BLOCK)?-----)?"
).replace("MAX", str(MAX_KEY))
_JWT = (
    r"(?<![A-Za-z0-9_-])eyJ[A-Za-z0-9_-]{10,4096}\.eyJ[A-Za-z0-9_-]{10,8192}"
    r"\.[A-Za-z0-9_-]{10,1024}"
)
_API_KEY = r"(?<![A-Za-z0-9])(?:" + "|".join((
    r"sk-[A-Za-z0-9_-]{20,250}",  # OpenAI, Anthropic and many who followed
    r"gk_[A-Za-z0-9]{38}",  # Galley
    r"gh[pousr]_[A-Za-z0-9]{36,251}|github_pat_[A-Za-z0-9_]{22,250}",
    r"glpat-[A-Za-z0-9_-]{20,250}",
    r"(?:AKIA|ASIA)[A-Z2-7]{16}",
    r"AIza[A-Za-z0-9_-]{35}",
    r"xox[abposr]-[A-Za-z0-9-]{10,250}|xapp-[A-Za-z0-9-]{10,250}",
    r"[sr]k_(?:live|test)_[A-Za-z0-9]{16,250}",
    r"hf_[A-Za-z0-9]{30,64}",
    r"npm_[A-Za-z0-9]{36}",
    r"pypi-[A-Za-z0-9_-]{50,300}",
    r"SG\.[A-Za-z0-9_-]{16,32}\.[A-Za-z0-9_-]{16,64}",
    r"do[opr]_v1_[a-f0-9]{64}",
)) + ")"  # fmt: skip

_IBAN_LENGTHS = """
AD24 AE23 AL28 AT20 AZ28 BA20 BE16 BG22 BH22 BR29 BY28 CH21 CR22 CY28 CZ24 DE22 DK18 DO28 EE20 EG29
ES24 FI18 FO18 FR27 GB22 GE22 GI23 GL18 GR27 GT28 HR21 HU28 IE22 IL23 IQ23 IS26 IT27 JO30 KW30 KZ20
LB28 LC32 LI21 LT20 LU20 LV21 LY25 MC27 MD24 ME22 MK19 MR27 MT31 MU30 NL18 NO15 PK24 PL28 PS29 PT25
QA29 RO24 RS22 SA24 SC31 SD18 SE24 SI19 SK24 SM27 ST25 SV28 TL23 TN24 TR26 UA29 VA22 VG24 XK20
"""
_LENGTHS = {entry[:2]: int(entry[2:]) for entry in _IBAN_LENGTHS.split()}
_CARD_PREFIXES = tuple(
    (re.compile(prefix), lengths)
    for prefix, lengths in (
        (r"4", (19, 16, 13)),
        (r"5[1-5]|2[2-7]|35", (16,)),
        (r"3[47]", (15,)),
        (r"6(?:011|5|4[4-9])", (19, 16)),
        (r"3[068]", (14,)),
    )
)
_DOUBLED = (0, 2, 4, 6, 8, 1, 3, 5, 7, 9)

Measure = Callable[[str], int]
"""How much of what has the right shape, from its beginning, is one; 0 when it is none."""


@dataclass(frozen=True, slots=True, eq=False)
class Detector:
    """What to look for.

    Args:
        label: what it is called, also in a text in its place.
        whole: finds it.
        beginning: finds it, and where a text ends before it does.
    """

    label: str
    whole: re.Pattern[str]
    beginning: re.Pattern[str]
    measure: Measure = len


@cache
def detector_of(kind: Kind) -> Detector:
    """Return what looks for `kind`."""
    pattern, measure = _SHAPES[kind]
    return _detector(kind, pattern, 0, measure)


def detectors_of(rule: FilterRule) -> tuple[Detector, ...]:
    """Return what looks for what a rule is about."""
    if rule.pattern is None:
        return tuple(map(detector_of, rule.kinds))
    return (_own(rule.name, rule.pattern),)


@lru_cache(maxsize=1024)
def _own(name: str, pattern: str) -> Detector:
    return _detector(name, pattern, re.IGNORECASE)


def _detector(label: str, pattern: str, flags: int, measure: Measure = len) -> Detector:
    beginning = bounded(pattern).beginning
    return Detector(label, re.compile(pattern, flags), re.compile(beginning, flags), measure)


def _iban(text: str) -> int:
    wanted = _LENGTHS.get(text[:2].upper())
    found = ""
    for place, character in enumerate(text, 1):
        if character != " ":
            found += character.upper()
        if len(found) == wanted:
            following = text[place : place + 1]
            digits = "".join(str(int(one, 36)) for one in found[4:] + found[:4])
            return place if int(digits) % 97 == 1 and not following.isalnum() else 0
    return 0


def _card(text: str) -> int:
    """Take the longest that is a number of a card; more digits may follow after a gap."""
    number = text.replace(" ", "").replace("-", "")
    for prefix, lengths in _CARD_PREFIXES:
        if prefix.match(number):
            return next((end for length in lengths if (end := _ends(text, number, length))), 0)
    return 0


def _ends(text: str, number: str, length: int) -> int:
    """Where in `text` a number of so many digits ends; 0 if it is none."""
    if len(number) < length or not _luhn(number[:length]):
        return 0
    end = digits = 0
    while digits < length:
        digits += text[end].isdigit()
        end += 1
    return 0 if text[end : end + 1].isdigit() else end


def _luhn(number: str) -> bool:
    digits = [int(one) for one in reversed(number)]
    doubled = [_DOUBLED[digit] for digit in digits[1::2]]
    return (sum(digits[0::2]) + sum(doubled)) % 10 == 0


def _ip(text: str) -> int:
    if ":" not in text:
        parts = text.split(".")
        return len(text) if len(parts) == 4 and all(int(part) < 256 for part in parts) else 0
    try:
        IPv6Address(text)
    except AddressValueError:
        return 0
    return len(text) if len(text) > 5 else 0


_SHAPES: dict[Kind, tuple[str, Measure]] = {
    "email": (_EMAIL, len),
    "phone": (_PHONE, len),
    "iban": (_IBAN, _iban),
    "card": (_CARD, _card),
    "ip": (_IP, _ip),
    "api_key": (_API_KEY, len),
    "private_key": (_PRIVATE_KEY, len),
    "jwt": (_JWT, len),
}
