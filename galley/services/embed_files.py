"""The job that makes vectors of the lines of a file."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any, NamedTuple

import orjson

from galley.core.caller import Caller
from galley.core.errors import BadRequestError, OverloadedError, RateLimitError
from galley.db.work_tables import File
from galley.engines.base import Embedded
from galley.schemas.embeddings import EmbeddingRequest
from galley.schemas.jobs import EmbedParams
from galley.services.charge import Arrival
from galley.services.embeddings import EmbeddingService
from galley.services.files import FileService, wire_id
from galley.services.job_kinds import JobRun
from galley.services.lines import Line
from galley.services.metering import Meter

TOGETHER = 64
"""Texts that are asked for, and booked, together."""

LONGEST_LINE = 262_144  # bytes
SHORTEST_WAIT_S, LONGEST_WAIT_S = 0.2, 60.0
"""For a limit or a model; where it takes longer, the job is put off."""


class Text(NamedTuple):
    """A line's text and the id that it came with; or what is wrong with the line."""

    number: int
    text: str
    id: str | int | None = None
    error: str | None = None


class EmbedFiles:
    """Makes a file of vectors from a file of texts: a line for a line, faults among them."""

    def __init__(self, files: FileService, embeddings: EmbeddingService, meter: Meter) -> None:
        self._files = files
        self._embeddings = embeddings
        self._meter = meter

    async def check(self, caller: Caller, params: EmbedParams) -> None:
        """Refuse a file that is not there.

        Raises:
            NotFoundError: the caller has no such file.
        """
        await self._files.find(caller, params.file_id)

    async def run(self, run: JobRun) -> dict[str, Any]:
        """Embed the lines; a second attempt writes the same file anew, and is booked once."""
        work = _Work(self, run, EmbedParams.model_validate(run.params))
        source = await self._files.find(run.caller, work.params.file_id)
        async for texts in self._texts(source):
            work.total += len(texts)
        if not work.total:
            raise BadRequestError("The file has no lines.", code="empty_file", param="file_id")
        await run.progress(0, work.total, "texts embedded")
        name = f"{source.name.rpartition('.')[0][:200] or source.name[:200]}.vectors.jsonl"
        made = work.made(self._texts(source))
        file = await self._files.create(run.caller, name, "user_data", made, file_id=run.id)
        return {
            "file_id": wire_id(file.id), "filename": file.name, "bytes": file.size,
            "model": work.model, "texts": work.total - work.failed, "failed": work.failed,
            "prompt_tokens": work.tokens,
        }  # fmt: skip

    async def _texts(self, source: File) -> AsyncGenerator[list[Text]]:
        """Yield the lines, as many at a time as are asked for together."""
        is_json = source.name.lower().endswith((".jsonl", ".ndjson"))
        read: list[Text] = []
        async with aclosing(self._files.read_lines(source, longest=LONGEST_LINE)) as pieces:
            async for lines in pieces:
                read += [_read(line, is_json=is_json) for line in lines]
                while len(read) >= TOGETHER:
                    yield read[:TOGETHER]
                    read = read[TOGETHER:]
        if read:
            yield read

    async def embed(
        self, run: JobRun, part: str, request: EmbeddingRequest
    ) -> tuple[str, Embedded]:
        """Embed some texts as one request, which waits for limits, and for a model that is busy.

        Returns:
            The model that answered, and what it made.
        Raises:
            RateLimitError, OverloadedError: it would wait for long, or for ever.
        """
        while True:
            try:
                return await self._ask(run, part, request)
            except (RateLimitError, OverloadedError) as error:
                if error.retry_after is None or error.retry_after > LONGEST_WAIT_S:
                    raise
                await asyncio.sleep(max(SHORTEST_WAIT_S, error.retry_after))

    async def _ask(self, run: JobRun, part: str, request: EmbeddingRequest) -> tuple[str, Embedded]:
        arrival = Arrival(run.request_id(part), None)
        async with self._meter.hold(arrival, run.caller, "embeddings") as charge:
            charge.background = True
            found = await self._embeddings.embed(charge, request)
            await self._meter.settle(charge)
        return charge.record.served_model or request.model, found


class _Work:
    """What one attempt has come to."""

    def __init__(self, jobs: EmbedFiles, run: JobRun, params: EmbedParams) -> None:
        self._jobs = jobs
        self._run = run
        self.params = params
        self.model = params.model
        self.total = self.failed = self.tokens = 0

    async def made(self, source: AsyncGenerator[list[Text]]) -> AsyncGenerator[bytes]:
        """Yield the lines of the answer."""
        done = 0
        async with aclosing(source):
            async for texts in source:
                yield b"".join([orjson.dumps(line) + b"\n" for line in await self._some(texts)])
                done += len(texts)
                await self._run.progress(done, self.total, "texts embedded")

    async def _some(self, texts: Sequence[Text]) -> list[dict[str, Any]]:
        """Embed some lines; where one of them spoils it for all, each alone."""
        good = [text for text in texts if text.error is None]
        lines = {
            text.number: _fault(text, code="invalid_line", message=text.error) for text in texts
        }
        if good:
            try:
                lines |= await self._embed(good)
            except BadRequestError as error:
                if error.param == "dimensions":
                    raise
                for text in good:
                    lines |= await self._alone(text)
        self.failed += sum("error" in line for line in lines.values())
        return [lines[text.number] for text in texts]

    async def _alone(self, text: Text) -> dict[int, dict[str, Any]]:
        try:
            return await self._embed([text])
        except BadRequestError as error:
            return {text.number: _fault(text, code=error.code, message=error.message)}

    async def _embed(self, texts: Sequence[Text]) -> dict[int, dict[str, Any]]:
        params, first = self.params, texts[0].number
        request = EmbeddingRequest(
            model=params.model, input=[text.text for text in texts],
            dimensions=params.dimensions, truncate=params.truncate,
        )  # fmt: skip
        part = f"{first}+{len(texts)}"
        self.model, found = await self._jobs.embed(self._run, part, request)
        self.tokens += found.tokens
        return {
            text.number: _named(text) | {"embedding": vector.tolist()}
            for text, vector in zip(texts, found.vectors, strict=True)
        }


def _named(text: Text) -> dict[str, Any]:
    return {"line": text.number} | ({} if text.id is None else {"id": text.id})


def _fault(text: Text, *, code: str | None, message: str | None) -> dict[str, Any]:
    return _named(text) | {"error": {"code": code, "message": message}}


def _read(line: Line, *, is_json: bool) -> Text:
    if not line.whole:
        return Text(line.number, "", error=f"The line is longer than {LONGEST_LINE} bytes.")
    try:
        return _parsed(line) if is_json else Text(line.number, line.text.decode().strip())
    except UnicodeDecodeError:
        return Text(line.number, "", error="The line is not UTF-8.")
    except ValueError:
        return Text(line.number, "", error='The line is neither a JSON string nor has it a "text".')


def _parsed(line: Line) -> Text:
    """Read a JSON line: a text, or an object that has one.

    Raises:
        ValueError: it is neither.
    """
    value, name = orjson.loads(line.text), None
    if isinstance(value, dict):
        value, name = value.get("text"), value.get("id")
    if not isinstance(value, str) or not value or not isinstance(name, str | int | None):
        raise ValueError
    return Text(line.number, value, id=name)
