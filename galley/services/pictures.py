"""Pictures in a conversation: shown to models that see, described to those that do not.

Before a request is admitted only their headers are read; what takes time comes after.
"""

import asyncio
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from heapq import nlargest
from typing import Literal, TypeVar

from PIL import Image

from galley.core.errors import BadRequestError, NotFoundError, OverloadedError
from galley.engines.base import Begun, ChatEngine, Classified, Classifier
from galley.engines.pictures import Frame, decode, measure
from galley.schemas.chat import ChatRequest, ContentPart, ImagePart, Message, TextPart
from galley.schemas.completions import CompletionRequest
from galley.services.charge import Charge
from galley.services.colours import WORDS, main_colours
from galley.services.images import decode_base64
from galley.services.models import Loaded, Models
from galley.services.routing import Plan

T = TypeVar("T")

TextRequest = ChatRequest | CompletionRequest

MOST_PICTURES = 16
"""In one request."""
MOST_PIXELS = 50_000_000
"""Of all pictures of a request together."""

CLASSIFIER = "galley/classify"
DESCRIBED = "image:described"
"""In a request's `ignored_fields`: the model had words in place of the pictures."""

_MOST_LABELS = 5
_LEAST_LIKELY = 0.02
_MOST_COLOURS = 3
_EVERY = 4  # pixels of a row, and rows, are enough to tell colours
_SMALL = Frame((64, 64), (64, 64), Image.Resampling.BOX)


@dataclass(frozen=True, slots=True)
class _Part:
    """A picture, which one of its request it is, and where in it."""

    number: int
    place: str
    url: str


class PictureService:
    """Makes conversations with pictures readable for every model.

    Args:
        opening: threads on which pictures are opened.
    """

    def __init__(self, models: Models, opening: Executor) -> None:
        self._models = models
        self._opening = opening

    def of(self, request: TextRequest) -> "Pictures":
        """Return the pictures of `request`; nobody has looked at them yet."""
        return Pictures(self, request)

    async def each(self, call: Callable[[bytes], T], parts: Iterable[_Part]) -> list[T]:
        """Call `call` with the file of each part, off the event loop.

        Raises:
            BadRequestError: a part is no picture, or `call` says so (`param` names it).
        """
        loop = asyncio.get_running_loop()
        tried = await asyncio.gather(
            *(loop.run_in_executor(self._opening, _try, call, part.url) for part in parts)
        )
        found: list[T] = []
        for part, result in zip(parts, tried, strict=True):
            if isinstance(result, _Reason):
                raise _bad(part, result.text)
            found.append(result)
        return found

    def classifier(self) -> Loaded[Classifier]:
        """Return the default classifier; whoever may ask a model may have pictures told to it.

        Raises:
            BadRequestError: there is none.
            OverloadedError: it is still loading.
        """
        try:
            name = self._models.find(CLASSIFIER).name
            return self._models.classifier(Plan((name,)))
        except (NotFoundError, OverloadedError) as error:
            if error.code == "model_loading":
                raise
            raise BadRequestError(
                "This model cannot see images, and no classifier is loaded that could describe"
                " them to it. Ask a model that sees, or leave the images out.",
                code="unsupported_content",
            ) from error

    async def describe(self, parts: Sequence[_Part], begun: Begun) -> list[str]:
        """Put pictures into words.

        Args:
            begun: gets the pictures that the classifier has looked at, however this ends.
        Raises:
            BadRequestError: a picture is damaged, or there is no classifier any more.
        """
        found, loop = self.classifier(), asyncio.get_running_loop()
        files = await self.each(bytes, parts)
        results = await found.engine.classify(files, begun=begun)
        said: list[str] = []
        for part, result in zip(parts, results, strict=True):
            if not isinstance(result, Classified):
                raise _bad(part, result.message)
            colours = await loop.run_in_executor(self._opening, _colours, result)
            likely = _likely(result, found.engine.labels)
            said.append(_words(part, found.name, (result.width, result.height), colours, likely))
        return said


