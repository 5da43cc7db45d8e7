"""A connection to Redis, where one is set."""

from typing import TYPE_CHECKING

from galley.core.settings import Settings, SettingsError

if TYPE_CHECKING:
    from redis.asyncio import Redis


def connect_redis(settings: Settings) -> "Redis":
    """Connect when it is first used.

    Raises:
        SettingsError: its client is not installed, or the URL is none.
    """
    assert settings.redis_url is not None  # noqa: S101 - the caller has looked
    try:
        from redis.asyncio import Redis  # an extra: one server does without
    except ModuleNotFoundError as error:
        raise SettingsError(
            "GALLEY_REDIS_URL needs Redis's client. Install it: pip install 'galley[redis]'"
        ) from error
    try:
        return Redis.from_url(settings.redis_url.get_secret_value())
    except ValueError:  # the URL may hold a password, so it is not repeated
        raise SettingsError("GALLEY_REDIS_URL is no URL like redis://host:6379/0") from None
