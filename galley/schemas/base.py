"""What every wire shape shares."""

from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict


class Request(BaseModel):
    """What a client may send: unknown fields are refused by name, and no type stands for another.

    `inert` names known fields that mean nothing here; they are accepted, do nothing, and are
    recorded with the request.
    """

    model_config = ConfigDict(
        extra="forbid", strict=True, allow_inf_nan=False, protected_namespaces=()
    )
    inert: ClassVar[frozenset[str]] = frozenset()

    @property
    def ignored(self) -> list[str]:
        """The inert fields that this request carries."""
        return sorted(self.inert & self.model_fields_set)


class Reply(BaseModel):
    """What the server answers. Clients take fields they do not know yet as they are."""

    model_config = ConfigDict(extra="allow", protected_namespaces=())

    def json_object(self) -> dict[str, Any]:
        """Return the answer as plain JSON types, without fields that are unset."""
        return self.model_dump(mode="json", exclude_none=True)
