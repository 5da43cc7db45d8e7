"""What `galley demo` tries, and whether the answer is right.

The picture, `sample.jpg`, is scikit-image's `coffee`, made smaller: by Rachel Michetti, courtesy
of Pikolo Espresso Bar, released under CC0 (no copyright restrictions).
"""

import json
import math
from base64 import b64encode
from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from galley.client import APIError, Client

SAMPLE = files("galley.cli").joinpath("sample.jpg").read_bytes()
PICTURE = b64encode(SAMPLE).decode()
QUESTION = "What is FastAPI?"
TURNS = [{"role": "user", "content": QUESTION}]


class WrongAnswerError(Exception):
    """The server answered, and not as it should."""


@dataclass(frozen=True, slots=True)
class Check:
    """One endpoint: `run` asks, and returns in a few words what came back.

    Its `run` raises `WrongAnswerError`, or an `APIError` of the client.
    """

    endpoint: str
    sent: str
    run: Callable[[Client], str]


CHECKS: list[Check] = []
Run = Callable[[Client], str]


def check(endpoint: str, sent: str = "") -> Callable[[Run], Run]:
    """Add a function to `CHECKS`."""

    def add(run: Run) -> Run:
        CHECKS.append(Check(endpoint, sent, run))
        return run

    return add


def expect(fact: object, otherwise: str) -> None:
    """Insist on `fact`.

    Raises:
        WrongAnswerError: it is not so.
    """
    if not fact:
        raise WrongAnswerError(otherwise)


def get(client: Client, path: str) -> Any:
    """Return the JSON at `path`."""
    return json.loads(client.request("GET", path))


def refused(client: Client, method: str, path: str, body: Any, status: int) -> str:
    """Insist that a request is refused with `status`, and return the reason."""
    try:
        client.request(method, path, body)
    except APIError as error:
        expect(error.status == status, f"expected {status}, got {error.status}: {error.message}")
        return f"{status}: {error.message}"
    raise WrongAnswerError(f"expected {status}, and was let in")


@check("GET /health/live")
def live(client: Client) -> str:
    """The process answers."""
    return f"{get(client, '/health/live')['status']}"


@check("GET /health")
def health(client: Client) -> str:
    """Every part is named."""
    found = client.health()
    expect(found.parts, "no parts are named")
    return f"{found.status}, version {found.version}, {len(found.parts)} parts"


@check("GET /health/ready")
def ready(client: Client) -> str:
    """Every part works."""
    found = get(client, "/health/ready")
    expect(found["status"] == "ok", str(found["parts"]))
    return "ready"


@check("GET /")
def index(client: Client) -> str:
    """The front page says what this is."""
    found = get(client, "/")
    expect(found["name"] == "galley", f"this is {found['name']!r}")
    return f"{found['name']} {found['version']}"


@check("GET /v1/models")
def models(client: Client) -> str:
    """There is a model of every kind."""
    found = client.models()
    kinds = {model.kind for model in found}
    expect(kinds >= {"chat", "embeddings", "classify"}, f"only {', '.join(sorted(kinds))}")
    return ", ".join(model.id for model in found)


@check("GET /v1/models/{id}", "galley/chat")
def model(client: Client) -> str:
    """A model is found by its alias and by its name."""
    found = client.model("galley/chat")
    expect(client.model(found.id) == found, "its name and its alias are two models")
    return f"{found.id}, {found.status}, {found.license}"


@check("GET /v1/models/{id}", "no-such-model")
def unknown_model(client: Client) -> str:
    """A model that is not there is a 404."""
    return refused(client, "GET", "/v1/models/no-such-model", None, 404)


@check("GET /v1/model", "the older name of /v1/models")
def model_alias(client: Client) -> str:
    """The alias lists the same models."""
    ids = [model["id"] for model in get(client, "/v1/model")["data"]]
    expect(ids == [model.id for model in client.models()], "another list than /v1/models")
    return f"{len(ids)} models"


@check("POST /v1/chat/completions", QUESTION)
def chat(client: Client) -> str:
    """A whole answer has text, an ending and its usage."""
    reply = client.chat(QUESTION, max_tokens=24, temperature=0, seed=1)
    choice, usage = reply.choices[0], reply.usage
    expect(choice.message.content, "no text")
    expect(choice.finish_reason in {"stop", "length"}, f"it ended with {choice.finish_reason}")
    total = usage.prompt_tokens + usage.completion_tokens
    expect(usage.total_tokens == total and usage.completion_tokens > 0, "the usage does not add up")
    return f"{choice.message.content} ({usage.total_tokens} tokens)"


