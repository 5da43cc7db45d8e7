"""One run of the child process behind a llama.cpp model."""

import asyncio
import os
import secrets
import shutil
import sys
import tempfile
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import orjson

from galley.engines.openai_http import OpenAIHttpEngine

STOP_S = 2.0  # seconds for the child to end by itself


class EngineStartError(Exception):
    """The child process ended before it could answer."""

    def __init__(self, name: str, code: int | None, output: deque[str]) -> None:
        said = output[-1] if output else "it said nothing"
        super().__init__(f"{name}: llama.cpp ended with code {code} while loading: {said}")


@dataclass(slots=True)
class LlamaChild:
    """A child that answers.

    Args:
        socket: where it listens, in a folder that only we can enter; `secret` opens it.
        http: a client of it.
        output: its last lines of standard error.
        has_tools: the model's chat template knows tools.
    """

    process: asyncio.subprocess.Process
    socket: Path
    secret: str
    hardware: str
    http: OpenAIHttpEngine
    output: deque[str]
    drained: asyncio.Task[None]
    has_tools: bool

    @classmethod
    async def start(cls, wanted: dict[str, Any]) -> Self:
        """Start `llama_server.py` and wait until the model is loaded.

        Args:
            wanted: name, path, slots, context, threads and gpu_layers.
        Raises:
            EngineStartError: it ended instead; the message says why.
        """
        socket = Path(tempfile.mkdtemp(prefix="galley-", dir=_short_folder()), "llama.sock")
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "galley.engines.llama_server",
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,  # Ctrl-C on the terminal is for the server alone
        )  # fmt: skip
        try:
            return await cls._introduce(process, wanted, socket)
        except BaseException:  # cancelled while loading, too: nobody else knows this process
            if process.returncode is None:
                process.kill()
            await process.wait()
            shutil.rmtree(socket.parent, ignore_errors=True)
            raise

    @classmethod
    async def _introduce(
        cls, process: asyncio.subprocess.Process, wanted: dict[str, Any], socket: Path
    ) -> Self:
        assert process.stdin is not None  # noqa: S101 - a pipe was asked for
        assert process.stdout is not None  # noqa: S101
        secret = secrets.token_hex(16)
        told = wanted | {"secret": secret, "socket": str(socket)}
        process.stdin.write(orjson.dumps(told) + b"\n")
        output: deque[str] = deque(maxlen=20)
        drained = asyncio.create_task(_drain(process, output))
        line = await process.stdout.readline()
        if not line.startswith(b"{"):
            if process.returncode is None:
                process.kill()
            await process.wait()
            await drained
            raise EngineStartError(wanted["name"], process.returncode, output)
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
        return cls(
            process=process,
            socket=socket,
            secret=secret,
            hardware=ready["hardware"],
            http=http,
            output=output,
            drained=drained,
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
            self.process.kill()
            await self.process.wait()
        shutil.rmtree(self.socket.parent, ignore_errors=True)  # where it was killed


def _short_folder() -> str:
    """Where temporary folders go, unless that is too long for a socket's address (104 bytes)."""
    usual = tempfile.gettempdir()
    return usual if len(os.fsencode(usual)) < 70 else "/tmp"  # noqa: S108 - mkdtemp makes it ours


async def _drain(process: asyncio.subprocess.Process, output: deque[str]) -> None:
    assert process.stderr is not None  # noqa: S101 - a pipe was asked for
    while part := await process.stderr.read(65_536):  # by line, a long one would be an error
        output.extend(part.decode(errors="replace").splitlines())
