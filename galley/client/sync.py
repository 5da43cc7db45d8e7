"""The client for ordinary code."""

from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

import httpx2

from galley.client import batches, calls, documents
from galley.client.calls import (
    AskOptions,
    Call,
    ChatOptions,
    ClassifyOptions,
    CompletionOptions,
    Image,
    Messages,
)
from galley.client.documents import DocumentOptions, ListOptions, SearchOptions, Source
from galley.client.errors import connection_errors, unfinished
from galley.client.profile import find_profile, http_options
from galley.schemas.account import Health, ModelReply
from galley.schemas.batches import BatchReply
from galley.schemas.chat import ChatCompletion, ChatCompletionChunk
from galley.schemas.classify import ClassifyBatchReply, ClassifyReply, ModelInfo
from galley.schemas.completions import Completion
from galley.schemas.documents import (
    CollectionReply,
    DocumentList,
    DocumentReply,
    DocumentWithText,
    Removed,
    RetrieveReply,
)
from galley.schemas.files import FileReply
from galley.schemas.rerank import RerankReply
from galley.schemas.usage import UsageSummary

T = TypeVar("T")


class Client:
    """Talks to a Galley server: `with Client() as galley: galley.chat("hello")`.

    Every method raises an `APIError` when the server refuses or is not there; nothing is tried
    twice.

    Args:
        base_url: unset: `GALLEY_BASE_URL`, then what the server on this machine left behind.
        api_key: unset: `GALLEY_API_KEY`, then the same.
        timeout_s: longest wait for the next bytes, in seconds.
    Raises:
        ValueError: the URL or the key cannot be one.
    """

    def __init__(
        self, base_url: str | None = None, api_key: str | None = None, *, timeout_s: float = 150.0
    ) -> None:
        self.profile = find_profile(base_url, api_key)
        self._http = httpx2.Client(**http_options(self.profile, timeout_s))

    def chat(self, messages: Messages, **options: Unpack[ChatOptions]) -> ChatCompletion:
        """Answer a conversation, or a text."""
        return self._send(calls.chat(messages, **options))

    def chat_stream(self, messages: Messages, **options: Unpack[ChatOptions]) -> Generator[str]:
        """Yield the answer's text as it is made; closing the generator stops the work."""
        return self._stream(calls.chat_text(messages, **options))

    def chat_chunks(
        self, messages: Messages, **options: Unpack[ChatOptions]
    ) -> Generator[ChatCompletionChunk]:
        """Yield the same with all that comes along: finish reasons, tool calls, usage."""
        return self._stream(calls.chat_chunks(messages, **options))

    def completions(
        self, prompt: str | Sequence[str], **options: Unpack[CompletionOptions]
    ) -> Completion:
        """Continue one text or several."""
        return self._send(calls.completions(prompt, **options))

    def embed(
        self,
        texts: str | Sequence[str],
        *,
        model: str = "galley/embeddings",
        dimensions: int | None = None,
    ) -> list[list[float]]:
        """One vector of L2 norm 1 per text, in order."""
        return self._send(calls.embed(texts, model, dimensions))

    def rerank(
        self,
        query: str,
        documents: Sequence[str],
        *,
        model: str = "galley/rerank",
        top_n: int | None = None,
    ) -> RerankReply:
        """Put documents in order of how relevant they are to `query`, the best first."""
        return self._send(calls.rerank(query, documents, model, top_n))

    def classify(self, image: Image) -> ClassifyReply:
        """Name the five likeliest labels of a picture, best first."""
        return self._send(calls.classify(image))

    def classify_many(
        self, images: Sequence[Image], **options: Unpack[ClassifyOptions]
    ) -> ClassifyBatchReply:
        """Name the likeliest labels of up to 32 pictures; a bad one does not spoil the others."""
        return self._send(calls.classify_many(images, **options))

    def ask(self, messages: Messages, **options: Unpack[AskOptions]) -> str:
        """Answer on the simple route: the text and nothing else."""
        return self._send(calls.ask(messages, **options))

    def ask_stream(self, messages: Messages, **options: Unpack[AskOptions]) -> Generator[str]:
        """Yield the answer's text on the simple route, piece by piece."""
        return self._stream(calls.ask_stream(messages, **options))

    def upload_file(self, path: str | Path, *, purpose: str = "batch") -> FileReply:
        """Upload a file, whole."""
        return self._send(batches.upload_file(path, purpose))

    def file_content(self, file_id: str) -> bytes:
        """Download a file, whole."""
        return self._send(batches.file_content(file_id))

    def create_batch(
        self, input_file_id: str, endpoint: str, *, metadata: Mapping[str, str] | None = None
    ) -> BatchReply:
        """Have the requests of an uploaded file answered in the background."""
        return self._send(batches.create_batch(input_file_id, endpoint, metadata))

    def batches(self, limit: int = 20) -> list[BatchReply]:
        """List the latest batches, the latest first."""
        return self._send(batches.batches(limit))

    def batch(self, batch_id: str) -> BatchReply:
        """Say how far a batch is."""
        return self._send(batches.batch(batch_id))

    def cancel_batch(self, batch_id: str) -> BatchReply:
        """Stop a batch; what is done stays."""
        return self._send(batches.cancel_batch(batch_id))

    def retrieve(self, query: str, **options: Unpack[SearchOptions]) -> RetrieveReply:
        """Find the passages of your documents that answer a question, the best first."""
        return self._send(documents.retrieve(query, **options))

    def add_document(
        self, source: Source, *, collection: str | None = None, **options: Unpack[DocumentOptions]
    ) -> DocumentReply:
        """Add a text, or a file of text, Markdown, HTML, PDF or DOCX."""
        return self._send(documents.add_document(source, collection, **options))

    def replace_document(
        self, document_id: str, source: Source, **options: Unpack[DocumentOptions]
    ) -> DocumentReply:
        """Put a new version in the place of a document."""
        return self._send(documents.replace_document(document_id, source, **options))

    def documents(self, **options: Unpack[ListOptions]) -> DocumentList:
        """List your documents, a page at a time."""
        return self._send(documents.documents(**options))

    def document(self, document_id: str) -> DocumentWithText:
        """Show a document with its text."""
        return self._send(documents.document(document_id))

    def delete_document(self, document_id: str) -> Removed:
        """Delete a document."""
        return self._send(documents.delete_document(document_id))

    def collections(self) -> list[CollectionReply]:
        """List the collections that you can search."""
        return self._send(documents.collections())

    def create_collection(self, name: str, *, description: str | None = None) -> CollectionReply:
        """Make a collection."""
        return self._send(documents.create_collection(name, description))

    def delete_collection(self, name: str) -> Removed:
        """Delete a collection, by its name or id, with all that is in it."""
        return self._send(documents.delete_collection(name))

    def models(self) -> list[ModelReply]:
        """List the models this key may use."""
        return self._send(calls.models())

    def model(self, model_id: str) -> ModelReply:
        """Describe one model."""
        return self._send(calls.model(model_id))

    def model_info(self) -> ModelInfo:
        """Describe the classifier behind the simple routes."""
        return self._send(calls.model_info())

    def usage(self) -> UsageSummary:
        """Sum up what the key's owner has used."""
        return self._send(calls.usage())

    def health(self) -> Health:
        """Say which parts of the server are up; needs no key."""
        return self._send(calls.health())

    def request(self, method: str, path: str, body: Any = None) -> bytes:
        """Call any other route; `body` is sent as JSON, the answer comes as it is."""
        return self._send(calls.raw(method, path, body))

    def close(self) -> None:
        """Give the connections back."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _send(self, call: Call[T]) -> T:
        with connection_errors(self.profile.base_url):
            response = self._http.request(call.method, call.path, **call.options)
        return calls.answer(call, response)

    def _stream(self, call: Call[T]) -> Generator[T]:
        with (
            connection_errors(self.profile.base_url),
            self._http.stream(call.method, call.path, **call.options) as response,
        ):
            if not response.is_success:
                response.read()
                calls.answer(call, response)
            for event in httpx2.EventSource(response):
                if event.data == "[DONE]":
                    return
                if piece := call.read(event.data.encode()):  # an event may carry no text
                    yield piece
        raise unfinished()
