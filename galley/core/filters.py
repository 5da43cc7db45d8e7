"""What may not be said, or not as it is: the rules of a tier."""

from typing import Annotated, Literal, Self, cast

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from galley.core.patterns import check_filter_pattern

Kind = Literal["email", "phone", "iban", "card", "ip", "api_key", "private_key", "jwt"]
"""What is known by its shape."""

Group = Literal["personal_data", "secrets"]

GROUPS: dict[str, tuple[Kind, ...]] = {
    "personal_data": ("email", "iban", "card", "phone", "ip"),
    "secrets": ("private_key", "jwt", "api_key"),
}

Action = Literal["refuse", "mask", "flag"]
Side = Literal["input", "output", "both"]

MAX_RULES = 32


def _checked(pattern: str) -> str:
    check_filter_pattern(pattern)
    return pattern


class FilterRule(BaseModel):
    """One rule: what to look for, and what becomes of it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(
        pattern=r"^[a-z0-9][a-z0-9_-]*$", max_length=64, description="In receipts and errors."
    )
    detect: tuple[Literal[Kind, Group], ...] = Field(
        default=(), max_length=16, description="What is known by its shape, or groups of that."
    )
    pattern: Annotated[str, AfterValidator(_checked)] | None = Field(
        default=None,
        min_length=1,
        description="Or a regular expression of bounded length; case does not matter.",
    )
    action: Action = Field(
        description="refuse the request or end the answer, mask it, or flag it in the receipt."
    )
    on: Side = Field(default="both", description="What is asked, what is answered, or both.")

    @model_validator(mode="after")
    def _looks_for_one_thing(self) -> Self:
        if bool(self.detect) == bool(self.pattern):
            raise ValueError("a rule has one of detect and pattern")
        return self

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """What it looks for, groups taken apart."""
        found: list[Kind] = []
        for name in self.detect:
            found += GROUPS.get(name) or (cast("Kind", name),)
        return tuple(dict.fromkeys(found))


def unique(rules: list[FilterRule]) -> list[FilterRule]:
    """Refuse two rules of one name.

    Raises:
        ValueError: there are.
    """
    if len({rule.name for rule in rules}) < len(rules):
        raise ValueError("two filter rules have the same name")
    return rules