class Pictures:
    """The pictures of one request: measured, then looked at once a model is to read them.

    Args:
        request: as it came.
    """

    def __init__(self, service: PictureService, request: TextRequest) -> None:
        self._service = service
        self.request = request
        self._parts = list(_parts(request)) if isinstance(request, ChatRequest) else []
        self._sizes: list[tuple[int, int]] = []
        self._outlined: TextRequest | None = None
        self._described: TextRequest | None = None
        self._checked = False

    async def measure(self) -> None:
        """Read their headers, which is all that is done for who may yet be refused.

        Raises:
            BadRequestError: one is no picture, or they are too many or too large (`param` names
                the first that is).
        """
        if not self._parts:
            return
        if len(self._parts) > MOST_PICTURES:
            raise BadRequestError(
                f"This request has {len(self._parts)} images; at most {MOST_PICTURES} are taken.",
                code="too_many_images",
                param=self._parts[MOST_PICTURES].place,
            )
        self._sizes = await self._service.each(measure, self._parts)
        pixels = 0
        for part, (width, height) in zip(self._parts, self._sizes, strict=True):
            pixels += width * height
            if pixels > MOST_PIXELS:
                raise BadRequestError(
                    f"The images of a request have at most {MOST_PIXELS // 1_000_000} megapixels"
                    f" together; image {part.number} goes over that. Send fewer, or smaller ones.",
                    code="too_many_pixels",
                    param=part.place,
                )

    def most_described(self, models: Iterable[Loaded[ChatEngine]]) -> int:
        """How many may have to be described, whichever of `models` answers."""
        return 0 if all(model.settings.sees for model in models) else len(self._parts)

    def outlined_for(self, model: Loaded[ChatEngine]) -> TextRequest:
        """Return the request as `model` would read it, with the longest possible descriptions.

        Raises:
            BadRequestError: the model cannot see, and nothing can describe pictures to it.
            OverloadedError: what describes them is still loading.
        """
        if not self._parts or model.settings.sees:
            return self.request
        if self._outlined is None:
            found = self._service.classifier()
            colours = nlargest(_MOST_COLOURS, WORDS, key=len)
            labels = nlargest(_MOST_LABELS, found.engine.labels, key=_bytes)
            likely = [(label, 1.0) for label in labels]
            self._outlined = self._told(
                _words(part, found.name, size, colours, likely)
                for part, size in zip(self._parts, self._sizes, strict=True)
            )
        return self._outlined

    async def readable_by(self, model: Loaded[ChatEngine], charge: Charge) -> TextRequest:
        """Return the request as `model` can read it; `charge` is told what was done for that.

        Raises:
            BadRequestError: a picture is damaged; or the model cannot see, and nothing can
                describe pictures to it.
            OverloadedError: what describes them is still loading.
        """
        if not self._parts:
            return self.request
        if model.settings.sees:
            await self._check()
            _note(charge, "seen")
            return self.request
        if self._described is None:
            begun = Begun()
            try:
                told = await self._service.describe(self._parts, begun)
            finally:
                charge.record.units += begun.items
            self._described, self._checked = self._told(told), True
        _note(charge, "described")
        return self._described

    async def _check(self) -> None:
        """Insist that all can be decoded: what comes from strangers is not passed on unseen."""
        if not self._checked:
            await self._service.each(lambda file: decode(file, _SMALL), self._parts)
            self._checked = True

    def _told(self, words: Iterable[str]) -> TextRequest:
        assert isinstance(self.request, ChatRequest)  # noqa: S101 - only these have pictures
        told = iter(words)
        messages = [_in_words(message, told) for message in self.request.messages]
        return self.request.model_copy(update={"messages": messages})


@dataclass(frozen=True, slots=True)
class _Reason:
    """Why something is no picture. The error itself would keep the file alive."""

    text: str


def _try(call: Callable[[bytes], T], url: str) -> T | _Reason:
    try:
        return call(decode_base64(url))
    except BadRequestError as error:
        return _Reason(error.message)


def _parts(request: ChatRequest) -> Iterator[_Part]:
    number = 0
    for m, message in enumerate(request.messages):
        if isinstance(message.content, list):
            for p, part in enumerate(message.content):
                if isinstance(part, ImagePart):
                    number += 1
                    yield _Part(number, f"messages[{m}].content[{p}]", part.image_url.url)


def _in_words(message: Message, told: Iterator[str]) -> Message:
    """Put words in the place of pictures, as plain text: some servers take nothing else."""
    if not isinstance(message.content, list) or not message.images:
        return message
    parts: list[ContentPart] = [
        TextPart(type="text", text=next(told)) if isinstance(part, ImagePart) else part
        for part in message.content
    ]
    worded = message.model_copy(update={"content": parts})
    return worded.model_copy(update={"content": worded.text})


def _words(
    part: _Part,
    classifier: str,
    size: tuple[int, int],
    colours: Iterable[str],
    likely: Iterable[tuple[str, float]],
) -> str:
    labels = ", ".join(f"{label} ({100 * share:.0f} %)" for label, share in likely)
    return (
        f"[Image {part.number}, described automatically by {classifier} because this model cannot"
        f" see: {size[0]}x{size[1]} pixels; mostly {', '.join(colours)}; likely: {labels}]"
    )


def _colours(found: Classified) -> list[str]:
    return main_colours(found.pixels[::_EVERY, ::_EVERY], most=_MOST_COLOURS)


def _likely(found: Classified, labels: Sequence[str]) -> list[tuple[str, float]]:
    best: list[int] = (-found.probabilities).argsort()[:_MOST_LABELS].tolist()
    likely = [i for i in best if found.probabilities[i] >= _LEAST_LIKELY] or best[:1]
    return [(labels[i], float(found.probabilities[i])) for i in likely]


def _bytes(label: str) -> int:
    return len(label.encode())


def _note(charge: Charge, how: Literal["seen", "described"]) -> None:
    """Write down what the model was given."""
    charge.image_input = how
    fields = (charge.record.ignored_fields or "").split(",")
    kept = [field for field in fields if field not in ("", DESCRIBED)]
    if how == "described":
        kept.append(DESCRIBED)
    charge.record.ignored_fields = ",".join(kept) or None


def _bad(part: _Part, reason: str) -> BadRequestError:
    return BadRequestError(f"Image {part.number}: {reason}", code="invalid_image", param=part.place)
