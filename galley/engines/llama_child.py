"""One run of the child process behind a llama.cpp model."""

import asyncio
import os
import secrets
import shutil
import sys
import tempfile
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import orjson

from galley.engines.openai_http import OpenAIHttpEngine

STOP_S = 2.0  # seconds for the child to end by itself


class EngineStartError(Exception):
    """The child process could not be brought to answer."""

    def __init__(self, what: str, output: deque[str]) -> None:
        said = output[-1] if output else "it said nothing"
        super().__init__(f"llama.cpp {what} while loading: {said}")


@dataclass(slots=True)
class LlamaChild:
    """A child that answers.

    Args:
        socket: where it listens, in a folder that only we can enter; `secret` opens it.
        http: a client of it.
        output: its last lines of standard error.
        context: of one slot, in tokens; less than was asked for where the model was made for less.
        has_tools: the model's chat template knows tools.
    """

    process: asyncio.subprocess.Process
    socket: Path
    secret: str
    hardware: str
    http: OpenAIHttpEngine
    output: deque[str]
    drained: asyncio.Task[None]
    context: int
    has_tools: bool

    @property
    def is_reachable(self) -> bool:
        """Whether its socket is still there; what cleans temporary folders may have taken it."""
        return self.socket.exists()

    @classmethod
    async def start(cls, wanted: dict[str, Any], longest_s: float) -> Self:
        """Start `llama_server.py` and wait until the model is loaded.

        Args:
            wanted: name, path, projector, slots, context, threads and gpu_layers.
            longest_s: how long the model may take to load.
        Raises:
            EngineStartError: it ended instead, or took longer; the message says why.
        """
        folder = Path(tempfile.mkdtemp(prefix="galley-", dir=_short_folder()))
        process = None
        try:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "galley.engines.llama_server",
                stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                start_new_session=True,  # Ctrl-C on the terminal is for the server alone
            )  # fmt: skip
            return await cls._introduce(process, wanted, folder / "llama.sock", longest_s)
        except BaseException:  # cancelled while loading, too: nobody else knows of these
            if process is not None:
                await _end(process)
            shutil.rmtree(folder, ignore_errors=True)
            raise

    @classmethod
    async def _introduce(
        cls,
        process: asyncio.subprocess.Process,
        wanted: dict[str, Any],
        socket: Path,
        longest_s: float,
    ) -> Self:
        assert process.stdin is not None  # noqa: S101 - a pipe was asked for
        assert process.stdout is not None  # noqa: S101
        secret = secrets.token_hex(16)
        told = wanted | {"secret": secret, "socket": str(socket)}
        process.stdin.write(orjson.dumps(told) + b"\n")
        output: deque[str] = deque(maxlen=20)
        drained = asyncio.create_task(_drain(process, output))
        line, limit = b"", asyncio.timeout(longest_s)
        with suppress(TimeoutError):
            async with limit:
                line = await process.stdout.readline()
        if not line.startswith(b"{"):
            await _end(process)
            await drained
            late = f"took more than {longest_s:g} seconds" if limit.expired() else None
            raise EngineStartError(late or f"ended with code {process.returncode}", output)
        ready = orjson.loads(line)
        http = OpenAIHttpEngine(
            "http://localhost", wanted["name"], api_key=secret, slots=wanted["slots"], socket=socket
        )
        try:
            props = await http.ask("/props")
        except BaseException:
            await http.aclose()
            raise
        capabilities = props.get("chat_template_caps") or {}
        generation = props.get("default_generation_settings") or {}
        return cls(
            process=process,
            socket=socket,
            secret=secret,
            hardware=ready["hardware"],
            http=http,
            output=output,
            drained=drained,
            context=int(generation.get("n_ctx") or wanted["context"]),
            has_tools=bool(capabilities.get("supports_tools")),
        )

    async def stop(self) -> None:
        """End it: politely by closing its standard input, then by force."""
        await self.http.aclose()
        if self.process.stdin is not None:
            self.process.stdin.close()
        try:
            async with asyncio.timeout(STOP_S):
                await self.process.wait()
        except TimeoutError:
            await _end(self.process)
        shutil.rmtree(self.socket.parent, ignore_errors=True)  # where it was killed


def _short_folder() -> str:
    """Where temporary folders go, unless that is too long for a socket's address (104 bytes)."""
    usual = tempfile.gettempdir()
    return usual if len(os.fsencode(usual)) < 70 else "/tmp"  # noqa: S108 - mkdtemp makes it ours


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.kill()
    await process.wait()


async def _drain(process: asyncio.subprocess.Process, output: deque[str]) -> None:
    assert process.stderr is not None  # noqa: S101 - a pipe was asked for
    while part := await process.stderr.read(65_536):  # by line, a long one would be an error
        output.extend(part.decode(errors="replace").splitlines())
