"""Traces, as a collector gets them."""

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import pytest

from galley.core.catalogue import ModelSettings, RouteSettings
from galley.core.settings import Settings
from galley.db.session import open_database
from galley.services.pricing import Pricing
from tests.collector import Collector, attributes, collecting
from tests.serving import LiveServer, make_settings, serving
from tests.upstream import COMPLETION_TOKENS, PROMPT_TOKENS, Call, Upstream, misbehaving, well
from tests.upstream_faults import bad_key

SECRET = "a-word-of-the-prompt"
HELLO = {"role": "user", "content": SECRET}
CHAT = "/v1/chat/completions"
SERVER, CLIENT, ERROR = 2, 3, 2  # SpanKind and StatusCode of the protocol
TRACE_ID, SPAN_ID = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


async def slowly(call: Call) -> None:
    """Answer well, after a while."""
    await asyncio.sleep(0.3)
    await well(call)


def settings_for(folder: Path, upstream: Upstream, collector: str, **more: Any) -> Settings:
    far = ModelSettings(kind="chat", source=upstream.url)
    models = {
        "far": far, "broken": far, "narrow": far.model_copy(update={"slots": 1}),
    }  # fmt: skip
    settings = make_settings(
        folder, folder, models=models, embedded_models=False, cache_bytes=1_000_000,
        routes={"both": RouteSettings(targets={"broken": 1}, fallbacks=("far",))},
        otlp_endpoint=collector, **more,
    )  # fmt: skip

    async def make_free() -> None:
        async with open_database(settings.database_url.get_secret_value()) as database:
            await Pricing(database.sessions).seed_free(models)

    asyncio.run(make_free())
    return settings


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    with misbehaving() as upstream:
        upstream.behaviours |= {"broken": bad_key, "narrow": slowly}
        yield upstream


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with collecting() as collector, pytest.MonkeyPatch.context() as patch:
        patch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")  # milliseconds
        yield collector


@pytest.fixture(scope="module")
def server(
    tmp_path_factory: pytest.TempPathFactory, upstream: Upstream, collector: Collector
) -> Iterator[LiveServer]:
    folder = tmp_path_factory.mktemp("traced")
    with serving(settings_for(folder, upstream, collector.url)) as server:
        server.until_ready()
        yield server


def id_of(answer: httpx2.Response) -> str:
    return answer.headers["request-id"]


@pytest.mark.parametrize("stream", [False, True])
def test_a_request_is_a_span_with_what_was_done_for_it_below(
    server: LiveServer, collector: Collector, stream: bool
) -> None:
    key = server.key_of_new_user(limits={"requests_per_minute": 100})
    headers = {"authorization": f"Bearer {key}"}
    body = {"model": "far", "messages": [HELLO], "stream": stream}

    answer = server.client.post(CHAT, json=body, headers=headers)

    traced = collector.trace(id_of(answer))
    root, attempt = traced.root, traced.named("chat far")
    assert (root.name, root.kind, root.parent_span_id) == ("chat", SERVER, b"")
    assert (attempt.kind, attempt.parent_span_id) == (CLIENT, root.span_id)
    assert traced.named("limits").parent_span_id == root.span_id
    assert traced.named("engine").parent_span_id == attempt.span_id
    assert collector.resources[-1]["service.name"] == "galley"
    for span in traced.others:
        assert root.start_time_unix_nano <= span.start_time_unix_nano
        assert span.start_time_unix_nano <= span.end_time_unix_nano <= root.end_time_unix_nano


def test_spans_have_the_names_and_numbers_of_the_conventions(
    server: LiveServer, collector: Collector
) -> None:
    answer = server.post(CHAT, model="far", messages=[HELLO])

    traced = collector.trace(id_of(answer))
    usage = {
        "gen_ai.usage.input_tokens": PROMPT_TOKENS,
        "gen_ai.usage.output_tokens": COMPLETION_TOKENS,
    }
    told = attributes(traced.root)
    assert told | usage == told
    assert told["gen_ai.operation.name"] == "chat"
    assert told["gen_ai.response.model"] == "far"
    assert told["http.response.status_code"] == 200
    assert attributes(traced.named("chat far")) == usage | {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "far",
    }


def test_a_callers_trace_goes_on_here_and_at_the_models_server(
    server: LiveServer, collector: Collector, upstream: Upstream
) -> None:
    given = {"traceparent": f"00-{TRACE_ID}-{SPAN_ID}-01"}

    answer = server.client.post(CHAT, json={"model": "far", "messages": [HELLO]}, headers=given)

    traced = collector.trace(id_of(answer))
    assert traced.root.trace_id.hex() == TRACE_ID
    assert traced.root.parent_span_id.hex() == SPAN_ID
    attempt = traced.named("chat far").span_id.hex()
    assert upstream.calls[-1].headers["traceparent"] == f"00-{TRACE_ID}-{attempt}-01"


