"""What the official OpenAI SDK raises when it is refused, and whether it tries again."""

import threading
import time
from collections.abc import Generator
from contextlib import contextmanager

import openai
import pytest
from openai.types.chat import ChatCompletion, ChatCompletionUserMessageParam

from galley.core.security import make_key
from tests.serving import LiveServer

HELLO: ChatCompletionUserMessageParam = {"role": "user", "content": "Say hello."}


@contextmanager
def sdk(server: LiveServer, key: str, *, retries: int = 0) -> Generator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key=key, max_retries=retries) as client:
        yield client


def ask(client: openai.OpenAI, model: str = "galley/chat", tokens: int = 2) -> ChatCompletion:
    return client.chat.completions.create(model=model, messages=[HELLO], max_tokens=tokens)


def test_a_key_that_opens_nothing_is_an_authentication_error(live_server: LiveServer) -> None:
    with sdk(live_server, make_key()) as client, pytest.raises(openai.AuthenticationError):
        ask(client)


def test_a_missing_scope_is_a_permission_error_that_names_it(live_server: LiveServer) -> None:
    key = live_server.key_of_new_user(tier=live_server.new_tier(scopes=["embeddings"]))

    with sdk(live_server, key) as client, pytest.raises(openai.PermissionDeniedError, match="chat"):
        ask(client)


def test_an_unknown_model_is_not_found(live_server: LiveServer) -> None:
    with sdk(live_server, live_server.key) as client, pytest.raises(openai.NotFoundError):
        ask(client, model="gpt-9")


def test_a_call_that_nothing_here_answers_is_refused_by_its_name(live_server: LiveServer) -> None:
    with sdk(live_server, live_server.key) as client:
        with pytest.raises(openai.NotFoundError, match="no POST /v1/images/generations here"):
            client.images.generate(prompt="A cook on a ship")
        with pytest.raises(openai.APIStatusError, match="no POST /v1/responses/input_tokens"):
            client.responses.input_tokens.count(model="galley/chat", input="Hello")


def test_an_exhausted_budget_is_a_rate_limit_error_that_is_not_tried_again(
    live_server: LiveServer,
) -> None:
    key = live_server.key_of_new_user(limits={"tokens_per_minute": 1})

    began = time.monotonic()
    with (
        sdk(live_server, key, retries=5) as client,
        pytest.raises(openai.RateLimitError) as refused,
    ):
        ask(client)

    assert refused.value.response.headers["x-should-retry"] == "false"
    assert time.monotonic() - began < 0.4  # the SDK waits for half a second at least


def test_it_comes_back_when_it_was_told_to(live_server: LiveServer) -> None:
    key = live_server.key_of_new_user(limits={"concurrency": 1})
    answers: list[ChatCompletion] = []
    with sdk(live_server, key, retries=8) as client:
        first = threading.Thread(target=lambda: answers.append(ask(client, tokens=200)))
        first.start()
        time.sleep(0.2)

        answers.append(ask(client))
        first.join()

    assert len(answers) == 2
