"""Which models to ask for a name, and in which order. Nothing here asks anybody."""

from collections.abc import Container, Mapping
from dataclasses import dataclass
from hashlib import blake2b

from galley.core.catalogue import RouteSettings


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do about a name.

    Args:
        models: the first answers, the others are for when it cannot.
        route: whose plan it is; None where the name is a model's own.
        arm: the target that was drawn, where there was a choice.
    """

    models: tuple[str, ...]
    route: str | None = None
    arm: str | None = None


def plan(
    asked: str, routes: Mapping[str, RouteSettings], models: Container[str], *, user_id: str
) -> Plan | None:
    """Return what to ask for `asked`; None when nothing has this name.

    A route goes before a model of its name, and a model before a route with a wildcard; of
    several of those, the longest. The same user is always drawn the same target.
    """
    name = asked
    if asked not in routes:
        if asked in models:
            return Plan((asked,))
        name = _wildcard(asked, routes)
        if name is None:
            return None
    route = routes[name]
    first = _draw(f"{name}\0{user_id}", route.targets)
    others = (model for model in route.fallbacks if model != first)
    return Plan((first, *others), name, first if len(route.targets) > 1 else None)


def _wildcard(asked: str, routes: Mapping[str, RouteSettings]) -> str | None:
    fits = [n for n in routes if n.endswith("*") and asked.startswith(n[:-1])]
    return max(fits, key=len, default=None)


def _draw(ticket: str, targets: Mapping[str, float]) -> str:
    """Draw by weight; the same ticket draws the same as long as the weights are the same."""
    if len(targets) == 1:
        return next(iter(targets))
    drawn = int.from_bytes(blake2b(ticket.encode(), digest_size=7).digest()) / 2**56
    left = drawn * sum(targets.values())
    last = ""
    for model, weight in targets.items():
        if weight:
            last = model
            left -= weight
            if left < 0:
                break
    return last
