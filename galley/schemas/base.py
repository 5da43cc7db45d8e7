"""What every wire shape shares."""

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)

Inert = Annotated[Any, Field(exclude=True)]
"""What a known field holds that means nothing here."""


def said_as(words: str) -> WrapValidator:
    """Say what a field must be in `words`, where its pattern says it to programs alone."""

    def check(value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
        try:
            return handler(value)
        except ValidationError:
            raise ValueError(words) from None

    return WrapValidator(check)


class Request(BaseModel):
    """What a client may send: unknown fields are refused by name, and no type stands for another.

    Known fields that mean nothing here are excluded from serialization (`Inert` is a type of
    such fields): they are accepted, do nothing, are not sent on, and are recorded with the
    request.
    """

    model_config = ConfigDict(
        extra="forbid", strict=True, allow_inf_nan=False, protected_namespaces=()
    )
    inert: ClassVar[frozenset[str]] = frozenset()

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        cls.inert = frozenset(name for name, field in cls.model_fields.items() if field.exclude)

    @property
    def ignored(self) -> list[str]:
        """The inert fields that this request carries, wherever they are in it."""
        return sorted({n for part in _parts(self) for n in part.inert & part.model_fields_set})


class Reply(BaseModel):
    """What the server answers. Clients take fields they do not know yet as they are."""

    model_config = ConfigDict(extra="allow", protected_namespaces=())

    def json_object(self) -> dict[str, Any]:
        """Return the answer as plain JSON types, without fields that are unset."""
        return self.model_dump(mode="json", exclude_none=True)


def _parts(request: Request) -> Iterator[Request]:
    yield request
    for name in request.model_fields_set:
        value = getattr(request, name)
        if isinstance(value, Request):
            yield from _parts(value)
        elif isinstance(value, list) and value and isinstance(value[0], Request):
            for item in value:
                yield from _parts(item)
