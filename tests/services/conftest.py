"""What the tests of this room share: databases of both makes."""

from tests.databases import database, database_url, postgres_server, postgresql_url, sqlite_url

__all__ = ["database", "database_url", "postgres_server", "postgresql_url", "sqlite_url"]
