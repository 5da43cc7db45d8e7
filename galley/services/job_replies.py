"""Jobs as their owners see them."""

from typing import Any

from galley.db.work_tables import Job, Webhook
from galley.schemas.jobs import JobError, JobProgress, JobReply, JobSummary, WebhookState


def told(job: Job, webhook: Webhook | None) -> JobReply:
    """Describe `job`; of its webhook all but the secret."""
    return JobReply.model_validate(_shared(job, webhook) | {"result": job.result, "log": job.log})


def told_in_short(job: Job, webhook: Webhook | None) -> JobSummary:
    """The same without its result and its log."""
    return JobSummary.model_validate(_shared(job, webhook))


def _shared(job: Job, webhook: Webhook | None) -> dict[str, Any]:
    error = None
    if job.error_code is not None:
        error = JobError(code=job.error_code, message=job.error_message or "")
    hook = None
    if webhook is not None:
        hook = WebhookState(
            url=webhook.url, attempts=webhook.attempts,
            delivered_at=webhook.delivered_at, error=webhook.error,
        )  # fmt: skip
    return {
        "id": job.id,
        "task": job.kind,
        "params": job.params,
        "status": job.status,
        "attempts": job.attempts,
        "progress": JobProgress(done=job.done, total=job.total, message=job.message),
        "error": error,
        "request_id": job.request_id,
        "created_at": job.created_at,
        "due_at": job.due_at if job.status == "queued" else None,
        "started_at": job.started_at,
        "finished_at": job.finished_at,
        "webhook": hook,
    }
