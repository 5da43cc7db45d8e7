"""Versions of documents while they are written, and why one cannot be."""

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from galley.core.errors import ConflictError, NotFoundError
from galley.stores.passages import Draft, NewCollection


@dataclass(frozen=True, slots=True)
class Staged:
    """A version that is being written and that nothing shows yet.

    Args:
        since: how new its text is: the version that brought it.
        replaces: the document is there already, and must not be deleted meanwhile.
    """

    version: int
    owner: str
    collection: int
    dimensions: int
    document_id: str
    since: int
    replaces: bool


def described(draft: Draft) -> tuple[Any, ...]:
    """Name, media type, metadata as JSON, hash, characters and bytes."""
    digest = hashlib.sha256(draft.text.encode()).hexdigest()
    metadata = json.dumps(dict(draft.metadata))
    return draft.name, draft.media_type, metadata, digest, len(draft.text), draft.bytes


def given_up() -> ConflictError:
    """Another server took the version for the leftover of a crash."""
    return ConflictError("The document was given up; add it again.", code="document_given_up")


def no_collection() -> NotFoundError:
    """None of this owner."""
    return NotFoundError("There is no such collection.", code="collection_not_found")


def no_document() -> NotFoundError:
    """None of this owner, or not in this collection."""
    return NotFoundError("There is no such document.", code="document_not_found")


def collection_exists(new: NewCollection) -> ConflictError:
    """The owner has one of that name."""
    return ConflictError(f"There is a collection {new.name!r} already.", code="collection_exists")
