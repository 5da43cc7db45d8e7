"""What is sent and how the answer is read: all of the client that is not I/O.

Both clients send these calls, so that a route is described once.
"""

import base64
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypedDict, TypeVar, Unpack
from urllib.parse import quote

import httpx2
import orjson
from pydantic import ValidationError

from galley.client.errors import APIError, refusal, said_no
from galley.schemas.account import Health, ModelList, ModelReply
from galley.schemas.base import Reply
from galley.schemas.chat import ChatCompletion, ChatCompletionChunk, Message, SimpleChatReply
from galley.schemas.classify import ClassifyBatchReply, ClassifyReply, ModelInfo
from galley.schemas.completions import Completion
from galley.schemas.embeddings import EmbeddingReply
from galley.schemas.rerank import RerankReply
from galley.schemas.usage import UsageSummary

T = TypeVar("T")
R = TypeVar("R", bound=Reply)

Messages = str | Sequence[Message | Mapping[str, Any]]
"""A conversation, or a text: one user turn."""

Image = bytes | str | Path
"""A picture's bytes, or the path of its file."""


class Sampling(TypedDict, total=False):
    """What chat and text completions have in common. What is left out, the server decides."""

    model: str
    temperature: float
    top_p: float
    frequency_penalty: float
    presence_penalty: float
    logit_bias: Mapping[str, float]
    seed: int
    stop: str | Sequence[str]
    n: int
    max_tokens: int


class ChatOptions(Sampling, total=False):
    """Source: OpenAI API specification, CreateChatCompletionRequest."""

    max_completion_tokens: int
    logprobs: bool
    top_logprobs: int
    response_format: Mapping[str, Any]
    tools: Sequence[Mapping[str, Any]]
    tool_choice: str | Mapping[str, Any]
    stream_options: Mapping[str, bool]


class CompletionOptions(Sampling, total=False):
    """Source: OpenAI API specification, CreateCompletionRequest."""

    logprobs: int
    echo: bool


class AskOptions(TypedDict, total=False):
    """What the simple chat lets one choose."""

    model: str
    temperature: float
    max_tokens: int


class ClassifyOptions(TypedDict, total=False):
    """How many labels per picture, and how likely they must be."""

    model: str
    top_k: int
    threshold: float


class Piece(Reply):
    """One event of the simple chat."""

    delta: str


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """One request, and how to read what comes back."""

    method: str
    path: str
    read: Callable[[bytes], T]
    body: bytes | None = None
    form: Mapping[str, Any] | None = None
    """Fields and a file, in place of a body."""

    @property
    def options(self) -> dict[str, Any]:
        """The rest of what httpx2 wants to know."""
        if self.form is not None:
            return dict(self.form)
        if self.body is None:
            return {}
        return {"content": self.body, "headers": {"content-type": "application/json"}}


def answer(call: Call[T], response: httpx2.Response) -> T:
    """Read what came back for `call`.

    Raises:
        APIError: the server refused, or this is no answer of a Galley server.
    """
    if not response.is_success:
        raise refusal(response.status_code, response.headers, response.content)
    return call.read(response.content)


def raw(method: str, path: str, body: Any = None) -> Call[bytes]:
    """Any route, as it is; `body` is sent as JSON."""
    return Call(method, path, bytes, None if body is None else orjson.dumps(body))


def chat(messages: Messages, **options: Unpack[ChatOptions]) -> Call[ChatCompletion]:
    """A whole answer to a conversation."""
    return _post("/v1/chat/completions", ChatCompletion, _conversation(messages) | options)


def chat_chunks(messages: Messages, **options: Unpack[ChatOptions]) -> Call[ChatCompletionChunk]:
    """The same answer, chunk by chunk."""
    body = _conversation(messages) | options | {"stream": True}
    return _post("/v1/chat/completions", ChatCompletionChunk, body)


def chat_text(messages: Messages, **options: Unpack[ChatOptions]) -> Call[str]:
    """The text of the same chunks; of several answers, the first."""
    body = _conversation(messages) | options | {"stream": True}
    return Call(
        "POST", "/v1/chat/completions", lambda said: _text(_CHUNK(said)), orjson.dumps(body)
    )


def ask(messages: Messages, **options: Unpack[AskOptions]) -> Call[str]:
    """The simple chat: the answer's text and nothing else."""
    body = {"messages": _turns(messages)} | options
    return Call("POST", "/v1/chat", lambda said: _ANSWER(said).response, orjson.dumps(body))


def ask_stream(messages: Messages, **options: Unpack[AskOptions]) -> Call[str]:
    """The simple chat, piece by piece."""
    body = {"messages": _turns(messages)} | options
    return Call("POST", "/v1/chat/stream", lambda said: _PIECE(said).delta, orjson.dumps(body))


