"""Who is asking, and what they may do."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from galley.core.filters import FilterRule
from galley.core.limits import Counter, Rule

SCOPES = (
    "chat", "embeddings", "classify", "documents", "files", "jobs", "usage", "keys",
)  # fmt: skip
"""What a user may be allowed to do, one per family of routes."""

ADMIN_SCOPES = (
    "admin:users", "admin:tiers", "admin:prices", "admin:models", "admin:usage", "admin:audit",
)  # fmt: skip
"""The same for those who run the server; `admin:*` stands for all of them."""

NO_KEY = "00000000-0000-0000-0000-000000000000"
"""In place of a key's id, for who came with a password."""


@dataclass(frozen=True, slots=True)
class Caller:
    """The authenticated owner of one request.

    Args:
        scopes: what they may do here and now: the owner's, less what the key leaves out.
        models: the models they may use; None is all.
        rules: their limits on everything, and `model_rules` those on one model.
        own: what counts against a limit of their own, and not their tier's.
        weight: how much of a busy model is theirs, compared with others.
        filters: what may not be said, by them or to them.
    """

    user_id: str
    key_id: str = NO_KEY
    tier: str = "free"
    scopes: frozenset[str] = frozenset()
    models: frozenset[str] | None = None
    rules: tuple[Rule, ...] = ()
    model_rules: Mapping[str, tuple[Rule, ...]] = field(default_factory=dict[str, tuple[Rule, ...]])
    own: frozenset[Counter] = frozenset()
    weight: int = 1
    filters: tuple[FilterRule, ...] = ()

    def may_use(self, model: str) -> bool:
        """Tell whether `model` is among those that their tier has."""
        return self.models is None or model in self.models

    def may(self, scope: str) -> bool:
        """Tell whether `scope` is among theirs."""
        return grants(self.scopes, scope)


def grants(scopes: frozenset[str], scope: str) -> bool:
    """Tell whether `scopes` hold `scope`: by name, or by `admin:*`."""
    return scope in scopes or (scope.startswith("admin:") and "admin:*" in scopes)
