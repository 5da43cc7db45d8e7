"""One server's models for another in a process of its own, set up as docs/servers.md says."""

from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from galley.core.security import make_key
from tests.cli.program import environment, serve
from tests.faults.test_two_servers import until
from tests.serving import LiveServer

PAGE = Path(__file__).parent.parent.parent / "docs" / "servers.md"
ASK = {"model": "galley/chat", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4}


@pytest.fixture
def second(live_server: LiveServer, tmp_path: Path) -> Iterator[httpx2.Client]:
    """A client of a server without models of its own."""
    (example,) = (part.partition("```")[0] for part in PAGE.read_text().split("```toml\n")[1:])
    told = example.replace("http://10.0.0.5:8000", live_server.url)
    (tmp_path / "galley.toml").write_text(told)
    key = make_key()
    env = environment(tmp_path, embedded_models=False, bootstrap_key=key)
    env["SHARED_MODEL_KEY"] = live_server.key
    with (
        serve(env=env, folder=tmp_path) as server,
        httpx2.Client(
            base_url=server.base_url, headers={"authorization": f"Bearer {key}"}, timeout=60
        ) as client,
    ):
        until(lambda: client.get("/health/ready").status_code == 200, 60)
        for model in ("shared-chat", "shared-texts"):
            assert client.put(f"/v1/admin/prices/{model}", json={"prompt": 0}).status_code == 200
        yield client


def test_a_server_answers_with_the_models_of_another_and_both_have_it_on_record(
    live_server: LiveServer, second: httpx2.Client
) -> None:
    before = live_server.client.get("/usage").json()["total_requests"]

    whole = second.post("/v1/chat/completions", json=ASK)
    streamed = second.post("/v1/chat/completions", json=ASK | {"stream": True})
    asked = {"model": "galley/embeddings", "input": ["a cat", "a dog"]}
    texts = second.post("/v1/embeddings", json=asked)

    assert [whole.status_code, streamed.status_code, texts.status_code] == [200, 200, 200]
    assert whole.json()["choices"][0]["message"]["content"]
    assert streamed.text.endswith("data: [DONE]\n\n")
    assert [len(item["embedding"]) for item in texts.json()["data"]] == [384, 384]
    row = second.get(f"/v1/requests/{whole.headers['request-id']}").json()
    assert row["completion_tokens"] == whole.json()["usage"]["completion_tokens"]
    assert second.get("/usage").json()["total_requests"] == 3
    assert live_server.client.get("/usage").json()["total_requests"] == before + 3