@check("POST /v1/chat/completions (stream)", QUESTION)
def chat_stream(client: Client) -> str:
    """A stream begins with the role, comes in pieces, and ends with its usage."""
    wanted = {"include_usage": True}
    chunks = list(client.chat_chunks(TURNS, max_tokens=24, stream_options=wanted))
    deltas = [choice.delta for chunk in chunks for choice in chunk.choices]
    pieces = [delta.content for delta in deltas if delta.content]
    expect(deltas[0].role == "assistant", "the first chunk has no role")
    expect(len(pieces) > 1, f"it came in {len(pieces)} pieces")
    expect(chunks[-1].usage and not chunks[-1].choices, "the last chunk is not the usage")
    return f"{''.join(pieces)} ({len(pieces)} pieces)"


@check("POST /v1/chat/completions", "model: no-such-model")
def chat_unknown_model(client: Client) -> str:
    """A model that is not there is a 404."""
    body = {"model": "no-such-model", "messages": TURNS}
    return refused(client, "POST", "/v1/chat/completions", body, 404)


@check("POST /v1/chat/completions", "messages: []")
def chat_empty(client: Client) -> str:
    """A request without messages is a 400."""
    body = {"model": "galley/chat", "messages": []}
    return refused(client, "POST", "/v1/chat/completions", body, 400)


@check("POST /v1/responses", "two turns, then deleted")
def responses(client: Client) -> str:
    """A response goes on from another, can be looked up, and is gone once it is deleted."""
    asked: dict[str, Any] = {"model": "galley/chat", "max_output_tokens": 12}
    first = json.loads(client.request("POST", "/v1/responses", asked | {"input": QUESTION}))
    going_on = {"input": "Go on.", "previous_response_id": first["id"]}
    second = json.loads(client.request("POST", "/v1/responses", asked | going_on))
    expect(get(client, f"/v1/responses/{second['id']}") == second, "it is not as it was answered")
    told = get(client, f"/v1/responses/{second['id']}/input_items")["data"]
    expect(len(told) == 3, f"{len(told)} items instead of 3")
    for made in (first, second):
        client.request("DELETE", f"/v1/responses/{made['id']}")
    refused(client, "GET", f"/v1/responses/{second['id']}", None, 404)
    return second["output"][0]["content"][0]["text"]


@check("POST /v1/messages", QUESTION)
def messages(client: Client) -> str:
    """In Anthropic's shape, the prompt has as many tokens as were counted beforehand."""
    asked = {"model": "galley/chat", "messages": TURNS}
    counted = json.loads(client.request("POST", "/v1/messages/count_tokens", asked))["input_tokens"]
    reply = json.loads(client.request("POST", "/v1/messages", asked | {"max_tokens": 24}))
    usage = reply["usage"]
    expect(reply["stop_reason"] in {"end_turn", "max_tokens"}, f"{reply['stop_reason']}")
    prompt = usage["input_tokens"] + usage["cache_read_input_tokens"]
    expect(prompt == counted, f"{prompt} tokens in the prompt, {counted} counted")
    return f"{reply['content'][0]['text']} ({prompt} + {usage['output_tokens']} tokens)"


@check("POST /v1/completions", "FastAPI is")
def completions(client: Client) -> str:
    """A text is continued."""
    reply = client.completions("FastAPI is", max_tokens=12, temperature=0)
    expect(reply.choices[0].text, "no text")
    return reply.choices[0].text


@check("POST /v1/embeddings", "a cat, a kitten, a train")
def embeddings(client: Client) -> str:
    """Vectors have 384 floats and length 1, and a kitten is nearer to a cat than a train is."""
    cat, kitten, train = client.embed(["a cat", "a kitten", "a train"])
    norm = math.hypot(*cat)
    expect(len(cat) == 384, f"{len(cat)} floats instead of 384")
    expect(abs(norm - 1) < 1e-3, f"the norm is {norm:.4f} instead of 1")
    near, far = math.dist(cat, kitten), math.dist(cat, train)
    expect(near < far, "a train is nearer to a cat than a kitten is")
    return f"3 x {len(cat)} floats, norm {norm:.4f}"


@check("POST /v1/embeddings (float)", "a cat")
def embeddings_float(client: Client) -> str:
    """Floats say the same as base64."""
    body = {"model": "galley/embeddings", "input": "a cat"}
    reply = json.loads(client.request("POST", "/v1/embeddings", body))
    floats = reply["data"][0]["embedding"]
    expect(math.dist(floats, client.embed("a cat")[0]) < 1e-3, "another vector than in base64")
    return f"{len(floats)} floats, {reply['usage']['total_tokens']} tokens"


@check("POST /chat", QUESTION)
def simple_chat(client: Client) -> str:
    """The simple chat answers with its text."""
    body = {"messages": TURNS, "temperature": 0.7, "max_tokens": 24}
    reply = json.loads(client.request("POST", "/chat", body))
    expect(reply["response"], "no text")
    return reply["response"]


