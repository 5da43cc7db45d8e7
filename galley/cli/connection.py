"""How commands reach a server, and what they say when they cannot."""

import re
from collections.abc import Generator
from contextlib import contextmanager
from typing import Annotated

import typer

from galley.cli.console import ExitCode, fail
from galley.client import APIConnectionError, APIError, AuthenticationError, Client
from galley.client.profile import Profile

ServerOption = Annotated[
    str | None,
    typer.Option(
        "--server",
        metavar="URL",
        help="The server's address; unset: GALLEY_BASE_URL, then the one on this machine.",
    ),
]
KeyOption = Annotated[
    str | None,
    typer.Option(
        "--key",
        metavar="KEY",
        help="API key; unset: GALLEY_API_KEY, then the one the server left on this machine.",
    ),
]


@contextmanager
def connected(server: str | None, key: str | None) -> Generator[Client]:
    """Give a client, and end the command with one line when the server says no."""
    try:
        client = Client(server, key)
    except ValueError as error:
        fail(str(error), ExitCode.USAGE)
    try:
        with client:
            yield client
    except APIConnectionError as error:
        fail(error.message, ExitCode.UNREACHABLE)
    except APIError as error:
        fail(in_words(error, client.profile))


def in_words(error: APIError, profile: Profile) -> str:
    """Say what went wrong, how to find it in the server's log, and what to do.

    Args:
        profile: who was asked, and with which key.
    """
    said = error.message if error.message.endswith((".", "!", "?")) else f"{error.message}."
    if isinstance(error, AuthenticationError):
        said += f" {_key_advice(profile)}"
    if error.code == "model_not_found":
        said += " So does `galley models list`."
    if error.retry_after is not None:
        said = re.sub(r" Try again( in a moment| in a second| shortly| in \d+ s)?\.$", "", said)
        said += f" Try again in {error.retry_after:g} s."
    return f"{said} (request {error.request_id})" if error.request_id else said


def _key_advice(profile: Profile) -> str:
    if profile.api_key and profile.kept_in:
        return (
            f"It is the one kept in {profile.kept_in}. Put another there with "
            "`galley keys create --local`."
        )
    return "Pass a key with --key or GALLEY_API_KEY."
