"""What every wire shape shares."""

from collections.abc import Iterable
from typing import Annotated, Any, ClassVar, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)

PLAIN = r"^[^\x00-\x1f\x7f]+$"
"""Text on one line, without what a terminal or a database stumbles over."""

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
    nested: ClassVar[frozenset[str]] = frozenset()
    """Fields that may have requests in them."""

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        fields = cls.model_fields.items()
        cls.inert = frozenset(name for name, field in fields if field.exclude)
        cls.nested = frozenset(name for name, field in fields if _has_requests(field.annotation))

    def passed(self, names: Iterable[str]) -> dict[str, Any]:
        """Those of its own inert fields that `names` has, for a server that knows them."""
        given = self.inert & self.model_fields_set & set(names)
        return {name: getattr(self, name) for name in sorted(given)}

    @property
    def ignored(self) -> list[str]:
        """The inert fields that this request carries, wherever they are in it."""
        found: set[str] = set()
        _add_inert(self, found)
        return sorted(found)


class Reply(BaseModel):
    """What the server answers. Clients take fields they do not know yet as they are."""

    model_config = ConfigDict(extra="allow", protected_namespaces=())

    def json_object(self) -> dict[str, Any]:
        """Return the answer as plain JSON types, without fields that are unset."""
        return self.model_dump(mode="json", exclude_none=True)


def _has_requests(annotation: Any) -> bool:
    if isinstance(annotation, type) and issubclass(annotation, Request):
        return True
    return any(map(_has_requests, get_args(annotation)))


def _add_inert(request: Request, found: set[str]) -> None:
    given = request.model_fields_set
    found |= request.inert & given
    for name in request.nested & given:
        value = getattr(request, name)
        if isinstance(value, Request):
            _add_inert(value, found)
        elif isinstance(value, list):
            for item in value:
                if isinstance(item, Request):
                    _add_inert(item, found)
