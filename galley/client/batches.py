"""What is sent about files and batches, and how the answers are read."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import orjson

from galley.client.calls import Call, reader
from galley.schemas.batches import BatchList, BatchReply
from galley.schemas.files import FileReply

BatchCall = Call[BatchReply]


def upload_file(path: str | Path, purpose: str) -> Call[FileReply]:
    """A file that is sent whole."""
    given = Path(path)
    form = {"data": {"purpose": purpose}, "files": {"file": (given.name, given.read_bytes())}}
    return Call("POST", "/v1/files", reader(FileReply), form=form)


def file_content(file_id: str) -> Call[bytes]:
    """What is in a file."""
    return Call("GET", f"/v1/files/{quote(file_id)}/content", bytes)


def create_batch(
    input_file_id: str, endpoint: str, metadata: Mapping[str, str] | None
) -> BatchCall:
    """A batch of the requests in a file."""
    body: dict[str, Any] = {"input_file_id": input_file_id, "endpoint": endpoint}
    if metadata is not None:
        body["metadata"] = metadata
    sent = orjson.dumps(body | {"completion_window": "24h"})
    return Call("POST", "/v1/batches", reader(BatchReply), sent)


def batches(limit: int) -> Call[list[BatchReply]]:
    """The latest batches."""
    read = reader(BatchList)
    return Call("GET", f"/v1/batches?limit={limit}", lambda body: read(body).data)


def batch(batch_id: str) -> BatchCall:
    """One batch."""
    return Call("GET", f"/v1/batches/{quote(batch_id)}", reader(BatchReply))


def cancel_batch(batch_id: str) -> BatchCall:
    """The same batch, being cancelled."""
    return Call("POST", f"/v1/batches/{quote(batch_id)}/cancel", reader(BatchReply))
