"""Holds an answer to the field lists of an SDK's own types."""

from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel


def complaints(part: Any, at: str = "answer") -> Iterator[str]:
    """Name each field that the SDK does not know, and each that it needs and that is missing.

    Args:
        part: what the SDK made of an answer, or a list of such.
    """
    if isinstance(part, list):
        for index, item in enumerate(part):
            yield from complaints(item, f"{at}[{index}]")
    if not isinstance(part, BaseModel):
        return
    fields = type(part).model_fields
    given = part.model_fields_set | (part.model_extra or {}).keys()
    yield from (f"{at}.{name} is unknown" for name in given - fields.keys())
    for name, field in fields.items():
        if name in given:
            yield from complaints(getattr(part, name), f"{at}.{name}")
        elif field.is_required():
            yield f"{at}.{name} is missing"


def given_names(part: BaseModel) -> set[str]:
    """Every field that the answer had, null ones included."""
    return set(part.model_fields_set)
