"""The gateway that one writes in an afternoon: FastAPI and aiohttp, and nothing on.

python benchmarks/peers/pass_through.py --port 8000 --upstream http://127.0.0.1:9100/v1
"""

import argparse
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import aiohttp
import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import StreamingResponse

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--port", type=int, required=True)
parser.add_argument("--upstream", required=True)
given = parser.parse_args()


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as app.state.http:
        yield


app = FastAPI(lifespan=lifespan)


@app.get("/health")
async def health() -> dict[str, str]:
    return {"status": "ok"}


@app.post("/v1/chat/completions")
async def chat(request: Request) -> Response:
    body = await request.body()
    http: aiohttp.ClientSession = request.app.state.http
    headers = {"content-type": "application/json", "authorization": "Bearer upstream"}
    answer = await http.post(f"{given.upstream}/chat/completions", data=body, headers=headers)
    if answer.content_type != "text/event-stream":
        return Response(await answer.read(), answer.status, media_type=answer.content_type)
    return StreamingResponse(answer.content.iter_any(), media_type="text/event-stream")


uvicorn.run(app, port=given.port, log_level="warning", access_log=False)
