"""When another server says to come back."""

from datetime import UTC, datetime

import pytest

from galley.engines.http_errors import seconds_to_wait

NOW = datetime(2026, 11, 21, 12, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        (None, 1),
        ("", 1),
        ("7", 7),
        ("0.5", 0.5),
        ("0", 0),
        ("-3", 0),
        ("86400", 60),
        ("nan", 1),
        ("inf", 1),
        ("soon", 1),
        ("Sat, 21 Nov 2026 12:00:20 GMT", 20),
        ("Sat, 21 Nov 2026 12:00:20 -0000", 20),
        ("Sat, 21 Nov 2026 13:00:30 +0100", 30),
        ("Sat, 21 Nov 2026 11:00:00 GMT", 0),
        ("Sun, 22 Nov 2026 12:00:00 GMT", 60),
    ],
)
def test_retry_after_is_read_as_seconds_or_a_date_and_never_more_than_a_minute(
    said: str | None, seconds: float
) -> None:
    assert seconds_to_wait(said, NOW) == seconds
