"""Logging in: passwords and keys in, tokens out."""

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, SecretStr, model_validator

from galley.schemas.base import Reply, Request, said_as
from galley.schemas.keys import PLAIN


def _encodable(value: SecretStr) -> SecretStr:
    try:
        value.get_secret_value().encode()
    except UnicodeEncodeError:  # its own words quote the secret
        raise ValueError("half a character is no text") from None
    return value


Secret = Annotated[SecretStr, AfterValidator(_encodable)]
"""Pydantic takes lone surrogates for a secret, as it does for no other text."""

PASSWORD_WORDS = said_as("a password has 12 to 256 characters")


class Grant(Request):
    """Who is asking: an address with its password, or an API key."""

    email: str | None = Field(default=None, max_length=254, pattern=PLAIN)
    password: Secret | None = Field(default=None, min_length=1, max_length=256)
    api_key: Secret | None = Field(default=None, min_length=1, max_length=256)

    @model_validator(mode="after")
    def _is_one_of_them(self) -> Self:
        by_password = self.email is not None and self.password is not None
        anything = self.email is not None or self.password is not None
        if (self.api_key is not None and anything) or not (self.api_key or by_password):
            raise ValueError("send email and password, or api_key alone")
        return self


class RefreshRequest(Request):
    refresh_token: Secret = Field(min_length=1, max_length=256)


class LogoutRequest(Request):
    refresh_token: Secret | None = Field(
        default=None, min_length=1, max_length=256, description="Null: the session of the cookies."
    )


class PasswordChange(Request):
    old_password: Secret | None = Field(
        default=None, min_length=1, max_length=256, description="Needed where there is one."
    )
    new_password: Annotated[
        SecretStr,
        Field(min_length=12, max_length=256),
        PASSWORD_WORDS,
        AfterValidator(_encodable),
    ]


class TokenReply(Reply):
    """Source: RFC 6749, The OAuth 2.0 Authorization Framework, section 5.1."""

    access_token: str = Field(description="Sent as `Authorization: Bearer ...`, as a key is.")
    token_type: Literal["bearer"] = "bearer"  # noqa: S105 - the name of a kind, not a token
    expires_in: int = Field(description="Seconds that the access token is good.")
    refresh_token: str = Field(description="Good once, for new tokens.")
    refresh_expires_in: int = Field(description="Seconds that the refresh token is good.")


class SessionReply(Reply):
    """The tokens themselves are in cookies that no script can read."""

    csrf_token: str = Field(description="To be sent as `x-csrf-token` with whatever changes.")
    expires_in: int = Field(description="Seconds until the session has to be renewed.")
    refresh_expires_in: int = Field(description="Seconds until it cannot be renewed any more.")
