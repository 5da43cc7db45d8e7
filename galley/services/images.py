"""What is in a picture."""

import asyncio
import binascii
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np

from galley.core.errors import BadRequestError
from galley.core.tracing import step
from galley.engines.base import Begun, Classified, Classifier
from galley.schemas.classify import ModelInfo
from galley.services.charge import Charge
from galley.services.metering import Meter
from galley.services.models import Models

_PIECE = 262_144  # characters, which are decoded in about a millisecond
_LONGEST_HEAD = 1024
_DATA_URI = re.compile(r"data:image/[\w.+-]+(?:;[\w=.+-]+)*;base64,", re.ASCII | re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Labelled:
    """One picture's likeliest labels (name, class number, confidence), best first."""

    picture: Classified
    labels: list[tuple[str, int, float]]


class ImageService:
    """From picture files to labels."""

    def __init__(self, models: Models, meter: Meter) -> None:
        self._models = models
        self._meter = meter

    async def classify(
        self,
        charge: Charge,
        pictures: Sequence[bytes | BadRequestError],
        *,
        model: str,
        top_k: int,
        threshold: float = 0.0,
    ) -> list[Labelled | BadRequestError]:
        """Return one result per picture, in order; a bad one does not spoil the others.

        Args:
            pictures: image files, or why there is none.
            threshold: leave out labels less likely than this.
        Raises:
            NotFoundError: no such model.
            RateLimitError: the caller is over a limit.
        """
        record = charge.record
        record.model = model
        plan = self._models.plan(model, charge.caller)
        record.route, record.arm = plan.route, plan.arm
        found = self._models.classifier(plan)
        record.served_model = found.name
        files = [picture for picture in pictures if isinstance(picture, bytes)]
        await self._meter.admit(charge, found.name, images=len(files))
        begun = Begun()
        try:
            with step("engine"):
                results = iter(await found.engine.classify(files, begun=begun) if files else ())
        except asyncio.CancelledError:
            record.units = begun.items
            raise
        answers: list[Labelled | BadRequestError] = []
        for picture in pictures:
            result = next(results) if isinstance(picture, bytes) else picture
            if isinstance(result, Classified):
                result = _labelled(result, found.engine.labels, top_k, threshold)
                record.units += 1
            answers.append(result)
        return answers

    def info(self, model: str) -> ModelInfo:
        """Describe a classifier, loaded or not.

        Raises:
            NotFoundError: no such model.
        """
        found = self._models.find(model)
        engine = cast("Classifier | None", found.engine)
        return ModelInfo(
            name=found.name,
            status="loaded" if engine else "not_loaded",
            num_labels=len(engine.labels) if engine else 0,
        )


def decode_base64(text: str | memoryview) -> bytes:
    """Return the bytes behind base64 or a `data:` URI.

    Others have their turn now and then: a decoder holds the interpreter until it is done.

    Raises:
        BadRequestError: it is neither.
    """
    head = text[:_LONGEST_HEAD]
    start = _start(head if isinstance(head, str) else str(head, "latin-1"))
    if isinstance(text, str) and "\n" in text:
        text, start = "".join(text[start:].split()), 0
    decoded = io.BytesIO()
    try:
        for at in range(start, len(text), _PIECE):
            # Padding is for the end alone: a piece before it is as long as can be.
            piece = binascii.a2b_base64(text[at : at + _PIECE], strict_mode=True)
            if at + _PIECE < len(text) and len(piece) < _PIECE // 4 * 3:
                raise ValueError("Excess data after padding")
            decoded.write(piece)
    except ValueError as error:  # binascii.Error, and text that is not ASCII
        raise _no_base64(str(error)) from error
    return decoded.getvalue()


def _start(head: str) -> int:
    """Where the base64 begins in a text that begins so."""
    if head.startswith(("http://", "https://")):
        raise _no_base64("addresses are not fetched; send the image itself.")
    if head[:5].lower() != "data:":
        return 0
    if (found := _DATA_URI.match(head)) is None:
        raise _no_base64("a data URI has to begin with data:image/...;base64,")
    return found.end()


def _no_base64(reason: str) -> BadRequestError:
    return BadRequestError(f"Invalid base64 image: {reason}", code="invalid_image", param="image")


def _labelled(picture: Classified, labels: Sequence[str], top_k: int, threshold: float) -> Labelled:
    best: list[int] = np.argsort(-picture.probabilities)[:top_k].tolist()
    rows = [(labels[i], i, float(picture.probabilities[i])) for i in best]
    return Labelled(picture, [row for row in rows if row[2] >= threshold])
