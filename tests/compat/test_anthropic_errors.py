"""What the official Anthropic SDK raises when it is refused, and whether it tries again."""

import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import anthropic
import pytest
from anthropic.types import Message, MessageParam

from galley.core.security import make_key
from tests.loopback import events, scripted_server
from tests.routers.test_far_models import far
from tests.serving import LiveServer, serving

HELLO: MessageParam = {"role": "user", "content": "Say hello."}


@contextmanager
def sdk(server: LiveServer, key: str, *, retries: int = 0) -> Generator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=server.url, api_key=key, max_retries=retries) as client:
        yield client


def ask(client: anthropic.Anthropic, model: str = "galley/chat", tokens: int = 2) -> Message:
    return client.messages.create(model=model, messages=[HELLO], max_tokens=tokens)


def test_a_key_that_opens_nothing_is_an_authentication_error(live_server: LiveServer) -> None:
    with (
        sdk(live_server, make_key()) as client,
        pytest.raises(anthropic.AuthenticationError) as refused,
    ):
        ask(client)

    assert refused.value.type == "authentication_error"
    assert refused.value.error_code == "invalid_api_key"
    assert refused.value.request_id


def test_a_missing_scope_is_a_permission_error_that_names_it(live_server: LiveServer) -> None:
    key = live_server.key_of_new_user(tier=live_server.new_tier(scopes=["embeddings"]))

    with (
        sdk(live_server, key) as client,
        pytest.raises(anthropic.PermissionDeniedError, match="chat"),
    ):
        ask(client)


def test_an_unknown_model_is_not_found(live_server: LiveServer) -> None:
    with sdk(live_server, live_server.key) as client:
        with pytest.raises(anthropic.NotFoundError):
            ask(client, model="claude-9")
        with pytest.raises(anthropic.NotFoundError):
            client.models.retrieve("claude-9")


def test_what_does_not_fit_is_a_bad_request_with_the_reason(live_server: LiveServer) -> None:
    with (
        sdk(live_server, live_server.key) as client,
        pytest.raises(anthropic.BadRequestError, match="max_tokens: Input should be greater"),
    ):
        ask(client, tokens=0)


def test_a_limit_is_a_rate_limit_error_that_says_when_to_come_back(
    live_server: LiveServer,
) -> None:
    key = live_server.key_of_new_user(limits={"requests_per_minute": 1})

    with sdk(live_server, key) as client:
        ask(client)
        with pytest.raises(anthropic.RateLimitError) as refused:
            ask(client)

    headers = refused.value.response.headers
    assert 0 < int(headers["retry-after"]) <= 61
    assert headers["anthropic-ratelimit-requests-remaining"] == "0"
    assert "x-should-retry" not in headers


def test_an_exhausted_budget_is_a_rate_limit_error_that_is_not_tried_again(
    live_server: LiveServer,
) -> None:
    key = live_server.key_of_new_user(limits={"tokens_per_minute": 1})

    began = time.monotonic()
    with (
        sdk(live_server, key, retries=5) as client,
        pytest.raises(anthropic.RateLimitError) as refused,
    ):
        ask(client)

    assert refused.value.response.headers["x-should-retry"] == "false"
    assert time.monotonic() - began < 0.4  # the SDK waits for half a second at least


def test_it_comes_back_when_it_was_told_to(live_server: LiveServer) -> None:
    key = live_server.key_of_new_user(limits={"concurrency": 1})
    answers: list[Message] = []
    with sdk(live_server, key, retries=8) as client:
        first = threading.Thread(target=lambda: answers.append(ask(client, tokens=200)))
        first.start()
        time.sleep(0.2)

        answers.append(ask(client))
        first.join()

    assert len(answers) == 2


def test_a_stream_that_breaks_off_is_an_error_of_the_stream(tmp_path: Path) -> None:
    begun = events('{"choices": [{"index": 0, "delta": {"content": "Hey"}}]}')
    with scripted_server(begun) as upstream, serving(far(upstream.base_url, tmp_path)) as server:
        server.until_ready()
        said: list[str] = []
        with (
            sdk(server, server.key) as client,
            client.messages.stream(model="far", messages=[HELLO], max_tokens=9) as stream,
            pytest.raises(anthropic.APIStatusError) as broken,
        ):
            said.extend(stream.text_stream)

    assert said == ["Hey"]
    assert broken.value.type == "overloaded_error"
