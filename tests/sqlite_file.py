"""SQLite's file at the newest schema, made once per process and copied from then on."""

from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from galley.db import migrations
from galley.db.engine import is_sqlite, parse_url


def put_sqlite(url: str) -> None:
    """Write it where `url` names a file that is not there, as open to others as Galley does.

    Any other database is left alone.
    """
    parsed = parse_url(url)
    path = Path(str(parsed.database))
    if not is_sqlite(parsed) or path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    path.touch(mode=0o600)
    path.write_bytes(_at_head())


@cache
def _at_head() -> bytes:
    with TemporaryDirectory() as folder, ThreadPoolExecutor() as pool:
        path = Path(folder) / "galley.db"
        # On a thread: whoever asks may have an event loop, and migrations run one of their own.
        pool.submit(migrations.upgrade, parse_url(f"sqlite:///{path}")).result()
        return path.read_bytes()
