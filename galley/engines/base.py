"""What an engine is: something that runs a model, and knows nothing of users or money.

Engines are async; CPU work runs on their own threads or in their own process, and the event
loop only waits.
"""

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from galley.core.errors import BadRequestError
from galley.schemas.chat import ChatRequest
from galley.schemas.completions import CompletionRequest
from galley.schemas.delta import Delta
from galley.schemas.moderations import ModerationRequest, ModerationResult

Floats = NDArray[np.float32]


class Engine(Protocol):
    """What all engines share."""

    hardware: str
    """Where it runs and how, for people: `CPU, 1 thread` or `CUDA, 24 of 24 layers`."""

    @property
    def problem(self) -> str | None:
        """What keeps it from answering right now, in a word or two; None while all is well."""
        ...

    async def aclose(self) -> None:
        """Stop, and free what it holds. Safe to call twice."""
        ...


class ChatEngine(Engine, Protocol):
    """Tokens in, tokens out. One call makes one answer, whatever the request's `n`."""

    slots: int
    """How many answers it makes at the same time."""

    async def check(self, request: ChatRequest | CompletionRequest) -> int:
        """Refuse what cannot be answered, before it waits for a slot.

        Returns:
            The most tokens that all of its prompts can have together. Images are not decoded for
            that.
        Raises:
            BadRequestError: the prompt and the context do not fit (`context_length_exceeded`,
                with both numbers), or the model cannot do what is asked.
        """
        ...

    async def count(self, request: ChatRequest) -> int:
        """Count the tokens of its prompt, template and tools included.

        Raises:
            BadRequestError: what `check` says, or the model cannot count.
            OverloadedError: as `stream`.
        """
        ...

    def stream(
        self, request: ChatRequest | CompletionRequest, *, choice: int = 0, cache_salt: str = ""
    ) -> AsyncGenerator[list[Delta]]:
        """Make one answer, in pieces; what came at once comes together.

        Closing the generator stops the work.

        Args:
            choice: which of the request's answers this is, from 0; it becomes `Delta.index`,
                is added to a given seed, and picks the prompt of a completion.
            cache_salt: what an engine of ours remembers of prompts is reused for the same salt
                only. How soon an answer begins must not tell one user what another has asked.
        Raises:
            BadRequestError: what `check` says.
            EngineError: the engine failed while answering.
            OverloadedError: the engine is down and coming back; `retry_after` says when.
        """
        ...


@dataclass(slots=True)
class Begun:
    """What a model has begun of a call: its work is used up, even if nobody waits for the rest."""

    items: int = 0
    tokens: int = 0


@dataclass(frozen=True, slots=True)
class Embedded:
    """`vectors` has one row per input, of `dimensions` floats and L2 norm 1."""

    vectors: Floats
    tokens: int


class Embedder(Engine, Protocol):
    """Turns texts into vectors."""

    dimensions: int
    max_tokens: int
    """The longest input it reads, in tokens, special tokens included."""

    async def embed(
        self,
        inputs: Sequence[str] | Sequence[Sequence[int]],
        *,
        truncate: bool = False,
        begun: Begun | None = None,
    ) -> Embedded:
        """One unit vector per input, in order.

        Args:
            inputs: 1 to 2048 non-empty texts, or token ids without special tokens.
            truncate: cut what is too long instead of refusing it.
            begun: where to note how far the model got, however the call ends.
        Raises:
            BadRequestError: an input is longer than `max_tokens` or has an unknown token id
                (`param="input"`).

        Source: Reimers & Gurevych 2019, Sentence-BERT, section 3 (mean pooling).
        """
        ...

    async def token_starts(self, text: str) -> "NDArray[np.int32] | None":
        """Where each of a text's tokens begins, in characters, in order.

        None where only another server knows; then `truncate` is for it to refuse as well.
        """
        ...


@dataclass(frozen=True, slots=True)
class Ranked:
    """`scores` has documents by their place and their relevance, the most relevant first."""

    scores: Sequence[tuple[int, float]]
    tokens: int


class Moderator(Engine, Protocol):
    """Says what texts are about that may not be welcome."""

    async def judge(self, request: ModerationRequest) -> list[ModerationResult]:
        """Return a result for each of the request's texts.

        Raises:
            EngineError: it gave none.
        """
        ...


class Reranker(Engine, Protocol):
    """Says how relevant documents are to a question."""

    max_tokens: int
    """The longest question and document that it reads together, in tokens."""

    async def rerank(
        self, query: str, documents: Sequence[str], *, top_n: int, begun: Begun | None = None
    ) -> Ranked:
        """Return the `top_n` most relevant documents.

        Args:
            documents: 1 to 1000 non-empty texts.
            top_n: 1 to the number of documents.
            begun: where to note how far the model got, however the call ends.
        Raises:
            BadRequestError: a document is longer than `max_tokens`.

        Source: Nogueira & Cho 2019, Passage Re-ranking with BERT, section 3.
        """
        ...


@dataclass(frozen=True, slots=True)
class Classified:
    """One picture's probabilities (`len(labels)` floats, sum 1) and its size in pixels.

    `pixels` is what of it the model was shown, height x width x RGB.
    """

    probabilities: Floats
    pixels: NDArray[np.uint8]
    width: int
    height: int
    decode_ms: float
    queue_ms: float
    inference_ms: float


class Classifier(Engine, Protocol):
    """Says what is in a picture."""

    labels: Sequence[str]

    async def classify(
        self, images: Sequence[bytes], *, begun: Begun | None = None
    ) -> list[Classified | BadRequestError]:
        """One result per picture, in order; a bad picture does not spoil the others.

        Args:
            images: 1 to 32 PNG, JPEG, WebP or GIF files (first frame), at most 25 megapixels.
            begun: where to note how far the model got, however the call ends.
        """
        ...
