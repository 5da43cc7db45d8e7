"""Vectors for texts."""

from galley.dialects import openai
from galley.routers.front_door import Call, Endpoint
from galley.schemas.embeddings import EmbeddingReply, EmbeddingRequest


async def create_embedding(call: Call) -> None:
    """Turn one text, or up to 2048, into unit vectors."""
    request = await call.parse(EmbeddingRequest)
    made = await call.runtime.embeddings.embed(call.charge, request)
    body = openai.embedding_body(
        made.vectors,
        call.served_model,
        made.tokens,
        as_base64=request.encoding_format == "base64",
    )
    await call.answer(body)


ENDPOINTS = (
    Endpoint(
        name="embeddings",
        scope="embeddings",
        paths=("/v1/embeddings",),
        dialect=openai,
        handle=create_embedding,
        request=EmbeddingRequest,
        reply=EmbeddingReply,
        example={"model": "galley/embeddings", "input": "What is FastAPI?"},
    ),
)
