"""PostgreSQL's advisory locks that Galley takes: any numbers, as long as no two are the same.

Source: https://www.postgresql.org/docs/current/explicit-locking.html#ADVISORY-LOCKS
"""

MIGRATING = 7_238_118_001
"""The schema is brought up to date."""

SERVING = 7_238_118_002
"""Held by servers as long as they run."""

STARTING = 7_238_118_003
"""A server makes what the first one makes."""

INDEXING = 7_238_118_004
"""An index for vectors of another size is made."""

MONTHS = 7_238_118_011
"""The partitions of coming months are made."""
