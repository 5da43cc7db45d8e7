"""Files that users keep here: what batches read, and what jobs write."""

from typing import Literal

from pydantic import Field

from galley.schemas.base import Reply, Request

Purpose = Literal["assistants", "batch", "evals", "fine-tune", "user_data", "vision"]
"""What an uploaded file is for; of these, `batch` alone means something here."""

HOUR_S = 3_600
MONTH_S = 2_592_000


class ExpiresAfter(Request):
    anchor: Literal["created_at"]
    seconds: int = Field(ge=HOUR_S, le=MONTH_S, description="An hour to 30 days.")


class FileCreate(Request):
    """The fields of the form beside the file. Source: OpenAI API specification, CreateFile."""

    purpose: Purpose
    expires_after: ExpiresAfter | None = None


class FileReply(Reply):
    id: str
    object: Literal["file"] = "file"
    bytes: int
    created_at: int = Field(description="Unix time, in seconds.")
    expires_at: int | None = Field(default=None, description="Unix time; null is never.")
    filename: str
    purpose: str
    status: Literal["processed"] = "processed"
    status_details: None = None


class FileList(Reply):
    object: Literal["list"] = "list"
    data: list[FileReply]
    first_id: str | None
    last_id: str | None
    has_more: bool


class DeletedFile(Reply):
    id: str
    object: Literal["file"] = "file"
    deleted: Literal[True] = True
