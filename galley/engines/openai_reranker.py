"""Documents put in order by any server with a `/rerank`: llama-server, vLLM, Jina, Cohere."""

from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Any

from galley.engines.base import Begun, Ranked
from galley.engines.bounds import likely_tokens
from galley.engines.http_json import a, count
from galley.engines.http_patience import ENDLESS, Patience
from galley.engines.http_upstream import Upstream
from galley.engines.openai_http import bearer


class OpenAIHttpReranker:
    """A reranker on the other end of a connection.

    Args:
        url: the base URL, up to and including `/v1`.
        model: the model's name over there.
        api_key: sent as a bearer token.
        max_tokens: the longest question and document, together, that the model reads.
        headers: sent with every request.
    """

    def __init__(
        self,
        url: str,
        model: str,
        *,
        api_key: str | None,
        max_tokens: int,
        headers: Mapping[str, str] | None = None,
        patience: Patience = ENDLESS,
    ) -> None:
        self.hardware = "another server"
        self.max_tokens = max_tokens
        self._model = model
        self._upstream = Upstream(
            url, model, key=bearer(api_key), headers=headers or {}, patience=patience
        )

    @property
    def problem(self) -> str | None:
        return self._upstream.problem

    async def look(self) -> None:
        """Find out whether anybody is there; `problem` says so from then on."""
        await self._upstream.look()

    async def rerank(
        self, query: str, documents: Sequence[str], *, top_n: int, begun: Begun | None = None
    ) -> Ranked:
        likely = sum(likely_tokens(query + document) for document in documents)
        if begun is not None:  # how far another server came, nobody tells
            begun.items, begun.tokens = len(documents), likely
        body = {"model": self._model, "query": query, "documents": documents, "top_n": top_n}
        answer = await self._upstream.ask("/rerank", body)
        try:
            scores = _scores(answer, len(documents))
            if len(scores) < top_n:
                raise ValueError(f"{len(scores)} of {top_n}")
            tokens = _tokens(answer)
        except ValueError as error:
            raise self._upstream.faults.failure(f"it sent no ranks: {error}") from error
        best = sorted(scores.items(), key=lambda found: -found[1])  # some do not sort, or cut
        return Ranked(best[:top_n], tokens or likely)

    async def aclose(self) -> None:
        await self._upstream.aclose()


def _scores(answer: dict[str, Any], documents: int) -> dict[int, float]:
    """Read how relevant each document is, by its place.

    Raises:
        ValueError: it is not said, or of documents that were not sent.
    """
    scores: dict[int, float] = {}
    for found in a(list, answer.get("results")):
        place, score = a(dict, found).get("index"), found.get("relevance_score")
        if type(place) is not int or not 0 <= place < documents or place in scores:
            raise ValueError(f"an index of {place!r}")
        if type(score) not in (int, float) or not isfinite(score):
            raise ValueError(f"a score of {score!r}")
        scores[place] = float(score)
    return scores


def _tokens(answer: dict[str, Any]) -> int:
    """Some say how many there are in all, and nothing else."""
    usage = a(dict, answer.get("usage"))
    return count(usage.get("prompt_tokens")) or count(usage.get("total_tokens"))
