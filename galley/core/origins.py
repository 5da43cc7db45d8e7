"""Reading the settings, and saying where each came from."""

import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from pydantic import SecretStr, ValidationError
from pydantic_settings import TomlConfigSettingsSource

from galley.core.settings import (
    CLIENT_VARIABLES,
    PREFIX,
    Settings,
    SettingsError,
    refuse_unknown,
    secret_fields,
    toml_path,
)


class Origin(NamedTuple):
    """A setting, its value as shown to people, and where it came from."""

    name: str
    value: str
    source: str


def load_settings() -> Settings:
    """Read the environment and the TOML file.

    Raises:
        SettingsError: a key that nobody knows, or a value that does not fit.
    """
    known = {_variable(name) for name in Settings.model_fields}
    files = {f"{_variable(name)}_FILE" for name in secret_fields()}
    given = {name for name in os.environ if name.startswith(PREFIX)}
    nested = {name for name in given if name.partition("__")[0] in known}
    refuse_unknown(given - nested, known | files | CLIENT_VARIABLES, "the environment")
    try:
        return Settings()
    except ValidationError as error:
        raise SettingsError(_in_words(error)) from error


def explain(settings: Settings) -> list[Origin]:
    """Say of every setting what it is and who set it."""
    toml: Mapping[str, Any] = {}
    if settings.config.is_file():
        toml = TomlConfigSettingsSource(Settings, settings.config)()
    rows: list[Origin] = []
    for name in Settings.model_fields:
        sources = _variables(name)
        if name in toml and (not sources or isinstance(toml[name], dict)):  # tables are merged
            sources.append(str(settings.config))
        value = _shown(name, getattr(settings, name))
        rows.append(Origin(name, value, ", ".join(sources) or "default"))
    return rows


def _variables(name: str) -> list[str]:
    """The variables that set `name`, or parts of it."""
    variable = _variable(name)
    whole = [v for v in (variable, f"{variable}_FILE") if os.environ.get(v)][:1]
    return whole + sorted(v for v in os.environ if v.startswith(f"{variable}__"))


def _variable(*path: object) -> str:
    return PREFIX + "__".join(str(part).upper() for part in path)


def _shown(name: str, value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(str(key) for key in value) or "-"
    if isinstance(value, SecretStr) and name.endswith("_url"):
        return _without_password(value.get_secret_value())
    return "-" if value is None else str(value)


def _without_password(url: str) -> str:
    """Hide all that may be a secret, well-formed or not: the login but for its name, the query."""
    scheme, found, rest = url.partition("?")[0].partition("://")
    if not found:
        return "**********"
    login, at, place = rest.rpartition("@")
    if scheme.startswith("sqlite") or not at:
        return f"{scheme}://{rest}"
    user, _, password = login.partition(":")
    return f"{scheme}://{user}{':***' if password else ''}@{place}"


def _in_words(error: ValidationError) -> str:
    """One line for each fault: the variable or file, and what is wrong."""
    lines: list[str] = []
    for fault in error.errors(include_input=False, include_url=False):
        said = fault["msg"].removeprefix("Value error, ")
        lines.append(f"{_place_of(fault['loc'])}: {said}" if fault["loc"] else said)
    return "\n".join(lines)


def _place_of(loc: Sequence[int | str]) -> str:
    """Name the variable that sets the value at `loc`, or the file and the key."""
    for length in range(len(loc), 0, -1):
        for variable in (_variable(*loc[:length]), f"{_variable(*loc[:length])}_FILE"):
            if variable in os.environ:
                return ".".join([variable, *map(str, loc[length:])])
    given = {name: os.environ.get(_variable(name)) for name in ("config", "data_dir")}
    return f"{toml_path(given)}: {'.'.join(map(str, loc))}"
