"""Documents in order of relevance."""

from galley.dialects import openai
from galley.routers.front_door import Call, Endpoint
from galley.schemas.rerank import RerankReply, RerankRequest, RerankResult, RerankUsage


async def create_rerank(call: Call) -> None:
    """Put up to 1000 documents in order of how relevant they are to a question."""
    request = await call.parse(RerankRequest)
    ranked = await call.runtime.rerank.rerank(call.charge, request)
    texts = request.texts if request.return_documents else None
    results = [
        RerankResult(
            index=index,
            relevance_score=score,
            document={"text": texts[index]} if texts is not None else None,
        )
        for index, score in ranked.scores
    ]
    usage = RerankUsage(prompt_tokens=ranked.tokens, total_tokens=ranked.tokens)
    reply = RerankReply(model=call.served_model, results=results, usage=usage)
    await call.answer(reply.model_dump_json(exclude_none=True).encode())


ENDPOINTS = (
    Endpoint(
        name="rerank",
        scope="embeddings",
        paths=("/v1/rerank",),
        dialect=openai,
        handle=create_rerank,
        request=RerankRequest,
        reply=RerankReply,
        example={
            "model": "galley/rerank",
            "query": "What is FastAPI?",
            "documents": ["A web framework for Python.", "A breed of dogs."],
        },
    ),
)
