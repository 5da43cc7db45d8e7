"""How commands read and show the filter rules of a tier."""

from collections.abc import Iterable, Sequence
from typing import Annotated, Any

import typer
from pydantic import ValidationError

from galley.cli.console import ExitCode, fail
from galley.core.filters import FilterRule

FiltersOption = Annotated[
    list[str] | None,
    typer.Option(
        "--filter",
        metavar="NAME=ACTION:ON:WHAT",
        help="Set a rule, such as keys=mask:output:secrets or falcon=refuse:both:/project falcon/;"
        " NAME=unset takes it away. May be repeated.",
    ),
]


def ruled(known: Sequence[dict[str, Any]], given: Iterable[str]) -> list[dict[str, Any]]:
    """Return the rules `known` with what `given` sets: `NAME=ACTION:ON:WHAT` each.

    WHAT is kinds, joined by commas, or a pattern between slashes; of a rule, `unset` is none.
    """
    rules = {rule["name"]: rule for rule in known}
    for text in given:
        name, _, rest = text.partition("=")
        if rest == "unset":
            rules.pop(name, None)
        else:
            rules[name] = _rule(text, name, rest)
    return list(rules.values())


def rule_shown(rule: dict[str, Any]) -> str:
    """Write a rule as it is set."""
    pattern = rule.get("pattern")
    what = f"/{pattern}/" if pattern else ",".join(rule["detect"])
    return f"{rule['name']}={rule['action']}:{rule['on']}:{what}"


def _rule(text: str, name: str, rest: str) -> dict[str, Any]:
    action, _, found = rest.partition(":")
    on, colon, what = found.partition(":")
    if not colon:
        fail(f"--filter {text}: it is NAME=ACTION:ON:WHAT.", ExitCode.USAGE)
    is_pattern = len(what) > 2 and what.startswith("/") and what.endswith("/")
    looks_for = {"pattern": what[1:-1]} if is_pattern else {"detect": what.split(",")}
    try:
        rule = FilterRule.model_validate({"name": name, "action": action, "on": on, **looks_for})
    except ValidationError as error:
        reason = error.errors()[0]
        where = ".".join(map(str, reason["loc"])) or "rule"
        fail(f"--filter {text}: {where}: {reason['msg']}", ExitCode.USAGE)
    return rule.model_dump(mode="json", exclude_none=True)
