"""What an operator may say of other issuers."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from galley.core.issuers import IssuerSettings
from galley.core.settings import Settings, SettingsError

GOOD: dict[str, Any] = {
    "issuer": "https://login.example.org/",
    "audience": "galley-server",
    "jwks_url": "https://login.example.org/keys",
}


@pytest.mark.parametrize(
    "url",
    [
        "https://login.example.org/keys",
        "http://localhost:8080/keys",
        "http://127.0.0.1:8080/keys",
        "http://[::1]:8080/keys",
    ],
)
def test_keys_come_by_https_or_from_this_machine(url: str) -> None:
    given: dict[str, Any] = GOOD | {"jwks_url": url}

    assert IssuerSettings(**given).jwks_url == url


@pytest.mark.parametrize(
    "wrong",
    [
        {"jwks_url": "http://login.example.org/keys"},
        {"jwks_url": "http://127.0.0.1.example.org/keys"},
        {"jwks_url": "http://10.0.0.1/keys"},
        {"jwks_url": "https:///keys"},
        {"jwks_url": "file:///etc/keys"},
        {"jwks_url": "keys"},
        {"algorithms": ["HS256"]},
        {"algorithms": ["none"]},
        {"algorithms": []},
        {"issuer": "galley"},
        {"issuer": ""},
        {"audience": ""},
        {"tier": "enterprise"},
    ],
)
def test_what_would_be_unsafe_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        IssuerSettings(**(GOOD | wrong))


def test_issuers_are_tables_of_the_toml_file(tmp_path: Path) -> None:
    path = tmp_path / "galley.toml"
    lines = ["[issuers.company]", *(f'{name} = "{value}"' for name, value in GOOD.items())]
    path.write_text("\n".join([*lines, "[issuers.company.tiers]", 'staff = "premium"']))

    issuer = Settings(config=path).issuers["company"]

    assert issuer.issuer == GOOD["issuer"]
    assert issuer.tiers == {"staff": "premium"}
    assert issuer.algorithms == ("RS256",)
    assert not issuer.create_users


def test_a_key_of_an_issuer_that_nobody_knows_is_named(tmp_path: Path) -> None:
    path = tmp_path / "galley.toml"
    path.write_text("[issuers.company]\njwk_url = 'https://login.example.org/keys'\n")

    with pytest.raises(SettingsError, match="jwks_url"):
        Settings(config=path)
