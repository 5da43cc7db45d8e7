"""llama.cpp in a child process of our own: native code may crash, the server must not.

The child (`llama_server.py`) serves HTTP on a UNIX socket of ours with a secret of its own.
It is started again, with growing pauses, whenever it ends.
"""

import asyncio
from collections.abc import AsyncGenerator, Generator
from contextlib import aclosing, contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import structlog

from galley.core.catalogue import ModelSettings
from galley.core.errors import OverloadedError
from galley.engines import tool_prompt
from galley.engines.bounds import most_prompt_tokens, refuse_images, too_long
from galley.engines.llama_child import LlamaChild
from galley.engines.llama_slots import LlamaSlots
from galley.engines.openai_http import chat_body, completion_body
from galley.engines.prompted_tools import with_prompt
from galley.engines.threads import chat_threads
from galley.schemas.chat import ChatRequest
from galley.schemas.completions import CompletionRequest
from galley.schemas.delta import Delta

log = structlog.get_logger(__name__)

LONGEST_PAUSE = 30.0  # seconds between two tries to start the child
LONGEST_SILENCE = 60.0  # seconds; a child that works says something with every batch of tokens
LONGEST_LOOK = 300.0  # seconds; of a picture it says nothing before it has read the whole of it
LONGEST_LOADING = 600.0  # seconds; a large model on a slow disk takes minutes
# No token stands for more bytes than this (runs of spaces are the longest), so a prompt of more
# than this many bytes per token of context is refused without counting its tokens.
MOST_BYTES_PER_TOKEN = 128
# A connection costs llama.cpp a thread, for as long as it idles too: counting must not take all.
COUNTED_AT_ONCE = 2


