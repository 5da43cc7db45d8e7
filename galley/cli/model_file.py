"""The models in the TOML file, as text: what its owner wrote around them stays as it is."""

import json
import tomllib
from typing import Any

from galley.core.catalogue import ModelSettings


def table_of(name: str, model: ModelSettings) -> str:
    """Write the table of one model."""
    values = model.model_dump(exclude_defaults=True)
    lines = [f"{key} = {json.dumps(value)}" for key, value in values.items()]
    return "\n".join([f"[models.{json.dumps(name)}]", *lines])


def with_model(text: str, name: str, model: ModelSettings) -> str:
    """Return `text` with one model more.

    Raises:
        ValueError: it is written in a way that cannot simply be added to.
    """
    table = table_of(name, model)
    added = f"{text.rstrip()}\n\n{table}\n" if text.strip() else f"{table}\n"
    tomllib.loads(added)
    return added


def without_model(text: str, name: str) -> str:
    """Return `text` without the table of one model.

    Raises:
        ValueError: it is written in a way that cannot simply be taken from.
    """
    wanted = tomllib.loads(text)
    del wanted["models"][name]
    kept: list[str] = []
    section: list[str] | None = None  # the lines of the model's own table
    for line in text.splitlines(keepends=True):
        header = _header(line)
        if header is not None:
            kept += _remarks(section or [])
            section = [] if header.get("models", {}).keys() == {name} else None
        if section is None:
            kept.append(line)
        else:
            section.append(line)
    left = "".join(kept)
    if tomllib.loads(left) not in (wanted, {k: v for k, v in wanted.items() if v != {}}):
        raise ValueError("it is not a table of its own")
    return left


def _header(line: str) -> dict[str, Any] | None:
    """Read the first line of a table; None if it is none."""
    if not line.lstrip().startswith("["):
        return None
    try:
        return tomllib.loads(line)
    except tomllib.TOMLDecodeError:  # a part of a list
        return None


def _remarks(section: list[str]) -> list[str]:
    """The comments at the end of a table, which speak of the next one."""
    start = len(section)
    while start and section[start - 1].lstrip()[:1] in ("", "#"):
        start -= 1
    return section[start:]
