"""Anthropic's own SDK and its message batches."""

import time
from collections.abc import Iterator

import anthropic
import pytest
from anthropic.types.messages import MessageBatch
from anthropic.types.messages.batch_create_params import Request

from tests.serving import LiveServer


@pytest.fixture
def sdk(live_server: LiveServer) -> Iterator[anthropic.Anthropic]:
    key = live_server.key_of_new_user()
    with anthropic.Anthropic(base_url=live_server.url, api_key=key, max_retries=0) as client:
        yield client


def asked(count: int, model: str = "galley/chat") -> list[Request]:
    return [
        {
            "custom_id": f"m-{number}",
            "params": {
                "model": model,
                "max_tokens": 4,
                "messages": [{"role": "user", "content": "Say hello."}],
            },
        }
        for number in range(count)
    ]


def ended(sdk: anthropic.Anthropic, batch: MessageBatch) -> MessageBatch:
    end = time.monotonic() + 60
    while batch.processing_status != "ended":
        assert time.monotonic() < end, batch
        time.sleep(0.05)
        batch = sdk.messages.batches.retrieve(batch.id)
    return batch


def test_a_batch_runs_from_its_requests_to_its_results_and_is_deleted(
    sdk: anthropic.Anthropic,
) -> None:
    made = sdk.messages.batches.create(requests=asked(3) + asked(4, "no-such-model")[3:])

    batch = ended(sdk, made)
    found = {line.custom_id: line.result for line in sdk.messages.batches.results(batch.id)}
    gone = sdk.messages.batches.delete(batch.id)

    MessageBatch.model_validate(batch.model_dump(mode="json"))
    assert set(batch.model_dump(exclude_unset=True)) == set(MessageBatch.model_fields)
    assert (made.id, made.processing_status) == (batch.id, "in_progress")
    assert made.request_counts.processing == 4
    assert (batch.request_counts.succeeded, batch.request_counts.errored) == (3, 1)
    assert batch.ended_at is not None
    assert batch.ended_at >= batch.created_at
    for number in range(3):
        result = found[f"m-{number}"]
        assert result.type == "succeeded"
        assert result.message.usage.output_tokens > 0
        assert result.message.content[0].type == "text"
    failed = found["m-3"]
    assert failed.type == "errored"
    assert failed.error.error.type == "not_found_error"
    assert gone.type == "message_batch_deleted"
    with pytest.raises(anthropic.NotFoundError):
        sdk.messages.batches.retrieve(batch.id)


def test_lists_are_paged_through(sdk: anthropic.Anthropic) -> None:
    ids = [sdk.messages.batches.create(requests=asked(1)).id for _ in range(5)]

    later = sdk.messages.batches.list(limit=2, before_id=ids[0])

    assert [batch.id for batch in sdk.messages.batches.list(limit=2)] == ids[::-1]
    assert sorted(batch.id for batch in later) == sorted(ids[1:])


def test_a_batch_is_canceled(sdk: anthropic.Anthropic) -> None:
    made = sdk.messages.batches.create(requests=asked(100))

    canceling = sdk.messages.batches.cancel(made.id)
    batch = ended(sdk, canceling)
    kinds = [line.result.type for line in sdk.messages.batches.results(batch.id)]

    assert canceling.processing_status == "canceling"
    assert canceling.cancel_initiated_at is not None
    assert batch.request_counts.canceled == kinds.count("canceled") > 0
    assert len(kinds) == 100


def test_refusals_are_told_as_the_sdk_reads_them(sdk: anthropic.Anthropic) -> None:
    with pytest.raises(anthropic.BadRequestError, match=r"requests\.1\.custom_id"):
        sdk.messages.batches.create(requests=asked(1) * 2)
    with pytest.raises(anthropic.NotFoundError):
        sdk.messages.batches.retrieve("msgbatch_none")


def test_the_beta_client_does_the_same(sdk: anthropic.Anthropic) -> None:
    made = sdk.beta.messages.batches.create(requests=asked(1))  # pyright: ignore[reportArgumentType] - the same by other names

    batch = ended(sdk, sdk.messages.batches.retrieve(made.id))

    assert [line.result.type for line in sdk.beta.messages.batches.results(batch.id)] == [
        "succeeded"
    ]
