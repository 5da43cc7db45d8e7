"""Where webhooks may go, and how they are signed.

Source: Standard Webhooks 1.0.0, github.com/standard-webhooks/standard-webhooks.
"""

import base64
import binascii
import hashlib
import hmac
import re
import secrets
import socket
from collections.abc import Iterable
from datetime import datetime
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from urllib.parse import SplitResult, urlsplit

from galley.core.errors import BadRequestError

Address = IPv4Address | IPv6Address

_PREFIX = "whsec_"
_NUMBERS = re.compile(r"[0-9a-fx.]+", re.IGNORECASE)
_NAT64 = ip_network("64:ff9b::/96")


class WebhookGuard:
    """Knows which addresses webhooks may go to: global ones by https, and the operator's own.

    Args:
        networks: addresses or networks, by commas, which may be private and asked by http.
    """

    def __init__(self, networks: str | None = None) -> None:
        given = networks.split(",") if networks else ()
        self._own = [ip_network(network.strip(), strict=False) for network in given]

    def check(self, url: str) -> None:
        """Refuse a URL that leads nowhere webhooks may go, as far as it says itself.

        Raises:
            BadRequestError: it is none, is not asked by https, or names a private address.
        """
        parts = _parts(url)
        if parts.scheme != "https" and not (parts.scheme == "http" and self._own):
            raise _refusal("has to begin with https://")
        if not parts.hostname or parts.username is not None or parts.password is not None:
            raise _refusal("has to name a host, and no user")
        address = literal(_plain(parts.hostname))
        if address is not None:
            self.permit(address, is_tls=parts.scheme == "https")

    def permit(self, address: Address, *, is_tls: bool) -> None:
        """Refuse an address that webhooks may not go to.

        Raises:
            BadRequestError: it is private and not the operator's own; or it is asked by http.
        """
        if any(address in network for network in self._own):
            return
        if not is_tls:
            raise _refusal("has to begin with https://")
        if not all(map(_is_global, _meant(address))):
            raise _refusal("leads to a private address")

    def permit_all(self, addresses: Iterable[str], *, is_tls: bool) -> None:
        """Refuse a host of which any address may not be asked; raises as `permit`."""
        for address in addresses:
            self.permit(ip_address(address.partition("%")[0]), is_tls=is_tls)


def literal(host: str) -> Address | None:
    """Return the address that `host` is, however it is written; None for a name."""
    if host == "localhost" or host.endswith(".localhost"):  # RFC 6761, section 6.3
        return IPv4Address("127.0.0.1")
    try:
        return ip_address(host.partition("%")[0])
    except ValueError:
        pass
    if _NUMBERS.fullmatch(host):
        try:  # 127.1, 2130706433, 0x7f000001 and 0177.0.0.1 are addresses to C libraries
            return IPv4Address(socket.inet_aton(host))
        except OSError:
            return None
    return None


def new_secret() -> str:
    """Make a secret for signatures."""
    return _PREFIX + base64.b64encode(secrets.token_bytes(32)).decode()


def check_secret(secret: str) -> None:
    """Refuse what cannot be a secret.

    Raises:
        BadRequestError: it is not 24 to 64 bytes as base64.
    """
    try:
        length = len(_bytes_of(secret))
    except binascii.Error:
        length = 0
    if not 24 <= length <= 64:
        raise BadRequestError(
            "The webhook's secret has to be 24 to 64 bytes as base64, `whsec_` before it or not.",
            code="invalid_webhook_secret",
            param="webhook.secret",
        )


def signed(body: bytes, *, secret: str, name: str, at: datetime) -> dict[str, str]:
    """Return the headers that say who sends `body`.

    Args:
        name: of the message, the same in every attempt.
    """
    moment = str(int(at.timestamp()))
    content = b".".join((name.encode(), moment.encode(), body))
    digest = hmac.new(_bytes_of(secret), content, hashlib.sha256).digest()
    return {
        "webhook-id": name,
        "webhook-timestamp": moment,
        "webhook-signature": f"v1,{base64.b64encode(digest).decode()}",
    }


def _bytes_of(secret: str) -> bytes:
    return base64.b64decode(secret.removeprefix(_PREFIX), validate=True)


def _parts(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        _ = parts.port  # out of range, it says so only when it is asked
    except ValueError:
        raise _refusal("is not a URL") from None
    return parts


def _plain(host: str) -> str:
    """Write a host as it is asked for: the full-width digits of an address are digits then."""
    try:
        return host.encode("idna").decode()
    except UnicodeError:  # a part of it is empty or too long
        raise _refusal("has to name a host") from None


def _meant(address: Address) -> list[Address]:
    """Return `address` and those that are wrapped in it."""
    if isinstance(address, IPv4Address):
        return [address]
    inner = [address.ipv4_mapped, address.sixtofour, *(address.teredo or ())]
    if address in _NAT64:
        inner.append(IPv4Address(int(address) & 0xFFFFFFFF))
    return [address, *(found for found in inner if found is not None)]


def _is_global(address: Address) -> bool:
    if address.is_multicast:
        return False
    if isinstance(address, IPv4Address):
        return address.is_global and not address.is_reserved
    if address.ipv4_mapped is not None or address in _NAT64:
        return True  # as global as what is wrapped in it
    return address.is_global and not (address.is_reserved or address.is_site_local)


def _refusal(why: str) -> BadRequestError:
    return BadRequestError(f"The webhook's URL {why}.", code="webhook_refused", param="webhook.url")
