"""Batches as the API tells of them, in OpenAI's shape and in Anthropic's."""

from datetime import datetime

from galley.db.batches import ENDED
from galley.db.cursors import Page
from galley.db.work_tables import Batch
from galley.schemas.batches import (
    BatchCounts,
    BatchFault,
    BatchFaults,
    BatchList,
    BatchReply,
    BatchUsage,
    InputTokensDetails,
    OutputTokensDetails,
)
from galley.schemas.message_batches import MessageBatch, MessageBatchCounts, MessageBatchList
from galley.services.batch_shapes import ANTHROPIC, OPENAI
from galley.services.files import wire_id


def reply_of(batch: Batch) -> BatchReply:
    """Describe `batch` as OpenAI does."""
    prompt, completion = batch.prompt_tokens, batch.completion_tokens
    faults = [BatchFault.model_validate(fault) for fault in batch.errors or ()]
    return BatchReply(
        id=OPENAI.id_of(batch),
        endpoint=batch.endpoint,
        model=batch.model,
        errors=BatchFaults(data=faults) if faults else None,
        input_file_id=wire_id(batch.input_file_id),
        completion_window="24h",
        status=batch.status,
        output_file_id=batch.output_file_id and wire_id(batch.output_file_id),
        error_file_id=batch.error_file_id and wire_id(batch.error_file_id),
        created_at=int(batch.created_at.timestamp()),
        in_progress_at=_unix(batch.in_progress_at),
        expires_at=int(batch.expires_at.timestamp()),
        finalizing_at=_unix(batch.finalizing_at),
        completed_at=_ended_at(batch, "completed"),
        failed_at=_ended_at(batch, "failed"),
        expired_at=_ended_at(batch, "expired"),
        cancelled_at=_ended_at(batch, "cancelled"),
        cancelling_at=_unix(batch.cancelling_at),
        request_counts=BatchCounts(
            total=batch.total, completed=batch.completed, failed=batch.failed
        ),
        usage=BatchUsage(
            input_tokens=prompt,
            input_tokens_details=InputTokensDetails(cached_tokens=batch.cached_tokens),
            output_tokens=completion,
            output_tokens_details=OutputTokensDetails(reasoning_tokens=0),
            total_tokens=prompt + completion,
        ),
        metadata=batch.labels,
    )


def list_of(page: Page[Batch]) -> BatchList:
    """Describe a page of batches as OpenAI does."""
    data = [reply_of(batch) for batch in page.rows]
    return BatchList(
        data=data,
        first_id=data[0].id if data else None,
        last_id=data[-1].id if data else None,
        has_more=page.has_more,
    )


def message_batch_of(batch: Batch, address: str) -> MessageBatch:
    """Describe `batch` as Anthropic does.

    Args:
        address: what its URLs begin with, up to its id.
    """
    identity, ended = ANTHROPIC.id_of(batch), batch.status in ENDED
    status = "canceling" if batch.status == "cancelling" else "in_progress"
    return MessageBatch(
        id=identity,
        processing_status="ended" if ended else status,
        request_counts=_message_counts(batch),
        created_at=batch.created_at,
        expires_at=batch.expires_at,
        ended_at=batch.ended_at,
        cancel_initiated_at=batch.cancelling_at,
        results_url=f"{address}/{identity}/results" if batch.output_file_id else None,
    )


def message_batch_list_of(page: Page[Batch], address: str) -> MessageBatchList:
    """Describe a page of batches as Anthropic does."""
    data = [message_batch_of(batch, address) for batch in page.rows]
    return MessageBatchList(
        data=data,
        first_id=data[0].id if data else None,
        last_id=data[-1].id if data else None,
        has_more=page.has_more,
    )


def _message_counts(batch: Batch) -> MessageBatchCounts:
    """Count its requests; those that were left are what it ended as."""
    if batch.status not in ENDED:
        return MessageBatchCounts(processing=batch.total)
    left = batch.total - batch.completed - batch.failed
    return MessageBatchCounts(
        succeeded=batch.completed,
        errored=batch.failed + (left if batch.status == "failed" else 0),
        canceled=left if batch.status == "cancelled" else 0,
        expired=left if batch.status == "expired" else 0,
    )


def _ended_at(batch: Batch, status: str) -> int | None:
    return _unix(batch.ended_at) if batch.status == status else None


def _unix(moment: datetime | None) -> int | None:
    return None if moment is None else int(moment.timestamp())