@check("POST /v1/conversation", QUESTION)
def conversation(client: Client) -> str:
    """The alias of the simple chat answers too."""
    body = {"messages": TURNS, "max_tokens": 8}
    reply = json.loads(client.request("POST", "/v1/conversation", body))
    expect(reply["response"], "no text")
    return reply["response"]


@check("POST /chat/stream", QUESTION)
def simple_stream(client: Client) -> str:
    """The simple stream comes in pieces and ends with [DONE]."""
    body = {"messages": TURNS, "max_tokens": 24}
    lines = client.request("POST", "/chat/stream", body).decode().split("\n\n")
    expect(lines[-2:] == ["data: [DONE]", ""], "it does not end with [DONE]")
    events = [line for line in lines[:-2] if line.startswith("data: ")]
    pieces = [json.loads(event.removeprefix("data: "))["delta"] for event in events]
    expect(len(pieces) > 1, f"it came in {len(pieces)} pieces")
    return f"{''.join(pieces)} ({len(pieces)} pieces)"


@check("POST /chat", "{}")
def simple_invalid(client: Client) -> str:
    """A body that does not fit is a 422 on the native routes."""
    return refused(client, "POST", "/chat", {}, 422)


def _coffee(labels: list[str]) -> str:
    seen = ", ".join(labels)
    expect(any("espresso" in label or "cup" in label for label in labels), f"no coffee in {seen}")
    return seen


def _classify(path: str) -> Run:
    def run(client: Client) -> str:
        body = {"image": PICTURE, "filename": "sample.jpg"}
        reply = json.loads(client.request("POST", path, body))
        if "results" in reply:
            reply = reply["results"][0]
        shares = [prediction["confidence"] for prediction in reply["predictions"]]
        expect(shares == sorted(shares, reverse=True), "the likeliest label is not the first")
        return _coffee([prediction["label"] for prediction in reply["predictions"]])

    return run


for _path in (
    "/classify",
    "/v1/classify",
    "/v1/image_classify",
    "/api/v1/classify",
    "/api/v2/classify",
):
    check(f"POST {_path}", "a cup of coffee")(_classify(_path))


@check("POST /v2/classify", "a cup of coffee, and a text")
def classify_many(client: Client) -> str:
    """A bad picture does not spoil the good one beside it."""
    reply = client.classify_many([SAMPLE, b"no picture"], top_k=3)
    good, bad = reply.results
    expect(bad.error and not bad.predictions, "the text was taken for a picture")
    expect(len(good.predictions) == 3, f"{len(good.predictions)} labels instead of 3")
    return _coffee([prediction.label for prediction in good.predictions])


@check("POST /classify", "no base64")
def classify_invalid(client: Client) -> str:
    """What is no base64 is a 400."""
    return refused(client, "POST", "/classify", {"image": "*"}, 400)


@check("GET /model/info")
def model_info(client: Client) -> str:
    """The classifier is loaded."""
    found = get(client, "/model/info")
    expect(found["status"] == "loaded", f"its status is {found['status']}")
    expect(found["num_labels"] > 0, "it has no labels")
    return f"{found['name']}, {found['num_labels']} labels"


@check("GET /usage")
def usage(client: Client) -> str:
    """What this demo did is counted."""
    before = get(client, "/usage")["total_requests"]
    client.embed("one more")
    after = client.usage()
    expect(after.total_requests > before, f"{before} requests before and after one more")
    return f"{after.total_requests} requests, {after.success_rate:g} % successful"


@check("GET /v1/models", "a wrong key")
def wrong_key(client: Client) -> str:
    """A wrong key is a 401."""
    with Client(client.profile.base_url, "gk_wrong") as stranger:
        return refused(stranger, "GET", "/v1/models", None, 401)


@check("GET /metrics")
def metrics(client: Client) -> str:
    """Prometheus finds our metrics."""
    lines = client.request("GET", "/metrics").decode().splitlines()
    ours = [line for line in lines if line.startswith("galley_")]
    expect(ours, "none of them is ours")
    return f"{len(ours)} values"


@check("GET /docs")
def docs(client: Client) -> str:
    """Swagger UI comes with everything it needs."""
    page = client.request("GET", "/docs").decode()
    expect("swagger" in page, "this is not Swagger UI")
    expect("//cdn" not in page, "it loads scripts from a CDN")
    return "Swagger UI, offline"


@check("GET /openapi.json")
def openapi(client: Client) -> str:
    """The document names the routes."""
    paths = get(client, "/openapi.json")["paths"]
    expect("/v1/chat/completions" in paths, "/v1/chat/completions is not in it")
    return f"{len(paths)} paths"
