"""The client for asyncio and trio: the twin of `sync.Client`, which carries the words."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

import anyio.to_thread
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


class AsyncClient:
    """`Client`, awaited: `async with AsyncClient() as galley: await galley.chat("hello")`.

    Leave a stream early only within `contextlib.aclosing`, or it runs on for a while.
    """

    def __init__(
        self, base_url: str | None = None, api_key: str | None = None, *, timeout_s: float = 150.0
    ) -> None:
        self.profile = find_profile(base_url, api_key)
        self._http = httpx2.AsyncClient(**http_options(self.profile, timeout_s))

    async def chat(self, messages: Messages, **options: Unpack[ChatOptions]) -> ChatCompletion:
        return await self._send(calls.chat(messages, **options))

    def chat_stream(
        self, messages: Messages, **options: Unpack[ChatOptions]
    ) -> AsyncGenerator[str]:
        return self._stream(calls.chat_text(messages, **options))

    def chat_chunks(
        self, messages: Messages, **options: Unpack[ChatOptions]
    ) -> AsyncGenerator[ChatCompletionChunk]:
        return self._stream(calls.chat_chunks(messages, **options))

    async def completions(
        self, prompt: str | Sequence[str], **options: Unpack[CompletionOptions]
    ) -> Completion:
        return await self._send(calls.completions(prompt, **options))

    async def embed(
        self,
        texts: str | Sequence[str],
        *,
        model: str = "galley/embeddings",
        dimensions: int | None = None,
    ) -> list[list[float]]:
        return await self._send(calls.embed(texts, model, dimensions))

    async def rerank(
        self,
        query: str,
        documents: Sequence[str],
        *,
        model: str = "galley/rerank",
        top_n: int | None = None,
    ) -> RerankReply:
        return await self._send(calls.rerank(query, documents, model, top_n))

    async def classify(self, image: Image) -> ClassifyReply:
        return await self._send(await anyio.to_thread.run_sync(calls.classify, image))

    async def classify_many(
        self, images: Sequence[Image], **options: Unpack[ClassifyOptions]
    ) -> ClassifyBatchReply:
        reading = partial(calls.classify_many, images, **options)
        return await self._send(await anyio.to_thread.run_sync(reading))

    async def ask(self, messages: Messages, **options: Unpack[AskOptions]) -> str:
        return await self._send(calls.ask(messages, **options))

    def ask_stream(self, messages: Messages, **options: Unpack[AskOptions]) -> AsyncGenerator[str]:
        return self._stream(calls.ask_stream(messages, **options))

    async def upload_file(self, path: str | Path, *, purpose: str = "batch") -> FileReply:
        return await self._send(await anyio.to_thread.run_sync(batches.upload_file, path, purpose))

    async def file_content(self, file_id: str) -> bytes:
        return await self._send(batches.file_content(file_id))

    async def create_batch(
        self, input_file_id: str, endpoint: str, *, metadata: Mapping[str, str] | None = None
    ) -> BatchReply:
        return await self._send(batches.create_batch(input_file_id, endpoint, metadata))

    async def batches(self, limit: int = 20) -> list[BatchReply]:
        return await self._send(batches.batches(limit))

    async def batch(self, batch_id: str) -> BatchReply:
        return await self._send(batches.batch(batch_id))

    async def cancel_batch(self, batch_id: str) -> BatchReply:
        return await self._send(batches.cancel_batch(batch_id))

    async def retrieve(self, query: str, **options: Unpack[SearchOptions]) -> RetrieveReply:
        return await self._send(documents.retrieve(query, **options))

    async def add_document(
        self, source: Source, *, collection: str | None = None, **options: Unpack[DocumentOptions]
    ) -> DocumentReply:
        reading = partial(documents.add_document, source, collection, **options)
        return await self._send(await anyio.to_thread.run_sync(reading))

    async def replace_document(
        self, document_id: str, source: Source, **options: Unpack[DocumentOptions]
    ) -> DocumentReply:
        reading = partial(documents.replace_document, document_id, source, **options)
        return await self._send(await anyio.to_thread.run_sync(reading))

    async def documents(self, **options: Unpack[ListOptions]) -> DocumentList:
        return await self._send(documents.documents(**options))

    async def document(self, document_id: str) -> DocumentWithText:
        return await self._send(documents.document(document_id))

    async def delete_document(self, document_id: str) -> Removed:
        return await self._send(documents.delete_document(document_id))

    async def collections(self) -> list[CollectionReply]:
        return await self._send(documents.collections())

    async def create_collection(
        self, name: str, *, description: str | None = None
    ) -> CollectionReply:
        return await self._send(documents.create_collection(name, description))

    async def delete_collection(self, name: str) -> Removed:
        return await self._send(documents.delete_collection(name))

    async def models(self) -> list[ModelReply]:
        return await self._send(calls.models())

    async def model(self, model_id: str) -> ModelReply:
        return await self._send(calls.model(model_id))

    async def model_info(self) -> ModelInfo:
        return await self._send(calls.model_info())

    async def usage(self) -> UsageSummary:
        return await self._send(calls.usage())

    async def health(self) -> Health:
        return await self._send(calls.health())

    async def request(self, method: str, path: str, body: Any = None) -> bytes:
        return await self._send(calls.raw(method, path, body))

    async def aclose(self) -> None:
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def _send(self, call: Call[T]) -> T:
        with connection_errors(self.profile.base_url):
            response = await self._http.request(call.method, call.path, **call.options)
        return calls.answer(call, response)

    async def _stream(self, call: Call[T]) -> AsyncGenerator[T]:
        with connection_errors(self.profile.base_url):
            async with self._http.stream(call.method, call.path, **call.options) as response:
                if not response.is_success:
                    await response.aread()
                    calls.answer(call, response)
                async for event in httpx2.EventSource(response):
                    if event.data == "[DONE]":
                        return
                    if piece := call.read(event.data.encode()):
                        yield piece
        raise unfinished()