@pytest.mark.parametrize("given", ["nonsense", f"00-{TRACE_ID}-{'0' * 16}-01", "\xff" * 60])
def test_a_trace_that_is_none_is_left_alone(
    server: LiveServer, collector: Collector, given: str
) -> None:
    headers = [(b"traceparent", given.encode("latin-1"))]

    answer = server.client.post(CHAT, json={"model": "far", "messages": [HELLO]}, headers=headers)

    assert answer.status_code == 200
    root = collector.trace(id_of(answer)).root
    assert root.trace_id.hex() != TRACE_ID
    assert root.parent_span_id == b""


def test_what_a_caller_does_not_want_traced_is_not(
    server: LiveServer, collector: Collector, upstream: Upstream
) -> None:
    given = {"traceparent": f"00-{TRACE_ID[::-1]}-{SPAN_ID}-00"}

    server.client.post(CHAT, json={"model": "far", "messages": [HELLO]}, headers=given)
    after = server.post(CHAT, model="far", messages=[HELLO])

    collector.trace(id_of(after))
    assert TRACE_ID[::-1] not in {span.trace_id.hex() for span in collector.spans}
    assert upstream.calls[-2].headers["traceparent"].startswith(f"00-{TRACE_ID[::-1]}-")
    assert upstream.calls[-2].headers["traceparent"].endswith("-00")


def test_an_attempt_that_failed_is_shown_beside_the_one_that_answered(
    server: LiveServer, collector: Collector
) -> None:
    answer = server.post(CHAT, model="both", messages=[HELLO])

    assert answer.status_code == 200, answer.text
    traced = collector.trace(id_of(answer))
    failed, answered = traced.named("chat broken"), traced.named("chat far")
    assert failed.status.code == ERROR
    assert attributes(failed)["error.type"]
    assert answered.status.code != ERROR
    assert attributes(answered)["gen_ai.usage.output_tokens"] == COMPLETION_TOKENS
    assert attributes(traced.root)["galley.attempts"] == 2


def test_a_request_that_fails_is_an_error_and_one_that_is_refused_is_none(
    server: LiveServer, collector: Collector
) -> None:
    failed = server.post(CHAT, model="broken", messages=[HELLO])
    refused = server.post(CHAT, model="nobody-knows-it", messages=[HELLO])

    ours, theirs = (collector.trace(id_of(answer)).root for answer in (failed, refused))
    assert failed.status_code >= 500
    assert ours.status.code == ERROR
    assert attributes(theirs)["error.type"] == "model_not_found"
    assert theirs.status.code != ERROR


def test_the_wait_for_a_slot_and_the_cache_are_spans(
    server: LiveServer, collector: Collector
) -> None:
    body = {"model": "narrow", "messages": [HELLO], "temperature": 0}

    with ThreadPoolExecutor(2) as pool:
        asked = [pool.submit(server.post, CHAT, **body, seed=seed) for seed in (1, 2)]
    both = [answer.result() for answer in asked]
    known = server.post(CHAT, **body, seed=1)

    traces = [collector.trace(id_of(answer)) for answer in both]
    waits = [span for traced in traces for span in traced.others if span.name == "queue"]
    assert len(waits) == 1
    assert waits[0].end_time_unix_nano - waits[0].start_time_unix_nano > 10_000_000
    found = collector.trace(id_of(known))
    assert attributes(found.root)["galley.cache"] == "exact"
    assert [span.name for span in found.others] == ["cache"]


def test_no_span_has_a_word_of_what_was_said(server: LiveServer, collector: Collector) -> None:
    answer = server.post(CHAT, model="far", messages=[HELLO])

    collector.trace(id_of(answer))
    sent = b"".join(collector.bodies)
    assert b"gen_ai.request.model" in sent
    words = (SECRET, answer.json()["choices"][0]["message"]["content"], server.key)
    assert [word for word in words if word.encode() in sent] == []


def test_without_a_collector_opentelemetrys_sdk_is_not_imported() -> None:
    program = "import sys, galley.worker; print('opentelemetry.sdk' in sys.modules)"

    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )

    assert done.stdout == "False\n"


def test_a_collector_that_is_not_there_holds_nobody_up(
    tmp_path: Path, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")  # seconds
    with serving(settings_for(tmp_path, upstream, "http://127.0.0.1:9")) as server:
        server.until_ready()
        answer = server.post(CHAT, model="far", messages=[HELLO])

    assert answer.status_code == 200
