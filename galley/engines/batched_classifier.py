"""What all image classifiers here share: decoding, batching, and one result per picture."""

import asyncio
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from galley.core.errors import BadRequestError, OverloadedError
from galley.engines.base import Begun, Classified, Floats
from galley.engines.batching import Batcher
from galley.engines.pictures import Frame, Picture, decode
from galley.engines.weights import WeightsError

Pixels = NDArray[np.uint8]

_MAX_DECODERS = 4


class BatchedClassifier:
    """A `Classifier` around a model that turns pixels into probabilities.

    Args:
        probabilities: the model: pictures of the frame's size, height x width x RGB, to one row
            each that sums to 1; called on threads of its own.
        limit: the most pictures in one call.
        threads: how many calls may run at the same time.
    Raises:
        WeightsError: the model does not give one number per label.
    """

    problem: str | None = None

    def __init__(
        self,
        probabilities: Callable[[Sequence[Pixels]], Floats],
        *,
        labels: Sequence[str],
        frame: Frame,
        hardware: str,
        limit: int,
        threads: int,
    ) -> None:
        self.hardware = hardware
        self.labels = labels
        self._frame = frame
        found = probabilities([np.zeros((*frame.crop, 3), np.uint8)]).shape
        if found != (1, len(labels)):
            raise WeightsError(f"the model gives {found[1:]} numbers for {len(labels)} labels")
        self._decoding = ThreadPoolExecutor(
            min(_MAX_DECODERS, os.cpu_count() or 1), "galley-decode"
        )
        self._batcher = Batcher(probabilities, name="galley-classify", limit=limit, threads=threads)

    async def classify(
        self, images: Sequence[bytes], *, begun: Begun | None = None
    ) -> list[Classified | BadRequestError]:
        if self.problem:
            raise OverloadedError("The model is shut down.")
        return await asyncio.gather(*(self._one(image, begun) for image in images))

    async def aclose(self) -> None:
        self.problem = "shut down"
        self._decoding.shutdown(wait=False)
        await self._batcher.close()

    async def _one(self, image: bytes, begun: Begun | None) -> Classified | BadRequestError:
        loop = asyncio.get_running_loop()
        try:
            picture, decode_s = await loop.run_in_executor(self._decoding, self._decode, image)
        except BadRequestError as error:
            return error
        batched = await self._batcher([picture.pixels], begun)
        return Classified(
            probabilities=batched.rows[0],
            pixels=picture.pixels,
            width=picture.width,
            height=picture.height,
            decode_ms=1000 * decode_s,
            queue_ms=1000 * batched.queue_s,
            inference_ms=1000 * batched.run_s,
        )

    def _decode(self, image: bytes) -> tuple[Picture, float]:
        start = time.perf_counter()
        picture = decode(image, self._frame)
        return picture, time.perf_counter() - start


def softmax(logits: Floats) -> Floats:
    """Turn rows of any numbers into probabilities."""
    exponents = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return exponents / exponents.sum(axis=-1, keepdims=True)