class LlamaEngine:
    """A GGUF model in a supervised child process.

    Args:
        name: the model's name in answers and logs.
        path: the GGUF file.
        projector: the GGUF file with which the model sees; without one it reads text alone.
        silence: seconds without a word while it should be answering; then the child is stuck
            (some grammars do that) and is started again.
        loading: seconds that the child may take to load the model.
    """

    def __init__(
        self,
        name: str,
        path: Path,
        settings: ModelSettings,
        *,
        projector: Path | None = None,
        silence: float = LONGEST_SILENCE,
        loading: float = LONGEST_LOADING,
    ) -> None:
        self.slots = settings.most_at_once
        self.context = settings.context
        self.hardware = "CPU"
        self.problem: str | None = "starting"
        self._name = name
        self._wanted = {
            "name": name,
            "path": str(path),
            "projector": str(projector) if projector else None,
            "slots": settings.most_at_once,
            "context": settings.context,
            "threads": chat_threads(settings.threads),
            "gpu_layers": settings.gpu_layers,
        }
        self._silence = max(silence, LONGEST_LOOK) if projector else silence
        self._loading = loading
        self._counting = asyncio.Semaphore(COUNTED_AT_ONCE)
        self._listeners = 0
        self._heard = 0.0  # when the child last said something, on the loop's clock
        self._child: LlamaChild | None = None
        self._slots = LlamaSlots(settings.most_at_once)
        self._supervisor: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int | None:
        """The child's process id, while there is one."""
        return self._child.process.pid if self._child else None

    @property
    def address(self) -> tuple[Path, str] | None:
        """The child's socket and secret, for whoever looks at it alone."""
        return (self._child.socket, self._child.secret) if self._child else None

    async def start(self) -> None:
        """Load the model.

        Raises:
            EngineStartError: the child did not come to answer; the message says why.
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
            await child.stop()
        self.problem = "stopped"

    async def check(self, request: ChatRequest | CompletionRequest) -> int:
        if self._shows_images(request):  # how many tokens they take is known once they are decoded
            return self.context
        bounds = most_prompt_tokens(request)
        if max(bounds) < self.context:  # it fits without counting
            return sum(bounds)
        tokens = await self.count(request)
        if tokens >= self.context:
            raise too_long(request, self.context, str(tokens))
        return sum(min(bound, self.context) for bound in bounds)

    async def count(self, request: ChatRequest | CompletionRequest) -> int:
        self._shows_images(request)
        least = max(most_prompt_tokens(request)) // MOST_BYTES_PER_TOKEN
        if least >= self.context:
            raise too_long(request, self.context, f"at least {least}")
        async with self._counting:
            return await self._count(request)

    def _shows_images(self, request: ChatRequest | CompletionRequest) -> bool:
        """Say whether there are images, and refuse them where the model cannot see."""
        if not isinstance(request, ChatRequest):
            return False
        if not self._wanted["projector"]:
            refuse_images(request)
        return any(message.images for message in request.messages)

    async def stream(
        self, request: ChatRequest | CompletionRequest, *, choice: int = 0, cache_salt: str = ""
    ) -> AsyncGenerator[list[Delta]]:
        child = self._running()
        tools: list[Any] = []
        if isinstance(request, ChatRequest):
            path, body = "/v1/chat/completions", self._chat_body(child, request, choice)
            tools = [] if child.has_tools else tool_prompt.offered(request)
            others, most = "top_logprobs", request.top_logprobs or 0
            if request.stops:  # only so does it tell which of them it met
                body["verbose"] = True
        else:
            path, body = "/v1/completions", completion_body(request, choice)
            others, most = "logprobs", request.logprobs or 0
        body["return_progress"] = True
        if "logprobs" in body:  # asked for no others, llama.cpp gives no logprobs at all
            body[others] = max(1, most)
        with self._slots.take(cache_salt) as slot:
            pieces = _pieces(child.http.answer(path, body | slot, choice), most)
            if tools:
                pieces = tool_prompt.read_calls(pieces, tools, f"call_{uuid4().hex}")
            async with aclosing(pieces):
                while True:
                    with self._listening():
                        found = await anext(pieces, None)
                    if found is None:
                        return
                    yield found

    @contextmanager
    def _listening(self) -> Generator[None]:
        """Expect to hear of the child within the block."""
        loop = asyncio.get_running_loop()
        if self._listeners == 0:  # it was silent because nobody listened
            self._heard = loop.time()
        self._listeners += 1
        try:
            yield
            self._heard = loop.time()
        finally:
            self._listeners -= 1

    async def _count(self, request: ChatRequest | CompletionRequest) -> int:
        """Count the prompt's tokens with the model's own template and tokenizer."""
        http = self._running().http
        if isinstance(request, ChatRequest):
            body = self._chat_body(self._running(), request, 0)
            counted = await http.ask("/v1/chat/completions/input_tokens", body)
            return int(counted["input_tokens"])
        counts: list[int] = []
        for prompt in request.prompts:
            if isinstance(prompt, str):
                asked = {"content": prompt, "add_special": True, "parse_special": True}
                counts.append(len((await http.ask("/tokenize", asked))["tokens"]))
            else:
                counts.append(len(prompt))
        return max(counts)

    def _chat_body(self, child: LlamaChild, request: ChatRequest, choice: int) -> dict[str, Any]:
        return chat_body(request if child.has_tools else with_prompt(request), choice)

    def _running(self) -> LlamaChild:
        if self._child is None:
            raise OverloadedError(
                f"The model {self._name} is {self.problem}. Try again in a moment.",
                code="engine_unavailable",
                retry_after=2,
            )
        return self._child

    async def _spawn(self) -> LlamaChild:
        child = await LlamaChild.start(self._wanted, self._loading)
        self.hardware, self.problem = child.hardware, None
        if child.context < self.context:
            log.warning("context_too_long", model=self._name, asked=self.context, has=child.context)
            self.context = child.context
        self._slots = LlamaSlots(self.slots)
        self._heard = asyncio.get_running_loop().time()
        log.info("engine_started", model=self._name, pid=child.process.pid, hardware=child.hardware)
        return child

    async def _end_of(self, child: LlamaChild) -> int:
        """Wait until the child ends, and see to it that one that cannot answer does."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(min(1.0, self._silence)):
                    return await child.process.wait()
            if not child.is_reachable:
                log.error("engine_unreachable", model=self._name, socket=str(child.socket))
                child.process.kill()
            silent = asyncio.get_running_loop().time() - self._heard
            if self._listeners and silent > self._silence:
                log.error("engine_stuck", model=self._name, silent_s=round(silent, 1))
                child.process.kill()

    async def _supervise(self) -> None:
        pause = 0.1
        while True:
            if self._child is not None:
                started = asyncio.get_running_loop().time()
                code = await self._end_of(self._child)
                lasted = asyncio.get_running_loop().time() - started
                pause = 0.1 if lasted > LONGEST_PAUSE else pause
                self.problem = "restarting after a crash"
                log.error(
                    "engine_died", model=self._name, exit_code=code, output=list(self._child.output)
                )
                dead, self._child = self._child, None
                await dead.stop()
            await asyncio.sleep(pause)
            pause = min(pause * 2, LONGEST_PAUSE)
            try:
                self._child = await self._spawn()
            except Exception as error:  # whatever went wrong, there is a next time
                log.error("engine_start_failed", model=self._name, error=str(error))


async def _pieces(
    answer: AsyncGenerator[list[Delta]], most_others: int
) -> AsyncGenerator[list[Delta]]:
    async with aclosing(answer):
        async for pieces in answer:
            for delta in pieces:
                for token in delta.logprobs or ():
                    del token["top_logprobs"][most_others:]
            yield pieces
