"""Batches for tests: their files, their ends, and what the ledger says of them."""

import time
from collections.abc import Iterable
from typing import Any

import httpx2
import orjson

LONGEST_S = 120.0


def embedding_lines(count: int, **changes: Any) -> list[dict[str, Any]]:
    """Lines of a batch that asks for the vectors of short texts."""
    body = {"model": "galley/embeddings", "input": "hello", "encoding_format": "base64"}
    return [
        {
            "custom_id": f"line-{number}",
            "method": "POST",
            "url": "/v1/embeddings",
            "body": body | {"input": f"text {number}"} | changes,
        }
        for number in range(1, count + 1)
    ]


def jsonl(lines: Iterable[Any]) -> bytes:
    """Lines as a file has them; what is bytes is left as it is."""
    return b"".join(
        (line if isinstance(line, bytes) else orjson.dumps(line)) + b"\n" for line in lines
    )


def upload(client: httpx2.Client, lines: Iterable[Any], purpose: str = "batch") -> str:
    """Upload lines; return the file's id."""
    answer = client.post(
        "/v1/files", files={"file": ("batch.jsonl", jsonl(lines))}, data={"purpose": purpose}
    )
    assert answer.status_code == 200, answer.text
    return answer.json()["id"]


def start(
    client: httpx2.Client, lines: Iterable[Any], endpoint: str = "/v1/embeddings", **more: Any
) -> dict[str, Any]:
    """Upload lines, and make a batch of them."""
    body = {"input_file_id": upload(client, lines), "endpoint": endpoint}
    answer = client.post("/v1/batches", json=body | {"completion_window": "24h"} | more)
    assert answer.status_code == 200, answer.text
    return answer.json()


def ended(client: httpx2.Client, batch: dict[str, Any]) -> dict[str, Any]:
    """Wait for the end of a batch."""
    end = time.monotonic() + LONGEST_S
    while (found := client.get(f"/v1/batches/{batch['id']}").json())["status"] not in {
        "completed", "failed", "expired", "cancelled",
    }:  # fmt: skip
        assert time.monotonic() < end, found
        time.sleep(0.05)
    return found


def content(client: httpx2.Client, file_id: str | None) -> list[dict[str, Any]]:
    """The lines of a file."""
    answer = client.get(f"/v1/files/{file_id}/content")
    assert answer.status_code == 200, answer.text
    return [orjson.loads(line) for line in answer.content.splitlines()]
