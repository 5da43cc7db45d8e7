"""Documents in order of relevance."""

import asyncio

from galley.engines.base import Begun, Ranked, Reranker
from galley.schemas.rerank import RerankRequest
from galley.services.charge import Charge
from galley.services.dispatch import Dispatch
from galley.services.metering import Meter
from galley.services.models import Models


class RerankService:
    """From a question and documents to how relevant each is."""

    def __init__(self, models: Models, meter: Meter, dispatch: Dispatch) -> None:
        self._models = models
        self._meter = meter
        self._dispatch = dispatch

    async def rerank(self, charge: Charge, request: RerankRequest) -> Ranked:
        """Return the request's documents, the most relevant first.

        Raises:
            NotFoundError: no such model.
            RateLimitError: the caller is over a limit.
            BadRequestError: the model's server does not take this request.
        """
        record, texts = charge.record, request.texts
        record.model = request.model
        plan = self._models.plan(request.model, charge.caller)
        models = self._models.rerankers(plan)
        record.route, record.arm = plan.route, plan.arm
        record.served_model = models[0].name
        most = max(model.engine.max_tokens for model in models)
        query = _most_tokens(request.query)  # it is read with each of the documents
        await self._meter.admit(
            charge,
            *(model.name for model in models),
            prompt_tokens=sum(min(query + _most_tokens(text), most) for text in texts),
            texts=len(texts),
        )
        return await self._dispatch.call(
            models,
            charge.attempts,
            lambda model, replica: self._ask(charge, model.name, replica.engine, request, texts),
        )

    async def _ask(
        self,
        charge: Charge,
        model: str,
        engine: Reranker,
        request: RerankRequest,
        texts: list[str],
    ) -> Ranked:
        await self._meter.enter(charge, model)
        record, begun = charge.record, Begun()
        top_n = min(request.top_n or len(texts), len(texts))
        try:
            ranked = await engine.rerank(request.query, texts, top_n=top_n, begun=begun)
        except asyncio.CancelledError:
            record.prompt_tokens, record.units = begun.tokens, begun.items
            raise
        record.prompt_tokens, record.units = ranked.tokens, len(texts)
        return ranked


def _most_tokens(text: str) -> int:
    """A token is a byte or more, but for the two that are put around a text."""
    return len(text.encode()) + 2