def completions(
    prompt: str | Sequence[str], **options: Unpack[CompletionOptions]
) -> Call[Completion]:
    """Continue one text or several."""
    body = {"model": "galley/chat", "prompt": prompt} | options
    return _post("/v1/completions", Completion, body)


def embed(
    texts: str | Sequence[str], model: str, dimensions: int | None
) -> Call[list[list[float]]]:
    """One vector per text, in order."""
    body: dict[str, Any] = {"model": model, "input": texts, "encoding_format": "base64"}
    if dimensions is not None:
        body["dimensions"] = dimensions
    return Call("POST", "/v1/embeddings", _vectors, orjson.dumps(body))


def rerank(
    query: str, documents: Sequence[str], model: str, top_n: int | None
) -> Call[RerankReply]:
    """The documents' places and scores, the most relevant first."""
    body: dict[str, Any] = {"model": model, "query": query, "documents": documents}
    if top_n is not None:
        body["top_n"] = top_n
    return _post("/v1/rerank", RerankReply, body)


def classify(image: Image) -> Call[ClassifyReply]:
    """The five likeliest labels of one picture."""
    return _post("/v1/classify", ClassifyReply, _picture(image))


def classify_many(
    images: Sequence[Image], **options: Unpack[ClassifyOptions]
) -> Call[ClassifyBatchReply]:
    """The likeliest labels of up to 32 pictures."""
    body = {"images": [_picture(image) for image in images]} | options
    return _post("/v2/classify", ClassifyBatchReply, body)


def models() -> Call[list[ModelReply]]:
    """Every model this key may use."""
    read = reader(ModelList)
    return Call("GET", "/v1/models", lambda body: read(body).data)


def model(model_id: str) -> Call[ModelReply]:
    """One model."""
    return Call("GET", f"/v1/models/{quote(model_id)}", reader(ModelReply))


def model_info() -> Call[ModelInfo]:
    """The classifier behind the simple routes."""
    return Call("GET", "/v1/model/info", reader(ModelInfo))


def usage() -> Call[UsageSummary]:
    """What the key's owner has used."""
    return Call("GET", "/v1/usage", reader(UsageSummary))


def health() -> Call[Health]:
    """Which parts are up."""
    return Call("GET", "/health", reader(Health))


def _post(path: str, shape: type[R], body: Mapping[str, Any]) -> Call[R]:
    return Call("POST", path, reader(shape), orjson.dumps(body))


def reader(shape: type[R]) -> Callable[[bytes], R]:
    """Return what reads an answer of this shape; it raises an `APIError` at anything else."""

    def read(body: bytes) -> R:
        try:
            return shape.model_validate_json(body)
        except ValidationError as error:
            raise _unreadable(body, shape) from error

    return read


def _unreadable(body: bytes, shape: type[Reply]) -> APIError:
    """Say what came in place of `shape`: an error in mid-stream, or something else altogether."""
    try:
        found = said_no(orjson.loads(body))
    except orjson.JSONDecodeError:
        found = None
    return found or APIError(
        f"What came back is no {shape.__name__}. Is there a Galley server at this address?"
    )


def _conversation(messages: Messages) -> dict[str, Any]:
    return {"model": "galley/chat", "messages": _turns(messages)}


def _turns(messages: Messages) -> list[Mapping[str, Any]]:
    if isinstance(messages, str):
        return [{"role": "user", "content": messages}]
    return [
        turn.model_dump(mode="json", exclude_unset=True) if isinstance(turn, Message) else turn
        for turn in messages
    ]


def _text(chunk: ChatCompletionChunk) -> str:
    return "".join(c.delta.content or "" for c in chunk.choices if c.index == 0)


def _vectors(body: bytes) -> list[list[float]]:
    rows = sorted(reader(EmbeddingReply)(body).data, key=lambda row: row.index)
    return [_floats(row.embedding) for row in rows]


def _floats(embedding: list[float] | str) -> list[float]:
    """Little-endian float32 in base64, a third of the bytes of JSON; or a list as it is."""
    if isinstance(embedding, list):
        return embedding
    packed = base64.b64decode(embedding)
    return list(struct.unpack(f"<{len(packed) // 4}f", packed))


def _picture(image: Image) -> dict[str, str]:
    if isinstance(image, bytes):
        return {"image": base64.b64encode(image).decode()}
    path = Path(image)
    return {"image": base64.b64encode(path.read_bytes()).decode(), "filename": path.name}


_ANSWER = reader(SimpleChatReply)
_CHUNK = reader(ChatCompletionChunk)
_PIECE = reader(Piece)
