import pytest

from galley.core.caching import CacheControl


@pytest.mark.parametrize(
    ("header", "asked"),
    [
        (None, CacheControl()),
        ("", CacheControl()),
        ("max-age=60", CacheControl(max_age_s=60)),
        ('Max-Age="60"', CacheControl(max_age_s=60)),
        ("no-cache", CacheControl(no_cache=True)),
        ("no-store, max-age=0", CacheControl(max_age_s=0, no_store=True)),
        ("only-if-cached,max-age=5, max-age=9", CacheControl(max_age_s=5, only_if_cached=True)),
        ("max-age=-1, max-age=1.5, max-age=x, min-fresh=3, private", CacheControl()),
        ("max-age=99999999999999", CacheControl()),
    ],
)
def test_cache_control_is_read_as_the_rfc_says(header: str | None, asked: CacheControl) -> None:
    assert CacheControl.parse(header) == asked
