"""The load: random texts, the sample photographs, and clients that never pause."""

import asyncio
import base64
import io
import json
import time
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.connection import Connection
from benchmarks.servers import PHOTOS, Server

_SAID = """
time year people way day man thing woman life child world school state family student group country
problem hand part place case week company system program question work government number night
point home water room mother area money story fact month lot right study book
"""
_WORDS = _SAID.split()


def dice(seed: int) -> Random:
    """Return the same sequence of choices for the same `seed`."""
    return Random(seed)  # noqa: S311 - nothing here is secret


def text(words: int, rng: Random) -> str:
    """Make up a text of so many words."""
    return " ".join(rng.choice(_WORDS) for _ in range(words))


def pictures() -> list[str]:
    """Return the sample photographs in base64."""
    return [base64.b64encode(path.read_bytes()).decode() for path in PHOTOS]


def photograph() -> bytes:
    """Return a JPEG of 24 megapixels and 6 MB: a sample, enlarged, with the grain of a camera."""
    width, height = 6000, 4000
    with Image.open(PHOTOS[1]) as sample:
        large = sample.convert("RGB").resize((width, height), Image.Resampling.BICUBIC)
    pixels = np.asarray(large).astype(np.float32)
    grain = np.random.default_rng(1)
    for size, strength in ((1, 4), (4, 6), (16, 8)):
        coarse = grain.normal(0, strength, (height // size, width // size, 3)).astype(np.float32)
        pixels += coarse.repeat(size, axis=0).repeat(size, axis=1)
    file = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=92)
    return file.getvalue()


def form(files: Sequence[bytes]) -> tuple[bytes, str]:
    """Write pictures as a multipart form; the body and its content type."""
    head = b'--pictures\r\ncontent-disposition: form-data; name="images"; filename="%d.jpg"\r\n\r\n'
    parts = [head % number + file + b"\r\n" for number, file in enumerate(files)]
    return b"".join([*parts, b"--pictures--\r\n"]), "multipart/form-data; boundary=pictures"


def bodies(requests: Sequence[dict[str, Any]]) -> list[bytes]:
    """Write requests as JSON, before the clock runs."""
    return [json.dumps(request).encode() for request in requests]


async def rate(
    server: Server, path: str, sent: Sequence[bytes], *, clients: int, seconds: float, units: int
) -> float:
    """Return units per second of `clients` connections that send `sent` over and over.

    Args:
        units: what one request counts for.
    """
    end = time.perf_counter() + seconds
    done = 0

    async def client(number: int) -> None:
        nonlocal done
        async with Connection(server.url, server.key) as connection:
            while time.perf_counter() < end:
                await connection.post(path, sent[number % len(sent)])
                number += clients
                done += 1

    begin = time.perf_counter()
    await asyncio.gather(*(client(number) for number in range(clients)))
    return done * units / (time.perf_counter() - begin)


async def raw_rate(call: Callable[[], Any], *, seconds: float, units: int) -> float:
    """Return units per second of a function that is called over and over in this process."""
    return await asyncio.to_thread(_raw_rate, call, seconds, units)


def _raw_rate(call: Callable[[], Any], seconds: float, units: int) -> float:
    begin, done = time.perf_counter(), 0
    while (now := time.perf_counter()) - begin < seconds:
        call()
        done += 1
    return done * units / (now - begin)
