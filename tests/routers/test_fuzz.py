"""Every operation of the document, with requests made from its own schemas, good and bad."""

import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import given, settings
from hypothesis import strategies as st
from schemathesis import Case, GenerationMode
from schemathesis.checks import load_all_checks, response_schema_conformance

from galley.main import create_app
from galley.schemas.chat import MAX_TOKENS
from tests.serving import LiveServer, make_settings, serving

load_all_checks()
ANSWER = 4  # tokens
PATIENCE = (
    60  # seconds; the most tools that a request may bring are a prompt of thousands of tokens
)
TALKING = ("/v1/chat", "/v1/completions", "/v1/responses")
ENDS = rb'(data: \[DONE\]|data: {"type":"message_stop"}|event: response\.\w+\ndata: .+)\n\n\Z'
MODELS = {"/v1/embeddings": "galley/embeddings", "/v2/classify": "galley/classify"}
LIMITS = {"/v1/responses": "max_output_tokens"}
NEEDS = {"top_logprobs": "logprobs", "stream_options": "stream"}
CHECKS = {
    "not_a_server_error": {"expected-statuses": ["2xx", "3xx", "4xx", "503", "504"]},
    "negative_data_rejection": {"expected-statuses": ["400", "401", "404", "405", "413", "422"]},
    # A schema cannot say which fields go together, nor that a text has to be a picture.
    "positive_data_acceptance": {"enabled": False},
}
HERE = Path(__file__).parent
DOCUMENT = create_app(make_settings(HERE, HERE)).openapi()
API = schemathesis.openapi.from_dict(
    DOCUMENT, config=schemathesis.Config.from_dict({"checks": CHECKS})
)
MODES = list(GenerationMode)
pytestmark = pytest.mark.xdist_group("fuzz")  # they share a server


@pytest.fixture(scope="session")
def live_server(models_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """One of its own: who asks for everything leaves models and users behind."""
    settings = make_settings(tmp_path_factory.mktemp("fuzzed"), models_dir)
    with serving(settings) as server:
        server.until_ready()
        yield server


EACH = pytest.mark.parametrize(
    "operation",
    [found.ok() for found in API.get_all_operations()],  # pyright: ignore[reportAttributeAccessIssue] - an error has none, and ends it here
    ids=lambda operation: operation.label,
)


def requests(operation: Any) -> st.SearchStrategy[Case[Any]]:
    """Requests for `operation`, such as it takes and such as it must not."""
    return st.one_of([operation.as_strategy(mode) for mode in MODES])


def make_answerable(case: Case[Any]) -> None:
    """Ask for few tokens, of a model that is there; what is wrong on purpose stays wrong."""
    body: Any = case.body
    if not isinstance(body, dict):
        return
    if isinstance(body.get("model"), str) and 0 < len(body["model"]) <= 256:
        body["model"] = MODELS.get(case.path, "galley/chat")
    talks = case.path.startswith(TALKING)
    if talks:
        body.setdefault(LIMITS.get(case.path, "max_tokens"), None)
        body |= {partner: True for field, partner in NEEDS.items() if _lacks(body, field, partner)}
    if isinstance(tools := body.get("tools"), list) and len(tools) <= 128:
        body["tools"] = tools[:4]  # of the most there may be, the prompt has thousands of tokens
    for name in {"max_tokens", "max_completion_tokens", "max_output_tokens"} & body.keys():
        limit = body[name]
        if (talks and limit is None) or (type(limit) is int and 0 < limit <= MAX_TOKENS):
            body[name] = ANSWER


def _lacks(body: dict[str, Any], field: str, partner: str) -> bool:
    given = body.get(partner)
    return body.get(field) is not None and (given is None or given is False)


def hold_to_the_document(case: Case[Any], server: LiveServer) -> None:
    make_answerable(case)
    # Spelled as schemathesis does, which takes it away to see whether it was needed.
    headers = {"Authorization": f"Bearer {server.key}"}
    case.headers.update(headers)  # or its checks take a request for worse than what was sent

    answer = case.call(server.url, headers=headers, timeout=PATIENCE)

    streams = answer.headers.get("content-type", [""])[0].startswith("text/event-stream")
    case.validate_response(
        answer,
        # It holds every single event to the schema, which is that of the whole stream.
        excluded_checks=[response_schema_conformance] if streams else [],
        headers=headers,
        transport_kwargs={"base_url": server.url, "headers": headers},
    )
    if streams and not answer.stream_cut_short:  # it hangs up after 20 events
        assert re.search(ENDS, answer.content)


@EACH
@pytest.mark.parametrize(
    "every", [pytest.param(32, id="some"), pytest.param(1, id="all", marks=pytest.mark.slow)]
)
def test_each_bound_and_type_of_a_request_holds(
    operation: Any, every: int, live_server: LiveServer
) -> None:
    cases = API.iter_coverage_cases(
        operation, generation_modes=MODES, generation_config=API.config.generation
    )

    for case in islice(cases, None, None, every):
        hold_to_the_document(case, live_server)


@pytest.mark.slow
@EACH
@settings(max_examples=300)
@given(data=st.data())
def test_any_request_is_answered_as_the_document_says(
    operation: Any, live_server: LiveServer, data: st.DataObject
) -> None:
    hold_to_the_document(data.draw(requests(operation)), live_server)
