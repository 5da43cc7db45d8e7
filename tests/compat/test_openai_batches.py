"""OpenAI's own SDK, its files and its batches."""

import io
import json
import time
from collections.abc import Generator

import openai
import pytest
from openai.types import Batch

from tests.routers.batch_files import embedding_lines, jsonl
from tests.serving import LiveServer


@pytest.fixture
def sdk(live_server: LiveServer) -> Generator[openai.OpenAI]:
    key = live_server.key_of_new_user()
    with openai.OpenAI(base_url=f"{live_server.url}/v1", api_key=key, max_retries=0) as client:
        yield client


def ended(sdk: openai.OpenAI, batch: Batch) -> Batch:
    end = time.monotonic() + 60
    while batch.status not in {"completed", "failed", "expired", "cancelled"}:
        assert time.monotonic() < end, batch
        time.sleep(0.05)
        batch = sdk.batches.retrieve(batch.id)
    return batch


def test_a_file_goes_up_comes_back_and_is_deleted(sdk: openai.OpenAI) -> None:
    made = sdk.files.create(
        file=("notes.txt", b"hello"),
        purpose="user_data",
        expires_after={"anchor": "created_at", "seconds": 3600},
    )

    found = sdk.files.retrieve(made.id)
    listed = [file.id for file in sdk.files.list(purpose="user_data", limit=1)]
    content = sdk.files.content(made.id).read()
    gone = sdk.files.delete(made.id)

    assert found == made
    assert (made.filename, made.bytes, made.status) == ("notes.txt", 5, "processed")
    assert made.expires_at == made.created_at + 3600
    assert listed == [made.id]
    assert content == b"hello"
    assert gone.deleted
    with pytest.raises(openai.NotFoundError) as missing:
        sdk.files.retrieve(made.id)
    assert missing.value.code == "file_not_found"


def test_lists_are_paged_through(sdk: openai.OpenAI) -> None:
    ids = [sdk.files.create(file=(f"{n}", b"a"), purpose="user_data").id for n in range(5)]

    assert [file.id for file in sdk.files.list(limit=2)] == ids[::-1]
    assert [file.id for file in sdk.files.list(limit=2, order="asc")] == ids


def test_a_batch_runs_from_its_upload_to_its_output(sdk: openai.OpenAI) -> None:
    file = sdk.files.create(file=io.BytesIO(jsonl(embedding_lines(5))), purpose="batch")
    made = sdk.batches.create(
        input_file_id=file.id,
        endpoint="/v1/embeddings",
        completion_window="24h",
        metadata={"project": "x"},
    )

    batch = ended(sdk, made)
    assert batch.output_file_id is not None
    lines = [json.loads(line) for line in sdk.files.content(batch.output_file_id).iter_lines()]

    assert batch.status == "completed"
    assert batch.request_counts is not None
    assert batch.request_counts.completed == 5
    assert batch.usage is not None
    assert batch.usage.total_tokens > 0
    assert batch.metadata == {"project": "x"}
    assert [line["custom_id"] for line in lines] == [f"line-{n}" for n in range(1, 6)]
    assert [found.id for found in sdk.batches.list(limit=1)] == [batch.id]


def test_faults_and_refusals_are_told_as_the_sdk_reads_them(sdk: openai.OpenAI) -> None:
    file = sdk.files.create(file=("a.jsonl", b"hello\n"), purpose="batch")
    made = sdk.batches.create(
        input_file_id=file.id, endpoint="/v1/embeddings", completion_window="24h"
    )

    batch = ended(sdk, made)

    assert batch.status == "failed"
    assert batch.errors is not None
    assert batch.errors.data is not None
    assert (batch.errors.data[0].code, batch.errors.data[0].line) == ("invalid_json_line", 1)
    with pytest.raises(openai.ConflictError):
        sdk.batches.cancel(batch.id)
    with pytest.raises(openai.NotFoundError):
        sdk.batches.create(
            input_file_id="file-none", endpoint="/v1/embeddings", completion_window="24h"
        )
    with pytest.raises(openai.BadRequestError):
        sdk.files.create(file=("a.txt", b""), purpose="user_data")
