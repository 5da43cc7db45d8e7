"""The Python client: `Client`, its twin `AsyncClient`, and the errors they raise."""

from galley.client.aio import AsyncClient
from galley.client.errors import (
    APIConnectionError,
    APIError,
    APITimeoutError,
    AuthenticationError,
    BadRequestError,
    ConflictError,
    NotFoundError,
    PermissionDeniedError,
    RateLimitError,
    RequestTooLargeError,
    ServerError,
    UnprocessableError,
)
from galley.client.profile import Profile
from galley.client.sync import Client

__all__ = [
    "APIConnectionError",
    "APIError",
    "APITimeoutError",
    "AsyncClient",
    "AuthenticationError",
    "BadRequestError",
    "Client",
    "ConflictError",
    "NotFoundError",
    "PermissionDeniedError",
    "Profile",
    "RateLimitError",
    "RequestTooLargeError",
    "ServerError",
    "UnprocessableError",
]
