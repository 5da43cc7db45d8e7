"""A whole server on either database."""

import time
from pathlib import Path

from tests.serving import make_settings, serving


def test_a_server_books_and_sums_up_what_it_answers(
    database_url: str, models_dir: Path, tmp_path: Path
) -> None:
    settings = make_settings(tmp_path / "server", models_dir, database_url=database_url)
    with serving(settings) as server:
        server.until_ready()

        embedded = server.post("/v1/embeddings", model="galley/embeddings", input=["a", "b"])
        refused = server.post("/v1/embeddings", model="no-such-model", input="a")

        while (usage := server.client.get("/usage").json())["total_requests"] < 2:
            time.sleep(0.01)  # a refusal is recorded, but not waited for
        assert (embedded.status_code, refused.status_code) == (200, 404)
        assert (usage["total_requests"], usage["successful_requests"]) == (2, 1)
        assert usage["prompt_tokens"] == embedded.json()["usage"]["prompt_tokens"]
        assert usage["by_endpoint"] == {"embeddings": 2}
