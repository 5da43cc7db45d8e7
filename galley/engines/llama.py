"""llama.cpp in a child process of our own: native code may crash, the server must not.

The child (`llama_server.py`) serves HTTP on a random loopback port with a secret of its own.
It is started again, with growing pauses, whenever it ends.
"""

import asyncio
import secrets
import sys
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import orjson
import psutil
import structlog

from galley.core.errors import BadRequestError, OverloadedError
from galley.core.settings import ModelSettings
from galley.engines import tool_prompt
from galley.engines.openai_http import OpenAIHttpEngine, chat_body, completion_body, deltas
from galley.schemas.chat import ChatRequest, ImagePart
from galley.schemas.completions import CompletionRequest
from galley.schemas.delta import Delta

log = structlog.get_logger(__name__)

LONGEST_PAUSE = 30.0  # seconds between two tries to start the child
# No token stands for more bytes than this (runs of spaces are the longest), so a prompt of more
# than this many bytes per token of context is refused without counting its tokens.
MOST_BYTES_PER_TOKEN = 128
# What a chat template adds, generously: per conversation and per message.
TEMPLATE_TOKENS, MESSAGE_TOKENS = 64, 16


@dataclass(slots=True)
class _Child:
    process: asyncio.subprocess.Process
    url: str
    secret: str
    http: OpenAIHttpEngine
    output: deque[str]
    drained: asyncio.Task[None]
    has_tools: bool


class LlamaEngine:
    """A GGUF model in a supervised child process.

    Args:
        name: the model's name in answers and logs.
        path: the GGUF file.
    """

    def __init__(self, name: str, path: Path, settings: ModelSettings) -> None:
        self.slots = settings.slots
        self.context = settings.context
        self.hardware = "CPU"
        self.problem: str | None = "starting"
        self._name = name
        self._wanted = {
            "name": name,
            "path": str(path),
            "slots": settings.slots,
            "context": settings.context,
            "threads": settings.threads or max(1, (psutil.cpu_count(logical=False) or 2) - 1),
            "gpu_layers": settings.gpu_layers,
        }
        self._child: _Child | None = None
        self._supervisor: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int | None:
        """The child's process id, while there is one."""
        return self._child.process.pid if self._child else None

    @property
    def address(self) -> tuple[str, str] | None:
        """The child's URL and secret, for whoever measures it alone."""
        return (self._child.url, self._child.secret) if self._child else None

    async def start(self) -> None:
        """Load the model.

        Raises:
            EngineStartError: the child ended before it answered; the message says why.
        """
        self._child = await self._spawn()
        self._supervisor = asyncio.create_task(self._supervise())

    async def aclose(self) -> None:
        if self._supervisor is not None:
            self._supervisor.cancel()
            await asyncio.gather(self._supervisor, return_exceptions=True)
            self._supervisor = None
        child, self._child = self._child, None
        if child is not None:
            await _stop(child)
        self.problem = "stopped"

    async def check(self, request: ChatRequest | CompletionRequest) -> None:
        if isinstance(request, ChatRequest):
            _refuse_images(request)
            size = sum(len(m.text.encode()) for m in request.messages)
            size += len(orjson.dumps([t.model_dump() for t in request.tools or ()]))
            extra = TEMPLATE_TOKENS + MESSAGE_TOKENS * len(request.messages)
        else:
            size = max(len(p.encode()) if isinstance(p, str) else len(p) for p in request.prompts)
            extra = 1
        if size + extra < self.context:  # a token is a byte or more: it fits without counting
            return
        least = size // MOST_BYTES_PER_TOKEN
        tokens = least if least >= self.context else await self._count(request)
        if tokens >= self.context:
            at_least = "at least " if tokens == least else ""
            raise BadRequestError(
                f"This model's context is {self.context} tokens, and the prompt alone has "
                f"{at_least}{tokens}. Shorten it.",
                code="context_length_exceeded",
                param="messages" if isinstance(request, ChatRequest) else "prompt",
            )

    async def stream(
        self, request: ChatRequest | CompletionRequest, *, choice: int = 0
    ) -> AsyncGenerator[Delta]:
        child = self._running()
        tools: list[Any] = []
        if isinstance(request, ChatRequest):
            path, body = "/v1/chat/completions", self._chat_body(child, request, choice)
            tools = [] if child.has_tools else tool_prompt.offered(request)
        else:
            path, body = "/v1/completions", completion_body(request, choice)
        body["return_progress"] = True
        pieces = _pieces(child.http, path, body, choice)
        if tools:
            pieces = tool_prompt.read_calls(pieces, tools, f"call_{uuid4().hex}")
        async with aclosing(pieces):
            async for piece in pieces:
                yield piece

    async def _count(self, request: ChatRequest | CompletionRequest) -> int:
        """Count the prompt's tokens with the model's own template and tokenizer."""
        http = self._running().http
        if isinstance(request, ChatRequest):
            body = self._chat_body(self._running(), request, 0)
            rendered = await http.ask("/apply-template", body)
            prompts = [rendered["prompt"]]
        else:
            prompts = request.prompts
        counts: list[int] = []
        for prompt in prompts:
            if isinstance(prompt, str):
                asked = {"content": prompt, "add_special": True, "parse_special": True}
                counts.append(len((await http.ask("/tokenize", asked))["tokens"]))
            else:
                counts.append(len(prompt))
        return max(counts)

    def _chat_body(self, child: _Child, request: ChatRequest, choice: int) -> dict[str, Any]:
        body = chat_body(request, choice)
        if child.has_tools:
            return body
        tools = tool_prompt.offered(request)
        for name in ("tools", "tool_choice", "parallel_tool_calls"):
            body.pop(name, None)
        body["messages"] = tool_prompt.plain_messages(request)
        if tools and tool_prompt.is_forced(request):
            schema = {"name": "call", "schema": tool_prompt.call_schema(tools)}
            body["response_format"] = {"type": "json_schema", "json_schema": schema}
        return body

    def _running(self) -> _Child:
        if self._child is None:
            raise OverloadedError(
                f"The model {self._name} is {self.problem}. Try again in a moment.",
                code="engine_unavailable",
                retry_after=2,
            )
        return self._child

    async def _spawn(self) -> _Child:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "galley.engines.llama_server",
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,  # Ctrl-C on the terminal is for the server alone
        )  # fmt: skip
        try:
            return await self._introduce(process)
        except BaseException:  # cancelled while loading, too: nobody else knows this process
            if process.returncode is None:
                process.kill()
            await process.wait()
            raise

    async def _introduce(self, process: asyncio.subprocess.Process) -> _Child:
        """Tell a new child what to serve, and wait until it does."""
        assert process.stdin is not None  # noqa: S101 - a pipe was asked for
        assert process.stdout is not None  # noqa: S101
        secret = secrets.token_hex(16)
        process.stdin.write(orjson.dumps(self._wanted | {"secret": secret}) + b"\n")
        output: deque[str] = deque(maxlen=20)
        drained = asyncio.create_task(_drain(process, output))
        line = await process.stdout.readline()
        if not line.startswith(b"{"):
            await process.wait()
            await drained
            raise EngineStartError(self._name, process.returncode, output)
        ready = orjson.loads(line)
        http = OpenAIHttpEngine(ready["url"], self._name, api_key=secret, slots=self.slots)
        try:
            props = await http.ask("/props")
        except BaseException:
            await http.aclose()
            raise
        self.hardware, self.problem = ready["hardware"], None
        capabilities = props.get("chat_template_caps") or {}
        log.info("engine_started", model=self._name, pid=process.pid, hardware=self.hardware)
        return _Child(
            process=process,
            url=ready["url"],
            secret=secret,
            http=http,
            output=output,
            drained=drained,
            has_tools=bool(capabilities.get("supports_tools")),
        )

    async def _supervise(self) -> None:
        pause = 0.1
        while True:
            if self._child is not None:
                started = asyncio.get_running_loop().time()
                code = await self._child.process.wait()
                lasted = asyncio.get_running_loop().time() - started
                pause = 0.1 if lasted > LONGEST_PAUSE else pause
                self.problem = "restarting after a crash"
                log.error(
                    "engine_died", model=self._name, exit_code=code, output=list(self._child.output)
                )
                dead, self._child = self._child, None
                await dead.http.aclose()
            await asyncio.sleep(pause)
            pause = min(pause * 2, LONGEST_PAUSE)
            try:
                self._child = await self._spawn()
            except (EngineStartError, OverloadedError, OSError) as error:
                log.error("engine_start_failed", model=self._name, error=str(error))


