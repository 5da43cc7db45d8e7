"""Who else may sign tokens for this server."""

from ipaddress import ip_address
from typing import Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator

OWN_ISSUER = "galley"
"""What our own tokens name as their issuer, and as whom they are for."""

Algorithm = Literal[
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "Ed25519"
]
"""Asymmetric ones alone: with a shared secret, whoever can check a token could make it."""


class IssuerSettings(BaseModel):
    """An identity provider whose tokens open this server."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    issuer: str = Field(min_length=1, description="The `iss` of its tokens, to the letter.")
    audience: str = Field(min_length=1, description="What its tokens must name in `aud`.")
    jwks_url: str = Field(description="Where its public keys are; https, or http on this machine.")
    algorithms: tuple[Algorithm, ...] = Field(
        default=("RS256",), min_length=1, description="What its tokens may be signed with."
    )
    email_claim: str = Field(default="email", description="The claim that holds the address.")
    tier_claim: str | None = Field(
        default=None, description="The claim, a text or a list, that decides the user's tier."
    )
    tiers: dict[str, str] = Field(
        default_factory=dict[str, str],
        description="Values of that claim and their tiers; the first that fits counts.",
    )
    create_users: bool = Field(
        default=False, description="Whether somebody who is new here becomes a user."
    )

    @field_validator("issuer")
    @classmethod
    def _is_not_us(cls, value: str) -> str:
        if value == OWN_ISSUER:
            raise ValueError(f"{OWN_ISSUER!r} is this server's own name")
        return value

    @field_validator("jwks_url")
    @classmethod
    def _is_safe(cls, value: str) -> str:
        parts = urlsplit(value)
        near = parts.scheme == "http" and _is_loopback(parts.hostname or "")
        if not parts.hostname or not (parts.scheme == "https" or near):
            raise ValueError("it has to be https://..., or http:// on this machine")
        return value


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False
