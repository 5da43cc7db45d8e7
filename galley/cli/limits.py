"""How commands read and show limits: money in dollars, everything else as a count."""

from collections.abc import Iterable, Mapping
from typing import Annotated

import typer

from galley.cli.console import ExitCode, fail
from galley.core.limits import Limits
from galley.core.money import dollars, micro_dollars

NAMES = tuple(Limits.model_fields)

LimitsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--limit",
        metavar="NAME=VALUE",
        help="Set a limit, such as requests_per_minute=10; `none` lifts it. May be repeated.",
    ),
]


def changed(known: Mapping[str, int | None], given: Iterable[str]) -> dict[str, int | None]:
    """Return `known` with what `given` sets: `NAME=VALUE` each.

    Of a value, `none` is no limit, and `unset` is as if it had never been set.
    """
    limits = dict(known)
    for text in given:
        name, _, value = text.partition("=")
        if name not in NAMES:
            fail(f"There is no limit {name!r}: choose {', '.join(NAMES)}.", ExitCode.USAGE)
        if value == "unset":
            limits.pop(name, None)
        else:
            limits[name] = _amount(name, value)
    return limits


def shown(limits: Mapping[str, int | None]) -> str:
    """Write limits as they are set."""
    return ", ".join(f"{name}={_written(name, value)}" for name, value in limits.items())


def _amount(name: str, value: str) -> int | None:
    if value == "none":
        return None
    try:
        return micro_dollars(value) if name.startswith("cost_") else int(value)
    except ValueError:
        what = "dollars" if name.startswith("cost_") else "a whole number"
        fail(f"{name}={value}: the value must be {what}, `none` or `unset`.", ExitCode.USAGE)


def _written(name: str, value: int | None) -> str:
    if value is None:
        return "none"
    return dollars(value) if name.startswith("cost_") else str(value)