class EngineStartError(Exception):
    """The child process ended before it could answer."""

    def __init__(self, name: str, code: int | None, output: deque[str]) -> None:
        said = output[-1] if output else "it said nothing"
        super().__init__(f"{name}: llama.cpp ended with code {code} while loading: {said}")


async def _pieces(
    http: OpenAIHttpEngine, path: str, body: dict[str, Any], choice: int
) -> AsyncGenerator[Delta]:
    async with aclosing(http.events(path, body)) as events:
        async for event in events:
            for delta in deltas(event, choice):
                yield delta


async def _drain(process: asyncio.subprocess.Process, output: deque[str]) -> None:
    assert process.stderr is not None  # noqa: S101 - a pipe was asked for
    async for line in process.stderr:
        output.append(line.decode(errors="replace").rstrip())


async def _stop(child: _Child) -> None:
    await child.http.aclose()
    if child.process.stdin is not None:
        child.process.stdin.close()  # the child ends with its standard input
    try:
        async with asyncio.timeout(2):
            await child.process.wait()
    except TimeoutError:
        child.process.kill()
        await child.process.wait()


def _refuse_images(request: ChatRequest) -> None:
    for number, message in enumerate(request.messages):
        if isinstance(message.content, list) and any(
            isinstance(part, ImagePart) for part in message.content
        ):
            raise BadRequestError(
                "This model reads text only; it cannot see images.",
                code="unsupported_content",
                param=f"messages.{number}.content",
            )
