"""Webhooks go to global addresses alone, and are signed as Standard Webhooks wants it."""

from datetime import UTC, datetime
from ipaddress import ip_address

import pytest

from galley.core.errors import BadRequestError
from galley.services.webhooks import WebhookGuard, check_secret, new_secret, signed

PRIVATE = [
    "127.0.0.1", "127.1", "2130706433", "0x7f000001", "0x7f.1", "0177.0.0.1", "localhost",
    "a.localhost", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1",
    "0.0.0.0",  # noqa: S104 - not to listen on
    "0", "224.0.0.1", "255.255.255.255", "192.0.2.1", "198.18.0.1",
    "[::1]", "[::]", "[fe80::1]", "[fd00::1]", "[ff02::1]", "[::ffff:127.0.0.1]",
    "[::ffff:7f00:1]", "[64:ff9b::7f00:1]", "[2002:7f00:1::]", "[64:ff9b::a9fe:a9fe]",
    "[2001:0:4136:e378:8000:63bf:80ff:fffe]", "[fec0::1]", "[::7f00:1]", "[64:ff9b:1::1]",
    "\uff11\uff12\uff17.0.0.1", "127\u30020\u30020\u30021", "\u2460\u2461\u2466.1",
    "\u24dbocalhost", "\uff10x7f.1",
]  # fmt: skip


@pytest.mark.parametrize("host", PRIVATE)
def test_a_private_address_is_refused_however_it_is_written(host: str) -> None:
    with pytest.raises(BadRequestError) as refused:
        WebhookGuard().check(f"https://{host}:8443/hook")

    assert refused.value.code == "webhook_refused"


@pytest.mark.parametrize(
    "url",
    [
        "http://example.org/", "ftp://example.org/", "file:///etc/passwd", "https:///hook",
        "https://", "example.org", "", "https://user@example.org/", "https://u:p@example.org/",
        "https://example.org:99999/", "https://[::1/", "javascript:alert(1)", "//example.org/",
        "https://a..b/", "https://.org/", f"https://{'a' * 64}.org/", "https://\u3002/",
    ],
)  # fmt: skip
def test_what_is_no_https_url_with_a_host_is_refused(url: str) -> None:
    with pytest.raises(BadRequestError):
        WebhookGuard().check(url)


@pytest.mark.parametrize(
    "url",
    [
        "https://example.org/hook?a=1",
        "https://1.1.1.1/",
        "https://[2606:4700::1111]:444/",
        "https://[64:ff9b::101:101]/",
    ],
)
def test_global_addresses_and_names_are_let_through(url: str) -> None:
    WebhookGuard().check(url)


def test_the_operators_own_networks_may_be_private_and_asked_by_http() -> None:
    guard = WebhookGuard("127.0.0.0/8, 10.1.0.0/16")

    guard.check("http://127.0.0.1:9000/")
    guard.check("https://10.1.2.3/")
    for url in ("http://10.2.0.1/", "https://192.168.1.1/", "http://1.1.1.1/"):
        with pytest.raises(BadRequestError):
            guard.check(url)


def test_a_name_of_which_any_address_is_private_is_refused() -> None:
    with pytest.raises(BadRequestError):
        WebhookGuard().permit_all(["1.1.1.1", "192.168.0.1"], is_tls=True)


def test_a_name_is_not_asked_by_http_because_other_networks_are_the_operators_own() -> None:
    with pytest.raises(BadRequestError):
        WebhookGuard("10.0.0.0/8").permit(ip_address("1.1.1.1"), is_tls=False)


def test_a_signature_is_that_of_the_specification() -> None:
    # The example of github.com/standard-webhooks/standard-webhooks, libraries/python.
    headers = signed(
        b'{"test": 2432232314}',
        secret="whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        name="msg_p5jXN8AQM9LWM0D4loKWxJek",
        at=datetime.fromtimestamp(1614265330, UTC),
    )

    assert headers == {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }


def test_secrets_are_24_to_64_bytes_of_base64() -> None:
    check_secret(new_secret())
    check_secret("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")

    for wrong in ("whsec_c2hvcnQ=", "whsec_" + "A" * 100, "no base64 at all, but long enough"):
        with pytest.raises(BadRequestError):
            check_secret(wrong)
