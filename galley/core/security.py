"""API keys: how they look and what is kept of them.

A key is `gk_`, 32 random base62 characters and a checksum of six: CRC32 of what stands before
it. A mistyped key is refused by its checksum, before anything is looked up; only the SHA-256
of a good one is stored (32 base62 characters are 190 bits, so a slow hash would add nothing).
"""

import hashlib
import re
import secrets
import string
import zlib

ALPHABET = string.digits + string.ascii_uppercase + string.ascii_lowercase
_SHAPE = re.compile(r"gk_[0-9A-Za-z]{38}")


def make_key() -> str:
    """Make a new API key; whoever calls this is the last to see it whole."""
    body = "gk_" + "".join(secrets.choice(ALPHABET) for _ in range(32))
    return body + _checksum(body)


def is_well_formed(key: str) -> bool:
    """Say whether `key` could be one of ours, without asking the database."""
    return _SHAPE.fullmatch(key) is not None and secrets.compare_digest(
        _checksum(key[:-6]), key[-6:]
    )


def hash_key(key: str) -> bytes:
    """Return the 32 bytes that are stored and looked up in place of `key`."""
    return hashlib.sha256(key.encode()).digest()


def _checksum(body: str) -> str:
    number, digits = zlib.crc32(body.encode()), ""
    for _ in range(6):
        number, digit = divmod(number, len(ALPHABET))
        digits = ALPHABET[digit] + digits
    return digits
